"""Labelled sentences and sentence pairs from a table, as the data set that the hub's version is."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets

from nncf_transformers.data.arrow import cached_dataset
from nncf_transformers.data.files import read_text, sha256_of
from nncf_transformers.data.tables import Row, read_rows
from nncf_transformers.data.tasks import Task
from nncf_transformers.errors import UsageError

logger = logging.getLogger(__name__)

# XNLI's machine-translated training set spells the class this way.
_LABEL_ALIASES = {"contradictory": "contradiction"}

# How SNLI and MultiNLI mark a pair on which the annotators did not agree.
_UNDECIDED = "-"

UNLABELLED = -1


def task_features(task: Task) -> datasets.Features:
    """Columns and types of the hub's version of a task."""
    columns: dict[str, Any] = {name: datasets.Value("string") for name in task.texts}
    columns["label"] = datasets.ClassLabel(names=list(task.labels)) if task.labels else datasets.Value("float32")
    if task.has_index:
        columns["idx"] = datasets.Value("int32")
    return datasets.Features(columns)


def task_dataset(task: Task, file: Path | None, split: str, *, cache_dir: str | Path | None = None) -> datasets.Dataset:
    """One split of a task.

    Args:
        task: The task.
        file: The split's file; None gives an empty data set.
        split: The split's name.
        cache_dir: Root of the cache; None stands for that of ``datasets``.

    Raises:
        UsageError: The file lacks a column, has a label of another task, or no usable row.
        IntegrityError: The file is damaged.
    """
    features = task_features(task)
    if file is None:
        columns: dict[str, list[Any]] = {name: [] for name in features}
        return cached_dataset(columns, features, key=[task.name], split=split, cache_dir=cache_dir)
    keep, held_out = _row_filter(task, file, split)
    columns = _read_columns(task, file, split, keep)
    key = [task.name, *map(sha256_of, [file, *held_out])]
    return cached_dataset(columns, features, key=key, split=split, cache_dir=cache_dir)


def _row_filter(task: Task, file: Path, split: str) -> tuple[Callable[[Row], bool], list[Path]]:
    """Which rows of the file belong to the split, and the further file that says so, if any."""
    if task.held_out and task.is_shared(file.name, split):
        ids_file = file.parent / task.held_out
        ids = {tuple(line.split()) for line in read_text(ids_file).splitlines()}
        wanted = split == "validation"
        return lambda row: ((row.get("#1 id"), row.get("#2 id")) in ids) is wanted, [ids_file]
    if task.language:
        # A file without the column is taken to be in the language that was asked for.
        return lambda row: row.get("language", task.language) == task.language, []
    return lambda row: True, []


def _read_columns(task: Task, file: Path, split: str, keep: Callable[[Row], bool]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in task_features(task)}
    undecided, incomplete = 0, []
    headers: dict[str, str | None] | None = None
    for index, (line, row) in enumerate(read_rows(file, task.headerless)):
        if headers is None:
            headers = _match_headers(task, file, split, row)
        if not keep(row):
            continue
        texts = {name: row.get(headers[name] or "") for name in task.texts}
        written = row.get(headers["label"]) if headers["label"] else ""
        if written is None or None in texts.values():
            incomplete.append(line)
            continue
        if written == _UNDECIDED:
            undecided += 1
            continue
        for name, text in texts.items():
            columns[name].append(str(text))
        columns["label"].append(_label(task, written, split, f"{file}, line {line}"))
        if task.has_index:
            columns["idx"].append(index)  # counts all rows of the file, as on the hub
    if undecided:
        logger.info("%s: %d rows without an agreed label (%r) left out", file, undecided, _UNDECIDED)
    if incomplete:
        logger.warning(
            "%s: %d rows with too few fields left out, the first is line %d",
            file,
            len(incomplete),
            incomplete[0],
        )
    if not columns["label"]:
        what = f"examples in the language {task.language!r}" if task.language else "examples"
        raise UsageError(f"{file} has no {what}: it cannot serve as the {split} split of {task.name}")
    return columns


def _match_headers(task: Task, file: Path, split: str, row: Row) -> dict[str, str | None]:
    """The header in the file for each column of the task; None for a label that a test file need not have."""
    wanted = {**task.texts, "label": task.label_headers}
    found = {name: next((header for header in headers if header in row), None) for name, headers in wanted.items()}
    missing = [
        " or ".join(wanted[name])
        for name, header in found.items()
        if header is None and not (name == "label" and split.startswith("test"))
    ]
    if missing:
        raise UsageError(
            f"{file} lacks the column {', '.join(missing)} that {task.name} needs; it has {', '.join(row) or 'none'}"
        )
    return found


def _label(task: Task, written: Any, split: str, place: str) -> int | float:
    """The class number (for a regression task, the score) of a label given as text or number."""
    text = str(written).strip()
    name = text.lower()
    name = _LABEL_ALIASES.get(name, name)
    if name in task.labels:
        return task.labels.index(name)
    if text in ("", "-1") and split.startswith("test"):
        return UNLABELLED
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not task.labels and math.isfinite(number):
        return number
    if number in range(len(task.labels)):
        return int(number)
    expected = f"{', '.join(task.labels)} (or 0…{len(task.labels) - 1})" if task.labels else "a number"
    raise UsageError(f"{place}: the label {text!r} is not one that {task.name} knows; expected {expected}")
