"""Mean squared error as scikit-learn computes it."""

from typing import Any

import datasets
import evaluate
from sklearn.metrics import mean_squared_error, root_mean_squared_error


class Mse(evaluate.Metric):
    """``evaluate.load("mse")``: mean squared error; its root, still under the name ``mse``, with
    ``squared=False``.

    The configuration ``multilist`` takes a list of numbers per example.
    """

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("float")
        feature = datasets.Sequence(number) if self.config_name == "multilist" else number
        return evaluate.MetricInfo(
            description="Mean squared error.",
            citation="Pedregosa et al., Scikit-learn: Machine Learning in Python, 2011",
            inputs_description="predictions, references: numbers; the options are those of sklearn",
            features=datasets.Features({"predictions": feature, "references": feature}),
        )

    def _compute(
        self,
        predictions: Any,
        references: Any,
        sample_weight: Any = None,
        multioutput: Any = "uniform_average",
        squared: bool = True,
    ) -> dict[str, Any]:
        error = mean_squared_error if squared else root_mean_squared_error
        return {"mse": error(references, predictions, sample_weight=sample_weight, multioutput=multioutput)}
