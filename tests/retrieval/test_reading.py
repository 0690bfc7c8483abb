"""The reader finds what a slow and obvious search finds, and says what is wrong with a model in one line."""

import dataclasses
import json
import logging
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import write_pointing_model, write_word_counting_model
from tiny import tiny_model
from transformers import AutoTokenizer

from nncf_transformers import export_model
from nncf_transformers.errors import IntegrityError, UsageError
from nncf_transformers.export.openvino import BIN, XML
from nncf_transformers.reading import ANSWERS, Reader, best_spans, checked_question, has_words, load_reader, open_ir
from nncf_transformers.retrieval.index import Passage

WORDS = "the tower was built by Robert Stevenson in 1810 on a reef off Scotland and its light is still seen today"
QUESTION = "who built the tower"
SMALL = {"max_seq_length": 24, "doc_stride": 6, "max_question_tokens": 6, "max_answer_tokens": 5, "batch_size": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that points at the name."""
    points = {"Robert": (9.0, 0.0), "Stevenson": (0.0, 9.0)}
    return write_pointing_model(tmp_path_factory.mktemp("qa"), [WORDS, QUESTION], points)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the model with another content in some files; None leaves one out."""

    def broken(**files: bytes | None) -> Path:
        for path in folder.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        for name, content in files.items():
            path = tmp_path / {"xml": XML, "bin": BIN}.get(name, f"{name}.json")
            path.unlink() if content is None else path.write_bytes(content)
        return tmp_path

    return broken


def noise(inputs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Logits that depend on a token and its place, but not on the padding behind it."""
    ids = np.asarray(inputs["input_ids"], np.float64)
    places = np.arange(ids.shape[1])
    return tuple(3 * np.sin(ids * a + places * b).astype(np.float32) for a, b in ((1.7, 0.3), (2.3, 0.9)))


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64))
    return powers / powers.sum()


@pytest.mark.parametrize("seed", range(3))
def test_best_spans_are_those_of_a_slow_search(seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(2, 4, 15)).astype(np.float32) * 2
    inside, context = np.zeros((2, 4, 15), bool)
    for row, (first, last, length) in enumerate(((3, 10, 11), (0, 15, 15), (5, 6, 7), (4, 4, 9))):
        inside[row, :length], context[row, first:last] = True, True
    found = best_spans(logits, inside, context, 3, 4)
    for row in range(4):
        start, end = (softmax(x[row][inside[row]]) for x in logits)
        spans = [
            (start[i] * end[j], i, j)
            for i, j in product(np.flatnonzero(context[row]), repeat=2)
            if i <= j < i + 3  # at most three tokens
        ]
        for first, last, score in zip(*(column[row] for column in found), strict=True):
            if not spans:
                assert score == 0
                continue
            best = max(spans)
            assert (best[1], best[2]) == (first, last) and score == pytest.approx(best[0])
            spans = [span for span in spans if span[2] < first or span[1] > last]


def test_answers_are_those_of_a_slow_search(tokenizer: Any) -> None:
    passages = [Passage("long", 0, f"{WORDS} . {WORDS} . {WORDS}"), Passage("short", 0, "a light on a reef")]
    reader = Reader(noise, tokenizer, **SMALL)
    candidates = []
    for passage in passages:
        question, tokens = (tokenizer(text, add_special_tokens=False) for text in (QUESTION, passage.text))
        offsets = tokenizer(passage.text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        ids, room = tokens["input_ids"], 24 - len(question["input_ids"]) - 3
        for first in range(0, max(1, len(ids) - 6), room - 6):
            window = ids[first : first + room]
            row = [2, *question["input_ids"], 3, *window, 3]
            start, end = (softmax(logits[0]) for logits in noise({"input_ids": [row]}))
            shift = len(row) - 1 - len(window)
            spans = [
                (start[i + shift] * end[j + shift], offsets[first + i][0], offsets[first + j][1], passage)
                for i, j in product(range(len(window)), repeat=2)
                if i <= j < i + 5
            ]
            candidates.append(max(spans, key=lambda span: span[0]))
    best = max(candidates, key=lambda span: span[0])
    (answer,) = reader.answer(QUESTION, passages)
    assert (answer.start, answer.end, answer.passage) == best[1:]
    assert answer.score == pytest.approx(best[0]) and answer.text == answer.passage.text[answer.start : answer.end]

    many = reader.answer(QUESTION, passages, best_n=50)
    assert many[0] == answer and [a.score for a in many] == sorted((a.score for a in many), reverse=True)
    for one, other in product(many, repeat=2):
        assert one is other or one.passage != other.passage or one.end <= other.start or other.end <= one.start


def test_one_answer_in_two_windows_is_one_answer(folder: Path) -> None:
    before = "the light is still seen today and its reef is off Scotland "
    passage = Passage("file.txt", 100, f"{before * 3}Robert Stevenson {before * 3}")
    reader = load_reader(folder, **SMALL)
    best, *others = reader.answer(QUESTION, [passage], best_n=3)
    assert (best.text, best.start, best.passage) == ("Robert Stevenson", 3 * len(before), passage)
    assert best.score > 0.9 and all(other.score < 0.01 for other in others)


def test_padding_changes_nothing(tokenizer: Any) -> None:
    short, long = Passage("a", 0, "Robert built a tower"), Passage("b", 0, WORDS)
    reader = Reader(noise, tokenizer)
    (alone,) = reader.answer(QUESTION, [short])
    beside = next(a for a in reader.answer(QUESTION, [short, long], best_n=99) if a.passage == short)
    assert beside == dataclasses.replace(alone, score=pytest.approx(alone.score))


def test_question_longer_than_the_window(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    reader = load_reader(folder, **SMALL)
    (answer,) = reader.answer(f"{QUESTION} " * 50, [Passage("", 0, WORDS)])
    assert answer.text == "Robert Stevenson"
    assert "200 tokens; only the first 6" in caplog.text


@pytest.mark.parametrize("question", ["???", "…", "🙂🙂", "\u200b", "()"])
def test_question_without_a_word(question: str, tokenizer: Any) -> None:
    assert not has_words(question)
    assert (
        Reader(lambda inputs: pytest.fail("asked the model"), tokenizer).answer(question, [Passage("", 0, "a")]) == []
    )


@pytest.mark.parametrize("question", ["谁建造了灯塔", "κάτι", "qwrtz", "7", "a\x00b", "\udcff?x"])
def test_question_in_any_language(question: str, tokenizer: Any) -> None:
    (answer,) = Reader(noise, tokenizer).answer(question, [Passage("", 0, WORDS)])
    assert 0 < answer.score < 1


@pytest.mark.parametrize("question", ["", "  \n\t "])
def test_empty_question(question: str, tokenizer: Any) -> None:
    with pytest.raises(UsageError, match="empty"):
        Reader(noise, tokenizer).answer(question, [Passage("", 0, WORDS)])


def test_nothing_to_read(tokenizer: Any) -> None:
    reader = Reader(noise, tokenizer)
    assert reader.answer(QUESTION, []) == []
    assert reader.answer(QUESTION, [Passage("", 0, ""), Passage("", 0, " \n ")]) == []


def test_excerpt(tokenizer: Any) -> None:
    text = f"{'far ' * 100}\x1b[31mnear\n\nthe Robert\nStevenson built it{' away' * 100}"
    (answer,) = Reader(noise, tokenizer, max_answer_tokens=1).answer("who", [Passage("", 0, text)])
    start = text.index("Robert")
    answer = dataclasses.replace(answer, start=start, end=start + len("Robert\nStevenson"))
    before, found, after = answer.excerpt(24)
    assert (before, found, after) == ("… far far [31mnear the ", "Robert Stevenson", " built it away away …")
    whole = dataclasses.replace(answer, passage=Passage("", 0, "by Robert"), start=3, end=9)
    assert whole.excerpt() == ("by ", "Robert", "")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_seq_length": 100}, "max_seq_length 100 leaves 33 tokens .* doc_stride 128"),
        ({"max_seq_length": 8}, "leaves 0 tokens"),
        ({"max_answer_tokens": 0}, "count from 1"),
        ({"doc_stride": -1}, "doc_stride from 0"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, int], message: str, tokenizer: Any) -> None:
    with pytest.raises(UsageError, match=message):
        Reader(noise, tokenizer, **settings)


def test_an_exported_model(tmp_path: Path, tokenizer: Any) -> None:
    model = tiny_model(vocab_size=len(tokenizer))
    export_model(model, to_openvino=str(tmp_path / "ir"), tokenizer=tokenizer)
    (answer,) = load_reader(tmp_path / "ir", max_seq_length=128, doc_stride=16).answer(
        QUESTION, [Passage("", 0, WORDS)]
    )
    assert answer.text in WORDS and 0 < answer.score < 1
    with pytest.raises(UsageError, match="at most 128 tokens, max_seq_length is 384"):
        load_reader(tmp_path / "ir")


def test_positions_of_roberta(broken: Callable[..., Path]) -> None:
    content = {"model_type": "roberta", "max_position_embeddings": 386, "pad_token_id": 1}
    assert open_ir(broken(config=json.dumps(content).encode()), ANSWERS)[2] == 384


def test_model_of_the_other_kind(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is an embedding model; a question-answering model is needed"):
        load_reader(write_word_counting_model(tmp_path, [WORDS]))


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ({"xml": None}, UsageError, "holds no openvino_model.xml"),
        ({"config": None}, UsageError, "config.json: no such file"),
        ({"config": b"{"}, IntegrityError, "not valid JSON"),
        ({"config": b"[]"}, IntegrityError, "not a JSON object"),
        ({"bin": None}, IntegrityError, "cannot be loaded"),
        ({"bin": b"abc"}, IntegrityError, "cannot be loaded"),
        ({"xml": b"<net"}, IntegrityError, "cannot be loaded"),
        ({"tokenizer": b"{"}, IntegrityError, "its tokenizer cannot be loaded"),
    ],
)
def test_damaged_model(
    files: dict[str, bytes | None], error: type[Exception], message: str, broken: Callable[..., Path]
) -> None:
    with pytest.raises(error, match=message) as caught:
        load_reader(broken(**files))
    assert "\n" not in str(caught.value)


def test_no_model(tmp_path: Path, broken: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        load_reader(tmp_path / "nowhere")
    copy = broken(tokenizer=None)
    (copy / "vocab.txt").unlink()
    with pytest.raises(UsageError, match="has no tokenizer"):
        load_reader(copy)


def test_question_is_cleaned(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert checked_question("  who\udcff \n") == "who?"
