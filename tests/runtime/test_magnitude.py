"""Magnitude and constant sparsity: exact counts, rankings, structures, and what is refused."""

import json
import re
from typing import Any

import nncf.torch
import numpy as np
import pytest
import torch
from tiny import tiny_batches, tiny_model
from torch import nn
from torch.nn import functional

from nncf_transformers.algorithms.base import Clock
from nncf_transformers.algorithms.constant import ConstantSparsity
from nncf_transformers.algorithms.magnitude import MagnitudeSparsity, keep_largest
from nncf_transformers.algorithms.masks import Mask, bake, expand, masks
from nncf_transformers.config import ConstantSparsityConfig, MagnitudeSparsityConfig
from nncf_transformers.errors import UsageError
from nncf_transformers.inputs import model_inputs
from nncf_transformers.structure import find_groups

QUERY = "bert.encoder.layer.0.attention.self.query.weight"
# Steps in an epoch of the clock that the tests move by hand.
EPOCH = 10
LEAVE_OUT_HEAD = ("qa_outputs",)


def sparse(model: nn.Module | None = None, **settings: Any) -> tuple[nn.Module, MagnitudeSparsity]:
    model = model if model is not None else tiny_model()
    method = MagnitudeSparsity(MagnitudeSparsityConfig(place="test.json: algorithms[0]", **settings))
    method.attach(model, [sample(model)])
    return model, method


def sample(model: nn.Module) -> dict[str, torch.Tensor]:
    return model_inputs(model, tiny_batches(model, count=1, rows=1)[0])


def clock(step: int, steps_per_epoch: int | None = EPOCH, total: int | None = None) -> Clock:
    return Clock(step, steps_per_epoch, total)


