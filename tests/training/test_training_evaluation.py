"""Judging a model in training: our metric, an official script instead of it, and contexts that are found."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from demo.model import build_vocabulary, write_tokenizer
from nncf_transformers.data import SquadExample
from nncf_transformers.errors import UsageError
from nncf_transformers.training.data import Retrieval
from nncf_transformers.training.evaluation import Answers, Found, in_words

TEXT = "Ada wrote the first program . Grace wrote the first compiler ."
EXAMPLES = [
    SquadExample("a", "", TEXT, "Who wrote the first program ?", ("Ada",), (0,)),
    SquadExample("g", "", TEXT, "Who wrote the first compiler ?", ("Grace",), (TEXT.index("Grace"),)),
]
LENGTHS: dict[str, Any] = {"max_question": 8, "max_length": 64, "stride": 8, "batch_size": 2}
V1 = """
def evaluate(articles, predictions):
    asked = [q["id"] for a in articles for p in a["paragraphs"] for q in p["qas"]]
    right = sum(predictions[i] == "Ada" for i in asked)
    return {"f1": 10.0 * right, "exact_match": float(len(asked))}
"""
V2 = """
def get_raw_scores(articles, predictions):
    return {"a": 1, "g": 0}, {"a": 1.0, "g": 0.5}
"""


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    write_tokenizer(tmp_path, build_vocabulary([TEXT, "Who wrote the first program ?"]))
    return AutoTokenizer.from_pretrained(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> str:
    questions = [{"id": e.id, "question": e.question, "answers": []} for e in EXAMPLES]
    path = tmp_path / "dev.json"
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": TEXT, "qas": questions}]}]}))
    return str(path)


def always(token: int) -> Any:
    """A model that points at a token, whatever it is asked."""

    def run(inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        logits = (np.asarray(inputs["input_ids"]) == token).astype(np.float32)
        return logits, logits

    return run


def test_our_metric(tokenizer: Any, file: str) -> None:
    scores = Answers(file, EXAMPLES, tokenizer, script=None, **LENGTHS)(always(tokenizer.vocab["Ada"]))
    assert scores == {"f1": 50.0, "exact_match": 50.0}
    assert in_words(scores) == "f1 50.00 exact_match 50.00"


@pytest.mark.parametrize(("source", "expected"), [(V1, (20.0, 2.0)), (V2, (75.0, 50.0))])
def test_an_official_script(
    source: str, expected: tuple[float, float], tokenizer: Any, file: str, tmp_path: Path
) -> None:
    script = tmp_path / "evaluate-v1.1.py"
    script.write_text(source)
    scores = Answers(file, EXAMPLES, tokenizer, script=str(script), **LENGTHS)(always(tokenizer.vocab["Ada"]))
    assert (scores["f1"], scores["exact_match"]) == expected


@pytest.mark.parametrize(("source", "message"), [("1 / 0", "cannot be imported"), ("x = 1", "neither evaluate")])
def test_a_script_that_is_none(source: str, message: str, tokenizer: Any, file: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(source)
    with pytest.raises(UsageError, match=message):
        Answers(file, EXAMPLES, tokenizer, script=str(script), **LENGTHS)


def test_contexts_that_are_found(tokenizer: Any) -> None:
    def count(inputs: Any) -> tuple[np.ndarray]:
        ids = np.asarray(inputs["input_ids"])
        return (np.stack([(ids == tokenizer.vocab[word]).sum(1) for word in ("Ada", "Grace")], 1).astype(np.float32),)

    data = Retrieval(["Ada", "Grace", "Grace"], ["Ada wrote", "Grace wrote"], [0, 1, 0])
    scores = Found(data, tokenizer, max_question=8, max_context=8, batch_size=2)(count)
    assert scores == {"top1_neg1": pytest.approx(200 / 3)}
