"""Whole recipes: stages and their clocks, overlaps, composing, writing and reading again."""

import random
import subprocess
import sys
from typing import Any

import pytest

from nncf_transformers.config.errors import ConfigError
from nncf_transformers.recipe import MODIFIERS, Recipe, Stage, compose, parse_recipe

EPOCHS = "  - !EpochRangeModifier {{start_epoch: 0, end_epoch: {}}}\n"


def parse(text: str, **options: Any) -> Recipe:
    return parse_recipe(text, "recipe.yaml", **options)


def rate(start: float, end: float, extra: str = "") -> str:
    return (
        f"  - !LearningRateFunctionModifier {{lr_func: linear, init_lr: 5e-5, final_lr: 0, start_epoch: {start}, "
        f"end_epoch: {end}{extra}}}\n"
    )


def pruning(start: float, end: float, params: str = "[a]", name: str = "GMPruningModifier") -> str:
    return (
        f"  - !{name} {{init_sparsity: 0.0, final_sparsity: 0.8, start_epoch: {start}, end_epoch: {end}, "
        f"update_frequency: 0.1, params: {params}}}\n"
    )


def test_torch_is_not_needed() -> None:
    code = "import sys, nncf_transformers.recipe; sys.exit('torch' in sys.modules or 'nncf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_recipe_without_stages() -> None:
    recipe = parse("modifiers:\n" + EPOCHS.format(30) + "distillation_modifiers:\n  - !DistillationModifier {}\n")
    assert [stage.name for stage in recipe.stages] == [""]
    assert [modifier.type for modifier in recipe.modifiers] == ["EpochRangeModifier", "DistillationModifier"]
    assert recipe.modifiers[1].place == "recipe.yaml: distillation_modifiers[0]"
    assert recipe.modifiers == recipe.stages[0].modifiers
    assert recipe.max_epochs == 30.0
    assert recipe.warnings == recipe.unsupported == ()


def test_the_largest_end_counts() -> None:
    assert parse("modifiers:\n" + EPOCHS.format(3) + EPOCHS.format(5) + rate(0, 4)).max_epochs == 5.0
    assert parse("modifiers:\n  - !DistillationModifier {}\n").max_epochs is None


def test_old_files_are_read_with_warnings() -> None:
    text = """<!--
A recipe as they were written in 2021.
-->
---
num_epochs: &num_epochs 30
pruning_modifiers:
  - !GMPruningModifier
      params:
        - re:bert.encoder.layer.*.output.dense.weight
      start_epoch: 2
      end_epoch: 20
      init_sparsity: 0
      final_sparsity: 0.80
      inter_func: cubic
      update_frequency: 0.01
      leave_enabled: True
      mask_type: unstructured
      phased: False
      score_type: magnitude
      log_types: __ALL__
training_modifiers:
  - !EpochRangeModifier
      end_epoch: *num_epochs
      start_epoch: 0.0
      log_types: __ALL__
---
# Text
"""
    recipe = parse(text)
    assert recipe.max_epochs == 30
    assert [line.split(": ")[1] for line in recipe.warnings] == [
        "pruning_modifiers[0].phased",
        "pruning_modifiers[0].score_type",
        "pruning_modifiers[0].log_types",
        "training_modifiers[0].log_types",
    ]


