"""Exported models at work: questions answered, texts and tokens classified, masked words filled in.

    qa = pipeline("question-answering", "deployment")
    qa(question="What's my name?", context="My name is Snorlax")   # {"score": …, "start": 11, "end": 18, "answer": …}

Tasks, arguments and results are named as in Transformers' ``pipeline``. Lists give what their items give one by one.
"""

import inspect
import os
from typing import Any

from nncf_transformers.deployment import (
    FILL_MASK,
    QUESTION_ANSWERING,
    TEXT_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
    find_task,
    load_deployed,
)
from nncf_transformers.errors import UsageError
from nncf_transformers.pipelines.classification import TextClassification, TokenClassification
from nncf_transformers.pipelines.fill_mask import FillMask
from nncf_transformers.pipelines.question_answering import QuestionAnswering

__all__ = ["FillMask", "QuestionAnswering", "TextClassification", "TokenClassification", "pipeline"]

_PIPELINES: dict[str, Any] = {
    QUESTION_ANSWERING.name: QuestionAnswering,
    TEXT_CLASSIFICATION.name: TextClassification,
    TOKEN_CLASSIFICATION.name: TokenClassification,
    FILL_MASK.name: FillMask,
}


def pipeline(
    task: str,
    model_path: str | os.PathLike[str],
    runtime: str | None = None,
    *,
    threads: int = 0,
    **settings: Any,
) -> Any:
    """Load a model and what it takes to use it.

    Args:
        task: question-answering, text-classification, token-classification or fill-mask, or an alias.
        model_path: a deployment folder, as ``export_onnx`` writes it, an IR folder, an .onnx file with configuration
            and tokenizer beside it, or the folder of a checkpoint.
        runtime: openvino, onnxruntime or torch; None for OpenVINO where there is an exported model, torch otherwise.
        threads: of an exported model; 0 leaves the number to the runtime.
        settings: those of the task's class.

    Returns:
        A :class:`QuestionAnswering`, :class:`TextClassification`, :class:`TokenClassification` or :class:`FillMask`.

    Raises:
        UsageError: an unknown task, runtime or setting, no such model, or one for another task.
        IntegrityError: a damaged file.
    """
    found = find_task(task)
    kind = _PIPELINES[found.name]
    known = [name for name in inspect.signature(kind).parameters if name != "deployed"]
    if unknown := sorted(settings.keys() - set(known)):
        from nncf_transformers.config.errors import nearest

        close = nearest(unknown[0], known)
        raise UsageError(f"{unknown[0]}: is no setting of {found.name}{close}; there are {', '.join(known)}")
    return kind(load_deployed(model_path, found, runtime, threads), **settings)
