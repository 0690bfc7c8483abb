"""The teacher's logits on disk: what is found again, what is refused, and what survives a crash."""

import multiprocessing
import os
import re
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_batches, tiny_model

from nncf_transformers.algorithms import teacher_cache
from nncf_transformers.algorithms.teacher_cache import CACHE_FILE, LogitsCache, fingerprint_rows, row_keys
from nncf_transformers.errors import CompressionError, IntegrityError, UsageError
from nncf_transformers.inputs import call_model, model_inputs

# Processes that only write need no second interpreter that imports torch.
FORK = multiprocessing.get_context("fork")


def batch_of(numbers: range, width: int = 12, length: int | None = None) -> dict[str, torch.Tensor]:
    """Rows that are told apart by their first token, of ``length`` tokens and padding."""
    length = width if length is None else length
    ids = torch.zeros(len(numbers), width, dtype=torch.long)
    ids[:, :length] = 7
    ids[:, 0] = torch.tensor(list(numbers))
    mask = torch.zeros_like(ids)
    mask[:, :length] = 1
    return {"input_ids": ids, "attention_mask": mask}


class Teacher:
    """Two logits for each token, from its number and position; counts its rows."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, rows: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        ids = rows["input_ids"]
        self.rows += ids[:, 0].tolist()
        start = ids[:, :1] + torch.arange(ids.shape[1]) / 8
        return [start, -start]


def open_cache(folder: Path, teacher: str = "teacher", data: str | None = "data", outputs: int = 2) -> LogitsCache:
    return LogitsCache(folder, teacher, data, outputs)


def same(found: list[torch.Tensor], batch: dict[str, torch.Tensor]) -> bool:
    return all(map(torch.equal, found, Teacher()(batch)))


@contextmanager
def refused(message: str, kind: type[CompressionError]) -> Iterator[None]:
    with pytest.raises(kind, match=message) as caught:
        yield
    assert "\n" not in str(caught.value)


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """The file of a cache with rows 0 to 99."""
    cache = open_cache(tmp_path)
    for first in range(0, 100, 10):
        cache.logits(batch_of(range(first, first + 10), 200), 200, Teacher())
    cache.close()
    return tmp_path / CACHE_FILE


# What names a row.


def test_a_row_is_its_tokens_without_padding() -> None:
    short, wide = batch_of(range(3), 12, 5), batch_of(range(3), 40, 5)
    assert row_keys(short) == row_keys(wide) and len(set(row_keys(short))) == 3
    assert row_keys(batch_of(range(3), 12, 6)) != row_keys(short)
    # What padding consists of does not matter, nor which numbers the tensors are made of.
    wide["input_ids"][:, 30] = 99
    narrow = {name: tensor.int() for name, tensor in wide.items()}
    assert row_keys(narrow) == row_keys(short)
    assert row_keys({**short, "labels": torch.arange(3)}) == row_keys(short)


def test_whatever_the_teacher_reads_tells_rows_apart() -> None:
    batch = batch_of(range(1), 12, 8)
    types = torch.zeros_like(batch["input_ids"])
    others = [{**batch, "token_type_ids": types}]
    others.append({**batch, "token_type_ids": types.clone().index_fill_(1, torch.tensor([3]), 1)})
    hole = batch["attention_mask"].clone()
    hole[0, 4] = 0
    others.append({**batch, "attention_mask": hole})
    # Padding on the left moves the tokens.
    others.append({name: tensor.flip(1) for name, tensor in batch.items()})
    others.append({"input_ids": batch["input_ids"]})
    assert len({row_keys(other)[0] for other in [batch, *others]}) == 6
    padded = {**others[1], "token_type_ids": others[1]["token_type_ids"].clone()}
    padded["token_type_ids"][0, 10] = 1
    assert row_keys(padded) == row_keys(others[1])


def test_the_fingerprint_is_of_the_rows_not_of_their_order() -> None:
    rows = [batch_of(range(i, i + 1), 12, 5) for i in range(8)]
    expected = fingerprint_rows(rows)
    assert re.fullmatch("[0-9a-f]{32}", expected)
    assert fingerprint_rows([batch_of(range(0, 5), 20, 5), batch_of(range(5, 8), 16, 5)]) == expected
    assert fingerprint_rows(reversed(rows)) == expected
    assert fingerprint_rows(rows[:-1]) != expected != fingerprint_rows([*rows, rows[0]])


# What is found again.


def test_the_teacher_runs_once_for_each_row(tmp_path: Path) -> None:
    teacher, cache = Teacher(), open_cache(tmp_path / "new" / "folder")
    for batch in (batch_of(range(0, 4)), batch_of(range(2, 6)), batch_of(range(0, 6))):
        found = cache.logits(batch, 12, teacher)
        assert [tuple(output.shape) for output in found] == [(len(batch["input_ids"]), 12)] * 2
        assert same(found, batch) and all(output.dtype is torch.float32 for output in found)
    assert teacher.rows == [0, 1, 2, 3, 4, 5]
    cache.close()
    cache = open_cache(tmp_path / "new" / "folder")
    assert same(cache.logits(batch_of(range(5, -1, -1)), 12, teacher), batch_of(range(5, -1, -1)))
    assert teacher.rows == [0, 1, 2, 3, 4, 5]


def test_a_row_that_is_there_twice(tmp_path: Path) -> None:
    teacher, cache = Teacher(), open_cache(tmp_path)
    batch = {name: tensor[[0, 1, 0]] for name, tensor in batch_of(range(2)).items()}
    for _ in range(2):
        assert same(cache.logits(batch, 12, teacher), batch)
    assert teacher.rows == [0, 1]


def test_wide_rows_serve_narrow_batches_and_not_the_other_way_round(tmp_path: Path) -> None:
    teacher, cache = Teacher(), open_cache(tmp_path)
    for width, calls in ((12, 1), (8, 1), (20, 2), (12, 2), (20, 2)):
        batch = batch_of(range(1), width, 6)
        assert same(cache.logits(batch, width, teacher), batch)
        assert len(teacher.rows) == calls, width
    # Nor does another process, which was slower, put a narrow row in the place of a wide one.
    cache._write({row_keys(batch)[0]: torch.zeros(2, 6).numpy()}, 6)
    assert same(cache.logits(batch, 20, teacher), batch) and len(teacher.rows) == 2


def test_padding_has_no_influence_on_the_tokens_before_it(tmp_path: Path) -> None:
    model = tiny_model()
    cache = open_cache(tmp_path)
    batch = model_inputs(model, tiny_batches(model, count=1, length=24)[0])
    # All rows but the one that is longer.
    wide = {name: tensor[[0, 2, 3]] for name, tensor in batch.items()}
    narrow = {name: tensor[:, :20] for name, tensor in wide.items()}
    assert all(wide["attention_mask"][:, 20:].sum(dim=1) == 0)
    with torch.no_grad():
        cache.logits(wide, 24, lambda rows: call_model(model, rows))
        expected = call_model(model, narrow)
    found = cache.logits(narrow, 20, None)  # type: ignore[arg-type]
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_classes(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, outputs=1)
    classes = torch.randn(4, 3)
    for width in (12, 20):
        found = cache.logits(batch_of(range(4), width, 9), 3, lambda rows: [classes])
        assert torch.equal(found[0], classes)
    with pytest.raises(ValueError, match="logits of shape"):
        cache.logits(batch_of(range(4, 8)), 5, lambda rows: [classes])


def test_half_precision_is_stored_exactly(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, outputs=1)
    values = torch.randn(4, 12, requires_grad=True).bfloat16()
    for _ in range(2):
        found = cache.logits(batch_of(range(4)), 12, lambda rows: [values])
        assert torch.equal(found[0], values.float()) and not found[0].requires_grad


# What is refused.


def test_another_teacher_or_data_set(filled: Path) -> None:
    other = "0123456789abcdef"
    with refused("holds the logits of another teacher .teacher, now 0123456789ab.; delete it", UsageError):
        open_cache(filled.parent, teacher=other)
    with refused("holds the logits of another data set .data, now 0123456789ab.; delete it", UsageError):
        open_cache(filled.parent, data=other)
    with refused("holds the logits of a teacher of another task", UsageError):
        open_cache(filled.parent, outputs=1)
    # Nobody looked at the data, and nothing was refused for good.
    open_cache(filled.parent, data=None)
    assert same(open_cache(filled.parent).logits(batch_of(range(5), 200), 200, Teacher()), batch_of(range(5), 200))


def test_the_data_set_may_be_named_later(tmp_path: Path) -> None:
    open_cache(tmp_path, data=None).close()
    open_cache(tmp_path, data="first").close()
    with refused("another data set", UsageError):
        open_cache(tmp_path, data="second")


def test_another_format(filled: Path) -> None:
    with sqlite3.connect(filled) as database:
        database.execute("UPDATE meta SET value = '99' WHERE name = 'format'")
    with refused("has format 99, not 1; delete it", UsageError):
        open_cache(filled.parent)


def use_all(folder: Path) -> None:
    cache = open_cache(folder)
    for first in range(0, 100, 10):
        batch = batch_of(range(first, first + 10), 200)
        assert same(cache.logits(batch, 200, Teacher()), batch)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"garbage",
        lambda content: b"garbage" * 10_000,
        lambda content: content[:100],
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content[:4096] + b"\xff" * 8192 + content[12288:],
        lambda content: content[: len(content) // 2] + b"\x01" * 16 + content[len(content) // 2 + 16 :],
    ],
    ids=["short", "long", "header", "half", "last byte", "pages", "a few bytes"],
)
def test_a_damaged_file(filled: Path, damage: Callable[[bytes], bytes]) -> None:
    filled.write_bytes(damage(filled.read_bytes()))
    with refused(f"{CACHE_FILE}: damaged .*; delete it", IntegrityError):
        use_all(filled.parent)
    # Doing as told helps, whatever files lie beside it.
    filled.unlink()
    use_all(filled.parent)


def test_an_empty_file_is_a_new_cache(tmp_path: Path) -> None:
    (tmp_path / CACHE_FILE).touch()
    use_all(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path, filled: Path) -> None:
    (tmp_path / "file").touch()
    with refused('file: cannot be made .*; give another folder as "cache"', UsageError):
        open_cache(tmp_path / "file")
    with refused("below: cannot be made", UsageError):
        open_cache(tmp_path / "file" / "below")
    (tmp_path / "taken" / CACHE_FILE).mkdir(parents=True)
    with refused('cannot be written .*; give a writable folder with room as "cache"', UsageError):
        open_cache(tmp_path / "taken")


def test_a_full_disk(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    cache._database.execute("PRAGMA max_page_count = 20")
    with refused("cannot be written .database or disk is full.; give a writable folder with room", UsageError):
        cache.logits(batch_of(range(64), 1000), 1000, Teacher())


def test_a_process_that_does_not_let_go(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_cache, "_TIMEOUT", 0.1)
    other = sqlite3.connect(filled, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with refused("another process has locked it", UsageError):
        open_cache(filled.parent)
    other.execute("ROLLBACK")
    open_cache(filled.parent)


# Several processes, and their ends.


def start(function: Callable[..., None], *arguments: Any) -> Any:
    process = FORK.Process(target=alone, args=(function, *arguments))
    process.start()
    return process


def alone(function: Callable[..., None], *arguments: Any) -> None:
    # The threads of the process it is a copy of are not there: waiting for them would never end.
    torch.set_num_threads(1)
    function(*arguments)


def fill(folder: Path, first: int, count: int) -> None:
    cache = open_cache(folder)
    for i in range(first, first + count):
        batch = batch_of(range(i, i + 4), 200)
        assert same(cache.logits(batch, 200, Teacher()), batch)


def test_processes_that_start_and_write_at_once(tmp_path: Path) -> None:
    # They overlap, and the folder does not exist yet.
    writers = [start(fill, tmp_path / "cache", 20 * i, 40) for i in range(4)]
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0] * 4
    teacher = Teacher()
    batch = batch_of(range(103), 200)
    assert same(open_cache(tmp_path / "cache").logits(batch, 200, teacher), batch) and not teacher.rows


class Busy:
    """A database whose first answers are that another process switches its log just now."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.done: list[str] = []

    def execute(self, statement: str) -> None:
        if self.refusals:
            self.refusals -= 1
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise error
        self.done.append(statement)


