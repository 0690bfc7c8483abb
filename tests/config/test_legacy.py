"""The legacy schema: no key may vanish without a trace."""

import copy
from typing import Any

import pytest

from nncf_transformers.config import ConfigError, InputInfo, QuantizationConfig, RangeSettings, parse_config
from nncf_transformers.config.legacy import TOP_LEVEL_KEYS

# Says everything that would otherwise be warned about, so that a test sees the effect of its own key alone.
BASE: dict[str, Any] = {"compression": {"algorithm": "quantization", "overflow_fix": "disable"}}


def legacy(path: str = "", value: Any = None) -> dict[str, Any]:
    """The base config with one more key; ``path`` is dotted from the top of the file."""
    data = copy.deepcopy(BASE)
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


C = "compression."
R = "compression.initializer.range."

# key path, value, what becomes of it: "setting", "warning", "error", or why nothing has to change.
EVERY_KEY: list[tuple[str, Any, str]] = [
    ("target_device", "CPU", "setting"),
    ("target_device", "ANY", "default"),
    ("target_device", "VPU", "warning"),
    ("target_device", "TRIAL", "warning"),
    ("target_device", "NONE", "warning"),
    ("target_device", "CPU_SPR", "warning"),
    ("target_device", "TPU", "error"),
    ("hw_config_type", "cpu", "setting"),
    ("hw_config_type", "vpu", "warning"),
    ("log_dir", "logs", "warning"),
    ("compression_lr_multiplier", 5, "setting"),
    ("disable_shape_matching", True, "warning"),
    ("accuracy_aware_training", {"mode": "early_exit"}, "error"),
    ("save_onnx_model", True, "warning"),
    ("save_onnx_model", False, "default"),
    ("optimum_version", "1.9.4", "warning"),
    ("input_info", {"sample_size": [1, 384], "type": "long"}, "input_info"),
    ("something", 1, "error"),
    (C + "preset", "mixed", "setting"),
    (C + "preset", "performance", "default"),
    (C + "preset", "fast", "error"),
    (C + "ignored_scopes", ["{re}x"], "setting"),
    (C + "target_scopes", "{re}x", "setting"),
    (C + "overflow_fix", "enable", "setting"),
    (C + "overflow_fix", "on", "error"),
    (C + "disable_saturation_fix", True, "error"),  # beside overflow_fix
    (C + "quantize_inputs", False, "warning"),
    (C + "quantize_inputs", True, "default"),
    (C + "quantize_outputs", True, "warning"),
    (C + "quantize_outputs", False, "default"),
    (C + "export_to_onnx_standard_ops", True, "what --to-onnx does anyway"),
    (C + "export_to_onnx_standard_ops", False, "warning"),
    (C + "quantizable_subgraph_patterns", [["cat", "relu"]], "warning"),
    (C + "compression_lr_multiplier", 3, "setting"),
    (C + "accuracy_aware_training", {}, "error"),
    (C + "weights.mode", "asymmetric", "setting"),
    (C + "weights.mode", "other", "error"),
    (C + "weights.bits", 8, "default"),
    (C + "weights.bits", 4, "error"),
    (C + "weights.signed", True, "what NNCF 3 does with weights anyway"),
    (C + "weights.signed", False, "asked for a sign bit only where needed, as NNCF 3 does"),
    (C + "weights.per_channel", False, "setting"),
    (C + "weights.per_channel", True, "setting"),
    (C + "weights.ignored_scopes", ["{re}x"], "setting"),
    (C + "weights.target_scopes", ["{re}x"], "warning"),
    (C + "weights.logarithm_scale", True, "warning"),
    (C + "weights.logarithm_scale", False, "default"),
    (C + "weights.unified_scale_ops", [["a", "b"]], "error"),  # was a key of activations only
    (C + "activations.mode", "asymmetric", "setting"),
    (C + "activations.bits", 8, "default"),
    (C + "activations.bits", 2, "error"),
    (C + "activations.signed", True, "warning"),
    (C + "activations.signed", False, "asked for a sign bit only where needed, as NNCF 3 does"),
    (C + "activations.per_channel", True, "warning"),
    (C + "activations.per_channel", False, "what NNCF 3 does with activations anyway"),
    (C + "activations.ignored_scopes", "{re}x", "setting"),
    (C + "activations.target_scopes", "{re}x", "warning"),
    (C + "activations.logarithm_scale", True, "warning"),
    (C + "activations.unified_scale_ops", [["a", "b"]], "warning"),
    (C + "scope_overrides.activations", {"{re}.*matmul_0": {"mode": "symmetric"}}, "what NNCF 3 does anyway"),
    (C + "scope_overrides.activations", {"{re}.*matmul_1": {"mode": "symmetric"}}, "warning"),
    (C + "scope_overrides.activations", {"{re}.*": {"mode": "symmetric"}}, "warning"),
    (C + "scope_overrides.activations", {"{re}.*matmul_0": {"mode": "asymmetric"}}, "warning"),
    (C + "scope_overrides.activations", {"{re}.*matmul_0": {"signed": True}}, "warning"),
    (C + "scope_overrides.activations", {"{re}.*matmul_0": {"per_channel": True}}, "warning"),
    (C + "scope_overrides.activations", {"{re}x": {"initializer": {"range": {}}}}, "warning"),
    (C + "scope_overrides.activations", {"{re}x": {"bits": 4}}, "error"),
    (C + "scope_overrides.activations", {"{re}x": {"mod": "symmetric"}}, "error"),
    (C + "scope_overrides.activations", {"{re}(": {"mode": "symmetric"}}, "error"),
    (C + "scope_overrides.weights", {"{re}x": {"mode": "asymmetric"}}, "warning"),
    (C + "scope_overrides", {"{re}x": {"mode": "asymmetric"}}, "warning"),  # the older form
    (C + "scope_overrides", {}, "default"),
    (C + "params.batch_multiplier", 2, "warning"),
    (C + "params.activations_quant_start_epoch", 1, "warning"),
    (C + "params.weights_quant_start_epoch", 1, "warning"),
    (C + "params.lr_poly_drop_start_epoch", 1, "warning"),
    (C + "params.lr_poly_drop_duration_epochs", 1, "warning"),
    (C + "params.disable_wd_start_epoch", 1, "warning"),
    (C + "params.base_lr", 0.1, "warning"),
    (C + "params.base_wd", 0.1, "warning"),
    (C + "params.other", 1, "error"),
    (C + "initializer.batchnorm_adaptation", {"num_bn_adaptation_samples": 0}, "default"),
    (C + "initializer.batchnorm_adaptation", {"num_bn_adaptation_samples": 200}, "warning"),
    (C + "initializer.batchnorm_adaptation", {"num_bn_forget_samples": 200}, "warning"),
    (C + "initializer.batchnorm_adaptation", {"num_bn_adaptation_steps": 2}, "warning"),
    (C + "initializer.precision", {"type": "hawq"}, "error"),
    (R + "num_init_samples", 32, "setting"),
    (R + "num_init_samples", 0, "error"),
    (R + "num_init_steps", 4, "warning"),
    (R + "type", "mixed_min_max", "default"),
    (R + "type", "min_max", "setting"),
    (R + "type", "mean_min_max", "setting"),
    (R + "type", "mean_percentile", "setting"),
    (R + "type", "percentile", "warning"),
    (R + "type", "threesigma", "warning"),
    (R + "type", "max", "error"),
    (R + "params", {"min_percentile": 1}, "warning"),  # without a percentile type
    (R + "min_percentile", 1, "warning"),
    (R + "max_percentile", 99, "warning"),
    (R + "target_quantizer_group", "weights", "error"),  # was a key of list entries only
    (C + "initializer.range", [{"type": "min_max", "target_quantizer_group": "weights"}], "setting"),
    (C + "initializer.range", [{"type": "min_max", "target_quantizer_group": "w"}], "error"),
    (C + "initializer.range", [{"type": "min_max", "target_scopes": "{re}x"}], "warning"),
    (C + "initializer.range", [{"type": "min_max", "ignored_scopes": "{re}x"}], "warning"),
    (C + "initializer.range", [{"type": "min_max"}, {"type": "mean_min_max"}], "warning"),
    (C + "initializer.range", [{"num_init_samples": 5}, {"num_init_samples": 9}], "warning"),
    (C + "other", 1, "error"),
]


