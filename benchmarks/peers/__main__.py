"""Our INT8 and that of other projects, side by side: ``python -m benchmarks.peers --model DIR --data DIR``.

    make bench-peers MODEL=DIR DATA=DIR INT8=DIR                                  # everything
    python -m benchmarks.peers --model DIR --data DIR --reuse --no-timing         # only what is missing, no speed
    python -m benchmarks.peers --model DIR --data DIR --only-timing               # only speed, on a quiet machine

One FP32 question-answering model goes through every method, on the same calibration samples and in a process of its
own; the peers live in .venv-peers. All results answer the same questions through the same code; then all take turns at
speed. A method that cannot be installed or fails is a row with the reason. The figures go to
benchmarks/measured/bench-peers.json; `make readme` renders them.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, circumstances
from benchmarks.peers.artefacts import Workshop, environment_of
from benchmarks.peers.methods import METHODS, Method
from benchmarks.peers.samples import LENGTH, SAMPLES
from benchmarks.peers.score import compare, keep_question_f1, paired, score_file
from benchmarks.peers.table import table
from benchmarks.peers.timing import Plan, Worker, measure
from nncf_transformers.errors import CompressionError, UsageError

RECORD = ROOT / "benchmarks" / "measured" / "bench-peers.json"


def main(words: list[str] | None = None) -> int:
    """Make, judge and time what the command line asks for, and write the record."""
    args = _parse(words)
    try:
        workshop = _workshop(args)
        reasons = _produce(args, workshop)
        rows = [_row(workshop, method, runtime, reasons) for method in METHODS for runtime in method.runtimes]
        _compare_ours(workshop, rows)
        if not args.no_timing:
            _time(args, workshop, rows)
        record = _record(args, workshop, rows)
    except CompressionError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    _write(args.json, record)
    print(f"\n{table(record)}\n\nwrote {args.json} ({time.strftime('%H:%M')})")
    return 0


def _workshop(args: argparse.Namespace) -> Workshop:
    """Check the flags before the work."""
    files = {"train": args.data / "train-v1.1.json", "dev": args.data / "dev-v1.1.json"}
    for file in files.values():
        if not file.is_file():
            raise UsageError(
                f"--data {args.data}: has no {file.name}; give a folder with SQuAD's two files (make: DATA=DIR)"
            )
    for flag, folder in (("--model", args.model), ("--int8", args.int8)):
        if folder is not None and not (folder / "model.safetensors").is_file():
            raise UsageError(f"{flag} {folder}: has no model.safetensors; give the folder of a checkpoint")
    python = args.peers / "bin" / "python"
    if not python.is_file():
        raise UsageError(f"--peers {args.peers}: there is no environment of the peers; run `make .venv-peers/.ready`")
    unknown = set(args.only or ()) - {method.key for method in METHODS}
    if unknown:
        names = ", ".join(method.key for method in METHODS)
        raise UsageError(f"--only: no method {', '.join(sorted(unknown))}; there are {names}")
    return Workshop(args, files, python)


def _produce(args: argparse.Namespace, workshop: Workshop) -> dict[str, str]:
    """Make and judge what is to be made; returns why there is nothing, by method, or by method and runtime."""
    reasons: dict[str, str] = {}
    for method in METHODS:
        chosen = not args.only_timing and (not args.only or method.key in args.only)
        reason = workshop.make(method, again=not args.reuse) if chosen else workshop.reason(method)
        if reason:
            print(f"  {method.key}: {reason}", flush=True)
            reasons[method.key] = reason
            continue
        for runtime in method.runtimes:
            reason = workshop.score(method, runtime) if chosen else workshop.score_reason(method, runtime)
            if reason:
                print(f"  {method.key} in {runtime}: {reason}", flush=True)
                reasons[f"{method.key}/{runtime}"] = reason
                continue
            keep_question_f1(score_file(workshop.folder(method), runtime), workshop.files["dev"])
    return reasons


def _row(workshop: Workshop, method: Method, runtime: str, reasons: dict[str, str]) -> dict[str, Any]:
    """A row of the record, without its speed."""
    row: dict[str, Any] = {"key": method.key, "kind": method.kind, "runtime": runtime, "timing": None}
    row |= {"title": method.title, "version": workshop.versions.get(method.package or "")}
    row["reason"] = reasons.get(method.key) or reasons.get(f"{method.key}/{runtime}")
    if row["reason"]:
        return row
    file = score_file(workshop.folder(method), runtime)
    first = METHODS[0]
    reference = score_file(workshop.folder(first), first.runtimes[0])
    usable = not (reasons.get(first.key) or reasons.get(f"{first.key}/{first.runtimes[0]}"))
    made = workshop.made(method)
    return row | {
        "what": made["what"],
        "seconds": made["seconds"],
        "metrics": json.loads(file.read_text(encoding="utf-8"))["metrics"],
        **(compare(file, reference) if usable else dict.fromkeys(("same_as_fp32", "kl_to_fp32", "f1_to_fp32"))),
        "size_mb": workshop.size_mb(method, runtime),
    }


def _compare_ours(workshop: Workshop, rows: list[dict[str, Any]]) -> None:
    """Add ``f1_to_peers`` to our rows: by ``key/runtime`` of a peer, the paired difference of F1 and its error."""
    f1 = {}
    for row in rows:
        if not row["reason"]:
            text = score_file(workshop.out / row["key"], row["runtime"]).read_text(encoding="utf-8")
            f1[f"{row['key']}/{row['runtime']}"] = (row["kind"], json.loads(text)["question_f1"])
    peers = {name: values for name, (kind, values) in f1.items() if kind == "peer"}
    for row in rows:
        if row["kind"] == "ours" and not row["reason"]:
            own = f1[f"{row['key']}/{row['runtime']}"][1]
            row["f1_to_peers"] = {name: paired(own, values) for name, values in peers.items()}


def _time(args: argparse.Namespace, workshop: Workshop, rows: list[dict[str, Any]]) -> None:
    """Add ``timing`` to the rows that have an artefact, all of them measured in turns."""
    workers: dict[str, Worker] = {}
    by_name = {f"{row['key']}/{row['runtime']}": row for row in rows if not row["reason"]}
    try:
        for name, row in by_name.items():
            print(f"  starting {name} …", flush=True)
            folder = workshop.out / row["key"]
            log = folder / f"timing-{score_file(folder, row['runtime']).stem}.log"
            try:
                workers[name] = Worker(
                    workshop.worker_command(row["key"], row["runtime"]),
                    environment_of(args.threads, args.peers),
                    ROOT,
                    log,
                )
            except EOFError:
                row["reason"] = f"does not run: {workshop.last_line(log)}"
        results, lost = measure(workers, Plan(args.rounds, args.calls, args.batches), args.batch)
        for name in lost:
            row = by_name[name]
            log = workshop.out / row["key"] / f"timing-{score_file(workshop.out, row['runtime']).stem}.log"
            row["reason"] = f"ended while it was timed: {workshop.last_line(log)}"
        for name, result in results.items():
            by_name[name]["timing"] = result
    finally:
        for worker in workers.values():
            worker.close()


def _record(args: argparse.Namespace, workshop: Workshop, rows: list[dict[str, Any]]) -> dict[str, Any]:
    from transformers import AutoConfig

    from nncf_transformers.data import read_squad

    arguments = ["--samples", str(args.samples), "--threads", str(args.threads), "--batch", str(args.batch)]
    config, dev = AutoConfig.from_pretrained(args.model), workshop.files["dev"]
    return {
        "name": args.json.stem,
        "kind": "peers",
        "task": "squad",
        "title": args.title,
        "arguments": arguments,
        "model": args.model.name,
        "model_shape": f"{config.model_type}, {config.num_hidden_layers} layers of width {config.hidden_size}",
        "questions": len(read_squad(dev)),
        "what": args.what or f"{dev.name} of a folder that was given: a split of that name, not necessarily SQuAD's",
        "model_sha256": workshop.identity["model_sha256"],
        "length": args.length,
        "batch": args.batch,
        "threads": args.threads,
        "load_average": list(os.getloadavg()),
        **circumstances(None, workshop.files, args.seed),
        "peer_versions": workshop.versions,
        "seconds": {row["key"]: row["seconds"] for row in rows if not row["reason"]},
        "rows": rows,
    }


def _write(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def _parse(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="the FP32 checkpoint that all methods start from")
    parser.add_argument("--data", type=Path, required=True, help="folder with train-v1.1.json and dev-v1.1.json")
    parser.add_argument("--int8", type=Path, help="our checkpoint of INT8 training, for the row ours-qat")
    parser.add_argument(
        "--train-steps", type=int, default=0, metavar="N", help="without --int8: train it, N steps of 16"
    )
    parser.add_argument("--pin", default="v4.57", help="whose run_qa trains it (default: %(default)s)")
    parser.add_argument("--train-flags", default="", help="more flags of that run_qa")
    parser.add_argument("--title", default="Extractive QA: the same FP32 model through other projects' INT8 and ours")
    parser.add_argument("--what", help="what the questions really are (default: that the file's name does not say it)")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="to calibrate on (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of every method (default: all)")
    parser.add_argument(
        "--length", type=int, default=LENGTH, help="tokens of a row that is timed (default: %(default)s)"
    )
    parser.add_argument("--batch", type=int, default=16, help="rows at once for the throughput (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each at latency (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=3, help="calls in a turn that count (default: %(default)s)")
    parser.add_argument("--batches", type=int, default=5, help="turns at throughput (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=3600, help="seconds that one step of a method may take")
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="make and judge these; the others stay as they are")
    parser.add_argument("--reuse", action="store_true", help="keep what was made from the same model and data before")
    parser.add_argument("--only-timing", action="store_true", help="make and judge nothing, time what is there")
    parser.add_argument("--no-timing", action="store_true", help="measure no speed and no memory")
    parser.add_argument("--peers", type=Path, default=ROOT / ".venv-peers", help="environment of the peers")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "peers", help="folder for the artefacts")
    parser.add_argument("--json", type=Path, default=RECORD, help="the record (default: %(default)s)")
    args = parser.parse_args(words)
    # The processes of the methods run in the project's root.
    for name in ("model", "data", "int8", "json"):
        if getattr(args, name) is not None:
            setattr(args, name, getattr(args, name).resolve())
    # Not resolved: the python of an environment is a link.
    args.peers = args.peers.absolute()
    if args.only_timing and args.no_timing:
        parser.error("--only-timing and --no-timing leave nothing to do; give one of them")
    return args


if __name__ == "__main__":
    sys.exit(main())