def test_processes_that_open_a_new_cache_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = open_cache(tmp_path)
    busy: Any = Busy(3)
    monkeypatch.setattr(cache, "_database", busy)
    cache._start_log()
    assert busy.done[0] == "PRAGMA journal_mode = WAL"
    monkeypatch.setattr(teacher_cache, "_TIMEOUT", 0.1)
    monkeypatch.setattr(cache, "_database", Busy(10**6))
    with pytest.raises(sqlite3.OperationalError):
        cache._start_log()


class Suicidal(LogitsCache):
    """Is killed when its rows are written, but not yet committed."""

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with super()._transaction():
            yield
            if self._database.execute("SELECT count(*) FROM logits").fetchone()[0] > 8:
                os.kill(os.getpid(), signal.SIGKILL)


def fill_and_die(folder: Path) -> None:
    cache = Suicidal(folder, "teacher", "data", 2)
    cache.logits(batch_of(range(8), 5000), 5000, Teacher())
    cache.logits(batch_of(range(8, 16), 5000), 5000, Teacher())


def test_a_writer_that_is_killed_before_it_commits(tmp_path: Path) -> None:
    writer = start(fill_and_die, tmp_path)
    writer.join(60)
    assert writer.exitcode == -signal.SIGKILL
    teacher, cache = Teacher(), open_cache(tmp_path)
    batch = batch_of(range(16), 5000)
    assert same(cache.logits(batch, 5000, teacher), batch)
    assert teacher.rows == list(range(8, 16))


@pytest.mark.parametrize("milliseconds", [5, 20, 50])
def test_a_writer_that_is_killed_somewhere(tmp_path: Path, milliseconds: int) -> None:
    open_cache(tmp_path).close()
    writer = start(fill, tmp_path, 0, 100_000)
    with sqlite3.connect(tmp_path / CACHE_FILE, timeout=60) as database:
        deadline = time.monotonic() + 60
        while not database.execute("SELECT count(*) FROM logits").fetchone()[0]:
            assert time.monotonic() < deadline and writer.exitcode is None
    time.sleep(milliseconds / 1000)
    writer.kill()
    writer.join(60)
    with sqlite3.connect(tmp_path / CACHE_FILE) as database:
        assert database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        count = database.execute("SELECT count(*) FROM logits").fetchone()[0]
    # Every step is there whole: four rows by the first, one more by each other.
    teacher = Teacher()
    batch = batch_of(range(count), 200)
    assert count >= 4 and same(open_cache(tmp_path).logits(batch, 200, teacher), batch) and not teacher.rows
