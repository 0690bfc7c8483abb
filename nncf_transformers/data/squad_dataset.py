"""SQuAD's files as the data set that the hub's ``squad`` and ``squad_v2`` are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets

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
