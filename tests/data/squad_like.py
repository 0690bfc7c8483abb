"""Content for small files in SQuAD's nested format."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

Write = Callable[..., Path]


def question(key: str, *answers: tuple[str, int], **more: Any) -> dict[str, Any]:
    """One question of a nested file."""
    texts = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": key, "question": f"What is {key}?", "answers": texts, **more}


def nested(*questions: dict[str, Any], context: str = "The cat sat on the mat.") -> dict[str, Any]:
    """A file in SQuAD's nested format with one paragraph."""
    paragraph = {"context": context, "qas": list(questions)}
    return {"version": "1.1", "data": [{"title": "Cats", "paragraphs": [paragraph]}]}
