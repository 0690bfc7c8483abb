"""Rows of a TSV, CSV, JSON or JSON Lines file, whatever wrote it."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from nncf_transformers.data.files import broken_json, read_json, read_text
from nncf_transformers.errors import UsageError

Row = Mapping[str, Any]


def read_rows(path: Path, headerless: Sequence[str] = ()) -> Iterator[tuple[int, Row]]:
    """Yield a file's rows in order, each with the number of its line or entry, from 1.

    A row maps column names to values. The names are lower-cased: the distributions differ in that.

    ``.csv`` is read with quotes, ``.json`` as a list of objects (bare, under ``"data"``, or one object a
    line), ``.jsonl`` as one object a line, everything else as tab-separated text **without** quoting: the
    GLUE and XNLI distributions use ``"`` as an ordinary character. A line with too few fields yields None for
    the last columns; fields beyond the header are left out.

    Args:
        path: The file, UTF-8.
        headerless: Column names to assume for a TSV file whose first line names none of them (CoLA has no
            header).

    Raises:
        UsageError: The file cannot be read or has no rows of the expected kind.
        IntegrityError: The file is damaged.
    """
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _json_rows(path)
    if suffix == ".jsonl":
        return _json_lines(path, read_text(path))
    return _delimited_rows(path, headerless)


def _delimited_rows(path: Path, headerless: Sequence[str]) -> Iterator[tuple[int, Row]]:
    text = read_text(path)
    lines: Iterator[tuple[int, list[str]]]
    if path.suffix.lower() == ".csv":
        reader = csv.reader(io.StringIO(text, newline=""))
        lines = ((reader.line_num, fields) for fields in reader if fields)
    else:
        # Only \n ends a line: some sentences contain other characters that str.splitlines() would break at.
        lines = (
            (number, line.removesuffix("\r").split("\t"))
            for number, line in enumerate(text.split("\n"), start=1)
            if line.strip()
        )
    first = next(lines, None)
    if first is None:
        raise UsageError(f"{path} is empty: give a file with at least one example")
    header = [name.strip().lower() for name in first[1]]
    if headerless and not set(headerless) & set(header):
        header = list(headerless)
        lines = chain([first], lines)
    for number, fields in lines:
        yield number, dict(zip_longest(header, fields[: len(header)]))


def _json_rows(path: Path) -> Iterator[tuple[int, Row]]:
    text = read_text(path)
    head = text.lstrip()[:1]
    if head == "{" and _is_json(text.split("\n", 1)[0]) and text.strip().count("\n"):
        yield from _json_lines(path, text)
        return
    value = read_json(path)
    rows = value.get("data") if isinstance(value, dict) else value
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UsageError(f'{path} is not a table: expected a list of objects, {{"data": [...]}} or one object a line')
    yield from enumerate(map(_lower_keys, rows), start=1)


def _json_lines(path: Path, text: str) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise broken_json(path, error, number) from error
        if not isinstance(row, dict):
            raise UsageError(f"{path}, line {number}, is not a JSON object: expected one example a line")
        yield number, _lower_keys(row)


def _lower_keys(row: dict[str, Any]) -> Row:
    return {key.lower(): value for key, value in row.items()}


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return False
    return True
