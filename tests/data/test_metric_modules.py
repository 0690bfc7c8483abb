"""The metric modules that we ship, and the stand-in for the module ``evaluate``."""

import logging
import random
import sys
from pathlib import Path
from typing import Any

import evaluate as original
import numpy as np
import pytest

from nncf_transformers.data import evaluate
from nncf_transformers.data.metric_loading import METRICS, shipped_metrics
from nncf_transformers.errors import UnreachableError

# F1 of precision 1/2 and recall 1 (or the reverse), in per cent, to the last bit.
TWO_THIRDS = 100.0 * ((2 * 0.5 * 1.0) / 1.5)


def score(name: str, *config: str, predictions: Any, references: Any, **options: Any) -> dict[str, Any]:
    metric = evaluate.load(name, *config, keep_in_memory=True)
    return metric.compute(predictions=predictions, references=references, **options)


def squad(*pairs: tuple[str, list[str]], version: str = "squad", **options: Any) -> dict[str, Any]:
    """Score predictions against their accepted answers; for squad_v2 with no-answer probability 0."""
    extra = {"no_answer_probability": 0.0} if version == "squad_v2" else {}
    predictions = [{"id": str(i), "prediction_text": text, **extra} for i, (text, _) in enumerate(pairs)]
    references = [
        {"id": str(i), "answers": {"text": truths, "answer_start": [0] * len(truths)}}
        for i, (_, truths) in enumerate(pairs)
    ]
    return score(version, predictions=predictions, references=references, **options)


@pytest.mark.parametrize(
    ("prediction", "truths", "exact", "f1"),
    [
        ("The Cat!", ["cat"], 100.0, 100.0),
        ("an  ugly\tcat", ["Ugly cat."], 100.0, 100.0),
        ("theatre", ["atre"], 0.0, 0.0),  # an article is a whole word
        ("cat dog", ["cat"], 0.0, TWO_THIRDS),
        ("cat", ["dog", "cat sat", "cat"], 100.0, 100.0),  # the best of the accepted answers
        ("cat cat", ["cat"], 0.0, TWO_THIRDS),  # tokens count as often as they occur
        ("U.S.", ["us"], 100.0, 100.0),
        ("«chat»", ["chat"], 0.0, 0.0),  # only ASCII punctuation goes
        ("ÜBER", ["über"], 100.0, 100.0),
        ("猫 在", ["猫"], 0.0, TWO_THIRDS),
        ("the", ["a"], 100.0, 0.0),  # equal, yet without a common token
    ],
)
def test_squad_by_hand(prediction: str, truths: list[str], exact: float, f1: float) -> None:
    assert squad((prediction, truths)) == {"exact_match": exact, "f1": f1}


def test_squad_averages_over_all_references() -> None:
    references = [{"id": key, "answers": {"text": ["cat"], "answer_start": [0]}} for key in "abc"]
    predictions = [{"id": "a", "prediction_text": "cat"}, {"id": "b", "prediction_text": "a cat sat"}]
    result = score("squad", predictions=[*predictions, {"id": "z", "prediction_text": "cat"}], references=references)
    assert result == {"exact_match": 100.0 * 1 / 3, "f1": 100.0 * (1 + 2 * 0.5 / 1.5) / 3}


def test_squad_refuses_unanswerable_questions() -> None:
    with pytest.raises(ValueError, match=r"question '0' has no answer.*--version_2_with_negative"):
        squad(("cat", []))


def words(generator: random.Random) -> str:
    vocabulary = ["cat", "Dog,", "the", "a", "über", "猫", "x.y", "1976", "-"]
    return " ".join(generator.choices(vocabulary, k=generator.randint(0, 4)))


@pytest.mark.parametrize("version", ["squad", "squad_v2"])
def test_f1_is_symmetric_and_bounded_by_equality(version: str) -> None:
    generator = random.Random(0)
    pairs = [(words(generator), words(generator)) for _ in range(40)]
    names = ("exact_match", "f1") if version == "squad" else ("exact", "f1")
    forward = squad(*((one, [two]) for one, two in pairs), version=version)
    backward = squad(*((two, [one]) for one, two in pairs), version=version)
    # Summed in the same order, precision and recall only swap.
    assert forward["f1"] == pytest.approx(backward["f1"], abs=1e-12)
    assert 0 <= forward["f1"] <= 100
    same = squad(*((one, [one]) for one, _ in pairs), version=version)
    assert same[names[0]] == 100.0
    assert forward[names[0]] == backward[names[0]] < 100.0


