"""Which algorithms a configuration can name.

A new algorithm is one dataclass, one reader for our schema, one for the legacy schema, and one entry here
(and in ``nncf_configs/schema.json``). Readers note what the user should know as warnings of their section.
"""

from collections.abc import Callable
from dataclasses import dataclass

from nncf_transformers.config.distillation import read_distillation, read_legacy_distillation
from nncf_transformers.config.legacy import LegacyFile
from nncf_transformers.config.legacy_quantization import read_legacy_quantization
from nncf_transformers.config.magnitude import (
    read_constant,
    read_legacy_constant,
    read_legacy_magnitude,
    read_magnitude,
)
from nncf_transformers.config.model import AlgorithmConfig
from nncf_transformers.config.movement import read_legacy_movement, read_movement
from nncf_transformers.config.quantization import read_quantization
from nncf_transformers.config.section import Section


@dataclass(frozen=True)
class AlgorithmReader:
    """How one algorithm is read.

    Attributes:
        read: From our own schema.
        read_legacy: From the schema of NNCF 1 and 2, whose top level is the :class:`LegacyFile`.
    """

    read: Callable[[Section], AlgorithmConfig]
    read_legacy: Callable[[Section, LegacyFile], AlgorithmConfig]


# In the order in which they are applied, whatever their order in a file: masks first, so that quantizers calibrate on
# the weights that stay, and the teacher last, which only adds to the loss.
ALGORITHMS: dict[str, AlgorithmReader] = {
    "movement_sparsity": AlgorithmReader(read_movement, read_legacy_movement),
    "magnitude_sparsity": AlgorithmReader(read_magnitude, read_legacy_magnitude),
    "constant_sparsity": AlgorithmReader(read_constant, read_legacy_constant),
    "quantization": AlgorithmReader(read_quantization, read_legacy_quantization),
    "distillation": AlgorithmReader(read_distillation, read_legacy_distillation),
}

# What the legacy schema calls some of them.
LEGACY_NAMES = {"constant_sparsity": "const_sparsity", "distillation": "knowledge_distillation"}
LEGACY_ALGORITHMS = {LEGACY_NAMES.get(name, name): reader for name, reader in ALGORITHMS.items()}

# Known names that we cannot serve, so that the error says more than "unknown".
REMOVED = (
    "rb_sparsity",
    "filter_pruning",
    "binarization",
    "experimental_quantization",
    "bootstrapNAS",
)
