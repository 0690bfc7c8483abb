"""Accuracy as scikit-learn computes it."""

from typing import Any

import datasets
import evaluate
from sklearn.metrics import accuracy_score


class Accuracy(evaluate.Metric):
    """``evaluate.load("accuracy")``: share of equal labels in 0…1, or their number with ``normalize=False``.

    The configuration ``multilabel`` takes a list of labels per example, all of which must be right.
    """

    def _info(self) -> evaluate.MetricInfo:
        label = datasets.Value("int32")
        feature = datasets.Sequence(label) if self.config_name == "multilabel" else label
        return evaluate.MetricInfo(
            description="Accuracy: correct predictions over all predictions.",
            citation="Pedregosa et al., Scikit-learn: Machine Learning in Python, 2011",
            inputs_description="predictions, references: labels; normalize: share or count; sample_weight",
            features=datasets.Features({"predictions": feature, "references": feature}),
        )

    def _compute(
        self, predictions: Any, references: Any, normalize: bool = True, sample_weight: Any = None
    ) -> dict[str, float]:
        score = accuracy_score(references, predictions, normalize=normalize, sample_weight=sample_weight)
        return {"accuracy": float(score)}
