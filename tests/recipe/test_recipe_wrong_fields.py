"""Values of modifiers that are refused, each with its place."""

from typing import Any

import pytest
from recipe_fields import MINIMAL, P

from nncf_transformers.config.errors import ConfigError
from nncf_transformers.recipe.modifiers import read_modifier
from nncf_transformers.recipe.modifiers.fields import show


@pytest.mark.parametrize(
    "name, fields, message",
    [
        ("EpochRangeModifier", {"end_epoch": "soon"}, 'm[0].end_epoch: is "soon", must be an epoch from 0, or -1 for'),
        ("EpochRangeModifier", {"end_epoch": -2}, "m[0].end_epoch: is -2, must be an epoch from 0, or -1 for never"),
        ("EpochRangeModifier", {"start_epoch": True}, "m[0].start_epoch: is true, must be an epoch"),
        ("EpochRangeModifier", {"start_epoch": None}, "m[0].start_epoch: is null, must be an epoch"),
        ("EpochRangeModifier", {"end_epoch": 1e9}, "m[0].end_epoch: is 1000000000.0, must be an epoch"),
        ("EpochRangeModifier", {"end_epoch": float("nan")}, "m[0].end_epoch: is nan, must be"),
        ("EpochRangeModifier", {"start_epoch": 30}, "m[0].end_epoch: is 30.0, must be later than start_epoch (30)"),
        (
            "LearningRateFunctionModifier",
            {"lr_func": "linaer"},
            "must be one of linear, cosine, cyclic_linear (did you",
        ),
        (
            "LearningRateFunctionModifier",
            {"end_epoch": -1},
            "end_epoch: is -1.0, must be an epoch: the rate has to know",
        ),
        ("LearningRateFunctionModifier", {"init_lr": 2}, "init_lr: is 2, must be a number from 0 to 1"),
        ("LearningRateFunctionModifier", {"init_lr": [1]}, "init_lr: is [1], must be a number"),
        ("LearningRateFunctionModifier", {"cycle_epochs": 0}, "cycle_epochs: is 0, must be a number"),
        ("LearningRateFunctionModifier", {"param_groups": [0.5]}, "param_groups[0]: is 0.5, must be a whole number"),
        ("SetLearningRateModifier", {"learning_rate": 0}, "learning_rate: is 0, must be a number"),
        (
            "LearningRateModifier",
            {"lr_class": "LambdaLR"},
            'lr_class: is "LambdaLR", must be one of StepLR, MultiStepLR',
        ),
        ("LearningRateModifier", {"lr_kwargs": {"gamma": 0.1}}, "lr_kwargs: StepLR needs step_size; add it"),
        (
            "LearningRateModifier",
            {"lr_kwargs": {"gamma": 0.1, "step_size": 1, "milestones": [1]}},
            "lr_kwargs.milestones: is no setting of StepLR, which has gamma, step_size",
        ),
        (
            "LearningRateModifier",
            {"lr_kwargs": {"gama": 0.1}},
            'lr_kwargs: unknown setting "gama" (did you mean "gamma"?)',
        ),
        ("LearningRateModifier", {"lr_kwargs": 3}, "lr_kwargs: is 3, must be a mapping"),
        (
            "LearningRateModifier",
            {"lr_class": "MultiStepLR", "end_epoch": 5, "lr_kwargs": {"gamma": 0.1, "milestones": [2, 7]}},
            "lr_kwargs.milestones: 7 is not between start_epoch and end_epoch",
        ),
        (
            "LearningRateModifier",
            {"lr_class": "MultiStepLR", "lr_kwargs": {"gamma": 0.1, "milestones": [3, 2]}},
            "lr_kwargs.milestones: is [3, 2], must be a list of rising epochs",
        ),
        (
            "LearningRateModifier",
            {"lr_class": "ExponentialLR", "lr_kwargs": {"gamma": 0.1, "step_size": 3}},
            "lr_kwargs.step_size: ExponentialLR steps once an epoch",
        ),
        ("SetWeightDecayModifier", {"weight_decay": -0.1}, "weight_decay: is -0.1, must be a number"),
        ("TrainableParamsModifier", {"params": "bert"}, 'params: is "bert", must be a list of names'),
        (
            "TrainableParamsModifier",
            {"params": ["__AL__"]},
            'params[0]: is "__AL__", must be a name, a pattern or one of',
        ),
        ("TrainableParamsModifier", {"params": ["re:("]}, 'params[0]: "re:(" is no regular expression'),
        ("TrainableParamsModifier", {"params": [3]}, "params[0]: is 3, must be a text"),
        ("TrainableParamsModifier", {"trainable": "yes"}, 'trainable: is "yes", must be true or false'),
        ("SetParamModifier", {"val": "x"}, 'val: is "x", must be a number'),
        ("GradualParamModifier", {"end_epoch": -1}, "end_epoch: is -1.0, must be an epoch: the value has to know"),
        (
            "GradualParamModifier",
            {"update_frequency": 0},
            "update_frequency: is 0, must be a number of epochs above 0, or -1",
        ),
        (
            "GMPruningModifier",
            {"final_sparsity": 1.2},
            "m[0].final_sparsity: is 1.2, must be a number from 0 to below 1",
        ),
        ("GMPruningModifier", {"final_sparsity": 1}, "m[0].final_sparsity: is 1, must be a number from 0 to below 1"),
        ("GMPruningModifier", {"final_sparsity": -0.1}, "m[0].final_sparsity: is -0.1, must be"),
        ("GMPruningModifier", {"final_sparsity": {}}, "m[0].final_sparsity: is empty"),
        ("GMPruningModifier", {"final_sparsity": {0.8: P}}, "m[0].params: must be [], because final_sparsity names"),
        ("GMPruningModifier", {"final_sparsity": {1.5: P}, "params": []}, "final_sparsity (a key): is 1.5, must be"),
        ("GMPruningModifier", {"final_sparsity": {0.5: []}, "params": []}, "final_sparsity.0.5: is empty"),
        (
            "GMPruningModifier",
            {"final_sparsity": {0.5: ["a"], 0.8: ["a"]}, "params": []},
            'final_sparsity: names "a" for two sparsities',
        ),
        ("GMPruningModifier", {"params": []}, "m[0].params: is empty; name parameters"),
        (
            "GMPruningModifier",
            {"init_sparsity": 1},
            "init_sparsity: is 1, must be a number from 0 to below 1, or __FROM_",
        ),
        ("GMPruningModifier", {"init_sparsity": "__FROM__"}, 'init_sparsity: is "__FROM__", must be'),
        ("GMPruningModifier", {"init_sparsity": 0.9}, "init_sparsity: is 0.9, must be at most final_sparsity (0.8)"),
        ("GMPruningModifier", {"end_epoch": -1}, "end_epoch: is -1.0, must be an epoch: pruning has to know"),
        ("GMPruningModifier", {"end_epoch": 2}, "end_epoch: is 2.0, must be later than start_epoch (2)"),
        (
            "GMPruningModifier",
            {"update_frequency": 0},
            "update_frequency: is 0, must be a number of epochs above 0, or -1",
        ),
        ("GMPruningModifier", {"update_frequency": -0.5}, "update_frequency: is -0.5, must be"),
        (
            "GMPruningModifier",
            {"inter_func": "qubic"},
            'inter_func: is "qubic", must be one of linear, cubic, inverse_cubic',
        ),
        ("GMPruningModifier", {"mask_type": "unstructred"}, '(did you mean "unstructured"?)'),
        ("GMPruningModifier", {"mask_type": "4:2"}, 'mask_type: is "4:2", must be N:M with N from 1 to below M'),
        (
            "GMPruningModifier",
            {"mask_type": [1]},
            "mask_type: is [1], must be one of unstructured, block4, tensorrt, [rows",
        ),
        ("GMPruningModifier", {"mask_type": [0, 4]}, "mask_type[0]: is 0, must be a whole number of at least 1"),
        ("GMPruningModifier", {"leave_enabled": 3}, "leave_enabled: is 3, must be true or false"),
        ("GMPruningModifier", {"phased": True}, "m[0].phased: phased pruning (AC/DC) is not available"),
        ("GMPruningModifier", {"score_type": "movement"}, "m[0].score_type: scores have modifiers of their own"),
        ("MagnitudePruningModifier", {"global_sparsity": True}, 'has no field "global_sparsity"'),
        ("ConstantPruningModifier", {"params": []}, "m[0].params: is empty"),
        (
            "ConstantPruningModifier",
            {"start_epoch": 3, "end_epoch": 2},
            "end_epoch: is 2.0, must be later than start_epoch",
        ),
        ("LayerPruningModifier", {"layers": []}, "m[0].layers: is empty"),
        ("LayerPruningModifier", {"layers": "__ALL__"}, 'layers[0]: is "__ALL__", must be the name of a layer'),
        ("DistillationModifier", {"hardness": 1.5}, "hardness: is 1.5, must be a number from 0 to 1"),
        ("DistillationModifier", {"temperature": 0}, "temperature: is 0, must be a number"),
        ("DistillationModifier", {"distill_output_keys": [0]}, "distill_output_keys[0]: is 0, must be a text"),
        ("QuantizationModifier", {"end_epoch": 5}, "end_epoch: is 5.0, must be -1: quantization does not end"),
        ("QuantizationModifier", {"scheme": "tensort"}, '(did you mean "tensorrt"?)'),
        (
            "QuantizationModifier",
            {"scheme": {"weight": None}},
            'scheme: unknown key "weight" (did you mean "weights"?)',
        ),
        ("QuantizationModifier", {"scheme": {"weights": {"bits": 8}}}, 'scheme.weights: unknown key "bits"'),
        ("QuantizationModifier", {"scheme_overrides": {"x": 3}}, "scheme_overrides.x: is 3, must be one of default"),
        ("QuantizationModifier", {"weight_bits": 0}, "weight_bits: is 0, must be a whole number of at least 1"),
        (
            "QuantizationModifier",
            {"start_epoch": 3, "disable_quantization_observer_epoch": 2},
            "disable_quantization_observer_epoch: is 2.0, must be at least start_epoch (3)",
        ),
        (
            "QuantizationModifier",
            {"submodules": ["bert"], "scheme": "default"},
            "m[0]: scheme belongs to the new form of QuantizationModifier, submodules to the old one",
        ),
        ("QuantizationModifier", {"ignore": ["x"], "reduce_range": False}, "ignore belongs to the new form"),
    ],
)
def test_wrong_values_are_named_with_their_place(name: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_modifier(name, MINIMAL[name] | fields, "r.yaml: m[0]", [])
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith("r.yaml: m[0]")
    assert message in text
    assert len(text) < 400


@pytest.mark.parametrize(
    "value, shown",
    [
        ([1, "a", (0.5, None)], "[1, 'a', [0.5, None]]"),
        ({0.8: ["x"], "y": {}}, "{0.8: ['x'], 'y': {}}"),
        ("x" * 58, f'"{"x" * 58}"'),
        ("x" * 59, f'"{"x" * 56}…'),
        (list(range(100)), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16…"),
    ],
)
def test_values_are_shown_short(value: Any, shown: str) -> None:
    assert show(value) == shown
    assert len(shown) <= 60


def test_of_a_huge_value_the_beginning_is_rendered() -> None:
    huge: list[Any] = ["text"]
    for _ in range(60):
        huge = [huge, huge]  # 2 ** 60 texts
    assert show(huge) == "[" * 57 + "…"
