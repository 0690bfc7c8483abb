"""From a recipe to the settings of our algorithms (inventory 5.4 to 5.7)."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from nncf_transformers.config.errors import ConfigError
from nncf_transformers.config.model import (
    LEFT_OUT,
    AlgorithmConfig,
    CompressionConfig,
    ConstantSparsityConfig,
    DistillationConfig,
    LayerDroppingConfig,
    LearningRateConfig,
    MagnitudeSparsityConfig,
    QuantizationConfig,
    RatePiece,
    SetParameterConfig,
    TrainableConfig,
    WeightDecayConfig,
)
from nncf_transformers.recipe.modifiers import UNSUPPORTED
from nncf_transformers.recipe.recipe import Recipe, parse_recipe

# The order in which algorithms act: layers go before anything else looks at the model, and masks come before the
# quantizers, which calibrate on the weights that stay.
_ORDER = (
    LayerDroppingConfig,
    SetParameterConfig,
    TrainableConfig,
    MagnitudeSparsityConfig,
    ConstantSparsityConfig,
    QuantizationConfig,
    DistillationConfig,
    WeightDecayConfig,
    LearningRateConfig,
)
_TORCH_RATES = {
    "StepLR": "step",
    "MultiStepLR": "multistep",
    "ExponentialLR": "exponential",
    "CosineAnnealingWarmRestarts": "cosine_restarts",
}
# SparseML's names for arguments of torch's.
_TORCH_NAMES = {"lr_min": "eta_min", "cycle_epochs": "T_0"}
# The modifiers that leave something behind which a further training must not undo.
_LASTING = (
    "GMPruningModifier",
    "MagnitudePruningModifier",
    "GlobalMagnitudePruningModifier",
    "MovementPruningModifier",
    "ConstantPruningModifier",
    "QuantizationModifier",
)
# What every teacher is given, as far as it takes it.
_TEACHER_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}


def recipe_config(recipe: Recipe | None, previous: Recipe | None = None) -> CompressionConfig:
    """Make the settings of a training.

    Args:
        recipe: what the training is to do; None for nothing but what the model came with.
        previous: the recipe that the model came with; what it did lastingly goes on.

    Raises:
        ConfigError: a setting that this runtime cannot serve, with its place.
    """
    warnings: list[str] = []
    algorithms: list[AlgorithmConfig] = []
    raw: dict[str, Any] = {}
    if recipe is not None:
        raw["recipe"] = recipe.to_yaml()
        if recipe.unsupported:
            # Not its place, which is another one on another machine.
            names = [entry.split(" ", 1)[0] for entry in recipe.unsupported]
            raw[LEFT_OUT] = [f"{name}: {UNSUPPORTED[name]}" for name in names]
        warnings += [*recipe.warnings, *(f"left out: {name}" for name in recipe.unsupported)]
        algorithms += _algorithms(recipe, warnings)
    config = CompressionConfig(
        algorithms=_in_order(algorithms),
        source=(recipe or previous).source,  # type: ignore[union-attr]
        warnings=tuple(warnings),
        raw=raw,
        epochs=recipe.max_epochs if recipe is not None else None,
    )
    return config if previous is None else with_previous(config, previous)


def with_previous(config: CompressionConfig, previous: Recipe) -> CompressionConfig:
    """Let what a model's own recipe did lastingly go on under ``config``, which comes from a recipe or has nothing."""
    new_quantizers = config.quantization is not None
    kept = [item for item in lasting(previous) if not (new_quantizers and isinstance(item, QuantizationConfig))]
    return replace(
        config,
        algorithms=_in_order([*config.algorithms, *kept]),
        raw={**config.raw, "previous_recipe": previous.to_yaml()},
    )


def _in_order(algorithms: list[AlgorithmConfig]) -> tuple[AlgorithmConfig, ...]:
    # Of two prunings of the same weights, the later one goes on with the masks of the first.
    return tuple(sorted(algorithms, key=lambda item: (_ORDER.index(type(item)), _first_epoch(item))))


def _first_epoch(item: AlgorithmConfig) -> float:
    return item.start_epoch if isinstance(item, MagnitudeSparsityConfig) else 0.0


def read_raw(raw: Mapping[str, Any], source: str) -> CompressionConfig:
    """Make the settings again from the ``raw`` of an earlier :func:`recipe_config`."""
    recipe, previous = (
        parse_recipe(raw[key], source) if raw.get(key) else None for key in ("recipe", "previous_recipe")
    )
    config = recipe_config(recipe, previous)
    return replace(config, raw={**config.raw, LEFT_OUT: raw[LEFT_OUT]}) if LEFT_OUT in raw else config


