"""Nearest vectors by L2 distance: all that can be the nearest (exact), or FAISS's choice of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nncf_transformers.errors import IntegrityError, UsageError

# Hierarchical navigable small worlds (Malkov and Yashunin, 2016): neighbours of a vector in the graph, and candidates
# kept while searching it. The graph's vectors have 8 bits a value, a quarter of the memory of the others, which decide.
_GRAPH, _KEPT = "HNSW32_SQ8", 256
# FAISS gives this many vectors for each that is wanted; their distances are computed again.
_MORE = 4
# Values held at once.
_BLOCK = 1 << 24


def squared_lengths(vectors: np.ndarray, whose: str) -> np.ndarray:
    """Squares of the lengths of vectors (rows, size), which must be finite.

    Raises:
        UsageError: a vector has a number in it that is none, or is as good as infinite.
    """
    lengths: np.ndarray = np.einsum("ij,ij->i", vectors, vectors)
    if not np.isfinite(lengths).all():
        raise UsageError(f"the vector of {whose} is not finite; the embedding model is damaged or has diverged")
    return lengths


def distances(query: np.ndarray, vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """L2 distances from one query (size,) to some rows of the vectors, float32, by their differences."""
    step = max(1, _BLOCK // len(query))
    parts = [vectors[rows[start : start + step]] - query for start in range(0, len(rows), step)]
    squares = [np.square(part, dtype=np.float64).sum(axis=1) for part in parts]
    return np.sqrt(np.concatenate(squares)).astype(np.float32)


def exact_candidates(
    queries: np.ndarray, lengths: np.ndarray, vectors: np.ndarray, vector_lengths: np.ndarray, k: int
) -> Iterator[np.ndarray]:
    """Find the rows whose distance may be one of the k smallest, considering how it is rounded.

    Args:
        queries: float32, shape (queries, size).
        lengths: their squared lengths.
        vectors: float32, shape (vectors, size).
        vector_lengths: their squared lengths.
        k: at most the number of vectors.

    Yields:
        Row numbers for each query: at least k, few more unless many are equally near.
    """
    # A float32 dot product of n numbers is off by at most n / 2**24 times both lengths (Higham, Accuracy and Stability
    # of Numerical Algorithms, 3.1); the sum of the three terms by as much of the largest squared distance.
    unit = (queries.shape[1] + 3) * 2.0**-24
    errors = unit * np.square(np.sqrt(lengths) + np.sqrt(vector_lengths.max()))
    step = max(1, _BLOCK // len(vectors))
    for start in range(0, len(queries), step):
        rough = queries[start : start + step] @ vectors.T
        rough *= -2
        rough += vector_lengths
        for row, error in zip(rough, errors[start:], strict=False):
            yield np.flatnonzero(row <= np.partition(row, k - 1)[k - 1] + 2 * error)


def build_graph(vectors: np.ndarray) -> Any:
    """A FAISS index of vectors, float32 (vectors, size)."""
    made = import_faiss().index_factory(vectors.shape[1], _GRAPH)
    made.train(vectors)
    made.add(vectors)
    return made


def graph_candidates(graph: Any, queries: np.ndarray, k: int) -> Iterator[np.ndarray]:
    """Find the rows that most likely include the k nearest; at least k for each query."""
    count = min(_MORE * k, graph.ntotal)
    parameters = import_faiss().SearchParametersHNSW(efSearch=max(_KEPT, count))
    for ids in graph.search(queries, count, params=parameters)[1]:
        found = ids[ids >= 0]
        # The part of the graph that can be reached may hold fewer than wanted.
        yield found if len(found) >= k else np.arange(graph.ntotal)


def write_graph(graph: Any, path: Path) -> None:
    """Write a FAISS index.

    Raises:
        OSError: as for any file.
    """
    try:
        import_faiss().write_index(graph, str(path))
    except RuntimeError as error:
        raise OSError(str(error)) from error


def read_graph(path: Path) -> Any:
    """Read what :func:`write_graph` wrote.

    Raises:
        IntegrityError: it is something else.
    """
    try:
        return import_faiss().read_index(str(path))
    except RuntimeError as error:
        raise IntegrityError(f"{path}: FAISS cannot read it; build the index again") from error


def import_faiss() -> Any:
    """FAISS, imported when it is needed.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise UsageError("faiss, which searches large sets of vectors, is not installed; run `make setup`") from error
    return faiss
