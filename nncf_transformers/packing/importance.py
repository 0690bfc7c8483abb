"""Which attention heads matter least, and how they go (inventory 3.3.2)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from nncf_transformers.structure import Group, find_groups, remove_units

# What a batch adds to the moving average.
RATE = 0.001


class HeadImportance:
    """Moving average, over the batches, of how much the loss would change without each head.

    Each head's output is multiplied by a one of its own, whose gradient tells. It is a hook, for libraries from 5 on
    take no ``head_mask`` any more.

    Attributes:
        importance: for each layer a tensor of shape (heads,). Several processes should add theirs up before they prune.
    """

    def __init__(self, model: nn.Module) -> None:
        groups = head_groups(model)
        modules = [model.get_submodule(group.columns[0]) for group in groups]
        devices = [next(module.parameters()).device for module in modules]
        sized = [(group.count, device) for group, device in zip(groups, devices, strict=True)]
        self.importance = [torch.zeros(count, device=device) for count, device in sized]
        self._masks = [torch.ones(count, device=device, requires_grad=True) for count, device in sized]
        self._handles = [
            module.register_forward_pre_hook(_Multiply(module, mask, group.unit))
            for module, mask, group in zip(modules, self._masks, groups, strict=True)
        ]

    def update(self, scale: float = 1.0) -> None:
        """Take in the gradients of the backward just done: importance += (|gradient| - importance) * 0.001.

        Args:
            scale: what the loss was multiplied by, for fp16; a gradient that overflowed for it says nothing.
        """
        for importance, mask in zip(self.importance, self._masks, strict=True):
            if mask.grad is not None:
                gradient = mask.grad.abs() / scale
                importance += (torch.where(gradient.isfinite(), gradient, importance) - importance) * RATE
                mask.grad = None

    def close(self) -> None:
        """Leave the model's forward as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs."""
        return {"importance": [importance.clone() for importance in self.importance]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        for importance, saved in zip(self.importance, state["importance"], strict=True):
            importance.copy_(saved)


class _Multiply:
    """A hook that multiplies the columns of each head; on the module alone, not on copies of it."""

    def __init__(self, module: nn.Module, mask: torch.Tensor, unit: int) -> None:
        self._module, self._mask, self._unit = module, mask, unit

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Multiply":
        return self

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if module is not self._module:
            return None
        mask = self._mask.to(args[0]).repeat_interleave(self._unit)
        return (args[0] * mask, *args[1:])


def head_groups(model: nn.Module) -> list[Group]:
    """The heads of each layer."""
    return [group for group in find_groups(model) if group.kind == "head"]


def prune_heads(model: nn.Module, importance: Sequence[torch.Tensor], keep: int) -> dict[int, list[int]]:
    """Remove the least important heads of each layer, in place.

    Args:
        model: its parameters may be other objects afterwards; no :class:`HeadImportance` may be at work.
        importance: for each layer, shape (heads,).
        keep: heads of a layer that stay; a layer that has no more loses none.

    Returns:
        By layer, counted from 0, the heads that went, ascending.
    """
    kept, removed = {}, {}
    for i, (group, values) in enumerate(zip(head_groups(model), importance, strict=True)):
        # Stable, so that several processes agree.
        order = values.float().cpu().argsort(stable=True).tolist()
        removed[i] = sorted(order[: max(0, group.count - keep)])
        kept[group.name] = torch.tensor([head not in removed[i] for head in range(group.count)], device="cpu")
    remove_units(model, kept)
    return removed
