"""Checkpoints of compressed models: safetensors with NNCF's parameters in them, and a JSON file beside it.

``from_pretrained`` knows nothing of quantizers and drops their parameters with a warning only. So a checkpoint is
two things that belong together: the weights file, in which every quantizer parameter is named
``__nncf_hooks.…``, and :data:`STATE_FILE`, which says where each quantizer sits. Either without the other is refused.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from nncf_transformers.algorithms.base import hooks
from nncf_transformers.config.trace import Operation, trace_operations
from nncf_transformers.errors import IntegrityError, UsageError
from nncf_transformers.families import family_of, is_adapted
from nncf_transformers.inputs import synthetic_inputs
from nncf_transformers.translate import find_places, translate_parameters, translate_state

STATE_FILE = "nncf_config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
HOOK_PREFIX = "__nncf_hooks."
# Where the one kind of hook that is not NNCF's is defined.
MASKS_MODULE = "nncf_transformers.algorithms.masks"
FORMAT = 1
# Where the state says which adapters the model was compressed with.
ADAPTERS_KEY = "adapters"


def is_compressed(folder: str | os.PathLike[str]) -> bool:
    """Say whether ``folder`` holds a checkpoint of a compressed model.

    Raises:
        IntegrityError: the weights have quantizer parameters, but :data:`STATE_FILE` is missing, or the weights file
            is damaged.
    """
    path = Path(folder)
    if (path / STATE_FILE).is_file():
        return True
    if _has_quantizers(path):
        raise IntegrityError(
            f"{path}: the weights belong to a compressed model, but {STATE_FILE} is missing; "
            "copy it from where the checkpoint was saved, or start from an uncompressed model"
        )
    return False


def local_folder(name: str | os.PathLike[str]) -> Path | None:
    """Find where a model was loaded from: the folder itself, or what the hub's cache holds of that name.

    ``from_pretrained`` downloads the files that it knows; where the weights have quantizers, :data:`STATE_FILE` is
    fetched here.
    """
    if os.path.isdir(name):
        return Path(name)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError
    from transformers.utils import cached_file

    try:
        config = try_to_load_from_cache(str(name), "config.json")
    except HFValidationError:
        return None
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    if _has_quantizers(folder):
        cached_file(
            str(name),
            STATE_FILE,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
    return folder


def read_state(folder: str | os.PathLike[str], model: nn.Module) -> dict[str, Any]:
    """Read :data:`STATE_FILE` and check that it describes a model of this class.

    Raises:
        IntegrityError: the file is not what :func:`write_state` wrote, or is of another model class.
    """
    path = Path(folder) / STATE_FILE
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path}: cannot be read ({error}); copy it again from the original") from error
    keys = {"format", "model_class", "config", "compression_state"}
    if not isinstance(state, dict) or not keys <= state.keys() or state["format"] != FORMAT:
        raise IntegrityError(f"{path}: not the state of a compressed model (format {FORMAT}); copy it again")
    if state["model_class"] != type(model).__name__:
        raise IntegrityError(
            f"{path}: the checkpoint holds a {state['model_class']}, the script loads a {type(model).__name__}; "
            "use the script of the checkpoint's task"
        )
    return state


def check_resumable(folder: str | os.PathLike[str], flag: str) -> None:
    """Refuse to resume a training from a folder without the optimizer's state.

    Upstream would go on with a fresh optimizer, without a word: not the run that was interrupted.

    Args:
        folder: of ``--resume_from_checkpoint``.
        flag: what such a folder may be passed as instead.

    Raises:
        UsageError: it is the output of a finished run.
    """
    if not (Path(folder) / "optimizer.pt").is_file():
        raise UsageError(
            f"{folder}: has no optimizer.pt, so it cannot be resumed; take one of its checkpoint-* folders, or pass it "
            f"as {flag}, with another --output_dir"
        )


def same_structure(folder: str | os.PathLike[str], model: nn.Module) -> bool:
    """Say whether the checkpoint's quantizers and masks sit where those of the compressed ``model`` sit."""
    theirs = _without_blocks(read_state(folder, model)["compression_state"])
    return bool(_without_blocks(json.loads(json.dumps(_hooks_of(model)))) == theirs)


