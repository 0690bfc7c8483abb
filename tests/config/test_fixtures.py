"""The configurations of the original projects still do what they were written for."""

import json
from dataclasses import replace
from pathlib import Path

import nncf
import pytest
import torch
from config_models import FIXTURES, MakeModel, quantize, quantizer_modes, quantizer_names

from nncf_transformers.config import (
    MagnitudeSparsityConfig,
    MovementSparsityConfig,
    QuantizationConfig,
    load_config,
    resolve_ignored_scopes,
    to_nncf_arguments,
)

# File → model family, number of weights left in floating point, whether all activations are symmetric, number
# of warnings about the file, number of warnings about its scopes.
QUANTIZING = {
    "bert_squad_2019": ("bert", 2, False, 2, 2),
    "bert_squad_2020": ("bert", 2, True, 3, 5),
    "bert_squad_2022": ("bert", 0, True, 2, 0),
    "bert_xnli_2019": ("bert", 2, False, 2, 2),
    "bert_xnli_2022": ("bert", 2, True, 2, 1),
    "roberta_mnli_2019": ("roberta", 2, False, 2, 1),
    "roberta_mnli_2022": ("roberta", 2, False, 2, 1),
    "distilbert_sst2_2019": ("distilbert", 2, True, 2, 1),
    "distilbert_sst2_2022": ("distilbert", 0, True, 1, 0),
    "bert_mrpc_2022": ("bert", 0, True, 2, 0),
    "bert_conll_2022": ("bert", 0, True, 2, 0),
    "mobilebert_squad_2022": ("mobilebert", 4, True, 2, 4),
    "optimum_default_1_9": ("bert", 3, False, 2, 4),
    "optimum_default_1_22": ("bert", 3, False, 0, 2),
    "optimum_jpqd_1_7_quantization_only": ("bert", 0, False, 2, 2),
}
# Not every file needs NNCF's run; these differ in something that NNCF decides on.
RUN = (
    "bert_squad_2019",
    "bert_squad_2022",
    "roberta_mnli_2019",
    "distilbert_sst2_2022",
    "mobilebert_squad_2022",
    "optimum_default_1_9",
)
WEIGHTS = {"bert": 16, "roberta": 17, "distilbert": 16, "mobilebert": 27}


def load(name: str) -> tuple[QuantizationConfig, tuple[str, ...]]:
    config = load_config(FIXTURES / f"{name}.json")
    assert config.quantization is not None
    return config.quantization, config.warnings


@pytest.mark.parametrize("name", QUANTIZING)
def test_what_is_left_out_and_what_is_said(name: str, make_model: MakeModel, example: dict[str, torch.Tensor]) -> None:
    family, lost, _, file_warnings, scope_warnings = QUANTIZING[name]
    config, warnings = load(name)
    model = make_model(family)
    scopes = resolve_ignored_scopes(config, model, example)
    weighted = [node for node in scopes.node_names if node.split("/")[-2] in ("linear", "embedding")]
    assert len(weighted) == lost
    assert len(warnings) == file_warnings, warnings
    assert len(scopes.warnings) == scope_warnings, scopes.warnings


@pytest.mark.parametrize("name", RUN)
def test_quantizers_are_those_that_the_file_asks_for(
    name: str, make_model: MakeModel, example: dict[str, torch.Tensor]
) -> None:
    family, lost, symmetric, _, _ = QUANTIZING[name]
    config, _ = load(name)
    model = make_model(family)
    quantized = nncf.quantize(
        model,
        nncf.Dataset([example]),
        ignored_scope=nncf.IgnoredScope(names=list(resolve_ignored_scopes(config, model, example).node_names)),
        **to_nncf_arguments(config),
    )
    modes = quantizer_modes(quantized)
    assert sum(count for (side, _), count in modes.items() if side == "weights") == WEIGHTS[family] - lost
    assert (modes["activations", "asymmetric"] == 0) == symmetric
    assert modes["weights", config.weights.mode or "symmetric"] == WEIGHTS[family] - lost
    if config.weights.per_channel is False:
        weight = next(n for n in quantizer_names(quantized) if n.endswith("linear/0__1.0"))
        assert quantized.get_submodule(weight).scale.numel() == 1


