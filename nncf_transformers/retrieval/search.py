"""Answer questions from a collection of texts: find the nearest passages, then read the answer in them."""

import hashlib
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs

from nncf_transformers import embedding, reading
from nncf_transformers.errors import IntegrityError, UsageError
from nncf_transformers.reading import Answer, Reader
from nncf_transformers.retrieval.documents import Document, split
from nncf_transformers.retrieval.index import INDEX_FILE, Passage, PassageIndex, fingerprint_file
from nncf_transformers.runtimes import Runtime

logger = logging.getLogger(__name__)

# A passage of so many tokens is about a paragraph, and fits the reader's window beside any question.
PASSAGE_TOKENS = 192
# Of these, so many belong to the passage before, too, where a sentence had to be cut.
OVERLAP_TOKENS = 32
# Changes when the same settings split a text in another way.
_SPLITTING = 1
_REBUILD = "--rebuild builds it anew in its place"


class Embedder:
    """Makes vectors of texts.

    Args:
        runtime: an embedding model.
        tokenizer: of the model, a fast one.
        limit: tokens of a text, special ones included; longer ones are cut. None for any.
        fingerprint: of the model, which an index keeps, so that vectors of two models never meet.
    """

    def __init__(self, runtime: Runtime, tokenizer: object, limit: int | None, fingerprint: str) -> None:
        self.tokenizer, self.limit, self.fingerprint = tokenizer, limit, fingerprint
        self._runtime = runtime

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts: float32, shape (texts, size)."""
        # Where no length is too long, that of a passage bounds the cost of a question as long as a book.
        limit = PASSAGE_TOKENS + 2 if self.limit is None else self.limit
        return embedding.embed(self._runtime, self.tokenizer, texts, limit)


@dataclass(frozen=True)
class Opened:
    """An index, and how it came to be.

    Attributes:
        index: ready to be searched.
        embedded: number of passages that were embedded now; 0 where all came from the disk.
        removed: number of files that are no longer there.
    """

    index: PassageIndex
    embedded: int
    removed: int


@dataclass(frozen=True)
class Hit:
    """A passage that was found.

    Attributes:
        passage: the passage.
        distance: L2 distance of its vector from that of the question.
    """

    passage: Passage
    distance: float


@dataclass(frozen=True)
class Found:
    """What a search has found.

    Attributes:
        answers: the best first; empty without a reader.
        hits: the passages that were read, the nearest first.
        milliseconds: how long each part took: embed, search and, with a reader, read.
    """

    answers: list[Answer]
    hits: list[Hit]
    milliseconds: dict[str, float]

    def distance(self, answer: Answer) -> float:
        """How far from the question the passage of an answer is."""
        return next(hit.distance for hit in self.hits if hit.passage == answer.passage)


class Searcher:
    """Answers questions from an index.

    Args:
        index: of passages that ``embedder`` has embedded.
        embedder: the model that embeds the questions.
        reader: the model that reads the answers; None: passages are all that is wanted.
    """

    def __init__(self, index: PassageIndex, embedder: Embedder, reader: Reader | None = None) -> None:
        self.index, self._embedder, self._reader = index, embedder, reader

    def ask(self, question: str, top: int = 5, best_n: int = 1) -> Found:
        """Answer a question.

        Args:
            question: any text; one without a letter or a digit finds nothing.
            top: number of passages to find and read.
            best_n: number of answers at most.

        Raises:
            UsageError: the question is empty.
        """
        question = reading.checked_question(question)
        if not reading.has_words(question):
            return Found([], [], {})
        clock = [time.perf_counter()]
        vectors = self._embedder.embed([question])
        clock.append(time.perf_counter())
        distances, ids = self.index.search(vectors, top)
        hits = [Hit(self.index.passages[i], float(distance)) for i, distance in zip(ids[0], distances[0], strict=True)]
        clock.append(time.perf_counter())
        answers: list[Answer] = []
        if self._reader is not None:
            # The triplet loss is that of a logistic regression on differences of distances, so this is how likely each
            # passage is to be the right one, among these.
            weights = np.exp(distances[0].min() - distances[0])
            passages = [hit.passage for hit in hits]
            answers = self._reader.answer(question, passages, best_n, (weights / weights.sum()).tolist())
            clock.append(time.perf_counter())
        spent = (1e3 * np.diff(clock)).tolist()
        return Found(answers, hits, dict(zip(("embed", "search", "read"), spent, strict=False)))


def load_embedder(folder: str | os.PathLike[str]) -> Embedder:
    """Load an exported embedding model.

    Args:
        folder: an IR with configuration and tokenizer beside it.

    Raises:
        UsageError: no such model, or one of another kind.
        IntegrityError: a damaged file.
    """
    runtime, tokenizer, limit = reading.open_ir(folder, reading.EMBEDDING)
    return Embedder(runtime, tokenizer, limit, fingerprint_file(Path(folder) / reading.XML))


def open_index(
    documents: Sequence[Document],
    embedder: Embedder,
    folder: str | os.PathLike[str],
    *,
    passage_tokens: int = PASSAGE_TOKENS,
    rebuild: bool = False,
) -> Opened:
    """Read the index of some texts from the disk, or make it, and keep it there.

    Only texts that are not in the index yet are embedded; passages of texts that are gone are dropped.

    Args:
        documents: the texts to be searched.
        embedder: the model that makes the vectors.
        folder: where the index is kept; made if missing.
        passage_tokens: the longest passage, without special tokens.
        rebuild: embed everything, whatever is in the folder.

    Raises:
        UsageError: nothing to search, passages longer than the model takes, an index by another model, or a folder
            that holds something else.
        IntegrityError: the index is damaged.
    """
    specials = embedder.tokenizer.num_special_tokens_to_add()  # type: ignore[attr-defined]
    if passage_tokens < 1 or (embedder.limit is not None and passage_tokens + specials > embedder.limit):
        most = "" if embedder.limit is None else f" to {embedder.limit - specials}"
        raise UsageError(f"passage_tokens {passage_tokens}: this embedding model takes passages of 1{most} tokens")
    overlap = min(OVERLAP_TOKENS, passage_tokens // 4)
    settings = {"splitting": _SPLITTING, "passage_tokens": passage_tokens, "overlap_tokens": overlap}
    sources = {document.name: document.digest for document in documents}
    old = None if rebuild else _load(folder, embedder.fingerprint)
    if old is not None and old.settings != settings:
        old = None
    if old is not None and old.sources == sources:
        return Opened(old, 0, 0)
    known = _known(old) if old is not None else {}
    passages: list[Passage] = []
    # For each passage the row of the old index that has its vector, or -1.
    rows: list[int] = []
    for document in documents:
        if document.digest in known:
            for row, passage in known[document.digest]:
                passages.append(Passage(document.name, passage.start, passage.text))
                rows.append(row)
        else:
            new = split(document, embedder.tokenizer, passage_tokens, overlap)
            passages += new
            rows += [-1] * len(new)
    vectors = _vectors(old, rows, passages, embedder)
    index = PassageIndex.build(vectors, passages, model=embedder.fingerprint, sources=sources, settings=settings)
    index.save(folder)
    removed = len(old.sources.keys() - sources.keys()) if old is not None else 0
    return Opened(index, rows.count(-1), removed)


def default_folder(inputs: Sequence[str | os.PathLike[str]], embedder: Embedder) -> Path:
    """Where the index of some files and folders is kept unless one says: in the user's cache, by paths and model."""
    paths = sorted(os.path.abspath(path) for path in inputs)
    name = hashlib.sha256("\0".join([embedder.fingerprint, *paths]).encode(errors="surrogateescape")).hexdigest()
    return Path(platformdirs.user_cache_dir("nncf-transformers-overlay", appauthor=False)) / "indexes" / name[:16]


