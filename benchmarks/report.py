#!/usr/bin/env python
"""Render the results of the tables as one HTML page that needs nothing else: no script, no font, no network.

python benchmarks/report.py runs/tables/cpu/results.json --out report.html
"""

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.harness import FLOAT32, load_words  # noqa: E402
from benchmarks.report_check import DONE, FAILED, NOT_RUN, check_results, read_results  # noqa: E402
from benchmarks.report_figures import baseline_key, drawings  # noqa: E402
from benchmarks.report_svg import escape, finite  # noqa: E402
from nncf_transformers.errors import CompressionError, UsageError  # noqa: E402

STYLE = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
# What the figures of a scale say, and what they do not.
SCALES = {
    "smoke": (
        "These figures show that every command runs to its end, and nothing else: the models are tiny or trained for a "
        "few steps, on a handful of samples. No accuracy, latency or size here says anything about the methods."
    ),
    "cpu": (
        "These figures are of smaller models, shorter trainings or slices of the data, as far as a processor without a "
        "GPU gets. Rows of one table share model and data, not the budget: compressed rows train on from the FP32 row, "
        "so that a part of what they gain may be the longer training. They are not the published results reproduced: "
        "a slice is never the data set, and its accuracy is not the data set's."
    ),
    "full": (
        "These figures are of the published protocol: whole data sets, the published models and number of epochs. "
        "Where a row says that it was measured in another way, that way counts."
    ),
}
_DECIMALS = {"latency_ms": 2, "throughput": 1, "size_mb": 1}
# The size of what a runtime reads, by the names that it goes by.
_FILES = {"torch": ("torch",), "ONNX Runtime": ("ONNX", "ONNX Runtime"), "OpenVINO": ("IR", "OpenVINO")}
# Where a row says for itself what it was made with.
_PROVENANCE = {
    "commit": "commit",
    "judged_commit": "judged with commit",
    "date": "date",
    "resumed_from": "resumed from",
    "record": "record",
}
_CIRCUMSTANCES = {
    "date": "date",
    "pin": "pin",
    "upstream_commit": "upstream commit",
    "patched_commit": "patched commit",
    "overlay_commit": "commit of the overlay",
    "commit": "commit",
    "seed": "seed",
    "machine": "machine",
    "versions": "versions",
    "arguments": "arguments",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Read, render, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, metavar="RESULTS.json", help="what `make tables` has written")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.html", help="the page")
    args = parser.parse_args(argv)
    try:
        write_report(read_results(args.results), args.out)
    except CompressionError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"wrote {args.out}")
    return 0


def write_report(results: dict[str, Any], path: Path) -> None:
    """Write the page whole or not at all.

    Raises:
        UsageError: the results have another form, or the file cannot be written.
    """
    page = render_report(results)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UsageError(f"--out {path}: cannot be written ({error.strerror}); choose another file") from error


def render_report(results: dict[str, Any]) -> str:
    """Render the page; the same results give the same page.

    Raises:
        UsageError: the results have another form than the runner of the tables gives them.
    """
    check_results(results)
    tasks = results["tasks"]
    names = _identities(tasks)
    links = "".join(f'<a href="#{names[name]}">{escape(name)}</a>' for name, task in tasks.items())
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">',
        f"<title>{escape(results['title'])}</title><style>{STYLE}</style></head><body>",
        _head(results),
        f'<nav aria-label="Tasks">{links}</nav>' if len(tasks) > 1 else "",
        "<main>",
        *(_task(name, task, names[name]) for name, task in tasks.items()),
        "" if tasks else "<p>The results hold no task.</p>",
        "</main>",
        _circumstances(results),
        "</body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _identities(tasks: Mapping[str, Any]) -> dict[str, str]:
    """A name for each task that can stand in a link."""
    return {name: f"t{n}-{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}" for n, name in enumerate(tasks, 1)}


