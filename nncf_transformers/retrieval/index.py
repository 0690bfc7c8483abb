"""Passages and their vectors, searched by L2 distance, on disk and in memory.

Exact by default: all distances come from one matrix product, and those that could be among the nearest are computed
again from the differences, so that rounding neither hides a passage nor blurs a distance. Where there are many,
FAISS looks at a part of the passages only and finds nearly all of the nearest; the distances are right all the same.

A folder on disk holds ``index.json`` and the files that it names, each with its checksum. A file's name has its
checksum in it, so a new index never writes over the files of an old one, and replacing ``index.json`` is the one
moment at which the old index becomes the new one.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nncf_transformers.checkpoint import write_text
from nncf_transformers.errors import IntegrityError, UsageError
from nncf_transformers.retrieval.nearest import (
    build_graph,
    distances,
    exact_candidates,
    graph_candidates,
    read_graph,
    squared_lengths,
    write_graph,
)

INDEX_FILE = "index.json"
FORMAT = 1
METHODS = ("auto", "exact", "faiss")

# From this number of values (passages * size) on, "auto" means FAISS. An exact search reads all of them: 100,000
# passages of size 1024 take 13 ms on one core (benchmarks/bench_retrieval.py), twice as many half of the 50 ms that a
# query may take. FAISS takes 2 ms, but 40 s to build, and misses 6 of 100 of the nearest.
FAISS_FROM = 200_000_000
# Of the files that belong to an index: those that index.json names, and what a killed save left behind.
_OURS = re.compile(r"(vectors-[0-9a-f]{16}\.npy|passages-[0-9a-f]{16}\.jsonl|faiss-[0-9a-f]{16}\.index|index\.json)")
_LEFT_BEHIND = re.compile(r"\.(vectors|passages|faiss|index\.json)\.\d+")


@dataclass(frozen=True)
class Passage:
    """A piece of a text.

    Attributes:
        source: name of the file that it is from, ``<stdin>`` or empty.
        start: its first character in the text of the source.
        text: the piece itself.
    """

    source: str
    start: int
    text: str


class PassageIndex:
    """Vectors of passages, to be searched by L2 distance. Made by :meth:`build` or :meth:`load`.

    Attributes:
        vectors: float32, shape (passages, size).
        passages: in the same order.
        model: fingerprint of the model that made the vectors, see :func:`fingerprint_file`.
        sources: for each indexed file its sha256, empty for a text that is no file.
        settings: what else a rebuild must agree on, as JSON.
        method: ``exact`` or ``faiss``.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        passages: list[Passage],
        model: str,
        sources: dict[str, str],
        settings: dict[str, Any],
        graph: Any = None,
    ) -> None:
        """Put together what belongs together; see the class's attributes."""
        self.vectors, self.passages, self.model = vectors, passages, model
        self.sources, self.settings = sources, settings
        self._graph = graph
        self._lengths = squared_lengths(vectors, "a passage")

    @property
    def method(self) -> str:
        """How it searches."""
        return "exact" if self._graph is None else "faiss"

    @classmethod
    def build(
        cls,
        vectors: np.ndarray,
        passages: Sequence[Passage],
        *,
        model: str,
        sources: Mapping[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
        method: str = "auto",
    ) -> "PassageIndex":
        """Make an index of vectors.

        Args:
            vectors: shape (passages, size).
            passages: as many.
            model: fingerprint of the model that made the vectors.
            sources: sha256 by name of an indexed file.
            settings: JSON that is kept with the index.
            method: ``exact``, ``faiss``, or ``auto``: FAISS from :data:`FAISS_FROM` values on.

        Raises:
            UsageError: nothing to index, or a vector that is not finite.
        """
        if method not in METHODS:
            raise ValueError(f"method {method!r}, not one of {METHODS}")
        vectors = np.ascontiguousarray(vectors, np.float32)
        if not len(passages):
            raise UsageError("there are no passages to index; give at least one text that is not empty")
        if vectors.ndim != 2 or len(vectors) != len(passages):
            raise ValueError(f"vectors of shape {vectors.shape} for {len(passages)} passages")
        squared_lengths(vectors, "a passage")
        use_faiss = method == "faiss" or (method == "auto" and vectors.size >= FAISS_FROM)
        graph = build_graph(vectors) if use_faiss else None
        return cls(vectors, list(passages), model, dict(sources or {}), dict(settings or {}), graph)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the nearest passages.

        Args:
            queries: shape (queries, size).
            k: how many for each; all of them if there are fewer.

        Returns:
            L2 distances, float32, and passage numbers, int64, each (queries, k): the nearest first, the smaller number
            first where distances are equal.

        Raises:
            UsageError: the queries are of another size than the vectors, or not finite.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        if queries.ndim != 2 or k < 1:
            raise ValueError(f"queries of shape {queries.shape}, k {k}; expected two dimensions and a positive k")
        if queries.shape[1] != self.vectors.shape[1]:
            raise UsageError(
                f"the question's vector has {queries.shape[1]} numbers, those of the index {self.vectors.shape[1]}; "
                "use the model that built the index, or build it again"
            )
        lengths = squared_lengths(queries, "a question")
        k = min(k, len(self.vectors))
        if self._graph is None:
            candidates = exact_candidates(queries, lengths, self.vectors, self._lengths, k)
        else:
            candidates = graph_candidates(self._graph, queries, k)
        found, ids = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        for row, some in enumerate(candidates):
            theirs = distances(queries[row], self.vectors, some)
            order = np.lexsort((some, theirs))[:k]
            found[row], ids[row] = theirs[order], some[order]
        return found, ids

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the index whole or not at all, in the place of one that is there.

        Args:
            folder: made if it is not there.

        Raises:
            UsageError: the folder holds something else than an index, or cannot be written.
        """
        path = Path(folder)
        with _one_line(path, "written"):
            path.mkdir(parents=True, exist_ok=True)
            strangers = sorted(entry.name for entry in path.iterdir() if not _is_ours(entry.name))
            if strangers:
                raise UsageError(
                    f"{path}: holds something else than an index ({strangers[0]}); give an empty or a new folder"
                )
            with _locked(path, fcntl.LOCK_EX):
                files = {
                    "vectors": _write(path, "vectors", ".npy", self._write_vectors),
                    "passages": _write(path, "passages", ".jsonl", self._write_passages),
                }
                if self._graph is not None:
                    files["faiss"] = _write(path, "faiss", ".index", partial(write_graph, self._graph))
                write_text(path / INDEX_FILE, json.dumps(self._description(files), indent=1) + "\n")
                kept = {INDEX_FILE, *(file["name"] for file in files.values())}
                for entry in path.iterdir():
                    if entry.name not in kept and _is_ours(entry.name):
                        entry.unlink()

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, model: str | None = None) -> "PassageIndex":
        """Read an index.

        Args:
            folder: where :meth:`save` wrote it.
            model: fingerprint of the model that will embed the questions; None: nobody looks.

        Raises:
            UsageError: there is no index, it was built by another model, or by another version of this software.
            IntegrityError: it is damaged.
        """
        path = Path(folder)
        if not (path / INDEX_FILE).is_file():
            raise UsageError(f"{path}: there is no index here ({INDEX_FILE} is missing); build one first")
        with _one_line(path, "read"), _locked(path, fcntl.LOCK_SH):
            about = _read_description(path / INDEX_FILE)
            if model is not None and about["model"] != model:
                raise UsageError(
                    f"{path}: the index was built by another model ({about['model'][:12]}, now {model[:12]}); "
                    "use that model, or build the index again in another folder"
                )
            files = {role: _checked(path, file) for role, file in about["files"].items()}
            try:
                vectors = np.load(files["vectors"], allow_pickle=False)
                lines = files["passages"].read_text(encoding="ascii").splitlines()
                passages = [Passage(**json.loads(line)) for line in lines]
                graph = read_graph(files["faiss"]) if "faiss" in files else None
            except (ValueError, TypeError, EOFError) as error:
                raise IntegrityError(f"{path}: damaged ({error}); build the index again") from error
        sizes = {(len(passages), about["size"]), (about["count"], about["size"])}
        if graph is not None:
            sizes.add((graph.ntotal, graph.d))
        if vectors.dtype != np.float32 or sizes != {vectors.shape}:
            raise IntegrityError(f"{path}: damaged (its files are of different sizes); build the index again")
        return cls(vectors, passages, about["model"], about["sources"], about["settings"], graph)

    def _description(self, files: dict[str, dict[str, str]]) -> dict[str, Any]:
        count, size = self.vectors.shape
        return {
            "format": FORMAT,
            "model": self.model,
            "count": count,
            "size": size,
            "method": self.method,
            "sources": self.sources,
            "settings": self.settings,
            "files": files,
        }

    def _write_vectors(self, path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, self.vectors, allow_pickle=False)

    def _write_passages(self, path: Path) -> None:
        # ASCII only: a text with half a surrogate pair in it is no UTF-8, but may be in a file.
        with path.open("w", encoding="ascii") as file:
            file.writelines(json.dumps(asdict(passage)) + "\n" for passage in self.passages)


def fingerprint_file(path: str | os.PathLike[str]) -> str:
    """Name a file, or an embedding model on disk, by its content.

    Args:
        path: any file; of an IR its ``.xml``, to which the ``.bin`` beside it belongs, or the folder with
            ``openvino_model.xml``.

    Returns:
        sha256, 64 hexadecimal digits.

    Raises:
        UsageError: it cannot be read.
    """
    file = Path(path)
    file = file / "openvino_model.xml" if file.is_dir() else file
    files = [file, file.with_suffix(".bin")] if file.suffix == ".xml" else [file]
    with _one_line(file, "read"):
        digests = [_digest(each) for each in files if each == file or each.is_file()]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _is_ours(name: str) -> bool:
    return bool(_OURS.fullmatch(name) or _LEFT_BEHIND.fullmatch(name))


def _write(folder: Path, role: str, suffix: str, write: Callable[[Path], None]) -> dict[str, str]:
    """Write a file and name it by its checksum; returns what index.json says of it."""
    temporary = folder / f".{role}.{os.getpid()}"
    try:
        write(temporary)
        digest = _digest(temporary)
        name = f"{role}-{digest[:16]}{suffix}"
        temporary.replace(folder / name)
    finally:
        temporary.unlink(missing_ok=True)
    return {"name": name, "sha256": digest}


def _read_description(path: Path) -> dict[str, Any]:
    """What index.json says, after a look at whether it says what it should."""
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise UsageError(f"{path}: has format {about['format']}, not {FORMAT}; build the index again")
        kinds = {"model": str, "count": int, "size": int, "sources": dict, "settings": dict, "files": dict}
        wrong = [key for key, kind in kinds.items() if not isinstance(about[key], kind)]
        wrong += ["sources"] * (not all(isinstance(digest, str) for digest in about["sources"].values()))
        names = [file["name"] for file in about["files"].values()]
        if wrong or not {"vectors", "passages"} <= about["files"].keys() or not all(map(_is_ours, names)):
            raise ValueError(", ".join(wrong) or "files")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{path}: damaged ({error!r}); build the index again") from error
    return about


def _checked(folder: Path, file: Mapping[str, str]) -> Path:
    """The path of a file that is as it was written."""
    path = folder / file["name"]
    if not path.is_file() or _digest(path) != file.get("sha256"):
        what = "has changed since it was written" if path.is_file() else "is missing"
        raise IntegrityError(f"{path}: {what}; build the index again")
    return path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _locked(folder: Path, kind: int) -> Iterator[None]:
    """Keep another process from replacing the files that are read, or from removing those that are written."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Where the file system knows no locks, two that write at once may spoil the index; a checksum will tell.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _one_line(path: Path, what: str) -> Iterator[None]:
    """Say in one line what the file system refuses."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{path}: cannot be {what} ({error.strerror or error}); give another path") from error
