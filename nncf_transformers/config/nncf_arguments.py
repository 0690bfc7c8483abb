"""Turns quantization settings into the arguments of ``nncf.quantize``."""

from typing import TYPE_CHECKING, Any

from nncf_transformers.config.model import QuantizationConfig, QuantizerSettings, RangeSettings

if TYPE_CHECKING:
    from nncf.quantization.advanced_parameters import QuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParameters


def to_nncf_arguments(config: QuantizationConfig) -> dict[str, Any]:
    """Build the keyword arguments of ``nncf.quantize``, except model, dataset and ignored scope.

    NNCF is imported here and not before, because it takes seconds and reading a configuration needs none of
    it.

    Args:
        config: The settings.

    Returns:
        Keyword arguments for ``nncf.quantize``. ``subset_size`` counts items of the dataset, so give it
        single samples.
    """
    import nncf
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        AdvancedSmoothQuantParameters,
        OverflowFix,
    )

    advanced = AdvancedQuantizationParameters(
        overflow_fix=OverflowFix(config.overflow_fix) if config.overflow_fix else None,
        disable_bias_correction=not config.bias_correction,
        # Statistics of the whole batch. "Per sample" relies on the batch being the first axis of every tensor
        # in the graph, which reshaped attention heads and position tables are not.
        batchwise_statistics=False,
        weights_quantization_params=_quantizer_parameters(config.weights),
        activations_quantization_params=_quantizer_parameters(config.activations),
        # A negative alpha is NNCF's "off".
        smooth_quant_alphas=AdvancedSmoothQuantParameters(
            matmul=-1.0 if config.smooth_quant is None else config.smooth_quant
        ),
    )
    symmetric_activations = (config.activations.mode or _mode_of(config.preset)) == "symmetric"
    if (weights := _range(config.weights.range, config.weights.mode != "asymmetric")) is not None:
        advanced.weights_range_estimator_params = weights
    if (activations := _range(config.activations.range, symmetric_activations)) is not None:
        advanced.activations_range_estimator_params = activations

    return {
        "preset": nncf.QuantizationPreset(config.preset) if config.preset else None,
        "target_device": nncf.TargetDevice(config.target_device),
        "subset_size": config.calibration_samples,
        "fast_bias_correction": True,
        "model_type": nncf.ModelType.TRANSFORMER,
        "advanced_parameters": advanced,
    }


def _mode_of(preset: str | None) -> str:
    """Mode of activations under a preset; no preset means ``mixed`` for transformers."""
    return "symmetric" if preset == "performance" else "asymmetric"


def _quantizer_parameters(settings: QuantizerSettings) -> "QuantizationParameters":
    """The settings as NNCF spells them; None leaves a choice to NNCF."""
    from nncf.common.quantization.structs import QuantizationScheme
    from nncf.quantization.advanced_parameters import QuantizationParameters

    return QuantizationParameters(
        num_bits=settings.bits,
        mode=QuantizationScheme(settings.mode) if settings.mode else None,
        per_channel=settings.per_channel,
    )


def _range(settings: RangeSettings, symmetric: bool) -> "RangeEstimatorParameters | None":
    """NNCF's range estimator for the settings, or None for NNCF's own choice."""
    from nncf.quantization.range_estimator import (
        AggregatorType,
        RangeEstimatorParameters,
        RangeEstimatorParametersSet,
        StatisticsCollectorParameters,
        StatisticsType,
    )

    presets = {
        "min_max": RangeEstimatorParametersSet.MINMAX,
        "mean_min_max": RangeEstimatorParametersSet.MEAN_MINMAX,
        "median_min_max": RangeEstimatorParametersSet.MEDIAN_MINMAX,
        "histogram": RangeEstimatorParametersSet.HISTOGRAM,
    }
    if settings.type is None:
        return None
    if settings.type in presets:
        return presets[settings.type]
    # A symmetric quantizer takes its scale from the upper statistic alone. For extrema NNCF then looks at
    # absolute values by itself, for quantiles it does not, and would clip the negative side at the positive
    # quantile.
    upper = StatisticsType.ABS_QUANTILE if symmetric else StatisticsType.QUANTILE
    return RangeEstimatorParameters(
        min=StatisticsCollectorParameters(
            statistics_type=StatisticsType.QUANTILE,
            aggregator_type=AggregatorType.MEAN,
            quantile_outlier_prob=settings.min_percentile / 100,
        ),
        max=StatisticsCollectorParameters(
            statistics_type=upper,
            aggregator_type=AggregatorType.MEAN,
            quantile_outlier_prob=(100 - settings.max_percentile) / 100,
        ),
    )
