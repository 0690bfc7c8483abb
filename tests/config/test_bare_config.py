"""What optimum-intel took for a configuration: the value of "compression", without anything around it."""

import json
from pathlib import Path
from typing import Any

import pytest

from nncf_transformers.config import ConfigError, DistillationConfig, QuantizationConfig, load_config, parse_config

QUANTIZATION = {"algorithm": "quantization", "overflow_fix": "disable"}
DISTILLATION = {"algorithm": "knowledge_distillation", "type": "mse"}


@pytest.mark.parametrize("bare", [QUANTIZATION, [QUANTIZATION], [DISTILLATION, QUANTIZATION]])
def test_it_means_what_it_means_in_a_whole_file(bare: Any) -> None:
    config = parse_config(bare, "f.json")
    assert config == parse_config({"compression": bare}, "f.json")
    assert config.raw == {"compression": bare}
    assert parse_config(json.loads(json.dumps(config.raw)), "f.json") == config
    assert isinstance(config.algorithms[0], QuantizationConfig)
    assert all(getattr(algorithm, "legacy_scopes", True) for algorithm in config.algorithms)


def test_keys_that_stand_at_the_top_and_in_an_algorithm_belong_to_the_algorithm() -> None:
    config = parse_config({**QUANTIZATION, "compression_lr_multiplier": 3}, "f.json").quantization
    assert config is not None
    assert config.quantizer_lr(0.5) == 1.5


def test_it_is_read_from_a_file_with_comments_and_trailing_commas(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('// one\n[{"algorithm": "knowledge_distillation", "type": "softmax",},]')
    assert load_config(path).algorithms == (
        DistillationConfig(place=f"{path}: compression[0]", teacher="self", loss="softmax", temperature=1.0),
    )


@pytest.mark.parametrize(
    "bare, message",
    [
        ([], r"^f\.json: compression: names no algorithm"),
        ([1], r"^f\.json: compression\[0\]: is a number, must be an object"),
        ([QUANTIZATION] * 2, r"compression\[1\]: .* a second time"),
        ({"algorithm": "filter_pruning"}, "gone from NNCF 3"),
        (
            {"algorithm": "distillation", "wait": 1},
            r'"distillation" is called "knowledge_distillation" in the legacy schema$',
        ),
        ({"algorithm": "distilation"}, r'unknown algorithm "distilation" \(did you mean "knowledge_distillation"\?\)'),
        ({**QUANTIZATION, "other": 1}, r'unknown key "other"; valid keys: [\w, ]+$'),
    ],
)
def test_mistakes(bare: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(bare, "f.json")


@pytest.mark.parametrize(
    "bare, message",
    [
        ({"algorithm": "quantization", "calibration_samples": 3}, 'compression.calibration_samples: unknown key "cal'),
        ([{"algorithm": "distillation", "teacher": "self"}], '"distillation" is called "knowledge_distillation"'),
        ({"algorithm": "magnitude_sparsity", "final_sparsity": 0.8}, 'final_sparsity: unknown key "final_sparsity"'),
        (
            {
                "algorithm": "movement_sparsity",
                "warmup_start_epoch": 1,
                "warmup_end_epoch": 4,
                "importance_regularization_factor": 0.02,
            },
            'warmup_start_epoch: unknown key "warmup_start_epoch"',
        ),
    ],
)
def test_our_own_schema_without_its_wrapping_is_told_so(bare: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(bare, "f.json")
    assert message in str(caught.value)
    assert str(caught.value).startswith("f.json: compression")
    assert '; without {"algorithms": …} around it the file is in the legacy schema' in str(caught.value)
    assert "\n" not in str(caught.value)
    assert parse_config({"algorithms": bare}, "f.json").algorithms


@pytest.mark.parametrize("data", [[], {"compression": []}, {"compression": [], "input_info": {"sample_size": [1, 8]}}])
def test_an_empty_list_was_no_compression(data: Any) -> None:
    config = parse_config(data, "f.json", allow_empty=True)
    assert (config.algorithms, config.warnings) == ((), ())
    assert parse_config(config.raw, "f.json", allow_empty=True) == config
    with pytest.raises(ConfigError, match="names no algorithm"):
        parse_config(data, "f.json")


def test_an_empty_list_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text("[]")
    assert load_config(path, allow_empty=True).raw == {"compression": []}
    with pytest.raises(ConfigError, match=r"c\.json: compression: names no algorithm"):
        load_config(path)
