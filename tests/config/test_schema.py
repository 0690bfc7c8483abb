"""That nncf_configs/schema.json says what the reader does."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from mini_schema import is_valid

from nncf_transformers.config import ConfigError, RangeSettings, parse_config
from nncf_transformers.config import model as settings_model
from nncf_transformers.config.model import (
    ACTIVATION_RANGE_TYPES,
    DISTILLATION_LOSSES,
    IMPORTANCES,
    MODES,
    OVERFLOW_FIXES,
    PRESETS,
    RANKINGS,
    SCHEDULES,
    STRUCTURE_MODES,
    TARGET_DEVICES,
    TEACHER_DTYPES,
    WEIGHT_RANGE_TYPES,
    AlgorithmConfig,
)
from nncf_transformers.config.registry import ALGORITHMS

SCHEMA: dict[str, Any] = json.loads((Path(__file__).parents[2] / "nncf_configs" / "schema.json").read_text())
# The smallest entry of each algorithm.
PLAIN: dict[str, dict[str, Any]] = {
    name: {"algorithm": name}
    | (
        {"warmup_start_epoch": 1, "warmup_end_epoch": 2, "importance_regularization_factor": 0.1}
        if name == "movement_sparsity"
        else {}
    )
    for name in ALGORITHMS
}
STRUCTURE = {"mode": "fine", "target_scopes": "x"}


def properties(name: str) -> dict[str, Any]:
    found: dict[str, Any] = SCHEMA["$defs"][name]["properties"]
    return found


def default_of(name: str) -> AlgorithmConfig:
    """The algorithm's dataclass with nothing set."""
    classes = vars(settings_model).values()
    return next(cls for cls in classes if getattr(cls, "algorithm", None) == name)()


def test_the_schema_knows_every_algorithm() -> None:
    names = {option["$ref"].removeprefix("#/$defs/") for option in SCHEMA["$defs"]["algorithm"]["oneOf"]}
    assert names == set(ALGORITHMS)


def valid_keys(entry: dict[str, Any]) -> list[str]:
    """What the reader's error about an unknown key says that it knows."""
    with pytest.raises(ConfigError) as caught:
        parse_config({"algorithms": [entry]}, "f.json")
    return str(caught.value).partition("valid keys: ")[2].split(", ")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_schema_has_the_keys_of_the_reader(name: str) -> None:
    assert valid_keys(PLAIN[name] | {"zzzzzz": 1}) == sorted(properties(name))


def test_the_schema_has_the_keys_of_what_is_inside() -> None:
    for place in ("weights", "activations"):
        entry = PLAIN["quantization"] | {place: {"zzzzzz": 1}}
        assert valid_keys(entry) == sorted(properties("quantization")[place]["properties"])
    entry = PLAIN["movement_sparsity"] | {"sparse_structure_by_scopes": [{**STRUCTURE, "zzzzzz": 1}]}
    assert valid_keys(entry) == sorted(properties("sparse_structure"))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_keys_are_the_fields_of_the_dataclass(name: str) -> None:
    fields = {field.name for field in dataclasses.fields(default_of(name)) if not field.metadata.get("recipe_only")}
    ours = {"place", "legacy_scopes", "weight_ignored_scopes", "activation_ignored_scopes"}
    assert set(properties(name)) - {"algorithm"} == fields - ours


def test_the_schema_has_the_values_of_the_reader() -> None:
    quantization = properties("quantization")
    weights, activations = quantization["weights"]["properties"], quantization["activations"]["properties"]
    magnitude, distillation = properties("magnitude_sparsity"), properties("distillation")
    for schema, values in (
        (quantization["preset"], PRESETS),
        (quantization["target_device"], TARGET_DEVICES),
        (quantization["overflow_fix"], OVERFLOW_FIXES),
        (weights["mode"], MODES),
        (activations["mode"], MODES),
        (weights["range"]["properties"]["type"], WEIGHT_RANGE_TYPES),
        (activations["range"]["properties"]["type"], ACTIVATION_RANGE_TYPES),
        (magnitude["schedule"], SCHEDULES),
        (magnitude["importance"], IMPORTANCES),
        (magnitude["ranking"], RANKINGS),
        (distillation["loss"], DISTILLATION_LOSSES),
        (distillation["teacher_dtype"], TEACHER_DTYPES),
    ):
        assert schema["enum"] == [*values, None]
    assert properties("sparse_structure")["mode"]["enum"] == list(STRUCTURE_MODES)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_schema_has_the_defaults_of_the_reader(name: str) -> None:
    default = default_of(name)
    required = SCHEMA["$defs"][name]["required"]
    nested = ("weights", "activations")
    for key, schema in properties(name).items():
        assert ("default" in schema) == (key not in required and key not in nested), key
        if "default" in schema:
            value = getattr(default, key)
            assert schema["default"] == (list(value) if isinstance(value, tuple) else value), key


def test_the_schema_has_the_default_percentiles() -> None:
    for group in ("weights", "activations"):
        schema = properties("quantization")[group]["properties"]["range"]["properties"]
        for key in ("min_percentile", "max_percentile"):
            assert schema[key]["default"] == getattr(RangeSettings(), key)