def lasting(recipe: Recipe) -> list[AlgorithmConfig]:
    """What a recipe whose training is over leaves behind: zeros that stay, and quantizers."""
    algorithms = _algorithms(recipe, [], only=_LASTING)
    parameters: dict[str, None] = {}
    for item in algorithms:
        stays = isinstance(item, MagnitudeSparsityConfig) and item.leave_enabled
        if stays or (isinstance(item, ConstantSparsityConfig) and item.end_epoch is None):
            parameters |= dict.fromkeys(item.parameters)  # type: ignore[attr-defined]
    found: list[AlgorithmConfig] = []
    if parameters:
        found.append(ConstantSparsityConfig(place=recipe.source, parameters=tuple(parameters), inherited=True))
    quantization = [item for item in algorithms if isinstance(item, QuantizationConfig)][-1:]
    return found + [replace(item, start_epoch=0.0, freeze_epoch=None) for item in quantization]


def dropped_layers(recipe: Recipe) -> LayerDroppingConfig | None:
    """The layers that a recipe whose training is over has removed; None for none."""
    items = _algorithms(recipe, [], only=("LayerPruningModifier",))
    found = [item for item in items if isinstance(item, LayerDroppingConfig) and item.end_epoch is None]
    if not found:
        return None
    # At once: a stage may name layers that an earlier one has removed.
    layers = dict.fromkeys(name for item in found for name in item.layers)
    return replace(found[0], layers=tuple(layers), start_epoch=0.0)


def _algorithms(recipe: Recipe, warnings: list[str], only: Collection[str] = ()) -> list[AlgorithmConfig]:
    """What the modifiers mean.

    Args:
        recipe: the modifiers' one.
        warnings: gets a line for each field that has no effect.
        only: the types to look at; empty for all. What is over, and left nothing behind, may be what we do not run.
    """
    algorithms: list[AlgorithmConfig] = []
    pieces: list[RatePiece] = []
    for modifier in recipe.modifiers:
        if only and modifier.type not in only:
            continue
        if modifier.type in _RATES:
            _refuse(modifier, "param_groups", "learning rates are set for the whole model")
            pieces.append(_RATES[modifier.type](modifier))
        elif modifier.type in _READERS:
            algorithms += _READERS[modifier.type](modifier, warnings)
    if pieces:
        algorithms.append(LearningRateConfig(place=recipe.source, pieces=tuple(pieces)))
    quantizations = [item for item in algorithms if isinstance(item, QuantizationConfig)]
    if len(quantizations) > 1:
        # Of several stages. A model has one set of quantizers.
        first, last = min(quantizations, key=lambda item: item.start_epoch), quantizations[-1]
        algorithms = [item for item in algorithms if not isinstance(item, QuantizationConfig)]
        algorithms.append(replace(last, start_epoch=first.start_epoch))
        warnings.append(f"{last.place}: quantization begins where {first.place} says, with the settings of the last")
    return algorithms


def _start(modifier: Any) -> float:
    """-1 is the beginning."""
    return max(0.0, float(modifier.start_epoch))


def _end(modifier: Any) -> float | None:
    """-1 is never."""
    return None if modifier.end_epoch < 0 else float(modifier.end_epoch)


def _interval(modifier: Any) -> dict[str, Any]:
    """Where a modifier stands, and between which epochs it acts."""
    return {"place": modifier.place, "start_epoch": _start(modifier), "end_epoch": _end(modifier)}


def _refuse(modifier: Any, field: str, reason: str, *harmless: Any) -> None:
    """Refuse a field that has another value than None or ``harmless``."""
    value = getattr(modifier, field, None)
    if value is not None and value not in harmless:
        raise ConfigError(f"{modifier.place}.{field}: is {value!r}, but {reason}; leave it out")


def _function_rate(modifier: Any) -> RatePiece:
    return RatePiece(
        _start(modifier),
        _end(modifier),
        modifier.lr_func,
        float(modifier.init_lr),
        float(modifier.final_lr),
        cycle_epochs=float(modifier.cycle_epochs),
    )


def _torch_rate(modifier: Any) -> RatePiece:
    form = _TORCH_RATES[modifier.lr_class]
    settings = {_TORCH_NAMES.get(name, name): value for name, value in modifier.lr_kwargs.items()}
    return RatePiece(_start(modifier), _end(modifier), form, float(modifier.init_lr), settings=settings)


_RATES: dict[str, Callable[[Any], RatePiece]] = {
    "SetLearningRateModifier": lambda m: RatePiece(_start(m), None, "constant", float(m.learning_rate)),
    "LearningRateFunctionModifier": _function_rate,
    "LearningRateModifier": _torch_rate,
}


def _weight_decay(modifier: Any, warnings: list[str]) -> list[AlgorithmConfig]:
    _refuse(modifier, "param_groups", "the weight decay is set for the whole model")
    return [WeightDecayConfig(place=modifier.place, value=float(modifier.weight_decay), start_epoch=_start(modifier))]


