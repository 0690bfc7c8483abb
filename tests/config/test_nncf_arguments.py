"""Settings become arguments of nncf.quantize, and NNCF accepts and obeys them."""

from typing import Any

import nncf
import pytest
import torch
from config_models import MakeModel, quantize, quantizer_modes, quantizer_names
from nncf.quantization.range_estimator import RangeEstimatorParametersSet, StatisticsType

from nncf_transformers.config import QuantizationConfig, parse_config, to_nncf_arguments

Example = dict[str, torch.Tensor]


def settings(**values: Any) -> QuantizationConfig:
    config = parse_config({"algorithms": [{"algorithm": "quantization", **values}]}, "f.json").quantization
    assert config is not None
    return config


def test_defaults_leave_the_weights_alone() -> None:
    arguments = to_nncf_arguments(settings())
    advanced = arguments.pop("advanced_parameters")
    assert arguments == {
        "preset": None,
        "target_device": nncf.TargetDevice.ANY,
        "subset_size": 300,
        "fast_bias_correction": True,
        "model_type": nncf.ModelType.TRANSFORMER,
    }
    assert advanced.disable_bias_correction
    assert advanced.smooth_quant_alphas.matmul < 0
    assert advanced.smooth_quant_alphas.convolution < 0
    assert advanced.batchwise_statistics is False
    assert advanced.overflow_fix is None


def test_plain_settings_arrive() -> None:
    arguments = to_nncf_arguments(
        settings(
            preset="performance",
            target_device="NPU",
            calibration_samples=9,
            overflow_fix="first_layer_only",
            smooth_quant=0.25,
            bias_correction=True,
            weights={"per_channel": False, "mode": "asymmetric"},
        )
    )
    advanced = arguments["advanced_parameters"]
    assert arguments["preset"] == nncf.QuantizationPreset.PERFORMANCE
    assert arguments["target_device"] == nncf.TargetDevice.NPU
    assert arguments["subset_size"] == 9
    assert advanced.overflow_fix == nncf.OverflowFix.FIRST_LAYER
    assert advanced.smooth_quant_alphas.matmul == 0.25
    assert not advanced.disable_bias_correction
    assert advanced.weights_quantization_params.per_channel is False
    assert advanced.weights_quantization_params.mode.value == "asymmetric"
    assert advanced.activations_quantization_params.mode is None


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("min_max", RangeEstimatorParametersSet.MINMAX),
        ("mean_min_max", RangeEstimatorParametersSet.MEAN_MINMAX),
        ("median_min_max", RangeEstimatorParametersSet.MEDIAN_MINMAX),
        ("histogram", RangeEstimatorParametersSet.HISTOGRAM),
    ],
)
def test_range_types(kind: str, expected: Any) -> None:
    advanced = to_nncf_arguments(settings(activations={"range": {"type": kind}}))["advanced_parameters"]
    assert advanced.activations_range_estimator_params == expected


@pytest.mark.parametrize(
    "values, upper",
    [
        ({"preset": "mixed"}, StatisticsType.QUANTILE),
        ({}, StatisticsType.QUANTILE),
        ({"preset": "performance"}, StatisticsType.ABS_QUANTILE),
        ({"activations": {"mode": "symmetric"}}, StatisticsType.ABS_QUANTILE),
        ({"preset": "performance", "activations": {"mode": "asymmetric"}}, StatisticsType.QUANTILE),
    ],
)
def test_percentiles_of_symmetric_quantizers_look_at_both_sides(values: dict[str, Any], upper: Any) -> None:
    percentiles = {"type": "mean_percentile", "min_percentile": 0.5, "max_percentile": 99}
    values = {**values, "activations": {**values.get("activations", {}), "range": percentiles}}
    estimator = to_nncf_arguments(settings(**values))["advanced_parameters"].activations_range_estimator_params
    assert estimator.max.statistics_type == upper
    assert estimator.min.quantile_outlier_prob == pytest.approx(0.005)
    assert estimator.max.quantile_outlier_prob == pytest.approx(0.01)


def test_weights_skewed_to_the_negative_keep_their_range(make_model: MakeModel, example: Example) -> None:
    """A positive quantile alone would cut the negative side off."""
    model = make_model()
    weight = model.qa_outputs.weight
    with torch.no_grad():
        before = weight.clone()
        weight.copy_(-weight.abs() * 10)
        weight[:, 0] = 0.001
        quantized = quantize(settings(weights={"range": {"type": "mean_percentile"}}), model, example)
        weight.copy_(before)
    name = next(n for n in quantizer_names(quantized) if "pre_hooks.qa_outputs/linear/0__1" in n)
    assert quantized.get_submodule(name).scale.min() > 0.01


# Counts for two layers: 13 linear and 3 embedding weights; 13 activations and the query and key of each
# layer.
DEFAULT = {("weights", "symmetric"): 16, ("activations", "asymmetric"): 13, ("activations", "symmetric"): 4}
SYMMETRIC = {("weights", "symmetric"): 16, ("activations", "symmetric"): 17}


@pytest.mark.parametrize(
    "values, expected",
    [
        ({}, DEFAULT),
        ({"preset": "performance"}, SYMMETRIC),
        (
            {"weights": {"mode": "asymmetric"}},
            {
                ("weights", "asymmetric"): 16,
                ("activations", "asymmetric"): 13,
                ("activations", "symmetric"): 4,
            },
        ),
        ({"activations": {"range": {"type": "mean_percentile"}}}, DEFAULT),
        ({"activations": {"range": {"type": "histogram"}}}, DEFAULT),
        ({"preset": "performance", "activations": {"range": {"type": "mean_percentile"}}}, SYMMETRIC),
        ({"overflow_fix": "enable", "target_device": "CPU"}, DEFAULT),
        ({"target_device": "NPU"}, DEFAULT),
        ({"smooth_quant": 0.5}, DEFAULT),
    ],
)
def test_nncf_quantizes_as_told(
    values: dict[str, Any], expected: dict[tuple[str, str], int], make_model: MakeModel, example: Example
) -> None:
    quantized = quantize(settings(calibration_samples=1, **values), make_model(), example)
    assert quantizer_modes(quantized) == expected


def test_scales_per_channel_and_per_tensor(make_model: MakeModel, example: Example) -> None:
    sizes = {}
    for per_channel in (True, False):
        quantized = quantize(settings(weights={"per_channel": per_channel}), make_model(), example)
        name = next(n for n in quantizer_names(quantized) if "pre_hooks.qa_outputs/linear/0__1" in n)
        sizes[per_channel] = quantized.get_submodule(name).scale.numel()
    assert sizes == {True: 2, False: 1}


def test_the_users_parameters_change_with_smooth_quant_only(make_model: MakeModel, example: Example) -> None:
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for values, unchanged in (({}, True), ({"smooth_quant": 0.5}, False)):
        after = quantize(settings(**values), model, example).state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items()) == unchanged
