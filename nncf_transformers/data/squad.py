"""SQuAD's files: articles of paragraphs of questions, as the benchmark distributes them.

Format: Rajpurkar et al., 2016 (v1.1) and 2018 (v2.0, which adds questions with ``"is_impossible": true``).
"""

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nncf_transformers.data.files import read_json
from nncf_transformers.errors import UsageError

logger = logging.getLogger(__name__)

# The first key of a nested file's first paragraph stands within the first few hundred bytes; a title may be
# long.
_SNIFFED_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class SquadExample:
    """One question about one paragraph.

    Attributes:
        id: The question's id, unique in its file.
        title: The article's title; may be empty.
        context: The paragraph.
        question: The question.
        answers: The accepted answers; none for an unanswerable question or one of a test file.
        answer_starts: Where each answer starts in ``context``, in characters; -1 where the file does not say.
        is_impossible: Whether the file says that the paragraph holds no answer (SQuAD 2.0).
    """

    id: str
    title: str
    context: str
    question: str
    answers: tuple[str, ...] = ()
    answer_starts: tuple[int, ...] = ()
    is_impossible: bool = False


def is_nested_squad(path: Path) -> bool:
    """Whether a JSON file looks like SQuAD's nested format, judged by its beginning."""
    try:
        with open(path, "rb") as file:
            head = file.read(_SNIFFED_BYTES)
    except OSError:
        return False
    return re.match(rb"(\xef\xbb\xbf)?\s*\{", head) is not None and all(
        re.search(rb'"%s"\s*:\s*\[' % key, head) for key in (b"data", b"paragraphs")
    )


def read_squad(path: str | Path) -> list[SquadExample]:
    """Read a file in SQuAD's nested format, or ``{"data": [...]}`` with one flat object per question.

    Answers that do not stand where ``answer_start`` says are kept, counted and warned about: they spoil
    training targets but no score.

    Args:
        path: A JSON file, UTF-8.

    Returns:
        The questions in the file's order, at least one.

    Raises:
        UsageError: The file is missing, not in SQuAD's format, has no questions, or has an id twice.
        IntegrityError: The file is not complete, valid JSON.
    """
    path = Path(path)
    value = read_json(path)
    articles = value.get("data") if isinstance(value, dict) else None
    if not isinstance(articles, list):
        raise UsageError(f'{path} is not in SQuAD\'s format: expected {{"data": [{{"paragraphs": [...]}}]}}')
    examples = list(_questions(articles, path))
    if not examples:
        raise UsageError(f"{path} has no questions: give a file with at least one example")
    check_unique(examples, str(path))
    _warn_of_misplaced(examples, path)
    return examples


def check_unique(examples: Iterable[SquadExample], where: str) -> None:
    """Raise a :class:`UsageError` if questions share an id: predictions are kept by id, one would be lost."""
    seen: set[str] = set()
    doubled = []
    for example in examples:
        if example.id in seen:
            doubled.append(example.id)
        seen.add(example.id)
    if doubled:
        raise UsageError(
            f"{where} has {len(doubled)} questions with an id already taken, the first is "
            f"{doubled[0]!r}: give each question an id of its own"
        )


def check_answered(examples: list[SquadExample], split: str, where: str) -> None:
    """Raise a :class:`UsageError` if a split that needs answers has none; log how many questions lack one."""
    unanswered = sum(not example.answers for example in examples)
    if split.startswith("test") or not unanswered:
        return
    impossible = sum(example.is_impossible for example in examples)
    # A dev set of unanswerable questions can be scored; a training set of them teaches nothing.
    if unanswered == len(examples) and (split == "train" or not impossible):
        raise UsageError(
            f"{where}: none of its {len(examples)} questions has an answer, so it cannot be {split} data: "
            "pass a file with answers, or this one as --test_file"
        )
    logger.info(
        "%s: %d of %d questions have no answer; the script needs --version_2_with_negative for them",
        where,
        unanswered,
        len(examples),
    )


def _questions(articles: list[Any], path: Path) -> Iterator[SquadExample]:
    for a, article in enumerate(articles):
        place = f"data[{a}]"
        if not isinstance(article, dict):
            raise _misshapen(path, place, "is not an object")
        if "paragraphs" not in article:
            yield _example(article, article, article, path, place)
            continue
        for p, paragraph in enumerate(_list(article, "paragraphs", path, place)):
            for q, question in enumerate(_list(paragraph, "qas", path, f"{place}.paragraphs[{p}]")):
                yield _example(article, paragraph, question, path, f"{place}.paragraphs[{p}].qas[{q}]")


def _example(article: Any, paragraph: Any, question: Any, path: Path, place: str) -> SquadExample:
    if not isinstance(question, dict):
        raise _misshapen(path, place, "is not an object")
    impossible = bool(question.get("is_impossible", False))
    texts, starts = ((), ()) if impossible else _answers(question.get("answers") or [], path, place)
    return SquadExample(
        id=str(_value(question, "id", path, place)),
        title=str(article.get("title", "")),
        context=str(_value(paragraph, "context", path, place)),
        question=str(_value(question, "question", path, place)),
        answers=texts,
        answer_starts=starts,
        is_impossible=impossible,
    )


def _answers(answers: Any, path: Path, place: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Texts and starts, from a list of objects (nested files) or an object of lists (flat files)."""
    try:
        if isinstance(answers, dict):
            texts, starts = answers["text"], answers["answer_start"]
        else:
            texts = [answer["text"] for answer in answers]
            starts = [answer.get("answer_start", -1) for answer in answers]
        if len(texts) != len(starts):
            raise ValueError("text and answer_start differ in length")
        return tuple(map(str, texts)), tuple(map(int, starts))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _misshapen(path, place, 'needs "answers": [{"text": ..., "answer_start": ...}]') from error


def _warn_of_misplaced(examples: list[SquadExample], path: Path) -> None:
    misplaced = [
        example.id
        for example in examples
        for text, start in zip(example.answers, example.answer_starts, strict=True)
        if start < 0 or not example.context.startswith(text, start)
    ]
    if misplaced:
        logger.warning(
            "%s: %d of %d answers do not stand at their answer_start (first: question %r); they are kept",
            path,
            len(misplaced),
            sum(len(example.answers) for example in examples),
            misplaced[0],
        )


def _list(owner: Any, key: str, path: Path, place: str) -> list[Any]:
    value = _value(owner, key, path, place)
    if not isinstance(value, list):
        raise _misshapen(path, place, f'has a "{key}" that is not a list')
    return value


def _value(owner: Any, key: str, path: Path, place: str) -> Any:
    if not isinstance(owner, dict) or key not in owner:
        raise _misshapen(path, place, f'has no "{key}"')
    return owner[key]


def _misshapen(path: Path, place: str, fault: str) -> UsageError:
    return UsageError(f"{path} is not in SQuAD's format: {place} {fault}")
