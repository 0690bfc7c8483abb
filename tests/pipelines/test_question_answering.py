"""Question answering: the answers of a model that knows some, whatever they are asked together with."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline_models import FILLING, NAMES, question_row
from transformers import AutoTokenizer

from nncf_transformers import pipeline
from nncf_transformers.errors import CompressionError, IntegrityError, UsageError
from nncf_transformers.runtimes import onnx_runtime

NAME, CONTEXT = "What's my name?", "My name is Snorlax"
RUNTIMES = ("openvino", "onnxruntime", "torch")


@pytest.fixture(scope="module", params=RUNTIMES)
def qa(request: pytest.FixtureRequest, qa_folder: Path, qa_checkpoint: Path) -> Any:
    folder = qa_checkpoint if request.param == "torch" else qa_folder
    return pipeline(task="question-answering", model_path=folder, runtime=request.param)


def test_snorlax(qa: Any) -> None:
    answer = qa(question=NAME, context=CONTEXT)
    assert answer["score"] > 0.9
    assert {**answer, "score": None} == {"score": None, "start": 11, "end": 18, "answer": "Snorlax"}


def test_questions_together_are_questions_alone(qa: Any) -> None:
    rng = random.Random(2)
    rows = [question_row(rng) for _ in range(20)]
    rows += [(NAME, " ".join(rng.choices(FILLING, k=n)) + " . My name is Mew", 0, 0) for n in (1, 7, 8, 9, 60, 200)]
    questions, contexts = [row[0] for row in rows], [row[1] for row in rows]
    alone = [qa(question=q, context=c) for q, c in zip(questions, contexts, strict=True)]
    together = qa(question=questions, context=contexts)
    # Bit by bit: a row's shape and company are no reason for another result.
    assert together == alone
    assert qa(question=questions[::-1], context=contexts[::-1])[::-1] == alone
    right = [a["answer"] == c[s:e] for a, (_, c, s, e) in zip(alone, rows[:20], strict=False)]
    assert np.mean(right) > 0.9 and all(0 < a["score"] <= 1 for a in alone)


def test_score_is_that_of_the_formula(qa_folder: Path) -> None:
    """Softmax over the context and [CLS], [CLS] no answer, the best start times end that is not before it."""
    context = "and the day . I live in Kanto"
    answer, *_ = pipeline("qa", qa_folder, "onnxruntime", max_answer_length=3, top_k=2)(NAME, context)
    tokenizer = AutoTokenizer.from_pretrained(qa_folder)
    row = tokenizer(NAME, context, return_offsets_mapping=True, pad_to_multiple_of=8, padding=True)
    inputs = {name: np.array([row[name]]) for name in ("input_ids", "attention_mask", "token_type_ids")}
    text = np.array([part == 1 for part in row.sequence_ids()])
    probabilities = []
    for logits in onnx_runtime(qa_folder / "model.onnx")(inputs):
        powers = np.exp(logits[0].astype(np.float64)) * (text | (np.arange(len(text)) == 0))
        probabilities.append(powers / powers.sum() * text)
    products = np.triu(np.outer(*probabilities)) * ~np.tri(len(text), k=-3, dtype=bool).T
    first, last = np.unravel_index(products.argmax(), products.shape)
    assert answer["score"] == pytest.approx(products.max(), rel=1e-9)
    assert (answer["start"], answer["end"]) == (row["offset_mapping"][first][0], row["offset_mapping"][last][1])


def test_a_long_context(qa_folder: Path) -> None:
    rng = random.Random(3)
    before, behind = (" ".join(rng.choices(FILLING, k=2500)) for _ in range(2))
    context = f"{before} . My name is Gengar . {behind}"
    assert len(context) > 15_000
    answer = pipeline("qa", qa_folder)(question=NAME, context=context)
    assert answer["answer"] == "Gengar" and answer["start"] == context.index("Gengar")


def test_shapes_of_results(qa_folder: Path) -> None:
    qa = pipeline("qa", qa_folder, top_k=2)
    context = "My name is Mew . I live in Kanto"
    first, second = qa(NAME, context)
    assert first["answer"] == "Mew" and first["score"] > second["score"]
    assert first["end"] <= second["start"] or second["end"] <= first["start"]
    assert qa(NAME, context, top_k=1) == first
    one_context = qa(question=[NAME, "Where do I live?"], context=context, top_k=1)
    assert [answer["answer"] for answer in one_context] == ["Mew", "Kanto"]
    contexts = [f"My name is {name}" for name in NAMES[:3]]
    assert [a["answer"] for a in qa(question=NAME, context=contexts, top_k=1)] == NAMES[:3]
    assert qa(question=[NAME], context=context, top_k=1) == [first]
    assert qa(question="???", context=context, top_k=1) == {"score": 0.0, "start": 0, "end": 0, "answer": ""}


def test_windows_of_the_recorded_length(qa_folder: Path) -> None:
    qa = pipeline("qa", qa_folder)
    assert (qa.sequence_length, qa.doc_stride) == (64, 14)
    assert pipeline("qa", qa_folder, sequence_length=100, doc_stride=20, max_question_length=20).doc_stride == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"question": " ", "context": "a"}, "question: is empty"),
        ({"question": "a", "context": ""}, "context: is empty"),
        ({"question": ["a", ""], "context": "a"}, "question 2: is empty"),
        ({"question": 7, "context": "a"}, "question: is a int; give a text"),
        ({"question": None, "context": "a"}, "question: is a NoneType"),
        ({"question": "a", "context": 3}, "context: is a int"),
        ({"question": ["a", "b"], "context": None}, "context 1: is a NoneType"),
        ({"question": {"a": "b"}, "context": "a"}, "question: is a dict"),
        ({"question": ["a", "b"], "context": ["a"]}, "2 questions and 1 contexts"),
        ({"question": "a", "context": "a", "top_k": 0}, "top_k 0: must be a whole number, 1 or more"),
        ({"question": "a", "context": "a", "top_k": "2"}, "top_k '2': must be a whole number"),
    ],
)
def test_questions_that_cannot_be_answered(arguments: dict[str, Any], message: str, qa_folder: Path) -> None:
    with pytest.raises(UsageError, match=message):
        pipeline("qa", qa_folder)(**arguments)


def test_half_a_surrogate_pair(qa_folder: Path) -> None:
    """Places stay, also behind it; what is found can be printed."""
    qa = pipeline("qa", qa_folder)
    context = "\ud800 . My name is Snorlax"
    answer = qa(f"{NAME} \ud800", context)
    assert (answer["answer"], answer["start"]) == ("Snorlax", context.index("Snorlax"))
    assert qa(NAME, [context, CONTEXT])[0]["start"] == context.index("Snorlax")
    broken = qa(NAME, "My name is Snor\ud800lax")["answer"]
    assert broken.encode() and "\ud800" not in broken


def test_a_question_that_is_cut(qa_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    answer = pipeline("qa", qa_folder)(f"{NAME} {'and ' * 90}", CONTEXT)
    # Also one that would not fit a window.
    assert answer["answer"] and "96 tokens; only the first 32 are used (max_question_length)" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sequence_length": 200}, "takes at most 128 tokens, sequence_length is 200"),
        ({"sequence_length": 0}, "sequence_length 0"),
        ({"max_question_length": 64}, "sequence_length 64 leaves 0 tokens .* max_question_length 64"),
        ({"sequence_length": "64"}, "sequence_length '64': must be a whole number, 1 or more"),
        ({"sequence_length": 64.0}, "sequence_length 64.0: must be a whole number"),
        ({"sequence_length": True}, "sequence_length True: must be a whole number"),
        ({"max_answer_length": 0}, "max_answer_length 0: must be"),
        ({"max_question_length": "9"}, "max_question_length '9': must be"),
        ({"doc_stride": -1}, "doc_stride -1: must be a whole number, 0 or more"),
        ({"batch_size": 2.5}, "batch_size 2.5: must be"),
        ({"top_k": None}, "top_k None: must be"),
        ({"threads": -1}, "threads -1: must be a whole number, 0 or more"),
        ({"max_answer_lenght": 3}, 'is no setting of question-answering .did you mean "max_answer_length"'),
        ({"maxx": 3}, "maxx: is no setting of question-answering; there are sequence_length, doc_stride"),
        ({"runtime": 3}, "runtime 3: not known"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str, qa_folder: Path) -> None:
    with pytest.raises(UsageError, match=message):
        pipeline("qa", qa_folder, **settings)


@pytest.mark.parametrize(
    ("files", "runtime", "error", "message"),
    [
        ({"config__json": None}, None, UsageError, "config.json: no such file"),
        ({"config__json": b"{"}, None, IntegrityError, "not valid JSON"),
        (
            {"config__json": b'{"sequence_length": "abc"}'},
            None,
            IntegrityError,
            "json: sequence_length is 'abc', not a",
        ),
        ({"config__json": b'{"sequence_length": 64.5}'}, None, IntegrityError, "sequence_length is 64.5, not a number"),
        ({"config__json": b'{"sequence_length": true}'}, None, IntegrityError, "sequence_length is True, not a number"),
        ({"config__json": b'{"max_position_embeddings": "128"}'}, None, IntegrityError, "is '128', not a number of"),
        ({"config__json": b'{"max_position_embeddings": 0}'}, None, IntegrityError, "is 0, not a number of tokens"),
        ({"config__json": b'{"architectures": 3}'}, None, IntegrityError, "architectures is 3, not a list of names"),
        ({"config__json": b'{"architectures": "B"}'}, None, IntegrityError, "architectures is 'B', not a list"),
        ({"config__json": b'{"id2label": ["a"]}'}, None, IntegrityError, "id2label is .*, not an object"),
        ({"config__json": b'{"pad_token_id": "1"}'}, None, IntegrityError, "pad_token_id is '1', not a whole number"),
        ({"tokenizer_config__json": None}, None, IntegrityError, "tokenizer_config.json: is missing, and texts would"),
        ({"tokenizer__json": None, "vocab__txt": None}, None, UsageError, "has no tokenizer"),
        ({"model__onnx": b"\x08\x01"}, "onnxruntime", IntegrityError, "cannot be loaded"),
        ({"model__onnx": None}, "onnxruntime", UsageError, "holds no model.onnx"),
        ({"openvino_model__bin": b"abc"}, None, IntegrityError, "cannot be loaded"),
        ({}, "torch", UsageError, "holds no model.safetensors"),
        ({"pytorch_model__bin": b"\x80"}, "torch", UsageError, "a pickle, which may run any code"),
        ({}, "openvno", UsageError, 'did you mean "openvino"'),
    ],
)
def test_damaged_folders(
    files: dict[str, bytes | None],
    runtime: str | None,
    error: type[CompressionError],
    message: str,
    broken: Callable[..., Path],
) -> None:
    with pytest.raises(error, match=message) as caught:
        pipeline("qa", broken(**files), runtime)
    assert "\n" not in str(caught.value)


def test_files(qa_folder: Path, broken: Callable[..., Path]) -> None:
    wanted = pipeline("qa", qa_folder)(NAME, CONTEXT)
    assert pipeline("qa", qa_folder / "openvino_model.xml")(NAME, CONTEXT) == wanted
    for runtime in ("openvino", "onnxruntime"):
        assert pipeline("qa", qa_folder / "model.onnx", runtime)(NAME, CONTEXT)["answer"] == "Snorlax"
    with pytest.raises(UsageError, match="cannot be run by onnxruntime; openvino can"):
        pipeline("qa", qa_folder / "openvino_model.xml", "onnxruntime")
    with pytest.raises(UsageError, match="is no exported model"):
        pipeline("qa", qa_folder / "tokenizer.json")
    with pytest.raises(UsageError, match="no such model"):
        pipeline("qa", qa_folder / "nowhere")
    truncated = (qa_folder / "model.onnx").read_bytes()[:-1000]
    with pytest.raises(IntegrityError, match="cannot be loaded"):
        pipeline("qa", broken(model__onnx=truncated) / "model.onnx")


def test_a_tokenizer_of_others_needs_no_settings(qa_folder: Path, broken: Callable[..., Path]) -> None:
    """Only what was exported with them needs them."""
    folder = broken(tokenizer_config__json=None, parity__json=None)
    assert pipeline("qa", folder)(NAME, CONTEXT)["score"] > 0


def test_a_configuration_that_is_a_folder(broken: Callable[..., Path]) -> None:
    folder = broken(config__json=None)
    (folder / "config.json").mkdir()
    with pytest.raises(UsageError, match="config.json: cannot be read"):
        pipeline("qa", folder)


def test_other_tasks(qa_folder: Path, deployed: Callable[[str], Path]) -> None:
    with pytest.raises(UsageError, match="'question answring': not known .did you mean \"question-answering\""):
        pipeline("question answring", qa_folder)
    with pytest.raises(UsageError, match="task None: is a NoneType; give a name, such as question-answering"):
        pipeline(None, qa_folder)
    with pytest.raises(UsageError, match="model_path None: is a NoneType; name a folder with a model"):
        pipeline("qa", None)
    with pytest.raises(UsageError, match="holds a BertForQuestionAnswering.*its task is question-answering"):
        pipeline("fill-mask", qa_folder)
    config = (deployed("classes") / "config.json").read_text()
    with pytest.raises(UsageError, match="is not for question-answering; its task is text-classification"):
        pipeline("qa", deployed("classes"))
    assert "BertForSequenceClassification" in config