def _trainable(modifier: Any, warnings: list[str]) -> list[AlgorithmConfig]:
    return [
        TrainableConfig(
            parameters=tuple(modifier.params),
            trainable=modifier.trainable,
            strict=modifier.params_strict,
            **_interval(modifier),
        )
    ]


def _set_parameter(modifier: Any, warnings: list[str]) -> list[AlgorithmConfig]:
    gradual = modifier.type == "GradualParamModifier"
    return [
        SetParameterConfig(
            place=modifier.place,
            parameters=tuple(modifier.params),
            init_value=float(modifier.init_val if gradual else modifier.val),
            final_value=float(modifier.final_val if gradual else modifier.val),
            start_epoch=_start(modifier),
            end_epoch=_end(modifier) if gradual else None,
            form=modifier.inter_func if gradual else "linear",
            strict=modifier.params_strict,
            update_frequency=modifier.update_frequency if gradual and modifier.update_frequency > 0 else None,
        )
    ]


def _pruning(modifier: Any, warnings: list[str]) -> list[AlgorithmConfig]:
    """One algorithm for each final sparsity."""
    together = modifier.type == "GlobalMagnitudePruningModifier" or getattr(modifier, "global_sparsity", False)
    structure = _structure(modifier.mask_type)
    settings = {
        "place": modifier.place,
        "schedule": modifier.inter_func,
        "initial_sparsity": None if isinstance(modifier.init_sparsity, str) else float(modifier.init_sparsity),
        "start_epoch": _start(modifier),
        "end_epoch": float(modifier.end_epoch),
        "update_frequency": None if modifier.update_frequency < 0 else float(modifier.update_frequency),
        "importance": "movement" if modifier.type == "MovementPruningModifier" else "abs",
        "ranking": "global" if together else "local",
        "structure": structure,
        "regrow": False,
        "leave_enabled": modifier.leave_enabled,
    }
    found: list[AlgorithmConfig] = []
    for sparsity, params in modifier.targets().items():
        kept, colon, group = structure.partition(":")
        if colon and abs(1 - int(kept) / int(group) - float(sparsity)) > 1e-6:
            raise ConfigError(
                f"{modifier.place}.final_sparsity: is {sparsity}, but mask_type {structure} leaves "
                f"{int(kept) / int(group):g} of the weights; write {1 - int(kept) / int(group):g}"
            )
        found.append(MagnitudeSparsityConfig(final_sparsity=float(sparsity), parameters=tuple(params), **settings))
    return found


def _structure(mask_type: Any) -> str:
    """A mask type in the words of :class:`MagnitudeSparsityConfig`."""
    if not isinstance(mask_type, str):
        rows, columns = mask_type
        return f"{rows}x{columns}"
    return {"block4": "1x4", "tensorrt": "2:4"}.get(mask_type, mask_type)


def _constant(modifier: Any, warnings: list[str]) -> list[AlgorithmConfig]:
    return [
        ConstantSparsityConfig(parameters=tuple(modifier.params), **_interval(modifier)),
    ]


def _layer_dropping(modifier: Any, warnings: list[str]) -> list[AlgorithmConfig]:
    return [
        LayerDroppingConfig(layers=tuple(modifier.layers), **_interval(modifier)),
    ]


def _distillation(modifier: Any, warnings: list[str]) -> list[AlgorithmConfig]:
    if modifier.teacher_input_keys is not None and not set(modifier.teacher_input_keys) >= _TEACHER_INPUTS:
        warnings.append(f"{modifier.place}.teacher_input_keys: the teacher gets all inputs that it takes")
    return [
        DistillationConfig(
            weight=float(modifier.hardness),
            temperature=float(modifier.temperature),
            outputs=tuple(modifier.distill_output_keys or ()),
            **_interval(modifier),
        )
    ]


def _quantization(modifier: Any, warnings: list[str]) -> list[AlgorithmConfig]:
    """Both forms of the modifier."""
    for field in ("model_fuse_fn_name", "model_fuse_fn_kwargs"):
        # There is nothing to fuse in a transformer.
        if getattr(modifier, field, None) not in (None, {}, "no_fuse"):
            warnings.append(f"{modifier.place}.{field}: has no effect, nothing in these models is fused")
    settings: dict[str, Any] = {"preset": "mixed", "overflow_fix": "disable"}
    # What says nothing that only the old form can say is the new one; their defaults mean the same.
    settings |= _from_scheme(modifier, warnings) if modifier.is_new_form else _from_legacy(modifier, warnings)
    if modifier.num_calibration_steps is not None:
        settings["calibration_samples"] = int(modifier.num_calibration_steps)
        # SparseML counts batches, and a recipe does not know how large they are.
        warnings.append(
            f"{modifier.place}.num_calibration_steps: is taken as {modifier.num_calibration_steps} samples, not "
            "batches; write the steps times the batch size"
        )
    freeze = modifier.disable_quantization_observer_epoch
    return [
        QuantizationConfig(
            place=modifier.place,
            start_epoch=_start(modifier),
            freeze_epoch=None if freeze is None or freeze < 0 else float(freeze),
            **settings,
        )
    ]


