"""The table of a record, and what it says in sentences, which are computed from the figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness import FLOAT32

Row = Mapping[str, Any]
# A difference of fewer standard errors than this may be chance.
ERRORS = 2


def table(record: Mapping[str, Any]) -> str:
    """Render a record as a Markdown table, one line a method and runtime, and sentences below it."""
    batch = f"{record['batch']} × {record['length']}"
    head = ["method", "runtime", "f1", "f1 − FP32", "exact_match", "answers as FP32 %", "KL to FP32", "size MB"]
    head += [f"latency ms (1 × {record['length']})", f"rows/s ({batch})", "peak MB"]
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    for row in record["rows"]:
        title = f"{row['title']} ({row['version']})" if row["version"] else row["title"]
        if row["reason"]:
            lines.append([title, _runtime(row), _cell(row["reason"]), *[""] * (len(head) - 3)])
            continue
        metrics, timing = row["metrics"], row["timing"] or {}
        cells = [
            title,
            _runtime(row),
            f"{metrics['f1']:.2f}",
            _difference(row.get("f1_to_fp32"), row["kind"] == "fp32"),
        ]
        cells.append(f"{metrics['exact_match']:.2f}")
        figures = {**row, **timing}
        cells += [f"{figures[k]:.{digits}f}" if figures.get(k) is not None else "–" for k, digits in _DIGITS.items()]
        lines.append(cells)
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    made = {row["title"]: row["what"] for row in record["rows"] if not row["reason"]}
    ways = f"How they were made: {'; '.join(f'{title}: {what}' for title, what in made.items())}."
    notes = f"{_subject(record)} Differences of F1: mean over the questions ± its standard error, paired; below "
    notes += f"{ERRORS} standard errors they are not distinguishable from chance. {FLOAT32}"
    return f"{text}\n\n{notes}\n\n{' '.join(sentences(record))}\n\n{ways}"


# Digits behind the point, in the order of the columns.
_DIGITS = {"same_as_fp32": 1, "kl_to_fp32": 4, "size_mb": 1, "latency_ms": 1, "rows_per_second": 1, "peak_mb": 0}


def _subject(record: Mapping[str, Any]) -> str:
    """Which model, and on what it was judged; records of before say less."""
    shape = f" ({record['model_shape']})" if "model_shape" in record else ""
    questions = f"{record['questions']:,} questions" if "questions" in record else "a number of questions not recorded"
    return f"The model is {record['model']}{shape}, judged on {questions}: {record.get('what', 'see its data')}."


def _runtime(row: Row) -> str:
    """FP32 is not computed in OpenVINO's own precision, unless it says so."""
    return "OpenVINO, float32" if (row["kind"], row["runtime"]) == ("fp32", "OpenVINO") else str(row["runtime"])


def _difference(paired: Sequence[float] | None, same: bool) -> str:
    if paired is None:
        return "–"
    return "0" if same and not any(paired) else f"{paired[0]:+.2f} ± {paired[1]:.2f}"


def sentences(record: Mapping[str, Any]) -> list[str]:
    """Say where ours stands among the peers, in F1 and in latency, be it first or not."""
    rows = [row for row in record["rows"] if not row["reason"]]
    ours, peers = ([row for row in rows if row["kind"] == kind] for kind in ("ours", "peer"))
    missing = [f"{row['title']} in {row['runtime']}" for row in record["rows"] if row["reason"]]
    found = []
    if not peers or not ours:
        found.append(f"There is nothing to compare: {'no peer' if not peers else 'nothing of ours'} was measured.")
    else:
        found += [_accuracy(row, peers) for row in ours]
        timed = [row for row in peers if row["timing"]]
        if timed and all(row["timing"] for row in ours):
            found += [_latency(row, timed) for row in ours]
        else:
            found.append("Latencies were not measured.")
    if missing:
        found.append(f"Without figures: {', '.join(missing)}.")
    return found


def _accuracy(row: Row, peers: Sequence[Row]) -> str:
    """One sentence on F1 of a row of ours: which peers it is ahead of, behind, or not to be told apart from."""
    start = f"{row['title']} in {row['runtime']}: F1 {row['metrics']['f1']:.2f}"
    known = row.get("f1_to_peers")
    if known is None:
        return f"{start}; which peers differ by more than chance was not recorded."
    behind, alike, above = [], [], []
    for peer in sorted(peers, key=lambda peer: -peer["metrics"]["f1"]):
        difference, error = known[f"{peer['key']}/{peer['runtime']}"]
        sure = abs(difference) >= ERRORS * error and difference != 0
        group = (above if difference > 0 else behind) if sure else alike
        scores = f"{peer['metrics']['f1']:.2f}, {difference:+.2f} ± {error:.2f}"
        group.append(f"{peer['title']} in {peer['runtime']} ({scores})")
    parts = [f"**behind** {', '.join(behind)}"] if behind else []
    parts += [f"not distinguishable from {len(alike)}, of which the highest is {alike[0]}"] if alike else []
    parts += [f"above {', '.join(above)}"] if above else []
    return f"{start}, {'; '.join(parts)}."


def _latency(row: Row, peers: Sequence[Row]) -> str:
    """One sentence on the latency of a row of ours."""
    own = row["timing"]["latency_ms"]
    by_latency = sorted(peers, key=lambda peer: peer["timing"]["latency_ms"])
    names = [f"{p['title']} in {p['runtime']} ({p['timing']['latency_ms']:.1f} ms)" for p in by_latency]
    ahead = sum(peer["timing"]["latency_ms"] < own for peer in peers)
    start = f"{row['title']} in {row['runtime']}: latency {own:.1f} ms"
    if ahead:
        return f"{start}, **behind** {', '.join(names[:ahead])}."
    return f"{start}, at or below every peer's; the best is {names[0]}."


def _cell(text: str) -> str:
    """Text that stays in its cell."""
    return " ".join(text.split()).replace("|", "\\|")
