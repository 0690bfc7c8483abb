"""A teacher's logits on disk, so that it runs once for each sample and not once an epoch.

One SQLite file. A write is whole or not at all, whatever kills the process, and several processes of one machine may
read and write the same file. A row is found by what the teacher reads, its tokens, so neither the order of the data
nor the number of processes matters.
"""

import hashlib
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from nncf_transformers.errors import IntegrityError, UsageError

CACHE_FILE = "logits.sqlite"
FORMAT = 1

# Seconds to wait for another process that writes.
_TIMEOUT = 60.0

_TABLES = (
    "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS logits "
    "(key BLOB PRIMARY KEY, width INTEGER NOT NULL, checksum INTEGER NOT NULL, content BLOB NOT NULL)",
)
# Another process may have stored the same row in the meantime; the wider one stays.
_STORE = (
    "INSERT INTO logits VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET width = excluded.width, "
    "checksum = excluded.checksum, content = excluded.content WHERE excluded.width > logits.width"
)
_UNUSABLE = (
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
)
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class LogitsCache:
    """The logits of one teacher, by row.

    Logits with one value for each token (question answering) are stored as wide as the batch was, and serve every
    batch of at most that width: padding has no influence on the tokens before it.
    """

    def __init__(self, folder: str | os.PathLike[str], teacher: str, data: str | None, outputs: int) -> None:
        """Open the cache in ``folder``, or start one.

        Args:
            folder: made if it is not there.
            teacher: fingerprint of the teacher.
            data: fingerprint of the data set, see :func:`fingerprint_rows`; None: nobody looked.
            outputs: number of logits tensors that the teacher returns.

        Raises:
            UsageError: the folder cannot be written, or its cache is of another teacher or data set.
            IntegrityError: the file is damaged.
        """
        self.path = Path(folder) / CACHE_FILE
        self._outputs = outputs
        with self._errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, timeout=_TIMEOUT, isolation_level=None)
            self._start_log()
            with self._transaction():
                for table in _TABLES:
                    self._database.execute(table)
                self._check({"format": str(FORMAT), "outputs": str(outputs), "teacher": teacher, "data": data})

    def logits(
        self, inputs: Mapping[str, torch.Tensor], width: int, run: Callable[[dict[str, torch.Tensor]], Sequence]
    ) -> list[torch.Tensor]:
        """Return the teacher's logits of a batch; the teacher runs for those rows only that are not in the cache.

        Args:
            inputs: the teacher's inputs, each (batch, sequence).
            width: second dimension of the logits: the sequence length, or the number of classes.
            run: the teacher: from inputs of some rows to their logits, each (rows, width).

        Returns:
            As many tensors as the teacher has outputs, float32, each (batch, width), where the inputs are.
        """
        keys = row_keys(inputs)
        found = self._read(keys, width)
        # By key, for a batch may hold a row twice.
        missing = {key: i for i, key in reversed([*enumerate(keys)]) if key not in found}
        if missing:
            indices = sorted(missing.values())
            rows = dict(inputs)
            if len(indices) < len(keys):
                rows = {name: tensor[indices] for name, tensor in inputs.items()}
            fresh = torch.stack([output.detach().float() for output in run(rows)], dim=1).cpu().numpy()
            if fresh.shape != (len(indices), self._outputs, width):
                raise ValueError(f"logits of shape {fresh.shape}, expected {(len(indices), self._outputs, width)}")
            new = {keys[i]: content for i, content in zip(indices, fresh, strict=True)}
            self._write(new, width)
            found |= new
        batch = torch.from_numpy(np.stack([found[key] for key in keys]))
        return list(batch.to(inputs["input_ids"].device).unbind(1))

    def close(self) -> None:
        """Close the file; the cache is of no more use."""
        self._database.close()

    def _read(self, keys: Sequence[bytes], width: int) -> dict[bytes, np.ndarray]:
        """Read those of the rows that are stored wide enough, each (outputs, width)."""
        found: dict[bytes, np.ndarray] = {}
        marks = ",".join("?" * len(keys))
        with self._errors():
            rows = self._database.execute(f"SELECT * FROM logits WHERE key IN ({marks})", keys).fetchall()
        for key, stored, checksum, content in rows:
            if len(content) != 4 * self._outputs * stored or zlib.crc32(content) != checksum:
                raise IntegrityError(f"{self.path}: damaged (a row has other bytes than were written); delete it")
            if stored >= width:
                found[key] = np.frombuffer(content, np.float32).reshape(self._outputs, stored)[:, :width]
        return found

    def _write(self, rows: Mapping[bytes, np.ndarray], width: int) -> None:
        contents = {key: np.ascontiguousarray(row, np.float32).tobytes() for key, row in rows.items()}
        with self._errors(), self._transaction():
            values = [(key, width, zlib.crc32(content), content) for key, content in contents.items()]
            self._database.executemany(_STORE, values)

    def _start_log(self) -> None:
        """Switch to a write-ahead log where the file system has one: readers then do not wait for the writer."""
        deadline = time.monotonic() + _TIMEOUT
        while True:
            try:
                self._database.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                # SQLite waits for other processes by itself, but not where two of them switch at once.
                if _code(error) not in _BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        # After a power cut the last steps may be missing; the file is whole all the same.
        self._database.execute("PRAGMA synchronous = NORMAL")

    def _check(self, wanted: Mapping[str, str | None]) -> None:
        """Compare what the file says of itself with what is wanted, and write down what it does not say yet."""
        stored = dict(self._database.execute("SELECT name, value FROM meta"))
        what = {"outputs": "a teacher of another task", "teacher": "another teacher", "data": "another data set"}
        for name, value in wanted.items():
            if value is None or stored.get(name, value) == value:
                continue
            if name == "format":
                raise UsageError(f"{self.path}: has format {stored[name]}, not {value}; delete it")
            raise UsageError(
                f"{self.path}: holds the logits of {what[name]} ({stored[name][:12]}, now {value[:12]}); delete it or "
                'give another folder as "cache"'
            )
        new = [(name, value) for name, value in wanted.items() if value is not None and name not in stored]
        self._database.executemany("INSERT INTO meta VALUES (?, ?)", new)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            # What went wrong may have ended the transaction, too.
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what SQLite and the file system say into one line."""
        try:
            yield
        except OSError as error:
            raise UsageError(
                f'{self.path.parent}: cannot be made ({error.strerror}); give another folder as "cache"'
            ) from error
        except sqlite3.DatabaseError as error:
            if _code(error) in _UNUSABLE:
                raise UsageError(
                    f'{self.path}: cannot be written ({error}); give a writable folder with room as "cache"'
                ) from error
            if _code(error) in _BUSY:
                raise UsageError(
                    f"{self.path}: another process has locked it for more than {_TIMEOUT:.0f} s; stop that process, "
                    'or give another folder as "cache"'
                ) from error
            raise IntegrityError(f"{self.path}: damaged ({error}); delete it") from error


def row_keys(batch: Mapping[str, torch.Tensor]) -> list[bytes]:
    """Name each row by its tokens and token types, without the padding at its end (BLAKE2b, 16 bytes).

    Args:
        batch: ``input_ids`` and perhaps ``attention_mask`` and ``token_type_ids``, each (batch, sequence); anything
            else has no influence on logits and is ignored.
    """
    ids = _array(batch["input_ids"])
    mask = _array(batch["attention_mask"]) != 0 if "attention_mask" in batch else np.ones(ids.shape, bool)
    types = _array(batch["token_type_ids"]) if "token_type_ids" in batch else None
    # Up to the last token that counts; a row without any is taken whole.
    lengths = ids.shape[1] - mask[:, ::-1].argmax(axis=1)
    keys = []
    for i, length in enumerate(lengths):
        digest = hashlib.blake2b(ids[i, :length].tobytes(), digest_size=16)
        if types is not None:
            digest.update(b"types" + types[i, :length].tobytes())
        if not mask[i, :length].all():
            digest.update(b"mask" + mask[i, :length].tobytes())
        keys.append(digest.digest())
    return keys


def fingerprint_rows(rows: Iterable[Mapping[str, torch.Tensor]]) -> str:
    """Name a data set by its rows, whatever their order, their padding and the size of the batches.

    Args:
        rows: batches as :func:`row_keys` takes them.

    Returns:
        32 hexadecimal digits.
    """
    total = sum(int.from_bytes(key, "big") for batch in rows for key in row_keys(batch))
    return f"{total % 2**128:032x}"


def _array(tensor: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.cpu().numpy(), np.int64)


def _code(error: sqlite3.Error) -> int:
    """SQLite's code of an error; the upper bits only say which kind of it."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
