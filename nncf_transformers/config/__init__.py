"""Configuration files: our own JSON schema and the legacy NNCF schema, validated and translated.

``load_config`` reads a file, ``to_nncf_arguments`` and ``resolve_ignored_scopes`` turn its quantization
settings into the arguments of ``nncf.quantize``::

    config = load_config("nncf_configs/nncf_bert_config_squad.json")
    for line in config.warnings:
        logger.warning(line)
    scopes = resolve_ignored_scopes(config.quantization, model, example_input)
    quantized = nncf.quantize(
        model,
        dataset,
        ignored_scope=nncf.IgnoredScope(names=list(scopes.node_names)),
        **to_nncf_arguments(config.quantization),
    )

Importing this package loads neither torch nor NNCF.
"""

from nncf_transformers.config.errors import ConfigError
from nncf_transformers.config.load import load_config, parse_config
from nncf_transformers.config.model import (
    AlgorithmConfig,
    CompressionConfig,
    ConstantSparsityConfig,
    DistillationConfig,
    InputInfo,
    LayerDroppingConfig,
    LearningRateConfig,
    MagnitudeSparsityConfig,
    MovementSparsityConfig,
    QuantizationConfig,
    QuantizerSettings,
    RangeSettings,
    RatePiece,
    SetParameterConfig,
    SparsityConfig,
    TrainableConfig,
    WeightDecayConfig,
)
from nncf_transformers.config.nncf_arguments import to_nncf_arguments
from nncf_transformers.config.scopes import ResolvedScopes, resolve_ignored_scopes, resolve_scopes

__all__ = [
    "AlgorithmConfig",
    "CompressionConfig",
    "ConfigError",
    "ConstantSparsityConfig",
    "DistillationConfig",
    "InputInfo",
    "LayerDroppingConfig",
    "LearningRateConfig",
    "MagnitudeSparsityConfig",
    "MovementSparsityConfig",
    "QuantizationConfig",
    "QuantizerSettings",
    "RangeSettings",
    "RatePiece",
    "ResolvedScopes",
    "SetParameterConfig",
    "SparsityConfig",
    "TrainableConfig",
    "WeightDecayConfig",
    "load_config",
    "parse_config",
    "resolve_ignored_scopes",
    "resolve_scopes",
    "to_nncf_arguments",
]
