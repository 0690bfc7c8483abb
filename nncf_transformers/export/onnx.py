"""Export a model, compressed or not, to ONNX."""

import contextlib
import inspect
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from torch import nn

from nncf_transformers.algorithms.quantization import quantizers
from nncf_transformers.export.fold import fold_weights
from nncf_transformers.export.strip import stripped
from nncf_transformers.inputs import call_model, synthetic_inputs

logger = logging.getLogger(__name__)

# 17 is the first opset with LayerNormalization as one operation; every runtime we test reads it.
OPSET = 17


def output_names(model: nn.Module) -> tuple[str, ...]:
    """Name a model's outputs as the Transformers output classes name them."""
    if type(model).__name__.endswith("ForQuestionAnswering"):
        return ("start_logits", "end_logits")
    return ("embedding",) if type(model).__name__.endswith("ModelEMB") else ("logits",)


def write_onnx(model: nn.Module, path: Path) -> None:
    """Write ``model`` to ``path`` with named inputs and outputs, dynamic in batch and sequence.

    A compressed model is stripped to PyTorch's own fake quantizers first, on a copy; its weights are folded to INT8.

    Args:
        model: a Transformers model on the CPU, in evaluation mode.
        path: an ONNX file; overwritten.
    """
    # Two rows: an exporter must not mistake a batch of one for a constant.
    example = synthetic_inputs(model, batch=2, sequence=16)
    compressed = any(quantizers(model))
    # In evaluation mode itself, or the exporter would leave the model in training mode.
    network = _Positional(stripped(model) if compressed else model, tuple(example)).eval()
    outputs = output_names(model)
    dynamic = {name: {0: "batch", 1: "sequence"} for name in example}
    for name in outputs:
        dynamic[name] = {0: "batch"}
        if _per_token(model):
            dynamic[name][1] = "sequence"
    with torch.no_grad(), _quiet(), _without_branches(model):
        torch.onnx.export(
            network,
            tuple(example.values()),
            str(path),
            # The dynamo exporter fails on, or silently drops, NNCF's quantizers.
            dynamo=False,
            opset_version=OPSET,
            input_names=list(example),
            output_names=list(outputs),
            dynamic_axes=dynamic,
        )
    if compressed:
        graph = onnx.load(path)
        fold_weights(graph)
        onnx.checker.check_model(graph)
        onnx.save(graph, path)


class _Positional(nn.Module):
    """Call a model by position and return a tuple: what a tracing exporter understands."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return call_model(self.model, dict(zip(self.names, tensors, strict=True)))


def _per_token(model: nn.Module) -> bool:
    return not type(model).__name__.endswith(("ForSequenceClassification", "ForMultipleChoice", "ModelEMB"))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the tracer's notes on Python control flow: the parity check after the export is the real test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _without_branches(model: nn.Module) -> Iterator[None]:
    """Spare DeBERTa's graph an If that OpenVINO's CPU plugin refuses.

    ``build_rpos`` is a scripted function that compares the lengths of query and key, so the tracer records both its
    branches. In an encoder the lengths are equal, and the answer is the relative positions it was given.
    """
    module = inspect.getmodule(type(model))
    original = getattr(module, "build_rpos", None)
    if original is None:
        yield
        return
    module.build_rpos = lambda query, key, positions, *sizes: positions  # type: ignore[union-attr]
    try:
        yield
    finally:
        module.build_rpos = original  # type: ignore[union-attr]