def _load(folder: str | os.PathLike[str], model: str) -> PassageIndex | None:
    """The index in a folder, if there is one."""
    if not (Path(folder) / INDEX_FILE).is_file():
        return None
    try:
        return PassageIndex.load(folder, model=model)
    except (UsageError, IntegrityError) as error:
        raise type(error)(f"{error}; {_REBUILD}") from error


def _known(index: PassageIndex) -> dict[str, list[tuple[int, Passage]]]:
    """By a text's digest, its passages and their rows; of equal texts the first."""
    by_source: dict[str, list[tuple[int, Passage]]] = {}
    for row, passage in enumerate(index.passages):
        by_source.setdefault(passage.source, []).append((row, passage))
    known: dict[str, list[tuple[int, Passage]]] = {}
    for source, digest in index.sources.items():
        known.setdefault(digest, by_source.get(source, []))
    return known


def _vectors(
    old: PassageIndex | None, rows: Sequence[int], passages: Sequence[Passage], embedder: Embedder
) -> np.ndarray:
    """The vectors of all passages: from the old index where it has them, embedded now where not."""
    new = [passage.text for passage, row in zip(passages, rows, strict=True) if row < 0]
    if new:
        logger.info("embedding %d passages", len(new))
        embedded = embedder.embed(new)
    if old is None:
        return embedded if new else np.empty((0, 0), np.float32)
    vectors = old.vectors[np.maximum(rows, 0)]
    if new:
        vectors[np.less(rows, 0)] = embedded
    return vectors
