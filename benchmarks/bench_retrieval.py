"""How fast passages are indexed and found, and what mining hard negatives costs, on CPU.

    python benchmarks/bench_retrieval.py                          # 100,000 passages, sizes 384 and 1024
    python benchmarks/bench_retrieval.py --passages 1000000 --size 384 --json retrieval.json

Index: vectors are given (embedding them is another matter), texts are some 600 characters of made-up words. Building is
what PassageIndex.build does; saving and loading include the checksums of all files. A query is one call for the 10
nearest of one question; median and 95th percentile of 300 are printed, and the share of the exact 10 nearest that FAISS
finds. The method that "auto" chooses is marked; the exit code is 1 if its median query takes 50 ms or more.

Mining: to store the vectors of 256 contexts and to find a hard negative for each of 32 questions, with the default
history of 32 steps and with one of 512 (exact and FAISS), medians of 10 steps; for FAISS also the time of making its
lists, which happens once in a history, and how much farther its negatives are away than the nearest.

Vectors are random, but not noise, in which all are equally far from each other: a passage is one of 2,000 topics plus a
variation in 64 directions, as long as a topic's vector, so that topics overlap; a question is a passage plus half of
such a variation.

Queries show their processor time, too: on a busy machine the clock is not to be trusted. The script sets no number of
threads; OMP_NUM_THREADS=1 shows what one core can do.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import faiss
import numpy as np
import torch

from benchmarks.bench_step import processor, write_records
from nncf_transformers.retrieval import mining
from nncf_transformers.retrieval.index import FAISS_FROM, Passage, PassageIndex
from nncf_transformers.retrieval.mining import HardNegatives

K, QUERIES, LIMIT_MS = 10, 300, 50.0
TOPICS, DIRECTIONS = 2000, 64
QUESTIONS, NUM, STEPS = 32, 256, 10


class World:
    """Where synthetic vectors come from: topics and directions of a size."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.topics = self.random.standard_normal((TOPICS, size), dtype=np.float32)
        # A variation is as long as a topic, sqrt(size) on average.
        self.directions = self.random.standard_normal((DIRECTIONS, size), dtype=np.float32) / DIRECTIONS**0.5

    def passages(self, count: int) -> np.ndarray:
        """Vectors (count, size)."""
        return self.topics[self.random.integers(TOPICS, size=count)] + self.variation(count)

    def questions(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors near the given ones, in the same order."""
        return vectors + 0.5 * self.variation(len(vectors))

    def variation(self, count: int) -> np.ndarray:
        """Steps (count, size) away from something."""
        return self.random.standard_normal((count, DIRECTIONS), dtype=np.float32) @ self.directions


def texts(count: int) -> list[Passage]:
    """Passages of some 600 characters."""
    random = np.random.default_rng(1)
    words = ["".join(random.choice([*"abcdefghijklmnopqrstuvwxyz"], size=random.integers(2, 9))) for _ in range(5000)]
    rows = random.integers(len(words), size=(count, 100))
    return [Passage(f"{i // 100}.txt", 600 * (i % 100), " ".join(words[j] for j in row)) for i, row in enumerate(rows)]


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds on the clock, and what was returned."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def timed_queries(index: PassageIndex, queries: np.ndarray) -> tuple[dict[str, float], list[set[int]]]:
    """Ask one after the other: how long it takes, and what each finds."""
    for query in queries[:5]:
        index.search(query[None], K)
    clock, processor_time, found = [], [], []
    for query in queries:
        start = time.process_time()
        seconds, (_, ids) = timed(partial(index.search, query[None], K))
        processor_time.append(1e3 * (time.process_time() - start))
        clock.append(1e3 * seconds)
        found.append({*ids[0].tolist()})
    figures = {
        "query ms": round(statistics.median(clock), 3),
        "query p95 ms": round(float(np.percentile(clock, 95)), 3),
        "query cpu ms": round(statistics.median(processor_time), 3),
    }
    return figures, found


def bench_index(size: int, passages: list[Passage]) -> dict[str, Any]:
    """Both methods on the same vectors; figures by method."""
    world = World(size)
    vectors = world.passages(len(passages))
    queries = world.questions(vectors[world.random.integers(len(vectors), size=QUERIES)])
    records: dict[str, Any] = {}
    exact: list[set[int]] = []
    for method in ("exact", "faiss"):
        build_s, index = timed(partial(PassageIndex.build, vectors, passages, model="", method=method))
        with tempfile.TemporaryDirectory() as folder:
            save_s, _ = timed(partial(index.save, folder))
            megabytes = sum(file.stat().st_size for file in Path(folder).iterdir()) / 1e6
            load_s, index = timed(partial(PassageIndex.load, folder))
        figures, found = timed_queries(index, queries)
        exact = exact or found
        records[method] = {
            "build s": round(build_s, 3),
            "passages/s": round(len(passages) / build_s),
            "save s": round(save_s, 2),
            "load s": round(load_s, 2),
            "MB": round(megabytes, 1),
            **figures,
            f"recall@{K}": round(sum(len(a & b) for a, b in zip(found, exact, strict=True)) / (K * QUERIES), 4),
        }
    return {"auto": "faiss" if vectors.size >= FAISS_FROM else "exact", "methods": records}


def bench_mining(size: int, history: int, use_faiss: bool) -> dict[str, float]:
    """A step when the history is full."""
    world = World(size)
    stored = world.passages(NUM * history)
    # A context for each vector, so that a negative's number says where its vector is.
    miner = HardNegatives(len(stored), num=NUM, history=history, alpha=1.0, seed=0)
    with mock.patch.object(mining, "FAISS_FROM", mining.FAISS_FROM if use_faiss else sys.maxsize):
        added, picked, ratios = [], [], []
        for step in range(history + STEPS):
            first = NUM * (step % history)
            embedded = torch.from_numpy(stored[first : first + NUM])
            added.append(timed(partial(miner.add, step, range(first, first + NUM), embedded))[0])
            if step < history:
                continue
            positives = world.random.integers(len(stored), size=QUESTIONS)
            questions = world.questions(stored[positives])
            seconds, found = timed(partial(miner.pick, step, torch.from_numpy(questions), positives.tolist()))
            picked.append(seconds)
            ratios.append(farther(stored, questions, positives, found))
    return {
        "candidates": len(stored),
        "add ms": round(1e3 * statistics.median(added[history:]), 2),
        "pick ms": round(1e3 * statistics.median(picked), 2),
        "lists ms": round(1e3 * max(added), 1) if use_faiss else 0.0,
        "farther %": round(100 * statistics.mean(ratios) - 100, 2),
    }


def farther(stored: np.ndarray, questions: np.ndarray, positives: np.ndarray, found: list[int]) -> float:
    """Mean distance of the negatives found, relative to that of the nearest."""
    exact = torch.cdist(torch.from_numpy(questions), torch.from_numpy(stored)).numpy()
    rows = np.arange(len(questions))
    exact[rows, positives] = np.inf
    return float((exact[rows, found] / exact.min(axis=1)).mean())


def run(size: int, passages: list[Passage]) -> dict[str, Any]:
    """Everything that belongs to the record of one size."""
    return {
        "passages": len(passages),
        "index": bench_index(size, passages),
        "mining": {
            "exact, history 32": bench_mining(size, 32, False),
            "exact, history 512": bench_mining(size, 512, False),
            "faiss, history 512": bench_mining(size, 512, True),
        },
        "threads": torch.get_num_threads(),
        "machine": processor(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "faiss": faiss.__version__,
    }


def render(size: str, record: dict[str, Any]) -> str:
    """The record as tables for people."""
    chosen = record["index"]["auto"]
    lines = [
        f"{record['passages']} passages of size {size}; {record['machine']}, {record['threads']} threads, "
        f"faiss {record['faiss']}"
    ]
    for title, rows in (("index", record["index"]["methods"]), ("mining", record["mining"])):
        lines.append(f"{title:<20}" + "".join(f"{column:>14}" for column in next(iter(rows.values()))))
        for name, row in rows.items():
            mark = " (auto)" if name == chosen else ""
            lines.append(f"{name + mark:<20}" + "".join(f"{value:>14}" for value in row.values()))
    query = record["index"]["methods"][chosen]["query ms"]
    lines.append(f"a query takes {query} ms, {'under' if query < LIMIT_MS else 'NOT UNDER'} {LIMIT_MS:.0f} ms")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--size", type=int, action="append", help="of a vector; may be given twice (default: 384, 1024)"
    )
    parser.add_argument("--passages", type=int, default=100_000, help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the records")
    arguments = parser.parse_args(argv)
    if arguments.passages < K or min(arguments.size or [1]) < 1:
        parser.error(f"--passages {arguments.passages} --size {arguments.size}: at least {K} passages, size 1 or more")
    passages = texts(arguments.passages)
    records = {}
    for size in arguments.size or [384, 1024]:
        records[str(size)] = run(size, passages)
        print(render(str(size), records[str(size)]), flush=True)
    if arguments.json:
        write_records(records, arguments.json)
    chosen = [record["index"]["methods"][record["index"]["auto"]] for record in records.values()]
    return 0 if all(row["query ms"] < LIMIT_MS for row in chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
