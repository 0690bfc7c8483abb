"""Data of SQuAD 2.0 where the script was not told so, and the names of data sets."""

import logging
from pathlib import Path
from typing import Any

import pytest
from squad_like import Write, nested, question

from nncf_transformers.data import dataset_name, evaluate, load_dataset, set_local_data
from nncf_transformers.data.metric_loading import SquadWithUnanswerable

ANSWERED = {"a": ["cat"], "b": ["mat"]}
MIXED = {"a": ["cat"], "b": ["the mat"], "c": [], "d": []}


def squad(answers: dict[str, list[str]]) -> dict[str, Any]:
    starts = {"cat": 4, "mat": 19, "the mat": 15}
    return nested(
        *(
            question(key, *((text, starts[text]) for text in texts), is_impossible=not texts)
            for key, texts in answers.items()
        )
    )


def load(write: Write, **splits: dict[str, list[str]]) -> Any:
    files = {split: str(write(f"{split}.json", squad(answers))) for split, answers in splits.items()}
    return load_dataset("json", data_files=files, field="data")


def predicted(**texts: str) -> list[dict[str, str]]:
    return [{"id": key, "prediction_text": text} for key, text in texts.items()]


def references(answers: dict[str, list[str]]) -> list[dict[str, Any]]:
    return [{"id": key, "answers": {"text": texts, "answer_start": [0] * len(texts)}} for key, texts in answers.items()]


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said as a warning; at which level the rest is logged, other tests decide, too."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_questions_without_answers_are_scored_as_in_squad_2(
    write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(write, train=ANSWERED, validation=MIXED)
    metric = evaluate.load("squad", cache_dir=str(tmp_path / "metrics"))
    warnings = warned(caplog)
    assert warnings == [
        "2 of 4 validation questions have no answer: add --version_2_with_negative, so that the script may predict "
        "that there is none; they are scored as SQuAD 2.0 does, not as 1.1"
    ]
    scores = metric.compute(predictions=predicted(a="cat", b="a red mat", c="dog", d=""), references=references(MIXED))
    # "red mat" against "mat": precision 1/2, recall 1.
    wanted = {"exact": 50.0, "f1": 100 * (1 + 2 / 3 + 0 + 1) / 4, "total": 4, "exact_match": 50.0}
    wanted |= {"HasAns_exact": 50.0, "HasAns_f1": 100 * (1 + 2 / 3) / 2, "HasAns_total": 2}
    wanted |= {"NoAns_exact": 50.0, "NoAns_f1": 50.0, "NoAns_total": 2}
    assert {name: scores[name] for name in wanted} == pytest.approx(wanted)


def test_the_scores_are_those_of_the_metric_for_squad_2(write: Write) -> None:
    load(write, validation=MIXED)
    texts = predicted(a="the cat", b="on the mat", c="", d="x")
    ours = evaluate.load("squad").compute(predictions=texts, references=references(MIXED))
    certain = [{**one, "no_answer_probability": 0.0} for one in texts]
    theirs = evaluate.load("squad_v2").compute(predictions=certain, references=references(MIXED))
    assert {name: value for name, value in ours.items() if name != "exact_match"} == theirs


@pytest.mark.parametrize(
    "splits",
    [
        {"train": ANSWERED, "validation": ANSWERED},
        {"train": MIXED, "validation": ANSWERED},
        # A test set without labels can be predicted, not scored.
        {"train": ANSWERED, "validation": ANSWERED, "test": {"a": [], "b": []}},
    ],
)
def test_nothing_changes_where_every_question_has_an_answer(
    write: Write, caplog: pytest.LogCaptureFixture, splits: dict[str, dict[str, list[str]]]
) -> None:
    load(write, **splits)
    metric = evaluate.load("squad")
    assert type(metric).__name__ == "Squad" and not warned(caplog)
    scores = metric.compute(predictions=predicted(a="cat", b="x"), references=references(ANSWERED))
    assert scores == {"exact_match": 50.0, "f1": 50.0}


def test_the_flag_is_heard(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    load(write, validation=MIXED)
    assert type(evaluate.load("squad_v2")).__name__ == "SquadV2" and not warned(caplog)


def test_a_test_set_with_some_answers_counts(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    load(write, test=MIXED)
    assert isinstance(evaluate.load("evaluate-metric/squad"), SquadWithUnanswerable)
    assert "2 of 4 test questions" in caplog.text


def test_the_note_is_of_the_last_data(write: Write) -> None:
    load(write, validation=MIXED)
    load(write, validation=ANSWERED)
    assert type(evaluate.load("squad")).__name__ == "Squad"


@pytest.mark.parametrize("rows", [[{"answers": "cat"}], [{"answers": {"label": 1}}], [{"text": "x"}]])
def test_other_columns_of_that_name_are_no_questions(write: Write, rows: list[dict[str, Any]]) -> None:
    files = {"validation": str(write("other.json", {"data": rows}))}
    load_dataset("json", data_files=files, field="data")
    assert type(evaluate.load("squad")).__name__ == "Squad"


def test_squad_2_from_a_folder(write: Write, tmp_path: Path) -> None:
    write("SQuAD/train-v2.0.json", squad(MIXED))
    write("SQuAD/dev-v2.0.json", squad(MIXED))
    set_local_data(tmp_path, need_test=False)
    loaded = load_dataset("rajpurkar/squad_v2")
    assert [len(texts["text"]) for texts in loaded["validation"]["answers"]] == [1, 1, 0, 0]
    assert isinstance(evaluate.load("squad"), SquadWithUnanswerable)


@pytest.mark.parametrize(
    ("path", "configuration", "name"),
    [
        ("squad", None, "squad"),
        ("rajpurkar/squad_v2", None, "squad_v2"),
        ("nyu-mll/glue", "sst2", "sst2"),
        ("glue", None, "glue"),
        ("facebook/xnli", "zh", "xnli"),
        ("Salesforce/wikitext", "wikitext-2-raw-v1", "wikitext"),
        ("someone/data.set-1", None, "data.set-1"),
        ("./data/mine/", None, "mine"),
        ("json", None, None),
        ("text", None, None),
    ],
)
def test_name_of_a_data_set(
    monkeypatch: pytest.MonkeyPatch, path: str, configuration: str | None, name: str | None
) -> None:
    monkeypatch.setattr("nncf_transformers.data.loading._load", lambda *args: None)
    load_dataset(path, configuration)
    assert dataset_name() == name


def test_the_name_is_that_of_the_last_data_set(write: Write, tmp_path: Path) -> None:
    write("train-v1.1.json", squad(ANSWERED))
    set_local_data(tmp_path, need_test=False, need_validation=False)
    load_dataset("rajpurkar/squad")
    assert dataset_name() == "squad"
    load(write, validation=ANSWERED)
    assert dataset_name() is None
