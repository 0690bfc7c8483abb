"""INT8 quantization-aware training with NNCF's fake quantizers."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from nncf_transformers.algorithms.base import Algorithm, Batch, hooks
from nncf_transformers.config import QuantizationConfig, resolve_ignored_scopes, to_nncf_arguments
from nncf_transformers.errors import UsageError
from nncf_transformers.kernels import use_fast_kernels

logger = logging.getLogger(__name__)


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
        scopes = resolve_ignored_scopes(self.config, model, batches[0])
        for warning in scopes.warnings:
            logger.warning(warning)
        try:
            quantized = nncf.quantize(
                model,
                nncf.Dataset(list(batches)),
                ignored_scope=nncf.IgnoredScope(names=list(scopes.node_names)) if scopes.node_names else None,
                **to_nncf_arguments(self.config),
            )
        except nncf.ValidationError as error:
            raise UsageError(f"NNCF refuses this configuration: {error}") from error
        # nncf.quantize returns a copy. Its structure and values are put on the model itself, by the very calls that
        # restore a checkpoint: whatever these calls cannot carry over shows before training, not after it.
        present = {name for name, _ in hooks(model)}
        state = nncf.torch.get_config(quantized)["compression_state"]
        added = [module for module in state if present.isdisjoint(module["hook_names_in_model"])]
        nncf.torch.load_from_config(model, {"compression_state": added})
        model.load_state_dict(quantized.state_dict())
        if not any(quantizers(model)):
            raise UsageError(
                f"the configuration leaves nothing of {type(model).__name__} to quantize: ignore fewer scopes"
            )

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

    Weights enter an operation through input port 1 (linear, matmul, embedding): ``pre_hooks.<node>__1.0``.
    Activation quantizers are post-hooks of the producing operation or pre-hooks of port 0.
    """
    return hook_name.startswith("pre_hooks.") and hook_name.rsplit("__", 1)[-1].startswith("1.")


def _range(module: Any) -> torch.Tensor:
    """Average width of a quantizer's range over its channels."""
    with torch.no_grad():
        width = module.input_range if hasattr(module, "input_range") else 2 * module.scale
        return width.abs().mean().float().cpu()
