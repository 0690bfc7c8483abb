"""Export a trained model to ONNX and OpenVINO, and prove that what was written is the same model."""

import contextlib
import copy
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from nncf_transformers.algorithms.base import hooks
from nncf_transformers.algorithms.quantization import is_weight_quantizer, quantizers, remove_idle
from nncf_transformers.errors import CompressionError, UsageError
from nncf_transformers.export.onnx import OnnxForm, write_onnx
from nncf_transformers.export.openvino import PARITY_FILE, files_in, foreign_file, write_ir, write_rest, xml_name
from nncf_transformers.export.parity import Parity, check_quantizer_count, compare
from nncf_transformers.inputs import synthetic_inputs
from nncf_transformers.parts import Part, output_names, parts_of
from nncf_transformers.runtimes import Inputs, Runtime, onnx_runtime, openvino_runtime, torch_runtime

__all__ = ["OnnxForm", "check_export", "check_targets", "export_model", "output_names"]

logger = logging.getLogger(__name__)


def check_targets(to_onnx: str | None, to_openvino: str | None) -> None:
    """Find out before the training, not after it, that an export cannot be written.

    Raises:
        UsageError: a target's folder is missing or not writable, the target is of the wrong kind, or it holds files
            that no export wrote, which would be lost.
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
    if to_onnx is not None and folder is not None and Path(to_onnx).resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"--to-onnx {to_onnx}: lies in --to-openvino {folder}, which is replaced whole; move one out")
    if folder is not None and folder.exists():
        if not folder.is_dir():
            raise UsageError(f"--to-openvino {folder}: is a file; name a folder")
        if name := foreign_file(folder):
            raise UsageError(
                f"--to-openvino {folder}: holds something else than an export, {name}; move it, or name another folder"
            )


def export_model(
    model: nn.Module,
    *,
    to_onnx: str | None = None,
    to_openvino: str | None = None,
    tokenizer: Any | None = None,
    samples: Sequence[Inputs] | None = None,
    form: OnnxForm | None = None,
    onnx_beside_ir: str | None = None,
    source: str | os.PathLike[str] | None = None,
) -> list[Parity]:
    """Write ``model`` as ONNX and/or OpenVINO IR, compare both with torch, and only then put them in place.

    A sequence-to-sequence model becomes two files, its encoder and its decoder without a cache: ``m.onnx`` stands for
    ``m-encoder.onnx`` and ``m-decoder.onnx``, and an IR folder holds ``openvino_encoder_model.xml`` and
    ``openvino_decoder_model.xml``.

    Beside each export a JSON file records the comparison: ``<name>.parity.json`` for an ONNX file,
    ``parity.json`` in an IR folder. The latter also lists the folder's files: those of an earlier export are replaced,
    and a folder with others is refused.

    Args:
        model: a Transformers model on any device; it is left as it was.
        to_onnx: an ONNX file in an existing folder.
        to_openvino: a folder for the IR, made if missing.
        tokenizer: saved beside the IR.
        samples: batches of inputs to compare on, arrays of shape (batch, sequence); made up when omitted.
        form: of the ONNX file.
        onnx_beside_ir: put the ONNX file into the IR folder, too, under this name. For a model that is exported whole.
        source: folder of the model, recorded beside the IR.

    Returns:
        One comparison a runtime and part, ONNX Runtime first.

    Raises:
        UsageError: a target cannot be written, see :func:`check_targets`.
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
            form = form or OnnxForm()
            return _export(model, to_onnx, to_openvino, tokenizer, samples, folders, form, onnx_beside_ir, source)
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
    form: OnnxForm,
    onnx_beside_ir: str | None,
    source: str | os.PathLike[str] | None,
) -> list[Parity]:
    """Write into ``folders``, one a target, check, and move what was asked for to its place."""
    files = {}
    counts = {}
    for part in parts_of(model):
        file = files[part] = folders[0] / f"{part.name or 'model'}.onnx"
        write_onnx(model, file, part, form)
        counts[part.name] = check_quantizer_count(file, *_live_quantizers(model, part), integer_weights=form.fold)
    results = []
    if to_onnx is not None:
        if len(list(folders[0].iterdir())) > len(files):
            raise UsageError(f"--to-onnx {to_onnx}: the model does not fit the 2 GB of an ONNX file; use --to-openvino")
        for part, file in files.items():
            results.append(_compare("ONNX Runtime", model, part, onnx_runtime(file), samples))
    ir = folders[-1] / "ir"
    if to_openvino is not None:
        ir.mkdir()
        write_rest(ir, model, tokenizer)
        for part, file in files.items():
            write_ir(file, ir / xml_name(part.name))
            runtime = openvino_runtime(ir / xml_name(part.name), exact=True)
            results.append(_compare("OpenVINO", model, part, runtime, samples))
        if onnx_beside_ir is not None:
            (file,) = files.values()
            shutil.copyfile(file, ir / onnx_beside_ir)
    for result in results:
        logger.info(str(result))
        result.check()
    report: dict[str, Any] = {"nodes": counts.get("", counts), "runtimes": [r.to_dict() for r in results]}
    # Once more: meanwhile, someone may have put a file there.
    check_targets(to_onnx, to_openvino)
    if to_onnx is not None:
        _place_onnx({part.name: file for part, file in files.items()}, to_onnx, report)
    if to_openvino is not None:
        destination = Path(to_openvino)
        if source is not None:
            # As seen from there, so that both can be moved together.
            report |= {"source": os.path.relpath(Path(source).resolve(), destination.resolve())}
        (ir / PARITY_FILE).write_text(_json(report | {"files": sorted(files_in(ir))}), encoding="utf-8")
        _place_ir(ir, destination, folders[-1] / "old")
        for part in files:
            xml = destination / xml_name(part.name)
            logger.info("wrote %s (%.1f MB)", xml, xml.with_suffix(".bin").stat().st_size / 1e6)
    return results


