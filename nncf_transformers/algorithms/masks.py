"""Masks on weights: what every sparsity method shares.

A mask is a hook on a parameter, before any quantizer of the operation that uses it (mask, fake-quantize, forward). It
is stored in the shape of its blocks: a mask of shape (24, 24) on a 768 x 768 weight has blocks of 32 x 32.
"""

import logging
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from nncf.torch.function_hook.wrapper import ATR_HOOK_STORAGE, get_hook_storage, register_post_function_hook, wrap_model
from nncf.torch.layer_utils import StatefulModuleInterface
from torch import nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from nncf_transformers.algorithms.base import Batch, hooks
from nncf_transformers.config import SparsityConfig
from nncf_transformers.config.scopes import resolve_layers
from nncf_transformers.errors import UsageError

logger = logging.getLogger(__name__)


class Mask(nn.Module, StatefulModuleInterface):
    """Multiply a parameter by a 0/1 mask, block by block.

    Attributes:
        importance: trainable scores, or None. While the mask is not frozen, they receive the gradient of the mask as
            if they were the mask (straight-through).
        frozen: whether the mask, and so the scores, are final.
        accumulated: a sum over the steps of the training, element by element of the parameter, or None.
        settled: the epoch from which on the method that made it leaves it alone, for a later method to take over; None
            for never. Known where methods are attached, and needed there only.
    """

    settled: float | None = None
    _binary_mask: torch.Tensor
    accumulated: torch.Tensor | None

    def __init__(
        self,
        shape: Sequence[int],
        score_shape: Sequence[int] | None = None,
        frozen: bool = False,
        sum_shape: Sequence[int] | None = None,
    ) -> None:
        """Make a mask of ones.

        Args:
            shape: of the mask; each side divides that of the parameter.
            score_shape: of the scores, the same unless the mask is frozen; None for a mask without scores.
            frozen: see above.
            sum_shape: of ``accumulated``; None for none.
        """
        super().__init__()
        # The name under which NNCF 2 kept it, too.
        self.register_buffer("_binary_mask", torch.ones(tuple(shape), dtype=torch.bool))
        self.importance = nn.Parameter(torch.zeros(tuple(score_shape))) if score_shape is not None else None
        self.register_buffer("accumulated", torch.zeros(tuple(sum_shape)) if sum_shape is not None else None)
        self.frozen = frozen

    @property
    def mask(self) -> torch.Tensor:
        """The mask: boolean, one element a block."""
        return self._binary_mask

    @mask.setter
    def mask(self, mask: torch.Tensor) -> None:
        """Take another mask, perhaps with blocks of another size."""
        # A copy: the masks of one group may be views of one tensor.
        self._binary_mask = mask.detach().to(self._binary_mask.device, torch.bool, copy=True).contiguous()

    def freeze(self) -> None:
        """Make the mask final. The scores stay, for an optimizer that is resumed must find the same parameters."""
        self.frozen = True
        if self.importance is not None:
            self.importance.grad = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = None if self.frozen or not torch.is_grad_enabled() else self.importance
        # One operation for whoever traces the model, so that the hook itself gets no hooks.
        if has_torch_function_unary(x):
            masked: torch.Tensor = handle_torch_function(
                apply_magnitude_binary_mask, (x,), x, self._binary_mask, scores
            )
            return masked
        return apply_magnitude_binary_mask(x, self._binary_mask, scores)

    def get_config(self) -> dict[str, Any]:
        scores = None if self.importance is None else list(self.importance.shape)
        config = {"shape": list(self._binary_mask.shape), "score_shape": scores, "frozen": self.frozen}
        return config if self.accumulated is None else config | {"sum_shape": list(self.accumulated.shape)}

    @classmethod
    def from_config(cls, state: dict[str, Any]) -> "Mask":
        return cls(**state)


def apply_magnitude_binary_mask(
    x: torch.Tensor, mask: torch.Tensor, scores: torch.Tensor | None = None
) -> torch.Tensor:
    """Multiply ``x`` by ``mask``, each element of which stands for a block of ``x``.

    NNCF knows the operation by this very name, and looks through it for the weight of a layer.

    Args:
        x: of one or two dimensions.
        mask: as many dimensions; each side divides that of ``x``.
        scores: of the mask's shape; they receive the mask's gradient, the sum over the block of gradient times ``x``.
    """
    factors = mask.to(x.dtype)
    if scores is not None:
        # The difference is exactly zero, and its gradient is one.
        factors = factors + (scores - scores.detach()).to(x.dtype)
    if mask.shape == x.shape:
        return x * factors
    blocked, spread = block_shapes(x.shape, mask.shape)
    return (x.view(blocked) * factors.view(spread)).view(x.shape)


