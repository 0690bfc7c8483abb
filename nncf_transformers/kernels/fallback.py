"""Fake quantization in plain torch operations, for machines without a C compiler and for unusual tensors.

The formula is that of NNCF's C++ extension, operation by operation, in the tensor's own type. What makes it
faster than NNCF's code is the order (a big tensor is taken in blocks that stay in the processor's cache
through all the operations) and the choice of operations that torch vectorises.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from nncf_transformers.kernels.layout import Layout, is_flat, layout_of, same_order

# With half a dozen temporaries of this many elements, two threads work inside their level-2 caches.
BLOCK = 1 << 17

# Integers of the same size, by size in bytes.
_WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def quantize_forward(input_: Tensor, input_low: Tensor, input_range: Tensor, levels: int) -> Tensor:
    """Quantize and dequantize.

    Args:
        input_: Tensor of any floating-point type and shape.
        input_low: Lower bound of the range; its shape broadcasts to that of `input_`.
        input_range: Width of the range, of the same shape.
        levels: Number of quantization levels.

    Returns:
        A new tensor like `input_`.
    """
    constants = _constants(input_low, input_range, levels)
    layout = layout_of(input_.shape, input_range.shape)
    output = torch.empty_like(input_)
    if layout is None or not is_flat(layout, input_, output):
        return _quantize(input_, *constants, out=output)
    for source, target, rows in _blocks(layout, input_, output):
        _quantize(source, *(_rows_of(constant, layout, rows) for constant in constants), out=target)
    return output


def quantize_backward(
    grad_output: Tensor,
    input_: Tensor,
    input_low: Tensor,
    input_range: Tensor,
    levels: int,
    level_low: int,
    level_high: int,
    is_asymmetric: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Straight-through gradients of :func:`quantize_forward`.

    Args:
        grad_output: Gradient of the loss by the output, of `input_`'s shape.
        input_: The forward's input.
        input_low: As in the forward.
        input_range: As in the forward.
        levels: As in the forward.
        level_low: Lowest quantized value, for example -128.
        level_high: Highest quantized value, for example 127.
        is_asymmetric: Whether the gradient of `input_low` is wanted.

    Returns:
        The gradients of `input_`, `input_low` (meaningless unless asymmetric) and `input_range`.
    """
    constants = (*_constants(input_low, input_range, levels), input_range.reciprocal())
    alpha = level_low / level_high
    grad_output = grad_output.to(input_.dtype)
    layout = layout_of(input_.shape, input_range.shape)
    grad_input = torch.empty_like(input_)
    if layout is None or not is_flat(layout, input_, grad_input):
        range_terms, low_terms = _gradients(grad_output, input_, constants, alpha, grad_input, is_asymmetric)
        grad_low = low_terms.sum_to_size(input_low.shape) if low_terms is not None else torch.empty_like(input_low)
        return grad_input, grad_low, range_terms.sum_to_size(input_range.shape)

    if not same_order(grad_output, input_):
        grad_output = torch.empty_like(input_).copy_(grad_output)
    # Rounding errors of a long sum would show otherwise: a tensor has millions of elements.
    range_sum = torch.zeros(layout.channels, dtype=torch.float64)
    low_sum = torch.zeros_like(range_sum)
    for grad, source, target, rows in _blocks(layout, grad_output, input_, grad_input):
        block_constants = tuple(_rows_of(constant, layout, rows) for constant in constants)
        range_terms, low_terms = _gradients(grad, source, block_constants, alpha, target, is_asymmetric)
        _add_rows(range_sum, range_terms, layout, rows)
        if low_terms is not None:
            _add_rows(low_sum, low_terms, layout, rows)
    return (
        grad_input,
        low_sum.to(input_low.dtype).reshape(input_low.shape),
        range_sum.to(input_range.dtype).reshape(input_range.shape),
    )