def test_squad_modules_normalise_alike() -> None:
    generator = random.Random(1)
    modules = [sys.modules[type(original.load(str(METRICS / name))).__module__] for name in ("squad", "squad_v2")]
    for _ in range(200):
        text = words(generator)
        assert modules[0].normalize(text) == modules[1].normalize(text)


def test_squad_v2_by_hand() -> None:
    references = [
        {"id": "a", "answers": {"text": ["cat"], "answer_start": [0]}},
        {"id": "b", "answers": {"text": ["a dog", "."], "answer_start": [0, 0]}},
        {"id": "c", "answers": {"text": [], "answer_start": []}},
        {"id": "d", "answers": {"text": [], "answer_start": []}},
    ]
    predictions = [
        {"id": "a", "prediction_text": "the cat", "no_answer_probability": 0.25},
        {"id": "b", "prediction_text": "dog sat", "no_answer_probability": 0.5},
        {"id": "c", "prediction_text": "", "no_answer_probability": 0.75},
        {"id": "d", "prediction_text": "mat", "no_answer_probability": 0.875},
    ]
    f1 = 2 * 0.5 / 1.5  # "dog sat" against "dog"
    plain = score("squad_v2", predictions=predictions, references=references)
    assert plain == {
        "exact": 50.0,
        "f1": 100.0 * (1 + f1 + 1.0 + 0) / 4,
        "total": 4,
        "HasAns_exact": 50.0,
        "HasAns_f1": 100.0 * (1 + f1) / 2,
        "HasAns_total": 2,
        "NoAns_exact": 50.0,
        "NoAns_f1": 50.0,
        "NoAns_total": 2,
        # Answering a alone gives 1 + 2 of 4; b adds to F1 only; d would cost 1.
        "best_exact": 75.0,
        "best_exact_thresh": 0.25,
        "best_f1": 100.0 * (2 + 1.0 + f1) / 4,
        "best_f1_thresh": 0.5,
    }
    assert list(plain)[:3] == ["exact", "f1", "total"]
    strict = score("squad_v2", predictions=predictions, references=references, no_answer_threshold=0.5)
    assert strict["NoAns_exact"] == 100.0 and strict["HasAns_f1"] == plain["HasAns_f1"]
    nothing = score("squad_v2", predictions=predictions, references=references, no_answer_threshold=0.0)
    assert (nothing["HasAns_exact"], nothing["NoAns_exact"], nothing["exact"]) == (0.0, 100.0, 50.0)


def test_squad_v2_leaves_out_a_kind_that_is_not_there() -> None:
    assert not any(key.startswith("NoAns") for key in squad(("cat", ["cat"]), version="squad_v2"))
    assert not any(key.startswith("HasAns") for key in squad(("", []), version="squad_v2"))


def test_squad_v2_needs_every_prediction() -> None:
    with pytest.raises(ValueError, match="1 questions have no prediction, the first is 'a'"):
        score(
            "squad_v2",
            predictions=[{"id": "z", "prediction_text": "", "no_answer_probability": 0.0}],
            references=[{"id": "a", "answers": {"text": [], "answer_start": []}}],
        )


def test_squad_v2_agrees_with_the_official_formulas_in_transformers() -> None:
    squad_metrics = pytest.importorskip("transformers.data.metrics.squad_metrics")
    generator = random.Random(2)
    for _ in range(20):
        prediction, truth = words(generator), words(generator)
        ours = squad((prediction, [truth]), version="squad_v2")
        # An accepted answer that normalises to nothing stands for "no answer".
        truth = truth if squad_metrics.normalize_answer(truth) else ""
        assert ours["f1"] == 100.0 * squad_metrics.compute_f1(truth, prediction)
        assert ours["exact"] == 100.0 * squad_metrics.compute_exact(truth, prediction)


@pytest.mark.parametrize("task", ["sst2", "mnli", "mnli_matched", "mnli_mismatched", "qnli", "rte", "wnli", "hans"])
def test_glue_accuracy_tasks(task: str) -> None:
    assert score("glue", task, predictions=[0, 1, 1], references=[0, 1, 0]) == {"accuracy": float(np.float64(2) / 3)}


@pytest.mark.parametrize("task", ["mrpc", "qqp"])
def test_glue_f1_tasks(task: str) -> None:
    # 2 true positives, 1 false positive, 1 false negative.
    result = score("glue", task, predictions=[1, 1, 1, 0, 0], references=[1, 1, 0, 1, 0])
    assert result == {"accuracy": 0.6, "f1": 2 / 3}


