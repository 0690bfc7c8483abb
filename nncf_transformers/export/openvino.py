"""Write an OpenVINO IR folder in the layout that optimum-intel's ``OVModelFor…`` classes load."""

from pathlib import Path
from typing import Any

XML = "openvino_model.xml"
BIN = "openvino_model.bin"


def write_ir(onnx_file: Path, folder: Path, model: Any, tokenizer: Any | None) -> None:
    """Convert ``onnx_file`` to IR, with the model's configuration and tokenizer beside it.

    The IR is made from the ONNX file, not traced anew: both then hold the same INT8 weights, and OpenVINO keeps the
    input names, which its own PyTorch tracing replaces by numbers.

    Args:
        onnx_file: what :func:`nncf_transformers.export.onnx.write_onnx` wrote.
        folder: an existing folder; files of the same names are overwritten.
        model: gives ``config.json``.
        tokenizer: saved beside the model; none is when None.
    """
    import openvino

    network = openvino.convert_model(onnx_file)
    # Weights are INT8 already; the rest (biases, layer norms) stays exact.
    try:
        openvino.save_model(network, folder / XML, compress_to_fp16=False)
    except RuntimeError as error:
        # OpenVINO's way to report a full disk.
        raise OSError(str(error).strip().splitlines()[-1]) from error
    model.config.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
