"""Every modifier: its fields, SparseML's defaults, and what is refused."""

import dataclasses
from typing import Any

import pytest
from recipe_fields import MINIMAL, P

from nncf_transformers.config.errors import ConfigError
from nncf_transformers.recipe.modifiers import MODIFIERS, UNSUPPORTED, Modifier, QuantizationModifier, read_modifier

EPOCHS = {"start_epoch": -1.0, "end_epoch": -1.0}
GRADUAL = {"leave_enabled": True, "inter_func": "cubic", "mask_type": "unstructured"}
DEFAULTS: dict[str, dict[str, Any]] = {
    "EpochRangeModifier": {},
    "LearningRateFunctionModifier": {"cycle_epochs": 1.0, "param_groups": None, "update_frequency": -1.0},
    "SetLearningRateModifier": EPOCHS | {"param_groups": None},
    "LearningRateModifier": {"end_epoch": -1.0, "update_frequency": -1.0},
    "SetWeightDecayModifier": EPOCHS | {"param_groups": None},
    "TrainableParamsModifier": EPOCHS | {"trainable": True, "params_strict": True},
    "SetParamModifier": {"start_epoch": 0.0, "end_epoch": -1.0, "params_strict": True},
    "GradualParamModifier": {"inter_func": "linear", "params_strict": True},
    "GMPruningModifier": GRADUAL | {"global_sparsity": False},
    "MagnitudePruningModifier": GRADUAL,
    "GlobalMagnitudePruningModifier": GRADUAL,
    "MovementPruningModifier": GRADUAL,
    "ConstantPruningModifier": EPOCHS | {"update_frequency": -1.0},
    "LayerPruningModifier": EPOCHS | {"update_frequency": -1.0},
    "DistillationModifier": EPOCHS
    | {
        "hardness": 0.5,
        "temperature": 2.0,
        "distill_output_keys": None,
        "teacher_input_keys": None,
        "update_frequency": -1.0,
    },
    "QuantizationModifier": EPOCHS
    | dict.fromkeys(
        [
            "disable_quantization_observer_epoch",
            "freeze_bn_stats_epoch",
            "model_fuse_fn_name",
            "model_fuse_fn_kwargs",
            "num_calibration_steps",
            "scheme",
            "scheme_overrides",
            "ignore",
            "submodules",
            "exclude_module_types",
            "custom_quantizable_module_types",
            "activation_qconfig_kwargs",
            "weight_qconfig_kwargs",
        ]
    )
    | dict.fromkeys(
        [
            "strict",
            "quantize_embeddings",
            "quantize_linear_activations",
            "quantize_conv_activations",
            "quantize_embedding_activations",
            "exclude_batchnorm",
        ],
        True,
    )
    | {"reduce_range": False, "tensorrt": False, "activation_bits": 8, "weight_bits": 8},
}


def read(name: str, warnings: list[str] | None = None, /, **values: Any) -> Any:
    return read_modifier(name, MINIMAL[name] | values, "r.yaml: m[0]", [] if warnings is None else warnings)


def refused(name: str, /, **values: Any) -> str:
    with pytest.raises(ConfigError) as error:
        read(name, **values)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_modifier_is_tested_here() -> None:
    assert set(MINIMAL) == set(DEFAULTS) == set(MODIFIERS)


@pytest.mark.parametrize("name", list(MINIMAL))
def test_defaults_are_those_of_sparseml(name: str) -> None:
    warnings: list[str] = []
    modifier = read(name, warnings)
    assert modifier.type == name
    assert modifier.place == "r.yaml: m[0]"
    assert warnings == []
    left = {field: getattr(modifier, field) for field in modifier.names() if field not in MINIMAL[name]}
    assert left == DEFAULTS[name]


