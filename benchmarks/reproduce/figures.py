"""The published figures: benchmarks/published/*.toml, and the command lines of benchmarks/published.toml."""

import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from nncf_transformers.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent.parent
FIGURES = ROOT / "benchmarks" / "published"
COMMANDS = ROOT / "benchmarks" / "published.toml"
# How a command line begins that scripts/train.py composes.
OURS = ("python", "scripts/train.py")


@dataclass(frozen=True)
class Row:
    """One published model.

    Attributes:
        key: of the row in its task.
        label: what it is.
        published: figures by metric, percentages but for the perplexity; None where none were published.
        note: under which conditions, and what else a reader has to know.
        source: where they were published.
        command: what repeats it, one shell line. Those of scripts/train.py get an output folder of their own here.
        wants: the hardware, and what else the command needs.
        score: of what is measured, that which stands beside a published ``score`` of unknown kind.
        lacks: what this project lacks for the row; the command is then only the nearest, and not run for it.
    """

    key: str
    label: str
    published: Mapping[str, float] | None
    note: str | None
    source: str
    command: str
    wants: str
    score: str = ""
    lacks: str = ""

    @property
    def train_words(self) -> list[str] | None:
        """The words for scripts/train.py, if that is what the command runs."""
        words = shlex.split(self.command)
        return words[len(OURS) :] if tuple(words[: len(OURS)]) == OURS else None


@dataclass(frozen=True)
class Task:
    """One table: a model and a data set in several forms."""

    name: str
    system: str
    title: str
    source: str
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]


def load_figures(folder: Path = FIGURES) -> dict[str, Task]:
    """All tasks by name, in the order of the files and of the tables in them.

    Raises:
        UsageError: a table lacks something, or a key stands twice.
    """
    tasks: dict[str, Task] = {}
    files = [(tomllib.loads(file.read_text(encoding="utf-8")), file.name) for file in sorted(folder.glob("*.toml"))]
    for tables, file in sorted(files, key=lambda item: item[0]["order"]):
        for name, table in tables.items():
            if name in ("order", "system"):
                continue
            if name in tasks:
                raise UsageError(f"{file}: the task {name} stands in another file, too; rename one of them")
            tasks[name] = _task(name, tables["system"], table, file)
    return tasks


def _task(name: str, system: str, table: Mapping[str, Any], file: str) -> Task:
    try:
        common = {key: table.get(key) for key in ("source", "wants", "note", "command")}
        rows = tuple(
            Row(**{"published": None, **{k: v for k, v in {**common, **row}.items() if k in Row.__annotations__}})
            for row in table["rows"]
        )
        rows = tuple(replace(row, command=_with_folder(row.command, f"{name}-{row.key}")) for row in rows)
        task = Task(name, system, table["title"], table["source"], tuple(table["metrics"]), rows)
    except (KeyError, TypeError) as error:
        raise UsageError(f"{file}: the task {name}: {error}; see benchmarks/published/README.md") from error
    for row in rows:
        if not (row.source and row.command and row.wants):
            raise UsageError(f"{file}: {name}/{row.key}: source, command and wants are needed")
    if len({row.key for row in rows}) < len(rows):
        raise UsageError(f"{file}: the task {name}: a key stands twice")
    return task


def _with_folder(command: str | None, folder: str) -> Any:
    """Name the output folder: a second training in the folder of another would go on from its checkpoints."""
    start = shlex.join(OURS)
    if not command or not command.startswith(f"{start} ") or "--out " in command:
        return command
    own, dashes, extra = command.partition(" -- ")
    return f"{own} --out runs/v4.57/{folder}{dashes}{extra}"


def choose(tasks: Mapping[str, Task], names: list[str]) -> list[str]:
    """The names if they are all tasks, or all tasks if there are none.

    Raises:
        UsageError: there is no such task; says the nearest.
    """
    for name in names:
        if name not in tasks:
            near = get_close_matches(name, tasks, n=1, cutoff=0)
            raise UsageError(
                f"TASK={name}: there is no such table; the nearest is {near[0]}, all are {', '.join(tasks)}"
            )
    return names or list(tasks)