@pytest.mark.parametrize(
    "name, settings",
    [
        ("quantization", {"preset": "mix"}),
        ("quantization", {"presett": "mixed"}),
        ("quantization", {"weights": {"bits": 4}}),
        ("quantization", {"activations": {"per_channel": True}}),
        ("quantization", {"weights": {"range": {"type": "histogram"}}}),
        ("quantization", {"calibration_samples": 0}),
        ("quantization", {"calibration_samples": True}),
        ("quantization", {"calibration_samples": 1.5}),
        ("quantization", {"ignored_scopes": [1]}),
        ("quantization", {"ignored_scopes": ""}),
        ("quantization", {"smooth_quant": 2}),
        ("quantization", {"quantizer_learning_rate": -1}),
        ("quantization", {"bias_correction": "yes"}),
        ("movement_sparsity", {"warmup_start_epoch": None}),
        ("movement_sparsity", {"warmup_end_epoch": -1}),
        ("movement_sparsity", {"importance_regularization_factor": -1}),
        ("movement_sparsity", {"power": 0}),
        ("movement_sparsity", {"steps_per_epoch": 1.5}),
        ("movement_sparsity", {"score_lr_multiplier": -1}),
        ("movement_sparsity", {"params": {}}),
        ("movement_sparsity", {"sparse_structure_by_scopes": ["x"]}),
        ("movement_sparsity", {"sparse_structure_by_scopes": [{"mode": "fine"}]}),
        ("movement_sparsity", {"sparse_structure_by_scopes": [{"target_scopes": "x"}]}),
        ("movement_sparsity", {"sparse_structure_by_scopes": [{**STRUCTURE, "target_scopes": []}]}),
        ("movement_sparsity", {"sparse_structure_by_scopes": [{**STRUCTURE, "mode": "row"}]}),
        ("movement_sparsity", {"sparse_structure_by_scopes": [{**STRUCTURE, "mode": "per_dim", "axis": 2}]}),
        ("movement_sparsity", {"sparse_structure_by_scopes": [{**STRUCTURE, "mode": "block", "sparse_factors": [1]}]}),
        (
            "movement_sparsity",
            {"sparse_structure_by_scopes": [{**STRUCTURE, "mode": "block", "sparse_factors": [1, 0]}]},
        ),
        ("magnitude_sparsity", {"schedule": "adaptive"}),
        ("magnitude_sparsity", {"initial_sparsity": -0.5}),
        ("magnitude_sparsity", {"final_sparsity": 1}),
        ("magnitude_sparsity", {"start_epoch": -1}),
        ("magnitude_sparsity", {"schedule": "polynomial", "power": 0}),
        ("magnitude_sparsity", {"update_frequency": 0}),
        ("magnitude_sparsity", {"structure": "0x4"}),
        ("magnitude_sparsity", {"structure": "4:"}),
        ("magnitude_sparsity", {"structure": "heads"}),
        ("magnitude_sparsity", {"schedule": "multistep", "multistep_epochs": 1, "multistep_sparsities": [0, 0.5]}),
        ("magnitude_sparsity", {"schedule": "multistep", "multistep_epochs": [1], "multistep_sparsities": [0, 1]}),
        ("constant_sparsity", {"target_scopes": 1}),
        ("constant_sparsity", {"final_sparsity": 0.5}),
        ("distillation", {"teacher": ""}),
        ("distillation", {"loss": "ce"}),
        ("distillation", {"weight": 1.5}),
        ("distillation", {"temperature": 0}),
        ("distillation", {"loss": "mse", "scale": -1}),
        ("distillation", {"hidden_weight": -1}),
        ("distillation", {"teacher_dtype": "float16"}),
        ("distillation", {"cache": ""}),
    ],
)
def test_schema_and_reader_refuse_the_same(name: str, settings: dict[str, Any]) -> None:
    data = {"algorithms": [PLAIN[name] | settings]}
    assert not is_valid(data, SCHEMA, SCHEMA)
    with pytest.raises(ConfigError):
        parse_config(data, "f.json")


@pytest.mark.parametrize(
    "name, settings",
    [
        ("movement_sparsity", {"sparse_structure_by_scopes": STRUCTURE}),
        ("movement_sparsity", {"sparse_structure_by_scopes": [{**STRUCTURE, "mode": "per_dim", "axis": 1}]}),
        (
            "movement_sparsity",
            {"sparse_structure_by_scopes": [{**STRUCTURE, "mode": "block", "sparse_factors": [4, 1], "axis": None}]},
        ),
        ("movement_sparsity", {"init_importance_threshold": -0.5, "steps_per_epoch": 7}),
        ("magnitude_sparsity", {"structure": "2:4"}),
        ("magnitude_sparsity", {"structure": "16x1", "ranking": "global", "freeze_epoch": 1.5}),
        ("magnitude_sparsity", {"schedule": "multistep", "multistep_epochs": [1], "multistep_sparsities": [0, 0.5]}),
        ("constant_sparsity", {"target_scopes": ["a", "{re}b"], "ignored_scopes": "c"}),
        ("distillation", {"teacher": "self", "cache": "kept"}),
        ("distillation", {"loss": "softmax", "temperature": 0.5, "scale": 0}),
    ],
)
def test_schema_and_reader_accept_the_same(name: str, settings: dict[str, Any]) -> None:
    data = {"algorithms": [PLAIN[name] | settings]}
    assert is_valid(data, SCHEMA, SCHEMA)
    assert parse_config(data, "f.json").algorithms


@pytest.mark.parametrize("name", ALGORITHMS)
def test_schema_and_reader_take_null_for_absence(name: str) -> None:
    plain = parse_config({"algorithms": [PLAIN[name]]}, "f").algorithms
    for key in properties(name):
        if key in SCHEMA["$defs"][name]["required"]:
            continue
        for value in (None, {}) if key in ("weights", "activations") else (None,):
            data = {"algorithms": [PLAIN[name] | {key: value}]}
            assert is_valid(data, SCHEMA, SCHEMA), key
            assert parse_config(data, "f").algorithms == plain
