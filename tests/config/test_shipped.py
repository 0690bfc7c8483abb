"""The configurations in nncf_configs/: they are read, and fit the models that they are for."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from config_models import MakeModel, inputs_of
from mini_schema import is_valid

from nncf_transformers.config import (
    DistillationConfig,
    MagnitudeSparsityConfig,
    MovementSparsityConfig,
    load_config,
    parse_config,
    resolve_ignored_scopes,
    to_nncf_arguments,
)
from nncf_transformers.config.model import SparsityConfig
from nncf_transformers.config.scopes import resolve_layers, resolve_structures

FOLDER = Path(__file__).parents[2] / "nncf_configs"
SHIPPED = {
    "nncf_bert_config_squad": "bert",
    "nncf_bert_config_xnli": "bert",
    "nncf_bert_config_mrpc": "bert",
    "nncf_bert_config_conll": "bert",
    "nncf_roberta_config_mnli": "roberta",
    "nncf_distilbert_config_sst2": "distilbert",
    "nncf_mobilebert_config_squad_int8": "mobilebert",
    "nncf_bert_config_squad_jpqd": "bert",
    "nncf_bert_config_squad_magnitude_sparsity": "bert",
    "nncf_bert_config_squad_kd": "bert",
    "nncf_config": "bert",
    "nncf_bert_config_mlm": "bert-masked",
    "nncf_gpt2_config_wikitext": "gpt2",
    "nncf_t5_config_squad": "t5",
}
# As optimum-intel had them, with the number of warnings.
ORIGINALS = {"bert-base-jpqd": 2, "bert-base-movement-sparsity": 0}
SCHEMA: dict[str, Any] = json.loads((FOLDER / "schema.json").read_text())
ENCODER = {
    f"bert.encoder.layer.{layer}.{part}"
    for layer in (0, 1)
    for part in (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    )
}

Example = dict[str, torch.Tensor]


def test_all_configs_are_here_and_in_the_readme() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == {*SHIPPED, *ORIGINALS, "schema"}
    readme = (FOLDER / "README.md").read_text()
    for name in (*SHIPPED, *ORIGINALS):
        assert f"`{name}.json`" in readme


@pytest.mark.parametrize("name", SHIPPED)
def test_each_reads_without_a_warning_and_fits_its_family(name: str, make_model: MakeModel, example: Example) -> None:
    path = FOLDER / f"{name}.json"
    config = load_config(path)
    assert config.warnings == ()
    assert is_valid(json.loads(path.read_text()), SCHEMA, SCHEMA)
    model = make_model(SHIPPED[name])
    example = inputs_of(model, example)
    if config.quantization is not None:
        to_nncf_arguments(config.quantization)
        scopes = resolve_ignored_scopes(config.quantization, model, example)
        assert scopes.warnings == ()
        assert bool(scopes.node_names) == bool(config.quantization.ignored_scopes)
    for algorithm in config.algorithms:
        if isinstance(algorithm, SparsityConfig):
            layers, warnings = resolve_layers(algorithm, model, example)
            assert warnings == []
            assert set(layers) == ENCODER


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_originals_are_read_as_they_were(name: str, make_model: MakeModel, example: Example) -> None:
    config = load_config(FOLDER / f"{name}.json")
    assert len(config.warnings) == ORIGINALS[name]
    assert list(config.raw) == ["compression"]
    assert parse_config(json.loads(json.dumps(config.raw)), config.source) == config
    movement = config.algorithms[0]
    assert isinstance(movement, MovementSparsityConfig)
    layers, warnings = resolve_layers(movement, make_model(), example)
    assert set(layers) == ENCODER
    assert len(warnings) == 2, "embeddings and normalization have no linear layer to leave out"


def test_the_originals_have_the_trailing_commas_that_they_had() -> None:
    with pytest.raises(json.JSONDecodeError):
        json.loads((FOLDER / "bert-base-jpqd.json").read_text())


def structures(config: MovementSparsityConfig, make_model: MakeModel, example: Example) -> dict[str, tuple[Any, ...]]:
    found = resolve_structures(config, make_model(), example)
    return {name: (s.mode, s.block if s.mode == "block" else s.axis) for name, s in found.items()}


def test_joint_pruning_is_the_same_in_both_schemas(make_model: MakeModel, example: Example) -> None:
    original, single, ours = (
        load_config(FOLDER / f"{name}.json").algorithms[0]
        for name in ("bert-base-jpqd", "bert-base-movement-sparsity", "nncf_bert_config_squad_jpqd")
    )
    assert isinstance(original, MovementSparsityConfig)
    assert isinstance(single, MovementSparsityConfig)
    assert isinstance(ours, MovementSparsityConfig)
    wanted: dict[str, tuple[Any, ...]] = {}
    for name in ENCODER:
        axis = 0 if "intermediate" in name else 1
        wanted[name] = ("block", (32, 32)) if ".attention." in name else ("per_dim", axis)
    for config, factor in ((original, 0.02), (single, 0.01), (ours, 0.02)):
        assert (config.warmup_start_epoch, config.warmup_end_epoch) == (1, 4)
        assert config.importance_regularization_factor == factor
        assert config.enable_structured_masking
        assert structures(config, make_model, example) == wanted


def test_what_the_new_files_are_for() -> None:
    jpqd = load_config(FOLDER / "nncf_bert_config_squad_jpqd.json")
    squad = load_config(FOLDER / "nncf_bert_config_squad.json")
    kd = load_config(FOLDER / "nncf_bert_config_squad_kd.json")
    assert jpqd.raw["algorithms"][1] == kd.raw["algorithms"][0] == squad.raw["algorithms"][0]
    assert [algorithm.algorithm for algorithm in jpqd.algorithms] == [
        "movement_sparsity",
        "quantization",
        "distillation",
    ]
    teacher = jpqd.algorithms[-1]
    assert isinstance(teacher, DistillationConfig)
    assert (teacher.teacher, teacher.loss, teacher.weight, teacher.temperature) == (None, "kl", 0.9, 2.0)
    own_teacher = kd.algorithms[-1]
    assert isinstance(own_teacher, DistillationConfig)
    assert own_teacher.teacher == "self"
    (pruning,) = load_config(FOLDER / "nncf_bert_config_squad_magnitude_sparsity.json").algorithms
    assert isinstance(pruning, MagnitudeSparsityConfig)
    assert (pruning.schedule, pruning.start_epoch, pruning.end_epoch) == ("cubic", 2, 20)
    assert (pruning.initial_sparsity, pruning.final_sparsity, pruning.update_frequency) == (0, 0.8, 0.01)
    assert (pruning.importance, pruning.ranking, pruning.structure) == ("abs", "local", "unstructured")
