"""Read the answer to a question in texts, with an exported question-answering model.

A text longer than the model's window is read through windows that overlap. The score of an answer is the product of
two probabilities, that it starts where it starts and that it ends where it ends, each a softmax over the positions of
its window (inventory 3.2, "Evaluation").
"""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nncf_transformers.deployment import QUESTION_ANSWERING, load_tokenizer, position_limit, read_config
from nncf_transformers.encoding import Encoder
from nncf_transformers.errors import UsageError
from nncf_transformers.export.openvino import XML
from nncf_transformers.retrieval.index import Passage
from nncf_transformers.runtimes import Runtime, openvino_runtime

logger = logging.getLogger(__name__)

ANSWERS = QUESTION_ANSWERING.outputs
EMBEDDING = ("embedding",)
_KINDS = {ANSWERS: "a question-answering model", EMBEDDING: "an embedding model"}


@dataclass(frozen=True)
class Answer:
    """A span of a passage.

    Attributes:
        text: what was found.
        score: probability that it starts and ends there, 0 to 1.
        passage: where it was found.
        start: its first character in ``passage.text``.
        end: the character behind its last one.
    """

    text: str
    score: float
    passage: Passage
    start: int
    end: int

    def excerpt(self, around: int = 240) -> tuple[str, str, str]:
        """What stands before the answer, the answer, and what stands behind it, on one line and printable.

        Args:
            around: characters to show on either side.
        """
        text, first, last = self.passage.text, max(0, self.start - around), self.end + around
        before, answer, after = map(
            one_line, (text[first : self.start], text[self.start : self.end], text[self.end : last])
        )
        # Not half a word, unless the script has no spaces.
        if first > 0:
            before = f"…{before[max(before.find(' '), 0) :]}"
        if last < len(text):
            after = f"{after[: after.rfind(' ') + 1] or after}…"
        return before, answer, after


