"""Replace NNCF's quantizers by PyTorch's fake quantization, which the ONNX exporter knows.

``nncf.strip`` does the same, but overwrites each weight with its quantized values on the way. A weight that several
operations share (ALBERT's layers) is then quantized by one quantizer after another, which is another model.
"""

import copy
from typing import Any

import numpy as np
import torch
from torch import nn

from nncf_transformers.algorithms.quantization import is_weight_quantizer


def stripped(model: nn.Module) -> nn.Module:
    """Copy ``model`` with every NNCF quantizer replaced by :class:`NativeFakeQuantize`."""
    from nncf.torch.function_hook.wrapper import get_hook_storage
    from nncf.torch.quantization.layers import BaseQuantizer

    model = copy.deepcopy(model)
    storage = get_hook_storage(model)
    replaced: dict[nn.Module, NativeFakeQuantize] = {}
    for name, module in list(storage.named_hooks(remove_duplicate=False)):
        if isinstance(module, BaseQuantizer):
            native = replaced.setdefault(module, NativeFakeQuantize(module))
            # What several operations read is quantized once, for an exporter merges equal operations now and then only.
            native.once |= not is_weight_quantizer(name)
            storage.set_submodule(name, native)
    return model


class NativeFakeQuantize(nn.Module):
    """``torch.fake_quantize_…`` with the levels of an NNCF quantizer.

    The exporter takes full ranges of eight bits only, -128…127 or 0…255. A quantizer that uses fewer levels (weights:
    -127…127) clamps to its own limits first.

    Attributes:
        once: whether to hand out the latest result again for a tensor that is equal to the latest.
    """

    low: torch.Tensor
    high: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor

    def __init__(self, quantizer: Any) -> None:
        super().__init__()
        quantizer.set_levels()
        self.first, self.last, scale, zero = quantizer.get_parameters_for_torch_fq()
        low, high = quantizer.get_input_low_input_high()
        self.clamps = bool(quantizer.narrow_range or quantizer.is_half_range)
        self.once = False
        self.latest: tuple[torch.Tensor, torch.Tensor] | None = None
        self.axis = int(np.argmax(quantizer.scale_shape)) if quantizer.per_channel else None
        for name, tensor in {"low": low, "high": high, "scale": scale, "zero": zero}.items():
            self.register_buffer(name, tensor.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.once:
            return self.quantize(x)
        if self.latest is None or not torch.equal(self.latest[0], x):
            self.latest = x, self.quantize(x)
        return self.latest[1]

    def quantize(self, x: torch.Tensor) -> torch.Tensor:
        if self.clamps:
            x = torch.minimum(torch.maximum(x, self.low), self.high)
        if self.axis is None:
            # Tensors, not numbers: the exporter merges operations with equal constants, and the number of exported
            # quantizers could no longer be compared with the model's.
            return torch.fake_quantize_per_tensor_affine(
                x, self.scale.squeeze(), self.zero.squeeze(), self.first, self.last
            )
        return torch.fake_quantize_per_channel_affine(x, self.scale, self.zero, self.axis, self.first, self.last)
