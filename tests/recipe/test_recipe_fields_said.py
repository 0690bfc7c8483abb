"""Fields that ask for something else than what is done, each a line that names it; and what becomes of the others."""

from typing import Any

import pytest
import yaml

from nncf_transformers.config import ConfigError, SetParameterConfig
from nncf_transformers.recipe.recipe import parse_recipe
from nncf_transformers.recipe.translate import recipe_config

GRADUAL = {"params": ["a"], "init_val": 0, "final_val": 1, "start_epoch": 0, "end_epoch": 3, "update_frequency": 1}
QUANTIZATION = "r.yaml: modifiers[0]."


def config(modifier: str, **fields: Any) -> Any:
    text = yaml.safe_dump(fields, default_flow_style=True, width=1000)
    return recipe_config(parse_recipe(f"modifiers:\n  - !{modifier} {text}", "r.yaml"))


def said(modifier: str, **fields: Any) -> list[str]:
    warnings = config(modifier, **fields).warnings
    assert all("\n" not in line and line.startswith(QUANTIZATION) for line in warnings)
    return [line.removeprefix(QUANTIZATION) for line in warnings]


def test_the_end_of_a_parameter_that_is_set_once() -> None:
    assert said("SetParamModifier", params=["a"], val=0, end_epoch=2) == [
        "end_epoch: has no effect in a SetParamModifier"
    ]
    assert said("SetParamModifier", params=["a"], val=0, start_epoch=3, end_epoch=2) != []
    assert said("SetParamModifier", params=["a"], val=0, end_epoch=-1) == []


@pytest.mark.parametrize(("written", "expected"), [(1, 1.0), (0.25, 0.25), (-1, None)])
def test_parameters_have_their_frequency(written: float, expected: float | None) -> None:
    (algorithm,) = config("GradualParamModifier", **GRADUAL | {"update_frequency": written}).algorithms
    assert isinstance(algorithm, SetParameterConfig) and algorithm.update_frequency == expected


@pytest.mark.parametrize("modifier", ["SetParamModifier", "GradualParamModifier"])
@pytest.mark.parametrize("strict", [True, False])
def test_parameters_that_need_not_be_there(modifier: str, strict: bool) -> None:
    fields = GRADUAL if modifier == "GradualParamModifier" else {"params": ["a"], "val": 0}
    assert config(modifier, **fields, params_strict=strict).algorithms[0].strict is strict
    assert config(modifier, **fields).algorithms[0].strict is True


@pytest.mark.parametrize("kind", ["linear", "conv", "embedding"])
def test_outputs_that_are_not_to_be_quantized(kind: str) -> None:
    field = f"quantize_{kind}_activations"
    assert said("QuantizationModifier", **{field: False}) == [
        f"{field}: has no effect, outputs are quantized where another layer takes them as INT8"
    ]
    assert said("QuantizationModifier", **{field: True}) == []


def test_classes_that_are_to_be_quantized_too() -> None:
    assert said("QuantizationModifier", custom_quantizable_module_types=["Mine"]) == [
        "custom_quantizable_module_types: has no effect, NNCF quantizes by operation, whatever the class of the module"
    ]
    assert said("QuantizationModifier", custom_quantizable_module_types=[]) == []


def test_parts_that_need_not_be_there() -> None:
    line = "strict: has no effect, a path in ignore that matches nothing is an error; remove it"
    assert said("QuantizationModifier", strict=False, ignore=["bert.encoder"]) == [line]
    assert said("QuantizationModifier", strict=True, ignore=["bert.encoder"]) == []
    # A class that is not there is a warning anyway, and without names there is nothing to be strict about.
    assert said("QuantizationModifier", strict=False, ignore=["LayerNorm"]) == said(
        "QuantizationModifier", strict=False
    )
    assert said("QuantizationModifier", strict=False) == []


def test_steps_of_calibration_are_samples() -> None:
    assert said("QuantizationModifier", num_calibration_steps=16) == [
        "num_calibration_steps: is taken as 16 samples, not batches; write the steps times the batch size"
    ]
    assert config("QuantizationModifier", num_calibration_steps=16).algorithms[0].calibration_samples == 16


def test_arguments_of_observers_in_a_scheme() -> None:
    scheme = {"input_activations": {"num_bits": 8, "kwargs": {"averaging_constant": 0.1}}, "weights": {"kwargs": {}}}
    assert said("QuantizationModifier", scheme=scheme) == [
        "scheme.input_activations.kwargs: has no effect, observers are NNCF's"
    ]


@pytest.mark.parametrize("fields", [{}, {"exclude_batchnorm": False}, {"freeze_bn_stats_epoch": 1.0}])
def test_there_is_no_batch_norm_to_speak_of(fields: dict[str, Any]) -> None:
    assert said("QuantizationModifier", **fields) == []


def test_settings_of_rates_have_the_names_of_torch() -> None:
    (algorithm,) = config(
        "LearningRateModifier",
        lr_class="CosineAnnealingWarmRestarts",
        lr_kwargs={"lr_min": 0.01, "cycle_epochs": 2},
        init_lr=0.1,
        start_epoch=0,
    ).algorithms
    assert algorithm.pieces[0].settings == {"eta_min": 0.01, "T_0": 2}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("StepLR", {"gamma": 0.1, "step_size": 0}, "lr_kwargs.step_size: is 0, must be"),
        ("CosineAnnealingWarmRestarts", {"lr_min": 0.1, "cycle_epochs": 0}, "lr_kwargs.cycle_epochs: is 0, must be"),
        ("ExponentialLR", {"gamma": 0.1}, "end_epoch: is 1.0, must be later than start_epoch"),
    ],
)
def test_rates_that_cannot_be(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config("LearningRateModifier", lr_class=name, lr_kwargs=settings, init_lr=0.1, start_epoch=2, end_epoch=1)
