"""The modifiers of SparseML's recipes: one frozen dataclass each, with SparseML's names of classes and fields.

``read_modifier`` makes one of what stands in a recipe. Importing this package does not load torch.
"""

from collections.abc import Mapping
from typing import Any

from nncf_transformers.config.errors import ConfigError, nearest
from nncf_transformers.recipe.modifiers.base import Modifier, overlapping, plain
from nncf_transformers.recipe.modifiers.distillation import DistillationModifier
from nncf_transformers.recipe.modifiers.pruning import (
    ConstantPruningModifier,
    GlobalMagnitudePruningModifier,
    GMPruningModifier,
    LayerPruningModifier,
    MagnitudePruningModifier,
    MovementPruningModifier,
)
from nncf_transformers.recipe.modifiers.quantization import QuantizationModifier
from nncf_transformers.recipe.modifiers.training import (
    EpochRangeModifier,
    GradualParamModifier,
    LearningRateFunctionModifier,
    LearningRateModifier,
    SetLearningRateModifier,
    SetParamModifier,
    SetWeightDecayModifier,
    TrainableParamsModifier,
)

MODIFIERS: dict[str, type[Modifier]] = {
    cls.__name__: cls
    for cls in (
        EpochRangeModifier,
        LearningRateFunctionModifier,
        SetLearningRateModifier,
        LearningRateModifier,
        SetWeightDecayModifier,
        TrainableParamsModifier,
        SetParamModifier,
        GradualParamModifier,
        GMPruningModifier,
        MagnitudePruningModifier,
        GlobalMagnitudePruningModifier,
        MovementPruningModifier,
        ConstantPruningModifier,
        LayerPruningModifier,
        DistillationModifier,
        QuantizationModifier,
    )
}
LEARNING_RATES = (LearningRateFunctionModifier, SetLearningRateModifier, LearningRateModifier)
PRUNING = (
    GMPruningModifier,
    MagnitudePruningModifier,
    GlobalMagnitudePruningModifier,
    MovementPruningModifier,
)

_GRADUAL = "take MagnitudePruningModifier or MovementPruningModifier"
# SparseML's other modifiers: name -> why not, and what to take instead.
UNSUPPORTED: dict[str, str] = {
    "MFACPruningModifier": f"second-order pruning is not available; {_GRADUAL}",
    "MFACGlobalPruningModifier": "second-order pruning is not available; take GlobalMagnitudePruningModifier",
    "OBSPruningModifier": f"second-order pruning (oBERT) is not available; {_GRADUAL}, or start from a pruned model "
    "with ConstantPruningModifier",
    "OBCPruningModifier": f"second-order pruning is not available; {_GRADUAL}",
    "OBSXPruningModifier": f"second-order pruning is not available; {_GRADUAL}",
    "SPDYPruningModifier": "a search for sparsities is not available; write final_sparsity: {sparsity: [params]}",
    "AdaPruneModifier": f"pruning after training is not available; {_GRADUAL}",
    "SparseGPTModifier": f"pruning after training is not available; {_GRADUAL}",
    "ACDCPruningModifier": f"pruning in phases is not available; {_GRADUAL}",
    "StructuredPruningModifier": "whole rows are pruned by --nncf_config with structure head or channel; here take "
    "LayerPruningModifier, or mask_type: [rows, columns]",
    "LayerThinningModifier": "thinning is not available; take LayerPruningModifier",
    "RigLPruningModifier": f"sparse-to-sparse training is not available; {_GRADUAL}",
    "TopKASTPruningModifier": f"sparse-to-sparse training is not available; {_GRADUAL}",
    "PowerpropagationModifier": f"reparametrized weights are not available; {_GRADUAL}",
    "ASRegModifier": "regularized activations are not available; remove it",
    "LogarithmicQuantizationModifier": "logarithmic quantizers are not available; take QuantizationModifier",
    "PerLayerDistillationModifier": "learning from a teacher's layers is not available; take DistillationModifier",
    "SparsificationLoggingModifier": "there is nothing to switch on, the training logs sparsities; remove it",
}

__all__ = [
    "LEARNING_RATES",
    "MODIFIERS",
    "PRUNING",
    "UNSUPPORTED",
    "Modifier",
    "overlapping",
    "plain",
    "read_modifier",
    *MODIFIERS,
]


def read_modifier(name: str, values: Mapping[str, Any], place: str, warnings: list[str]) -> Modifier:
    """Make a modifier of its class name and its fields.

    Args:
        name: what stands behind the ``!``.
        values: the fields, with variables resolved.
        place: file and path.
        warnings: gets a line for each field that has no effect any more.

    Raises:
        ConfigError: the class is unknown or not available, or a field is unknown, missing or wrong.
    """
    if name in UNSUPPORTED:
        raise ConfigError(f"{place}: {name}: {UNSUPPORTED[name]}")
    if name not in MODIFIERS:
        hint = nearest(name, [*MODIFIERS, *UNSUPPORTED]) or f"; known: {', '.join(MODIFIERS)}"
        raise ConfigError(f'{place}: unknown modifier "{name}"{hint}')
    return MODIFIERS[name].read(values, place, warnings)