def _head(results: Mapping[str, Any]) -> str:
    rows = [row for task in results["tasks"].values() for row in task["rows"]]
    counts = [(sum(row["status"] == status for row in rows), status) for status in (DONE, NOT_RUN, FAILED)]
    words = {DONE: "measured", NOT_RUN: "not run here", FAILED: "failed"}
    tally = ", ".join(f"{count} {words[status]}" for count, status in counts if count) or "none"
    facts = [f"scale <b>{escape(results['scale'])}</b>", f"{len(rows)} rows: {tally}"]
    facts += [escape(fact) for fact in (results.get("date"), _machine(results.get("machine"))) if fact]
    return (
        f'<header><h1>{escape(results["title"])}</h1><p class="facts">{" · ".join(facts)}</p>'
        f'<p class="scale">{escape(SCALES[results["scale"]])}</p></header>'
    )


def _machine(machine: Any) -> str:
    if not isinstance(machine, dict):
        return str(machine) if machine else ""
    parts = [str(machine.get("processor") or "")]
    parts += [f"{machine['cores']} cores"] if machine.get("cores") else []
    parts += [str(v) for k, v in machine.items() if k not in ("processor", "cores", "system") and v]
    return ", ".join(part for part in parts if part)


def _task(name: str, task: Mapping[str, Any], identity: str) -> str:
    published = [task[key] for key in ("published_title", "source") if task.get(key)]
    source = f'<p class="soft">Published: {escape("; ".join(published))}.</p>' if published else ""
    timed = any((row.get("latency_ms") or {}).get("OpenVINO") for row in task["rows"])
    words = [*([FLOAT32] if timed else []), *([f"{load}."] if (load := load_words(task["rows"])) else [])]
    return "\n".join(
        (
            f'<section id="{identity}"><h2>{escape(name)}: {escape(task["title"])}</h2>{source}',
            _table(task),
            f'<p class="soft">{escape(" ".join(words))}</p>' if words else "",
            drawings(task, identity),
            _rows_in_words(task),
            _data(task.get("data") or []),
            "</section>",
        )
    )


def _table(task: Mapping[str, Any]) -> str:
    """Published beside measured, a line for each runtime of a row."""
    metrics, rows = task["metrics"], task["rows"]
    extra = [name for name in ("latency_ms", "throughput", "size_mb") if any(row.get(name) for row in rows)]
    titles = {"latency_ms": "latency, ms", "throughput": "samples/s", "size_mb": "size, MB"}
    first = metrics[0] if metrics else None
    count = len(metrics)
    head = (
        '<thead><tr><th scope="col" rowspan="2">model</th>'
        + (f'<th scope="colgroup" colspan="{count}" class="group">published</th>' if count else "")
        + '<th scope="col" rowspan="2" class="group">runtime</th>'
        + f'<th scope="colgroup" colspan="{count + bool(first) + len(extra)}" class="group">measured</th></tr><tr>'
        + "".join(f'<th scope="col" class="n">{escape(m)}</th>' for m in metrics)
        + "".join(f'<th scope="col" class="n">{escape(m)}</th>' for m in metrics)
        + (f'<th scope="col" class="n">{escape(first)} − FP32</th>' if first else "")
        + "".join(f'<th scope="col" class="n">{titles[name]}</th>' for name in extra)
        + "</tr></thead>"
    )
    body = "".join(_table_row(row, _baseline(row, rows), metrics, extra) for row in rows)
    caption = f"<caption>Published and measured{_direction(metrics)}</caption>"
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="Figures of {escape(task["title"])}">'
        f"<table>{caption}{head}{body}</table></div>"
    )


def _direction(metrics: Sequence[str]) -> str:
    low = [metric for metric in metrics if metric in ("perplexity", "loss", "eval_loss", "mse")]
    return f" ({escape(', '.join(low))}: lower is better)" if low else ""


