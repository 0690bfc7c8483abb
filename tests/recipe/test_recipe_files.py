"""The recipes in nncf_configs/recipes: they say what was published, and their variables reach everything."""

import re
from pathlib import Path

import pytest

from nncf_transformers.recipe import Recipe, load_recipe, parse_recipe

FOLDER = Path(__file__).parents[2] / "nncf_configs" / "recipes"
FILES = sorted(path for path in FOLDER.iterdir() if path.name != "README.md")
NAMES = [path.name for path in FILES]
WEIGHTS = [
    "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
    "intermediate.dense", "output.dense",
]  # fmt: skip


def load(name: str, arguments: str | None = None) -> Recipe:
    return load_recipe(str(FOLDER / name), arguments)


def of_type(recipe: Recipe, name: str) -> list:
    return [modifier for modifier in recipe.modifiers if modifier.type == name]


def matches(params: tuple[str, ...], name: str) -> bool:
    return any(re.fullmatch(pattern.removeprefix("re:"), name) for pattern in params)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_read_without_a_warning_and_written_back(name: str) -> None:
    recipe = load(name)
    assert recipe.warnings == ()
    assert recipe.max_epochs is not None
    assert parse_recipe(recipe.to_yaml(), "again") == recipe
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert "log_types" not in text
    assert max(map(len, text.splitlines())) <= 130


@pytest.mark.parametrize("name", NAMES)
def test_the_readme_names_it(name: str) -> None:
    assert f"`{name}`" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_the_readme_names_nothing_else() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"[\w.-]+base[\w.-]*\.(?:yaml|md)", text)) <= set(NAMES)


@pytest.mark.parametrize("layers", [12, 6])
@pytest.mark.parametrize("target", [80, 90, 95])
def test_the_pruned_series(layers: int, target: int) -> None:
    recipe = load(f"bert-base-{layers}layers_prune{target}.md")
    assert recipe.max_epochs == 30
    (pruning,) = of_type(recipe, "GMPruningModifier")
    assert pruning.interval == (2.0, 20.0)
    assert (pruning.init_sparsity, pruning.final_sparsity) == (0.0, target / 100)
    assert (pruning.update_frequency, pruning.inter_func, pruning.mask_type) == (0.01, "cubic", "unstructured")
    assert pruning.leave_enabled
    (teacher,) = of_type(recipe, "DistillationModifier")
    assert (teacher.hardness, teacher.temperature) == (1.0, 2.0)
    assert teacher.distill_output_keys == ("start_logits", "end_logits")
    dropped = [name for modifier in of_type(recipe, "LayerPruningModifier") for name in modifier.layers]
    gone = {1, 3, 5, 7, 9, 10} if layers == 6 else set()
    assert dropped == [f"bert.encoder.layer.{index}" for index in sorted(gone)]
    for index in range(12):
        for weight in WEIGHTS:
            assert matches(pruning.params, f"bert.encoder.layer.{index}.{weight}.weight") == (index not in gone)
    for other in ("bert.pooler.dense.weight", "qa_outputs.weight", "bert.encoder.layer.0.output.dense.bias"):
        assert not matches(pruning.params, other)


@pytest.mark.parametrize("name", [name for name in NAMES if "prune" in name and name.startswith("bert")])
def test_shorter_trainings_keep_the_shape(name: str) -> None:
    whole, half = load(name), load(name, f"num_epochs={load(name).max_epochs / 2:g}")
    assert half.max_epochs == whole.max_epochs / 2
    ends = [of_type(recipe, "GMPruningModifier")[0].end_epoch for recipe in (whole, half)]
    assert ends[1] == ends[0] / 2
    assert of_type(load(name, "final_sparsity=0.5"), "GMPruningModifier")[0].final_sparsity == 0.5


def test_pruned_and_quantized() -> None:
    recipe = load("bert-base-12layers_prune_quant90.md")
    assert recipe.max_epochs == 40
    # Acceptance check 13.
    rates = of_type(recipe, "LearningRateFunctionModifier")
    assert [(rate.interval, rate.lr_func, rate.init_lr, rate.final_lr) for rate in rates] == [
        ((0.0, 30.0), "linear", 5e-5, 0.0),
        ((30.0, 40.0), "linear", 5e-5, 0.0),
    ]
    (pruning,) = of_type(recipe, "GMPruningModifier")
    assert (pruning.interval, pruning.final_sparsity, pruning.mask_type) == ((2.0, 20.0), 0.9, (1, 4))
    (quantization,) = of_type(recipe, "QuantizationModifier")
    assert (quantization.start_epoch, quantization.disable_quantization_observer_epoch) == (30.0, 35.0)
    assert quantization.freeze_bn_stats_epoch == 35.0
    assert quantization.submodules == ("bert.embeddings", "bert.encoder", "qa_outputs")
    assert not quantization.is_new_form


def test_transfer_of_a_pruned_and_quantized_model() -> None:
    recipe = load("obert-base_transfer_pruned90_quant.yaml")
    assert recipe.max_epochs == 13
    (rate,) = of_type(recipe, "LearningRateFunctionModifier")
    assert (rate.interval, rate.init_lr, rate.final_lr) == ((0.0, 13.0), 1.75e-4, 0.0)
    (quantization,) = of_type(recipe, "QuantizationModifier")
    assert (quantization.start_epoch, quantization.disable_quantization_observer_epoch) == (8.0, 12.0)
    assert quantization.exclude_module_types == ("LayerNorm",)
    (teacher,) = of_type(recipe, "DistillationModifier")
    assert (teacher.hardness, teacher.temperature) == (1.0, 5.0)
    assert of_type(recipe, "SetWeightDecayModifier")[0].weight_decay == 0.0
    assert of_type(recipe, "ConstantPruningModifier")[0].params == ("__ALL_PRUNABLE__",)


@pytest.mark.parametrize(
    "task, keys", [("question_answering", ("start_logits", "end_logits")), ("text_classification", ("logits",))]
)
def test_transfer(task: str, keys: tuple[str, ...]) -> None:
    recipe = load(f"bert-base_transfer_{task}.yaml")
    assert recipe.max_epochs == 5
    (constant,) = of_type(recipe, "ConstantPruningModifier")
    assert constant.end_epoch == -1
    assert all(matches(constant.params, f"bert.encoder.layer.11.{weight}.weight") for weight in WEIGHTS)
    assert of_type(recipe, "DistillationModifier")[0].distill_output_keys == keys


def test_the_teacher_and_quantization_alone() -> None:
    rates = of_type(load("bert-base-12layers_dense.yaml"), "LearningRateFunctionModifier")
    assert [rate.interval for rate in rates] == [(0.0, 0.976), (0.976, 2.0)]
    assert [(rate.init_lr, rate.final_lr) for rate in rates] == [(0.0, 3e-5), (3e-5, 0.0)]
    recipe = load("bert-base-12layers_quant.yaml", "num_epochs=5")
    (quantization,) = of_type(recipe, "QuantizationModifier")
    assert (quantization.start_epoch, quantization.disable_quantization_observer_epoch) == (0.0, 4.0)
