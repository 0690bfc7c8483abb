"""Export a trained model to ONNX and OpenVINO, and prove that what was written is the same model."""

import contextlib
import copy
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nncf_transformers.algorithms.base import hooks
from nncf_transformers.algorithms.quantization import is_weight_quantizer, quantizers
from nncf_transformers.errors import CompressionError, UsageError
from nncf_transformers.export.onnx import output_names, write_onnx
from nncf_transformers.export.openvino import BIN, XML, write_ir
from nncf_transformers.export.parity import Parity, check_quantizer_count, compare
from nncf_transformers.inputs import call_model, synthetic_inputs
from nncf_transformers.runtimes import Inputs, onnx_runtime, openvino_runtime, torch_runtime

__all__ = ["check_targets", "export_model", "output_names"]

logger = logging.getLogger(__name__)

PARITY_FILE = "parity.json"


def check_targets(to_onnx: str | None, to_openvino: str | None) -> None:
    """Find out before the training, not after it, that an export cannot be written.

    Raises:
        UsageError: a target's folder is missing or not writable, or the target is of the wrong kind.
    """
    for flag, target in (("--to-onnx", to_onnx), ("--to-openvino", to_openvino)):
        if target is None:
            continue
        path = Path(target)
        if not path.parent.is_dir():
            raise UsageError(f"{flag} {target}: the folder {path.parent} does not exist; create it first")
        if not os.access(path.parent, os.W_OK):
            raise UsageError(f"{flag} {target}: the folder {path.parent} is not writable; choose another")
    if to_onnx is not None and (Path(to_onnx).is_dir() or Path(to_onnx).suffix != ".onnx"):
        example = Path(to_onnx) / "model.onnx"
        raise UsageError(f"--to-onnx {to_onnx}: must name a file that ends in .onnx, such as {example}")
    folder = Path(to_openvino) if to_openvino is not None else None
    if folder is not None and folder.exists():
        if not folder.is_dir():
            raise UsageError(f"--to-openvino {folder}: is a file; name a folder")
        if any(folder.iterdir()) and not (folder / XML).is_file():
            raise UsageError(f"--to-openvino {folder}: holds something else than an export; name another folder")


def export_model(
    model: nn.Module,
    *,
    to_onnx: str | None = None,
    to_openvino: str | None = None,
    tokenizer: Any | None = None,
    samples: Sequence[Inputs] | None = None,
) -> list[Parity]:
    """Write ``model`` as ONNX and/or OpenVINO IR, compare both with torch, and only then put them in place.

    Beside each export a JSON file records the comparison: ``<name>.parity.json`` for an ONNX file,
    ``parity.json`` in an IR folder.

    Args:
        model: a Transformers model on any device; it is left as it was.
        to_onnx: an ONNX file in an existing folder.
        to_openvino: a folder for the IR, made if missing.
        tokenizer: saved beside the IR.
        samples: batches of inputs to compare on, arrays of shape (batch, sequence); made up when omitted.

    Returns:
        One comparison a runtime, ONNX Runtime first.

    Raises:
        IntegrityError: the export lost a quantizer or computes something else; nothing is left behind.
    """
    check_targets(to_onnx, to_openvino)
    model = _plain(_on_cpu(model))
    if samples is None:
        logger.info("export: no data at hand, comparing the runtimes on made-up inputs")
        samples = _made_up(model)
    targets = [Path(target) for target in (to_onnx, to_openvino) if target is not None]
    try:
        with contextlib.ExitStack() as stack:
            # Each beside its target, for only a move within one file system is whole or not at all.
            folders = [stack.enter_context(_temporary_folder(target)) for target in targets]
            return _export(model, to_onnx, to_openvino, tokenizer, samples, folders)
    except OSError as error:
        names, reason = " and ".join(map(str, targets)), error.strerror or error
        raise CompressionError(f"{names}: cannot be written ({reason}); free space or choose another place") from error