def check_export(model: nn.Module, file: Path) -> list[Parity]:
    """Compare an ONNX file with the model that it was written from, in both runtimes, on made-up inputs.

    Args:
        model: exported whole; on the CPU, in evaluation mode.
        file: its ONNX file, with or without its weights in it.

    Raises:
        IntegrityError: it lost a quantizer or computes something else.
    """
    (part,) = parts_of(model)
    check_quantizer_count(file, *_live_quantizers(model, part))
    runtimes = {"ONNX Runtime": onnx_runtime(file), "OpenVINO": openvino_runtime(file, exact=True)}
    results = [_compare(name, model, part, runtime, _made_up(model)) for name, runtime in runtimes.items()]
    for result in results:
        logger.info(str(result))
        result.check()
    return results


def _place_ir(folder: Path, destination: Path, old: Path) -> None:
    """Move a folder to its place, and what was there out of the way."""
    if destination.exists():
        # Whole: an IR is two files that must not be mixed with those of an earlier one.
        destination.rename(old)
    try:
        folder.rename(destination)
    except BaseException:
        if old.exists():
            old.rename(destination)
        raise


def _place_onnx(files: Mapping[str, Path], to_onnx: str, report: dict[str, Any]) -> None:
    """Move the ONNX files of the parts to their places, and say in the report which they are."""
    target = Path(to_onnx)
    places = {part: target.with_stem(f"{target.stem}-{part}") if part else target for part in files}
    for part, file in files.items():
        file.replace(places[part])
        logger.info("wrote %s (%.1f MB)", places[part], places[part].stat().st_size / 1e6)
    report = report | {"files": [place.name for place in places.values()]}
    target.with_suffix(f".{PARITY_FILE}").write_text(_json(report), encoding="utf-8")


def _json(report: dict[str, Any]) -> str:
    return json.dumps(report, indent=1) + "\n"


def _compare(name: str, model: nn.Module, part: Part, runtime: Runtime, samples: Sequence[Inputs]) -> Parity:
    """Compare one runtime's part of the model with torch's, on what torch gives to that part."""
    with torch.no_grad():
        batches = [
            rows_of(part.select(model, {k: torch.from_numpy(np.asarray(v)) for k, v in sample.items()}))
            for sample in samples
        ]
    label = f"{name} {part.name}".rstrip()
    return compare(label, torch_runtime(model, part), runtime, batches, decides=part.decides)


