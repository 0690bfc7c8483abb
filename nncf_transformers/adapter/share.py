"""Export several adapters of one base: a small ONNX file for each, and one file with the weights that all of them use.

ONNX may keep weights in another file than the graph ("external data"), and several graphs may point into the same one.
ONNX Runtime and OpenVINO read that. An OpenVINO IR cannot: it has one file of weights, for itself.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper
from onnx.external_data_helper import set_external_data
from torch import nn

from nncf_transformers.adapter.folder import AdapterFolder, clean_name, find_adapter
from nncf_transformers.adapter.load import load_base, load_with_adapter, save_tokenizer
from nncf_transformers.errors import UsageError
from nncf_transformers.export import check_export
from nncf_transformers.export.onnx import write_onnx
from nncf_transformers.export.parity import Parity
from nncf_transformers.loading import restore_if_compressed
from nncf_transformers.parts import parts_of

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "base.weights"
REPORT_FILE = "adapters.json"
# No task can have this name.
_SCRATCH = ".whole.onnx"
# Smaller tensors stay in the graph: a reference would be as large.
_LEAST_BYTES = 1024
# Where a tensor may begin, so that a runtime can map the file into memory.
_ALIGNMENT = 4096


@dataclass(frozen=True)
class Shared:
    """What one task needs.

    Attributes:
        name: of the adapter; its file is ``<name>.onnx``.
        bytes: size of that file.
        whole: size of an ONNX file with all weights in it.
        base: size of the weights that it shares with the others.
        runtimes: how ONNX Runtime and OpenVINO agree with torch.
    """

    name: str
    bytes: int
    whole: int
    base: int
    runtimes: list[dict[str, Any]]


def export_adapters(base: str, adapters: Sequence[str], output: str) -> list[Shared]:
    """Write ``base.weights`` and, for each adapter, ``<name>.onnx``; each is compared with torch in both runtimes.

    ``base.weights`` holds the large weights that the base and its model with the first adapter have in common. Where
    these are the same, whatever the adapter, another call with the same base adds tasks to the folder.

    Args:
        base: the model that all the adapters were trained on, INT8 or not.
        adapters: folders of adapters, or of the runs that trained them.
        output: made if missing.

    Raises:
        UsageError: two adapters of one name, or the folder's ``base.weights`` is another.
        IntegrityError: an exported model is not the model in memory.
    """
    folders = {name: find_adapter("--adapters", place) for place in adapters for name in [_name(place)]}
    if len(folders) < len(adapters):
        raise UsageError(
            "--adapters: two of them have the same name; a task is a file of that name, so rename a folder"
        )
    target = Path(output)
    target.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".export.", dir=target))
    try:
        weights = _write_base(next(iter(folders.values())), base, temporary)
        _check_same_base(target / WEIGHTS_FILE, temporary / WEIGHTS_FILE, base)
        done = [_export_one(name, folder, base, weights, temporary) for name, folder in folders.items()]
        save_tokenizer((*adapters, base), temporary)
        before = _read_report(target)
        report = before | {task.name: asdict(task) for task in done}
        (temporary / REPORT_FILE).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        for file in sorted(temporary.iterdir()):
            file.replace(target / file.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return done


def _name(place: str) -> str:
    """A task's name: that of its run, for adapters of one data set bear one name."""
    folder = Path(os.path.abspath(place))
    return clean_name(folder.name) or "adapter"


def _write_base(folder: AdapterFolder, base: str, target: Path) -> dict[str, tuple[int, int]]:
    """Write the large weights that the base has both alone and with an adapter; give their places by digest.

    A weight of the base alone is of its head, in whose place each adapter has one of its own.

    Args:
        folder: the adapter.
        base: the model, INT8 or not.
        target: where :data:`WEIGHTS_FILE` is written.

    Returns:
        Offset and length in bytes, by :func:`_digest`.
    """
    model = load_base(folder, base).eval()
    restore_if_compressed(model, base)
    adapted = load_with_adapter(folder, base)
    if len(parts_of(adapted)) > 1:
        raise UsageError(f"--model {base}: has an encoder and a decoder, which cannot be exported with a shared base")
    wanted = {_digest(tensor, content) for tensor, content in _large(_graph_of(adapted, target / _SCRATCH))}
    graph = _graph_of(model, target / _SCRATCH)
    places: dict[str, tuple[int, int]] = {}
    with open(target / WEIGHTS_FILE, "wb") as file:
        for tensor, content in _large(graph):
            digest = _digest(tensor, content)
            if digest in wanted and digest not in places:
                file.write(b"\0" * (-file.tell() % _ALIGNMENT))
                places[digest] = (file.tell(), len(content))
                file.write(content)
    return places


def _export_one(
    name: str, folder: AdapterFolder, base: str, weights: dict[str, tuple[int, int]], target: Path
) -> Shared:
    model = load_with_adapter(folder, base)
    graph = _graph_of(model, target / _SCRATCH, keep=True)
    whole = (target / _SCRATCH).stat().st_size
    (target / _SCRATCH).unlink()
    shared = 0
    for tensor, content in _large(graph):
        place = weights.get(_digest(tensor, content))
        if place is not None:
            tensor.raw_data = content
            set_external_data(tensor, WEIGHTS_FILE, offset=place[0], length=place[1])
            tensor.ClearField("raw_data")
            shared += place[1]
    file = target / f"{name}.onnx"
    onnx.save(graph, file)
    results: list[Parity] = check_export(model, file)
    size = file.stat().st_size
    logger.info(
        "%s: %.2f MB, and %.2f MB shared; alone it would be %.2f MB", file.name, size / 1e6, shared / 1e6, whole / 1e6
    )
    return Shared(name, size, whole, shared, [result.to_dict() for result in results])


def _graph_of(model: nn.Module, file: Path, keep: bool = False) -> onnx.ModelProto:
    write_onnx(model, file)
    graph = onnx.load(file)
    if not keep:
        file.unlink()
    return graph


def _large(model: onnx.ModelProto) -> Iterator[tuple[onnx.TensorProto, bytes]]:
    for tensor in model.graph.initializer:
        content = tensor.raw_data or numpy_helper.to_array(tensor).tobytes()
        if len(content) >= _LEAST_BYTES:
            yield tensor, content


def _digest(tensor: onnx.TensorProto, content: bytes) -> str:
    """What a tensor is, whatever its name: a graph with an adapter numbers its weights differently."""
    return f"{tensor.data_type} {list(tensor.dims)} {hashlib.sha256(content).hexdigest()}"


def _check_same_base(old: Path, new: Path, base: str) -> None:
    if old.is_file() and old.read_bytes() != new.read_bytes():
        raise UsageError(f"--output {old.parent}: its tasks are of another base than {base}; name another folder")


def _read_report(folder: Path) -> dict[str, Any]:
    path = folder / REPORT_FILE
    try:
        report = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UsageError(f"{path}: is no valid JSON ({error}); delete it") from error
    if not isinstance(report, dict):
        raise UsageError(f"{path}: is no report of tasks; delete it")
    return report
