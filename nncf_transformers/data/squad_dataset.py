"""SQuAD's files as the data set that the hub's ``squad`` and ``squad_v2`` are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc

from nncf_transformers.data.arrow import cached_dataset
from nncf_transformers.data.files import sha256_of
from nncf_transformers.data.squad import check_answered, check_unique, read_squad


def squad_features() -> datasets.Features:
    """Columns and types of the public data set; an impossible question has no answers in it."""
    text = datasets.Value("string")
    answers = datasets.Sequence({"text": text, "answer_start": datasets.Value("int32")})
    return datasets.Features({"id": text, "title": text, "context": text, "question": text, "answers": answers})


def squad_dataset(files: Sequence[Path], split: str, *, cache_dir: str | Path | None = None) -> datasets.Dataset:
    """The questions of one or more files in SQuAD's format, flattened, in order.

    Args:
        files: The files of this split; none gives an empty data set.
        split: The split's name; ``train`` and ``validation`` need answers.
        cache_dir: Root of the cache; None stands for that of ``datasets``.

    Raises:
        UsageError: See :func:`~nncf_transformers.data.squad.read_squad`; also no answers where they are
            needed.
        IntegrityError: A file is not complete, valid JSON.
    """
    examples = [example for file in files for example in read_squad(file)]
    where = ", ".join(map(str, files))
    if len(files) > 1:
        check_unique(examples, where)
    check_answered(examples, split, where)
    columns: dict[str, list[Any]] = {
        "id": [example.id for example in examples],
        "title": [example.title for example in examples],
        "context": [example.context for example in examples],
        "question": [example.question for example in examples],
        "answers": [
            {"text": list(example.answers), "answer_start": list(example.answer_starts)} for example in examples
        ],
    }
    key = ["squad", *map(sha256_of, files)]
    return cached_dataset(columns, squad_features(), key=key, split=split, cache_dir=cache_dir)


@dataclass(frozen=True)
class Unanswered:
    """How many questions of a split have no answer.

    Attributes:
        split: Name of the split.
        count: Questions without an answer, at least one.
        total: All questions.
    """

    split: str
    count: int
    total: int


def unanswered_in(loaded: Any) -> Unanswered | None:
    """Look for questions without an answer in what is to be evaluated: the split ``validation``, or else ``test``.

    A test split of which no question has an answer is not labelled, so that no metric can score it; it does not count.

    Args:
        loaded: What ``load_dataset`` returns; anything but SQuAD's columns in memory or on disk has no such questions.
    """
    if not isinstance(loaded, datasets.DatasetDict):
        return None
    for split in ("validation", "test"):
        count, total = _count_unanswered(loaded.get(split))
        if count and not (split == "test" and count == total):
            return Unanswered(split, count, total)
    return None


def _count_unanswered(dataset: datasets.Dataset | None) -> tuple[int, int]:
    """Questions without an answer, and all of them; (0, 0) for other data than SQuAD's."""
    if dataset is None or "answers" not in dataset.features:
        return 0, 0
    answers = dataset.select_columns("answers").with_format("arrow")[:]["answers"]
    try:
        lengths = pc.list_value_length(pc.struct_field(answers, "text"))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
        return 0, 0  # a column of this name with something else in it
    return pc.sum(pc.equal(lengths, 0)).as_py() or 0, len(dataset)
