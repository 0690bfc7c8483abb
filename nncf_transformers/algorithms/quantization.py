"""INT8 quantization-aware training with NNCF's fake quantizers."""

import logging
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from nncf_transformers.algorithms.base import Algorithm, Batch, hooks
from nncf_transformers.config import QuantizationConfig, resolve_ignored_scopes, to_nncf_arguments
from nncf_transformers.config.scope_names import cast_probabilities, quantized_nodes
from nncf_transformers.config.trace import Operation, trace_operations
from nncf_transformers.errors import UsageError
from nncf_transformers.families import family_of
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

    @property
    def samples(self) -> int:
        return self.config.calibration_samples

    def learning_rate(self, model_rate: float) -> float:
        return self.config.quantizer_lr(model_rate)

    def attach(self, model: nn.Module, batches: Sequence[Batch]) -> None:
        import nncf
        import nncf.torch

        use_fast_kernels()
        self._check(model)
        scopes = resolve_ignored_scopes(self.config, model, batches[0])
        for warning in scopes.warnings:
            logger.warning(warning)
        operations = trace_operations(model, batches[0])
        ignored = [*scopes.node_names, *cast_probabilities(operations)]
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
                **to_nncf_arguments(self.config),
            )
        except nncf.ValidationError as error:
            raise UsageError(f"NNCF refuses this configuration: {error}") from error
        # nncf.quantize returns a copy. Its structure and values are put on the model itself, by the very calls that
        # restore a checkpoint: whatever these calls cannot carry over shows before training, not after it.
        present = {name for name, _ in hooks(model)}
        state = nncf.torch.get_config(quantized)["compression_state"]
        added = [module for module in state if present.isdisjoint(module["hook_names_in_model"])]
        added = _one_a_weight(added, operations)
        nncf.torch.load_from_config(model, {"compression_state": added})
        model.load_state_dict(quantized.state_dict())
        if not any(quantizers(model)):
            raise UsageError(
                f"the configuration leaves nothing of {type(model).__name__} to quantize: ignore fewer scopes"
            )
        hook_encoder(model)

    def load_state(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        hook_encoder(model)

    def _check(self, model: nn.Module) -> None:
        """Refuse settings that would do nothing."""
        family = family_of(model)
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
        ranges: dict[str, list[torch.Tensor]] = {"weight": [], "activation": []}
        for name, module in quantizers(model):
            kind = "weight" if is_weight_quantizer(name) else "activation"
            ranges[kind].append(_range(module))
        scalars = {"quantizers": float(sum(map(len, ranges.values())))}
        for kind, values in ranges.items():
            if values:
                scalars[f"{kind}_range"] = torch.stack(values).mean().item()
        return scalars


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


def _one_a_weight(state: list[dict[str, Any]], operations: Sequence[Operation]) -> list[dict[str, Any]]:
    """Let all operations that read the same weight (tied embeddings, ALBERT's layers) have one quantizer of it.

    Two that train apart would make two INT8 tensors of one weight, and of a language model's vocabulary twice the file.

    Args:
        state: NNCF's description of the quantizers; every one sits in one place, or is shared already.
        operations: of the model before it is quantized.
    """
    weights = {
        f"pre_hooks.{operation.node_name}__{port}": parameter
        for operation in operations
        for port, parameter in operation.parameters
    }
    merged: dict[Any, dict[str, Any]] = {}
    for module in state:
        places = module["hook_names_in_model"]
        read = {weights.get(name.rpartition(".")[0]) for name in places}
        # Whatever is no weight quantizer, and one of a weight that another kind of quantizer has, stays for itself.
        key: Any = places[0]
        if None not in read and len(read) == 1 and all(map(is_weight_quantizer, places)):
            key = (*read, module["module_cls_name"], repr(module["module_config"]))
        if key in merged:
            merged[key] = merged[key] | {"hook_names_in_model": [*merged[key]["hook_names_in_model"], *places]}
        else:
            merged[key] = module
    return list(merged.values())


def _range(module: Any) -> torch.Tensor:
    """Average width of a quantizer's range over its channels."""
    with torch.no_grad():
        width = module.input_range if hasattr(module, "input_range") else 2 * module.scale
        return width.abs().mean().float().cpu()