class TestStages:
    TEXT = (
        "num_epochs: 4\n"
        "first:\n  a_modifiers:\n  " + EPOCHS.format("eval(num_epochs)").replace("\n", "\n  ").rstrip(" ")
        + "    - !ConstantPruningModifier {params: [a]}\n    - !DistillationModifier {}\n"
        "second:\n  num_epochs: 6\n  b_modifiers:\n    - !DistillationModifier {}\n"
        "    - !QuantizationModifier {start_epoch: 1, disable_quantization_observer_epoch: 2}\n"
        "    - !LearningRateModifier {lr_class: MultiStepLR, lr_kwargs: {gamma: 0.1, milestones: [1, 3]}, "
        "init_lr: 0.1, start_epoch: 0, end_epoch: eval(num_epochs)}\n"
        "third:\n  c_modifiers:\n    - !SetLearningRateModifier {learning_rate: 0.1}\n"
    )  # fmt: skip

    def test_clocks(self) -> None:
        recipe = parse(self.TEXT)
        assert [(stage.name, stage.start, stage.length) for stage in recipe.stages] == [
            ("first", 0.0, 4.0),
            ("second", 4.0, 6.0),
            ("third", 10.0, 0.0),
        ]
        assert recipe.max_epochs == 10.0
        assert recipe.stages[1].modifiers[1].start_epoch == 1.0
        epochs, constant, teacher, teacher_2, quantization, steps, set_rate = recipe.modifiers
        assert epochs.interval == (0.0, 4.0)
        assert (constant.start_epoch, constant.end_epoch) == (-1.0, -1.0)
        # A teacher that never ends makes room for that of the next stage.
        assert (teacher.start_epoch, teacher.end_epoch) == (-1.0, 4.0)
        assert (teacher_2.start_epoch, teacher_2.end_epoch) == (4.0, 10.0)
        assert (quantization.start_epoch, quantization.end_epoch) == (5.0, -1.0)
        assert quantization.disable_quantization_observer_epoch == 6.0
        assert steps.interval == (4.0, 10.0)
        assert steps.lr_kwargs["milestones"] == (5.0, 7.0)
        assert set_rate.start_epoch == 10.0

    def test_epochs_of_the_whole_recipe_are_noticed(self) -> None:
        text = (
            "stage_0:\n  modifiers:\n" + EPOCHS.format(4).replace("  -", "    -")
            + "stage_1:\n  modifiers:\n    - !EpochRangeModifier {start_epoch: 4.0, end_epoch: 9.0}\n"
            "    - !QuantizationModifier {start_epoch: 6.0, disable_quantization_observer_epoch: 8}\n"
        )  # fmt: skip
        recipe = parse(text)
        assert recipe.max_epochs == 9.0
        assert [modifier.interval for modifier in recipe.stages[1].modifiers] == [(0.0, 5.0), (2.0, -1.0)]
        assert recipe.modifiers[2].disable_quantization_observer_epoch == 8.0
        assert len(recipe.warnings) == 1
        assert "stage_1: its epochs are read as those of the whole recipe" in recipe.warnings[0]
        assert parse("stage_epochs: absolute\n" + text) == recipe
        assert parse("stage_epochs: absolute\n" + text).warnings == ()
        relative = parse("stage_epochs: relative\n" + text)
        assert relative.max_epochs == 13.0
        assert relative.warnings == ()
        with pytest.raises(ConfigError, match="stage_1: starts at epoch 2, but the stages before it end at 4"):
            parse("stage_epochs: absolute\n" + text.replace("start_epoch: 4.0", "start_epoch: 2.0"))

    def test_a_stage_that_starts_at_the_beginning_has_its_own_clock(self) -> None:
        for start in ("-1", "0", "3.9"):
            text = (
                "a:\n  modifiers:\n    - !EpochRangeModifier {start_epoch: 0, end_epoch: 4}\nb:\n  modifiers:\n"
                f"    - !EpochRangeModifier {{start_epoch: {start}, end_epoch: 9}}\n"
                "    - !SetWeightDecayModifier {weight_decay: 0.1, start_epoch: 5}\n"
            )
            recipe = parse(text)
            assert recipe.max_epochs == 13.0
            assert recipe.warnings == ()

    def test_metadata(self) -> None:
        text = "metadata: {a: 1}\n" + self.TEXT.replace("second:\n", "second:\n  __metadata__: {seed: 3}\n")
        recipe = parse(text)
        assert recipe.metadata == {"a": 1, "second": {"seed": 3}}
        assert parse(recipe.to_yaml()) == recipe


