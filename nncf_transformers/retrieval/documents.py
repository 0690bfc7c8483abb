"""Read text files, and split them into passages that an embedding model takes whole."""

import hashlib
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import numpy as np

from nncf_transformers.errors import UsageError
from nncf_transformers.reading import one_line
from nncf_transformers.retrieval.index import Passage

logger = logging.getLogger(__name__)

# Stands for standard input among the names of files, and how such a text is called afterwards.
STDIN, STDIN_NAME = "-", "<stdin>"
# Enough to tell a binary file from a text without reading all of it.
_HEAD = 8192
# A warning names so many skipped files.
_NAMED = 3
# Where a text may be cut, the best place first: between paragraphs, sentences, lines.
_CUTS = (
    re.compile(r"\n\s*\n"),
    re.compile(r"""(?<=[.!?…])["'”’)\]]*\s+|(?<=[。！？])[”」』）]*"""),
    re.compile(r"\n"),
)
_BLOCKS = re.compile(
    "address|article|aside|blockquote|d[dlt]|div|figcaption|figure|footer|form|h[1-6]|header|hr|li|main|nav|[ou]l|p|pre"
    "|section|table|title|tr"
)
_UNSEEN = frozenset({"script", "style", "template", "noscript"})


@dataclass(frozen=True)
class Document:
    """A text.

    Attributes:
        name: path of the file, or ``<stdin>``.
        text: its content; of an HTML file, what a reader sees.
        digest: SHA-256 of the text, hexadecimal.
    """

    name: str
    text: str
    digest: str


def read_documents(paths: Sequence[str | os.PathLike[str]]) -> list[Document]:
    """Read text files as UTF-8.

    Args:
        paths: files, folders, or ``-`` for standard input. Of a folder, all files in it and below, in the order of
            their names; hidden ones are left out, those that are no text are skipped with a warning, and folders that
            are links are not entered. A file that is named twice is read once.

    Raises:
        UsageError: nothing to read, or a file that was named is missing, empty or no text.
    """
    found: dict[str, Document] = {}
    for path in map(str, paths):
        if path == STDIN:
            if sys.stdin is None:
                raise UsageError("standard input is closed; name a file")
            new = [_parse(STDIN_NAME, sys.stdin.buffer.read())]
        elif os.path.isdir(path):
            new = _read_folder(path)
        else:
            new = [_read_file(path)]
        found.update((document.name, document) for document in new)
    return list(found.values())


def split(document: Document, tokenizer: Any, max_tokens: int, overlap: int) -> list[Passage]:
    """Split a text into passages of at most ``max_tokens`` tokens.

    Cut is between paragraphs; inside one that is too long, between sentences; inside a sentence that is too long,
    between words, and then passages overlap. Neighbours that fit together become one passage.

    Args:
        document: where the passages come from.
        tokenizer: a fast tokenizer; it counts without special tokens.
        max_tokens: length of a passage.
        overlap: tokens that two parts of a sentence share, fewer than ``max_tokens``.
    """
    ruler = _Ruler(document.text, tokenizer)
    spans: list[tuple[int, int]] = []
    for start, end in _pieces(ruler, 0, len(document.text), max_tokens, overlap, 0):
        if spans and start >= spans[-1][1] and ruler.tokens(spans[-1][0], end) <= max_tokens:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    passages = []
    for start, end in spans:
        text = document.text[start:end]
        if ruler.tokens(start, end) and text.strip():
            passages.append(Passage(document.name, start + len(text) - len(text.lstrip()), text.strip()))
    return passages


class _Ruler:
    """Counts the tokens between two characters of a text."""

    def __init__(self, text: str, tokenizer: Any) -> None:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        self.text = text
        self.starts, self.ends = np.array(encoded["offset_mapping"], np.int64).reshape(-1, 2).T
        words = np.array([-1 if word is None else word for word in encoded.word_ids(0)], np.int64)
        # Tokens with which a word begins.
        self.words = np.flatnonzero(np.diff(words, prepend=-2))

    def tokens(self, start: int, end: int) -> int:
        first, last = np.searchsorted(self.starts, (start, end))
        return int(last - first)

    def word_before(self, token: int, least: int) -> int:
        """The last token not behind ``token`` with which a word begins, or ``token`` if that is before ``least``."""
        place = int(np.searchsorted(self.words, token, side="right")) - 1
        return int(self.words[place]) if place >= 0 and self.words[place] >= least else token


