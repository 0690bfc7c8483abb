#!/usr/bin/env python
"""Render benchmarks/published/*.toml and benchmarks/measured/*.json into README.md, between its markers.

python benchmarks/render.py            # rewrite the README
python benchmarks/render.py --check    # exit 1 if that would change it
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.adapter_rows import table as adapters_table  # noqa: E402
from benchmarks.bench_drift import table as drift_table  # noqa: E402
from benchmarks.harness import FLOAT32, table  # noqa: E402
from benchmarks.language import table as language_table  # noqa: E402
from benchmarks.methods import table as methods_table  # noqa: E402
from benchmarks.packed import table as packed_table  # noqa: E402
from benchmarks.peers.table import table as peers_table  # noqa: E402
from benchmarks.reproduce.figures import Row, load_figures  # noqa: E402
from benchmarks.reproduce.results import commits_of  # noqa: E402
from benchmarks.reproduce.results import table as results_table  # noqa: E402

README = ROOT / "README.md"
MEASURED = ROOT / "benchmarks" / "measured"
# Records of benchmarks, as their --json writes them; all others are of measure.py.
BENCHES = (
    *("bench-step", "bench-latency", "bench-drift", "bench-methods", "bench-retrieval", "bench-mining"),
    "bench-pipeline",
)
# What a pipeline may take of the bare model's time.
MOST_ADDED = 1.15


def main() -> int:
    """Rewrite the README's tables, or check them."""
    before = README.read_text(encoding="utf-8")
    after = render(before, {name: block() for name, block in BLOCKS.items()})
    if "--check" in sys.argv[1:]:
        if before != after:
            print("error: README.md: its tables are not those of benchmarks/; run `make readme`", file=sys.stderr)
        return int(before != after)
    README.write_text(after, encoding="utf-8")
    return 0


def render(text: str, blocks: dict[str, str]) -> str:
    """Replace what stands between ``<!-- NAME -->`` and ``<!-- /NAME -->`` by the block of that name."""
    for name, block in blocks.items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if start not in text or end not in text:
            raise SystemExit(f"error: README.md: {start} or {end} is missing; put both where the table belongs")
        head, rest = text.split(start, 1)
        text = f"{head}{start}\n\n{block}\n\n{end}{rest.split(end, 1)[1]}"
    return text


def published() -> str:
    """The figures to reproduce, one line a task."""
    lines = ["| task | what | metric | FP32 | compressed | whose |", "| --- | --- | --- | --- | --- | --- |"]
    for task in load_figures().values():
        dense = [row for row in task.rows if row.key.endswith(("fp32", "dense"))]
        cells = [
            "<br>".join(_figure(row, task.metrics, alone=len(rows) == 1) for row in rows) or "–"
            for rows in (dense, [row for row in task.rows if row not in dense])
        ]
        lines.append(
            f"| `{task.name}` | {task.title} | {' / '.join(task.metrics)} | {' | '.join(cells)} | {task.system} |"
        )
    return "\n".join(lines)


def _figure(row: Row, metrics: Sequence[str], *, alone: bool) -> str:
    """The figures of a row, and what it is where there are several."""
    figures = row.published
    text = "not published" if figures is None else " / ".join(str(figures.get(metric, "–")) for metric in metrics)
    return text if alone else f"{row.label}: {text}"


def tables() -> str:
    """The published tables, made again; one section a scale, the generated data left out."""
    records = [record for record in _records("tables") if record["scale"] != "smoke"]
    return "\n\n".join(f"**{record['title']}**\n\n{results_table(record)}\n\n{_where(record)}" for record in records)


def _where(record: dict[str, Any]) -> str:
    """On what, and by which commit, in one paragraph."""
    versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
    return (
        f"Pin {record['pin']} ({record['upstream_commit'][:10]}), this project at {', '.join(commits_of(record))}, "
        f"seed {record['seed']}, {record['machine']['processor']}, {record['machine']['cores']} cores, "
        f"{record['date']}. "
        f"{versions}. All of it, training curves, ranges of quantizers and the command of each row included, is in "
        f"`benchmarks/measured/{record['name']}.json`."
    )


def measured() -> str:
    """One section a record of measure.py, oldest first."""
    return "\n\n".join([*(_section(record) for record in _records("measure")), FLOAT32])


