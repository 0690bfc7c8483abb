"""Put adapters into a model: new ones, loaded ones, and those of a compressed checkpoint."""

import contextlib
import functools
import inspect
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import adapters
from adapters.composition import AdapterCompositionBlock, Stack
from torch import nn

from nncf_transformers.adapter.config import describe_config, parts_of_config
from nncf_transformers.adapter.flags import AdapterPlan
from nncf_transformers.adapter.folder import AdapterFolder, check_name, clean_name
from nncf_transformers.adapter.keys import adapter_keys, checksum, count, head_keys, quietly
from nncf_transformers.adapter.origin import origin
from nncf_transformers.adapter.saving import Base, base_of, first_line, head_class, load_weights
from nncf_transformers.checkpoint import ADAPTERS_KEY, is_compressed, local_folder, read_state
from nncf_transformers.config.trace import trace_operations
from nncf_transformers.errors import IntegrityError, UsageError
from nncf_transformers.inputs import synthetic_inputs

logger = logging.getLogger(__name__)

# By the end of a model's class, what an adapter is called when the data set has no name.
_TASKS = {"QuestionAnswering": "squad", "MaskedLM": "mlm", "LMHeadModel": "clm", "CausalLM": "clm"}


def install(model: Any, plan: AdapterPlan, *, default_name: str | None, trains: bool) -> str:
    """Put the adapter of ``plan`` into a model, freeze everything else but the head, and make it active.

    Args:
        model: a Transformers model with a head, changed in place.
        plan: the flags.
        default_name: name of the data set, for an adapter that nobody named.
        trains: whether a training follows. If not, an adapter and a head have to be loaded.

    Returns:
        The name of the adapter that is trained.

    Raises:
        UsageError: the library has no adapters for this model, or the configuration or the loaded adapter does not fit.
        IntegrityError: a file is damaged.
    """
    source, model.nncf_new_parameters = origin(model)
    base = Base(source, checksum(model))
    present = list((getattr(model.config, "adapters", None) or {}).get("adapters", {}))
    for folder in filter(None, (plan.task, plan.language or (plan.task and plan.task.language))):
        check_fits(folder, model)
    compressed = _compressed_folder(base)
    theirs = read_state(compressed, model).get(ADAPTERS_KEY) if compressed is not None else None
    if plan.task is not None and theirs is not None:
        raise UsageError(
            f"--load_adapter: {compressed} was quantized with its adapter in it, which is loaded with it; drop the flag"
        )
    if compressed is not None:
        # Its quantizers, which are still to be put in, are named after these; the library changes some of them.
        model.nncf_base_operations = trace_operations(model, synthetic_inputs(model, batch=1, sequence=8))
    prepare(model)
    model.nncf_adapter_base = base
    name = plan.name or (present[0] if len(present) == 1 else None) or _default_name(model, plan, default_name)
    if plan.task is not None:
        _load_given(model, plan, name, trains)
    elif name not in model.adapters_config:
        _add_new(model, plan, name, trains)
    stack = _language(model, plan, name)
    _train_only(model, stack, name)
    if theirs is not None:
        _check_compressed_with(model, compressed, theirs)
    parts = count(model)
    logger.info(
        "adapter %s (%s)%s: %d parameters of it and %d of the head are trained, %d are frozen",
        name,
        describe_config(model.adapters_config.get(name)),
        f" on {stack[0]}" if stack else "",
        parts["adapter"],
        parts["head"],
        parts["frozen"],
    )
    return name


def _compressed_folder(base: Base) -> Path | None:
    """Where the checkpoint of a compressed base is; None for another base."""
    folder = local_folder(base.name) if base.name else None
    return folder if folder is not None and is_compressed(folder) else None


