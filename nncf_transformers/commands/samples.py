"""Rows of data for an export: to compare runtimes on, to calibrate on, and to write down with their results."""

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from nncf_transformers.deployment import QUESTION_ANSWERING, Task
from nncf_transformers.encoding import Encoder
from nncf_transformers.errors import UsageError
from nncf_transformers.runtimes import Inputs

FILE_KEYS = ("validation_file", "train_file")
COLUMN_KEY = "text_column"
# Columns of GLUE's tasks, of NLI and of the usual tables, pairs first: a single one of a pair is no text of its own.
_COLUMNS = (
    ("question", "sentence"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("text", "text_pair"),
    ("sentence",),
    ("text",),
    ("tokens",),
)
# Where samples go, and how the names of their files begin.
_FOLDERS = {"sample-inputs": "inp", "sample-outputs": "out"}
# No calibration asks for more.
_MOST = 1000


def read_rows_of(
    task: Task, data_args: Mapping[str, str], tokenizer: Any, names: Sequence[str], length: int
) -> list[Inputs]:
    """Read a model's inputs from a file of texts.

    Args:
        task: of the model; question answering reads SQuAD's format, the others a table or lines of text (.txt).
        data_args: the file, as ``validation_file`` or ``train_file``, and perhaps ``text_column``.
        tokenizer: a fast one.
        names: of the model's inputs.
        length: of a row at most; the rest of a longer text is left out.

    Returns:
        At most some thousand rows, each with arrays of shape (1, tokens).

    Raises:
        UsageError: the file is missing, or not in the format.
    """
    key = next(key for key in FILE_KEYS if key in data_args)
    path = Path(data_args[key])
    if task is QUESTION_ANSWERING:
        from nncf_transformers.data import read_squad

        texts: list[Any] = [(example.question, example.context) for example in islice(read_squad(path), _MOST)]
    elif path.suffix == ".txt":
        from nncf_transformers.data.files import read_text

        texts = [line for line in islice(read_text(path).split("\n"), _MOST) if line.strip()]
    else:
        texts = _table(path, data_args.get(COLUMN_KEY))
    if not texts:
        raise UsageError(f"{path}: has no text; give a file with at least one")
    encoded = Encoder(tokenizer, length)(texts)
    return [{name: _array(rows[0], name) for name in names} for rows in encoded]


def _table(path: Path, column: str | None) -> list[Any]:
    """Texts, or pairs, of a TSV, CSV or JSON file."""
    from nncf_transformers.data.tables import read_rows

    rows = [row for _, row in islice(read_rows(path), _MOST)]
    if not rows:
        return []
    choices = ((column.lower(),),) if column is not None else _COLUMNS
    columns = next((names for names in choices if set(names) <= rows[0].keys()), None)
    if columns is None:
        raise UsageError(
            f"{path}: has the columns {', '.join(rows[0])}; say which holds the text, as {COLUMN_KEY} in --data_args"
        )
    # Tokens of a data set for named entities are a list of words.
    texts = [[" ".join(v) if isinstance(v := row[name], list) else str(v) for name in columns] for row in rows]
    return [tuple(parts) if len(parts) > 1 else parts[0] for parts in texts]


def _array(encoding: Any, name: str) -> np.ndarray:
    values = {"input_ids": encoding.ids, "attention_mask": encoding.attention_mask, "token_type_ids": encoding.type_ids}
    return np.array([values[name]], np.int64)


def check_samples(folder: Path) -> None:
    """Refuse to replace a folder of samples that holds other files, too.

    Raises:
        UsageError: with the name of one.
    """
    for name, prefix in _FOLDERS.items():
        for path in (folder / name).glob("*"):
            if not re.fullmatch(rf"{prefix}-\d+\.npz", path.name):
                raise UsageError(f"{path}: is no sample, and --num_export_samples replaces its folder; move it away")


def write_samples(
    folder: Path, rows: Sequence[Inputs], run: Callable[[Inputs], Sequence[np.ndarray]], names: Sequence[str]
) -> None:
    """Write rows and what the model makes of them, in the layout of SparseML (inventory 5.3), values included.

    Args:
        folder: gets ``sample-inputs/inp-0000.npz`` and ``sample-outputs/out-0000.npz`` and so on, in place of earlier
            ones.
        rows: inputs by name, each (1, tokens).
        run: the model.
        names: of its outputs.
    """
    outputs: list[Inputs] = [dict(zip(names, run(row), strict=True)) for row in rows]
    for (name, prefix), arrays in zip(_FOLDERS.items(), (rows, outputs), strict=True):
        new, old = (folder / f".{name}.{state}.{os.getpid()}" for state in ("new", "old"))
        new.mkdir()
        try:
            for number, content in enumerate(arrays):
                np.savez(new / f"{prefix}-{number:04d}.npz", allow_pickle=False, **content)
            if (folder / name).exists():
                (folder / name).rename(old)
            new.rename(folder / name)
        finally:
            for left in (new, old):
                shutil.rmtree(left, ignore_errors=True)
