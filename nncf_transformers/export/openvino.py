"""Write an OpenVINO IR folder in the layout that optimum-intel's ``OVModelFor…`` classes load."""

from pathlib import Path
from typing import Any

XML = "openvino_model.xml"
BIN = "openvino_model.bin"


def xml_name(part: str) -> str:
    """Name the IR file of a part of a model, as optimum-intel does; ``part`` is empty for a whole model."""
    return f"openvino_{part}_model.xml" if part else XML


def is_export(folder: Path) -> bool:
    """Say whether ``folder`` holds an export: a whole model, or an encoder and its decoder."""
    return any((folder / xml_name(part)).is_file() for part in ("", "encoder"))


def write_ir(onnx_file: Path, xml: Path) -> None:
    """Convert ``onnx_file`` to IR.

    The IR is made from the ONNX file, not traced anew: both then hold the same INT8 weights, and OpenVINO keeps the
    input names, which its own PyTorch tracing replaces by numbers.

    Args:
        onnx_file: what :func:`nncf_transformers.export.onnx.write_onnx` wrote.
        xml: the file to write, in an existing folder; the weights go beside it.
    """
    import openvino

    network = openvino.convert_model(onnx_file)
    # Weights are INT8 already; the rest (biases, layer norms) stays exact.
    try:
        openvino.save_model(network, xml, compress_to_fp16=False)
    except RuntimeError as error:
        # OpenVINO's way to report a full disk.
        raise OSError(str(error).strip().splitlines()[-1]) from error


def write_rest(folder: Path, model: Any, tokenizer: Any | None) -> None:
    """Write what else belongs to an IR: the model's configuration, how it generates text, and the tokenizer.

    Args:
        folder: an existing folder; files of the same names are overwritten.
        model: gives ``config.json`` and ``generation_config.json``.
        tokenizer: saved beside the model; none is when None.
    """
    model.config.save_pretrained(folder)
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
