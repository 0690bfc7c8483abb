"""Distillation: what is read, and what every mistake is called."""

from typing import Any

import pytest

from nncf_transformers.config import ConfigError, DistillationConfig, parse_config


def distillation(**settings: Any) -> DistillationConfig:
    """The settings of a config with one algorithm."""
    config = parse_config({"algorithms": [{"algorithm": "distillation", **settings}]}, "f.json")
    (algorithm,) = config.algorithms
    assert isinstance(algorithm, DistillationConfig)
    assert config.warnings == ()
    return algorithm


def legacy(**settings: Any) -> DistillationConfig:
    """The same, from the legacy schema."""
    config = parse_config({"compression": {"algorithm": "knowledge_distillation", **settings}}, "f.json")
    (algorithm,) = config.algorithms
    assert isinstance(algorithm, DistillationConfig)
    return algorithm


def test_the_smallest_config_is_all_defaults() -> None:
    default = distillation()
    assert default == DistillationConfig(place="f.json: algorithms[0]")
    assert (default.teacher, default.loss, default.weight, default.temperature) == (None, "kl", 0.5, 2.0)


def test_every_key_arrives() -> None:
    place = "f.json: algorithms[0]"
    assert distillation(
        teacher="big", loss="kl", weight=0.9, temperature=3, hidden_weight=0.5, teacher_dtype="bfloat16"
    ) == DistillationConfig(place, "big", "kl", 0.9, 3.0, 1.0, 0.5, "bfloat16", None)
    assert distillation(teacher="self", loss="softmax", temperature=0.5, scale=4) == DistillationConfig(
        place, "self", "softmax", temperature=0.5, scale=4.0
    )
    assert distillation(loss="mse", scale=0) == DistillationConfig(place, loss="mse", scale=0.0)
    assert distillation(teacher="self", cache="kept", hidden_weight=0).cache == "kept"


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"wait": 0.9}, 'wait: unknown key "wait" (did you mean "weight"?)'),
        ({"teacher": 1}, "teacher: is a number (1), must be a string"),
        ({"teacher": " "}, 'teacher: is empty; give a folder, a model of the hub or "self", or leave the key out'),
        ({"loss": "KL"}, 'loss: is "KL", must be one of kl, mse, softmax'),
        ({"weight": 1.5}, "weight: is 1.5, must be a number from 0 to 1"),
        ({"weight": -0.1}, "weight: is -0.1, must be a number from 0 to 1"),
        ({"temperature": 0.5}, "temperature: is 0.5, must be a number of at least 1"),
        ({"loss": "softmax", "temperature": 0}, "temperature: is 0, must be a number above 0"),
        ({"loss": "mse", "temperature": 2}, 'temperature: has no effect unless "loss" is "kl" or "softmax"; remove it'),
        ({"loss": "mse", "weight": 0.5}, 'weight: has no effect unless "loss" is "kl"; remove it'),
        ({"loss": "softmax", "weight": 0.5}, 'weight: has no effect unless "loss" is "kl"'),
        ({"scale": 2}, 'scale: has no effect unless "loss" is "mse" or "softmax"'),
        ({"loss": "mse", "scale": -1}, "scale: is -1, must be a number of at least 0"),
        ({"hidden_weight": -1}, "hidden_weight: is -1, must be a number of at least 0"),
        ({"teacher_dtype": "float16"}, 'teacher_dtype: is "float16", must be one of float32, bfloat16'),
        ({"cache": ""}, "cache: is empty; give a folder"),
        ({"cache": "kept", "hidden_weight": 1}, "cache: keeps logits, but hidden_weight needs"),
    ],
)
def test_mistakes(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        distillation(**settings)
    assert str(caught.value).startswith("f.json: algorithms[0].")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_null_is_no_setting() -> None:
    assert distillation(loss="mse", weight=None, temperature=None) == distillation(loss="mse")


def test_the_legacy_form() -> None:
    place = "f.json: compression"
    assert legacy(type="mse") == DistillationConfig(place, "self", "mse", temperature=1.0)
    assert legacy(type="softmax", scale=3, temperature=5) == DistillationConfig(
        place, "self", "softmax", temperature=5.0, scale=3.0
    )


@pytest.mark.parametrize(
    "settings, message",
    [
        ({}, 'compression.type: is missing; give "mse" or "softmax"'),
        ({"tpye": "mse"}, 'compression.tpye: unknown key "tpye" (did you mean "type"?)'),
        ({"type": "kl"}, 'compression.type: is "kl", must be one of mse, softmax'),
        ({"type": "mse", "temperature": 1.0}, 'compression.temperature: has no effect unless "type" is "softmax"'),
        ({"type": "softmax", "temperature": 0}, "compression.temperature: is 0, must be a number above 0"),
        ({"type": "mse", "scale": -1}, "compression.scale: is -1, must be a number of at least 0"),
    ],
)
def test_mistakes_in_the_legacy_form(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        legacy(**settings)
    assert message in str(caught.value)


def test_both_names_are_one_method() -> None:
    entry = {"algorithm": "knowledge_distillation", "type": "mse"}
    with pytest.raises(ConfigError, match=r'compression\[1\]: "distillation" is given a second time'):
        parse_config({"compression": [entry, entry]}, "f.json")
