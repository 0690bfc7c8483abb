"""Compression methods, one file each.

A new method is a file here, a dataclass in :mod:`nncf_transformers.config`, and a line in :func:`create`.
"""

from typing import Any

from nncf_transformers.algorithms.base import Algorithm, Batch
from nncf_transformers.algorithms.quantization import Quantization
from nncf_transformers.config import QuantizationConfig

__all__ = ["Algorithm", "Batch", "create"]


def create(config: Any) -> Algorithm:
    """Make the method that ``config`` describes."""
    if isinstance(config, QuantizationConfig):
        return Quantization(config)
    raise TypeError(f"no compression method takes a {type(config).__name__}")
