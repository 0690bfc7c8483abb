"""How a quantizer's parameters lie along a tensor: the one question that both implementations ask."""

from typing import NamedTuple

import torch


class Layout(NamedTuple):
    """A contiguous tensor seen as [outer, channels, inner], with one quantizer parameter per channel."""

    outer: int
    channels: int
    inner: int


def layout_of(shape: torch.Size, scale_shape: torch.Size) -> Layout | None:
    """Return the layout, or None if the parameters vary along more than one dimension.

    Args:
        shape: The tensor's shape.
        scale_shape: The parameters' shape, which broadcasts to `shape`: `[1]`, `[out, 1]`, `[1, C, 1, 1]`…
    """
    if scale_shape.numel() == 1:
        return Layout(1, 1, shape.numel())
    offset = len(shape) - len(scale_shape)
    varying = [dim for dim, size in enumerate(scale_shape) if size != 1]
    if offset < 0 or len(varying) != 1:
        return None
    dim = varying[0] + offset
    if shape[dim] != scale_shape[varying[0]]:
        return None
    return Layout(shape[:dim].numel(), shape[dim], shape[dim + 1 :].numel())


def is_flat(layout: Layout, input_: torch.Tensor, output: torch.Tensor) -> bool:
    """Whether a tensor and a fresh one like it can be walked through without regard to their dimensions.

    A fresh tensor has the strides of its model if and only if that is dense, so a transposed activation
    counts, too; a channel's parameters, though, are found by position, which needs the plain order.
    """
    return same_order(input_, output) and (layout.channels == 1 or input_.is_contiguous())


def same_order(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two tensors of one shape hold their elements in the same order in memory."""
    return first.stride() == second.stride()
