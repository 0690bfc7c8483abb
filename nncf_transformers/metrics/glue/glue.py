"""The metrics of the GLUE benchmark (Wang et al., 2018, https://arxiv.org/abs/1804.07461, section 3)."""

import datasets
import evaluate
import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

ACCURACY_TASKS = ("sst2", "mnli", "mnli_mismatched", "mnli_matched", "qnli", "rte", "wnli", "hans")
F1_TASKS = ("mrpc", "qqp")
TASKS = (*ACCURACY_TASKS, *F1_TASKS, "cola", "stsb")


def accuracy(predictions: np.ndarray, references: np.ndarray) -> float:
    """Share of equal labels, in 0…1."""
    return float((predictions == references).mean())


class Glue(evaluate.Metric):
    """``evaluate.load("glue", task)``: what GLUE reports for the task, in 0…1 (correlations −1…1)."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in TASKS:
            raise KeyError(f"{self.config_name!r} is not a GLUE task; choose one of {', '.join(TASKS)}")
        value = datasets.Value("float32" if self.config_name == "stsb" else "int64")
        return evaluate.MetricInfo(
            description="Accuracy (mrpc, qqp: and F1); correlations for stsb; Matthews correlation for cola.",
            citation="Wang et al., GLUE: A Multi-Task Benchmark and Analysis Platform for NLU, 2018",
            inputs_description="predictions and references: one label (stsb: one score) per example",
            features=datasets.Features({"predictions": value, "references": value}),
            format="numpy",
        )

    def _compute(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        if self.config_name == "cola":
            return {"matthews_correlation": matthews_corrcoef(references, predictions)}
        if self.config_name == "stsb":
            return {
                "pearson": float(pearsonr(predictions, references)[0]),
                "spearmanr": float(spearmanr(predictions, references)[0]),
            }
        result = {"accuracy": accuracy(predictions, references)}
        if self.config_name in F1_TASKS:
            result["f1"] = float(f1_score(y_true=references, y_pred=predictions))
        return result