def _tables(kind: str, table: Callable[[dict[str, Any]], str]) -> str:
    """One section a record of a kind, oldest first."""
    return "\n\n".join(
        f"**{record['title']}**\n\n{table(record)}\n\n{_circumstances(record)}" for record in _records(kind)
    )


def retrieval() -> str:
    """Search among many passages, and what mining is of a training step."""
    search, mining = (json.loads((MEASURED / f"{name}.json").read_text(encoding="utf-8")) for name in BENCHES[4:6])
    lines = [
        "| size, search | build, passages/s | query ms, median | 95th percentile | recall@10 |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for size, record in search.items():
        for name, row in record["index"]["methods"].items():
            chosen = ", chosen here" if name == record["index"]["auto"] else ""
            cells = (f"{size}, {name}{chosen}", f"{row['passages/s']:,}", f"{row['query ms']:.1f}")
            cells += (f"{row['query p95 ms']:.1f}", f"{row['recall@10']:.3f}")
            lines.append(f"| {' | '.join(cells)} |")
    shares = [
        f"{100 * row['share']:.0f} % with {name} ({row['candidates']} candidates a step)"
        for name, row in mining.items()
        if isinstance(row, dict)
    ]
    first = next(iter(search.values()))
    return "\n\n".join(
        (
            "\n".join(lines),
            f"{first['passages']:,} synthetic passages, {first['threads']} thread of an {first['machine']}. Of a "
            f"training step (MiniLM-L6's shape, {mining['threads']} threads), mining takes, the embedding of its "
            f"candidates included: {'; '.join(shares)}.",
        )
    )


def bench() -> str:
    """The ratios of the benchmarks, one line each."""
    step, latency = (json.loads((MEASURED / f"{name}.json").read_text(encoding="utf-8")) for name in BENCHES[:2])
    lines = ["| what | MiniLM-L6 | BERT-base |", "| --- | ---: | ---: |"]
    shapes = ("minilm", "bert-base")
    ratios = [f"{step[shape]['ratio']:.2f} ×" for shape in shapes]
    lines.append(f"| QAT step, as a multiple of the FP32 step (16 × 192 and 4 × 128 tokens) | {' | '.join(ratios)} |")
    own = [f"{latency[shape]['int8 / own choice OpenVINO time']:.2f} ×" for shape in shapes]
    for key, title in (
        ("OpenVINO time", "OpenVINO latency, INT8 / FP32 in float32 (1 × 384)"),
        ("ONNX Runtime time", "ONNX Runtime latency, INT8 / FP32 (1 × 384)"),
        ("OpenVINO size", "IR size, INT8 / FP32"),
        ("ONNX size", "ONNX size, INT8 / FP32"),
    ):
        ratios = [f"{latency[shape][f'int8 / fp32 {key}']:.2f} ×" for shape in shapes]
        lines.append(f"| {title} | {' | '.join(ratios)} |")
    lines.append(f"| OpenVINO latency, INT8 / FP32 as it runs by default (here in bfloat16) | {' | '.join(own)} |")
    added = json.loads((MEASURED / "bench-methods.json").read_text(encoding="utf-8"))
    for key, title in (
        ("qat + movement sparsity", "QAT step with movement sparsity in its warm-up"),
        ("qat + distillation, cached", "QAT step with distillation, the teacher's logits from the cache"),
        ("qat + distillation", "QAT step with distillation, the teacher as large as the model"),
        ("jpqd, cached", "JPQD step, the teacher's logits from the cache"),
    ):
        ratios = [f"{added[shape]['variants'][key]['ratio']:.2f} ×" for shape in shapes]
        lines.append(f"| {title}, as a multiple of the QAT step | {' | '.join(ratios)} |")
    return "\n".join(lines)


def pipelines() -> str:
    """What a pipeline adds to the bare model, and where that is more than is promised."""
    record = json.loads((MEASURED / "bench-pipeline.json").read_text(encoding="utf-8"))
    lines = ["| | runtime | bare model ms | pipeline ms | ratio |", "| --- | --- | ---: | ---: | ---: |"]
    slow = []
    for name, row in record.items():
        what, _, runtime = name.rpartition(", ")
        runtime = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}[runtime]
        lines.append(f"| {what} | {runtime} | {row['bare_ms']:.2f} | {row['pipeline_ms']:.2f} | {row['ratio']:.3f} × |")
        if row["ratio"] > MOST_ADDED:
            slow.append(f"{what} in {runtime} ({row['ratio']:.3f} ×)")
    most = f"{100 * (MOST_ADDED - 1):.0f} %"
    said = f"**More than {most} are added to {'; '.join(slow)}**" if slow else f"Nowhere are more than {most} added"
    return "\n".join(lines) + f"\n\n{said}. All of it is in `benchmarks/measured/bench-pipeline.json`."


