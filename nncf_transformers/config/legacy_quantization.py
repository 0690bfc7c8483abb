"""Translates the legacy ``quantization`` algorithm by meaning.

Every key of the old schema ends in one of three ways: it becomes a setting, it becomes a warning that says
what happens instead, or it is an error. ``nncf_configs/README.md`` has the table. Facts about the old schema:
inventory 2.2.
"""

import re

from nncf_transformers.config.errors import ConfigError
from nncf_transformers.config.legacy import LegacyFile, read_batchnorm_adaptation, take_legacy_scopes
from nncf_transformers.config.model import (
    MODES,
    OVERFLOW_FIXES,
    PRESETS,
    QuantizationConfig,
    QuantizerSettings,
    RangeSettings,
)
from nncf_transformers.config.quantization import take_bits, take_percentiles
from nncf_transformers.config.section import Section

GROUPS = ("weights", "activations")
RANGE_TYPES = ("mixed_min_max", "min_max", "mean_min_max", "threesigma", "percentile", "mean_percentile")
# The old defaults of the two percentiles are wider apart from the ends than ours.
LEGACY_PERCENTILES = RangeSettings(min_percentile=0.1, max_percentile=99.9)
DEFAULT_INIT_SAMPLES = 256
# ``num_init_steps`` counted training batches, whose size the file does not know. The published command lines
# train with batches of 6 to 48; 32 is the size that most later configurations calibrate with.
SAMPLES_PER_INIT_STEP = 32

STAGED_TRAINING_KEYS = {
    "batch_multiplier": "use the script's gradient accumulation",
    "activations_quant_start_epoch": "quantizers act from the first step",
    "weights_quant_start_epoch": "quantizers act from the first step",
    "lr_poly_drop_start_epoch": "use the script's learning-rate schedule",
    "lr_poly_drop_duration_epochs": "use the script's learning-rate schedule",
    "disable_wd_start_epoch": "use the script's weight decay",
    "base_lr": "use the script's learning rate",
    "base_wd": "use the script's weight decay",
}


def read_legacy_quantization(section: Section, file: LegacyFile) -> QuantizationConfig:
    """Read one legacy ``{"algorithm": "quantization", …}`` object.

    Raises:
        ConfigError: an unknown key, a wrong type, a bad value, or a setting that would give another model
            than an INT8 one.
    """
    with section:
        section.take("algorithm")
        samples, ranges = _read_initializer(section)
        weights, weight_ignored = _read_group(section, "weights", ranges)
        activations, activation_ignored = _read_group(section, "activations", ranges)
        _read_scope_overrides(section)
        _read_staged_training(section)
        _read_keys_without_effect(section)
        own_multiplier = section.take_number("compression_lr_multiplier", low=0)
        multiplier = file.lr_multiplier if own_multiplier is None else own_multiplier
        return QuantizationConfig(
            place=section.place,
            # The old default was "performance", which NNCF 3 no longer assumes for transformers.
            preset=section.take_choice("preset", PRESETS) or "performance",
            weights=weights,
            activations=activations,
            calibration_samples=samples,
            **take_legacy_scopes(section),
            weight_ignored_scopes=weight_ignored,
            activation_ignored_scopes=activation_ignored,
            legacy_scopes=True,
            target_device=file.target_device,
            overflow_fix=_read_overflow_fix(section),
            quantizer_lr_multiplier=1.0 if multiplier is None else multiplier,
        )


def _read_group(
    section: Section, group: str, ranges: dict[str, RangeSettings]
) -> tuple[QuantizerSettings, tuple[str, ...]]:
    """Settings of one kind of quantizers, and the scopes that they leave out."""
    own = section.take_section(group)
    if own is None:
        return QuantizerSettings(range=ranges[group]), ()
    with own:
        mode = own.take_choice("mode", MODES)
        signed = own.take_bool("signed")
        per_channel = own.take_bool("per_channel")
        # Weights have both signs, so that both values describe what NNCF 3 does: true forces a sign bit,
        # false asked for one only where needed.
        if signed and group == "activations":
            own.warn("signed", "cannot be forced in NNCF 3; the sign follows from the calibration data")
        if per_channel and group == "activations":
            own.warn("per_channel", "has no effect; NNCF 3 quantizes activations of transformers per tensor")
        if own.take_bool("logarithm_scale"):
            own.warn("logarithm_scale", "has no effect; NNCF 3 trains the scale itself, not its logarithm")
        if group == "activations" and own.take("unified_scale_ops") is not None:
            own.warn("unified_scale_ops", "has no effect; NNCF 3 decides by itself which scales are shared")
        if own.take_strings("target_scopes"):
            own.warn("target_scopes", "has no effect; NNCF 3 selects operations, not one side of them")
        settings = QuantizerSettings(
            mode=mode,
            bits=take_bits(own),
            per_channel=per_channel if group == "weights" else None,
            range=ranges[group],
        )
        return settings, own.take_strings("ignored_scopes")


