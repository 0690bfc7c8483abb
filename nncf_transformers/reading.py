"""Read the answer to a question in texts, with an exported question-answering model.

A text longer than the model's window is read through windows that overlap. The score of an answer is the product of
two probabilities, that it starts where it starts and that it ends where it ends, each a softmax over the positions of
its window (inventory 3.2, "Evaluation").
"""

import json
import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nncf_transformers.errors import IntegrityError, UsageError
from nncf_transformers.evaluation import cut_questions, in_batches
from nncf_transformers.export.openvino import XML
from nncf_transformers.retrieval.index import Passage
from nncf_transformers.runtimes import Runtime, openvino_runtime

logger = logging.getLogger(__name__)

ANSWERS = ("start_logits", "end_logits")
EMBEDDING = ("embedding",)
_KINDS = {ANSWERS: "a question-answering model", EMBEDDING: "an embedding model"}
# One of them is in every folder that a tokenizer was saved to. Without, some libraries make up an empty tokenizer.
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model", "spm.model")
# They count positions from the padding token's number + 1.
_SHIFTED_POSITIONS = ("roberta", "xlm-roberta", "camembert")


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
        batch_size: windows a call.

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
    ) -> None:
        room = max_seq_length - max_question_tokens - tokenizer.num_special_tokens_to_add(pair=True)
        if min(max_question_tokens, max_answer_tokens, batch_size) < 1 or doc_stride < 0:
            raise UsageError("max_question_tokens, max_answer_tokens and batch_size count from 1, doc_stride from 0")
        if doc_stride >= room:
            raise UsageError(
                f"max_seq_length {max_seq_length} leaves {max(room, 0)} tokens for the text beside a question of "
                f"max_question_tokens {max_question_tokens}, too few for windows that overlap by doc_stride "
                f"{doc_stride}; make the first larger, or the others smaller"
            )
        self._runtime, self._tokenizer = runtime, tokenizer
        self._max_seq_length, self._doc_stride, self._batch_size = max_seq_length, doc_stride, batch_size
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
        question = self._cut(checked_question(question))
        if not has_words(question) or not passages:
            return []
        windows = self._tokenizer(
            [question] * len(passages),
            [passage.text for passage in passages],
            truncation="only_second",
            max_length=self._max_seq_length,
            stride=self._doc_stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        owners, found = windows["overflow_to_sample_mapping"], []
        for rows, logits in in_batches(self._runtime, self._tokenizer, windows, self._batch_size):
            inside, context = _positions(windows, rows, logits[0].shape[1])
            spans = best_spans(logits, inside, context, self._max_answer_tokens, best_n)
            for row, *columns in zip(rows, *spans, strict=True):
                offsets = windows["offset_mapping"][row]
                for first, last, score in zip(*columns, strict=True):
                    if score > 0:
                        score *= 1.0 if weights is None else weights[owners[row]]
                        passage, (start, _), (_, end) = passages[owners[row]], offsets[first], offsets[last]
                        found.append(Answer(passage.text[start:end], float(score), passage, start, end))
        return _distinct(found, best_n)

    def _cut(self, question: str) -> str:
        most = self._max_question_tokens
        (cut,) = cut_questions(self._tokenizer, [question], most)
        if cut != question:
            count = len(self._tokenizer.tokenize(question))
            logger.warning("the question has %d tokens; only the first %d are used (max_question_tokens)", count, most)
        return cut


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
    start, end = (np.where(context, _softmax(x, inside), 0) for x in logits[:2])
    windows, positions = start.shape
    # scores[w, i, d] is that of the span from token i to token i + d.
    ends = np.lib.stride_tricks.sliding_window_view(np.pad(end, ((0, 0), (0, max_tokens - 1))), max_tokens, axis=1)
    scores = start[:, :, None] * ends
    firsts = np.arange(positions)[:, None]
    lasts = firsts + np.arange(max_tokens)
    found = []
    for _ in range(count):
        flat = scores.reshape(windows, -1)
        best = flat.argmax(axis=1)
        first, length = np.divmod(best, max_tokens)
        found.append((first, first + length, flat[np.arange(windows), best]))
        scores[(firsts <= found[-1][1][:, None, None]) & (lasts >= first[:, None, None])] = 0
    first, last, score = (np.stack(columns, axis=1) for columns in zip(*found, strict=True))
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


def load_reader(folder: str | os.PathLike[str], **settings: int) -> Reader:
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
    import openvino

    root = Path(folder)
    if not (root / XML).is_file():
        what = f"holds no {XML}" if root.is_dir() else "no such folder"
        raise UsageError(f"{folder}: {what}; name a folder that --to-openvino wrote")
    config = _read_config(root / "config.json")
    runtime = openvino_runtime(root / XML)
    names = tuple(output.any_name for output in openvino.Core().read_model(root / XML).outputs)
    if names != outputs:
        kind = _KINDS.get(names, f"a model with the outputs {', '.join(names)}")
        raise UsageError(f"{folder}: is {kind}; {_KINDS[outputs]} is needed here")
    return runtime, _load_tokenizer(root), _position_limit(config)


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise UsageError(f"{folder}: has no tokenizer; copy {_TOKENIZER_FILES[0]} of the trained model into it")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    # The Rust library has no exception types of its own.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise IntegrityError(f"{folder}: its tokenizer cannot be loaded ({reason}); export the model again") from error
    if not tokenizer.is_fast:
        raise UsageError(f"{folder}: its tokenizer has no fast version, which alone knows where its tokens are")
    return tokenizer


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file; name a folder that --to-openvino wrote") from error
    except ValueError as error:
        raise IntegrityError(f"{path}: not valid JSON ({error}); export the model again") from error
    if not isinstance(config, dict):
        raise IntegrityError(f"{path}: not a JSON object; export the model again")
    return config


def _position_limit(config: dict[str, Any]) -> int | None:
    """Length of the longest sequence that a model with this configuration takes; None for any."""
    limit: int | None = config.get("max_position_embeddings")
    if limit is None or (config.get("relative_attention") and not config.get("position_biased_input", True)):
        return None
    return limit - config.get("pad_token_id", 1) - 1 if config.get("model_type") in _SHIFTED_POSITIONS else limit


def _positions(windows: Any, rows: Iterable[int], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Which positions of some windows are no padding, and which are the text's: bool, both (windows, width)."""
    encodings = [windows.encodings[row] for row in rows]
    inside, context = np.zeros((2, len(encodings), width), bool)
    for i, encoding in enumerate(encodings):
        length = len(encoding.ids)
        inside[i, :length] = True
        offsets = np.array(encoding.offsets)
        # A token without characters, such as an added separator, is nothing that one could point at.
        context[i, :length] = np.equal(encoding.sequence_ids, 1) & (offsets[:, 0] < offsets[:, 1])
    return inside, context


def _softmax(logits: np.ndarray, inside: np.ndarray) -> np.ndarray:
    logits = np.where(inside, logits, -np.inf).astype(np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


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
