"""What the tests of modifiers share."""

from typing import Any

P = ["re:.*dense.weight"]
PRUNING = {"init_sparsity": 0.0, "final_sparsity": 0.8, "start_epoch": 2, "end_epoch": 20, "update_frequency": 0.01}
# The least that each needs, and what SparseML takes for the rest.
MINIMAL: dict[str, dict[str, Any]] = {
    "EpochRangeModifier": {"start_epoch": 0, "end_epoch": 30},
    "LearningRateFunctionModifier": {
        "lr_func": "linear", "init_lr": 5e-5, "final_lr": 0, "start_epoch": 0, "end_epoch": 30,
    },
    "SetLearningRateModifier": {"learning_rate": 0.1},
    "LearningRateModifier": {
        "lr_class": "StepLR", "lr_kwargs": {"gamma": 0.1, "step_size": 2}, "init_lr": 0.1, "start_epoch": 0,
    },
    "SetWeightDecayModifier": {"weight_decay": 0.01},
    "TrainableParamsModifier": {"params": P},
    "SetParamModifier": {"params": P, "val": 0},
    "GradualParamModifier": {
        "params": P, "init_val": 0, "final_val": 1, "start_epoch": 0, "end_epoch": 3, "update_frequency": -1,
    },
    "GMPruningModifier": PRUNING | {"params": P},
    "MagnitudePruningModifier": PRUNING | {"params": P},
    "GlobalMagnitudePruningModifier": PRUNING | {"params": P},
    "MovementPruningModifier": PRUNING | {"params": P},
    "ConstantPruningModifier": {"params": P},
    "LayerPruningModifier": {"layers": ["bert.encoder.layer.1"]},
    "DistillationModifier": {},
    "QuantizationModifier": {},
}  # fmt: skip
