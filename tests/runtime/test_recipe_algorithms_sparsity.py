"""Sparsity as a recipe has it: masks that only grow, come off, follow the movement of weights, or start late."""

from typing import Any

import numpy as np
import pytest
import torch
from recipe_loop import EPOCH, TOTAL, Loop, settings
from tiny import tiny_batches, tiny_model
from torch import nn

from nncf_transformers.algorithms.base import Clock
from nncf_transformers.algorithms.constant import ConstantSparsity
from nncf_transformers.algorithms.magnitude import MagnitudeSparsity
from nncf_transformers.algorithms.masks import masks
from nncf_transformers.config import ConstantSparsityConfig, MagnitudeSparsityConfig
from nncf_transformers.errors import UsageError
from nncf_transformers.inputs import model_inputs

QUERIES = (r"re:.*query\.weight",)
QUERY = "bert.encoder.layer.0.attention.self.query.weight"
SIZE = 32 * 32


def pruning(**changes: Any) -> MagnitudeSparsityConfig:
    arguments = {"parameters": QUERIES, "final_sparsity": 0.6, "start_epoch": 0.5, "end_epoch": 2.5, "regrow": False}
    return MagnitudeSparsityConfig(place="r.yaml: p[0]", **{**arguments, **changes})


def attached(config: Any, model: nn.Module | None = None) -> tuple[nn.Module, Any]:
    model = model if model is not None else tiny_model()
    method = (ConstantSparsity if isinstance(config, ConstantSparsityConfig) else MagnitudeSparsity)(config)
    method.attach(model, [model_inputs(model, tiny_batches(model, count=1, rows=1)[0])])
    return model, method


def level(step: int, start: float = 0.5, end: float = 2.5, first: float = 0.0, last: float = 0.6) -> float:
    """Cubic, inventory 5.5."""
    progress = min(1.0, max(0.0, (step / EPOCH - start) / (end - start)))
    return first + (last - first) * (1 - (1 - progress) ** 3) if step / EPOCH >= start else 0.0


def masked(model: nn.Module, name: str = QUERY) -> np.ndarray:
    found: np.ndarray = (~dict(masks(model))[name].mask).numpy().copy()
    return found


@pytest.mark.parametrize("importance", ["abs", "movement"])
@pytest.mark.parametrize("ranking", ["local", "global"])
def test_masks_only_grow_and_have_exactly_as_many_zeros_as_asked(importance: str, ranking: str) -> None:
    loop = Loop(settings(pruning(importance=importance, ranking=ranking)))
    names = [name for name, _ in masks(loop.model)]
    assert names == [QUERY, QUERY.replace("layer.0", "layer.1")]
    before = {name: masked(loop.model, name) for name in names}
    for step in range(1, TOTAL + 1):
        loop.run(step)
        now = {name: masked(loop.model, name) for name in names}
        assert all((now[name] | ~before[name]).all() for name in names)
        if ranking == "local":
            assert [int(mask.sum()) for mask in now.values()] == [round(SIZE * level(step))] * 2
        assert sum(int(mask.sum()) for mask in now.values()) == round(2 * SIZE * level(step)) or ranking == "local"
        before = now
    assert loop.compression.statistics(loop.model)["compression/sparsity"] == pytest.approx(0.6, abs=1e-3)


def test_half_way_of_a_cubic_schedule() -> None:
    """Inventory 10, check 12."""
    model, method = attached(pruning(initial_sparsity=0.2, start_epoch=0.0, end_epoch=2.0))
    method.on_step(model, Clock(EPOCH, EPOCH))
    assert int(masked(model).sum()) == round(SIZE * (0.875 * (0.6 - 0.2) + 0.2))


def test_the_smallest_of_what_is_left_are_masked() -> None:
    model, method = attached(pruning(schedule="linear", start_epoch=0.0, end_epoch=2.0))
    method.begin(model, Clock(0, EPOCH))
    method.on_step(model, Clock(2, EPOCH))
    first = masked(model)
    with torch.no_grad():
        # What is masked is now the largest, were it asked.
        model.get_parameter(QUERY)[torch.from_numpy(first)] = 100.0
    method.on_step(model, Clock(4, EPOCH))
    weight = np.abs(model.get_parameter(QUERY).detach().numpy())
    weight[first] = -1.0
    expected = np.zeros(SIZE, dtype=bool)
    expected[np.argsort(weight.ravel())[: round(SIZE * 0.3)]] = True
    assert np.array_equal(masked(model).ravel(), expected)


