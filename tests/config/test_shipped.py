"""The configurations in nncf_configs/, and that their schema says what the reader does."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from config_models import MakeModel
from mini_schema import is_valid

from nncf_transformers.config import (
    ConfigError,
    QuantizationConfig,
    RangeSettings,
    load_config,
    parse_config,
    resolve_ignored_scopes,
    to_nncf_arguments,
)
from nncf_transformers.config.model import (
    ACTIVATION_RANGE_TYPES,
    MODES,
    OVERFLOW_FIXES,
    PRESETS,
    TARGET_DEVICES,
    WEIGHT_RANGE_TYPES,
)
from nncf_transformers.config.registry import ALGORITHMS

FOLDER = Path(__file__).parents[2] / "nncf_configs"
SHIPPED = {
    "nncf_bert_config_squad": "bert",
    "nncf_bert_config_xnli": "bert",
    "nncf_bert_config_mrpc": "bert",
    "nncf_bert_config_conll": "bert",
    "nncf_roberta_config_mnli": "roberta",
    "nncf_distilbert_config_sst2": "distilbert",
    "nncf_mobilebert_config_squad_int8": "mobilebert",
}
SCHEMA: dict[str, Any] = json.loads((FOLDER / "schema.json").read_text())


def test_all_configs_are_here_and_in_the_readme() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(SHIPPED) | {"schema"}
    readme = (FOLDER / "README.md").read_text()
    for name in SHIPPED:
        assert f"`{name}.json`" in readme


@pytest.mark.parametrize("name", SHIPPED)
def test_each_reads_without_a_warning_and_fits_its_family(
    name: str, make_model: MakeModel, example: dict[str, torch.Tensor]
) -> None:
    path = FOLDER / f"{name}.json"
    config = load_config(path)
    assert config.warnings == ()
    assert config.quantization is not None
    assert is_valid(json.loads(path.read_text()), SCHEMA, SCHEMA)
    to_nncf_arguments(config.quantization)
    family = SHIPPED[name]
    model = make_model(family)
    scopes = resolve_ignored_scopes(config.quantization, model, example)
    assert scopes.warnings == ()
    assert bool(scopes.node_names) == bool(config.quantization.ignored_scopes)


def quantization_schema() -> dict[str, Any]:
    schema: dict[str, Any] = SCHEMA["$defs"]["quantization"]["properties"]
    return schema


def test_the_schema_knows_every_algorithm() -> None:
    names = {option["$ref"].removeprefix("#/$defs/") for option in SCHEMA["$defs"]["algorithm"]["oneOf"]}
    assert names == set(ALGORITHMS)


def test_the_schema_has_the_keys_of_the_reader() -> None:
    """The reader's error about an unknown key lists those it knows."""
    properties = quantization_schema()
    for place, schema in {
        "": properties,
        "weights": properties["weights"]["properties"],
        "activations": properties["activations"]["properties"],
    }.items():
        section: dict[str, Any] = {"zzzzzz": 1}
        settings = {place: section} if place else section
        with pytest.raises(ConfigError) as caught:
            parse_config({"algorithms": [{"algorithm": "quantization", **settings}]}, "f.json")
        assert str(caught.value).partition("valid keys: ")[2].split(", ") == sorted(schema)


def test_the_schema_has_the_values_of_the_reader() -> None:
    properties = quantization_schema()
    weights, activations = properties["weights"]["properties"], properties["activations"]["properties"]
    assert properties["preset"]["enum"] == [*PRESETS, None]
    assert properties["target_device"]["enum"] == [*TARGET_DEVICES, None]
    assert properties["overflow_fix"]["enum"] == [*OVERFLOW_FIXES, None]
    assert weights["mode"]["enum"] == activations["mode"]["enum"] == [*MODES, None]
    assert weights["range"]["properties"]["type"]["enum"] == [*WEIGHT_RANGE_TYPES, None]
    assert activations["range"]["properties"]["type"]["enum"] == [*ACTIVATION_RANGE_TYPES, None]


def test_the_schema_has_the_defaults_of_the_reader() -> None:
    default = QuantizationConfig()
    for key, schema in quantization_schema().items():
        if "default" in schema:
            value = getattr(default, key)
            assert schema["default"] == (list(value) if isinstance(value, tuple) else value), key
    for group in ("weights", "activations"):
        properties = quantization_schema()[group]["properties"]
        for key in ("min_percentile", "max_percentile"):
            assert properties["range"]["properties"][key]["default"] == getattr(RangeSettings(), key)


@pytest.mark.parametrize(
    "settings",
    [
        {"preset": "mix"},
        {"presett": "mixed"},
        {"weights": {"bits": 4}},
        {"activations": {"per_channel": True}},
        {"weights": {"range": {"type": "histogram"}}},
        {"calibration_samples": 0},
        {"calibration_samples": True},
        {"calibration_samples": 1.5},
        {"ignored_scopes": [1]},
        {"ignored_scopes": ""},
        {"smooth_quant": 2},
        {"quantizer_learning_rate": -1},
        {"bias_correction": "yes"},
    ],
)
def test_schema_and_reader_refuse_the_same(settings: dict[str, Any]) -> None:
    data = {"algorithms": [{"algorithm": "quantization", **settings}]}
    assert not is_valid(data, SCHEMA, SCHEMA)
    with pytest.raises(ConfigError):
        parse_config(data, "f.json")


def test_schema_and_reader_take_null_for_absence() -> None:
    plain = {"algorithm": "quantization"}
    for key in quantization_schema():
        if key == "algorithm":
            continue
        for value in (None, {}) if key in ("weights", "activations") else (None,):
            data = {"algorithms": [{**plain, key: value}]}
            assert is_valid(data, SCHEMA, SCHEMA), key
            assert parse_config(data, "f").algorithms == parse_config({"algorithms": [plain]}, "f").algorithms
