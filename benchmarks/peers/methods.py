"""The methods that are compared: who makes what, and which runtimes it is meant for."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OWN_PRECISION = "OpenVINO, own precision"
# Where a runtime finds the model in an artefact's folder.
FILES = {
    "OpenVINO": ("openvino_model.xml", "openvino_model.bin"),
    # FP32 only: in "OpenVINO" it is computed in float32, here as OpenVINO runs it by default.
    OWN_PRECISION: ("openvino_model.xml", "openvino_model.bin"),
    "ONNX Runtime": ("model.onnx",),
    "torch": ("model.pt",),
    "torch, compiled": ("model.pt",),
    "exported, compiled": ("model.pt2",),
}
# In a checkpoint that was trained for the comparison: by which flags, and for how long.
TRAINED_BY = "trained_by.json"


@dataclass(frozen=True)
class Method:
    """One way to make an artefact from the FP32 model.

    Attributes:
        key: name of the artefact's folder, and of the method on the command line.
        title: for the table.
        package: the distribution whose version the table names; None for ours and for FP32.
        runtimes: keys of :data:`FILES`; each is a row.
        kind: "fp32", "peer" or "ours".
    """

    key: str
    title: str
    package: str | None
    runtimes: tuple[str, ...]
    kind: str = "peer"

    @property
    def own(self) -> bool:
        """Whether it is made in our environment, not in that of the peers."""
        return self.kind != "peer"


METHODS = (
    Method("fp32", "FP32", None, ("torch", "ONNX Runtime", "OpenVINO", OWN_PRECISION), "fp32"),
    Method("nncf", "NNCF post-training", "nncf", ("OpenVINO",)),
    Method("optimum-intel", "optimum-intel OVQuantizer", "optimum-intel", ("OpenVINO",)),
    Method("ort-minmax", "ONNX Runtime static, MinMax", "onnxruntime", ("ONNX Runtime",)),
    Method("ort-percentile", "ONNX Runtime static, Percentile", "onnxruntime", ("ONNX Runtime",)),
    Method("ort-entropy", "ONNX Runtime static, Entropy", "onnxruntime", ("ONNX Runtime",)),
    Method("ort-all", "ONNX Runtime static, all operators", "onnxruntime", ("ONNX Runtime",)),
    Method("ort-dynamic", "ONNX Runtime dynamic", "onnxruntime", ("ONNX Runtime",)),
    Method("torchao", "torchao dynamic", "torchao", ("torch", "torch, compiled")),
    Method("inc-static", "neural-compressor static", "neural_compressor", ("exported, compiled",)),
    Method("inc-dynamic", "neural-compressor dynamic", "neural_compressor", ("exported, compiled",)),
    Method("ours-ptq", "ours, PTQ", None, ("OpenVINO", "ONNX Runtime"), "ours"),
    Method("ours-qat", "ours, QAT", None, ("OpenVINO", "ONNX Runtime"), "ours"),
)


def trained_by(checkpoint: Path) -> dict[str, Any]:
    """The flags and seconds of our training; empty where the checkpoint was trained elsewhere."""
    file = checkpoint / TRAINED_BY
    known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return known