class TestOverlaps:
    def refused(self, *modifiers: str) -> str:
        with pytest.raises(ConfigError) as error:
            parse("x_modifiers:\n" + "".join(modifiers))
        assert "\n" not in str(error.value)
        return str(error.value)

    def allowed(self, *modifiers: str) -> None:
        parse("x_modifiers:\n" + "".join(modifiers))

    def test_learning_rates(self) -> None:
        assert self.refused(rate(0, 30), rate(29.5, 40)) == (
            "recipe.yaml: x_modifiers[1]: LearningRateFunctionModifier (epochs 29.5 to 40) overlaps with "
            "LearningRateFunctionModifier (epochs 0 to 30) at x_modifiers[0]: there is one learning rate at a time; "
            "change start_epoch or end_epoch"
        )
        # Acceptance check 13: the rate starts again where it ended.
        self.allowed(rate(0, 30), rate(30, 40))
        self.allowed(rate(30, 40), rate(0, 30))

    def test_a_rate_that_is_set_acts_at_one_moment(self) -> None:
        at = "  - !SetLearningRateModifier {{learning_rate: 0.1, start_epoch: {}}}\n"
        self.allowed(at.format(-1), rate(5, 10), at.format(10))
        assert "SetLearningRateModifier (at epoch 7)" in self.refused(rate(5, 10), at.format(7))
        assert "overlaps" in self.refused(rate(5, 10), at.format(5))
        assert "overlaps" in self.refused(at.format(-1), at.format(0))

    def test_a_rate_without_end(self) -> None:
        steps = (
            "  - !LearningRateModifier {lr_class: StepLR, lr_kwargs: {gamma: 0.1, step_size: 1}, init_lr: 0.1, "
            "start_epoch: 2}\n"
        )
        self.allowed(rate(0, 2), steps)
        assert "LearningRateModifier (from epoch 2 on)" in self.refused(steps, rate(5, 10))

    def test_parameter_groups_have_rates_of_their_own(self) -> None:
        self.allowed(rate(0, 3, ", param_groups: [0]"), rate(0, 3, ", param_groups: [1, 2]"))
        assert "overlaps" in self.refused(rate(0, 3, ", param_groups: [0, 1]"), rate(0, 3, ", param_groups: [1]"))
        assert "overlaps" in self.refused(rate(0, 3), rate(0, 3, ", param_groups: [1]"))

    def test_prunings_of_the_same_parameters(self) -> None:
        assert 'both prune "b"' in self.refused(
            pruning(0, 10, "[a, b]"), pruning(9, 12, "[b]", "MovementPruningModifier")
        )
        self.allowed(pruning(0, 10, "[a]"), pruning(0, 10, "[b]"))
        self.allowed(pruning(0, 10), pruning(10, 12))
        several = (
            "  - !GMPruningModifier {init_sparsity: 0.0, final_sparsity: {0.5: [c], 0.8: [a]}, start_epoch: 1, "
            "end_epoch: 2, update_frequency: 1, params: []}\n"
        )
        assert 'both prune "a"' in self.refused(pruning(0, 10), several)
        self.allowed(pruning(0, 10, "[d]"), several)

    @pytest.mark.parametrize("name", ["DistillationModifier", "QuantizationModifier"])
    def test_one_at_a_time(self, name: str) -> None:
        assert f"{name} (from epoch 0 on) at x_modifiers[0]" in self.refused(
            f"  - !{name} {{}}\n", f"  - !{name} {{start_epoch: 5}}\n"
        )

    def test_teachers_one_after_the_other(self) -> None:
        self.allowed("  - !DistillationModifier {end_epoch: 5}\n", "  - !DistillationModifier {start_epoch: 5}\n")

    def test_epoch_ranges_and_stages_may(self) -> None:
        self.allowed(EPOCHS.format(3), EPOCHS.format(5))
        stage = "{}:\n  modifiers:\n    - !DistillationModifier {{}}\n    - !QuantizationModifier {{}}\n"
        parse(stage.format("a") + stage.format("b"))


class TestLenient:
    TEXT = "m_modifiers:\n" + EPOCHS.format(3) + "  - !MFACPruningModifier {params: [a], num_grads: 64}\n"

    def test_unsupported_modifiers_are_left_out(self) -> None:
        with pytest.raises(ConfigError, match=r"^recipe.yaml: m_modifiers\[1\]: MFACPruningModifier: second-order"):
            parse(self.TEXT)
        recipe = parse(self.TEXT, lenient=True)
        assert [modifier.type for modifier in recipe.modifiers] == ["EpochRangeModifier"]
        assert len(recipe.unsupported) == 1
        assert recipe.unsupported[0].startswith("MFACPruningModifier (recipe.yaml: m_modifiers[1]): second-order")

    def test_a_typo_is_no_unsupported_modifier(self) -> None:
        with pytest.raises(ConfigError, match=r'unknown modifier "MFACPruningModifer" \(did you mean "MFACPruning'):
            parse(self.TEXT.replace("Modifier {params", "Modifer {params"), lenient=True)

    def test_nothing_left(self) -> None:
        with pytest.raises(ConfigError, match="nothing is left of the recipe: OBSPruningModifier"):
            parse("modifiers:\n  - !OBSPruningModifier {}\n", lenient=True)