def _without_blocks(compression_state: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The description of the hooks but for the masks' blocks, which change once in a training."""
    return [
        hook | {"module_config": None} if hook["module_path"] == MASKS_MODULE else hook for hook in compression_state
    ]


def write_state(folder: str | os.PathLike[str], model: nn.Module, content: dict[str, Any]) -> None:
    """Write :data:`STATE_FILE` whole or not at all.

    Args:
        folder: where the weights are, or are about to be, saved.
        model: the compressed model.
        content: what the compression keeps for itself: ``config``, where it came from, and the state of its schedules.
    """
    import nncf
    import nncf.torch

    state = {
        "format": FORMAT,
        "model_class": type(model).__name__,
        "nncf_version": nncf.__version__,
        **content,
        "compression_state": _hooks_of(model),
    }
    path = Path(folder) / STATE_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(state, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _hooks_of(model: nn.Module) -> list[dict[str, Any]]:
    """NNCF's description of every module hooked into ``model``; empty for one that has no hooks."""
    import nncf.torch

    if next(hooks(model), None) is None:
        return []
    return nncf.torch.get_config(model)["compression_state"]


def load_compressed(folder: str | os.PathLike[str], model: nn.Module) -> dict[str, Any]:
    """Put a checkpoint's quantizers and masks on a model that was loaded from it by ``from_pretrained``.

    Args:
        folder: the checkpoint.
        model: the uncompressed model with the checkpoint's weights; changed in place.

    Returns:
        The content of :data:`STATE_FILE`.

    Raises:
        IntegrityError: quantizer parameters are missing, left over or of the wrong shape.
    """
    import nncf
    import nncf.torch

    path = Path(folder)
    state = read_state(path, model)
    ours = _with_adapters(model, state.get(ADAPTERS_KEY))
    parameters = {key: tensor for key, tensor in read_weights(path) if key.startswith(HOOK_PREFIX) or ours(key)}
    if not state["compression_state"] and not parameters:
        return state
    if not parameters:
        raise IntegrityError(
            f"{path}: {STATE_FILE} is there, but the weights have no quantizers (was another run saved over it?); "
            f"delete {STATE_FILE} to use them uncompressed"
        )
    adapted = is_adapted(model) and ADAPTERS_KEY not in state
    operations = trace_operations(model, synthetic_inputs(model, batch=1, sequence=8))
    if adapted:
        from nncf_transformers.adapter.places import move_quantizers

        # The quantizers were made for the base alone.
        with_adapter, operations = operations, base_operations(model)
    nodes = [operation.node_name for operation in operations]
    places = find_places(_quantizer_places(state["compression_state"]), nodes, model.config)
    parameters = translate_parameters(parameters, HOOK_PREFIX, places)
    compression_state = translate_state(state["compression_state"], places)
    if adapted:
        compression_state, parameters = move_quantizers(model, operations, with_adapter, compression_state, parameters)
    # A parameter of several names is stored by the first.
    own = {name for name, _ in model.named_parameters()}
    try:
        # NNCF builds modules from the allowed packages only, so a foreign file cannot import code.
        nncf.torch.load_from_config(
            model, {"compression_state": compression_state}, allowed_modules=("nncf.*", MASKS_MODULE)
        )
        result = model.load_state_dict(parameters, strict=False)
    except (AttributeError, KeyError, TypeError, RuntimeError, nncf.InternalError) as error:
        raise IntegrityError(f"{path / STATE_FILE}: does not fit {type(model).__name__}: {error}") from error
    missing = [key for key in result.missing_keys if key.startswith(HOOK_PREFIX) or (ours(key) and key in own)]
    if missing or result.unexpected_keys:
        key, what = (missing[0], "lack") if missing else (result.unexpected_keys[0], "have an unknown")
        raise IntegrityError(
            f"{path}: the weights {what} {key}; {STATE_FILE} and the weights are of different checkpoints, "
            "copy both from the same one"
        )
    return state


def base_operations(model: Any) -> tuple[Operation, ...]:
    """The operations of a model before it got its adapters, which the one who put them in has kept.

    Raises:
        UsageError: it was not compressed then, so the checkpoint is of another training.
    """
    operations: tuple[Operation, ...] | None = getattr(model, "nncf_base_operations", None)
    if operations is None:
        raise UsageError(
            f"{model.config._name_or_path}: an adapter is in it, and the checkpoint to go on with was compressed "
            "without one; pass that as --model_name_or_path, with another --output_dir"
        )
    return operations


def _with_adapters(model: nn.Module, setup: Mapping[str, Any] | None) -> Callable[[str], bool]:
    """Give a model the adapters that it was compressed with, and tell their parameters by name."""
    if setup is None:
        return lambda key: False
    from nncf_transformers.adapter.flags import check_library

    check_library(str(getattr(model.config, "_name_or_path", None) or "the checkpoint"))
    from nncf_transformers.adapter.keys import adapter_keys
    from nncf_transformers.adapter.model import rebuild

    if not is_adapted(model):
        rebuild(model, setup)
    return adapter_keys(model)


def remove_hooks(model: nn.Module, masks: bool = True) -> None:
    """Take all quantizers, and the masks unless told otherwise, off a model, whose parameters stay as they are."""
    from nncf.torch.function_hook.wrapper import get_hook_storage

    for module in _hooks_of(model):
        if not masks and module["module_path"] == MASKS_MODULE:
            continue
        for name in module["hook_names_in_model"]:
            get_hook_storage(model).delete_hook(name)


def _quantizer_places(compression_state: list[dict[str, Any]]) -> set[str]:
    """Hooks on operations, whose names differ between versions; masks are on parameters, which have one name."""
    return {
        name
        for module in compression_state
        if module["module_path"] != MASKS_MODULE
        for name in module["hook_names_in_model"]
    }


def complete_config(model: nn.Module) -> None:
    """Write down in a configuration of 2019 what newer libraries look for: the family and the class of the model."""
    config: Any = model.config
    if getattr(config, "model_type", None) is None:
        config.model_type = family_of(model)
        config.architectures = [type(model).__name__]


def save_ready(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Un-share the compression's tensors in ``state_dict``, for safetensors does not store a tensor twice.

    SmoothQuant lets several operations share one scale. Loading writes the same value to each name, so copies in
    the file restore the shared parameter exactly.
    """
    return {k: v.clone() if k.startswith(HOOK_PREFIX) else v for k, v in state_dict.items()}


def _has_quantizers(folder: Path) -> bool:
    return any(key.startswith(HOOK_PREFIX) for file in _weight_files(folder) for key in _keys(file))


def _weight_files(folder: Path) -> list[Path]:
    """List the safetensors files of a checkpoint: one, or the shards of an index."""
    index = folder / INDEX_FILE
    if index.is_file():
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError) as error:
            raise IntegrityError(f"{index}: damaged ({error!r}); copy it again") from error
        return [folder / name for name in sorted(shards)]
    weights = folder / WEIGHTS_FILE
    return [weights] if weights.is_file() else []


def _keys(file: Path) -> list[str]:
    try:
        with safe_open(file, framework="pt") as tensors:
            return list(tensors.keys())
    except (SafetensorError, OSError) as error:
        raise IntegrityError(f"{file}: damaged or truncated ({error}); copy it again") from error


def stored_names(folder: Path) -> dict[str, Path]:
    """The tensors of a checkpoint's safetensors files, and the file that each is in."""
    return {key: file for file in _weight_files(folder) for key in _keys(file)}


def stored_rows(file: Path, key: str, count: int) -> torch.Tensor:
    """The first rows of one tensor of a file."""
    with safe_open(file, framework="pt") as tensors:
        rows: torch.Tensor = tensors.get_slice(key)[:count]
        return rows


def write_weights(folder: str | os.PathLike[str], state_dict: dict[str, Any]) -> None:
    """Write :data:`WEIGHTS_FILE` whole or not at all, for a library that does not know the format."""
    path = Path(folder) / WEIGHTS_FILE
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({k: v.detach().cpu().contiguous() for k, v in state_dict.items()}, temporary, {"format": "pt"})
    temporary.replace(path)


def read_weights(folder: str | os.PathLike[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of a checkpoint by name.

    Raises:
        IntegrityError: a weights file is missing or damaged.
    """
    folder = Path(folder)
    files = _weight_files(folder)
    if not files:
        raise IntegrityError(f"{folder}: has {STATE_FILE} but no {WEIGHTS_FILE}; copy the checkpoint whole")
    for file in files:
        keys = _keys(file)
        with safe_open(file, framework="pt") as tensors:
            for key in keys:
                yield key, tensors.get_tensor(key)
