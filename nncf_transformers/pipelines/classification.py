"""Classes of texts, and of the tokens in a text."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nncf_transformers.deployment import Deployed, whole_number
from nncf_transformers.encoding import Encoder
from nncf_transformers.errors import UsageError

logger = logging.getLogger(__name__)

# The length of a row where neither the model nor the user knows a limit.
USUAL_LENGTH = 512
Text = str | tuple[str, str]


class TextClassification:
    """Says which class a text, or a pair of texts, belongs to.

    A score is the softmax over all classes. Where a model has one class, or a text may have several
    (``problem_type`` in its configuration), it is the sigmoid, and for a regression the value itself.

    Args:
        deployed: a sequence-classification model.
        sequence_length: tokens of a row; what is longer is cut, with a warning. None for what was recorded at the
            export, or else all that the model takes.
        batch_size: texts a call at most.
    """

    def __init__(self, deployed: Deployed, *, sequence_length: int | None = None, batch_size: int = 16) -> None:
        self.sequence_length = deployed.sequence_length(sequence_length, deployed.limit or USUAL_LENGTH)
        self._deployed, self._batch_size = deployed, whole_number("batch_size", batch_size)
        self._encoder = Encoder(deployed.tokenizer, self.sequence_length, places=False)

    def __call__(self, text: Any, text_pair: Any = None, **how: int | None) -> Any:
        """Classify a text, or many.

        Args:
            text: a text, a mapping with ``text`` and ``text_pair``, or a list of one of these.
            text_pair: what belongs to ``text``, a text or a list.
            **how: ``top_k``: classes of each text, None for all; without it, the best one.

        Returns:
            ``{"label", "score"}`` for a mapping, and that in a list for a text, as Transformers does; with ``top_k``
            a list of these, the best first. For a list, a list: of ``{"label", "score"}``, or, with ``top_k``, of
            lists.

        Raises:
            UsageError: a text is empty, or is none.
        """
        if unknown := how.keys() - {"top_k"}:
            raise UsageError(f"{min(unknown)}: is no argument of a text classification; there is top_k")
        check_top_k(how.get("top_k"))
        texts, many = as_list(text)
        if text_pair is not None:
            pairs, _ = as_list(text_pair)
            if len(pairs) != len(texts):
                raise UsageError(f"{len(texts)} texts and {len(pairs)} of text_pair: give one for each")
            texts = [{"text": one, "text_pair": other} for one, other in zip(texts, pairs, strict=True)]
        rows = [as_text(one, f" {number}" if many else "") for number, one in enumerate(texts, 1)]
        results = [self._result(logits, how) for logits in self._logits(rows)]
        if many:
            return results
        return [results[0]] if isinstance(text, str) and "top_k" not in how else results[0]

    def _logits(self, texts: Sequence[Text]) -> list[np.ndarray]:
        encodings = first_rows(self._encoder(texts), self.sequence_length)
        found: dict[int, np.ndarray] = {}
        for rows, (logits, *_) in self._encoder.run(self._deployed.runtime, encodings, self._batch_size):
            if logits.ndim != 2:
                raise UsageError(f"{self._deployed.place}: classifies tokens, not texts; name another model or task")
            found.update(zip(rows, logits, strict=True))
        return [found[row] for row in range(len(texts))]

    def _result(self, logits: np.ndarray, how: Mapping[str, int | None]) -> Any:
        problem = self._deployed.config.get("problem_type")
        # A few numbers: after a model has filled the caches, each NumPy function costs more than all of this.
        values: list[float] = logits.tolist()
        if problem != "regression":
            one = len(values) == 1 or problem == "multi_label_classification"
            values = [_sigmoid(value) for value in values] if one else _softmax(values)
        order = sorted(range(len(values)), key=lambda i: -values[i])[: how.get("top_k", 1)]
        names = self._deployed.config.get("id2label") or {}
        labels = [{"label": names.get(str(i), f"LABEL_{i}"), "score": values[i]} for i in order]
        return labels if "top_k" in how else labels[0]


class TokenClassification:
    """Says which class each token of a text belongs to; tokens of the class ``O`` are left out.

    Args:
        deployed: a token-classification model.
        sequence_length: as in :class:`TextClassification`.
        batch_size: texts a call at most.
        ignore_labels: classes to leave out.
    """

    def __init__(
        self,
        deployed: Deployed,
        *,
        sequence_length: int | None = None,
        batch_size: int = 16,
        ignore_labels: Sequence[str] = ("O",),
    ) -> None:
        self.sequence_length = deployed.sequence_length(sequence_length, deployed.limit or USUAL_LENGTH)
        self._deployed, self._batch_size = deployed, whole_number("batch_size", batch_size)
        labels, many = as_list(ignore_labels)
        if not many:
            raise UsageError(f"ignore_labels {ignore_labels!r}: must be a list of labels; () leaves none out")
        self._ignored = tuple(labels)
        self._encoder = Encoder(deployed.tokenizer, self.sequence_length)

    def __call__(self, text: str | Sequence[str]) -> Any:
        """Classify the tokens of a text, or of many.

        Returns:
            A list of ``{"entity", "score", "index", "word", "start", "end"}``, ``index`` counting tokens from the
            first special one, start and end characters; for a list of texts, a list of these.

        Raises:
            UsageError: a text is empty, or is none.
        """
        given, many = as_list(text)
        texts = [as_text(one, f" {number}" if many else "") for number, one in enumerate(given, 1)]
        encodings = first_rows(self._encoder(texts), self.sequence_length)
        found: list[Any] = [None] * len(texts)
        for rows, (logits, *_) in self._encoder.run(self._deployed.runtime, encodings, self._batch_size):
            for row, values in zip(rows, logits, strict=True):
                found[row] = self._entities(encodings[row], softmax(values.astype(np.float64)))
        return found if many else found[0]

    def _entities(self, encoding: Any, scores: np.ndarray) -> list[dict[str, Any]]:
        names = self._deployed.config.get("id2label") or {}
        found = []
        for index, special in enumerate(encoding.special_tokens_mask):
            best = int(scores[index].argmax())
            label = names.get(str(best), f"LABEL_{best}")
            if not special and label not in self._ignored:
                start, end = encoding.offsets[index]
                found.append(
                    {
                        "entity": label,
                        "score": float(scores[index, best]),
                        "index": index,
                        "word": encoding.tokens[index],
                        "start": start,
                        "end": end,
                    }
                )
        return found


def softmax(values: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    powers = np.exp(values - values.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def _softmax(values: Sequence[float]) -> list[float]:
    largest = max(values)
    powers = [math.exp(value - largest) for value in values]
    total = sum(powers)
    return [power / total for power in powers]


def _sigmoid(value: float) -> float:
    # The power of a positive number may be too large.
    power = math.exp(-abs(value))
    return (1 if value > 0 else power) / (1 + power)


def check_top_k(top_k: int | None) -> int | None:
    """Refuse a number of results that is none; None stands for all."""
    return None if top_k is None else whole_number("top_k", top_k)


def first_rows(rows: Sequence[Sequence[Any]], length: int) -> list[Any]:
    """The first row of each text; a warning says how many texts are longer."""
    cut = sum(len(of_text) > 1 for of_text in rows)
    if cut:
        logger.warning("%d of %d texts have more than %d tokens and were cut (sequence_length)", cut, len(rows), length)
    return [of_text[0] for of_text in rows]


def as_list(given: Any) -> tuple[list[Any], bool]:
    """What a user gave as a list, and whether it was one; whatever is none is an item, to be checked as such."""
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        return [given], False
    return list(given), True


def as_text(item: Any, number: str) -> Text:
    """A text, or a pair, from what a user gave.

    Raises:
        UsageError: it is empty, or no text.
    """
    if isinstance(item, str) and item.strip():
        return item
    first, pair = (
        (item["text"], item.get("text_pair")) if isinstance(item, Mapping) and "text" in item else (item, None)
    )
    texts = (first,) if pair is None else (first, pair)
    for text in texts:
        if text is None:
            raise UsageError(f"text{number}: is missing; give a text")
        if not isinstance(text, str):
            raise UsageError(f"text{number}: is a {type(text).__name__}; give a text, or a text and a text_pair")
        if not text.strip():
            raise UsageError(f"text{number}: is empty; give a text")
    return texts[0] if len(texts) == 1 else (texts[0], texts[1])
