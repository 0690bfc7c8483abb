"""A process that holds one artefact and runs it on demand: ``python -m benchmarks.peers.worker RUNTIME FOLDER …``.

It loads nothing but the runtime, runs the model once, and says how much memory it took at the most. Then it answers
commands, one a line: ``latency N`` and ``throughput N`` run one row, or a batch, N times after a call that does not
count, and answer with the milliseconds of each call. It ends with its input.
"""

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.runners import NAMES, load


def main() -> int:
    """Load, report, and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runtime")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, required=True, help="the FP32 checkpoint, for its configuration")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--length", type=int, required=True, help="tokens of a row")
    parser.add_argument("--rows", type=int, required=True, help="of the batch of `throughput`")
    parser.add_argument("--exact", action="store_true", help="float32 where OpenVINO would choose bfloat16")
    args = parser.parse_args()
    # Answers have the standard output to themselves; what libraries print there goes to standard error.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(value: Any) -> None:
        print(json.dumps(value), file=answers, flush=True)

    vocabulary = json.loads((args.model / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    batches = {
        "latency": _inputs(1, args.length, vocabulary),
        "throughput": _inputs(args.rows, args.length, vocabulary),
    }
    start = time.perf_counter()
    runner = load(args.runtime, args.folder, args.threads, model=args.model, exact=args.exact)
    runner(batches["latency"])
    answer({"ready_seconds": round(time.perf_counter() - start, 2), "peak_mb": peak_mb()})
    for line in sys.stdin:
        name, count = line.split()
        runner(batches[name])
        answer([_milliseconds(runner, batches[name]) for _ in range(int(count))])
    return 0


def peak_mb() -> float:
    """The most memory that this process has held so far, in MB (10^6 bytes)."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Other than the limit that a child inherits from its parent, this begins anew with the program.
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines() if ":" in line)
        return round(int(lines["VmHWM"].split()[0]) * 1024 / 1e6, 1)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def _inputs(rows: int, length: int, vocabulary: int) -> dict[str, np.ndarray]:
    """Random tokens, none of them padding."""
    ids = np.random.default_rng(0).integers(min(5, vocabulary - 1), vocabulary, (rows, length))
    return dict(zip(NAMES, (ids, np.ones_like(ids), np.zeros_like(ids)), strict=True))


def _milliseconds(runner: Any, inputs: Any) -> float:
    start = time.perf_counter()
    runner(inputs)
    return 1e3 * (time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main())
