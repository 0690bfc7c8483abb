"""Write an OpenVINO IR folder in the layout that optimum-intel's ``OVModelFor…`` classes load."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

XML = "openvino_model.xml"
BIN = "openvino_model.bin"
PARITY_FILE = "parity.json"
# What a folder may hold whose export did not write down its files yet.
_UNRECORDED = frozenset(
    f"openvino_{part}model.{kind}" for part in ("", "encoder_", "decoder_") for kind in ("xml", "bin")
) | {
    *("model.onnx", "config.json", "generation_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model", "spiece.model", "spm.model"),
}


def xml_name(part: str) -> str:
    """Name the IR file of a part of a model, as optimum-intel does; ``part`` is empty for a whole model."""
    return f"openvino_{part}_model.xml" if part else XML


def read_report(folder: Path) -> dict[str, Any]:
    """What an export wrote about itself in a folder; empty where there is none.

    Its ``files`` are the names of all files of the export, below the folder; its ``source`` is the path of the model
    that it was made from, as seen from the folder, where that was known.
    """
    try:
        report = json.loads((folder / PARITY_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(report, dict) or "runtimes" not in report:
        return {}
    files = report.get("files", sorted(_UNRECORDED))
    return report | {"files": [name for name in files if isinstance(name, str)] if isinstance(files, list) else []}


def foreign_file(folder: Path) -> str | None:
    """A file in ``folder`` that no export wrote there, below the folder; None if there is none."""
    report = read_report(folder)
    written = {PARITY_FILE, *report["files"]} if report else set()
    return next((name for name in files_in(folder) if name not in written), None)


def files_in(folder: Path) -> Iterator[str]:
    """The names of all files in ``folder``, below it, in no order."""
    for path in folder.rglob("*"):
        # A link to a folder is a file here: it would go with the folder that it is in.
        if path.is_symlink() or not path.is_dir():
            yield path.relative_to(folder).as_posix()


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
