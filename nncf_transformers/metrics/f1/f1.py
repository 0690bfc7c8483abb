"""F1 as scikit-learn computes it."""

from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn.metrics import f1_score


class F1(evaluate.Metric):
    """``evaluate.load("f1")``: harmonic mean of precision and recall in 0…1; an array with ``average=None``.

    The configuration ``multilabel`` takes a list of labels per example.
    """

    def _info(self) -> evaluate.MetricInfo:
        label = datasets.Value("int32")
        feature = datasets.Sequence(label) if self.config_name == "multilabel" else label
        return evaluate.MetricInfo(
            description="F1: harmonic mean of precision and recall.",
            citation="Pedregosa et al., Scikit-learn: Machine Learning in Python, 2011",
            inputs_description="predictions, references: labels; the options are those of sklearn",
            features=datasets.Features({"predictions": feature, "references": feature}),
        )

    def _compute(
        self,
        predictions: Any,
        references: Any,
        labels: Any = None,
        pos_label: int = 1,
        average: str | None = "binary",
        sample_weight: Any = None,
    ) -> dict[str, Any]:
        score = f1_score(
            references,
            predictions,
            labels=labels,
            pos_label=pos_label,
            average=average,
            sample_weight=sample_weight,
        )
        return {"f1": float(np.asarray(score).item()) if np.size(score) == 1 else score}
