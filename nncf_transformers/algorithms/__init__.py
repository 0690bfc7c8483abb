"""Compression methods, one file each.

A new method is a file here, a dataclass in :mod:`nncf_transformers.config`, and a line in :func:`create`.
"""

from importlib import import_module
from typing import Any

from nncf_transformers.algorithms.base import Algorithm, Batch, Clock

__all__ = ["Algorithm", "Batch", "Clock", "create"]

# By the name in a configuration. Imported when used: some import NNCF, which takes seconds.
_CLASSES = {
    "movement_sparsity": "movement.MovementSparsity",
    "magnitude_sparsity": "magnitude.MagnitudeSparsity",
    "constant_sparsity": "constant.ConstantSparsity",
    "quantization": "quantization.Quantization",
    "distillation": "distillation.Distillation",
    "layer_dropping": "layer_dropping.LayerDropping",
    "set_parameter": "set_parameter.SetParameter",
    "trainable": "trainable.Trainable",
    "weight_decay": "weight_decay.WeightDecay",
    "learning_rate": "learning_rate.LearningRate",
}


def create(config: Any) -> Algorithm:
    """Make the method that ``config`` describes."""
    name = getattr(config, "algorithm", None)
    if name not in _CLASSES:
        raise TypeError(f"no compression method takes a {type(config).__name__}")
    module, _, kind = _CLASSES[name].partition(".")
    algorithm: Algorithm = getattr(import_module(f"{__name__}.{module}"), kind)(config)
    return algorithm