def _read_initializer(section: Section) -> tuple[int, dict[str, RangeSettings]]:
    """Number of calibration samples, and range settings of both groups."""
    initializer = section.take_section("initializer")
    if initializer is None:
        return DEFAULT_INIT_SAMPLES, dict.fromkeys(GROUPS, RangeSettings())
    with initializer:
        if initializer.take("precision") is not None:
            raise initializer.error(
                "precision", "mixed precision is gone from NNCF 3, everything here is INT8; remove the key"
            )
        read_batchnorm_adaptation(initializer)
        per_scope = isinstance(initializer.take("range"), list)
        ranges: dict[str, RangeSettings] = {}
        samples = [_read_range(entry, per_scope, ranges) for entry in initializer.take_sections("range")]
    if len(set(samples)) > 1:
        initializer.warn("range", f"calibrates once, with the largest num_init_samples: {max(samples)}")
    return max(samples, default=DEFAULT_INIT_SAMPLES), dict.fromkeys(GROUPS, RangeSettings()) | ranges


def _read_range(entry: Section, per_scope: bool, ranges: dict[str, RangeSettings]) -> int:
    """Read one range initializer into ``ranges``; return its number of samples."""
    with entry:
        samples = _read_samples(entry)
        settings = _read_range_type(entry)
        group = entry.take_choice("target_quantizer_group", GROUPS) if per_scope else None
        scoped = [key for key in ("target_scopes", "ignored_scopes") if per_scope and entry.take_strings(key)]
        if scoped:
            entry.warn(scoped[0], "has no effect; NNCF 3 has one range type for each kind of quantizer")
    groups = GROUPS if group is None else (group,)
    if replaced := [name for name in groups if ranges.get(name, settings) != settings]:
        entry.warnings.append(f"{entry.place}: replaces the range type given before for {' and '.join(replaced)}")
    ranges.update(dict.fromkeys(groups, settings))
    return samples


def _read_samples(entry: Section) -> int:
    samples = entry.take_int("num_init_samples")
    steps = entry.take_int("num_init_steps")
    if samples is not None and steps is not None:
        raise entry.error("num_init_steps", "is the older spelling of num_init_samples; keep one of the two")
    if steps is not None:
        samples = steps * SAMPLES_PER_INIT_STEP
        entry.warn(
            "num_init_steps",
            f"counted batches; read as {SAMPLES_PER_INIT_STEP} samples each, {samples} in all; "
            f"write num_init_samples to choose",
        )
    return DEFAULT_INIT_SAMPLES if samples is None else samples


def _read_range_type(entry: Section) -> RangeSettings:
    """Translate the type of range; percentiles may stand in ``params`` or, older, beside the type."""
    kind = entry.take_choice("type", RANGE_TYPES)
    params = entry.take_section("params")
    older = [key for key in ("min_percentile", "max_percentile") if key in entry]
    if params is not None and older and params.keys():
        raise entry.error(older[0], 'is the older place of "params"; keep one of the two')
    low, high = take_percentiles(entry, LEGACY_PERCENTILES)
    if params is not None:
        with params:
            if not older:
                low, high = take_percentiles(params, LEGACY_PERCENTILES)
    has_percentiles = bool(older) or (params is not None and bool(params.keys()))
    if has_percentiles and kind not in ("percentile", "mean_percentile"):
        key = older[0] if older else "params"
        entry.warn(key, f'has no effect; the range type "{kind or "mixed_min_max"}" uses no percentiles')
    return _translate_range_type(kind, low, high, entry)


def _translate_range_type(kind: str | None, low: float, high: float, entry: Section) -> RangeSettings:
    if kind in (None, "mixed_min_max"):
        return RangeSettings()  # What NNCF 3 does unasked: extrema for weights, averaged extrema for activations.
    if kind == "threesigma":
        entry.warn("type", "threesigma has no equivalent; NNCF 3's default range estimator is used")
        return RangeSettings()
    if kind == "percentile":
        entry.warn(
            "type",
            "percentile is approximated: percentiles are averaged over samples, not taken over all",
        )
    if kind in ("percentile", "mean_percentile"):
        return RangeSettings("mean_percentile", low, high)
    return RangeSettings(kind)