def drift() -> str:
    """The lives of the seam, the losses by name, and the speed."""
    record = json.loads((MEASURED / "bench-drift.json").read_text(encoding="utf-8"))
    losses = [loss for result in record["starts"].values() for loss in result[f"year {result['years']}"]["losses"]]
    speed = record["speed"]
    return "\n\n".join(
        (
            drift_table(record),
            f"Losses of ours: {'; '.join(losses) or 'none'}. History ends at {record['tip'][:12]} "
            f"({record['ends']}). Speed, all {speed['scripts']} scripts of {speed['from']} over a year: "
            f"{speed['commits']} upstream commits in {speed['seconds']:.1f} s, {speed['commits_per_second']} a second, "
            f"with {speed['peak_mb']} MB of memory at the most.",
        )
    )


def _records(kind: str) -> list[dict[str, Any]]:
    records = [json.loads(p.read_text(encoding="utf-8")) for p in MEASURED.glob("*.json") if p.stem not in BENCHES]
    chosen = (record for record in records if record.get("kind", "measure") == kind)
    return sorted(chosen, key=lambda record: (record["date"], record["name"]))


def _section(record: dict[str, Any]) -> str:
    results = record["results"]
    compared = _comparison(record["compared"]) if "compared" in record else ""
    return "\n\n".join(
        (
            f"**{record['title']}**",
            table(results, list(results["FP32"]["metrics"]["torch"])),
            _circumstances(record) + compared,
        )
    )


def _circumstances(record: dict[str, Any]) -> str:
    """How the figures of a record came about, in one paragraph."""
    data = ", ".join(f"{v['file']} (sha256 {v['sha256'][:12]}…)" for v in record["data"].values())
    versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
    taken = record.get("seconds") or {k: v["seconds"] for k, v in record["results"].items() if "seconds" in v}
    seconds = ", ".join(f"{k} {v:.0f} s" for k, v in taken.items())
    upstream = f"Pin {record['pin']} ({record['upstream_commit'][:10]}), seed" if "pin" in record else "Seed"
    return (
        f"{upstream} {record['seed']}, {data}. {record['machine']['processor']}, {record['machine']['cores']} cores; "
        f"runs took {seconds}. {versions}. Arguments: `{' '.join(record['arguments'])}`; all of it is in "
        f"`benchmarks/measured/{record['name']}.json`."
    )


def _comparison(compared: dict[str, Any]) -> str:
    """What the runtimes give on the larger file."""
    figures = [
        f"{runtime} {' / '.join(f'{value:.2f}' for value in metrics.values())} "
        f"({compared['same_as_torch'][runtime]:.1f} % of the answers as torch)"
        for runtime, metrics in compared["metrics"].items()
    ]
    names = " / ".join(next(iter(compared["metrics"].values())))
    return (
        f"\n\nThe runtimes of {compared['model']} on {compared['file']} (sha256 {compared['sha256'][:12]}…), which has "
        f"more questions and therefore less chance in it, {names}: {', '.join(figures)}. Its questions may be those of "
        "the training: only the agreement of the runtimes counts."
    )


# What stands between the markers of the README, by their name.
BLOCKS: dict[str, Callable[[], str]] = {
    "published": published,
    "tables": tables,
    "peers": lambda: _tables("peers", peers_table),
    "measured": measured,
    "methods": lambda: f"{_tables('methods', methods_table)}\n\n{FLOAT32}",
    "adapters": lambda: _tables("adapters", adapters_table),
    "language": lambda: f"{_tables('language', language_table)}\n\n{FLOAT32}",
    "packed": lambda: f"{_tables('packed', packed_table)}\n\n{FLOAT32}",
    "retrieval": retrieval,
    "bench": bench,
    "pipelines": pipelines,
    "drift": drift,
}


if __name__ == "__main__":
    sys.exit(main())