def _pieces(
    ruler: _Ruler, start: int, end: int, max_tokens: int, overlap: int, level: int
) -> Iterator[tuple[int, int]]:
    """Cut until every piece, from a first character to the one behind its last, has at most ``max_tokens``."""
    if ruler.tokens(start, end) <= max_tokens:
        yield start, end
        return
    if level == len(_CUTS):
        yield from _windows(ruler, start, end, max_tokens, overlap)
        return
    cuts = [match.end() for match in _CUTS[level].finditer(ruler.text, start, end)]
    for left, right in pairwise([start, *cuts, end]):
        if left < right:
            yield from _pieces(ruler, left, right, max_tokens, overlap, level + 1)


def _windows(ruler: _Ruler, start: int, end: int, max_tokens: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Pieces that overlap, of whole words where words are not longer than a piece."""
    token, stop = map(int, np.searchsorted(ruler.starts, (start, end)))
    while stop - token > max_tokens:
        behind = ruler.word_before(token + max_tokens, token + overlap + 1)
        yield int(ruler.starts[token]), int(ruler.ends[behind - 1])
        token = ruler.word_before(behind - overlap, token + 1)
    yield int(ruler.starts[token]), end


def _read_folder(folder: str) -> list[Document]:
    documents, skipped = [], []
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in files if not name.startswith(".")):
            path = os.path.join(root, name)
            # What is neither file nor folder, such as a pipe, would wait for a writer forever.
            if os.path.exists(path) and not os.path.isfile(path):
                continue
            try:
                documents.append(_read_file(path))
            except UsageError:
                skipped.append(os.path.relpath(path, folder))
    if skipped:
        names = one_line(", ".join(skipped[:_NAMED])) + (", ..." if len(skipped) > _NAMED else "")
        logger.warning("%s: skipped files that are empty or no text in UTF-8: %d (%s)", folder, len(skipped), names)
    if not documents:
        raise UsageError(f"{folder}: no text files in this folder; name another")
    return documents


def _read_file(path: str) -> Document:
    try:
        with open(path, "rb") as stream:
            data = stream.read(_HEAD)
            if b"\0" not in data:
                data += stream.read()
    except OSError as error:
        raise UsageError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    # A name that is not UTF-8 could not be printed.
    return _parse(os.fsencode(path).decode(errors="replace"), data)


def _parse(name: str, data: bytes) -> Document:
    if b"\0" in data:
        raise UsageError(f"{name}: is a binary file, not a text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: is not a text in UTF-8 (byte {error.start})") from error
    if name.lower().endswith((".html", ".htm", ".xhtml")):
        text = _text_of_html(text)
    if not text.strip():
        raise UsageError(f"{name}: is empty")
    return Document(name, text, hashlib.sha256(text.encode()).hexdigest())


class _VisibleText(HTMLParser):
    """Collects what a reader of a page sees, a blank line between blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._unseen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _UNSEEN:
            self._unseen.append(tag)
        elif _BLOCKS.fullmatch(tag):
            self.parts.append("\n\n")
        elif tag in ("br", "td", "th"):
            self.parts.append("\n" if tag == "br" else " ")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._unseen:
            del self._unseen[self._unseen.index(tag) :]
        elif _BLOCKS.fullmatch(tag):
            self.parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            # A line's end in the source is a space on the page.
            self.parts.append(re.sub(r"\s+", " ", data))


def _text_of_html(source: str) -> str:
    parser = _VisibleText()
    parser.feed(source)
    parser.close()
    lines = (" ".join(line.split()) for line in "".join(parser.parts).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