def _from_legacy(modifier: Any, warnings: list[str]) -> dict[str, Any]:
    for field in ("activation_bits", "weight_bits"):
        _refuse(modifier, field, "the runtimes compute in 8 bits", 8)
    for field in ("activation_qconfig_kwargs", "weight_qconfig_kwargs"):
        if getattr(modifier, field):
            warnings.append(f"{modifier.place}.{field}: has no effect, observers are NNCF's")
    for field in ("quantize_linear_activations", "quantize_conv_activations", "quantize_embedding_activations"):
        if not getattr(modifier, field):
            warnings.append(
                f"{modifier.place}.{field}: has no effect, outputs are quantized where another layer takes them as INT8"
            )
    if modifier.custom_quantizable_module_types:
        warnings.append(
            f"{modifier.place}.custom_quantizable_module_types: has no effect, NNCF quantizes by operation, whatever "
            "the class of the module"
        )
    ignored = list(modifier.exclude_module_types or ())
    if not modifier.quantize_embeddings:
        ignored.append("Embedding")
    settings: dict[str, Any] = {
        "target_scopes": tuple(modifier.submodules or ()),
        "ignored_types": tuple(dict.fromkeys(ignored)),
    }
    if modifier.tensorrt:
        settings["preset"] = "performance"
    if modifier.reduce_range:
        settings["overflow_fix"] = "enable"
        warnings.append(f"{modifier.place}.reduce_range: halves the range of the weights, that of activations stays")
    return settings


def _from_scheme(modifier: Any, warnings: list[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    names = [str(name) for name in modifier.ignore or ()]
    for name, scheme in (modifier.scheme_overrides or {}).items():
        # Both mean the modifier's own scheme.
        if scheme not in (None, "default", modifier.scheme):
            raise ConfigError(
                f"{modifier.place}.scheme_overrides.{name}: parts of a model cannot have a scheme of their own; leave "
                "it out, or name the part in ignore"
            )
    # A class of modules is written as classes are; a module by its path in the model.
    settings["ignored_types"] = tuple(name for name in names if name[:1].isupper())
    settings["ignored_scopes"] = tuple(
        f"{{re}}{name.removeprefix('re:')}" if name.startswith("re:") else name
        for name in names
        if not name[:1].isupper()
    )
    if not modifier.strict and settings["ignored_scopes"]:
        warnings.append(
            f"{modifier.place}.strict: has no effect, a path in ignore that matches nothing is an error; remove it"
        )
    scheme = modifier.scheme
    if scheme == "tensorrt":
        settings["preset"] = "performance"
    if isinstance(scheme, Mapping):
        settings |= _from_arguments(modifier, scheme, warnings)
    return settings


def _from_arguments(modifier: Any, scheme: Mapping[str, Any], warnings: list[str]) -> dict[str, Any]:
    """A scheme given in full: 8 bits, weights symmetric, activations as they are."""
    place = f"{modifier.place}.scheme"
    for name in ("input_activations", "weights"):
        bits = (scheme.get(name) or {}).get("num_bits", 8)
        if scheme.get(name) is None or bits != 8:
            raise ConfigError(f"{place}.{name}: weights and inputs are computed in 8 bits; write num_bits: 8")
        if scheme[name].get("kwargs"):
            warnings.append(f"{place}.{name}.kwargs: has no effect, observers are NNCF's")
    if not scheme["weights"].get("symmetric", True):
        warnings.append(f"{place}.weights.symmetric: weights are symmetric all the same, which the INT8 kernels want")
    if scheme.get("output_activations") is not None:
        warnings.append(f"{place}.output_activations: outputs are quantized where another layer takes them as INT8")
    symmetric = scheme["input_activations"].get("symmetric", False)
    return {"preset": "performance" if symmetric else "mixed"}


_READERS: dict[str, Callable[[Any, list[str]], list[AlgorithmConfig]]] = {
    "SetWeightDecayModifier": _weight_decay,
    "TrainableParamsModifier": _trainable,
    "SetParamModifier": _set_parameter,
    "GradualParamModifier": _set_parameter,
    "GMPruningModifier": _pruning,
    "MagnitudePruningModifier": _pruning,
    "GlobalMagnitudePruningModifier": _pruning,
    "MovementPruningModifier": _pruning,
    "ConstantPruningModifier": _constant,
    "LayerPruningModifier": _layer_dropping,
    "DistillationModifier": _distillation,
    "QuantizationModifier": _quantization,
}
