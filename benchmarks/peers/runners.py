"""Run an artefact in its runtime, with as little around it as there can be.

Memory is measured in processes that have loaded nothing else, so a runtime's library is imported where it is used
(:mod:`nncf_transformers.runtimes` does so, too). Every runner takes inputs by name, int64 of shape (batch, sequence),
and returns (start logits, end logits), float32.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.methods import OWN_PRECISION
from nncf_transformers.runtimes import onnx_runtime

NAMES = ("input_ids", "attention_mask", "token_type_ids")
Inputs = Mapping[str, np.ndarray]
Runner = Callable[[Inputs], tuple[np.ndarray, ...]]


def load(runtime: str, folder: Path, threads: int, *, model: Path, exact: bool = False) -> Runner:
    """Load an artefact.

    Args:
        runtime: a key of :data:`benchmarks.peers.methods.FILES`.
        folder: of the artefact.
        threads: of the computation.
        model: the FP32 checkpoint, for the configuration of a torch model.
        exact: OpenVINO shall compute floating point in float32 where it would choose bfloat16.
    """
    if runtime in ("OpenVINO", OWN_PRECISION):
        return _openvino(folder / "openvino_model.xml", threads, exact)
    if runtime == "ONNX Runtime":
        return onnx_runtime(folder / "model.onnx", threads)
    import torch

    torch.set_num_threads(threads)
    if runtime == "exported, compiled":
        return _compiled(_exported(folder / "model.pt2"))
    module = _state(folder / "model.pt", model)
    return _compiled(module) if runtime == "torch, compiled" else _torch(module)


def _openvino(path: Path, threads: int, exact: bool) -> Runner:
    """As :func:`nncf_transformers.runtimes.openvino_runtime`, for models whose outputs have no names: NNCF's own."""
    import openvino

    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    if exact:
        options["INFERENCE_PRECISION_HINT"] = "f32"
    compiled = openvino.Core().compile_model(str(path), "CPU", options)
    names = [next(name for name in NAMES if name in port.get_names()) for port in compiled.inputs]

    def run(inputs: Inputs) -> tuple[np.ndarray, ...]:
        result = compiled([inputs[name] for name in names])
        return tuple(result[port].copy() for port in compiled.outputs)

    return run


def _state(path: Path, model: Path) -> Any:
    """A torch model from its state dictionary, whose weights may be torchao's INT8 tensors."""
    import torch
    from transformers import AutoConfig, AutoModelForQuestionAnswering

    from benchmarks.peers.make_torch import Positional

    config = AutoConfig.from_pretrained(model)
    with torch.device("meta"):
        module = AutoModelForQuestionAnswering.from_config(config)
    if path.parent.name == "torchao":
        # Lets the classes of its tensors be read by weights_only.
        import torchao.quantization  # noqa: F401
    state = torch.load(path, weights_only=True)
    module.load_state_dict(state, assign=True)
    for name, buffer in list(module.named_buffers()):
        if buffer.is_meta:
            _set_buffer(module, name, config)
    return Positional(module.eval())


def _set_buffer(module: Any, name: str, config: Any) -> None:
    """Buffers that are not saved: position numbers, and token types of zero."""
    import torch

    owner, _, last = name.rpartition(".")
    length = torch.arange(config.max_position_embeddings).unsqueeze(0)
    module.get_submodule(owner).register_buffer(
        last, length if last == "position_ids" else torch.zeros_like(length), persistent=False
    )


def _exported(path: Path) -> Any:
    import torch
    import torchao.quantization.pt2e  # noqa: F401  # its operators are in the program

    return torch.export.load(path).module()


def _compiled(module: Any) -> Runner:
    """Let Inductor compile the model, once for all shapes; weights become INT8 constants where it can do so."""
    import torch
    from torch._inductor import config

    config.freezing = True
    return _torch(torch.compile(module, dynamic=True))


def _torch(module: Any) -> Runner:
    import torch

    def run(inputs: Inputs) -> tuple[np.ndarray, ...]:
        with torch.no_grad():
            outputs = module(*(torch.from_numpy(inputs[name]) for name in NAMES))
        return tuple(output.float().numpy() for output in outputs)

    return run
