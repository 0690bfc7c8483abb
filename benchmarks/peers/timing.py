"""Latency, throughput and memory of all artefacts side by side, each in a process of its own, taking turns."""

import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A runtime's idle threads look for work for a moment; they shall not do so while the next one is measured.
_PAUSE = 0.05


@dataclass(frozen=True)
class Plan:
    """How much to measure: rounds, calls of a row in a round, and calls of a batch in all."""

    rounds: int = 10
    calls: int = 3
    batches: int = 5


class Worker:
    """A process of :mod:`benchmarks.peers.worker`."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path) -> None:
        self._log = log.open("w", encoding="utf-8")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            cwd=folder,
            text=True,
        )
        self.ready = self._answer()

    def ask(self, question: str) -> Any:
        """Send a command, and wait for its answer."""
        assert self._process.stdin is not None
        print(question, file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait()
        self._log.close()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise EOFError
        return json.loads(line)


def measure(workers: Mapping[str, Worker], plan: Plan, rows: int) -> tuple[dict[str, dict[str, Any]], set[str]]:
    """Let the workers take turns, in another order each round: none of them always comes after the same one.

    Args:
        workers: by name.
        plan: how much to measure.
        rows: of a batch, for the throughput.

    Returns:
        By name: ``latency_ms`` (median), ``latency_spread_ms`` (quartiles), ``rows_per_second``, ``peak_mb``,
        ``ready_seconds``; and the names of those that ended on the way.
    """
    times: dict[str, dict[str, list[float]]] = {name: {"latency": [], "throughput": []} for name in workers}
    lost: set[str] = set()
    order = random.Random(0)
    turns = [f"latency {plan.calls}"] * plan.rounds + ["throughput 1"] * plan.batches
    for number, question in enumerate(turns, 1):
        print(f"  round {number} of {len(turns)} ({time.strftime('%H:%M:%S')})", file=sys.stderr, flush=True)
        for name, worker in order.sample(sorted(workers.items()), len(workers)):
            if name in lost:
                continue
            time.sleep(_PAUSE)
            try:
                times[name][question.split()[0]] += worker.ask(question)
            except (EOFError, BrokenPipeError):
                lost.add(name)
    results = {}
    for name in workers.keys() - lost:
        latency, batch = times[name]["latency"], statistics.median(times[name]["throughput"])
        quartiles = statistics.quantiles(latency, n=4) if len(latency) > 1 else [latency[0]] * 3
        results[name] = {
            "latency_ms": round(statistics.median(latency), 2),
            "latency_spread_ms": [round(quartiles[0], 2), round(quartiles[2], 2)],
            "rows_per_second": round(1e3 * rows / batch, 2),
            **workers[name].ready,
        }
    return results, lost