def _live_quantizers(model: nn.Module, part: Part) -> tuple[int, int]:
    """Count how often weights and activations are quantized on the way to a part's outputs.

    An exporter leaves out what the outputs do not depend on: a question-answering model of 2019 runs its pooler and
    does not use the result. A weight's quantizer that several operations share is counted for each of them that runs,
    an activation's for each tensor that it gets.

    Returns:
        The numbers for weights and for activations.
    """
    named = dict(quantizers(model))
    weight_quantizers = {module for name, module in named.items() if is_weight_quantizer(name)}
    seen: dict[nn.Module, list[torch.Tensor]] = {module: [] for module in named.values()}

    def count(module: nn.Module, arguments: tuple[torch.Tensor, ...], *_: Any) -> None:
        (tensor,) = arguments
        if module in weight_quantizers or not any(torch.equal(tensor, other) for other in seen[module]):
            seen[module].append(tensor.detach())

    flat = [p for module in seen for p in module.parameters() if p.is_floating_point()]
    frozen = [p for p in flat if not p.requires_grad]
    inputs = part.select(model, synthetic_inputs(model, batch=1, sequence=8))
    handles = [module.register_forward_hook(count) for module in seen]
    gradients: Sequence[torch.Tensor | None] = ()
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        if flat:
            with torch.enable_grad():
                total: Any = sum(output.sum() for output in part.run(model, inputs))
                gradients = torch.autograd.grad(total, flat, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
        for parameter in frozen:
            parameter.requires_grad_(False)
    used = {id(parameter) for parameter, gradient in zip(flat, gradients, strict=True) if gradient is not None}
    live = {module for module in seen if any(id(p) in used for p in module.parameters())}
    weights = sum(len(seen[module]) for module in live & weight_quantizers)
    return weights, sum(len(seen[module]) for module in live - weight_quantizers)


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
    if any(map(parametrize.is_parametrized, model.modules())):
        model = _with_computed_weights(copy.deepcopy(model))
    if next(hooks(model), None) is None:
        return model
    from nncf_transformers.algorithms.masks import bake, masks

    if any(True for _ in masks(model)):
        logger.info("export: training is not over, so what is masked is exported as zeros")
        model = copy.deepcopy(model)
        bake(model)
    if any(not int(module.enabled) for _, module in quantizers(model)):
        logger.info("export: quantization has not started yet, so the model is exported in floating point")
        model = copy.deepcopy(model)
        remove_idle(model)
    return model


def _with_computed_weights(model: nn.Module) -> nn.Module:
    """Replace layers whose weight is computed from others in every forward (ReFT's are orthogonal) by plain ones."""
    for name, module in [*model.named_modules()]:
        if isinstance(module, nn.Linear) and parametrize.is_parametrized(module):
            plain = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
            plain.weight = nn.Parameter(module.weight.detach().clone(), requires_grad=False)
            plain.bias = module.bias
            # Not torch's own removal: it takes the weight from the class, which the original has in common.
            model.set_submodule(name, plain)
    return model


def _made_up(model: nn.Module) -> list[Inputs]:
    """Batches of several shapes, so that the dynamic axes are tried."""
    shapes = ((4, 16), (1, 48), (3, 31))
    return [rows_of(synthetic_inputs(model, *shape, seed=i)) for i, shape in enumerate(shapes)]


def sizes_of(to_onnx: str | None, to_openvino: str | None) -> dict[str, int]:
    """Sizes in bytes of the files with the weights of an export, by path."""
    files: list[Path] = []
    if to_onnx:
        # The report knows whether this export is one file or two.
        report = Path(to_onnx).with_suffix(f".{PARITY_FILE}").read_text(encoding="utf-8")
        files += [Path(to_onnx).with_name(name) for name in json.loads(report)["files"]]
    if to_openvino:
        files += sorted(Path(to_openvino).glob("openvino*model.bin"))
    return {str(path): path.stat().st_size for path in files}


def rows_of(tensors: dict[str, torch.Tensor]) -> Inputs:
    """A batch of tensors as the arrays that a runtime takes."""
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
