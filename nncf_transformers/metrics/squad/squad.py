"""Exact match and F1 of SQuAD v1.1 (Rajpurkar et al., 2016, https://arxiv.org/abs/1606.05250, sec. 6)."""

import re
import string
from collections import Counter
from collections.abc import Callable
from typing import Any

import datasets
import evaluate

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    """Lower-case, then drop ASCII punctuation, English articles and surplus white space, in this order."""
    text = text.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(prediction: str, truth: str) -> bool:
    """Whether the two answers are the same after normalisation."""
    return normalize(prediction) == normalize(truth)


def token_f1(prediction: str, truth: str) -> float:
    """Harmonic mean of token precision and recall, in 0…1; 0 without a common token, both empty included."""
    predicted, expected = normalize(prediction).split(), normalize(truth).split()
    common = (Counter(predicted) & Counter(expected)).total()
    if common == 0:
        return 0
    precision = 1.0 * common / len(predicted)
    recall = 1.0 * common / len(expected)
    return (2 * precision * recall) / (precision + recall)


def best(score: Callable[[str, str], float], prediction: str, truths: list[str]) -> float:
    """The highest score that the prediction reaches against any of the accepted answers."""
    return max(score(prediction, truth) for truth in truths)


class Squad(evaluate.Metric):
    """``evaluate.load("squad")``: percentages ``exact_match`` and ``f1`` over all references."""

    def _info(self) -> evaluate.MetricInfo:
        answers = datasets.Sequence({"text": datasets.Value("string"), "answer_start": datasets.Value("int32")})
        return evaluate.MetricInfo(
            description="Exact match and token F1 of SQuAD v1.1, in per cent.",
            citation="Rajpurkar et al., SQuAD: 100,000+ Questions for Machine Comprehension of Text, 2016",
            inputs_description="predictions: [{id, prediction_text}]; references: [{id, answers}]",
            features=datasets.Features(
                {
                    "predictions": {
                        "id": datasets.Value("string"),
                        "prediction_text": datasets.Value("string"),
                    },
                    "references": {"id": datasets.Value("string"), "answers": answers},
                }
            ),
        )

    def _compute(self, predictions: list[dict[str, Any]], references: list[dict[str, Any]]) -> dict[str, float]:
        predicted = {prediction["id"]: prediction["prediction_text"] for prediction in predictions}
        exact: float = 0
        f1: float = 0
        # Sums grow one addend at a time: from Python 3.12 on, sum() rounds floats differently.
        for reference in references:
            truths = reference["answers"]["text"]
            if not truths:
                raise ValueError(
                    f"question {reference['id']!r} has no answer, which SQuAD v1.1 does not know: use "
                    "squad_v2 (run_qa.py: --version_2_with_negative)"
                )
            if reference["id"] in predicted:  # an unanswered question counts, with score 0
                exact += best(exact_match, predicted[reference["id"]], truths)
                f1 += best(token_f1, predicted[reference["id"]], truths)
        return {"exact_match": 100.0 * exact / len(references), "f1": 100.0 * f1 / len(references)}