@pytest.mark.parametrize("name", list(MINIMAL))
def test_each_field_that_is_needed_is_named(name: str) -> None:
    # These have defaults.
    for field in set(MINIMAL[name]) - {"params"} if "Pruning" in name else set(MINIMAL[name]):
        values = {key: value for key, value in MINIMAL[name].items() if key != field}
        with pytest.raises(ConfigError, match=rf"^r.yaml: m\[0\]: {name} needs the field {field}; add it"):
            read_modifier(name, values, "r.yaml: m[0]", [])


@pytest.mark.parametrize("name", list(MINIMAL))
def test_a_misspelt_field_names_the_nearest(name: str) -> None:
    assert refused(name, start_epok=1) == (
        f'r.yaml: m[0]: {name} has no field "start_epok" (did you mean "start_epoch"?)'
    )
    assert f'{name} has no field "zzz"; its fields: ' in refused(name, zzz=1)


@pytest.mark.parametrize("name", list(MINIMAL))
def test_what_it_writes_is_read_back(name: str) -> None:
    modifier = read(name)
    assert read_modifier(name, modifier.written(), "elsewhere", []) == modifier


@pytest.mark.parametrize("name", list(MINIMAL))
def test_old_keys_warn(name: str) -> None:
    warnings: list[str] = []
    assert read(name, warnings, log_types="__ALL__", constant_logging=False, reapply_mask=True) == read(name)
    assert [line.split(": ")[1] for line in warnings] == [
        "m[0].log_types", "m[0].constant_logging", "m[0].reapply_mask",
    ]  # fmt: skip


def test_numbers_are_taken_as_texts_too() -> None:
    assert read("LearningRateFunctionModifier", init_lr="5e-5").init_lr == 5e-5
    assert read("EpochRangeModifier", start_epoch="-1").start_epoch == -1.0
    assert read("QuantizationModifier", num_calibration_steps=32.0).num_calibration_steps == 32
    assert (
        read("QuantizationModifier", quantize_embeddings=1, quantize_linear_activations=0).quantize_embeddings is True
    )


def test_epochs_may_be_fractions_and_minus_one_stays() -> None:
    assert read("ConstantPruningModifier", start_epoch=-1, end_epoch=0.5).interval == (0.0, 0.5)
    assert read("ConstantPruningModifier", start_epoch=-1).start_epoch == -1.0


@pytest.mark.parametrize(
    "mask_type, expected",
    [("block4", "block4"), ("tensorrt", "tensorrt"), ("2:4", "2:4"), (" 1 : 4 ", "1:4"), ([4, 1], (4, 1))],
)
def test_mask_types(mask_type: Any, expected: Any) -> None:
    assert read("MovementPruningModifier", mask_type=mask_type).mask_type == expected


def test_params_and_sparsities() -> None:
    assert read("TrainableParamsModifier", params="__all_prunable__").params == ("__ALL_PRUNABLE__",)
    assert read("TrainableParamsModifier", params=["a", "__all__"]).params == ("a", "__ALL__")
    assert read("GMPruningModifier", init_sparsity="__FROM_PARAM__").init_sparsity == "__FROM_PARAM__"
    several = read("GMPruningModifier", final_sparsity={"0.5": ["a"], 0.8: ["b", "c"]}, params=[])
    assert several.final_sparsity == several.targets() == {0.5: ("a",), 0.8: ("b", "c")}
    assert read("GMPruningModifier").targets() == {0.8: tuple(P)}


def test_old_keys_of_pruning_warn_where_they_mean_nothing() -> None:
    warnings: list[str] = []
    read("GMPruningModifier", warnings, phased=False, score_type="magnitude")
    assert warnings == [
        "r.yaml: m[0].phased: has no effect any more; remove it",
        "r.yaml: m[0].score_type: has no effect any more; remove it",
    ]


def test_fields_without_effect_warn() -> None:
    warnings: list[str] = []
    read("SetLearningRateModifier", warnings, start_epoch=3, end_epoch=2)
    read("ConstantPruningModifier", warnings, update_frequency=0.5)
    read("ConstantPruningModifier", warnings, update_frequency=-1)
    assert warnings == [
        "r.yaml: m[0].end_epoch: has no effect in a SetLearningRateModifier",
        "r.yaml: m[0].update_frequency: has no effect in a ConstantPruningModifier",
    ]