def test_glue_cola_and_stsb() -> None:
    result = score("glue", "cola", predictions=[1, 1, 0, 0], references=[1, 0, 0, 0])
    # (tp·tn − fp·fn) / √((tp+fp)(tp+fn)(tn+fp)(tn+fn)) with tp 1, tn 2, fp 1, fn 0
    assert result == {"matthews_correlation": pytest.approx(2 / np.sqrt(2 * 1 * 3 * 2))}
    scores = score("glue", "stsb", predictions=[0.0, 1.0, 8.0], references=[0.0, 1.0, 2.0])
    assert scores["spearmanr"] == pytest.approx(1.0)
    assert scores["pearson"] == pytest.approx(8 / np.sqrt(2 * 38))


def test_glue_unknown_task() -> None:
    with pytest.raises(KeyError, match="'nope' is not a GLUE task"):
        evaluate.load("glue", "nope")


def test_xnli_accuracy_f1_mse() -> None:
    assert score("xnli", predictions=[0, 1, 2, 2], references=[0, 1, 1, 2]) == {"accuracy": 0.75}
    assert score("accuracy", predictions=[0, 1, 2, 2], references=[0, 1, 1, 2]) == {"accuracy": 0.75}
    counted = score("accuracy", predictions=[0, 1], references=[0, 1], normalize=False)
    assert counted == {"accuracy": 2.0}
    assert score("f1", predictions=[1, 1, 0], references=[1, 0, 0]) == {"f1": 2 / 3}
    each = score("f1", predictions=[1, 1, 0], references=[1, 0, 0], average=None)
    np.testing.assert_array_equal(each["f1"], [2 / 3, 2 / 3])
    assert score("mse", predictions=[1.0, 3.0], references=[1.0, 1.0]) == {"mse": 2.0}
    assert score("mse", predictions=[1.0, 3.0], references=[1.0, 1.0], squared=False) == {"mse": np.sqrt(2.0)}
    pairs = score("mse", "multilist", predictions=[[1.0, 3.0]], references=[[1.0, 1.0]], multioutput="raw_values")
    np.testing.assert_array_equal(pairs["mse"], [0.0, 4.0])
    both = score("accuracy", "multilabel", predictions=[[0, 1], [1, 1]], references=[[0, 1], [0, 1]])
    assert both == {"accuracy": 0.5}


def test_stand_in_passes_attributes_through() -> None:
    assert evaluate.Metric is original.Metric
    assert evaluate.combine is original.combine
    assert "load" in dir(evaluate) and "EvaluationModule" in dir(evaluate)
    with pytest.raises(AttributeError):
        _ = evaluate.no_such_thing


def test_stand_in_uses_our_modules_and_says_so(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    assert shipped_metrics() == ["accuracy", "f1", "glue", "mse", "squad", "squad_v2", "xnli"]
    with caplog.at_level(logging.INFO, logger="nncf_transformers"):
        metric = evaluate.load("glue", "mrpc", cache_dir=str(tmp_path), revision="main")
    assert metric.config_name == "mrpc"
    assert [record.getMessage() for record in caplog.records] == [
        "metric 'glue': the module that comes with nncf_transformers is used"
    ]
    assert type(evaluate.load("evaluate-metric/squad")).__name__ == "Squad"


def test_stand_in_loads_a_users_own_module(tmp_path: Path) -> None:
    own = tmp_path / "always_one"
    own.mkdir()
    source = (METRICS / "xnli" / "xnli.py").read_text(encoding="utf-8")
    (own / "always_one.py").write_text(source.replace("(predictions == references).mean()", "1"), encoding="utf-8")
    assert evaluate.load(str(own)).compute(predictions=[0], references=[1]) == {"accuracy": 1}


def test_unreachable_metric_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(original.config, "HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(original.config, "HF_EVALUATE_OFFLINE", False)
    with pytest.raises(UnreachableError) as caught:
        evaluate.load("metric_that_nobody_has")
    assert str(caught.value) == (
        "cannot reach the hub (http://127.0.0.1:9) for the metric 'metric_that_nobody_has': run once where "
        "the hub is in reach, or use one that needs none: accuracy, f1, glue, mse, squad, squad_v2, xnli"
    )


def test_plain_evaluate_finds_the_modules_from_their_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The unpatched scripts, run in this folder, need no hub either."""
    monkeypatch.chdir(METRICS)
    monkeypatch.setattr(original.config, "HF_EVALUATE_OFFLINE", True)
    names = ["accuracy", "f1", "glue", "mse", "squad", "squad_v2", "xnli"]
    loaded = [original.load(name, *(["sst2"] if name == "glue" else [])) for name in names]
    assert [type(metric).__name__ for metric in loaded] == [
        "Accuracy",
        "F1",
        "Glue",
        "Mse",
        "Squad",
        "SquadV2",
        "Xnli",
    ]
