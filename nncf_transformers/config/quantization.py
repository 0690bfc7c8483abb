"""The ``quantization`` algorithm in our own schema (``nncf_configs/schema.json``)."""

from nncf_transformers.config.model import (
    ACTIVATION_RANGE_TYPES,
    MODES,
    OVERFLOW_FIXES,
    PRESETS,
    TARGET_DEVICES,
    WEIGHT_RANGE_TYPES,
    QuantizationConfig,
    QuantizerSettings,
    RangeSettings,
)
from nncf_transformers.config.section import Section


def read_quantization(section: Section) -> QuantizationConfig:
    """Read one ``{"algorithm": "quantization", …}`` object.

    Raises:
        ConfigError: an unknown key, a wrong type or a bad value.
    """
    default = QuantizationConfig()
    with section:
        section.take("algorithm")
        samples = section.take_int("calibration_samples")
        learning_rate = section.take_number("quantizer_learning_rate", low=0)
        multiplier = section.take_number("quantizer_lr_multiplier", low=0)
        if learning_rate is not None and multiplier is not None:
            raise section.error(
                "quantizer_lr_multiplier", "given together with quantizer_learning_rate; keep one of them"
            )
        return QuantizationConfig(
            place=section.place,
            preset=section.take_choice("preset", PRESETS),
            weights=_read_quantizers(section.take_section("weights"), WEIGHT_RANGE_TYPES, of_weights=True),
            activations=_read_quantizers(section.take_section("activations"), ACTIVATION_RANGE_TYPES, of_weights=False),
            calibration_samples=default.calibration_samples if samples is None else samples,
            target_scopes=section.take_strings("target_scopes"),
            ignored_scopes=section.take_strings("ignored_scopes"),
            target_device=section.take_choice("target_device", TARGET_DEVICES) or default.target_device,
            overflow_fix=section.take_choice("overflow_fix", OVERFLOW_FIXES),
            smooth_quant=section.take_number("smooth_quant", low=0, high=1),
            bias_correction=bool(section.take_bool("bias_correction")),
            quantizer_learning_rate=learning_rate,
            quantizer_lr_multiplier=default.quantizer_lr_multiplier if multiplier is None else multiplier,
        )


def take_bits(section: Section) -> int:
    """Read ``bits`` and insist on 8: ONNX's QDQ form and OpenVINO's INT8 kernels know no other width."""
    bits = section.take_int("bits")
    if bits not in (None, 8):
        raise section.error("bits", f"is {bits}, only 8 can be exported as INT8; write 8 or leave the key out")
    return 8


def take_percentiles(section: Section, default: RangeSettings) -> tuple[float, float]:
    """Read ``min_percentile`` and ``max_percentile``, both in percent."""
    low = section.take_number("min_percentile", low=0, high=100)
    high = section.take_number("max_percentile", low=0, high=100)
    low = default.min_percentile if low is None else low
    high = default.max_percentile if high is None else high
    if low >= high:
        raise section.error("min_percentile", f"is {low:g}, must be smaller than max_percentile, {high:g}")
    return low, high


def _read_quantizers(section: Section | None, types: tuple[str, ...], of_weights: bool) -> QuantizerSettings:
    if section is None:
        return QuantizerSettings()
    with section:
        return QuantizerSettings(
            mode=section.take_choice("mode", MODES),
            bits=take_bits(section),
            per_channel=section.take_bool("per_channel") if of_weights else None,
            range=_read_range(section.take_section("range"), types),
        )


def _read_range(section: Section | None, types: tuple[str, ...]) -> RangeSettings:
    default = RangeSettings()
    if section is None:
        return default
    with section:
        kind = section.take_choice("type", types)
        if kind != "mean_percentile":
            section.refuse_idle(("min_percentile", "max_percentile"), 'unless "type" is "mean_percentile"')
        low, high = take_percentiles(section, default)
    return RangeSettings(type=kind, min_percentile=low, max_percentile=high)