def _add_new(model: Any, plan: AdapterPlan, name: str, trains: bool) -> None:
    """Put a new adapter of ``--adapter_config`` into the model."""
    of_text = not type(model).__name__.endswith("SequenceClassification")
    if of_text and any(part.architecture == "prompt_tuning" for part in parts_of_config(plan.config)):
        raise UsageError(
            f"--adapter_config prompt_tuning: puts tokens before the text, so that {type(model).__name__} would "
            "answer for other positions than its labels have; use prefix_tuning"
        )
    if not trains:
        raise UsageError(
            "--train_adapter: without --do_train there must be an adapter to evaluate; name it with --load_adapter"
        )
    with _in_one_line("--adapter_config", model):
        model.add_adapter(name, config=plan.config)
        belongs = adapter_keys(model)
        if not any(parameter.numel() for key, parameter in model.named_parameters() if belongs(key)):
            raise ValueError("it puts no parameter anywhere")


def _train_only(model: Any, below: list[str], name: str) -> None:
    """Make the adapter ``name`` active on those ``below`` it, and freeze all but it and the head."""
    for tensor in (*model.parameters(), *model.buffers()):
        # As it will be loaded: another order in memory is another order of sums.
        tensor.data = tensor.data.contiguous()
    with quietly():
        model.train_adapter(name)
        model.set_active_adapters(Stack(*below, name))
    if new := model.nncf_new_parameters:
        source = model.nncf_adapter_base.name
        logger.info("not in %s, so trained and saved with the head: %s", source, ", ".join(new))
        for key in new:
            model.get_parameter(key).requires_grad_(True)


def prepare(model: Any) -> None:
    """Let the library give a model the places for adapters; those in its configuration get their parameters.

    Raises:
        UsageError: the library does not know the model's family.
    """
    signature = inspect.signature(type(model).forward)
    try:
        with quietly():
            adapters.init(model)
    except ValueError as error:
        family = getattr(model.config, "model_type", type(model).__name__)
        raise UsageError(
            f"--train_adapter: the library adapters has none for the model family {family!r}; train another model"
        ) from error
    _keep_signature(type(model), signature)
    # It leaves a dictionary in the model's configuration, where it would be saved with a plain model, too.
    if isinstance(getattr(model.config, "adapters", None), dict):
        del model.config.adapters


def _keep_signature(kind: Any, signature: inspect.Signature) -> None:
    """Let the class that the library made for a model say what its forward takes.

    The library's says nothing, or what the model takes that was made before; the Trainer then drops columns of the data
    that it believes to be of no use, and exports lose inputs.
    """
    inherited = kind.forward
    names = [p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD][1:]

    @functools.wraps(inherited)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if len(args) > len(names):
            raise TypeError(f"forward takes {len(names)} arguments, but {len(args)} were given")
        # By name, for the library's own forward may know no positions.
        return inherited(self, **dict(zip(names, args, strict=False)), **kwargs)

    forward.__signature__ = signature  # type: ignore[attr-defined]
    kind.forward = forward


def setup_of(model: Any) -> dict[str, Any]:
    """The adapters of a model, as JSON: their configurations, and how they are stacked."""
    return {"config": model.adapters_config.to_dict(), "active": model.active_adapters.to_dict()}


