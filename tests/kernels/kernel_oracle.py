"""NNCF's CPU arithmetic, one torch operation per step of its C++ extension and nothing clever."""

import torch
from torch import Tensor


def quantize_forward(input_: Tensor, low: Tensor, width: Tensor, levels: int) -> Tensor:
    step_inverse = torch.full_like(width, levels - 1) / width
    zero_point = (-low * step_inverse).round()
    output = torch.maximum(torch.minimum(input_, low + width), low)
    return ((output - low) * step_inverse - zero_point).round() / step_inverse


def quantize_backward(
    grad: Tensor, input_: Tensor, low: Tensor, width: Tensor, levels: int, level_low: int, level_high: int
) -> tuple[Tensor, Tensor, Tensor]:
    output = quantize_forward(input_, low, width, levels)
    above, below = input_ > low + width, input_ < low
    error = (output - input_) * (torch.ones_like(width) / width)
    error = error.masked_fill(above, 1.0).masked_fill(below, level_low / level_high) * grad
    outside = above | below
    return (
        grad.masked_fill(outside, 0.0),
        total(grad.masked_fill(~outside, 0.0), low),
        total(error, width),
    )


def total(terms: Tensor, like: Tensor) -> Tensor:
    """Sum to the shape of a parameter, in double precision."""
    return terms.double().sum_to_size(like.shape).to(like.dtype)