def _read_overflow_fix(section: Section) -> str | None:
    fix = section.take_choice("overflow_fix", OVERFLOW_FIXES)
    disabled = section.take_bool("disable_saturation_fix")
    if fix is not None and disabled is not None:
        raise section.error("disable_saturation_fix", 'is the older spelling of "overflow_fix"; keep one of the two')
    if disabled is not None:
        return "disable" if disabled else "enable"
    if fix is None:
        section.warn(
            "overflow_fix",
            "absent: NNCF 2 then used half-range weights (enable), NNCF 1 and this version do not; "
            'write "enable" for CPUs without VNNI, "disable" to confirm',
        )
    return fix


def _read_scope_overrides(section: Section) -> None:
    """NNCF 3 has no settings for single operations; accept what it does anyway, warn about the rest."""
    overrides = section.take_section("scope_overrides")
    if overrides is None:
        return
    grouped = not overrides.keys() or set(overrides.keys()) & set(GROUPS)
    if not grouped:  # Older: scopes directly, for weights and activations alike.
        _check_overrides(overrides, "activations")
        return
    with overrides:
        for group in GROUPS:
            own = overrides.take_section(group)
            if own is not None:
                _check_overrides(own, group)


def _check_overrides(overrides: Section, group: str) -> None:
    for scope, settings in overrides.items():
        with settings:
            mode = settings.take_choice("mode", MODES)
            bits = take_bits(settings) if "bits" in settings else None
            others = [key for key in ("signed", "per_channel", "initializer") if settings.take(key) is not None]
        if group == "activations" and mode == "symmetric" and not others and _is_attention_product(scope, overrides):
            continue
        asked = [f"mode {mode}"] * bool(mode) + [f"bits {bits}"] * bool(bits) + others
        overrides.warn(
            scope,
            f"has no effect ({', '.join(asked) or 'empty'}); NNCF 3 has no settings for single operations",
        )


def _is_attention_product(scope: str, overrides: Section) -> bool:
    """Whether a scope names query × key and nothing else: NNCF 3 always quantizes those symmetrically."""
    product = (
        "BertSelfAttention[self]/matmul_0",
        "BertSdpaSelfAttention[self]/scaled_dot_product_attention_0",
    )
    others = (
        "BertSelfAttention[self]/matmul_1",
        "BertSelfAttention[self]/__add___0",
        "BertSelfAttention[self]/NNCFLinear[query]/linear_0",
        "BertEmbeddings[embeddings]/NNCFEmbedding[word_embeddings]/embedding_0",
        "BertIntermediate[intermediate]/NNCFLinear[dense]/linear_0",
        "BertOutput[output]/LayerNorm[LayerNorm]/layer_norm_0",
    )
    if not scope.startswith("{re}"):
        return scope.endswith(("/matmul_0", "/scaled_dot_product_attention_0"))
    try:
        pattern = re.compile(scope.removeprefix("{re}"))
    except re.error as error:
        raise ConfigError(f'{overrides.place}: "{scope}" is not a regular expression ({error})') from None
    return any(map(pattern.search, product)) and not any(map(pattern.search, others))


def _read_staged_training(section: Section) -> None:
    params = section.take_section("params")
    if params is None:
        return
    with params:
        for key, instead in STAGED_TRAINING_KEYS.items():
            if params.take_number(key, low=0) is not None:
                params.warn(key, f"has no effect; {instead}")


def _read_keys_without_effect(section: Section) -> None:
    if section.take_bool("quantize_inputs") is False:
        section.warn("quantize_inputs", "has no effect; the inputs are token ids, which are never quantized")
    if section.take_bool("quantize_outputs"):
        section.warn(
            "quantize_outputs",
            "has no effect; NNCF 3 leaves the outputs of these models unquantized",
        )
    if section.take_bool("export_to_onnx_standard_ops") is False:
        section.warn(
            "export_to_onnx_standard_ops",
            "has no effect; --to-onnx always writes QuantizeLinear/DequantizeLinear",
        )
    if section.take("quantizable_subgraph_patterns") is not None:
        section.warn("quantizable_subgraph_patterns", "has no effect; NNCF 3 has its own fusing patterns")
    if section.take("accuracy_aware_training") is not None:
        raise section.error(
            "accuracy_aware_training", "not supported by this version; remove it and train with the script"
        )
