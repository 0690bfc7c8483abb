"""The legacy schema: no key may vanish without a trace."""

import copy
from typing import Any

import pytest
from legacy_keys import BASE, EVERY_KEY, OTHER_BASES, OTHER_KEYS, C, R, S

from nncf_transformers.config import ConfigError, InputInfo, QuantizationConfig, RangeSettings, parse_config
from nncf_transformers.config.legacy import TOP_LEVEL_KEYS
from nncf_transformers.config.registry import LEGACY_ALGORITHMS, LEGACY_NAMES


def legacy(path: str = "", value: Any = None, base: dict[str, Any] = BASE) -> dict[str, Any]:
    """The base config with one more key; ``path`` is dotted from the top of the file."""
    data = copy.deepcopy(base)
    if path:
        *parents, key = path.split(".")
        target = data
        for parent in parents:
            target = target.setdefault(parent, {})
        target[key] = value
    return data


def read(data: dict[str, Any]) -> tuple[QuantizationConfig, tuple[str, ...]]:
    config = parse_config(data, "f.json")
    assert config.quantization is not None
    return config.quantization, config.warnings


def check_outcome(base: dict[str, Any], path: str, value: Any, outcome: str) -> None:
    before = parse_config(legacy(base=base), "f.json")
    assert before.warnings == ()
    data = legacy(path, value, base)
    if outcome == "error":
        with pytest.raises(ConfigError, match=r"^f\.json: ") as caught:
            parse_config(data, "f.json")
        assert "\n" not in str(caught.value)
        return
    config = parse_config(data, "f.json")
    if outcome == "warning":
        assert len(config.warnings) == 1
        assert config.warnings[0].startswith("f.json: ")
    else:
        assert config.warnings == ()
        assert (config.algorithms != before.algorithms) == (outcome == "setting")


@pytest.mark.parametrize("path, value, outcome", EVERY_KEY)
def test_every_key_is_translated_warned_about_or_refused(path: str, value: Any, outcome: str) -> None:
    check_outcome(BASE, path, value, outcome)


@pytest.mark.parametrize("base, path, value, outcome", OTHER_KEYS)
def test_every_key_of_the_other_algorithms(base: str, path: str, value: Any, outcome: str) -> None:
    check_outcome(OTHER_BASES[base], path, value, outcome)


def keys_walked(walk: list[tuple[str, Any, str]]) -> set[str]:
    """The paths of a walk, below ``compression``, and those in their values."""
    walked = {path.removeprefix(C) for path, _, _ in walk if path.startswith(C)}
    return walked | {
        f"{path.removeprefix(C)}.{key}" if path.startswith(C) else key
        for path, value, _ in walk
        for entry in (value if isinstance(value, list) else [value])
        if isinstance(entry, dict)
        for key in entry
    }


def check_coverage(base: dict[str, Any], place: str, walked: set[str]) -> None:
    """An unknown key's error lists the valid ones; each of them must be walked over."""
    path = f"{C}{place}.zzzzzz" if place else f"{C}zzzzzz"
    data = legacy(path, 1, base)
    if place == S:  # This one is a list.
        data["compression"][S] = [data["compression"][S]]
    with pytest.raises(ConfigError) as caught:
        parse_config(data, "f.json")
    keys = str(caught.value).partition("valid keys: ")[2].split(", ")
    assert len(keys) > 1 or place == "initializer"
    for key in keys:
        name = f"{place}.{key}" if place else key
        if name not in ("algorithm", "initializer.range.num_init_samples"):
            assert any(seen == name or seen.startswith(name + ".") for seen in walked), name


@pytest.mark.parametrize("place", ["", "weights", "activations", "params", "initializer", "initializer.range"])
def test_the_walk_covers_every_key_of_the_schema(place: str) -> None:
    assert {path.partition(".")[0] for path, _, _ in EVERY_KEY} >= set(TOP_LEVEL_KEYS)
    check_coverage(BASE, place, keys_walked(EVERY_KEY))


@pytest.mark.parametrize(
    "names, places",
    [
        (("movement",), ("", "params", S)),
        (("magnitude", "exponential", "multistep", "every step"), ("", "params", "initializer")),
        (("constant",), ("",)),
        (("mse", "softmax"), ("",)),
    ],
)
def test_the_walk_covers_every_key_of_the_other_algorithms(names: tuple[str, ...], places: tuple[str, ...]) -> None:
    walked = keys_walked([entry[1:] for entry in OTHER_KEYS if entry[0] in names])
    for place in places:
        check_coverage(OTHER_BASES[names[0]], place, walked)


def test_every_algorithm_is_walked_over() -> None:
    named = {base["compression"]["algorithm"] for base in (BASE, *OTHER_BASES.values())}
    assert named == set(LEGACY_ALGORITHMS)