class Reader:
    """Answers questions from passages.

    Args:
        runtime: a question-answering model: start and end logits, each (batch, sequence).
        tokenizer: of the model, a fast one.
        max_seq_length: tokens of a window, question and special tokens included.
        doc_stride: overlap of two windows, in tokens.
        max_question_tokens: a longer question is cut, with a warning.
        max_answer_tokens: an answer has at most that many.
        batch_size: windows a call at most.
        names: what the caller calls these settings, for messages.
        text_only: a score is a probability among the tokens of the text and the first token, which stands for "no
            answer" in a model that was trained so (inventory 5.9); not among all of the window.

    Raises:
        UsageError: a window does not hold question and overlap.
    """

    def __init__(
        self,
        runtime: Runtime,
        tokenizer: Any,
        *,
        max_seq_length: int = 384,
        doc_stride: int = 128,
        max_question_tokens: int = 64,
        max_answer_tokens: int = 30,
        batch_size: int = 16,
        text_only: bool = False,
        names: Mapping[str, str] | None = None,
    ) -> None:
        window, asked = (dict(names or {}).get(name, name) for name in ("max_seq_length", "max_question_tokens"))
        room = max_seq_length - max_question_tokens - tokenizer.num_special_tokens_to_add(pair=True)
        if min(max_question_tokens, max_answer_tokens, batch_size) < 1 or doc_stride < 0:
            raise UsageError("max_question_tokens, max_answer_tokens and batch_size count from 1, doc_stride from 0")
        if doc_stride >= room:
            raise UsageError(
                f"{window} {max_seq_length} leaves {max(room, 0)} tokens for the text beside a question of "
                f"{asked} {max_question_tokens}, too few for windows that overlap by doc_stride "
                f"{doc_stride}; make the first larger, or the others smaller"
            )
        self._runtime, self._batch_size, self._text_only, self._asked = runtime, batch_size, text_only, asked
        self._encoder = Encoder(tokenizer, max_seq_length, stride=doc_stride, only_second=True)
        self._max_question_tokens, self._max_answer_tokens = max_question_tokens, max_answer_tokens

    def answer(
        self, question: str, passages: Sequence[Passage], best_n: int = 1, weights: Sequence[float] | None = None
    ) -> list[Answer]:
        """Find the answers with the best scores that do not overlap.

        Args:
            question: any text; one without a letter or a digit asks for nothing and has no answers.
            passages: where to look, of any length.
            best_n: number of answers at most.
            weights: how likely it is, for each passage, that the answer is in it; scores are multiplied by that.

        Returns:
            The best first; fewer than ``best_n``, or none, where the passages hold no more.

        Raises:
            UsageError: the question is empty.
        """
        question = checked_question(question)
        found = self._find([(question, passage) for passage in passages], best_n)
        if weights is not None:
            found = [
                [replace(answer, score=answer.score * weight) for answer in answers]
                for answers, weight in zip(found, weights, strict=True)
            ]
        return _distinct([answer for answers in found for answer in answers], best_n)

    def answer_each(self, pairs: Sequence[tuple[str, Passage]], best_n: int = 1) -> list[list[Answer]]:
        """Answer many questions, each from a passage of its own.

        Args:
            pairs: a question and where to look for its answer.
            best_n: number of answers to a question at most.

        Returns:
            For each pair what :meth:`answer` returns for it alone.
        """
        pairs = [(checked_question(question), passage) for question, passage in pairs]
        return [_distinct(answers, best_n) for answers in self._find(pairs, best_n)]

    def _find(self, pairs: Sequence[tuple[str, Passage]], best_n: int) -> list[list[Answer]]:
        """The best spans of each window, by pair."""
        found: list[list[Answer]] = [[] for _ in pairs]
        asked = [i for i, (question, _) in enumerate(pairs) if has_words(question)]
        if not asked:
            return found
        questions = {question: self._cut(question) for question in dict.fromkeys(pairs[i][0] for i in asked)}
        windows = self._encoder([(questions[pairs[i][0]], pairs[i][1].text) for i in asked])
        owners = [i for i, rows in zip(asked, windows, strict=True) for _ in rows]
        encodings = [encoding for rows in windows for encoding in rows]
        for rows, logits in self._encoder.run(self._runtime, encodings, self._batch_size):
            places = [encodings[row].offsets for row in rows]
            inside, context = self._positions([encodings[row] for row in rows], places, logits[0].shape[1])
            spans = best_spans(logits, inside, context, self._max_answer_tokens, best_n)
            for row, offsets, *columns in zip(rows, places, *spans, strict=True):
                passage = pairs[owners[row]][1]
                for first, last, score in zip(*columns, strict=True):
                    if score > 0:
                        start, end = offsets[first][0], offsets[last][1]
                        found[owners[row]].append(Answer(passage.text[start:end], float(score), passage, start, end))
        return found

    def _positions(
        self, encodings: Sequence[Any], places: Sequence[Sequence[tuple[int, int]]], width: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which positions of some windows count for a score, and which may be in an answer: bool, (windows, width)."""
        inside, context = np.zeros((2, len(encodings), width), bool)
        for i, (encoding, offsets) in enumerate(zip(encodings, places, strict=True)):
            owners = encoding.sequence_ids
            tokens = owners.count(1)
            # The second text's tokens stand together.
            first = owners.index(1) if tokens else 0
            text = slice(first, first + tokens)
            inside[i, text if self._text_only else slice(len(owners))] = True
            # A token without characters, such as an added separator, is nothing that one could point at.
            context[i, text] = [start < end for start, end in offsets[text]]
        inside[:, 0] = True
        return inside, context

    def _cut(self, question: str) -> str:
        most = self._max_question_tokens
        # A character of ASCII becomes one token at most; some tokenizers put one in front.
        if question.isascii() and len(question) < most:
            return question
        offsets = self._encoder.plain(question).offsets
        if len(offsets) <= most:
            return question
        logger.warning("the question has %d tokens; only the first %d are used (%s)", len(offsets), most, self._asked)
        return question[: offsets[most - 1][1]]


def best_spans(
    logits: Sequence[np.ndarray], inside: np.ndarray, context: np.ndarray, max_tokens: int, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best spans of each window that do not overlap, found one after the other.

    Args:
        logits: of starts and of ends, both (windows, positions).
        inside: bool, the same shape: not padding.
        context: bool, the same shape: where a span may lie.
        max_tokens: length of a span at most.
        count: spans to find in each window.

    Returns:
        First tokens, last tokens and scores, each (windows, count). Where a window has no more spans, the score is 0.
    """
    # Few and plain steps: while a model runs, the processor forgets NumPy's code, and each function is slow at first.
    windows, positions = inside.shape
    chances = np.full((2, windows, positions + max_tokens - 1), -np.inf)
    own = chances[:, :, :positions]
    np.copyto(own, logits[:2], where=inside)
    own -= own.max(axis=2, keepdims=True)
    np.exp(chances, out=chances)
    own /= own.sum(axis=2, keepdims=True)
    own *= context
    # scores[w, i, d] is that of the span from token i to token i + d.
    row, token = chances.strides[1:]
    ends = np.ndarray((windows, positions, max_tokens), chances.dtype, chances[1], strides=(row, token, token))
    scores = own[0][:, :, None] * ends
    first, last, score = np.zeros((windows, count), int), np.zeros((windows, count), int), np.zeros((windows, count))
    flat, every = scores.reshape(windows, -1), np.arange(windows)
    for i in range(count):
        if i:
            firsts = np.arange(positions)[:, None]
            lasts = firsts + np.arange(max_tokens)
            taken = (firsts <= last[:, None, None, i - 1]) & (lasts >= first[:, None, None, i - 1])
            scores[taken] = 0
        best = flat.argmax(axis=1)
        first[:, i] = best // max_tokens
        last[:, i] = first[:, i] + best % max_tokens
        score[:, i] = flat[every, best]
    return first, last, score


def one_line(text: str) -> str:
    """A text without line breaks, and without characters that would steer a terminal."""
    return re.sub(r"\s+", " ", "".join(c if c.isprintable() else " " for c in text))


def checked_question(question: str) -> str:
    """The question without space around it; what is not Unicode, as a terminal may send it, becomes a question mark.

    Raises:
        UsageError: nothing is left.
    """
    question = question.encode(errors="replace").decode().strip()
    if not question:
        raise UsageError("the question is empty; ask something")
    return question


def has_words(question: str) -> bool:
    """Whether a question has a letter or a digit, of any script."""
    return any(character.isalnum() for character in question)


def load_reader(folder: str | os.PathLike[str], **settings: Any) -> Reader:
    """Load an exported question-answering model.

    Args:
        folder: an IR with configuration and tokenizer beside it.
        settings: those of :class:`Reader`.

    Raises:
        UsageError: no such model, one of another kind, or a window longer than it takes.
        IntegrityError: a damaged file.
    """
    runtime, tokenizer, limit = open_ir(folder, ANSWERS)
    length = settings.get("max_seq_length", 384)
    if limit is not None and length > limit:
        raise UsageError(
            f"{folder}: takes at most {limit} tokens, max_seq_length is {length}; lower it, and doc_stride with it"
        )
    return Reader(runtime, tokenizer, **settings)


def open_ir(folder: str | os.PathLike[str], outputs: tuple[str, ...]) -> tuple[Runtime, Any, int | None]:
    """Load an IR folder, as :func:`nncf_transformers.export_model` writes it.

    Args:
        folder: with the IR, ``config.json`` and the tokenizer's files.
        outputs: what the model must return, :data:`ANSWERS` or :data:`EMBEDDING`.

    Returns:
        The model, its tokenizer, and the number of tokens that it takes (None for any).

    Raises:
        UsageError: no such model, or one of another kind.
        IntegrityError: a damaged file.
    """
    root = Path(folder)
    if not (root / XML).is_file():
        what = f"holds no {XML}" if root.is_dir() else "no such folder"
        raise UsageError(f"{folder}: {what}; name a folder that --to-openvino wrote")
    config = read_config(root / "config.json")
    runtime = openvino_runtime(root / XML)
    if runtime.outputs != outputs:
        kind = _KINDS.get(runtime.outputs, f"a model with the outputs {', '.join(runtime.outputs)}")
        raise UsageError(f"{folder}: is {kind}; {_KINDS[outputs]} is needed here")
    return runtime, load_tokenizer(root), position_limit(config)


def _distinct(answers: list[Answer], count: int) -> list[Answer]:
    """The best ``count`` answers of which no two share a character."""
    chosen: list[Answer] = []
    for answer in sorted(answers, key=lambda answer: -answer.score):
        if len(chosen) == count:
            break
        same = (other for other in chosen if other.passage == answer.passage)
        if all(answer.end <= other.start or other.end <= answer.start for other in same):
            chosen.append(answer)
    return chosen
