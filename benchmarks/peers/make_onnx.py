"""ONNX Runtime's own quantization, static and dynamic, of an FP32 ONNX file."""

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

Inputs = Mapping[str, np.ndarray]
# Samples whose intermediate values are in memory at a time; ONNX Runtime wants a divisor of their number, and makes
# histograms of samples of one length only.
_STRIDES = {"MinMax": 10, "Percentile": 1, "Entropy": 1}


def static(fp32: Path, target: Path, samples: Sequence[Inputs], method: str, types: Sequence[str] | None) -> str:
    """Quantize with calibrated ranges: QDQ, unsigned activations, signed weights per channel.

    Args:
        fp32: the model, with dynamic shapes.
        target: the INT8 file to write.
        samples: inputs of one row each.
        method: a name of ``CalibrationMethod``: MinMax, Percentile or Entropy.
        types: operators to quantize, and of matrix products only those with weights; None takes all that ONNX
            Runtime knows to quantize.

    Returns:
        What was done, in words.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder, "prepared.onnx")
        quant_pre_process(str(fp32), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(target),
            _Reader(samples),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(types) if types else None,
            # In attention, the products of two activations; QDQ does not heed the option MatMulConstBOnly.
            nodes_to_exclude=_without_weights(prepared) if types else None,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[method],
            extra_options={
                "CalibStridedMinMax": math.gcd(_STRIDES[method], len(samples)),
                # The bias is added to what a product yields: that keeps its precision until then.
                **({"OpTypesToExcludeOutputQuantization": list(types)} if types else {}),
            },
        )
    return f"QDQ, {method}, {len(samples)} samples, {'weights of ' + ', '.join(types) if types else 'all operators'}"


def dynamic(fp32: Path, target: Path) -> str:
    """Quantize the weights per channel; activations get their ranges while the model runs."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder, "prepared.onnx")
        quant_pre_process(str(fp32), str(prepared), skip_symbolic_shape=True)
        quantize_dynamic(str(prepared), str(target), per_channel=True, weight_type=QuantType.QInt8)
    return "weights per channel, activations at run time"


def _without_weights(path: Path) -> list[str]:
    """Matrix products of two activations."""
    graph = onnx.load(path).graph
    weights = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if node.op_type == "MatMul" and weights.isdisjoint(node.input)]


class _Reader(CalibrationDataReader):
    """Gives the samples one by one, a range of them at a time."""

    def __init__(self, samples: Sequence[Inputs]) -> None:
        self._samples = samples
        self._rows: Any = iter(samples)

    def __len__(self) -> int:
        return len(self._samples)

    def get_next(self) -> dict[str, np.ndarray] | None:
        row = next(self._rows, None)
        return None if row is None else dict(row)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._rows = iter(self._samples[start_index:end_index])
