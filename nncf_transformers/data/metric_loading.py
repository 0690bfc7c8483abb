"""What the scripts see as the module ``evaluate``."""

import importlib
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

from nncf_transformers.data.hub import from_hub
from nncf_transformers.data.loading import unanswered_questions
from nncf_transformers.data.squad_dataset import Unanswered

logger = logging.getLogger(__name__)

METRICS = Path(__file__).resolve().parent.parent / "metrics"

# The public modules live in a name space of their own, under which they may be asked for, too.
_PUBLIC_PREFIX = "evaluate-metric/"


def shipped_metrics() -> list[str]:
    """Names of the metrics that come with this package."""
    return sorted(folder.name for folder in METRICS.iterdir() if (folder / f"{folder.name}.py").is_file())


class SquadWithUnanswerable:
    """SQuAD 2.0's metric where a script asks for that of 1.1: it takes what that takes.

    The script did not get ``--version_2_with_negative``, so it predicts an answer to each question. Scored it is all
    the same, as SQuAD 2.0 does: ``exact``, ``f1``, and both for the questions with (``HasAns_``) and without
    (``NoAns_``) an answer. ``exact_match`` is ``exact`` under the name that SQuAD 1.1 has for it.
    """

    def __init__(self, metric: Any) -> None:
        self._metric = metric

    def __getattr__(self, name: str) -> Any:
        return getattr(self._metric, name)

    def compute(
        self, *, predictions: list[dict[str, Any]], references: list[dict[str, Any]], **options: Any
    ) -> dict[str, float]:
        """Score predictions.

        Args:
            predictions: ``{"id", "prediction_text"}`` of each question.
            references: ``{"id", "answers"}`` of each question; the answers may be none.
            **options: What else the metric of SQuAD 2.0 takes.

        Returns:
            Percentages and counts by name.
        """
        certain = [{"no_answer_probability": 0.0, **prediction} for prediction in predictions]
        scores = self._metric.compute(predictions=certain, references=references, **options)
        return {"exact_match": scores["exact"], **scores}


class Evaluate:
    """The module ``evaluate``, except that the metrics which we ship do not come from the hub.

    The module itself is imported at the first use, since it takes seconds.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(_module(), name)

    def __dir__(self) -> list[str]:
        return sorted({*dir(_module()), "load"})

    def load(self, path: str, *args: Any, **options: Any) -> Any:
        """``evaluate.load``: a metric of ours if there is one of that name, whatever the hub has; else the
        original's.

        The metric ``squad`` is :class:`SquadWithUnanswerable` where the questions that :func:`load_dataset` has
        found to be evaluated include some without an answer.

        Args:
            path: The metric's name, or a folder with a metric module.
            *args: Positional arguments of the original; the first is the configuration (GLUE: the task).
            **options: Its keyword arguments.

        Raises:
            UnreachableError: The metric is on a hub that cannot be reached.
        """
        module = _module()
        name = path.removeprefix(_PUBLIC_PREFIX)
        if name in shipped_metrics():
            options.pop("revision", None)  # names a version of the hub's module
            unanswered = unanswered_questions()
            if name == "squad" and unanswered is not None:
                _warn_of(unanswered)
                return SquadWithUnanswerable(module.load(str(METRICS / "squad_v2"), *args, **options))
            logger.info("metric %r: the module that comes with nncf_transformers is used", name)
            return module.load(str(METRICS / name), *args, **options)
        if Path(path).exists():
            return module.load(path, *args, **options)
        remedy = f"run once where the hub is in reach, or use one that needs none: {', '.join(shipped_metrics())}"
        return from_hub(
            lambda: module.load(path, *args, **options),
            module.config,
            "HF_EVALUATE_OFFLINE",
            f"the metric {path!r}",
            remedy,
        )


def _warn_of(unanswered: Unanswered) -> None:
    logger.warning(
        "%d of %d %s questions have no answer: add --version_2_with_negative, so that the script may predict that "
        "there is none; they are scored as SQuAD 2.0 does, not as 1.1",
        unanswered.count,
        unanswered.total,
        unanswered.split,
    )


def _module() -> ModuleType:
    return importlib.import_module("evaluate")


evaluate = Evaluate()
