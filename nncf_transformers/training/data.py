"""Questions and contexts as features: windows with answer positions, and whole texts for embeddings."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.compute
import torch

from nncf_transformers.data import SquadExample, read_squad
from nncf_transformers.data.squad import check_answered
from nncf_transformers.errors import UsageError
from nncf_transformers.evaluation import cut_questions

logger = logging.getLogger(__name__)

Features = dict[str, list[int]]
# Encoded at once: a fast tokenizer uses its threads, and no list of a whole data set is held twice.
_CHUNK = 1000


class Encoded:
    """Encoded texts, padded when they are put together to a batch.

    Args:
        columns: a list of token numbers for each text, by input name; numbers for each text under other names.
        pads: what each input is padded with.
        lengths: by which texts of like length are put together; None for their own.
    """

    def __init__(
        self,
        columns: datasets.Dataset | Mapping[str, list[Any]],
        pads: Mapping[str, int],
        lengths: Sequence[int] | None = None,
    ) -> None:
        if not isinstance(columns, datasets.Dataset):
            columns = datasets.Dataset.from_dict(dict(columns))
        self._data = columns.with_format("numpy")
        self._pads = dict(pads)
        own = pyarrow.compute.list_value_length(columns.data.column("input_ids")).to_pylist()
        self._lengths = list(lengths) if lengths is not None else own

    def __len__(self) -> int:
        return len(self._data)

    def length(self, index: int) -> int:
        """Tokens of a text, or what stands for them."""
        return self._lengths[index]

    def batch(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """Texts as tensors: inputs (texts, longest), anything else (texts,)."""
        rows, tensors = self._data[list(indices)], {}
        width = max(len(row) for row in rows["input_ids"])
        for name, values in rows.items():
            if name not in self._pads:
                tensors[name] = torch.as_tensor(values)
                continue
            padded = np.full((len(values), width), self._pads[name], np.int64)
            for line, row in zip(padded, values, strict=True):
                line[: len(row)] = row
            tensors[name] = torch.from_numpy(padded)
        return tensors


@dataclass(frozen=True)
class Retrieval:
    """Questions and the contexts that answer them.

    Attributes:
        questions: texts.
        contexts: texts, each once.
        owners: for each question, the number of its context.
    """

    questions: list[str]
    contexts: list[str]
    owners: list[int]


def read_questions(path: str | Path, *, train: bool) -> list[SquadExample]:
    """Read a file in SQuAD's format.

    Raises:
        UsageError: no such file, another format, or no question with an answer.
    """
    examples = read_squad(path)
    check_answered(examples, "train" if train else "validation", str(path))
    return examples


def retrieval_of(examples: Sequence[SquadExample], path: str | Path) -> Retrieval:
    """Pair questions with contexts, as if each context were a document to be found.

    Questions without an answer have no context to find and are left out; so have contexts with no other questions a
    place among the candidates, for they could be found by mistake.

    Raises:
        UsageError: fewer than two contexts: there is nothing to tell apart.
    """
    numbers = {context: i for i, context in enumerate(dict.fromkeys(example.context for example in examples))}
    answered = [example for example in examples if example.answers]
    if len(answered) < len(examples):
        logger.info("%s: %d questions have no answer and are left out", path, len(examples) - len(answered))
    if len(numbers) < 2 or not answered:
        raise UsageError(f"{path}: has {len(numbers)} contexts with {len(answered)} questions; at least 2 are needed")
    return Retrieval(
        [example.question.strip() for example in answered],
        list(numbers),
        [numbers[example.context] for example in answered],
    )


def encode_texts(
    tokenizer: Any, texts: Sequence[str], max_length: int, lengths: Sequence[int] | None = None, **columns: list[int]
) -> Encoded:
    """Encode texts alone: [CLS] tokens [SEP], cut at ``max_length`` tokens, special ones included.

    Args:
        tokenizer: a fast tokenizer.
        texts: any number.
        max_length: tokens.
        lengths: see :class:`Encoded`.
        **columns: further numbers, one for each text.
    """

    def encode(numbers: list[int]) -> dict[str, list[Any]]:
        chosen = {name: [values[number] for number in numbers] for name, values in columns.items()}
        return {**tokenizer([texts[i] for i in numbers], truncation=True, max_length=max_length), **chosen}

    return Encoded(_map(encode, len(texts)), _pads(tokenizer), lengths)


def encode_answers(
    tokenizer: Any, examples: Sequence[SquadExample], *, max_question: int, max_length: int, stride: int
) -> Encoded:
    """Encode questions with their contexts: windows of [CLS] question [SEP] context [SEP], and where the answer is.

    Inventory 3.2, chapter 8. A context that is too long gives several windows. The answer is the first of the file's;
    where a window does not hold it, or there is none, both positions are 0, the [CLS] token.

    Args:
        tokenizer: a fast tokenizer.
        examples: with answers where they have one.
        max_question: tokens of a question; longer ones are cut.
        max_length: tokens of a window.
        stride: tokens by which two windows overlap.

    Raises:
        UsageError: the lengths leave no room for a context.
    """
    check_lengths(max_question, max_length, stride)

    def encode(numbers: list[int]) -> dict[str, list[Any]]:
        chunk = [examples[number] for number in numbers]
        windows = tokenizer(
            cut_questions(tokenizer, [example.question.lstrip() for example in chunk], max_question),
            [example.context for example in chunk],
            truncation="only_second",
            max_length=max_length,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        owners, offsets = windows.pop("overflow_to_sample_mapping"), windows.pop("offset_mapping")
        spans = [_span(chunk[owner], offsets[i], windows.sequence_ids(i)) for i, owner in enumerate(owners)]
        starts, ends = map(list, zip(*spans, strict=True))
        return {**windows, "start_positions": starts, "end_positions": ends}

    return Encoded(_map(encode, len(examples)), _pads(tokenizer))


def check_lengths(max_question: int, max_length: int, stride: int) -> None:
    """Refuse lengths that leave no room for a context.

    Raises:
        UsageError: which of them.
    """
    # Three special tokens; a pair of RoBERTa has four.
    room = max_length - max_question - 4
    if max_question < 1 or room < 1:
        raise UsageError(
            f"--max_seq_length_q {max_question} and --max_seq_length_c {max_length}: leave no token for the context; "
            "the second is the length of question and context together"
        )
    if stride >= room:
        raise UsageError(
            f"--doc_stride {stride}: windows of {room} context tokens cannot overlap by that much; lower it, or raise "
            "--max_seq_length_c"
        )


def _span(example: SquadExample, offsets: list[tuple[int, int]], parts: list[int | None]) -> tuple[int, int]:
    """First and last token of the answer in a window; (0, 0) if it is not whole in it."""
    if not example.answers or example.answer_starts[0] < 0:
        return 0, 0
    begin = example.answer_starts[0]
    end = begin + len(example.answers[0])
    tokens = [i for i, part in enumerate(parts) if part == 1]
    if not tokens or offsets[tokens[0]][0] > begin or offsets[tokens[-1]][1] < end:
        return 0, 0
    first = max(i for i in tokens if offsets[i][0] <= begin)
    last = min(i for i in tokens if offsets[i][1] >= end)
    return first, max(first, last)


def _map(encode: Callable[[list[int]], dict[str, list[Any]]], count: int) -> datasets.Dataset:
    """Encode the texts with numbers from 0 on, some at a time, into an Arrow table: lists take ten times the memory."""
    numbers = datasets.Dataset.from_dict({"number": list(range(count))})
    # What the function closes over is large, and not worth a hash for a cache.
    return numbers.map(
        encode,
        input_columns="number",
        batched=True,
        batch_size=_CHUNK,
        remove_columns="number",
        new_fingerprint="encoded",
        load_from_cache_file=False,
    )


def _pads(tokenizer: Any) -> dict[str, int]:
    pads = {"input_ids": tokenizer.pad_token_id or 0, "attention_mask": 0, "token_type_ids": 0}
    return {name: pads[name] for name in tokenizer.model_input_names if name in pads}
