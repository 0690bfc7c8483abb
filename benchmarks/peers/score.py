"""Judge one artefact's answers: ``python -m benchmarks.peers.score RUNTIME FOLDER --model DIR --dev FILE …``.

All artefacts are judged by the same code: windows of 384 tokens that overlap by 128, the best span of the 20 likeliest
starts and ends. The figures go to ``score-RUNTIME.json`` in the artefact's folder, the logits to a file beside it, so
that the distributions can be compared with those of FP32. F1 is kept for each question: two methods answer the same
ones, so that the difference of their means has far less chance in it than either mean.
"""

import argparse
import json
import logging
import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.samples import LENGTH
from nncf_transformers.errors import IntegrityError


def score_file(folder: Path, runtime: str) -> Path:
    """Where the figures of an artefact in a runtime are; its logits are beside it, as ``.npz``."""
    return folder / f"score-{runtime.lower().replace(', ', '-').replace(' ', '-')}.json"


def question_f1(answers: Sequence[str], dev: Path) -> list[float]:
    """F1 of each answer, in percent, in the order of the file's questions."""
    from nncf_transformers.data import read_squad
    from nncf_transformers.metrics.squad.squad import best, token_f1

    examples = zip(answers, read_squad(dev), strict=True)
    return [round(100 * best(token_f1, answer, list(example.answers)), 4) for answer, example in examples]


def keep_question_f1(file: Path, dev: Path) -> dict[str, Any]:
    """Add ``question_f1`` to a score that was made before it was kept; returns the score.

    Raises:
        IntegrityError: the answers do not give the F1 that stands beside them.
    """
    score: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if "question_f1" not in score:
        score["question_f1"] = question_f1(score["answers"], dev)
        found = statistics.fmean(score["question_f1"])
        if abs(found - score["metrics"]["f1"]) > 0.01:
            raise IntegrityError(
                f"{file}: its answers have F1 {found:.2f} on {dev.name}, it says {score['metrics']['f1']:.2f}; "
                "delete it to have them judged again"
            )
        write_score(file, score)
    return score


def write_score(file: Path, score: Mapping[str, Any]) -> None:
    """Write a score whole or not at all."""
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(score) + "\n", encoding="utf-8")
    temporary.replace(file)


def paired(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Mean difference of two series over the same questions, and its standard error."""
    differences = [a - b for a, b in zip(values, others, strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
    return [round(statistics.fmean(differences), 3), round(error, 3)]


def compare(file: Path, reference: Path) -> dict[str, Any]:
    """Compare two scores' answers and distributions.

    Args:
        file: of :func:`score_file`.
        reference: the same, of FP32.

    Returns:
        ``same_as_fp32``: percent of equal answers. ``kl_to_fp32``: mean over windows, starts and ends of the
        Kullback-Leibler divergence KL(FP32, other) between the distributions over a window's tokens, in nats.
        ``f1_to_fp32``: see :func:`paired`; both scores must have passed :func:`keep_question_f1`.
    """
    score, base = (json.loads(path.read_text(encoding="utf-8")) for path in (file, reference))
    answers, others = score["answers"], base["answers"]
    same = sum(a == b for a, b in zip(answers, others, strict=True)) / len(answers)
    with np.load(file.with_suffix(".npz")) as q, np.load(reference.with_suffix(".npz")) as p:
        # Padding was set to minus infinity, where both probabilities are nothing.
        terms = [np.where(np.isfinite(p[k]), np.exp(p[k]) * (_zeros(p[k]) - _zeros(q[k])), 0).sum(-1) for k in p.files]
    return {
        "same_as_fp32": round(100 * same, 2),
        "kl_to_fp32": round(max(float(np.concatenate(terms).mean()), 0), 5),
        "f1_to_fp32": paired(score["question_f1"], base["question_f1"]),
    }


class Recorder:
    """A runner that keeps the logarithms of the probabilities over each window's tokens."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self.logarithms: list[np.ndarray] = []

    def __call__(self, inputs: Any) -> Any:
        outputs = self._runner(inputs)
        for logits in outputs:
            kept = np.where(inputs["attention_mask"], logits, -np.inf)
            shifted = kept - kept.max(-1, keepdims=True)
            self.logarithms.append(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))
        return outputs


def _zeros(logarithms: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(logarithms), logarithms, 0)


def main() -> int:
    """Judge what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runtime")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, required=True, help="the FP32 checkpoint: tokenizer and configuration")
    parser.add_argument("--dev", type=Path, required=True, help="SQuAD file to answer")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--exact", action="store_true", help="float32 where OpenVINO would choose bfloat16")
    args = parser.parse_args()
    logging.getLogger("torchao").setLevel(logging.ERROR)
    from transformers import AutoTokenizer

    from benchmarks.harness import squad_scorer
    from benchmarks.peers.runners import load

    start = time.perf_counter()
    runner = Recorder(load(args.runtime, args.folder, args.threads, model=args.model, exact=args.exact))
    metrics, answers = squad_scorer(AutoTokenizer.from_pretrained(args.model), args.dev, LENGTH)(runner)
    path = score_file(args.folder, args.runtime)
    np.savez(path.with_suffix(".npz"), *runner.logarithms)
    seconds = round(time.perf_counter() - start, 1)
    each = question_f1(answers, args.dev)
    write_score(path, {"metrics": metrics, "seconds": seconds, "answers": answers, "question_f1": each})
    return 0


if __name__ == "__main__":
    sys.exit(main())
