"""The table of a record, and what it says in sentences, which are computed from the figures."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def table(record: Mapping[str, Any]) -> str:
    """Render a record as a Markdown table, one line a method and runtime, and sentences below it."""
    batch = f"{record['batch']} × {record['length']}"
    head = ["method", "runtime", "f1", "exact_match", "answers as FP32 %", "KL to FP32", "size MB"]
    head += [f"latency ms (1 × {record['length']})", f"rows/s ({batch})", "peak MB"]
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    for row in record["rows"]:
        title = f"{row['title']} ({row['version']})" if row["version"] else row["title"]
        if row["reason"]:
            lines.append([title, row["runtime"], _cell(row["reason"]), *[""] * (len(head) - 3)])
            continue
        metrics, timing = row["metrics"], row["timing"] or {}
        cells = [title, row["runtime"], f"{metrics['f1']:.2f}", f"{metrics['exact_match']:.2f}"]
        figures = {**row, **timing}
        cells += [f"{figures[k]:.{digits}f}" if figures.get(k) is not None else "–" for k, digits in _DIGITS.items()]
        lines.append(cells)
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    made = {row["title"]: row["what"] for row in record["rows"] if not row["reason"]}
    ways = f"How they were made: {'; '.join(f'{title}: {what}' for title, what in made.items())}."
    return f"{text}\n\n{' '.join(sentences(record))}\n\n{ways}"


# Digits behind the point, in the order of the columns.
_DIGITS = {"same_as_fp32": 1, "kl_to_fp32": 4, "size_mb": 1, "latency_ms": 1, "rows_per_second": 1, "peak_mb": 0}


def sentences(record: Mapping[str, Any]) -> list[str]:
    """Say where ours stands among the peers, in F1 and in latency, be it first or not."""
    rows = [row for row in record["rows"] if not row["reason"]]
    ours, peers = ([row for row in rows if row["kind"] == kind] for kind in ("ours", "peer"))
    missing = [f"{row['title']} in {row['runtime']}" for row in record["rows"] if row["reason"]]
    found = []
    if not peers or not ours:
        found.append(f"There is nothing to compare: {'no peer' if not peers else 'nothing of ours'} was measured.")
    else:
        found += [_standing("F1", row, peers, lambda r: r["metrics"]["f1"], -1, "{:.2f}") for row in ours]
        timed = [row for row in peers if row["timing"]]
        if timed and all(row["timing"] for row in ours):
            found += [_standing("latency", r, timed, lambda r: r["timing"]["latency_ms"], 1, "{:.1f} ms") for r in ours]
        else:
            found.append("Latencies were not measured.")
    if missing:
        found.append(f"Without figures: {', '.join(missing)}.")
    return found


def _standing(what: str, row: Row, peers: Sequence[Row], value: Callable[[Row], float], sign: int, form: str) -> str:
    """One sentence on a row of ours; ``sign`` 1 where less is better, -1 where more is."""
    own = value(row)
    ahead = sorted((peer for peer in peers if sign * value(peer) < sign * own), key=lambda peer: sign * value(peer))
    name = f"{row['title']} in {row['runtime']}: {what} {form.format(own)}"
    if ahead:
        others = ", ".join(f"{peer['title']} in {peer['runtime']} ({form.format(value(peer))})" for peer in ahead)
        return f"{name}, **behind** {others}."
    best = min(peers, key=lambda peer: sign * value(peer))
    side = "at or above" if sign < 0 else "at or below"
    return f"{name}, {side} every peer's (the best: {best['title']} in {best['runtime']}, {form.format(value(best))})."


def _cell(text: str) -> str:
    """Text that stays in its cell."""
    return " ".join(text.split()).replace("|", "\\|")