class TestCompose:
    FIRST = "__metadata__: {seed: 1}\nmodifiers:\n" + EPOCHS.format(4) + "  - !ConstantPruningModifier {params: [a]}\n"
    SECOND = "__metadata__: {seed: 2}\nmodifiers:\n" + EPOCHS.format(3) + "  - !DistillationModifier {}\n"

    def test_nothing_before(self) -> None:
        recipe = parse(self.FIRST)
        assert compose(None, recipe) is recipe

    def test_two_plain_ones(self) -> None:
        both = compose(parse(self.FIRST), parse(self.SECOND))
        assert [(stage.name, stage.start) for stage in both.stages] == [("stage_0", 0.0), ("stage_1", 4.0)]
        assert both.metadata == {"stage_0": {"seed": 1}, "stage_1": {"seed": 2}}
        assert both.max_epochs == 7.0
        assert [modifier.interval for modifier in both.modifiers] == [(0, 4), (0, -1), (4, 7), (4, -1)]
        assert parse(both.to_yaml()) == both

    def test_again_and_again(self) -> None:
        recipe = compose(compose(parse(self.FIRST), parse(self.SECOND)), parse(self.FIRST))
        recipe = compose(parse(self.FIRST), recipe)
        assert [stage.name for stage in recipe.stages] == ["stage_0", "stage_0_2", "stage_1", "stage_2"]
        assert [stage.start for stage in recipe.stages] == [0, 4, 8, 11]
        assert {"seed": 1} == recipe.metadata["stage_0"] == recipe.metadata["stage_0_2"] == recipe.metadata["stage_2"]
        twice = compose(recipe, recipe)
        assert len({stage.name for stage in twice.stages}) == 8
        assert twice.max_epochs == 30.0
        assert set(twice.metadata) == {stage.name for stage in twice.stages}
        assert parse(twice.to_yaml()) == twice

    def test_warnings_and_what_is_left_out_stay(self) -> None:
        old = parse(TestLenient.TEXT, lenient=True)
        new = parse("modifiers:\n  - !DistillationModifier {log_types: x}\n")
        both = compose(old, new)
        assert both.unsupported == old.unsupported
        assert both.warnings == new.warnings
        assert both.source == "recipe.yaml"

    def test_a_later_stage_that_starts_late_keeps_its_clock(self) -> None:
        late = parse("modifiers:\n" + pruning(6, 9))
        both = compose(parse(self.FIRST), late)
        assert parse(both.to_yaml()) == both
        assert both.max_epochs == 13.0


def random_text(generator: random.Random) -> str:
    return generator.choice(
        ["a", "re:bert.*[0-9]{1,2}.weight", "5e-5", "2:4", "010", "yes", "null", "~", "é", "a: b", "# x", "'", '"',
         "-1", "{x}", "*a", "&b", "!c", "<<", "1_000", ".5", "1.0", "12:30:45", "2001-01-01", "a\tb", "x " * 80]
    )  # fmt: skip


def random_metadata(generator: random.Random, depth: int = 0) -> Any:
    kind = generator.randrange(7 if depth < 3 else 5)
    if kind == 5:
        return [random_metadata(generator, depth + 1) for _ in range(generator.randrange(3))]
    if kind == 6:
        names = [random_text(generator) for _ in range(generator.randrange(3))]
        return {f"k_{name}": random_metadata(generator, depth + 1) for name in names}
    return [
        None,
        generator.random() < 0.5,
        generator.randrange(-9, 9),
        generator.gauss(0, 1e-5),
        random_text(generator),
    ][kind]