def whole(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every mask, element by element."""
    return {name: expand(mask.mask, model.get_parameter(name).shape).clone() for name, mask in masks(model)}


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack(model(**model_inputs(model, tiny_batches(model)[0]), return_dict=False))


def refused(message: str, call: Any, *arguments: Any, **settings: Any) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        call(*arguments, **settings)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("test.json: algorithms[0]")


# Counts and schedule ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("ranking", ["local", "global"])
def test_half_way_of_a_cubic_schedule(ties: bool, ranking: str) -> None:
    """Inventory 10, check 12."""
    model = tiny_model()
    if ties:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(0.25)
    model, method = sparse(model, initial_sparsity=0.1, final_sparsity=0.7, end_epoch=2.0, ranking=ranking)
    level = 0.875 * (0.7 - 0.1) + 0.1
    method.begin(model, clock(0, total=100))
    method.on_step(model, clock(EPOCH))
    found = whole(model)
    assert len(found) == 13 and all(name.endswith(".weight") for name in found)
    if ranking == "local":
        assert all(int((~mask).sum()) == round(mask.numel() * level) for mask in found.values())
    size = sum(mask.numel() for mask in found.values())
    zeros = sum(int((~mask).sum()) for mask in found.values())
    assert ranking == "local" or zeros == round(size * level)
    assert method.statistics(model) == {
        "sparsity": pytest.approx(zeros / size),
        "sparsity_level": pytest.approx(level),
    }


@pytest.mark.parametrize("step", range(0, 26))
def test_level_at_every_step(step: int) -> None:
    # From 0.5 epochs (step 5) to 2.25 epochs: the end falls between the steps 22 and 23.
    settings = {"initial_sparsity": 0.2, "final_sparsity": 0.6, "start_epoch": 0.5, "end_epoch": 2.25}
    model, method = sparse(schedule="linear", **settings)
    method.on_step(model, clock(step))
    level = float(np.interp(step / EPOCH, [0.5, 2.25], [0.2, 0.6])) if step >= 5 else 0.0
    mask = dict(masks(model))[QUERY]
    assert int((~mask.mask).sum()) == round(mask.mask.numel() * level)
    assert mask.frozen == (step >= 23)


def test_levels_of_a_multistep_schedule() -> None:
    model, method = sparse(
        schedule="multistep",
        multistep_epochs=(1.0, 1.5),
        multistep_sparsities=(0.1, 0.25, 0.5),
        update_frequency=1.0,
        freeze_epoch=2.0,
    )
    found = []
    for step in range(22):
        method.on_step(model, clock(step))
        found.append(method.statistics(model)["sparsity_level"])
    assert found == [0.1] * 10 + [0.25] * 5 + [0.5] * 7
    assert int((~whole(model)[QUERY]).sum()) == 512 and all(mask.frozen for _, mask in masks(model))


def test_masks_change_only_when_an_update_is_due() -> None:
    model, method = sparse(schedule="linear", start_epoch=0.3, end_epoch=2.0, update_frequency=0.45)
    changed, before = [], whole(model)[QUERY]
    for step in range(30):
        method.on_step(model, clock(step))
        after = whole(model)[QUERY]
        if not torch.equal(before, after):
            changed.append(step)
        before = after
    # Every 4 steps from step 3 (where nothing is masked yet), and at the end.
    assert changed == [7, 11, 15, 19, 20]
    assert int((~before).sum()) == 512


def test_a_short_time_between_updates_is_one_step() -> None:
    model, method = sparse(schedule="linear", end_epoch=1.0, update_frequency=0.001)
    for step, expected in [(1, 51), (2, 102), (3, 154)]:
        method.on_step(model, clock(step))
        assert int((~whole(model)[QUERY]).sum()) == expected


def test_nothing_is_masked_until_the_length_of_an_epoch_is_known(caplog: pytest.LogCaptureFixture) -> None:
    model, method = sparse()
    method.begin(model, clock(0, steps_per_epoch=None))
    assert "nothing is masked until the length of an epoch is known" in caplog.text
    method.on_step(model, clock(5, steps_per_epoch=None))
    assert all(mask.all() for mask in whole(model).values())
    method.on_step(model, clock(10))
    assert int((~whole(model)[QUERY]).sum()) == 512


def test_the_length_of_an_epoch_from_the_configuration() -> None:
    model, method = sparse(steps_per_epoch=20)
    method.begin(model, clock(20, steps_per_epoch=None))
    assert int((~whole(model)[QUERY]).sum()) == 512


def test_a_schedule_that_ends_with_the_training_reaches_its_end() -> None:
    model, method = sparse(schedule="linear", end_epoch=2.0)
    method.begin(model, clock(0, total=20))
    for step, frozen in [(19, False), (20, True)]:
        method.on_step(model, clock(step, total=20))
        assert (int((~whole(model)[QUERY]).sum()) == 512) == frozen
        assert all(mask.frozen == frozen for _, mask in masks(model))


# Rankings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("importance", ["abs", "normed_abs"])
def test_global_ranking(importance: str) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.get_parameter(QUERY).mul_(0.1)
    model, method = sparse(model, ranking="global", importance=importance)
    weights = {name: model.get_parameter(name).detach().numpy() for name, _ in masks(model)}
    norms = {name: np.sqrt((weight.astype(np.float64) ** 2).sum()) for name, weight in weights.items()}
    scores = {n: np.abs(w) / (norms[n] if importance == "normed_abs" else 1.0) for n, w in weights.items()}
    every = np.concatenate([score.ravel() for score in scores.values()])
    threshold = np.sort(every)[round(len(every) * 0.5)]
    method.on_step(model, clock(EPOCH))
    found = whole(model)
    if importance == "abs":
        for name, score in scores.items():
            np.testing.assert_array_equal(found[name].numpy(), score >= threshold)
        assert found[QUERY].float().mean() < 0.1
    else:
        # In double precision the norms differ in the last digits: compare what is not on the edge.
        for name, score in scores.items():
            clear = np.abs(score - threshold) > 1e-6 * threshold
            np.testing.assert_array_equal(found[name].numpy()[clear], (score >= threshold)[clear])
        assert 0.4 < found[QUERY].float().mean() < 0.6


def test_a_layer_of_zeros_is_the_first_to_go() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.get_parameter(QUERY).zero_()
    model, method = sparse(model, ranking="global", importance="normed_abs", final_sparsity=0.2)
    method.on_step(model, clock(EPOCH))
    assert not whole(model)[QUERY].any()


def test_equal_scores_go_by_number() -> None:
    scores = {"a": torch.ones(7), "b": torch.ones(3, 5), "c": torch.zeros(2)}
    for level in np.linspace(0, 1, 23):
        kept = keep_largest(scores, level)
        assert all(int((~kept[name]).sum()) == round(score.numel() * level) for name, score in scores.items())
        together = keep_largest(scores, level, together=True)
        assert sum(int((~mask).sum()) for mask in together.values()) == round(24 * level)
        assert level < 0.1 or not together["c"].any()


def test_masked_weights_come_back() -> None:
    model, method = sparse(freeze_epoch=3.0)
    method.on_step(model, clock(EPOCH))
    weight, before = model.get_parameter(QUERY), whole(model)[QUERY]
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[~before] += 10.0 * weight[~before].sign()
    method.on_step(model, clock(EPOCH + 1))
    assert torch.equal(whole(model)[QUERY], ~before)
    # What was masked has all of its value, and what is masked keeps it.
    assert torch.equal(weight[before], kept[before]) and (weight[~before].abs() > 10.0).all()


def test_final_masks_do_not_change() -> None:
    model, method = sparse(freeze_epoch=1.5)
    method.on_step(model, clock(15))
    assert all(mask.frozen for _, mask in masks(model))
    before = whole(model)
    with torch.no_grad():
        for name in before:
            model.get_parameter(name).copy_(torch.randn_like(model.get_parameter(name)))
    for step in (16, 20, 40):
        method.on_step(model, clock(step))
    after = whole(model)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_masks_that_become_final_early_stay_below_the_final_sparsity() -> None:
    model, method = sparse(schedule="linear", end_epoch=2.0, freeze_epoch=1.0)
    method.on_step(model, clock(17))
    assert method.statistics(model) == {"sparsity": pytest.approx(0.25, abs=1e-3), "sparsity_level": 0.25}


# What the model computes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", ["unstructured", "4x8", "2:4", "head", "channel"])
def test_the_model_computes_with_the_masked_weights(structure: str) -> None:
    reference, model = tiny_model(), tiny_model()
    model, method = sparse(model, structure=structure, ignored_scopes=LEAVE_OUT_HEAD)
    assert torch.equal(logits(model), logits(reference))
    method.on_step(model, clock(EPOCH))
    with torch.no_grad():
        for name, mask in whole(model).items():
            assert 0 < int((~mask).sum()) < mask.numel()
            reference.get_parameter(name).mul_(mask)
    assert torch.equal(logits(model), logits(reference))
    bake(model)
    assert torch.equal(logits(model), logits(reference)) and not any(masks(model))


def test_one_layer_by_hand() -> None:
    model, method = sparse(tiny_model().train())
    method.on_step(model, clock(EPOCH))
    seen: dict[str, torch.Tensor] = {}
    layer = model.get_submodule(QUERY.removesuffix(".weight"))
    layer.register_forward_hook(lambda _, args, out: seen.update(x=args[0], y=out))
    sum(output.sum() for output in model(**model_inputs(model, tiny_batches(model)[0]), return_dict=False)).backward()
    mask = whole(model)[QUERY]
    torch.testing.assert_close(seen["y"], functional.linear(seen["x"], layer.weight * mask, layer.bias))
    # The weights as such are whole, and those that are masked learn nothing.
    assert (layer.weight != 0).all() and (layer.weight.grad[~mask] == 0).all() and layer.weight.grad[mask].any()
    assert method.parameters(model) == []


# Structures -------------------------------------------------------------------------------------------------------


def test_blocks() -> None:
    model, method = sparse(structure="4x8", ignored_scopes=LEAVE_OUT_HEAD, final_sparsity=0.4)
    method.on_step(model, clock(EPOCH))
    for name, mask in masks(model):
        weight = model.get_parameter(name).detach().numpy()
        rows, columns = weight.shape[0] // 4, weight.shape[1] // 8
        assert mask.mask.shape == (rows, columns)
        means = np.array(
            [[np.abs(weight[4 * r : 4 * r + 4, 8 * c : 8 * c + 8]).mean() for c in range(columns)] for r in range(rows)]
        )
        smallest = np.argsort(means, axis=None)[: round(rows * columns * 0.4)]
        assert sorted(smallest) == np.flatnonzero(~mask.mask.numpy()).tolist()


def test_n_of_m() -> None:
    model, method = sparse(structure="2:4", schedule="linear", final_sparsity=0.5)
    for step, count in [(2, 0), (4, 1), (9, 2), (10, 2)]:
        method.on_step(model, clock(step))
        for name, mask in whole(model).items():
            weight = model.get_parameter(name).detach().numpy()
            groups = np.abs(weight).reshape(-1, 4)
            expected = np.ones(groups.shape, dtype=bool)
            np.put_along_axis(expected, np.argsort(groups, axis=1)[:, :count], False, axis=1)
            np.testing.assert_array_equal(mask.numpy(), expected.reshape(weight.shape))


@pytest.mark.parametrize(("structure", "level", "masked"), [("2:4", 0.9, 2), ("1:4", 0.2, 3), ("3:4", 0.25, 1)])
def test_n_of_m_at_the_end_does_not_depend_on_the_level(structure: str, level: float, masked: int) -> None:
    model, method = sparse(structure=structure, final_sparsity=level)
    method.on_step(model, clock(9))
    assert ((~whole(model)[QUERY]).view(-1, 4).sum(1) <= masked).all()
    method.on_step(model, clock(10))
    assert ((~whole(model)[QUERY]).view(-1, 4).sum(1) == masked).all()


@pytest.mark.parametrize("importance", ["abs", "normed_abs"])
@pytest.mark.parametrize("ranking", ["local", "global"])
def test_heads(importance: str, ranking: str) -> None:
    model, method = sparse(structure="head", importance=importance, ranking=ranking, final_sparsity=0.5)
    scores = []
    for group in find_groups(model):
        if group.kind == "head":
            weights = {
                name: model.get_submodule(name).weight.detach().numpy().astype(np.float64) for name in group.members
            }
            if importance == "normed_abs":
                weights = {name: weight / np.sqrt((weight**2).sum()) for name, weight in weights.items()}
            parts = [np.split(weights[name], 4, axis=0) for name in group.rows]
            parts += [np.split(weights[name], 4, axis=1) for name in group.columns]
            scores.append([np.mean([np.abs(part[head]).mean() for part in parts]) for head in range(4)])
    method.on_step(model, clock(EPOCH))
    if ranking == "local":
        expected = np.argsort(np.argsort(scores, axis=1), axis=1) >= 2
    else:
        expected = np.array(scores) >= np.sort(np.ravel(scores))[4]
        assert expected.any(axis=1).all()
    found = dict(masks(model))
    assert len(found) == 2 * 7
    for layer, kept in enumerate(expected):
        attention = f"bert.encoder.layer.{layer}.attention"
        for name in ("query", "key", "value"):
            assert found[f"{attention}.self.{name}.weight"].mask.tolist() == [[bool(unit)] for unit in kept]
            assert found[f"{attention}.self.{name}.bias"].mask.tolist() == kept.tolist()
        assert found[f"{attention}.output.dense.weight"].mask.tolist() == [kept.tolist()]
    assert method.statistics(model)["sparsity"] == 0.5
    # Tensors that share memory cannot be saved.
    assert len({mask.mask.untyped_storage().data_ptr() for mask in found.values()}) == len(found)


@pytest.mark.parametrize("ranking", ["local", "global"])
@pytest.mark.parametrize("structure", ["head", "channel"])
def test_one_unit_of_each_group_stays(structure: str, ranking: str) -> None:
    model = tiny_model()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("bert.encoder.layer.0."):
                parameter.mul_(0.01)
    model, method = sparse(model, structure=structure, ranking=ranking, final_sparsity=0.99)
    method.on_step(model, clock(EPOCH))
    left = [int(mask.mask.sum()) for name, mask in masks(model) if mask.mask.dim() == 2]
    assert len(left) == (8 if structure == "head" else 4) and min(left) == 1


@pytest.mark.parametrize("structure", ["head", "channel"])
def test_masked_units_are_removed_in_the_end(structure: str) -> None:
    model, method = sparse(structure=structure, final_sparsity=0.5)
    method.on_step(model, clock(EPOCH))
    before = logits(model)
    method.finalize(model)
    torch.testing.assert_close(logits(model), before)
    layer = model.bert.encoder.layer[1]
    assert layer.attention.self.value.weight.shape == ((16, 32) if structure == "head" else (32, 32))
    assert layer.output.dense.weight.shape == ((32, 64) if structure == "head" else (32, 32))
    assert not any(masks(model)) and method.statistics(model) == {} and method.state()["masked"] == []


def test_groups_that_the_scopes_cut_stay(caplog: pytest.LogCaptureFixture) -> None:
    scopes = ("bert.encoder.layer.0.attention.self.key", "bert.encoder.layer.0.intermediate")
    model, _ = sparse(structure="head", ignored_scopes=scopes)
    assert {name.split(".")[3] for name, _ in masks(model)} == {"1"}
    assert "the heads of bert.encoder.layer.0.attention.self stay" in caplog.text
    assert "leave out bert.encoder.layer.0.attention.self.key" in caplog.text


# Checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", ["unstructured", "channel"])
@pytest.mark.parametrize("step", [5, 8, 25])
def test_a_restored_model_goes_on_as_if_there_had_been_no_break(structure: str, step: int) -> None:
    settings = {"structure": structure, "end_epoch": 1.5, "freeze_epoch": 2.0, "update_frequency": 0.3}
    model, method = sparse(**settings)

    def run(model: nn.Module, method: MagnitudeSparsity, steps: range) -> None:
        for now in steps:
            method.on_step(model, clock(now))
            with torch.no_grad():
                for name, _ in masks(model):
                    weight = model.get_parameter(name)
                    weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(now)))

    run(model, method, range(step))
    other = tiny_model()
    nncf.torch.load_from_config(other, nncf.torch.get_config(model), allowed_modules=("nncf.*", Mask.__module__))
    other.load_state_dict(model.state_dict())
    resumed = MagnitudeSparsity(method.config)
    resumed.load_state(other, json.loads(json.dumps(method.state())))
    assert resumed.statistics(other) == method.statistics(model)
    resumed.begin(other, clock(step))
    run(model, method, range(step, 30))
    run(other, resumed, range(step, 30))
    found, expected = whole(other), whole(model)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert resumed.state() == method.state() and all(mask.frozen for _, mask in masks(other))


# Refusals ---------------------------------------------------------------------------------------------------------


def test_no_layer_is_refused() -> None:
    message = r"no linear layer to make sparse: the scopes mean no heads.*ignore less$"
    refused(message, sparse, structure="head", target_scopes=("bert.encoder.layer.0.output",))


def test_an_unknown_family_is_refused_for_heads() -> None:
    with pytest.raises(UsageError, match="model family 'albert'"):
        sparse(tiny_model("albert"), structure="head")


def test_a_second_mask_is_refused() -> None:
    model, _ = sparse(target_scopes=("bert.encoder.layer.0",))
    before = len(list(masks(model)))
    layer = re.escape(QUERY.removesuffix(".weight"))
    refused(f"{layer} has a mask of another sparsity method already; name it in ignored_scopes", sparse, model)
    assert len(list(masks(model))) == before
    sparse(model, ignored_scopes=("bert.encoder.layer.0",))


def test_blocks_that_do_not_divide_are_refused() -> None:
    message = r"structure: blocks of 4x8 do not divide qa_outputs.weight \(2x32\); choose another block, or name"
    refused(message, sparse, structure="4x8")
    refused(r"do not divide bert\..*query.weight \(32x32\)", sparse, structure="1x5")


def test_n_of_m_that_does_not_divide_is_refused() -> None:
    message = r"structure: 2:5 does not divide the input of bert\..*query.weight \(32x32\); choose another structure"
    refused(message, sparse, structure="2:5")


def test_another_number_of_steps_is_refused() -> None:
    model, method = sparse(steps_per_epoch=12)
    message = r"steps_per_epoch: Actual steps per epoch \(10\) and those of the configuration \(12\) differ; write 10"
    refused(message, method.begin, model, clock(0))
    method.begin(model, clock(0, steps_per_epoch=None))
    refused(message, method.on_step, model, clock(4))


def test_a_schedule_that_is_too_long_is_refused() -> None:
    model, method = sparse(end_epoch=3.0)
    message = (
        r"end_epoch: the schedule is longer than the training: it ends at epoch 3 \(step 30\), the training at step "
        r"29; raise --num_train_epochs or lower end_epoch$"
    )
    refused(message, method.begin, model, clock(0, total=29))
    method.begin(model, clock(0, total=30))
    _, method = sparse(schedule="multistep", multistep_epochs=(4.0,), multistep_sparsities=(0.1, 0.5))
    refused("multistep_epochs: .* epoch 4 .*lower multistep_epochs$", method.begin, model, clock(0, total=30))


def test_a_legacy_file_is_refused_in_its_own_words() -> None:
    model, method = sparse(legacy_scopes=True, end_epoch=3.0)
    message = r"params.sparsity_target_epoch: the schedule is longer .* or lower params.sparsity_target_epoch$"
    refused(message, method.begin, model, clock(0, total=29))


def test_final_masks_are_trained_with_for_any_time() -> None:
    model, method = sparse(end_epoch=3.0, steps_per_epoch=EPOCH)
    method.on_step(model, clock(30))
    before = whole(model)
    method.begin(model, clock(0, steps_per_epoch=7, total=7))
    assert all(torch.equal(mask, before[name]) for name, mask in whole(model).items())


# Constant sparsity ------------------------------------------------------------------------------------------------


def constant(model: nn.Module, **settings: Any) -> ConstantSparsity:
    method = ConstantSparsity(ConstantSparsityConfig(place="test.json: algorithms[0]", **settings))
    method.attach(model, [sample(model)])
    return method


def test_zeros_stay_zero() -> None:
    model = tiny_model().train()
    with torch.no_grad():
        weight = model.get_parameter(QUERY)
        zero = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.75
        weight[zero] = 0.0
    method = constant(model)
    found = dict(masks(model))
    assert list(found) == [QUERY] and found[QUERY].frozen and torch.equal(found[QUERY].mask, ~zero)
    assert method.statistics(model) == {"constant_sparsity": pytest.approx(zero.float().mean().item())}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    sum(output.sum() for output in model(**model_inputs(model, tiny_batches(model)[0]), return_dict=False)).backward()
    optimizer.step()
    assert (weight[zero] == 0).all() and (weight[~zero] != 0).all()
    other = ConstantSparsity(method.config)
    other.load_state(model, json.loads(json.dumps(method.state())))
    assert other.statistics(model) == method.statistics(model)
    method.finalize(model)
    bake(model)
    assert method.statistics(model) == {}


def test_a_dense_model_is_refused() -> None:
    refused(
        "the model is dense: none of the 13 linear layers .* has a zero; start from a sparse", constant, tiny_model()
    )


def test_zeros_under_another_mask_are_refused() -> None:
    model, _ = sparse(target_scopes=("bert.encoder.layer.0",))
    with torch.no_grad():
        model.get_parameter(QUERY)[0, 0] = 0.0
    refused("query has a mask of another sparsity method already", constant, model)
