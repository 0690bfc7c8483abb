"""Run one model in torch, ONNX Runtime or OpenVINO through the same call.

Every runtime takes a dictionary of arrays by name, int64 of shape (batch, sequence) or float32 hidden states, and
returns the model's logits as a tuple of float32 arrays, in the order of :func:`nncf_transformers.parts.output_names`.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nncf_transformers.errors import IntegrityError

# An exported model runs without torch, and without the memory that it takes.
if TYPE_CHECKING:
    from torch import nn

    from nncf_transformers.parts import Part

Inputs = Mapping[str, np.ndarray]
Outputs = tuple[np.ndarray, ...]
Runtime = Callable[[Inputs], Outputs]


@dataclass(frozen=True)
class Exported:
    """A model that was loaded from a file; called as any other runtime.

    Attributes:
        run: runs it.
        inputs: names of what it takes.
        outputs: names of what it returns, in order.
        multiple: rows of more than a few tokens are best padded to a width that is a multiple of this.
    """

    run: Runtime
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    multiple: int = 8

    def __call__(self, inputs: Inputs) -> Outputs:
        return self.run(inputs)


def torch_runtime(model: "nn.Module", part: "Part | None" = None) -> Runtime:
    """Run ``model`` itself, or a part of it, on its device, in evaluation mode."""
    import torch

    from nncf_transformers.inputs import call_model, input_names
    from nncf_transformers.parts import output_names

    names = input_names(model) if part is None else part.inputs

    def run(inputs: Inputs) -> Outputs:
        device = next(model.parameters()).device
        tensors = {k: torch.from_numpy(_input(inputs, k)).to(device) for k in names}
        training = model.training
        model.eval()
        with torch.no_grad():
            if part is None:
                outputs = call_model(model, tensors)[: len(output_names(model))]
            else:
                outputs = part.run(model, tensors)
        model.train(training)
        return tuple(output.float().cpu().numpy() for output in outputs)

    return run


def onnx_runtime(path: str | os.PathLike[str], threads: int = 0) -> Exported:
    """Run an ONNX file with ONNX Runtime on the CPU; ``threads`` 0 leaves the number to it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = _load(path, lambda: onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"]))
    names = tuple(value.name for value in session.get_inputs())
    return Exported(
        lambda inputs: tuple(session.run(None, {k: _input(inputs, k) for k in names})),
        names,
        tuple(value.name for value in session.get_outputs()),
    )


def openvino_runtime(path: str | os.PathLike[str], threads: int = 0, exact: bool = False) -> Exported:
    """Run an IR (or ONNX) file with OpenVINO on the CPU.

    Args:
        path: an ``.xml`` or ``.onnx`` file.
        threads: 0 leaves the number to OpenVINO.
        exact: compute float operations in float32 even where the processor has bfloat16 units. For a comparison of
            numbers; a measurement of speed wants OpenVINO's own choice.
    """
    import openvino

    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    if exact:
        options["INFERENCE_PRECISION_HINT"] = "f32"
    compiled = _load(path, lambda: openvino.Core().compile_model(str(path), "CPU", options))
    names = tuple(port.any_name for port in compiled.inputs)

    def run(inputs: Inputs) -> Outputs:
        result = compiled([_input(inputs, k) for k in names])
        return tuple(result[port].copy() for port in compiled.outputs)

    # From 32 tokens on, a width in between takes about as long as the next multiple of 16, and OpenVINO prepares itself
    # for every new shape, about a millisecond for six layers.
    return Exported(run, names, tuple(port.any_name for port in compiled.outputs), multiple=16)


def _input(inputs: Inputs, name: str) -> np.ndarray:
    """One input: hidden states, which are floating point, as float32, all else as int64.

    Token types, which some tokenizers leave out, are zeros as in the models themselves.
    """
    if name == "token_type_ids" and name not in inputs:
        return np.zeros_like(np.asarray(inputs["input_ids"], np.int64))
    array = np.asarray(inputs[name])
    return np.asarray(array, np.float32 if array.dtype.kind == "f" else np.int64)


def _load(path: str | os.PathLike[str], load: Callable[[], Any]) -> Any:
    """Load a model file; a runtime's many-line complaint becomes one line."""
    if not Path(path).is_file():
        raise IntegrityError(f"{path}: no such file; export the model first")
    try:
        return load()
    # Each runtime has its own exception types, and both wrap everything from a bad path to a truncated protobuf.
    except Exception as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise IntegrityError(f"{path}: cannot be loaded ({reason}); export the model again") from error
