"""The metric of XNLI (Conneau et al., 2018, https://arxiv.org/abs/1809.05053): accuracy."""

import datasets
import evaluate
import numpy as np


class Xnli(evaluate.Metric):
    """``evaluate.load("xnli")``: share of equal labels, in 0…1."""

    def _info(self) -> evaluate.MetricInfo:
        label = datasets.Value("int64")
        return evaluate.MetricInfo(
            description="Accuracy on XNLI.",
            citation="Conneau et al., XNLI: Evaluating Cross-lingual Sentence Representations, 2018",
            inputs_description="predictions and references: one label per example",
            features=datasets.Features({"predictions": label, "references": label}),
            format="numpy",
        )

    def _compute(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        return {"accuracy": (predictions == references).mean()}
