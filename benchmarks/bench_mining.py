#!/usr/bin/env python
"""What part of a training step the search for hard negatives takes, on this machine.

    python benchmarks/bench_mining.py
    python benchmarks/bench_mining.py --contexts 18891 --steps 4 --json mining.json

A step as train_qcemb takes it by default: 32 questions, each with its context and one hard negative, the nearest among
the contexts embedded in the last 32 steps, 256 anew at each step or as few as it takes to have all of them there.
The model has MiniLM-L6's shape and random weights. Texts have the lengths of SQuAD's: questions about 14 tokens,
contexts about 150. Embedding the candidates counts as mining. Medians over the steps.
"""

import argparse
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from transformers import BertConfig, BertModel  # noqa: E402

from benchmarks.bench_step import processor, write_records  # noqa: E402
from nncf_transformers.embedding import embedding_class  # noqa: E402
from nncf_transformers.retrieval.mining import HardNegatives  # noqa: E402
from nncf_transformers.training.data import Encoded  # noqa: E402
from nncf_transformers.training.embeddings import candidates  # noqa: E402
from nncf_transformers.training.objectives import EmbeddingObjective, Teacher  # noqa: E402

QUESTIONS, MICRO_BATCH, HISTORY, WANTED = 32, 16, 32, 256
# Contexts of a small training set, and of SQuAD 1.1's.
CONTEXTS = (1762, 18891)


class Timed(HardNegatives):
    """Knows how long choosing took."""

    seconds = 0.0

    def pick(self, *args: Any) -> list[int]:
        start = time.perf_counter()
        found = super().pick(*args)
        self.seconds += time.perf_counter() - start
        return found


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", type=int, action="append", help=f"in the training set (default: {CONTEXTS})")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    record: dict[str, Any] = {"processor": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    for contexts in args.contexts or CONTEXTS:
        for name, teacher in (("alone", False), ("with a teacher", True)):
            result = measure(contexts, teacher, args.steps)
            record[f"{contexts} contexts, {name}"] = result
            print(
                f"{contexts} contexts, {name}: {result['candidates']} candidates; mining {result['mining']:.2f} s, "
                f"embedding them {result['embedding']:.2f} s of it, of {result['step']:.2f} s: "
                f"{100 * result['share']:.0f} %",
                flush=True,
            )
    if args.json:
        write_records(record, args.json)
    return 0


def measure(contexts: int, with_teacher: bool, steps: int) -> dict[str, Any]:
    """Take some steps; seconds of mining and of the whole, and the share of the first in the second."""
    torch.manual_seed(0)
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    kind = embedding_class(BertModel)
    model = kind(config).train()
    teacher = Teacher(kind(config), torch.device("cpu")) if with_teacher else None
    num = candidates(WANTED, HISTORY, contexts, 1)
    negatives = Timed(contexts, num=num, history=HISTORY, alpha=1.0, seed=0)
    objective = EmbeddingObjective(
        model,
        teacher,
        contexts=_texts(contexts, 150, 40),
        negatives=negatives,
        gather=lambda tensor: tensor,
        share=(0, 1),
        batch_size=32,
        triplets=1,
        embedding_loss="none",
        teacher_weight=0.02 if with_teacher else 0.0,
    )
    questions = _texts(QUESTIONS, 14, 4)
    owners = torch.randint(contexts, (QUESTIONS,))
    # As many stored candidates as late in a training.
    for step in range(HISTORY):
        negatives.add(step, negatives.sample(step), torch.randn(num, 384))
    objective.load_own_state({"step": HISTORY - 1, "negatives": negatives.state_dict()})
    times = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        objective.before_step()
        embedded = time.perf_counter()
        negatives.seconds = 0.0
        for i in range(0, QUESTIONS, MICRO_BATCH):
            rows = range(i, i + MICRO_BATCH)
            loss, _ = objective(questions.batch(rows) | {"owner": owners[i : i + MICRO_BATCH]})
            loss.backward()
        times.append((embedded - start, embedded - start + negatives.seconds, time.perf_counter() - start))
    embedding, mining, whole = (statistics.median(column) for column in zip(*times[1:], strict=True))
    return {
        "candidates": num,
        "embedding": round(embedding, 3),
        "mining": round(mining, 3),
        "step": round(whole, 3),
        "share": round(mining / whole, 3),
    }


def _texts(count: int, mean: float, deviation: float) -> Encoded:
    """Random tokens, as many in a text as a normal distribution says, at least four."""
    numbers = random.Random(0)
    lengths = [max(4, round(numbers.gauss(mean, deviation))) for _ in range(count)]
    columns = {
        "input_ids": [[numbers.randrange(1000, 30000) for _ in range(length)] for length in lengths],
        "attention_mask": [[1] * length for length in lengths],
    }
    return Encoded(columns, {"input_ids": 0, "attention_mask": 0})


if __name__ == "__main__":
    sys.exit(main())