def _table_row(
    row: Mapping[str, Any], base: Mapping[str, Any] | None, metrics: Sequence[str], extra: Sequence[str]
) -> str:
    published = row.get("published") or {}
    notes = [f"published: {row['published_label']}"] if row.get("published_label") else []
    notes += [row["published_note"]] if row.get("published_note") else []
    note = f'<small class="soft">{escape("; ".join(notes))}</small>' if notes else ""
    runtimes = _runtimes(row) if row["status"] == DONE else []
    span = f' rowspan="{len(runtimes)}"' if len(runtimes) > 1 else ""
    start = f'<th scope="rowgroup"{span}>{escape(row["label"])}{note}</th>'
    start += "".join(f'<td class="n"{span}>{_number(published.get(metric))}</td>' for metric in metrics)
    width = 1 + len(metrics) + bool(metrics) + len(extra)
    if not runtimes:
        return f'<tbody><tr>{start}<td colspan="{width}" class="why">{_why(row)}</td></tr></tbody>'
    lines = []
    for runtime in runtimes:
        measured = (row.get("measured") or {}).get(runtime, {})
        cells = [f'<td class="runtime">{escape(runtime)}</td>']
        cells += [f'<td class="n">{_number(measured.get(metric))}</td>' for metric in metrics]
        if metrics:
            other = ((base or {}).get("measured") or {}).get(runtime, {})
            cells.append(f'<td class="n">{_difference(measured.get(metrics[0]), other.get(metrics[0]))}</td>')
        cells += [
            f'<td class="n">{_number(_of_runtime(row.get(name), runtime), _DECIMALS[name])}'
            f"{_spread(row, runtime) if name == 'latency_ms' else ''}</td>"
            for name in extra
        ]
        lines.append("".join(cells))
    return f"<tbody><tr>{start}{'</tr><tr>'.join(lines)}</tr></tbody>"


def _spread(row: Mapping[str, Any], runtime: str) -> str:
    """The quartiles of the latency, where they were kept."""
    spread = (row.get("latency_spread_ms") or {}).get(runtime)
    return f'<br><small class="soft">{_number(spread[0])}–{_number(spread[1])}</small>' if spread else ""


def _why(row: Mapping[str, Any]) -> str:
    """In a row without figures: why there are none."""
    if row["status"] == DONE:
        return "run, but nothing was measured" + (f": {escape(row['reason'])}" if row.get("reason") else "")
    if row["status"] == FAILED:
        return f'<b class="bad">failed</b>: {escape(row.get("reason") or "no reason was recorded")}'
    wants = f" Wants {escape(row['wants'])}." if row.get("wants") else ""
    reason = f": {escape(row['reason'])}" if row.get("reason") else ""
    return f"<b>not run here</b>{reason}.{wants}"


def _runtimes(row: Mapping[str, Any]) -> list[str]:
    """The runtimes that a row has any figure of, in the order of the results."""
    named = [name for part in ("measured", "latency_ms", "throughput") for name in (row.get(part) or {})]
    files = {name: runtime for runtime, names in _FILES.items() for name in names}
    named += [files.get(name, name) for name in (row.get("size_mb") or {})]
    return list(dict.fromkeys(named))


def _of_runtime(values: Mapping[str, Any] | None, runtime: str) -> Any:
    """A runtime's value; sizes go by the names of files."""
    values = values or {}
    names = (runtime, *_FILES.get(runtime, ()))
    return next((values[name] for name in names if values.get(name) is not None), None)