def _export(
    model: nn.Module,
    to_onnx: str | None,
    to_openvino: str | None,
    tokenizer: Any | None,
    samples: Sequence[Inputs],
    folders: Sequence[Path],
) -> list[Parity]:
    """Write into ``folders``, one a target, check, and move what was asked for to its place."""
    file = folders[0] / "model.onnx"
    write_onnx(model, file)
    names = _live_quantizers(model)
    weights = sum(map(is_weight_quantizer, names))
    counts = check_quantizer_count(file, weights, len(names) - weights)
    reference, decides = torch_runtime(model), output_names(model) != ("embedding",)
    results = []
    if to_onnx is not None:
        if len(list(folders[0].iterdir())) > 1:
            raise UsageError(f"--to-onnx {to_onnx}: the model does not fit the 2 GB of an ONNX file; use --to-openvino")
        results.append(compare("ONNX Runtime", reference, onnx_runtime(file), samples, decides=decides))
    ir = folders[-1] / "ir"
    if to_openvino is not None:
        ir.mkdir()
        write_ir(file, ir, model, tokenizer)
        runtime = openvino_runtime(ir / XML, exact=True)
        results.append(compare("OpenVINO", reference, runtime, samples, decides=decides))
    for result in results:
        logger.info(str(result))
        result.check()
    report = json.dumps({"nodes": counts, "runtimes": [r.to_dict() for r in results]}, indent=1) + "\n"
    if to_onnx is not None:
        file.replace(to_onnx)
        Path(to_onnx).with_suffix(f".{PARITY_FILE}").write_text(report, encoding="utf-8")
        logger.info("wrote %s (%.1f MB)", to_onnx, Path(to_onnx).stat().st_size / 1e6)
    if to_openvino is not None:
        (ir / PARITY_FILE).write_text(report, encoding="utf-8")
        destination = Path(to_openvino)
        if destination.exists():
            # Out of the way whole: an IR is two files that must not be mixed with those of an earlier one.
            destination.rename(folders[-1] / "old")
        ir.rename(destination)
        logger.info("wrote %s (%.1f MB)", destination / XML, (destination / BIN).stat().st_size / 1e6)
    return results


def _live_quantizers(model: nn.Module) -> list[str]:
    """Name the quantizers that the outputs depend on: an exporter leaves the others out.

    A question-answering model of 2019 runs its pooler and does not use the result.
    """
    named = dict(quantizers(model))
    own = {name: [p for p in module.parameters() if p.requires_grad] for name, module in named.items()}
    flat = [parameter for parameters in own.values() for parameter in parameters]
    if not flat:
        return list(named)
    with torch.enable_grad():
        outputs = call_model(model, synthetic_inputs(model, batch=1, sequence=8))
        gradients = torch.autograd.grad(sum(output.sum() for output in outputs), flat, allow_unused=True)  # type: ignore[arg-type]
    used = {id(parameter) for parameter, gradient in zip(flat, gradients, strict=True) if gradient is not None}
    # One whose parameters are frozen cannot tell, and counts.
    return [name for name, parameters in own.items() if not parameters or any(id(p) in used for p in parameters)]


@contextlib.contextmanager
def _temporary_folder(target: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _on_cpu(model: nn.Module) -> nn.Module:
    """The model on the CPU in evaluation mode, a copy unless it is there already."""
    if next(model.parameters()).device.type != "cpu" or model.training:
        model = copy.deepcopy(model).cpu().eval()
    return model


def _plain(model: nn.Module) -> nn.Module:
    """The model itself, or, while masks are on it, a copy with the masks multiplied into the weights."""
    if next(hooks(model), None) is None:
        return model
    from nncf_transformers.algorithms.masks import bake, masks

    if any(True for _ in masks(model)):
        logger.info("export: training is not over, so what is masked is exported as zeros")
        model = copy.deepcopy(model)
        bake(model)
    return model


def _made_up(model: nn.Module) -> list[Inputs]:
    """Batches of several shapes, so that the dynamic axes are tried."""
    shapes = ((4, 16), (1, 48), (3, 31))
    return [rows_of(synthetic_inputs(model, *shape, seed=i)) for i, shape in enumerate(shapes)]


def sizes_of(to_onnx: str | None, to_openvino: str | None) -> dict[str, int]:
    """Sizes in bytes of the files with the weights of an export, by path."""
    files = ([Path(to_onnx)] if to_onnx else []) + ([Path(to_openvino) / BIN] if to_openvino else [])
    return {str(path): path.stat().st_size for path in files}


def rows_of(tensors: dict[str, torch.Tensor]) -> Inputs:
    """A batch of tensors as the arrays that a runtime takes."""
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
