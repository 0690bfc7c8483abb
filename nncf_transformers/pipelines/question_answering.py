"""Answers to questions from texts of any length, with the names and the score of DeepSparse's pipeline."""

from collections.abc import Sequence
from typing import Any

from nncf_transformers.deployment import Deployed, whole_number
from nncf_transformers.encoding import clean
from nncf_transformers.errors import UsageError
from nncf_transformers.pipelines.classification import as_list
from nncf_transformers.reading import Answer, Reader
from nncf_transformers.retrieval.index import Passage

# The reader's settings, as they are called here.
_NAMES = {"max_seq_length": "sequence_length", "max_question_tokens": "max_question_length"}
_NOTHING = {"score": 0.0, "start": 0, "end": 0, "answer": ""}


class QuestionAnswering:
    """Finds answers in contexts.

    A long context is read through windows that overlap. The score of an answer is the product of two probabilities,
    that it starts and that it ends where it does, each among the tokens of the context in its window and [CLS]
    (inventory 5.9).

    Args:
        deployed: a question-answering model.
        sequence_length: tokens of a window, question and special tokens included; None for what was recorded at the
            export, or else 384.
        doc_stride: overlap of two windows in tokens; None for 128, or half of a window's room for the context.
        max_question_length: in tokens; a longer question is cut, with a warning. None for 64, or half of a window.
        max_answer_length: in tokens.
        batch_size: windows a call at most.
        top_k: answers to a question that do not overlap.

    Raises:
        UsageError: the settings do not go together.
    """

    def __init__(
        self,
        deployed: Deployed,
        *,
        sequence_length: int | None = None,
        doc_stride: int | None = None,
        max_question_length: int | None = None,
        max_answer_length: int = 15,
        batch_size: int = 16,
        top_k: int = 1,
    ) -> None:
        length = deployed.sequence_length(sequence_length, 384)
        if max_question_length is None:
            max_question_length = min(64, length // 2)
        whole_number("max_question_length", max_question_length)
        if doc_stride is None:
            room = length - max_question_length - deployed.tokenizer.num_special_tokens_to_add(pair=True)
            doc_stride = max(0, min(128, room // 2))
        self.sequence_length, self.top_k = length, whole_number("top_k", top_k)
        self.doc_stride = whole_number("doc_stride", doc_stride, 0)
        self._reader = Reader(
            deployed.runtime,
            deployed.tokenizer,
            max_seq_length=length,
            doc_stride=doc_stride,
            max_question_tokens=max_question_length,
            max_answer_tokens=whole_number("max_answer_length", max_answer_length),
            batch_size=whole_number("batch_size", batch_size),
            text_only=True,
            names=_NAMES,
        )

    def __call__(self, question: str | Sequence[str], context: str | Sequence[str], *, top_k: int | None = None) -> Any:
        """Answer a question, or many.

        Args:
            question: one, or a list of them.
            context: where to look: one for all questions, or a list with one for each.
            top_k: answers to a question; None for the pipeline's own.

        Returns:
            ``{"score", "start", "end", "answer"}``, start and end counting characters of the context; for ``top_k``
            above 1 a list of these, the best first; for lists, a list of such results. Where nothing is found, the
            answer is empty and the score 0.

        Raises:
            UsageError: a question or a context is empty, or the lists are of unequal length.
        """
        best_n = self.top_k if top_k is None else whole_number("top_k", top_k)
        (questions, many_questions), (contexts, many_contexts) = as_list(question), as_list(context)
        many = many_questions or many_contexts
        if not many_contexts:
            contexts *= len(questions)
        elif not many_questions:
            questions *= len(contexts)
        if len(questions) != len(contexts):
            raise UsageError(
                f"{len(questions)} questions and {len(contexts)} contexts: give one context for all, or one for each"
            )
        for number, pair in enumerate(zip(questions, contexts, strict=True), 1):
            self._check(*pair, f" {number}" if many else "")
        # Cleaned here, for the answer is cut out of it.
        pairs = [(q, Passage("", 0, clean(c))) for q, c in zip(questions, contexts, strict=True)]
        results = [_as_result(answers, best_n) for answers in self._reader.answer_each(pairs, best_n)]
        return results if many else results[0]

    def _check(self, question: str, context: str, number: str) -> None:
        for name, text in (("question", question), ("context", context)):
            if not isinstance(text, str):
                raise UsageError(f"{name}{number}: is a {type(text).__name__}; give a text")
            if not text.strip():
                raise UsageError(f"{name}{number}: is empty; give a text")


def _as_result(answers: Sequence[Answer], best_n: int) -> Any:
    found = [
        {"score": answer.score, "start": answer.start, "end": answer.end, "answer": answer.text} for answer in answers
    ]
    found = found or [dict(_NOTHING)]
    return found[0] if best_n == 1 else found
