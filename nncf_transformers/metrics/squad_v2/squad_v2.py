"""Exact match and F1 of SQuAD 2.0 (Rajpurkar et al., 2018, https://arxiv.org/abs/1806.03822).

The formulas are those of the official script ``evaluate-v2.0.py``, its search for the best no-answer
threshold included.
"""

import re
import string
from collections import Counter
from typing import Any

import datasets
import evaluate

_PUNCTUATION = str.maketrans("", "", string.punctuation)

Scores = dict[str, float]


def normalize(text: str) -> str:
    """Lower-case, then drop ASCII punctuation, English articles and surplus white space, in this order."""
    # The same lines as in squad.py: evaluate copies each module away on its own, so they cannot share a file.
    text = text.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(prediction: str, truth: str) -> int:
    """1 if the two answers are the same after normalisation, else 0."""
    return int(normalize(prediction) == normalize(truth))


def token_f1(prediction: str, truth: str) -> float:
    """Harmonic mean of token precision and recall, in 0…1; where one side is empty, 1 only if both are."""
    predicted, expected = normalize(prediction).split(), normalize(truth).split()
    if not predicted or not expected:
        return int(predicted == expected)
    common = (Counter(predicted) & Counter(expected)).total()
    if common == 0:
        return 0
    precision = 1.0 * common / len(predicted)
    recall = 1.0 * common / len(expected)
    return (2 * precision * recall) / (precision + recall)


def raw_scores(predicted: dict[str, str], references: list[dict[str, Any]]) -> tuple[Scores, Scores]:
    """Exact match and F1 by question id, before any threshold; the best over the accepted answers."""
    exact: Scores = {}
    f1: Scores = {}
    for reference in references:
        prediction = predicted[reference["id"]]
        # An answer that normalises to nothing cannot be hit; a question without answers wants the empty
        # string.
        truths = [text for text in reference["answers"]["text"] if normalize(text)] or [""]
        exact[reference["id"]] = max(exact_match(prediction, truth) for truth in truths)
        f1[reference["id"]] = max(token_f1(prediction, truth) for truth in truths)
    return exact, f1


def with_threshold(scores: Scores, no_answer: Scores, has_answer: dict[str, bool], threshold: float) -> Scores:
    """Scores where a no-answer probability above the threshold counts as the answer "there is none"."""
    return {key: float(not has_answer[key]) if no_answer[key] > threshold else score for key, score in scores.items()}


def averages(exact: Scores, f1: Scores, keys: list[str], prefix: str = "") -> dict[str, float]:
    """``exact`` and ``f1`` in per cent and ``total``, over the questions in ``keys``."""
    return {
        f"{prefix}exact": 100.0 * sum(exact[key] for key in keys) / len(keys),
        f"{prefix}f1": 100.0 * sum(f1[key] for key in keys) / len(keys),
        f"{prefix}total": len(keys),
    }


def best_threshold(
    predicted: dict[str, str], scores: Scores, no_answer: Scores, has_answer: dict[str, bool]
) -> tuple[float, float]:
    """The best score in per cent that any no-answer threshold reaches, and that threshold.

    It starts by answering no question at all and adds one question after the other, the most certain first.
    """
    current: float = sum(not known for known in has_answer.values())
    best, threshold = current, 0.0
    for key in sorted(no_answer, key=lambda key: no_answer[key]):
        if key not in scores:
            continue
        if has_answer[key]:
            current += scores[key]
        elif predicted[key]:
            current -= 1
        if current > best:
            best, threshold = current, no_answer[key]
    return 100.0 * best / len(scores), threshold


class SquadV2(evaluate.Metric):
    """``evaluate.load("squad_v2")``: percentages over all, answerable and unanswerable questions."""

    def _info(self) -> evaluate.MetricInfo:
        text, number = datasets.Value("string"), datasets.Value("float32")
        answers = datasets.Sequence({"text": text, "answer_start": datasets.Value("int32")})
        return evaluate.MetricInfo(
            description="Exact match and token F1 of SQuAD 2.0, in per cent, with and without an answer.",
            citation="Rajpurkar et al., Know What You Don't Know: Unanswerable Questions for SQuAD, 2018",
            inputs_description=(
                "predictions: [{id, prediction_text, no_answer_probability}]; references: [{id, answers}]; "
                "no_answer_threshold: probability above which a question counts as unanswerable (1.0: never)"
            ),
            features=datasets.Features(
                {
                    "predictions": {"id": text, "prediction_text": text, "no_answer_probability": number},
                    "references": {"id": text, "answers": answers},
                }
            ),
        )

    def _compute(
        self,
        predictions: list[dict[str, Any]],
        references: list[dict[str, Any]],
        no_answer_threshold: float = 1.0,
    ) -> dict[str, float]:
        predicted = {prediction["id"]: prediction["prediction_text"] for prediction in predictions}
        no_answer = {prediction["id"]: prediction["no_answer_probability"] for prediction in predictions}
        has_answer = {reference["id"]: bool(reference["answers"]["text"]) for reference in references}
        missing = [key for key in has_answer if key not in predicted]
        if missing:
            raise ValueError(f"{len(missing)} questions have no prediction, the first is {missing[0]!r}")

        raw_exact, raw_f1 = raw_scores(predicted, references)
        exact = with_threshold(raw_exact, no_answer, has_answer, no_answer_threshold)
        f1 = with_threshold(raw_f1, no_answer, has_answer, no_answer_threshold)

        result = averages(exact, f1, list(exact))
        for prefix, wanted in (("HasAns_", True), ("NoAns_", False)):
            keys = [key for key, known in has_answer.items() if known is wanted]
            if keys:
                result |= averages(exact, f1, keys, prefix)
        for name, raw in (("exact", raw_exact), ("f1", raw_f1)):
            score, threshold = best_threshold(predicted, raw, no_answer, has_answer)
            result |= {f"best_{name}": score, f"best_{name}_thresh": threshold}
        return result
