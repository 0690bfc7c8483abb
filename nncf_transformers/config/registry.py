"""Which algorithms a configuration can name.

A new algorithm is one dataclass, one reader for our schema, one for the legacy schema, and one entry here
(and in ``nncf_configs/schema.json``).
"""

from collections.abc import Callable
from dataclasses import dataclass

from nncf_transformers.config.legacy import LegacyFile
from nncf_transformers.config.legacy_quantization import read_legacy_quantization
from nncf_transformers.config.model import AlgorithmConfig
from nncf_transformers.config.quantization import read_quantization
from nncf_transformers.config.section import Section


@dataclass(frozen=True)
class AlgorithmReader:
    """How one algorithm is read.

    Attributes:
        read: From our own schema.
        read_legacy: From the schema of NNCF 1 and 2; puts its warnings into the :class:`LegacyFile`.
    """

    read: Callable[[Section], AlgorithmConfig]
    read_legacy: Callable[[Section, LegacyFile], AlgorithmConfig]


ALGORITHMS: dict[str, AlgorithmReader] = {
    "quantization": AlgorithmReader(read_quantization, read_legacy_quantization),
}

# Known names that we cannot serve, so that the error says more than "unknown".
NOT_YET = ("movement_sparsity", "magnitude_sparsity", "knowledge_distillation")
REMOVED = (
    "rb_sparsity",
    "const_sparsity",
    "filter_pruning",
    "binarization",
    "experimental_quantization",
    "bootstrapNAS",
)