def test_both_forms_of_quantization() -> None:
    assert read("QuantizationModifier").is_new_form
    assert read("QuantizationModifier", scheme="deepsparse", ignore=["LayerNorm"]).is_new_form
    assert not read("QuantizationModifier", submodules=["bert.encoder"], model_fuse_fn_name="no_fuse").is_new_form
    full = read(
        "QuantizationModifier",
        scheme={
            "input_activations": {"num_bits": 8, "symmetric": False, "kwargs": {}},
            "weights": {"num_bits": 8, "symmetric": True},
            "output_activations": "null",
            "target_hardware": "deepsparse",
        },
        scheme_overrides={"classifier": None, "Embedding": "default", "x": {"weights": None}},
        model_fuse_fn_name="none",
    )
    assert full.scheme == {
        "input_activations": {"num_bits": 8, "symmetric": False, "kwargs": {}},
        "weights": {"num_bits": 8, "symmetric": True},
        "output_activations": None,
    }
    assert full.scheme_overrides == {"classifier": None, "Embedding": "default", "x": {"weights": None}}
    assert full.model_fuse_fn_name is None


def test_both_forms_share_no_field() -> None:
    names = {item.name for item in dataclasses.fields(QuantizationModifier)} - {"place"}
    parts = (QuantizationModifier.both_fields, QuantizationModifier.new_fields, QuantizationModifier.legacy_fields())
    assert sorted(name for part in parts for name in part) == sorted(names)


def test_shifting() -> None:
    moved = read("QuantizationModifier", start_epoch=-1, disable_quantization_observer_epoch=2).shifted(10)
    assert (moved.start_epoch, moved.end_epoch, moved.disable_quantization_observer_epoch) == (10.0, -1.0, 12.0)
    assert moved.freeze_bn_stats_epoch is None
    steps = read(
        "LearningRateModifier", lr_class="MultiStepLR", lr_kwargs={"gamma": 0.1, "milestones": [2, 3]}, end_epoch=5
    )
    assert steps.shifted(1.5).lr_kwargs["milestones"] == (3.5, 4.5)
    assert steps.shifted(1.5).shifted(-1.5) == steps
    assert read("GMPruningModifier").shifted(3).interval == (5.0, 23.0)


def test_unsupported_modifiers_say_what_to_take() -> None:
    named = {"MFACPruningModifier", "OBSPruningModifier", "OBCPruningModifier", "ACDCPruningModifier"}
    named |= {"StructuredPruningModifier", "RigLPruningModifier", "TopKASTPruningModifier", "PowerpropagationModifier"}
    named |= {"LogarithmicQuantizationModifier", "PerLayerDistillationModifier"}
    assert named <= set(UNSUPPORTED)
    for name, reason in UNSUPPORTED.items():
        assert name not in MODIFIERS
        with pytest.raises(ConfigError) as error:
            read_modifier(name, {"whatever": 1}, "r.yaml: m[0]", [])
        assert str(error.value) == f"r.yaml: m[0]: {name}: {reason}"
        assert any(word in reason for word in ("take", "remove", "write"))


def test_unknown_classes_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r'unknown modifier "GMPrunningModifier" \(did you mean "GMPruningModifier"'):
        read_modifier("GMPrunningModifier", {}, "r.yaml: m[0]", [])
    with pytest.raises(ConfigError, match='unknown modifier "X"; known: EpochRangeModifier, '):
        read_modifier("X", {}, "r.yaml: m[0]", [])


def test_modifiers_are_frozen_and_compared_without_their_place() -> None:
    modifier = read("DistillationModifier")
    assert isinstance(modifier, Modifier)
    assert modifier == dataclasses.replace(modifier, place="elsewhere")
    with pytest.raises(dataclasses.FrozenInstanceError):
        modifier.hardness = 1.0