def rebuild(model: Any, setup: Mapping[str, Any]) -> None:
    """Give a model the adapters of :func:`setup_of`, with parameters that are still to be loaded.

    Raises:
        IntegrityError: what is said of the adapters is damaged.
    """
    try:
        model.config.adapters = dict(setup["config"])
        prepare(model)
        with quietly():
            model.set_active_adapters(AdapterCompositionBlock.from_dict(setup["active"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        place = getattr(model.config, "_name_or_path", None) or type(model).__name__
        raise IntegrityError(
            f"{place}: the adapters that it was compressed with are not described as they were saved ({error!r}); copy "
            "it again"
        ) from error


def _check_compressed_with(model: Any, folder: Path | None, theirs: Any) -> None:
    """Refuse a checkpoint that was compressed with other adapters in it, some of whose operations are quantized.

    Args:
        model: with its adapters.
        folder: the checkpoint.
        theirs: what it says of its adapters, see :func:`setup_of`.

    Raises:
        UsageError: naming the adapter that is in it.
    """
    if json.loads(json.dumps(setup_of(model))) != theirs:
        raise UsageError(
            f"--train_adapter: {folder} was quantized with an adapter in it ({_names_in(theirs)}), so no other can be "
            "put in; train another on the model of before"
        )


def _names_in(setup: Any) -> str:
    try:
        return ", ".join(setup["config"]["adapters"])
    except (KeyError, TypeError):
        return "damaged"


def check_fits(folder: AdapterFolder, model: Any) -> None:
    """Refuse an adapter that was trained on another kind of model.

    Raises:
        UsageError: the families or the hidden sizes differ.
    """
    for key, ours in (
        ("model_type", getattr(model.config, "model_type", None)),
        ("hidden_size", getattr(model.config, "hidden_size", None)),
    ):
        theirs = folder.content.get(key)
        if theirs is not None and ours is not None and theirs != ours:
            raise UsageError(
                f"{folder.path}: is an adapter for {key} {theirs}, the model has {ours}; use the model that it was "
                "trained on"
            )


def _load_given(model: Any, plan: AdapterPlan, name: str, trains: bool) -> None:
    """Load ``--load_adapter`` under the name of the adapter to train."""
    folder = plan.task
    assert folder is not None
    if plan.config_given and plan.config != adapters.AdapterConfig.load(folder.content["config"]):
        logger.warning("--adapter_config has no effect: %s has a configuration of its own", folder.path)
    wanted, has = bool(head_keys(model)), head_class(folder)
    head = wanted and has == type(model).__name__
    if wanted and not head:
        reason = f"a head of {has}" if has else "no head"
        if not trains:
            raise UsageError(f"{folder.path}: has {reason}, so {type(model).__name__} cannot be evaluated; train it")
        logger.warning("%s has %s: the head of %s starts as it is", folder.path, reason, type(model).__name__)
    load_weights(model, folder, name, head=head)
    model.nncf_head_loaded = head
    _compare_bases(folder, model)


def _compare_bases(folder: AdapterFolder, model: Any) -> None:
    """Warn where an adapter meets another model than the one that it was trained on."""
    base, ours = base_of(folder.path.parent), model.nncf_adapter_base
    if base is not None and base.sha256 != ours.sha256:
        logger.warning(
            "%s was trained on %s, whose weights differ from those of %s: expect other results",
            folder.path,
            base.name or "another model",
            ours.name or "this model",
        )


def _language(model: Any, plan: AdapterPlan, name: str) -> list[str]:
    """Load the adapter below the trained one, if there is to be one, and give its name."""
    folder = plan.language or (plan.task.language if plan.task else None)
    if folder is None:
        return []
    below = clean_name(folder.name)
    if below == name:
        raise UsageError(
            f"--load_lang_adapter {folder.path}: bears the name of the adapter on top of it, {name}; pass another "
            "--adapter_name"
        )
    its_own = adapters.AdapterConfig.load(folder.content["config"])
    if plan.language_config is not None and plan.language_config != its_own:
        logger.warning("--lang_adapter_config has no effect: %s has a configuration of its own", folder.path)
    load_weights(model, folder, below, head=False)
    return [below]


def _default_name(model: Any, plan: AdapterPlan, dataset: str | None) -> str:
    name = dataset or (plan.task.name if plan.task else None)
    if name is None:
        kind = type(model).__name__
        name = next((task for end, task in _TASKS.items() if kind.endswith(end)), "task")
    cleaned = clean_name(name)
    if cleaned != name:
        logger.info("the adapter is named %s: a folder and a module cannot bear the name %s", cleaned, name)
    return check_name("--adapter_name", cleaned)


@contextlib.contextmanager
def _in_one_line(flag: str, model: nn.Module) -> Iterator[None]:
    """Say in one line what the library says of a configuration that does not fit a model."""
    try:
        yield
    except (ValueError, AssertionError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise UsageError(
            f"{flag}: does not fit {type(model).__name__}: {first_line(error)}; take another configuration"
        ) from error
