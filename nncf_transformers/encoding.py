"""Texts as rows of a model's inputs, run so that a row's result does not depend on its company.

A row is padded to a width that follows from its own length, and runs with rows of that width only. So whoever asks
for many texts at once gets what one after the other gives, which matters where INT8 is near a rounding.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from nncf_transformers.errors import UsageError
from nncf_transformers.runtimes import Exported, Outputs, Runtime

# Up to here, a few tokens more take longer in every runtime, and widths are the usual multiples.
_SHORT = 32


def clean(text: str) -> str:
    """The text with a question mark for each half of a surrogate pair, which no tokenizer takes; places stay."""
    return text if text.isascii() else text.encode(errors="replace").decode()


class Encoder:
    """Splits texts into tokens, with settings that are made once.

    Args:
        tokenizer: of the model, a fast one; left as it is.
        max_length: tokens of a row, special ones included.
        stride: overlap of two rows of one text.
        only_second: of two texts, cut the second only.
        places: whether one will ask where in the text a token is, which takes longer.
    """

    def __init__(
        self, tokenizer: Any, max_length: int, *, stride: int = 0, only_second: bool = False, places: bool = True
    ) -> None:
        from tokenizers import Tokenizer

        # The library's own call settles padding and truncation anew each time, which takes longer than the splitting.
        self._plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._plain.no_padding()
        self._plain.no_truncation()
        self._backend = Tokenizer.from_str(self._plain.to_str())
        strategy = "only_second" if only_second else "longest_first"
        self._backend.enable_truncation(
            max_length, stride=stride, strategy=strategy, direction=tokenizer.truncation_side
        )
        self._split = self._backend.encode_batch if places else self._backend.encode_batch_fast
        self._max_length = max_length
        self._pad, self._pad_type = tokenizer.pad_token_id or 0, tokenizer.pad_token_type_id

    def plain(self, text: str) -> Any:
        """All tokens of a text, without special ones: an ``Encoding`` of the tokenizers library."""
        return self._plain.encode(clean(text), add_special_tokens=False)

    def __call__(self, texts: Sequence[str | tuple[str, str]]) -> list[list[Any]]:
        """Split texts, or pairs of them.

        Returns:
            For each text its rows, as ``Encoding`` objects of the tokenizers library: one, or more where it is longer
            than a row.
        """
        rows = [clean(text) if isinstance(text, str) else (clean(text[0]), clean(text[1])) for text in texts]
        return [[encoding, *encoding.overflowing] for encoding in self._split(rows)]

    def run(self, runtime: Runtime, encodings: Sequence[Any], batch_size: int) -> Iterator[tuple[list[int], Outputs]]:
        """Run rows, those of one width together; yields their numbers and their outputs.

        Args:
            runtime: takes ids, attention mask and token types.
            encodings: the rows.
            batch_size: rows a call at most.

        Raises:
            UsageError: ``batch_size`` is below 1.
        """
        if batch_size < 1:
            raise UsageError(f"batch_size {batch_size}: must be 1 or more")
        long_multiple = getattr(runtime, "multiple", Exported.multiple)
        widths = defaultdict(list)
        for row, encoding in enumerate(encodings):
            length = len(encoding)
            multiple = long_multiple if length > _SHORT else Exported.multiple
            widths[max(length, min(-(-length // multiple) * multiple, self._max_length))].append(row)
        for width, rows in widths.items():
            for first in range(0, len(rows), batch_size):
                part = rows[first : first + batch_size]
                yield part, runtime(self._inputs([encodings[row] for row in part], width))

    def _inputs(self, encodings: Sequence[Any], width: int) -> dict[str, np.ndarray]:
        ids, mask, types = np.zeros((3, len(encodings), width), np.int64)
        for row, encoding in enumerate(encodings):
            length = len(encoding)
            ids[row, :length], ids[row, length:] = encoding.ids, self._pad
            mask[row, :length] = 1
            types[row, :length], types[row, length:] = encoding.type_ids, self._pad_type
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