def _constants(input_low: Tensor, input_range: Tensor, levels: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what does not depend on the input: low, high, 1 / step and zero point."""
    # A true division: `(levels - 1) / tensor` in Python multiplies by the reciprocal, which rounds twice.
    step_inverse = torch.full_like(input_range, levels - 1).div_(input_range)
    zero_point = input_low.neg().mul_(step_inverse).round_()
    return input_low, input_low + input_range, step_inverse, zero_point


def _quantize(
    input_: Tensor, low: Tensor, high: Tensor, step_inverse: Tensor, zero_point: Tensor, *, out: Tensor
) -> Tensor:
    torch.minimum(input_, high, out=out)
    torch.maximum(out, low, out=out)
    return out.sub_(low).mul_(step_inverse).sub_(zero_point).round_().div_(step_inverse)


def _gradients(
    grad: Tensor,
    input_: Tensor,
    constants: tuple[Tensor, ...],
    alpha: float,
    out: Tensor,
    is_asymmetric: bool,
) -> tuple[Tensor, Tensor | None]:
    """Write the gradient of the input to `out`; return the terms of the range's and the bound's sums.

    Selecting with `where` or `masked_fill_` costs ten times as much as arithmetic, and multiplying by a mask
    turns an infinite gradient into NaN. So the selection works on the bits: a word of ones keeps a number,
    a zero clears it.
    """
    low, high, step_inverse, zero_point, range_inverse = constants
    below = torch.lt(input_, low, out=torch.empty_like(input_))
    above = torch.gt(input_, high, out=torch.empty_like(input_))
    word = _WORDS[input_.element_size()]
    keep = torch.maximum(above, below).to(word).sub_(1)

    terms = _quantize(input_, low, high, step_inverse, zero_point, out=torch.empty_like(input_))
    terms.sub_(input_).mul_(range_inverse)
    terms.view(word).bitwise_and_(keep)
    # Where the bounds have changed places, a value can be on both sides; NNCF then lets the lower one decide.
    above.sub_(below).relu_()
    terms.add_(above).add_(below, alpha=alpha).mul_(grad)

    torch.bitwise_and(grad.view(word), keep, out=out.view(word))
    if not is_asymmetric:
        return terms, None
    dropped = torch.bitwise_xor(grad.view(word), out.view(word))
    return terms, dropped.view(grad.dtype)


def _blocks(layout: Layout, *tensors: Tensor) -> Iterator[tuple]:
    """Cut tensors into blocks of about the same size.

    Yields:
        One view per tensor, and the slice of channels it covers. A quantizer per tensor gets flat pieces,
        one per channel whole rows.
    """
    if layout.channels == 1 and layout.outer == 1:
        flat = [tensor.as_strided((layout.inner,), (1,)) for tensor in tensors]
        for start in range(0, layout.inner, BLOCK):
            yield *(tensor[start : start + BLOCK] for tensor in flat), slice(0, 1)
        return
    if layout.outer == 1:
        rows = [tensor.view(layout.channels, layout.inner) for tensor in tensors]
        step = max(1, BLOCK // max(layout.inner, 1))
        for start in range(0, layout.channels, step):
            stop = min(start + step, layout.channels)
            yield *(tensor[start:stop] for tensor in rows), slice(start, stop)
        return
    planes = [tensor.view(layout.outer, layout.channels, layout.inner) for tensor in tensors]
    step = max(1, BLOCK // max(layout.channels * layout.inner, 1))
    for start in range(0, layout.outer, step):
        yield *(tensor[start : start + step] for tensor in planes), slice(0, layout.channels)


def _rows_of(constant: Tensor, layout: Layout, rows: slice) -> Tensor:
    if layout.channels == 1:
        return constant.reshape(1)
    return constant.reshape(layout.channels, 1)[rows]


def _add_rows(total: Tensor, terms: Tensor, layout: Layout, rows: slice) -> None:
    """Add a block's terms to the sums of its channels."""
    wide = torch.float32 if terms.element_size() < 4 else terms.dtype
    if layout.channels == 1:
        total += terms.sum(dtype=wide)
    else:
        total[rows] += terms.sum(dim=(0, 2) if terms.dim() == 3 else 1, dtype=wide)