def _baseline(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The FP32 row that a row is compared with."""
    by_key = {other["key"]: other for other in rows}
    key = baseline_key(row["key"], list(by_key))
    return by_key[key] if key is not None else None


def _number(value: Any, decimals: int = 2) -> str:
    if value is None:
        return '<span class="soft">–</span>'
    if not finite(value):
        return escape(value)
    return f"{value:,.{decimals}f}".replace("-", "−")


def _difference(value: Any, other: Any) -> str:
    if not (finite(value) and finite(other)):
        return ""
    text = f"{value - other:+.2f}".replace("-", "−")
    return "0.00" if text in ("+0.00", "−0.00") else text


def _rows_in_words(task: Mapping[str, Any]) -> str:
    """How each row came about, or would."""
    blocks = []
    for row in task["rows"]:
        facts = [("measured", row.get("model")), ("published in", row.get("source")), ("wants", row.get("wants"))]
        facts += [("parameters", _parameters(row)), ("took", _duration(row.get("seconds")))]
        facts += [(name, row.get(key)) for key, name in _PROVENANCE.items()]
        facts += [("published protocol", _code(row.get("command"))), ("run here", _code(row.get("run_command")))]
        cells = [f"<dt>{name}</dt><dd>{_plain(value)}</dd>" for name, value in facts if value]
        if cells:
            state = "" if row["status"] == DONE else f' <span class="soft">{escape(row["status"])}</span>'
            blocks.append(f"<h4>{escape(row['label'])}{state}</h4><dl>{''.join(cells)}</dl>")
    if not blocks:
        return ""
    return f"<details open><summary>How the rows came about, and how to run them</summary>{''.join(blocks)}</details>"


class _Markup(str):
    """HTML, which is not to be escaped again."""


def _plain(value: str) -> str:
    return value if isinstance(value, _Markup) else escape(value)


def _code(command: str | None) -> _Markup | None:
    return _Markup(f"<pre><code>{escape(command)}</code></pre>") if command else None


def _parameters(row: Mapping[str, Any]) -> str | None:
    total, zeros = row.get("parameters"), row.get("zeros")
    if total is None:
        return None
    share = f", {zeros:,} of them zero ({100 * zeros / total:.1f} %)" if zeros is not None and total else ""
    return f"{total:,}{share}"


def _duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _data(files: Sequence[Mapping[str, Any]]) -> str:
    if not files:
        return '<p class="soft">Data: the results name no file.</p>'
    rows = "".join(
        f'<tr><th scope="row">{escape(f["file"])}</th><td>{escape(f.get("what") or "")}</td>'
        f'<td class="hash"><code>{escape(f["sha256"])}</code></td></tr>'
        for f in files
    )
    head = '<thead><tr><th scope="col">file</th><th scope="col">what</th><th scope="col">sha256</th></tr></thead>'
    return f'<div class="wide"><table class="files"><caption>Data</caption>{head}<tbody>{rows}</tbody></table></div>'


def _circumstances(results: Mapping[str, Any]) -> str:
    """Commit, versions, seed, machine and files; what the results do not say is left out."""
    given = results.get("circumstances")
    given = given if isinstance(given, dict) else results
    cells = []
    for key, name in _CIRCUMSTANCES.items():
        value = given.get(key)
        if value not in (None, "", [], {}):
            cells.append(f"<dt>{name}</dt><dd>{escape(_in_words(key, value))}</dd>")
    data, entries = given.get("data") or given.get("files"), []
    for name, entry in data.items() if isinstance(data, dict) else enumerate(data if isinstance(data, list) else []):
        if isinstance(entry, dict) and {"file", "sha256"} <= entry.keys():
            entries.append({"what": name if isinstance(name, str) else "", **entry})
    missing = [
        name for key, name in _CIRCUMSTANCES.items() if key in ("seed", "machine", "versions") and key not in given
    ]
    note = f'<p class="soft">The results do not say: {escape(", ".join(missing))}.</p>' if missing else ""
    return (
        f"<footer><h2>Circumstances</h2><dl>{''.join(cells)}</dl>{note}{_data(entries) if entries else ''}"
        f'<p class="soft">Made from {escape(results.get("name") or "the results")} by '
        "benchmarks/report.py.</p></footer>"
    )


def _in_words(key: str, value: Any) -> str:
    if key == "machine":
        return _machine(value)
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


if __name__ == "__main__":
    sys.exit(main())
