"""Judge a model in training: answers by F1 and exact match, embeddings by how often a context is found."""

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from nncf_transformers.data import SquadExample, evaluate
from nncf_transformers.embedding import embed
from nncf_transformers.errors import UsageError
from nncf_transformers.evaluation import cut_questions, squad_predictions
from nncf_transformers.retrieval.metrics import top_k
from nncf_transformers.runtimes import Runtime, torch_runtime
from nncf_transformers.training.data import Retrieval


class Answers:
    """F1 and exact match on a file in SQuAD's format.

    Args:
        path: the file.
        examples: its content.
        tokenizer: a fast tokenizer.
        script: an official evaluation script to ask instead of our metric.
        max_question, max_length, stride, batch_size: see :func:`~nncf_transformers.evaluation.squad_predictions`.
    """

    def __init__(
        self,
        path: str,
        examples: Sequence[SquadExample],
        tokenizer: Any,
        *,
        script: str | None,
        max_question: int,
        max_length: int,
        stride: int,
        batch_size: int,
    ) -> None:
        self._path, self._tokenizer, self._examples = path, tokenizer, examples
        self._script = _load_script(script) if script else None
        if self._script is not None:
            _try(self._script, str(script), path, examples)
        self._options = {"max_seq_length": max_length, "doc_stride": stride, "batch_size": batch_size}
        questions = cut_questions(tokenizer, [example.question.lstrip() for example in examples], max_question)
        self._questions = [
            {"id": example.id, "question": question, "context": example.context}
            for example, question in zip(examples, questions, strict=True)
        ]

    def __call__(self, model: nn.Module | Runtime) -> dict[str, float]:
        """Judge a model: ``f1`` and ``exact_match``, in percent."""
        runtime = torch_runtime(model) if isinstance(model, nn.Module) else model
        answers = squad_predictions(runtime, self._tokenizer, self._questions, **self._options)
        if self._script is not None:
            return _ask(self._script, self._path, answers)
        predictions = [{"id": key, "prediction_text": text} for key, text in answers.items()]
        references = [
            {"id": e.id, "answers": {"text": list(e.answers), "answer_start": list(e.answer_starts)}}
            for e in self._examples
            if e.answers
        ]
        known = {reference["id"] for reference in references}
        metric = evaluate.load("squad")
        scores = metric.compute(predictions=[p for p in predictions if p["id"] in known], references=references)
        return {"f1": scores["f1"], "exact_match": scores["exact_match"]}


class Found:
    """How often a question's context is among the nearest, on a file in SQuAD's format."""

    def __init__(
        self, data: Retrieval, tokenizer: Any, *, max_question: int, max_context: int, batch_size: int
    ) -> None:
        self._data, self._tokenizer = data, tokenizer
        self._lengths, self._batch_size = (max_question, max_context), batch_size

    def __call__(self, model: nn.Module | Runtime) -> dict[str, float]:
        """Judge a model: ``top1_neg133`` and so on, in percent; 133 is the number of wrong contexts."""
        runtime = torch_runtime(model) if isinstance(model, nn.Module) else model
        texts = (self._data.questions, self._data.contexts)
        questions, contexts = (
            embed(runtime, self._tokenizer, some, length, self._batch_size)
            for some, length in zip(texts, self._lengths, strict=True)
        )
        wrong = len(self._data.contexts) - 1
        return {f"{name}_neg{wrong}": value for name, value in top_k(questions, contexts, self._data.owners).items()}


def in_words(scores: Mapping[str, float]) -> str:
    """Scores for the log: name and value, in turn."""
    return " ".join(f"{name} {value:.2f}" for name, value in scores.items())


def _load_script(path: str) -> Any:
    """Import an official evaluation script, v1.1 or v2.0."""
    spec = importlib.util.spec_from_file_location("squad_evaluation", path)
    try:
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    # It is somebody's script: whatever it raises, it cannot be used.
    except Exception as error:
        raise UsageError(f"--squad_eval_script {path}: cannot be imported ({error!r}); leave it out") from error
    if not hasattr(module, "evaluate") and not hasattr(module, "get_raw_scores"):
        raise UsageError(f"--squad_eval_script {path}: has neither evaluate (v1.1) nor get_raw_scores (v2.0)")
    return module


def _try(script: Any, name: str, path: str, examples: Sequence[SquadExample]) -> None:
    """Find out before the training, not after an epoch of it, whether a script can judge this file."""
    try:
        _ask(script, path, {example.id: example.context.split(" ")[0] for example in examples})
    except Exception as error:
        raise UsageError(
            f"--squad_eval_script {name}: cannot judge {path} ({error!r}); leave it out, or give the other version"
        ) from error


def _ask(script: Any, path: str, answers: Mapping[str, str]) -> dict[str, float]:
    """Let an official script judge answers by question id."""
    articles = json.loads(Path(path).read_text(encoding="utf-8-sig"))["data"]
    if hasattr(script, "evaluate"):
        scores = script.evaluate(articles, answers)
        return {"f1": scores["f1"], "exact_match": scores["exact_match"]}
    exact, f1 = script.get_raw_scores(articles, answers)
    return {name: 100 * sum(raw.values()) / max(1, len(raw)) for name, raw in (("f1", f1), ("exact_match", exact))}
