"""What follows something else in a recipe, or in the recipe that a model came with."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe_loop import Loop, same, settings
from tiny import tiny_model

from nncf_transformers.algorithms.masks import masks
from nncf_transformers.algorithms.quantization import quantizers
from nncf_transformers.compression import Compression
from nncf_transformers.config import CompressionConfig
from nncf_transformers.config.model import TrainableConfig
from nncf_transformers.errors import UsageError
from nncf_transformers.recipe import parse_recipe
from nncf_transformers.recipe.inherit import RECIPE_FILE, inherit
from nncf_transformers.recipe.translate import recipe_config

QUERY = "bert.encoder.layer.{}.attention.self.query.weight"
PARAMS = "params: ['re:.*query.weight']"


def config(*modifiers: str, **how: Any) -> CompressionConfig:
    return recipe_config(parse_recipe("\n- ".join(["modifiers:", *modifiers]), "r.yaml", **how))


def pruning(first: object, last: float, start: float, end: float) -> str:
    levels = f"init_sparsity: {first}, final_sparsity: {last}, start_epoch: {start}, end_epoch: {end}"
    return f"!GMPruningModifier {{{PARAMS}, {levels}, update_frequency: -1}}"


def sparsity(model: torch.nn.Module) -> float:
    (mask,) = (mask.mask for name, mask in masks(model) if name == QUERY.format(0))
    return float((~mask).float().mean())


CONSTANT = f"!ConstantPruningModifier {{{PARAMS}, start_epoch: 2}}"
AGAIN = "a:\n  modifiers:\n  - {}\nb:\n  modifiers:\n  - !EpochRangeModifier {{start_epoch: 0, end_epoch: 2}}\n  - {}\n"


@pytest.mark.parametrize("stages", [False, True], ids=["one list", "two stages"])
def test_zeros_of_a_pruning_stay_under_a_constant_pruning_that_follows(stages: bool) -> None:
    first = pruning(0, 0.5, 0, 2)
    if stages:
        loop = Loop(
            recipe_config(parse_recipe(AGAIN.format(first, CONSTANT.replace("epoch: 2", "epoch: 0")), "r.yaml"))
        )
    else:
        loop = Loop(config(first, CONSTANT))
    assert sparsity(loop.run(8).model) == 0.5
    assert sparsity(loop.run(12).model) == 0.5
    zeros = loop.run().finish().model.get_parameter(QUERY.format(1)) == 0
    assert zeros.sum() == 512


@pytest.mark.parametrize("second", ["0.5", "0.0", "__FROM_PARAM__"])
def test_a_pruning_goes_on_with_the_masks_of_another(second: str, tmp_path: Path) -> None:
    # In the order of the epochs, whatever that of the list.
    loop = Loop(config(pruning(second, 0.75, 2, 4), pruning(0, 0.5, 0, 2)))
    levels = [sparsity(loop.run(step).model) for step in range(8, 17)]
    assert levels[0] == 0.5 and levels[-1] == 0.75 and levels == sorted(levels)
    assert second == "0.0" or levels[4] == pytest.approx(0.72, abs=0.01)
    again = Loop(config(pruning(second, 0.75, 2, 4), pruning(0, 0.5, 0, 2)))
    for step in (6, 10):
        again = again.run(step).reloaded(tmp_path / str(step))
    assert same(again.run().model, loop.model)


def test_prunings_that_overlap_and_lifted_masks_are_refused() -> None:
    lifted = pruning(0, 0.5, 0, 2).replace("}", ", leave_enabled: false}")
    with pytest.raises(UsageError, match="has a mask of another sparsity method already"):
        Loop(config(lifted, CONSTANT))


def test_two_stages_that_quantize_have_one_set_of_quantizers() -> None:
    quantization = "!QuantizationModifier {start_epoch: 1, num_calibration_steps: 2}"
    both = recipe_config(parse_recipe(AGAIN.format(quantization, quantization.replace(": 2}", ": 3}")), "r.yaml"))
    assert both.quantization is not None
    assert both.quantization.start_epoch == 1 and both.quantization.calibration_samples == 3
    assert any("with the settings of the last" in warning for warning in both.warnings)
    assert sum(1 for _ in quantizers(Loop(both).run(2).model)) == 29


def test_zeros_that_a_schedule_gives_up_are_said(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model()
    with torch.no_grad():
        for layer in range(2):
            model.get_parameter(QUERY.format(layer))[:16] = 0
    Loop(config(pruning(0, 0.9, 0, 2)), model)
    assert "begins at 0 % zeros, and the weights have 50 %" in caplog.text and "__FROM_PARAM__" in caplog.text


@pytest.mark.parametrize("late", [0, 1])
def test_what_two_methods_freeze_is_frozen_until_both_are_over(late: int) -> None:
    both = [TrainableConfig(place="t", parameters=("re:.*query.*",), trainable=False, end_epoch=2)]
    both.insert(late, TrainableConfig(place="t", parameters=("re:.*query.weight",), trainable=False, end_epoch=3))
    loop = Loop(settings(*both))
    moved, weight = [], loop.model.get_parameter(QUERY.format(0))
    for step in range(16):
        before = weight.detach().clone()
        loop.run(step + 1)
        moved += [] if torch.equal(before, weight) else [step]
    assert moved == [12, 13, 14, 15]


@pytest.mark.parametrize(
    "modifier",
    [
        "!LayerPruningModifier {layers: [bert.encoder.layer.1], start_epoch: 1}",
        "!SetParamModifier {params: ['re:.*query.weight'], val: 0.0, start_epoch: 3}",
    ],
)
def test_one_shot_of_what_starts_late_and_has_no_end(modifier: str) -> None:
    model = tiny_model()
    compression = Compression(config(modifier))
    compression.start(model, Loop(None).batches)
    compression.skip_to_end(model)
    assert len(model.bert.encoder.layer) == 1 or not model.get_parameter(QUERY.format(0)).any()


def test_a_recipes_rate_is_the_same_after_resuming_with_another_flag(tmp_path: Path) -> None:
    rate = "!SetLearningRateModifier {learning_rate: 1e-3}"
    loop = Loop(config(rate, "!EpochRangeModifier {start_epoch: 0, end_epoch: 4}"), lr=5e-5).run(4)
    loop._arguments["lr"] = 1e-4
    again = loop.reloaded(tmp_path)
    assert again.compression.rates(again.optimizer, 4) == [1e-3]


# What a model came with.


def came_with(folder: Path, text: str, **changes: Any) -> Any:
    model = tiny_model(**changes)
    folder.mkdir(exist_ok=True)
    (folder / RECIPE_FILE).write_text(text)
    return model


PRUNED = f"modifiers:\n- {pruning(0, 0.5, 0, 2)}\n"


def test_warnings_and_places_of_a_recipe_outlast_that_of_its_model(tmp_path: Path) -> None:
    model = came_with(tmp_path, PRUNED)
    new = config("!OBSPruningModifier {params: __ALL_PRUNABLE__}", pruning(0.5, 0.7, 0, 2), lenient=True)
    both = inherit(new, model, str(tmp_path), trains=True)
    assert both is not None and both.warnings == new.warnings != ()
    assert {item.place for item in new.algorithms} < {item.place for item in both.algorithms}
    assert both.raw.keys() == {"recipe", "previous_recipe", "left_out"}


def test_zeros_of_a_pruning_that_we_do_not_run_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    text = f"modifiers:\n- !OBSPruningModifier {{{PARAMS}, final_sparsity: 0.9, start_epoch: 0, end_epoch: 2}}\n"
    text += "- !PerLayerDistillationModifier {hardness: 0.5}\n"
    model = came_with(tmp_path, text)
    both = inherit(None, model, str(tmp_path), trains=True)
    assert both is not None and [item.algorithm for item in both.algorithms] == ["constant_sparsity"]
    assert both.algorithms[0].parameters == ("re:.*query.weight",)  # type: ignore[attr-defined]
    assert "PerLayerDistillationModifier" in caplog.text
    assert inherit(None, model, str(tmp_path), trains=False) is None


@pytest.mark.parametrize(
    "modifier",
    [
        "!SetLearningRateModifier {learning_rate: 0.1, param_groups: [0]}",
        "!PerLayerDistillationModifier {hardness: 0.5}",
        f"!OBSPruningModifier {{{PARAMS}}}",
    ],
)
def test_what_is_over_may_be_what_we_do_not_run(modifier: str, tmp_path: Path) -> None:
    assert inherit(None, came_with(tmp_path, f"modifiers:\n- {modifier}\n"), str(tmp_path), trains=False) is None


def test_two_stages_that_remove_the_same_layer(tmp_path: Path) -> None:
    layer = "!LayerPruningModifier {layers: [bert.encoder.layer.1]}"
    model = came_with(tmp_path, AGAIN.format(layer, layer))
    inherit(None, model, str(tmp_path), trains=False)
    assert len(model.bert.encoder.layer) == 1


def test_any_recipe_is_composed_with_the_next(tmp_path: Path) -> None:
    model = came_with(tmp_path, "modifiers:\n- !LayerPruningModifier {layers: [bert.encoder.layer.1]}\n")
    both = inherit(config(pruning(0, 0.5, 0, 2)), model, str(tmp_path), trains=True)
    assert both is not None and both.raw.keys() == {"recipe", "previous_recipe"} and len(both.algorithms) == 1
    loop = Loop(both, model).run(2)
    model.save_pretrained(tmp_path / "saved")
    text = (tmp_path / "saved" / RECIPE_FILE).read_text()
    assert text.index("!LayerPruningModifier") < text.index("!GMPruningModifier")
    # On the way, and at the end, it is the same training for whoever evaluates it with its recipe.
    for finished in (False, True):
        if finished:
            loop.run(8).finish()
            model.save_pretrained(tmp_path / "saved")
        again = inherit(config(pruning(0, 0.5, 0, 2)), model, str(tmp_path / "saved"), trains=False)
        assert again is not None and again.raw == loop.compression.config.raw
        loop.compression.check_same(again)