def block_shapes(shape: Sequence[int], blocks: Sequence[int]) -> tuple[list[int], list[int]]:
    """Shapes in which a tensor and its mask can be multiplied: (R, fr, C, fc) and (R, 1, C, 1).

    Args:
        shape: of the tensor.
        blocks: of the mask, one element a block.
    """
    blocked = [side for size, count in zip(shape, blocks, strict=True) for side in (count, size // count)]
    spread = [side for count in blocks for side in (count, 1)]
    return blocked, spread


def expand(mask: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The mask element by element of the tensor that it is for, which has ``shape``."""
    blocked, spread = block_shapes(shape, mask.shape)
    return mask.view(spread).expand(blocked).reshape(tuple(shape))


def pool(values: torch.Tensor, blocks: Sequence[int]) -> torch.Tensor:
    """Sum ``values`` over blocks: the inverse view of :func:`expand`.

    Args:
        values: of one or two dimensions.
        blocks: shape of the result; each side divides that of ``values``.
    """
    blocked, _ = block_shapes(values.shape, blocks)
    return values.reshape(blocked).sum(dim=tuple(range(1, len(blocked), 2)))


def add_mask(
    model: nn.Module, parameter: str, shape: Sequence[int], scored: bool = False, summed: bool = False
) -> Mask:
    """Put a mask of ones on a parameter of ``model``.

    Args:
        model: changed in place.
        parameter: dotted name, such as ``bert.pooler.dense.weight``.
        shape: of the mask.
        scored: whether it has trainable scores, zero at first.
        summed: whether it keeps a sum for each element of the parameter, zero at first.
    """
    tensor = model.get_parameter(parameter)
    mask = Mask(shape, shape if scored else None, sum_shape=tensor.shape if summed else None).to(tensor.device)
    if not hasattr(model, ATR_HOOK_STORAGE):
        # Not asked again of a wrapped model: it would look at the forward, which mixed precision may have wrapped, too.
        wrap_model(model)
    register_post_function_hook(model, parameter, 0, mask)
    return mask


def masks(model: nn.Module) -> Iterator[tuple[str, Mask]]:
    """Yield every mask of ``model`` with the name of its parameter."""
    for hook, module in hooks(model):
        if isinstance(module, Mask):
            yield hook.split(".")[-2].rsplit("__", 1)[0].replace(":", "."), module


def target_layers(config: SparsityConfig, model: nn.Module, sample: Batch) -> list[str]:
    """The linear layers that a sparsity method works on, in the order of execution; what is odd about them is logged.

    Raises:
        ConfigError: a scope matches nothing, or no layer is left.
    """
    layers, warnings = resolve_layers(config, model, sample)
    for warning in warnings:
        logger.warning(warning)
    return layers


def masked_fraction(model: nn.Module, parameters: Collection[str]) -> float | None:
    """The masked part of those weights among ``parameters`` that have a mask; None if none has. Biases do not count."""
    zeros, total = [], 0
    for name, mask in masks(model):
        if name in parameters and mask.mask.dim() == 2:
            size = model.get_parameter(name).numel()
            zeros.append((~mask.mask).sum() * (size // mask.mask.numel()))
            total += size
    # One transfer from the device, not one for each mask.
    return torch.stack(zeros).sum().item() / total if zeros else None


def settled_masks(model: nn.Module, start_epoch: float) -> dict[str, Mask]:
    """The masks that an earlier method is done with when another one starts, by parameter."""
    return {name: mask for name, mask in masks(model) if mask.settled is not None and mask.settled <= start_epoch}


def refuse_masked(config: SparsityConfig, model: nn.Module, parameters: Collection[str]) -> None:
    """Refuse to put a second mask on a parameter.

    Raises:
        UsageError: naming the first layer that has one.
    """
    present = {name for name, _ in masks(model)}
    remedy = "leave it out of params of" if config.parameters else "name it in ignored_scopes of"
    for parameter in parameters:
        if parameter in present:
            raise UsageError(
                f"{config.place or config.algorithm}: {parameter.rpartition('.')[0]} has a mask of another sparsity "
                f"method already; {remedy} one of the two"
            )


def bake(model: nn.Module) -> None:
    """Multiply every masked parameter by its mask, and take the masks away."""
    with torch.no_grad():
        for parameter, mask in masks(model):
            tensor = model.get_parameter(parameter)
            tensor.copy_(apply_magnitude_binary_mask(tensor, mask.mask))
    remove_masks(model)


def lift(model: nn.Module, parameter: str, mask: Mask) -> None:
    """Set the masked elements of a parameter to zero, and mask nothing of it from here on.

    The mask stays as one of ones until training is over: a checkpoint on the way describes every hook.
    """
    with torch.no_grad():
        tensor = model.get_parameter(parameter)
        tensor.copy_(apply_magnitude_binary_mask(tensor, mask.mask))
        mask.mask.fill_(True)
    mask.freeze()


def remove_masks(model: nn.Module) -> None:
    """Take the masks away, and leave the parameters as they are."""
    for hook in [hook for hook, module in hooks(model) if isinstance(module, Mask)]:
        get_hook_storage(model).delete_hook(hook)