def test_input_info_is_kept_and_checked() -> None:
    data = legacy()
    data["input_info"] = [
        {"sample_size": [1, 128], "type": "long", "filler": "zeros", "keyword": "input_ids"},
        {"sample_size": [1, 3, 224, 224]},
    ]
    assert parse_config(data, "f").input_info == (
        InputInfo((1, 128), "long", "zeros", "input_ids"),
        InputInfo((1, 3, 224, 224)),
    )
    for wrong in (
        {"sample_size": [0]},
        {"sample_size": "1"},
        {"type": "int"},
        {"filler": "x"},
        {"keywrd": "x"},
    ):
        with pytest.raises(ConfigError, match="input_info"):
            read(legacy("input_info", wrong))


def test_old_defaults_are_those_of_the_old_schema() -> None:
    settings, warnings = read({"compression": {"algorithm": "quantization"}})
    assert settings.preset == "performance"
    assert settings.calibration_samples == 256
    assert settings.overflow_fix is None
    assert settings.legacy_scopes
    assert len(warnings) == 1 and "overflow_fix: absent" in warnings[0]


@pytest.mark.parametrize("disabled, expected", [(True, "disable"), (False, "enable")])
def test_the_older_name_of_overflow_fix(disabled: bool, expected: str) -> None:
    settings, warnings = read({"compression": {"algorithm": "quantization", "disable_saturation_fix": disabled}})
    assert settings.overflow_fix == expected
    assert warnings == ()


def test_percentiles_in_both_places() -> None:
    newer, _ = read(legacy(R[:-1], {"type": "percentile", "params": {"min_percentile": 0.01, "max_percentile": 99.99}}))
    older, _ = read(legacy(R[:-1], {"type": "percentile", "min_percentile": 0.01, "max_percentile": 99.99}))
    assert newer == older
    assert newer.weights.range == newer.activations.range == RangeSettings("mean_percentile", 0.01, 99.99)
    default, _ = read(legacy(R + "type", "mean_percentile"))
    assert default.activations.range == RangeSettings("mean_percentile", 0.1, 99.9)
    with pytest.raises(ConfigError, match="older place"):
        read(legacy(R[:-1], {"type": "percentile", "min_percentile": 1, "params": {"max_percentile": 99}}))


def test_steps_become_samples() -> None:
    settings, warnings = read(legacy(R + "num_init_steps", 4))
    assert settings.calibration_samples == 128
    assert "counted batches; read as 32 samples each, 128 in all" in warnings[0]
    with pytest.raises(ConfigError, match="older spelling"):
        read(legacy(R[:-1], {"num_init_steps": 1, "num_init_samples": 2}))


def test_ranges_by_quantizer_group() -> None:
    settings, _ = read(
        legacy(
            R[:-1],
            [
                {"type": "min_max", "target_quantizer_group": "weights", "num_init_samples": 9},
                {"type": "mean_percentile", "target_quantizer_group": "activations", "num_init_samples": 9},
            ],
        )
    )
    assert settings.weights.range.type == "min_max"
    assert settings.activations.range.type == "mean_percentile"
    assert settings.calibration_samples == 9


def test_multipliers_of_the_algorithm_come_first() -> None:
    data = legacy(C + "compression_lr_multiplier", 3)
    data["compression_lr_multiplier"] = 7
    assert read(data)[0].quantizer_lr(0.5) == 1.5


def test_compression_is_an_object_or_a_list() -> None:
    as_object, _ = read(legacy())
    as_list, _ = read({"compression": [legacy()["compression"]]})
    assert as_object.preset == as_list.preset
    with pytest.raises(ConfigError, match="names no algorithm"):
        read({"compression": []})
    with pytest.raises(ConfigError, match="names no algorithm"):
        read({"input_info": {"sample_size": [1, 8]}})
    with pytest.raises(ConfigError, match="a second time"):
        read({"compression": [legacy()["compression"]] * 2})


@pytest.mark.parametrize("name, legacy_name", LEGACY_NAMES.items())
def test_our_names_of_algorithms_are_told_the_legacy_one(name: str, legacy_name: str) -> None:
    with pytest.raises(ConfigError, match=rf'compression\[1\]\.algorithm: "{name}" is called "{legacy_name}" in the'):
        read({"compression": [legacy()["compression"], {"algorithm": name}]})


def test_algorithms_that_are_gone_are_named_as_such() -> None:
    with pytest.raises(ConfigError, match=r'compression\.algorithm: "rb_sparsity" is gone from NNCF 3'):
        read({"compression": {"algorithm": "rb_sparsity"}})


def test_settings_of_the_top_that_some_algorithm_uses_are_not_warned_about() -> None:
    several = [legacy()["compression"], {"algorithm": "knowledge_distillation", "type": "mse"}]
    config = parse_config(
        {"target_device": "CPU", "compression_lr_multiplier": 2, "compression": several[::-1]}, "f.json"
    )
    assert config.warnings == ()
    assert [algorithm.algorithm for algorithm in config.algorithms] == ["quantization", "distillation"]


def test_both_names_of_the_target_device() -> None:
    data = legacy("target_device", "CPU")
    data["hw_config_type"] = "cpu"
    with pytest.raises(ConfigError, match="older spelling"):
        read(data)