def test_settings_of_some_files_in_full() -> None:
    early, _ = load("bert_squad_2019")
    assert (early.activations.mode, early.weights.mode) == ("asymmetric", "symmetric")
    assert early.calibration_samples == 32
    late, _ = load("bert_xnli_2022")
    assert late.calibration_samples == 96
    assert late.activations.range.max_percentile == 99.99
    default, warnings = load("optimum_default_1_22")
    assert (default.preset, default.overflow_fix, default.calibration_samples) == ("mixed", "disable", 300)
    assert warnings == ()


def test_joint_pruning_and_quantization() -> None:
    config = load_config(FIXTURES / "optimum_jpqd_1_7.json")
    movement, quantization = config.algorithms
    assert isinstance(movement, MovementSparsityConfig)
    assert isinstance(quantization, QuantizationConfig)
    assert (movement.warmup_start_epoch, movement.warmup_end_epoch) == (1, 4)
    assert movement.importance_regularization_factor == 0.02
    assert movement.enable_structured_masking
    assert [(s.mode, s.block, s.axis) for s in movement.sparse_structure_by_scopes] == [
        ("block", (32, 32), 0),
        ("per_dim", (1, 1), 0),
        ("per_dim", (1, 1), 1),
    ]
    assert movement.ignored_scopes == ("{re}.*NNCFEmbedding.*", "{re}.*qa_outputs.*", "{re}.*LayerNorm.*")
    assert movement.legacy_scopes
    alone = load_config(FIXTURES / "optimum_jpqd_1_7_quantization_only.json")
    assert replace(quantization, place="") == replace(alone.algorithms[0], place="")
    assert len(config.warnings) == len(alone.warnings) == 2


def test_magnitude_sparsity() -> None:
    config = load_config(FIXTURES / "bert_squad_magnitude_sparsity_2022.json")
    assert config.warnings == ()
    assert config.algorithms == (
        MagnitudeSparsityConfig(
            place=f"{config.source}: compression",
            ignored_scopes=("{re}.*NNCFEmbedding",),
            legacy_scopes=True,
            schedule="polynomial",
            power=3.0,
            final_sparsity=0.8,
            end_epoch=40.0,
            freeze_epoch=60.0,
            steps_per_epoch=1109,
            importance="abs",
            ranking="global",
        ),
    )


def test_gpt2_keeps_its_head_in_floating_point(make_model: MakeModel, example: dict[str, torch.Tensor]) -> None:
    config, warnings = load("gpt2_wikitext_2022")
    assert config.target_device == "CPU"
    assert config.calibration_samples == 16
    assert (config.activations.mode, config.weights.mode) == ("symmetric", "symmetric")
    assert len(warnings) == 2
    model = make_model("gpt2")
    scopes = resolve_ignored_scopes(config, model, example)
    # Sums are in floating point anyway, and so is the division, which is inside of the fused attention today.
    assert [name for name in scopes.node_names if "/add/" not in name] == ["lm_head/linear/0"]
    assert len(scopes.node_names) == 6
    assert len(scopes.warnings) == 3
    quantized = quantize(config, model, example)
    modes = quantizer_modes(quantized)
    assert modes["activations", "asymmetric"] == 0
    assert modes["weights", "symmetric"] == 2 + 8


def test_every_fixture_is_tested() -> None:
    others = {"optimum_jpqd_1_7", "bert_squad_magnitude_sparsity_2022", "gpt2_wikitext_2022"}
    assert {path.stem for path in FIXTURES.glob("*.json")} == set(QUANTIZING) | others


def test_some_fixtures_are_not_strict_json() -> None:
    """Else nothing would show that comments and trailing commas of the originals are read."""
    loose = []
    for path in sorted(Path(FIXTURES).glob("*.json")):
        try:
            json.loads(path.read_text())
        except json.JSONDecodeError:
            loose.append(path.stem)
    assert loose == ["bert_squad_2019", "optimum_jpqd_1_7"]
