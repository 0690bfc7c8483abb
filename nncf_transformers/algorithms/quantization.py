"""INT8 quantization-aware training with NNCF's fake quantizers."""

import copy
import logging
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import nn

from nncf_transformers.algorithms.base import Algorithm, Batch, Clock, hooks
from nncf_transformers.checkpoint import HOOK_PREFIX, remove_hooks
from nncf_transformers.config import QuantizationConfig, resolve_ignored_scopes, to_nncf_arguments
from nncf_transformers.config.scope_names import cast_probabilities, former_class, quantized_nodes
from nncf_transformers.config.trace import Operation, trace_operations
from nncf_transformers.errors import UsageError
from nncf_transformers.families import family_of
from nncf_transformers.inputs import first_rows, model_inputs, own_forward
from nncf_transformers.kernels import use_fast_kernels
from nncf_transformers.parts import hook_encoder

logger = logging.getLogger(__name__)

# Settings that NNCF takes and does nothing with, by family, and why.
_WITHOUT_EFFECT = {
    ("gpt2", "smooth_quant"): "whose layers NNCF's SmoothQuant does not know",
    ("gpt2", "bias_correction"): "whose layers NNCF's bias correction does not know",
    ("t5", "bias_correction"): "which has no biases",
}


class Quantization(Algorithm):
    """Insert fake quantizers whose ranges come from calibration and are trained from there on."""

    lasting = True

    def __init__(self, config: QuantizationConfig) -> None:
        self.config = config
        # Whether the quantizers have begun to quantize.
        self._acts = True
        # What to calibrate on when they begin, where nobody gives the training samples again.
        self._kept: list[Batch] = []

    @property
    def samples(self) -> int:
        return self.config.calibration_samples

    def learning_rate(self, model_rate: float) -> float:
        return self.config.quantizer_lr(model_rate)

    def attach(self, model: nn.Module, batches: Sequence[Batch]) -> None:
        import nncf.torch

        use_fast_kernels()
        self._check(model)
        late = self.config.start_epoch > 0
        # Which quantizers there are does not depend on the data, and their ranges are found when they begin.
        quantized, operations = self._quantize(model, batches[:1] if late else batches)
        # nncf.quantize returns a copy. Its structure and values are put on the model itself, by the very calls that
        # restore a checkpoint: whatever these calls cannot carry over shows before training, not after it.
        present = {name for name, _ in hooks(model)}
        state = nncf.torch.get_config(quantized)["compression_state"]
        added = [module for module in state if present.isdisjoint(module["hook_names_in_model"])]
        added = _one_a_tensor(added, operations)
        nncf.torch.load_from_config(model, {"compression_state": added})
        model.load_state_dict(quantized.state_dict())
        if not any(quantizers(model)):
            raise UsageError(
                f"the configuration leaves nothing of {type(model).__name__} to quantize: ignore fewer scopes"
            )
        hook_encoder(model)
        if late:
            self._acts, self._kept = False, list(batches)
            _switch(model, on=False)

    def begin(self, model: nn.Module, clock: Clock) -> None:
        start = clock.step_of(self.config.start_epoch)
        if not self._acts and clock.total_steps is not None and start is not None and start >= clock.total_steps:
            raise UsageError(
                f"{self.config.place}.start_epoch: the schedule is longer than the training: quantization starts at "
                f"epoch {self.config.start_epoch:g} (step {start}), the training ends at step {clock.total_steps}; "
                "raise --num_train_epochs or start earlier"
            )
        if not self._acts and self.rows is None and not self._kept:
            raise UsageError(
                f"{self._place}: quantization starts at epoch {self.config.start_epoch:g} and then calibrates on "
                "training samples, which a checkpoint does not hold; set Compression.rows before the training goes on"
            )
        self.on_step(model, clock)

    def on_step(self, model: nn.Module, clock: Clock) -> None:
        """At the start, calibrate anew on the model as it is now, and switch the quantizers on."""
        if not self._acts and clock.within(self.config.start_epoch, None):
            self._calibrate_again(model)

    def before_update(self, model: nn.Module, optimizer: torch.optim.Optimizer, clock: Clock) -> None:
        """Leave the ranges as they are from ``freeze_epoch`` on."""
        freeze = self.config.freeze_epoch
        if freeze is not None and clock.within(freeze, None):
            # Not requires_grad: an optimizer that is resumed must find the same parameters.
            for parameter in self.parameters(model):
                parameter.grad = None

    def finalize(self, model: nn.Module) -> None:
        if self._acts:
            return
        if self.rows is not None or self._kept:
            logger.warning("%s: the training is over before quantization starts; it is calibrated now", self._place)
            self._calibrate_again(model)
        else:
            logger.warning("%s: the training is over before quantization starts; nothing is quantized", self._place)
            remove_idle(model)

    def state(self) -> dict[str, Any]:
        return {} if self._acts else {"acts": False}

    @property
    def _place(self) -> str:
        return self.config.place or self.config.algorithm

    def _calibrate_again(self, model: nn.Module) -> None:
        """Take the ranges of a quantized copy of the model as it is now."""
        devices = [p.device for p in islice(model.parameters(), 1) if p.is_cuda]
        with torch.random.fork_rng(devices=devices), own_forward(model):
            batches = self._kept if self.rows is None else self.rows()
            samples = first_rows((model_inputs(model, batch) for batch in batches), self.samples)
            plain = copy.deepcopy(model).eval()
            plain.__dict__.pop("_original_forward", None)
            remove_hooks(plain, masks=False)
            quantized, _ = self._quantize(plain, samples)
        own = {key: tensor for key, tensor in quantized.state_dict().items() if key.startswith(HOOK_PREFIX)}
        left_over = model.load_state_dict(own, strict=False).unexpected_keys
        assert not left_over, f"quantizers that were not there at the beginning: {left_over[:3]}"
        _switch(model, on=True)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # Each process has calibrated for itself; the smallest difference would grow.
            for _, module in quantizers(model):
                for tensor in (*module.parameters(), *module.buffers()):
                    torch.distributed.broadcast(tensor.detach(), 0)
        self._acts, self._kept = True, []
        logger.info("%s: calibrated on %d samples; the quantizers act from here on", self._place, len(samples))

    def _quantize(self, model: nn.Module, batches: Sequence[Batch]) -> tuple[nn.Module, Sequence[Operation]]:
        """Make a quantized copy of a model; also return the model's operations."""
        import nncf

        scopes = resolve_ignored_scopes(self.config, model, batches[0])
        for warning in scopes.warnings:
            logger.warning(warning)
        operations = trace_operations(model, batches[0])
        ignored = [*scopes.node_names, *cast_probabilities(operations), *self._of_types(model, operations)]
        for name, other in _users_of_ignored(operations, ignored).items():
            logger.warning(
                "%s stays in floating point, too: it has its weight in common with %s, which is to be ignored, and "
                "the weight would be stored twice",
                name,
                other,
            )
            ignored.append(name)
        try:
            quantized = nncf.quantize(
                model,
                nncf.Dataset(list(batches)),
                ignored_scope=nncf.IgnoredScope(names=ignored) if ignored else None,
                **{**to_nncf_arguments(self.config), "subset_size": len(batches)},
            )
        except nncf.ValidationError as error:
            raise UsageError(f"NNCF refuses this configuration: {error}") from error
        return quantized, operations

    def load_state(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        self._acts = bool(state.get("acts", True))
        hook_encoder(model)

    def _of_types(self, model: nn.Module, operations: Sequence[Operation]) -> list[str]:
        """The operations in modules of the classes that are to stay in floating point."""
        types = set(self.config.ignored_types)
        if not types:
            return []
        present = {name for module in model.modules() for name in _classes(type(module).__name__)}
        for name in sorted(types - present):
            logger.warning("%s: no module of %s is a %s, so none is left out", self._place, type(model).__name__, name)
        quantized = quantized_nodes(operations)
        return [
            operation.node_name
            for operation in operations
            if operation.node_name in quantized
            and any(types & _classes(class_name) for class_name in operation.class_names)
        ]

    def _check(self, model: nn.Module) -> None:
        """Refuse settings that would do nothing, or something else than they say."""
        family = family_of(model)
        for setting in ("smooth_quant", "bias_correction"):
            if self.config.start_epoch > 0 and getattr(self.config, setting) not in (None, False):
                raise UsageError(
                    f'{self._place}: "{setting}" changes the model at the beginning, and quantization starts at epoch '
                    f"{self.config.start_epoch:g}; drop one of the two"
                )
        for (name, setting), reason in _WITHOUT_EFFECT.items():
            if name == family and getattr(self.config, setting) not in (None, False):
                place = self.config.place or "quantization"
                raise UsageError(f'{place}: "{setting}" does nothing for the family {family}, {reason}; drop it')

    def parameters(self, model: nn.Module) -> list[nn.Parameter]:
        from nncf_transformers.algorithms.masks import Mask

        modules = (module for _, module in hooks(model) if not isinstance(module, Mask))
        return [p for module in modules for p in module.parameters() if p.requires_grad and p.is_floating_point()]

    def statistics(self, model: nn.Module) -> dict[str, float]:
        """Count quantizers and average their ranges (in units of the tensor they quantize)."""
        if not self._acts:
            return {"quantizers": 0.0}
        ranges: dict[str, list[torch.Tensor]] = {"weight": [], "activation": []}
        for name, module in quantizers(model):
            kind = "weight" if is_weight_quantizer(name) else "activation"
            ranges[kind].append(_range(module))
        scalars = {"quantizers": float(sum(map(len, ranges.values())))}
        for kind, values in ranges.items():
            if values:
                scalars[f"{kind}_range"] = torch.stack(values).mean().item()
        return scalars


def _classes(name: str) -> set[str]:
    return {name, former_class(name)}


def _switch(model: nn.Module, on: bool) -> None:
    """Let all quantizers act, or hand everything through unchanged.

    By the buffer alone, which checkpoints hold: NNCF's own switch takes the gradients away, too, and an optimizer made
    then would lack the parameters.
    """
    for _, module in quantizers(model):
        module.enabled.fill_(int(on))


def remove_idle(model: nn.Module) -> None:
    """Take the quantizers that are switched off from a model, which computes the same without them."""
    from nncf.torch.function_hook.wrapper import ATR_HOOK_STORAGE

    storage: Any = getattr(model, ATR_HOOK_STORAGE)
    idle = {id(module) for _, module in quantizers(model) if not int(module.enabled)}
    for name in [name for name, module in storage.named_hooks(remove_duplicate=False) if id(module) in idle]:
        storage.delete_hook(name)


def quantizers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield every fake quantizer of ``model`` once, with its hook name."""
    from nncf.torch.quantization.layers import BaseQuantizer

    return ((name, module) for name, module in hooks(model) if isinstance(module, BaseQuantizer))


def is_weight_quantizer(hook_name: str) -> bool:
    """Tell a weight quantizer from an activation quantizer by where it sits.

    Weights enter an operation through input port 1 (linear, matmul, embedding): ``pre_hooks.<node>__1.0``. Those of
    ``addmm``, GPT-2's layers, enter through port 2, behind the bias and the input; where the library for adapters has
    taken these layers over, they are transposed first, which is an operation of its own. Activation quantizers are
    post-hooks of the producing operation or pre-hooks of another port; NNCF puts none behind a transposition.
    """
    place, _, port = hook_name.rpartition("__")
    function = place.split("/")[-2] if place.count("/") > 1 else ""
    weight_port = {"addmm": "2.", "t": "0.", "transpose": "0."}.get(function, "1.")
    return place.startswith("pre_hooks.") and port.startswith(weight_port)


def _users_of_ignored(operations: Sequence[Operation], ignored: Collection[str]) -> dict[str, str]:
    """Find operations of one weight in two modules, of which only one stays in floating point.

    Returns:
        What is to be ignored, too, by the operation that is ignored already.
    """
    names, quantized = set(ignored), quantized_nodes(operations)
    users: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        if operation.node_name in quantized:
            for _, parameter in operation.parameters:
                users[parameter].append(operation)
    found = {}
    for together in users.values():
        # A module that is called for several layers (ALBERT's) is not meant: its calls are ignored one by one.
        left_out = [op for op in together if op.node_name in names]
        for operation in together:
            other = next((op for op in left_out if op.module_path != operation.module_path), None)
            if operation.node_name not in names and other is not None:
                found[operation.node_name] = other.node_name
    return found


def _one_a_tensor(state: list[dict[str, Any]], operations: Sequence[Operation]) -> list[dict[str, Any]]:
    """Let all operations that read the same tensor have one quantizer of it.

    A weight is read more than once where embeddings are tied, and by ALBERT's layers: two quantizers that train apart
    would make two INT8 tensors of it, and of a language model's vocabulary twice the file. An activation is read by
    query, key and value: NNCF gives each a quantizer, and a runtime would quantize the same tensor three times.

    Args:
        state: NNCF's description of the hooks; every quantizer sits in one place, or is shared already.
        operations: of the model before it is quantized.
    """
    tensors = _tensors(state, operations)
    merged: dict[Any, dict[str, Any]] = {}
    for module in state:
        places = module["hook_names_in_model"]
        read = {tensors.get(_reads(place)) for place in places}
        # What is no quantizer, and one of a tensor that another kind of quantizer has, stays for itself.
        key: Any = places[0]
        if None not in read and len(read) == 1 and "Quantizer" in module["module_cls_name"]:
            key = (*read, module["module_cls_name"], repr(module["module_config"]))
        if key in merged:
            merged[key] = merged[key] | {"hook_names_in_model": [*merged[key]["hook_names_in_model"], *places]}
        else:
            merged[key] = module
    return list(merged.values())


def _tensors(state: list[dict[str, Any]], operations: Sequence[Operation]) -> dict[str, Any]:
    """Tell tensors apart: by what :func:`_reads` says of a place, something that is equal for equal tensors."""
    tensors: dict[str, Any] = {}
    for operation in operations:
        tensors |= {f"{operation.node_name}__{port}": parameter for port, parameter in operation.parameters}
        tensors |= {f"{operation.node_name}__{port}": (source, n) for port, source, n in operation.inputs}
    # NNCF shares SmoothQuant's multiplication among the operations that read one tensor. Each calls it.
    for module in state:
        places = module["hook_names_in_model"]
        read = {tensors.get(_reads(place)) for place in places}
        if module["module_cls_name"] == "SQMultiply" and len(read) == 1 and None not in read:
            tensors |= {_name_in_graph(place): _name_in_graph(places[0]) for place in places}
    return tensors


def _reads(place: str) -> str:
    """Which input of an operation a hook takes, or whose result, if the operation is itself of a hook."""
    parts = place.split("/")
    if place.startswith("pre_hooks."):
        input_port, _, number = place.removeprefix("pre_hooks.").rpartition(".")
        # A hook that comes second reads what the first has made of the tensor; of a weight, that is a mask.
        return input_port if number == "0" or is_weight_quantizer(place) else ""
    return parts[-3] if len(parts) > 2 and place.endswith(".0") else ""


def _name_in_graph(place: str) -> str:
    """Of an operation that a hook runs, the part of its name that stands for the hook.

    ``pre_hooks.bert/key/linear/0__0.1`` runs ``bert/key/pre_hook__bert-key-linear-0__0[1]/mul/0``.
    """
    name, _, number = place.removeprefix("pre_hooks.").rpartition(".")
    return f"pre_hook__{name.replace('/', '-')}[{number}]"


def _range(module: Any) -> torch.Tensor:
    """Average width of a quantizer's range over its channels."""
    with torch.no_grad():
        width = module.input_range if hasattr(module, "input_range") else 2 * module.scale
        return width.abs().mean().float().cpu()
