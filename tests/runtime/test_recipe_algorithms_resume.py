"""Every method that a recipe has goes on from a checkpoint as if there had been no break, bit for bit."""

from pathlib import Path

import pytest
import torch
from recipe_loop import Loop, same, settings

from nncf_transformers.algorithms.masks import masks
from nncf_transformers.algorithms.quantization import quantizers
from nncf_transformers.config import (
    AlgorithmConfig,
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

QUERIES = (r"re:.*query\.weight",)
LAYER = "bert.encoder.layer.0"


def pruning(**changes: object) -> MagnitudeSparsityConfig:
    arguments = {"parameters": QUERIES, "final_sparsity": 0.6, "start_epoch": 0.5, "end_epoch": 2.5, "regrow": False}
    return MagnitudeSparsityConfig(place="pruning", **{**arguments, **changes})  # type: ignore[arg-type]


def quantization(**changes: object) -> QuantizationConfig:
    arguments = {"preset": "mixed", "calibration_samples": 6, "start_epoch": 2.0, **changes}
    return QuantizationConfig(place="quantization", **arguments)  # type: ignore[arg-type]


CASES: dict[str, tuple[tuple[AlgorithmConfig, ...], int]] = {
    "before late quantization": ((pruning(), quantization()), 6),
    "after late quantization": ((pruning(), quantization()), 11),
    "frozen ranges": ((quantization(freeze_epoch=2.5),), 13),
    "before ranges freeze": ((quantization(freeze_epoch=3.0),), 9),
    "movement": ((pruning(importance="movement"),), 7),
    "movement, before its start": ((pruning(importance="movement", start_epoch=1.5),), 3),
    "blocks": ((pruning(structure="1x4", ranking="global"),), 7),
    "masks before they are taken off": ((pruning(leave_enabled=False),), 7),
    "masks after they are taken off": ((pruning(leave_enabled=False),), 13),
    # Which have more zeros at the break than when the pruning began.
    "sparsity of the tensors": (
        (
            SetParameterConfig(parameters=(f"{LAYER}.attention.self.query.weight",), start_epoch=1.25),
            pruning(initial_sparsity=None, start_epoch=0.0),
        ),
        7,
    ),
    "before constant sparsity": ((ConstantSparsityConfig(parameters=QUERIES, start_epoch=1.0, end_epoch=3.0),), 2),
    "in constant sparsity": ((ConstantSparsityConfig(parameters=QUERIES, start_epoch=1.0, end_epoch=3.0),), 6),
    "after constant sparsity": ((ConstantSparsityConfig(parameters=QUERIES, start_epoch=1.0, end_epoch=3.0),), 13),
    "layer dropped": ((LayerDroppingConfig(layers=(LAYER,)), pruning()), 7),
    "layer left out": ((LayerDroppingConfig(layers=(LAYER,), start_epoch=1.0), pruning()), 7),
    "before a layer is left out": ((LayerDroppingConfig(layers=(LAYER,), start_epoch=2.0, end_epoch=3.0),), 5),
    "layer back again": ((LayerDroppingConfig(layers=(LAYER,), start_epoch=1.0, end_epoch=2.0),), 10),
    "before a freeze": ((TrainableConfig(parameters=QUERIES, trainable=False, start_epoch=2.0, end_epoch=3.0),), 5),
    "frozen": ((TrainableConfig(parameters=QUERIES, trainable=False, start_epoch=1.0, end_epoch=3.0),), 7),
    "frozen at first": ((TrainableConfig(parameters=QUERIES, trainable=False, end_epoch=2.0),), 5),
    "after a freeze": ((TrainableConfig(parameters=QUERIES, trainable=False, end_epoch=1.0),), 9),
    "parameter filled": ((SetParameterConfig(parameters=QUERIES, init_value=0.1, final_value=0.1),), 7),
    "parameter on its way": (
        (SetParameterConfig(parameters=QUERIES, init_value=0.1, final_value=0.2, start_epoch=1.0, end_epoch=3.0),),
        7,
    ),
    "teacher gone": ((DistillationConfig(teacher="self", start_epoch=1.0, end_epoch=2.0),), 9),
    "teacher present": ((DistillationConfig(teacher="self", start_epoch=1.0, end_epoch=3.0),), 7),
    "rates": (
        (
            LearningRateConfig(pieces=(RatePiece(0.0, 3.0, "linear", 1e-2, 1e-3),)),
            quantization(quantizer_lr_multiplier=3.0),
            WeightDecayConfig(value=0.3, start_epoch=1.0),
        ),
        7,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_training_goes_on_as_if_there_had_been_no_break(case: str, tmp_path: Path) -> None:
    algorithms, step = CASES[case]
    loop = start(settings(*algorithms), tmp_path)
    broken = start(settings(*algorithms), tmp_path).run(step).reloaded(tmp_path / "checkpoint")
    loop.run()
    broken.run()
    assert broken.losses == loop.losses
    assert same(broken.model, loop.model)
    assert [(n, m.mask.tolist()) for n, m in masks(broken.model)] == [
        (n, m.mask.tolist()) for n, m in masks(loop.model)
    ]
    loop.finish()
    broken.finish()
    assert same(broken.model, loop.model) and not any(masks(loop.model))
    if not any(isinstance(item, QuantizationConfig) for item in algorithms):
        assert not any(quantizers(loop.model))
        plain = type(loop.model).from_pretrained(save(loop, tmp_path / "final"))
        assert same(plain, loop.model)


def start(config: object, folder: Path) -> Loop:
    """A training of a model that has zeros, and is saved somewhere, where its teacher comes from."""
    from tiny import tiny_model

    model = tiny_model()
    with torch.no_grad():
        weight = model.get_parameter("bert.encoder.layer.0.attention.self.query.weight")
        weight[torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 0.25] = 0.0
    model.save_pretrained(folder / "base")
    model = type(model).from_pretrained(folder / "base")
    return Loop(config, model)  # type: ignore[arg-type]


def save(loop: Loop, folder: Path) -> Path:
    loop.model.save_pretrained(folder)
    return folder