@pytest.mark.parametrize("path, value, outcome", EVERY_KEY)
def test_every_key_is_translated_warned_about_or_refused(path: str, value: Any, outcome: str) -> None:
    base_settings, base_warnings = read(legacy())
    assert base_warnings == ()
    data = legacy(path, value)
    if outcome == "error":
        with pytest.raises(ConfigError, match=r"^f\.json: ") as caught:
            read(data)
        assert "\n" not in str(caught.value)
        return
    settings, warnings = read(data)
    if outcome == "warning":
        assert len(warnings) == 1
        assert warnings[0].startswith("f.json: ")
    else:
        assert warnings == ()
        assert (settings != base_settings) == (outcome == "setting")


def test_the_walk_covers_every_key_of_the_schema() -> None:
    """An unknown key's error lists the valid ones; each of them must be walked over above."""
    assert {path.partition(".")[0] for path, _, _ in EVERY_KEY} >= set(TOP_LEVEL_KEYS)
    walked = {path.removeprefix(C) for path, _, _ in EVERY_KEY if path.startswith(C)}
    walked |= {
        f"{path.removeprefix(C)}.{key}" if path.startswith(C) else key
        for path, value, _ in EVERY_KEY
        for entry in (value if isinstance(value, list) else [value])
        if isinstance(entry, dict)
        for key in entry
    }
    for place in ("", "weights", "activations", "params", "initializer", "initializer.range"):
        path = f"{C}{place}.zzzzzz" if place else f"{C}zzzzzz"
        with pytest.raises(ConfigError) as caught:
            read(legacy(path, 1))
        for key in str(caught.value).partition("valid keys: ")[2].split(", "):
            name = f"{place}.{key}" if place else key
            if name in ("algorithm", "initializer.range.num_init_samples"):
                continue
            assert any(seen == name or seen.startswith(name + ".") for seen in walked), name


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


@pytest.mark.parametrize("name", ["movement_sparsity", "magnitude_sparsity", "knowledge_distillation"])
def test_algorithms_to_come_are_named_as_such(name: str) -> None:
    with pytest.raises(ConfigError, match=rf'compression\[1\]\.algorithm: not supported yet by this version: "{name}"'):
        read({"compression": [legacy()["compression"], {"algorithm": name}]})


def test_both_names_of_the_target_device() -> None:
    data = legacy("target_device", "CPU")
    data["hw_config_type"] = "cpu"
    with pytest.raises(ConfigError, match="older spelling"):
        read(data)
