"""Steps that survive being killed: each has a marker that is written last, and says what the step was made from."""

import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from nncf_transformers.errors import CompressionError
from overlay.errors import OverlayError

ROOT = Path(__file__).resolve().parent.parent.parent
# A step is given the checkpoint to go on from, or None; what it returns is kept in its marker, as JSON.
Work = Callable[[Path | None], Any]


@dataclass(frozen=True)
class Step:
    """One thing to do, once.

    Attributes:
        name: for messages, such as ``squad/int8: training``.
        kind: of the markers' file names.
        folder: where its markers are.
        command: what it does, in words that are the same on every machine.
        inputs: what it does it with: SHA-256 by name.
        owns_folder: all of the folder is this step's, and goes when the step begins anew.
    """

    name: str
    kind: str
    folder: Path
    command: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    owns_folder: bool = False

    @property
    def digest(self) -> str:
        """Of the command and the inputs: another digest is another step."""
        whole = json.dumps([self.command, dict(self.inputs)], sort_keys=True)
        return hashlib.sha256(whole.encode()).hexdigest()

    @property
    def marker(self) -> Path:
        return self.folder / f"{self.kind}.done.json"

    @property
    def started(self) -> Path:
        return self.folder / f"{self.kind}.started.json"


class StepError(Exception):
    """A step has failed; one line says why."""


def finished(step: Step) -> dict[str, Any] | None:
    """The marker of a step that is done already, with this command and these inputs."""
    record = _read(step.marker)
    return record if record is not None and record.get("digest") == step.digest else None


def perform(step: Step, work: Work, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Do a step unless it is done, and return its marker.

    A step that was interrupted goes on from its last checkpoint. One that failed, that was made from something else, or
    that has no checkpoint, begins anew in an empty folder.

    Raises:
        StepError: it has failed. An interruption from the keyboard passes through.
    """
    if (record := finished(step)) is not None:
        return record
    checkpoint = _begin(step, say)
    start = time.perf_counter()
    try:
        value = work(checkpoint)
    except (Exception, SystemExit) as error:
        # What was killed goes on from its checkpoint; what failed by itself would fail there again.
        if not getattr(error, "signal", 0):
            _write(step.started, {"digest": step.digest, "failed": True})
        raise StepError(_reason(error)) from error
    record = {
        "step": step.name,
        "command": step.command,
        "inputs": dict(step.inputs),
        "digest": step.digest,
        "seconds": round(time.perf_counter() - start, 1),
        "resumed_from": checkpoint.name if checkpoint else None,
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        "value": value,
    }
    _write(step.marker, record)
    step.started.unlink(missing_ok=True)
    return record


def _begin(step: Step, say: Callable[[str], None]) -> Path | None:
    """Leave the marker that the step has begun; returns the checkpoint to go on from."""
    before, begun = _read(step.marker), _read(step.started)
    checkpoint = None
    if before is not None:
        say(f"{step.name}: again, as {_changed(before, step)} has changed")
    elif begun is not None and begun.get("failed"):
        say(f"{step.name}: anew, as it failed before")
    elif begun is not None and begun.get("digest") != step.digest:
        say(f"{step.name}: anew, as {_changed(begun, step)} has changed since it was interrupted")
    elif begun is not None and (checkpoint := last_checkpoint(step.folder)) is not None:
        say(f"{step.name}: goes on from {checkpoint.name}")
    elif begun is not None:
        say(f"{step.name}: anew, as it was interrupted and has no checkpoint")
    if checkpoint is None:
        if step.owns_folder and step.folder.exists():
            shutil.rmtree(step.folder)
        step.marker.unlink(missing_ok=True)
    _write(step.started, {"command": step.command, "inputs": dict(step.inputs), "digest": step.digest})
    return checkpoint


def _reason(error: BaseException) -> str:
    """One line that says why."""
    if reason := getattr(error, "reason", None):
        return str(reason)
    text = " ".join(str(error).split())
    known = isinstance(error, (OverlayError, CompressionError, SystemExit))
    return text if known and text else f"{type(error).__name__}: {text or 'no message'}"


def _changed(before: Mapping[str, Any], step: Step) -> str:
    """What is not as it was."""
    names = [] if before.get("command") == step.command else ["its command"]
    old, new = before.get("inputs", {}), step.inputs
    names += sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return ", ".join(names) or "something"


def last_checkpoint(folder: Path) -> Path | None:
    """The last whole checkpoint of a training below ``folder``; one that was being written is deleted.

    The Trainer writes ``trainer_state.json`` after all else.
    """
    found: dict[int, Path] = {}
    for path in folder.glob("**/checkpoint-*"):
        number = path.name.removeprefix("checkpoint-")
        if not path.is_dir() or not number.isdigit():
            continue
        if _read(path / "trainer_state.json") is None:
            shutil.rmtree(path)
        else:
            found[int(number)] = path
    return found[max(found)] if found else None


@lru_cache
def commit() -> str:
    """The commit of this repository, with ``-dirty`` where files differ from it."""
    words = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True).stdout.strip() or "unknown"


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is none or a damaged one: the step is then not done."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _write(path: Path, record: Mapping[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