def random_modifier(generator: random.Random, index: int) -> tuple[str, dict[str, Any]]:
    """A random modifier that is active in an interval of its own, so that none overlap."""
    start = index * 10 + generator.choice([0, 1, 2.5])
    end = start + generator.choice([0.5, 1, 7])
    params = [f"layer{index}", *(f"{random_text(generator)}{index}" for _ in range(generator.randrange(3)))]
    params = [name for name in params if not name.startswith("__")]
    either = generator.choice
    pruning = {
        "init_sparsity": either([0.0, 0.1, "__FROM_PARAM__"]),
        "final_sparsity": either([0.5, 0.8]),
        "update_frequency": either([-1, 0.01, 1]),
        "params": params,
        "mask_type": either(["unstructured", "block4", "tensorrt", "2:4", [1, 4]]),
        "inter_func": either(["linear", "cubic", "inverse_cubic"]),
        "leave_enabled": either([True, False]),
    }
    choices: dict[str, dict[str, Any]] = {
        "EpochRangeModifier": {},
        "LearningRateFunctionModifier": {"lr_func": either(["linear", "cosine"]), "init_lr": 5e-5, "final_lr": 1e-7},
        "LearningRateModifier": {"lr_class": "ExponentialLR", "lr_kwargs": {"gamma": 0.9}, "init_lr": 0.01},
        "TrainableParamsModifier": {"params": params, "trainable": either([True, False])},
        "SetParamModifier": {"params": "__ALL__", "val": generator.gauss(0, 1)},
        "GradualParamModifier": {"params": params, "init_val": -1, "final_val": 1e-9, "update_frequency": -1},
        "ConstantPruningModifier": {"params": either([params, "__ALL_PRUNABLE__"])},
        "LayerPruningModifier": {"layers": params},
        "DistillationModifier": {"hardness": either([0, 0.3, 1]), "distill_output_keys": either([None, ["logits"]])},
        "GMPruningModifier": pruning | {"global_sparsity": either([True, False])},
        "MovementPruningModifier": pruning,
        "GlobalMagnitudePruningModifier": pruning
        | {"final_sparsity": {0.5: params, 0.75: [f"other{index}"]}, "params": []},
    }
    name = either(list(choices))
    return name, choices[name] | {"start_epoch": start, "end_epoch": end}


@pytest.mark.parametrize("seed", range(60))
def test_what_is_written_is_read_back(seed: int) -> None:
    generator = random.Random(seed)
    stages: list[Stage] = []
    start = 0.0
    names = [""] if seed % 3 == 0 else [f"stage {random_text(generator)} {index}" for index in range(1 + seed % 3)]
    for name in names:
        entries = [random_modifier(generator, index) for index in range(generator.randrange(1, 6))]
        modifiers = tuple(MODIFIERS[kind].read(values, "here", []) for kind, values in entries)
        stages.append(Stage(name, modifiers, start))
        start += stages[-1].length
    metadata = {f"m_{random_text(generator)}": random_metadata(generator) for _ in range(generator.randrange(3))}
    if names[0]:
        metadata[names[0]] = {"seed": seed}
    recipe = Recipe("x", tuple(stages), metadata)
    text = recipe.to_yaml()
    again = parse_recipe(text, "again")
    assert again == recipe
    assert again.to_yaml() == text
    assert again.max_epochs == recipe.max_epochs
    assert "eval(" not in text


def test_variables_are_resolved_in_what_is_written() -> None:
    text = (
        "n: 30\nparams: &p [a]\nmodifiers:\n"
        + EPOCHS.format("eval(n / 3)")
        + "  - !ConstantPruningModifier {params: *p}\n"
    )
    assert parse(text).to_yaml() == (
        "modifiers:\n- !EpochRangeModifier\n  start_epoch: 0.0\n  end_epoch: 10.0\n"
        "- !ConstantPruningModifier\n  params:\n  - a\n  start_epoch: -1.0\n  end_epoch: -1.0\n"
    )


def test_metadata_of_any_kind_is_written() -> None:
    recipe = parse("modifiers:\n" + EPOCHS.format(1))
    odd = Recipe("x", recipe.stages, {"path": random, "numbers": (1, 2), "nan": float("inf"), "n": {3: {"a"}}})
    again = parse(odd.to_yaml())
    assert again.metadata["numbers"] == [1, 2]
    assert again.metadata["nan"] == "inf"
    assert again.metadata["n"] == {3: ["a"]}
    assert again.metadata["path"] == str(random)


def test_sparsity_at_half_time() -> None:
    """Acceptance check 12, on what a recipe says: cubic from 0 to 0.8 over 2 to 20, at epoch 11."""
    (modifier,) = parse("modifiers:\n" + pruning(2, 20)).modifiers
    start, end = modifier.interval
    x = (11 - start) / (end - start)
    sparsity = modifier.init_sparsity + (modifier.final_sparsity - modifier.init_sparsity) * (1 - (1 - x) ** 3)
    assert modifier.inter_func == "cubic"
    assert sparsity == pytest.approx(0.875 * 0.8)