def test_the_sparsity_begins_with_the_zeros_that_each_tensor_has() -> None:
    model = tiny_model()
    other = QUERY.replace("layer.0", "layer.1")
    with torch.no_grad():
        model.get_parameter(QUERY).flatten()[:256] = 0.0
        model.get_parameter(other).view(-1)[:100] = 0.0
    # The flattened view is of the same memory.
    assert int((model.get_parameter(QUERY) == 0).sum()) == 256
    model, method = attached(pruning(initial_sparsity=None), model)
    for step in range(TOTAL + 1):
        method.on_step(model, Clock(step, EPOCH))
        for name, zeros in ((QUERY, 256), (other, 100)):
            wanted = round(SIZE * level(step, first=zeros / SIZE))
            assert int(masked(model, name).sum()) == (wanted if step >= 2 else 0), (step, name)
    assert masked(model).ravel()[:256].all()


def test_a_tensor_that_is_sparser_already_stays_so() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.get_parameter(QUERY).view(-1)[: SIZE * 3 // 4] = 0.0
    model, method = attached(pruning(initial_sparsity=None), model)
    method.on_step(model, Clock(TOTAL, EPOCH))
    assert int(masked(model).sum()) == SIZE * 3 // 4


@pytest.mark.parametrize(("structure", "zeros"), [("1x4", round(SIZE / 4 * 0.6) * 4), ("2:4", SIZE // 2)])
def test_structures_only_grow_too(structure: str, zeros: int) -> None:
    loop = Loop(settings(pruning(structure=structure)))
    names, before = [name for name, _ in masks(loop.model)], None
    for step in range(1, TOTAL + 1):
        mask = masked(loop.run(step).model, names[0])
        assert before is None or (mask | ~before).all()
        before = mask
    loop.finish()
    assert int((loop.model.get_parameter(QUERY) == 0).sum()) == zeros


def test_heads_keep_within_the_rules_of_a_recipe() -> None:
    model, method = attached(MagnitudeSparsityConfig(structure="head", regrow=False, final_sparsity=0.5))
    method.begin(model, Clock(0, EPOCH))
    method.on_step(model, Clock(2, EPOCH))
    first = masked(model)
    with torch.no_grad():
        model.get_parameter(QUERY)[torch.from_numpy(first.repeat(8, 0)).expand(32, 32)] = 100.0
    method.on_step(model, Clock(4, EPOCH))
    assert (masked(model) | ~first).all() and int(masked(model).sum()) == 2
    for wrong in ({"importance": "movement"}, {"initial_sparsity": None}):
        with pytest.raises(UsageError, match="heads are ranked by magnitude"):
            MagnitudeSparsity(MagnitudeSparsityConfig(structure="head", **wrong))


def test_masks_come_off_at_the_end() -> None:
    loop = Loop(settings(pruning(leave_enabled=False))).run(9)
    assert 0 < masked(loop.model).sum() < round(SIZE * 0.6)
    loop.run(10)
    # Step 10 is epoch 2.5.
    weight = loop.model.get_parameter(QUERY)
    zero = (weight == 0).clone()
    assert int(zero.sum()) == round(SIZE * 0.6) and masked(loop.model).sum() == 0
    loop.run()
    assert int((loop.model.get_parameter(QUERY) == 0).sum()) < round(SIZE * 0.6) // 10
    before = weight.detach().clone()
    loop.finish()
    assert torch.equal(loop.model.get_parameter(QUERY), before) and not any(masks(loop.model))


def test_movement_is_the_sum_of_minus_gradient_times_weight() -> None:
    loop = Loop(settings(pruning(importance="movement", schedule="linear")))
    total, weight = np.zeros((32, 32)), loop.model.get_parameter(QUERY)

    def add(*_: Any) -> None:
        np.subtract(total, product(weight), out=total)

    loop.optimizer.register_step_pre_hook(add)
    for step in range(1, 8):
        gone = masked(loop.model)
        loop.run(step)
        score = np.where(gone, -np.inf, total).ravel()
        expected = np.zeros(SIZE, dtype=bool)
        wanted = max(0.0, (step / EPOCH - 0.5) / 2.0) * 0.6
        expected[np.argsort(score, kind="stable")[: round(SIZE * wanted)]] = True
        assert np.array_equal(masked(loop.model).ravel(), expected), step
    sums = dict(masks(loop.model))[QUERY].accumulated
    assert sums is not None and np.allclose(sums.numpy(), total, rtol=1e-5, atol=1e-7)
    assert masked(loop.model).sum() > 0


def product(weight: nn.Parameter) -> np.ndarray:
    assert weight.grad is not None
    found: np.ndarray = weight.grad.double().numpy() * weight.detach().double().numpy()
    return found


@pytest.mark.parametrize(("overflow", "factor"), [(0.0, 1.0), (1.0, 0.0)])
def test_movement_under_a_gradient_scaler(overflow: float, factor: float) -> None:
    model, method = attached(pruning(importance="movement"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(64.0), torch.tensor(overflow)  # type: ignore[attr-defined]
    weight = model.get_parameter(QUERY)
    weight.grad = torch.full((32, 32), 128.0)
    method.before_update(model, optimizer, Clock(0, EPOCH))
    sums = dict(masks(model))[QUERY].accumulated
    assert sums is not None and torch.equal(sums, -2.0 * weight.detach() * factor)


def test_several_prunings_in_one_model() -> None:
    keys = (r"re:.*key\.weight",)
    loop = Loop(settings(pruning(), pruning(parameters=keys, final_sparsity=0.3, end_epoch=2.0))).run().finish()
    for name, parameter in loop.model.named_parameters():
        wanted = {"query.weight": 0.6, "key.weight": 0.3}.get(".".join(name.split(".")[-2:]))
        assert wanted is None or int((parameter == 0).sum()) == round(SIZE * wanted)


def test_two_prunings_of_the_same_weight_are_refused() -> None:
    with pytest.raises(UsageError, match=r"query has a mask of another sparsity method.*leave it out of params"):
        Loop(settings(pruning(), pruning(parameters=(QUERY,))))


# Constant sparsity -------------------------------------------------------------------------------------------------


def half_empty() -> nn.Module:
    model = tiny_model()
    with torch.no_grad():
        model.get_parameter(QUERY).view(-1)[::2] = 0.0
    return model


def test_zeros_are_kept_between_two_epochs() -> None:
    config = ConstantSparsityConfig(parameters=QUERIES, start_epoch=1.0, end_epoch=3.0)
    model, method = attached(config, half_empty())
    method.on_step(model, Clock(3, EPOCH))
    assert masked(model).sum() == 0
    method.on_step(model, Clock(4, EPOCH))
    assert masked(model).sum() == SIZE // 2
    with torch.no_grad():
        model.get_parameter(QUERY).add_(1.0)
    method.on_step(model, Clock(11, EPOCH))
    assert masked(model).sum() == SIZE // 2 and method.statistics(model)["constant_sparsity"] == 0.25
    method.on_step(model, Clock(12, EPOCH))
    assert masked(model).sum() == 0 and int((model.get_parameter(QUERY) == 0).sum()) == SIZE // 2


def test_before_and_after_the_epochs_zeros_are_trained() -> None:
    loop = Loop(settings(ConstantSparsityConfig(parameters=QUERIES, start_epoch=1.0, end_epoch=2.0)), half_empty())
    weight = loop.model.get_parameter(QUERY)
    loop.run(3)
    assert int((weight == 0).sum()) < SIZE // 10
    with torch.no_grad():
        weight.view(-1)[:300] = 0.0
    # Momentum would move them in one more step.
    loop.compression.advance(loop.model)
    loop.run(6)
    assert masked(loop.model).ravel()[:300].all() and masked(loop.model).sum() < 400
    loop.run()
    assert masked(loop.model).sum() == 0 and int((weight == 0).sum()) < 30


def test_inherited_zeros_leave_room_for_another_method() -> None:
    inherited = ConstantSparsityConfig(parameters=("__ALL_PRUNABLE__", "bert.no.more.weight"), inherited=True)
    loop = Loop(settings(pruning(parameters=(r"re:.*key\.weight",)), inherited), half_empty())
    names = [name for name, _ in masks(loop.model)]
    assert [name for name in names if "key" not in name] == [QUERY] and len(names) == 3
    loop.run().finish()
    assert int((loop.model.get_parameter(QUERY) == 0).sum()) == SIZE // 2
    # A dense model is no error.
    Loop(settings(inherited), tiny_model())
    with pytest.raises(UsageError, match="the model is dense"):
        Loop(settings(ConstantSparsityConfig(parameters=QUERIES)), tiny_model())
