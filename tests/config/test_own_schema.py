"""Our own schema: what is read, and what every mistake is called."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nncf_transformers.config import ConfigError, QuantizationConfig, RangeSettings, load_config, parse_config


def quantization(**settings: Any) -> QuantizationConfig:
    """The settings of a config with one algorithm."""
    config = parse_config({"algorithms": [{"algorithm": "quantization", **settings}]}, "f.json").quantization
    assert config is not None
    return config


def test_the_smallest_config_is_all_defaults() -> None:
    config = parse_config({"algorithms": [{"algorithm": "quantization"}]}, "f.json")
    assert config.algorithms == (QuantizationConfig(place="f.json: algorithms[0]"),)
    assert config.warnings == ()
    assert config.raw == {"algorithms": [{"algorithm": "quantization"}]}
    assert config.source == "f.json"


def test_every_key_arrives() -> None:
    config = quantization(
        preset="performance",
        target_device="CPU",
        weights={"mode": "asymmetric", "bits": 8, "per_channel": False, "range": {"type": "min_max"}},
        activations={
            "mode": "symmetric",
            "range": {"type": "mean_percentile", "min_percentile": 1, "max_percentile": 99},
        },
        calibration_samples=7,
        target_scopes="{re}encoder",
        ignored_scopes=["bert.encoder.layer.0", "{re}pooler"],
        overflow_fix="enable",
        smooth_quant=0.5,
        bias_correction=True,
        quantizer_learning_rate=1e-4,
    )
    assert config.preset == "performance"
    assert config.target_device == "CPU"
    assert (config.weights.mode, config.weights.per_channel) == ("asymmetric", False)
    assert config.weights.range.type == "min_max"
    assert config.activations.mode == "symmetric"
    assert config.activations.range == RangeSettings("mean_percentile", 1, 99)
    assert config.calibration_samples == 7
    assert config.target_scopes == ("{re}encoder",)
    assert config.ignored_scopes == ("bert.encoder.layer.0", "{re}pooler")
    assert not config.legacy_scopes
    assert config.overflow_fix == "enable"
    assert config.smooth_quant == 0.5
    assert config.bias_correction
    assert config.quantizer_learning_rate == 1e-4


def test_learning_rate_of_the_quantizers() -> None:
    assert quantization().quantizer_lr(3e-5) == 3e-5
    assert quantization(quantizer_lr_multiplier=10).quantizer_lr(3e-5) == pytest.approx(3e-4)
    assert quantization(quantizer_learning_rate=1e-2).quantizer_lr(3e-5) == 1e-2


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"presett": "mixed"},
            r'algorithms\[0\]\.presett: unknown key "presett" \(did you mean "preset"\?\)',
        ),
        ({"xyz": 1}, r'algorithms\[0\]\.xyz: unknown key "xyz"; valid keys: activations, algorithm'),
        ({"weights": {"per_chanel": True}}, r'weights\.per_chanel: .*did you mean "per_channel"'),
        ({"activations": {"per_channel": True}}, r'activations\.per_channel: unknown key "per_channel"'),
        ({"weights": {"bits": 4}}, r"weights\.bits: is 4, only 8"),
        ({"weights": {"mode": "symetric"}}, r'weights\.mode: is "symetric", .*did you mean "symmetric"'),
        (
            {"weights": {"range": {"type": "histogram"}}},
            r'weights\.range\.type: is "histogram", must be one of',
        ),
        ({"activations": {"range": {"min_percentile": 1}}}, r"range\.min_percentile: has no effect unless"),
        (
            {"activations": {"range": {"type": "mean_percentile", "min_percentile": 99.99}}},
            r"range\.min_percentile: is 99\.99, must be smaller than max_percentile",
        ),
        ({"preset": 3}, r"preset: is a number \(3\), must be a string"),
        ({"calibration_samples": True}, r"calibration_samples: is a boolean \(True\), must be a number"),
        ({"calibration_samples": 0}, r"calibration_samples: is 0, must be a number of at least 1"),
        ({"calibration_samples": 1.5}, r"calibration_samples: is 1\.5, must be a whole number"),
        ({"ignored_scopes": [1]}, r"ignored_scopes: is a list .* must be a string or a list of strings"),
        ({"ignored_scopes": ["{re}"]}, r'ignored_scopes: holds the empty entry "\{re\}"'),
        ({"weights": []}, r"algorithms\[0\]\.weights: is a list, must be an object"),
        ({"smooth_quant": 1.5}, r"smooth_quant: is 1\.5, must be a number from 0 to 1"),
        ({"bias_correction": "yes"}, r"bias_correction: is a string \('yes'\), must be true or false"),
        (
            {"quantizer_learning_rate": 1e-3, "quantizer_lr_multiplier": 2},
            r"quantizer_lr_multiplier: given together with quantizer_learning_rate",
        ),
    ],
)
def test_mistakes_in_quantization(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        quantization(**settings)
    assert str(caught.value).startswith("f.json: algorithms[0]")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data, message",
    [
        ({}, "f.json: the object is empty"),
        ({"algoritms": []}, r'unknown key "algoritms" \(did you mean "algorithms"\?\)'),
        ({"algorithms": [{"algorithm": "quantization"}], "extra": 1}, r'extra: unknown key "extra"'),
        ({"algorithms": []}, "algorithms: names no algorithm"),
        ({"algorithms": None}, "algorithms: names no algorithm"),
        ({"$schema": "schema.json"}, "algorithms: names no algorithm"),
        ({"algorithms": "quantization"}, r"algorithms: is a string, must be an object"),
        ({"algorithms": [{}]}, r'algorithms\[0\]: has no "algorithm"'),
        (
            {"algorithms": [{"algorithm": "quantisation"}]},
            r'unknown algorithm "quantisation" \(did you mean "quant',
        ),
        (
            {"algorithms": [{"algorithm": "knowledge_distillation", "type": "mse"}]},
            r'\[0\]\.algorithm: "knowledge_distillation" is a name of the legacy schema; write "distillation"',
        ),
        ({"algorithms": [{"algorithm": "const_sparsity"}]}, 'write "constant_sparsity"'),
        ({"algorithms": [{"algorithm": "filter_pruning"}]}, "gone from NNCF 3"),
        ({"$schema": "schema.json", "algorithm": "quantization"}, r'belongs into an entry of "algorithms"'),
        (
            {"compression": {"algorithm": "quantization"}, "algorithm": "quantization"},
            r'^f\.json: algorithm: unknown key "algorithm"',
        ),
        ({"algorithms": [], "algorithm": "quantization"}, r'belongs into an entry of "algorithms"'),
        ({"algorithms": [{"algorithm": "quantization"}] * 2}, r"algorithms\[1\]: .* a second time"),
        (
            {"algorithms": [{"algorithm": "quantization"}], "target_device": "CPU"},
            r"target_device: belongs to the legacy schema",
        ),
    ],
)
def test_mistakes_at_the_top(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(data, "f.json")


def test_the_order_of_the_file_does_not_matter() -> None:
    entries: list[dict[str, Any]] = [
        {"algorithm": "distillation"},
        {"algorithm": "constant_sparsity"},
        {"algorithm": "quantization"},
        {"algorithm": "magnitude_sparsity"},
        {
            "algorithm": "movement_sparsity",
            "warmup_start_epoch": 1,
            "warmup_end_epoch": 2,
            "importance_regularization_factor": 0.1,
        },
    ]
    wanted = ["movement_sparsity", "magnitude_sparsity", "constant_sparsity", "quantization", "distillation"]
    for listed in (entries, entries[::-1]):
        config = parse_config({"algorithms": listed}, "f.json")
        assert [algorithm.algorithm for algorithm in config.algorithms] == wanted
        assert {algorithm.place[-2] for algorithm in config.algorithms} == set("01234")


def test_a_list_of_nothing_is_allowed_on_request_only() -> None:
    config = parse_config({"algorithms": []}, "f.json", allow_empty=True)
    assert config.algorithms == ()
    for data in ({"algorithms": None}, {"$schema": "schema.json"}):
        with pytest.raises(ConfigError, match="algorithms: names no algorithm"):
            parse_config(data, "f.json", allow_empty=True)


def test_numbers_too_large_are_refused() -> None:
    for huge in (10**400, float("inf")):
        with pytest.raises(ConfigError, match=r"quantizer_lr_multiplier: is inf, must be a number of at least 0"):
            quantization(quantizer_lr_multiplier=huge)


def test_raw_is_what_the_file_says_and_reads_back_the_same(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('{"algorithms": [{"algorithm": "quantization", "calibration_samples": 5,}] /* five */}')
    config = load_config(path)
    again = parse_config(json.loads(json.dumps(config.raw)), str(path))
    assert again == config


def test_reading_a_config_loads_neither_torch_nor_nncf() -> None:
    code = (
        "import sys; from nncf_transformers.config import parse_config;"
        "parse_config({'algorithms': [{'algorithm': 'quantization'}]}, 'f');"
        "sys.exit(bool({'torch', 'nncf'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
