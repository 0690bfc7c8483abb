"""Words for the one that is masked in a text."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nncf_transformers.deployment import Deployed, whole_number
from nncf_transformers.encoding import Encoder
from nncf_transformers.errors import UsageError
from nncf_transformers.pipelines.classification import USUAL_LENGTH, as_list, as_text, check_top_k, softmax


class FillMask:
    """Proposes tokens for the masked one of a text.

    Args:
        deployed: a masked language model.
        sequence_length: tokens of a row; a text that is longer is refused, for its mask may be in the rest. None for
            what was recorded at the export, or else all that the model takes.
        batch_size: texts a call at most.
        top_k: tokens to propose.

    Raises:
        UsageError: the tokenizer has no mask.
    """

    def __init__(
        self, deployed: Deployed, *, sequence_length: int | None = None, batch_size: int = 16, top_k: int = 5
    ) -> None:
        self.sequence_length = deployed.sequence_length(sequence_length, deployed.limit or USUAL_LENGTH)
        self._tokenizer, self._deployed = deployed.tokenizer, deployed
        self._batch_size, self._top_k = whole_number("batch_size", batch_size), check_top_k(top_k)
        if self._tokenizer.mask_token_id is None:
            raise UsageError(f"{deployed.place}: its tokenizer has no mask token; name a masked language model")
        self._encoder = Encoder(self._tokenizer, self.sequence_length, places=False)

    def __call__(self, text: str | Sequence[str], *, top_k: int | None = None) -> Any:
        """Fill in the masked token of a text, or of many.

        Args:
            text: with one mask token (``tokenizer.mask_token``), or a list of such texts.
            top_k: tokens to propose; None for the pipeline's own number.

        Returns:
            A list of ``{"score", "token", "token_str", "sequence"}``, the best first, the score a probability among
            all tokens; for a list of texts, a list of these.

        Raises:
            UsageError: a text has no mask token, or several, or is too long.
        """
        count = check_top_k(top_k) or self._top_k
        given, many = as_list(text)
        texts = [as_text(one, f" {number}" if many else "") for number, one in enumerate(given, 1)]
        rows = self._encoder(texts) if texts else []
        places = [self._place(of_text, f" {number}" if many else "") for number, of_text in enumerate(rows, 1)]
        encodings = [of_text[0] for of_text in rows]
        found: list[Any] = [None] * len(texts)
        for numbers, (logits, *_) in self._encoder.run(self._deployed.runtime, encodings, self._batch_size):
            for i, row in enumerate(numbers):
                scores = softmax(logits[i, places[row]].astype(np.float64))
                found[row] = self._proposals(encodings[row].ids, places[row], scores, count)
        return found if many else found[0]

    def _place(self, rows: Sequence[Any], number: str) -> int:
        """The position of the mask."""
        if len(rows) > 1:
            raise UsageError(f"text{number}: is longer than {self.sequence_length} tokens; shorten it")
        places = [i for i, token in enumerate(rows[0].ids) if token == self._tokenizer.mask_token_id]
        if len(places) != 1:
            raise UsageError(
                f"text{number}: has {len(places) or 'no'} mask token{'s' * (len(places) > 1)}; put "
                f"{self._tokenizer.mask_token} where one token is to be found"
            )
        return places[0]

    def _proposals(self, ids: Sequence[int], place: int, scores: np.ndarray, count: int | None) -> list[dict[str, Any]]:
        results = []
        for token in np.argsort(-scores, kind="stable")[:count]:
            filled = [*ids[:place], int(token), *ids[place + 1 :]]
            results.append(
                {
                    "score": float(scores[token]),
                    "token": int(token),
                    "token_str": self._tokenizer.decode([int(token)]),
                    "sequence": self._tokenizer.decode(filled, skip_special_tokens=True),
                }
            )
        return results
