"""Text classification, token classification and fill-mask, against their formulas."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline_models import FILLING
from transformers import AutoTokenizer

from nncf_transformers import pipeline
from nncf_transformers.encoding import Encoder
from nncf_transformers.errors import UsageError
from nncf_transformers.runtimes import Exported, onnx_runtime, openvino_runtime

RUNTIMES = ("openvino", "onnxruntime")
TEXTS = [" ".join(FILLING[: 1 + n % 8]) for n in range(1, 20)] + ["the sun " * 20]


def bare(folder: Path, runtime: str, *text: str) -> np.ndarray:
    """The logits of a text, padded as the pipelines do."""
    load, file = (onnx_runtime, "model.onnx") if runtime == "onnxruntime" else (openvino_runtime, "openvino_model.xml")
    model = load(folder / file)
    row = AutoTokenizer.from_pretrained(folder)(*text, pad_to_multiple_of=8, padding=True)
    assert len(row["input_ids"]) <= 32
    return model({name: np.array([values]) for name, values in row.items()})[0][0].astype(np.float64)


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


@pytest.mark.parametrize("multiple", [8, 16])
def test_rows_share_a_call_with_rows_of_their_width(multiple: int, deployed: Callable[[str], Path]) -> None:
    seen = []

    def run(inputs: Any) -> Any:
        seen.append(inputs)
        return (inputs["input_ids"],)

    encoder = Encoder(AutoTokenizer.from_pretrained(deployed("classes")), 41)
    encodings = [rows[0] for rows in encoder([*TEXTS, "the sun " * 16])]
    found = {}
    for rows, (ids,) in encoder.run(Exported(run, (), (), multiple), encodings, 3):
        found.update(zip(rows, ids.tolist(), strict=True))
    assert all(len(batch["input_ids"]) <= 3 for batch in seen)
    widths = [len(found[i]) for i in range(len(encodings))]
    # One is cut at 41 tokens, which no multiple may exceed; one has 34.
    assert widths[-2:] == [41, 40 if multiple == 8 else 41]
    assert widths[:-2] == [8 * math.ceil(len(row) / 8) for row in encodings[:-2]] and len(set(widths)) > 2
    assert all(found[i][: len(row)] == row.ids for i, row in enumerate(encodings))
    assert sum(batch["attention_mask"].sum() for batch in seen) == sum(len(row) for row in encodings)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_text_classification(runtime: str, deployed: Callable[[str], Path]) -> None:
    folder = deployed("classes")
    classify = pipeline("text-classification", folder, runtime)
    expected = softmax(bare(folder, runtime, "the sun shines", "a fine day"))
    found = classify({"text": "the sun shines", "text_pair": "a fine day"}, top_k=None)
    assert [row["label"] for row in found] == [("O", "PER", "LOC")[i] for i in np.argsort(-expected)]
    assert [row["score"] for row in found] == pytest.approx(sorted(expected, reverse=True))
    assert classify("the sun shines", "a fine day") == found[:1] == classify("the sun shines", "a fine day", top_k=1)
    assert classify([{"text": "the sun shines", "text_pair": "a fine day"}]) == [found[0]]
    assert classify(TEXTS) == [classify(text)[0] for text in TEXTS]
    assert classify(TEXTS, top_k=2) == [classify(text, top_k=2) for text in TEXTS]


@pytest.mark.parametrize(
    ("problem", "formula"),
    [("multi_label_classification", lambda x: 1 / (1 + np.exp(-x))), ("regression", lambda x: x)],
)
def test_problem_types(problem: str, formula: Any, deployed: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(deployed("classes"), folder)
    config = json.loads((folder / "config.json").read_text()) | {"problem_type": problem}
    del config["id2label"]
    (folder / "config.json").write_text(json.dumps(config))
    found = pipeline("glue", folder)("a fine day", top_k=None)
    expected = formula(bare(folder, "openvino", "a fine day"))
    assert {row["label"]: row["score"] for row in found} == pytest.approx(
        {f"LABEL_{i}": value for i, value in enumerate(expected)}
    )


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_fill_mask(runtime: str, deployed: Callable[[str], Path]) -> None:
    folder = deployed("masked")
    fill = pipeline("fill-mask", folder, runtime, top_k=3)
    text = "the sun [MASK] and"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = softmax(bare(folder, runtime, text)[3])
    found = fill(text)
    assert [row["token"] for row in found] == list(np.argsort(-expected)[:3])
    assert [row["score"] for row in found] == pytest.approx(sorted(expected, reverse=True)[:3])
    assert [row["token_str"] for row in found] == [tokenizer.decode([row["token"]]) for row in found]
    assert found[0]["sequence"].startswith("the sun") and "[MASK]" not in found[0]["sequence"]
    texts = [f"{text} [MASK]" for text in TEXTS]
    assert fill(texts, top_k=1) == [fill(text, top_k=1) for text in texts]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_token_classification(runtime: str, deployed: Callable[[str], Path]) -> None:
    folder = deployed("tokens")
    tag = pipeline("ner", folder, runtime, ignore_labels=())
    found = tag("the sun shines")
    scores = softmax(bare(folder, runtime, "the sun shines"))
    assert [row["index"] for row in found] == [1, 2, 3] and [row["word"] for row in found] == ["the", "sun", "shines"]
    assert [(row["start"], row["end"]) for row in found] == [(0, 3), (4, 7), (8, 14)]
    assert [row["entity"] for row in found] == [("O", "PER", "LOC")[i] for i in scores[1:4].argmax(-1)]
    assert [row["score"] for row in found] == pytest.approx(scores[1:4].max(-1))
    assert tag(TEXTS) == [tag(text) for text in TEXTS]
    kept = pipeline("ner", folder, runtime)(TEXTS)
    assert kept == [[row for row in rows if row["entity"] != "O"] for rows in tag(TEXTS)]


def test_longer_texts(deployed: Callable[[str], Path], caplog: pytest.LogCaptureFixture) -> None:
    classify = pipeline("text-classification", deployed("classes"), sequence_length=6)
    assert classify("the sun shines and it is") == classify("the sun shines and")
    assert "1 of 1 texts have more than 6 tokens" in caplog.text
    with pytest.raises(UsageError, match="text: is longer than 128 tokens"):
        pipeline("fill-mask", deployed("masked"))("the sun " * 80 + "[MASK]")


@pytest.mark.parametrize(
    ("head", "task", "arguments", "message"),
    [
        ("masked", "fill-mask", ["the sun"], "text: has no mask token; put .MASK. where"),
        ("masked", "fill-mask", [["a [MASK]", "[MASK] [MASK]"]], "text 2: has 2 mask tokens"),
        ("masked", "fill-mask", [""], "text: is empty"),
        ("masked", "fill-mask", [None], "text: is missing; give a text"),
        ("masked", "fill-mask", [["[MASK]", 3]], "text 2: is a int"),
        ("classes", "text-classification", [""], "text: is empty"),
        ("classes", "text-classification", [["a", 7]], "text 2: is a int"),
        ("classes", "text-classification", [None], "text: is missing"),
        ("classes", "text-classification", [{"text": None, "text_pair": "my"}], "text: is missing"),
        ("classes", "text-classification", [{"text": "my", "text_pair": " "}], "text: is empty"),
        ("classes", "text-classification", ["a", 3], "text: is a int"),
        ("tokens", "token-classification", [None], "text: is missing"),
        ("tokens", "token-classification", [{"texts": "a"}], "text: is a dict"),
        ("classes", "text-classification", [["a"], ["b", "c"]], "1 texts and 2 of text_pair"),
        ("tokens", "token-classification", [["a", " "]], "text 2: is empty"),
    ],
)
def test_texts_that_are_none(
    head: str, task: str, arguments: list[Any], message: str, deployed: Callable[[str], Path]
) -> None:
    with pytest.raises(UsageError, match=message):
        pipeline(task, deployed(head))(*arguments)


@pytest.mark.parametrize(
    ("head", "task", "settings", "message"),
    [
        ("masked", "fill-mask", {"top_k": "2"}, "top_k '2': must be a whole number, 1 or more"),
        ("classes", "text-classification", {"batch_size": 0}, "batch_size 0: must be a whole number, 1 or more"),
        ("tokens", "token-classification", {"ignore_labels": "PER"}, "ignore_labels 'PER': must be a list of labels"),
        ("tokens", "token-classification", {"ignore_labels": None}, "ignore_labels None: must be a list of labels"),
        ("tokens", "token-classification", {"top_k": 2}, "top_k: is no setting of token-classification; there are"),
    ],
)
def test_settings_that_are_none(
    head: str, task: str, settings: dict[str, Any], message: str, deployed: Callable[[str], Path]
) -> None:
    with pytest.raises(UsageError, match=message):
        pipeline(task, deployed(head), **settings)


@pytest.mark.parametrize("task", ["fill-mask", "text-classification"])
def test_numbers_of_results_that_are_none(task: str, deployed: Callable[[str], Path]) -> None:
    run = pipeline(task, deployed("masked" if task == "fill-mask" else "classes"))
    with pytest.raises(UsageError, match="top_k '2': must be a whole number, 1 or more"):
        run("the [MASK]", top_k="2")


@pytest.mark.parametrize(
    ("head", "task"), [("masked", "fill-mask"), ("classes", "text-classification"), ("tokens", "token-classification")]
)
def test_half_a_surrogate_pair(head: str, task: str, deployed: Callable[[str], Path]) -> None:
    run = pipeline(task, deployed(head), **({"ignore_labels": ()} if head == "tokens" else {}))
    texts = ["the \ud800 sun [MASK]", "the ? sun [MASK]"]
    first, second = run(texts)
    assert first == second and run(texts[0]) == run(texts[1])
