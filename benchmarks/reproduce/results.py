"""Put together what `make tables` found out: the file of results, and its tables."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import FLOAT32, RUNTIMES, load_words
from benchmarks.reproduce.figures import Row, Task
from benchmarks.reproduce.jobs import Earlier, Job

FORMAT = 1
DONE, NOT_RUN, FAILED = "done", "not run here", "failed"
# Everything that a row can say of a measurement.
_MEASURED = (
    "model measured latency_ms latency_spread_ms throughput load size_mb parameters zeros curve quantizers sparsity "
    "run_command seconds reason"
)


def row_of(key: str, label: str, published: Row | None, status: str, **values: Any) -> dict[str, Any]:
    """A row of the results; what is not given is null.

    Args:
        key: of the row.
        label: of the scale's own, where there is no published row, or where this is not that; or empty.
        published: the published row that it stands for, if any.
        status: one of :data:`DONE`, :data:`NOT_RUN`, :data:`FAILED`.
        values: by name, see ``_MEASURED``.
    """
    empty = dict.fromkeys(_MEASURED.split())
    return {"key": key, **_published(label or key, bool(label), published), "status": status, **empty, **values}


def _published(label: str, own: bool, row: Row | None) -> dict[str, Any]:
    """What a row says of the publication; an ``own`` label goes before the published one."""
    if row is None:
        empty = dict.fromkeys(("published_label", "published", "published_note", "source"))
        return {"label": label, **empty, "command": "", "wants": ""}
    return {
        "label": label if own else row.label,
        "published_label": row.label if own and label != row.label else None,
        "published": dict(row.published) if row.published is not None else None,
        "published_note": row.note,
        "source": row.source,
        "command": row.command,
        "wants": row.wants,
    }


def with_figures(before: Mapping[str, Any], task: Task, labels: Mapping[str, str]) -> dict[str, Any]:
    """A task of earlier results with the figures as they are published now; new rows are added.

    Args:
        before: of the earlier results.
        task: as it is published.
        labels: the scale's own, by key.
    """
    kept = {row["key"]: row for row in before["rows"]}
    rows = [
        kept.pop(row.key, row_of(row.key, "", row, NOT_RUN, reason="was not asked for"))
        | _published(labels.get(row.key, row.key), row.key in labels, row)
        for row in task.rows
    ]
    return {**before, "published_title": task.title, "source": task.source, "rows": [*rows, *kept.values()]}


def measured_row(
    job: Job, published: Row | None, trained: Mapping[str, Any], judged: Mapping[str, Any]
) -> dict[str, Any]:
    """A row that was trained and judged here; both are markers of steps."""
    values = {key: judged["value"].get(key) for key in _MEASURED.split() if key in judged["value"]}
    if published is not None and published.score:
        values["measured"] = {
            runtime: {**scores, "score": scores.get(published.score)} for runtime, scores in values["measured"].items()
        }
    values |= {
        "model": job.what,
        "run_command": trained["command"],
        "seconds": trained["seconds"],
        "commit": trained["commit"],
        "judged_commit": judged["commit"],
        "date": trained["date"],
        "resumed_from": trained["resumed_from"],
    }
    return row_of(job.name.partition("/")[2], job.label, published, DONE, **values)


def earlier_row(plan: Earlier, published: Row | None) -> dict[str, Any]:
    """A row of a record that another command has made."""
    record = json.loads(plan.record.read_text(encoding="utf-8"))
    result = record["results"][plan.result]
    if "perplexity" in result:
        measured = {name: {"perplexity": value} for name, value in result["perplexity"].items()}
        sizes = dict(zip(("torch", "ONNX", "IR"), (result["size_mb"][name] for name in RUNTIMES), strict=True))
        speed = {"latency_ms": result["latency_ms"], "size_mb": sizes}
        seconds = record["seconds"][plan.result]
    else:
        measured, speed, seconds = {"OpenVINO": result["metrics"]}, {}, result["seconds"]
    made_by = plan.made_by
    # Where a record's arguments are flags, its command does not work without them: they are its budget.
    if record["arguments"][:1] and record["arguments"][0].startswith("--"):
        made_by += f" EXTRA={shlex.quote(shlex.join(record['arguments']))}"
    return row_of(
        plan.name.partition("/")[2],
        plan.label,
        published,
        DONE,
        model=plan.what,
        measured=measured,
        run_command=made_by,
        seconds=seconds,
        commit=record["overlay_commit"],
        date=record["date"],
        record=f"benchmarks/measured/{plan.record.name}",
        **speed,
    )


def table(results: Mapping[str, Any], record: str | None = None) -> str:
    """Render results as Markdown: a table for each task with something measured, one line for what was not run.

    Args:
        results: as they are written.
        record: the file that they are in, for that line; None for the copy that is kept with the project.
    """
    parts, idle = [], []
    for name, task in results["tasks"].items():
        rows = [row for row in task["rows"] if row["status"] != NOT_RUN]
        if rows:
            parts.append(f"**{name}: {task['title']}**\n\n{_task_table(task, rows)}{_task_words(task)}")
        if left := len(task["rows"]) - len(rows):
            idle.append(f"{name} {left}")
    if any((row["latency_ms"] or {}).get("OpenVINO") for task in results["tasks"].values() for row in task["rows"]):
        parts.append(f"In brackets: quartiles. {FLOAT32}")
    if idle:
        place = record or f"benchmarks/measured/{results['name']}.json"
        parts.append(
            "Rows that were not run here, each with its reason, its command and the hardware that it wants in "
            f"`{place}`: {', '.join(idle)}."
        )
    return "\n\n".join(parts)


def _task_table(task: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    metrics = " / ".join(task["metrics"])
    head = ["row", f"published: {metrics}", *(f"{name}: {metrics}" for name in RUNTIMES)]
    head += ["IR MB", "OpenVINO ms", "OpenVINO rows/s", "non-zero parameters M", "trained s"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for row in rows:
        if row["status"] == FAILED:
            lines.append([_label(row), _scores(row["published"], task["metrics"]), f"failed: {row['reason']}"])
            lines[-1] += [""] * (len(head) - len(lines[-1]))
            continue
        measured = row["measured"] or {}
        left = None if row["parameters"] is None else (row["parameters"] - (row["zeros"] or 0)) / 1e6
        lines.append(
            [
                _label(row),
                _scores(row["published"], task["metrics"]),
                *(_scores(measured.get(name), task["metrics"]) for name in RUNTIMES),
                _number((row["size_mb"] or {}).get("IR")),
                _latency(row),
                _number((row["throughput"] or {}).get("OpenVINO")),
                _number(left, 2),
                _number(row["seconds"], 0) + (", resumed" if row.get("resumed_from") else ""),
            ]
        )
    return "\n".join(f"| {' | '.join(cell.replace('|', '¦') for cell in line)} |" for line in lines)


def _label(row: Mapping[str, Any]) -> str:
    """What a row is, and what it stands for."""
    published = row.get("published_label")
    return f"{row['label']} (published: {published})" if published else str(row["label"])


def _latency(row: Mapping[str, Any]) -> str:
    """Median, and quartiles where they were kept."""
    spread = (row.get("latency_spread_ms") or {}).get("OpenVINO")
    text = _number((row["latency_ms"] or {}).get("OpenVINO"))
    return f"{text} ({_number(spread[0])}–{_number(spread[1])})" if spread else text


def _task_words(task: Mapping[str, Any]) -> str:
    """What the figures of a task are of."""
    parts = []
    if task["data"]:
        parts.append(
            f"{task['data'][0]['what']}; "
            + ", ".join(f"{d['file']} (sha256 {d['sha256'][:12]}…)" for d in task["data"])
        )
    # Rows of one model are told together.
    models: dict[str, list[str]] = {}
    for row in task["rows"]:
        if row["status"] == DONE:
            models.setdefault(row["model"], []).append(row["label"])
    parts += [f"{', '.join(labels)}: {model}" for model, labels in models.items()]
    if words := load_words(task["rows"]):
        parts.append(words)
    return f"\n\n{'. '.join(parts)}." if parts else ""


def _scores(figures: Mapping[str, Any] | None, metrics: Sequence[str]) -> str:
    if not figures:
        return "–"
    return " / ".join(_number(figures.get(metric), 2) for metric in metrics)


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def commits_of(results: Mapping[str, Any]) -> list[str]:
    """All commits that rows were made with, those of earlier records left out."""
    rows = [row for task in results["tasks"].values() for row in task["rows"]]
    return sorted({row[k] for row in rows if "record" not in row for k in ("commit", "judged_commit") if row.get(k)})


def published_row(task: Task, key: str) -> Row | None:
    """The published row of this key, if any."""
    return next((row for row in task.rows if row.key == key), None)


def read(path: Path) -> dict[str, Any]:
    """Results that are there already, or none."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"tasks": {}}
    return found if found.get("format") == FORMAT else {"tasks": {}}
