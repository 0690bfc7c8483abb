"""Export a model, compressed or not, to ONNX."""

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from nncf_transformers.algorithms.quantization import quantizers
from nncf_transformers.errors import UsageError
from nncf_transformers.export.fold import fold_weights
from nncf_transformers.export.sizes import fix_known_sizes
from nncf_transformers.export.strip import stripped
from nncf_transformers.export.tied import has_tied_weights, share_transposed
from nncf_transformers.inputs import synthetic_inputs
from nncf_transformers.parts import Part, parts_of

logger = logging.getLogger(__name__)

# 17 is the first opset with LayerNormalization as one operation; every runtime we test reads it.
OPSET = 17
# 14 is the first that knows attention as torch computes it; the exporter knows those up to 20.
OPSETS = range(14, 21)


@dataclass(frozen=True)
class OnnxForm:
    """How a model is written as ONNX.

    Attributes:
        opset: one of :data:`OPSETS`.
        fold: store quantized weights as INT8. Otherwise they stay floats with QuantizeLinear behind them, which is
            what training computes; such a file is as large as that of an uncompressed model.
    """

    opset: int = OPSET
    fold: bool = True

    def __post_init__(self) -> None:
        if self.opset not in OPSETS:
            raise UsageError(f"opset {self.opset}: give one from {OPSETS[0]} to {OPSETS[-1]}")


def write_onnx(model: nn.Module, path: Path, part: Part | None = None, form: OnnxForm | None = None) -> None:
    """Write ``model``, or a part of it, to ``path`` with named inputs and outputs, dynamic in batch and sequence.

    A compressed model is stripped to PyTorch's own fake quantizers first, on a copy; its weights are folded to INT8.

    Args:
        model: a Transformers model on the CPU, in evaluation mode.
        path: an ONNX file; overwritten.
        part: one of those of :func:`~nncf_transformers.parts.parts_of`; the only one when omitted.
        form: opset, and what becomes of quantized weights.
    """
    form = form or OnnxForm()
    if part is None:
        (part,) = parts_of(model)
    # Two rows: an exporter must not mistake a batch of one for a constant.
    with torch.no_grad():
        example = part.select(model, synthetic_inputs(model, batch=2, sequence=16))
    compressed = any(quantizers(model))
    # In evaluation mode itself, or the exporter would leave the model in training mode.
    network = _Positional(stripped(model) if compressed else model, part).eval()
    with torch.no_grad(), _quiet(), _traceable(model), _in_one_line():
        torch.onnx.export(
            network,
            tuple(example.values()),
            str(path),
            # The dynamo exporter fails on, or silently drops, NNCF's quantizers.
            dynamo=False,
            opset_version=form.opset,
            input_names=list(part.inputs),
            output_names=list(part.outputs),
            dynamic_axes=part.axes,
        )
    tied = has_tied_weights(model)
    if compressed or tied:
        graph = onnx.load(path)
        if tied:
            share_transposed(graph)
        if compressed and form.fold:
            fold_weights(graph)
            fix_known_sizes(graph)
        onnx.checker.check_model(graph)
        onnx.save(graph, path)


@contextlib.contextmanager
def _in_one_line() -> Iterator[None]:
    """Say in one line that the exporter does not know an operation of the model."""
    try:
        yield
    except (torch.onnx.errors.UnsupportedOperatorError, torch.onnx.errors.SymbolicValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"export refused: {reason}; the model is safe, but it cannot be written as ONNX") from error


class _Positional(nn.Module):
    """Call a part of a model by position and return a tuple: what a tracing exporter understands."""

    def __init__(self, model: nn.Module, part: Part) -> None:
        super().__init__()
        self.model = model
        self.part = part

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.part.run(self.model, dict(zip(self.part.inputs, tensors, strict=True)))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the tracer's notes on Python control flow: the parity check after the export is the real test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _traceable(model: nn.Module) -> Iterator[None]:
    """Replace functions of the model's modules that a tracer cannot follow by others with the same result.

    ``build_rpos`` of DeBERTa is a scripted function that compares the lengths of query and key, so the tracer records
    both its branches, in an If that OpenVINO's CPU plugin refuses. In an encoder the lengths are equal, and the answer
    is the relative positions it was given. ``create_causal_mask`` maps a function over all pairs of positions by
    ``torch.vmap``, on which the exporter fails.
    """
    replacements: dict[str, Any] = {
        "build_rpos": lambda query, key, positions, *sizes: positions,
        "create_causal_mask": causal_mask,
    }
    # A model with adapters is made of derived classes, which are defined elsewhere.
    classes = {parent for module in model.modules() for parent in type(module).__mro__}
    modules = {sys.modules[parent.__module__] for parent in classes if parent.__module__ in sys.modules}
    with contextlib.ExitStack() as stack:
        for module in modules:
            for name, function in replacements.items():
                if module.__name__.rpartition(".")[2].startswith("modeling_") and hasattr(module, name):
                    stack.callback(setattr, module, name, getattr(module, name))
                    setattr(module, name, function)
        yield


def causal_mask(
    config: Any,
    input_embeds: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    inputs_embeds: torch.Tensor | None = None,
    **_: Any,
) -> torch.Tensor:
    """Make the mask of a decoder that knows no earlier tokens: what to add to the attention's scores.

    Args:
        config: not used; Transformers passes it.
        input_embeds: (batch, sequence, hidden), for its size and type.
        attention_mask: (batch, sequence), 0 for padding.
        inputs_embeds: the same as ``input_embeds``, in later versions.

    Returns:
        (batch or 1, 1, sequence, sequence): 0 where a token may look, and the smallest number elsewhere.
    """
    embeds = input_embeds if input_embeds is not None else inputs_embeds
    assert embeds is not None
    positions = torch.arange(embeds.shape[1], device=embeds.device)
    allowed = (positions[:, None] >= positions[None, :])[None, None]
    if attention_mask is not None:
        allowed = allowed & attention_mask[:, None, None, :].bool()
    zero = torch.zeros((), dtype=embeds.dtype, device=embeds.device)
    return torch.where(allowed, zero, torch.full_like(zero, torch.finfo(embeds.dtype).min))
