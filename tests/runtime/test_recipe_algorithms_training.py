"""Learning rates, weight decay, frozen and filled parameters, and a teacher for a part of the training."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recipe_loop import EPOCH, TOTAL, Loop, settings
from tiny import tiny_batches, tiny_model
from torch import nn
from torch.optim import lr_scheduler

from nncf_transformers.algorithms.rates import rate_at
from nncf_transformers.compression import Compression
from nncf_transformers.config import (
    ConfigError,
    DistillationConfig,
    LearningRateConfig,
    QuantizationConfig,
    RatePiece,
    SetParameterConfig,
    TrainableConfig,
    WeightDecayConfig,
)
from nncf_transformers.errors import UsageError
from nncf_transformers.inputs import model_inputs

QUERIES = (r"re:.*query\.weight",)
QUERY = "bert.encoder.layer.0.attention.self.query.weight"


# Learning rates ----------------------------------------------------------------------------------------------------


def rates(*pieces: RatePiece, epochs: float, steps: int = EPOCH) -> list[float | None]:
    return [rate_at(pieces, step / steps, steps) for step in range(round(epochs * steps) + 1)]


def test_two_linear_pieces() -> None:
    """Inventory 10, check 13."""
    found = rates(
        RatePiece(0.0, 30.0, "linear", 5e-5, 0.0), RatePiece(30.0, 40.0, "linear", 5e-5, 0.0), epochs=41, steps=10
    )
    expected = [*np.linspace(5e-5, 0, 301)[:-1], *np.linspace(5e-5, 0, 101), *[0.0] * 10]
    assert np.allclose(found, expected, rtol=1e-12, atol=1e-18)  # type: ignore[arg-type]
    assert found[300] == 5e-5 and found[400] == 0.0


def test_cosine_down_and_up() -> None:
    for first, last in ((1e-2, 1e-3), (1e-3, 1e-2)):
        found = rates(RatePiece(0.0, 4.0, "cosine", first, last), epochs=5)
        expected = [last + (first - last) * (math.cos(math.pi * min(1.0, n / 16)) + 1) / 2 for n in range(21)]
        assert np.allclose(found, expected, rtol=1e-12)  # type: ignore[arg-type]


def test_cycles() -> None:
    found = rates(RatePiece(1.0, 3.5, "cyclic_linear", 1.0, 0.0), epochs=4, steps=5)
    cycle = [1.0, 0.75, 0.5, 0.25, 0.0]
    # The last cycle has two and a half steps, that is two.
    assert found[:5] == [None] * 5 and found[5:] == pytest.approx([*cycle, *cycle, 1.0, *[0.0] * 5])


@pytest.mark.parametrize("steps", [4, 7])
@pytest.mark.parametrize(
    ("form", "arguments"),
    [
        ("step", {"step_size": 2, "gamma": 0.5}),
        ("multistep", {"milestones": [2, 3], "gamma": 0.1}),
        ("exponential", {"gamma": 0.9}),
        ("cosine_restarts", {"T_0": 2, "T_mult": 2, "eta_min": 1e-3}),
    ],
)
def test_the_classes_of_torch(form: str, arguments: dict[str, Any], steps: int) -> None:
    classes = {
        "step": lr_scheduler.StepLR,
        "multistep": lr_scheduler.MultiStepLR,
        "exponential": lr_scheduler.ExponentialLR,
        "cosine_restarts": lr_scheduler.CosineAnnealingWarmRestarts,
    }
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler: Any = classes[form](optimizer, **arguments)
    expected = []
    for step in range(8 * steps + 1):
        if form == "cosine_restarts":
            scheduler.step(step / steps)
        elif step and step % steps == 0:
            optimizer.step()
            scheduler.step()
        expected.append(scheduler.get_last_lr()[0])
    found = rates(RatePiece(0.0, None, form, 0.1, settings=arguments), epochs=8, steps=steps)
    assert np.allclose(found, expected, rtol=1e-6)  # type: ignore[arg-type]


def test_a_piece_that_begins_later_has_epochs_of_its_own() -> None:
    def found(form: str, end: float | None = None, **arguments: Any) -> list[float | None]:
        return rates(RatePiece(1.5, end, form, 1.0, settings=arguments), epochs=5, steps=2)

    nothing = [None] * 3
    assert found("step", step_size=1, gamma=0.5) == nothing + [1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    # Milestones are epochs of the training.
    assert found("multistep", milestones=[2, 4], gamma=0.5) == nothing + [1.0, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]
    # At its end nothing changes any more.
    assert found("exponential", end=3.5, gamma=0.5) == nothing + [1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert found("constant") == nothing + [1.0] * 8


def test_groups_keep_their_proportions() -> None:
    pieces = (RatePiece(1.0, 3.0, "linear", 4e-3, 0.0),)
    quantization = QuantizationConfig(calibration_samples=2, quantizer_lr_multiplier=2.5)
    loop = Loop(settings(quantization, LearningRateConfig(pieces=pieces)), lr=1e-3)
    loop.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 5e-4})
    seen = []
    loop.optimizer.register_step_pre_hook(lambda *_: seen.append([g["lr"] for g in loop.optimizer.param_groups]))
    loop.run()
    first = [*[1e-3] * 4, *[4e-3 * (1 - n / 8) for n in range(8)], *[0.0] * 4]
    assert np.allclose(seen, [[rate, 2.5 * rate, 0.5 * rate] for rate in first], rtol=1e-12)
    assert loop.compression.rate(3) is None and loop.compression.rate(6) == pytest.approx(3e-3)
    assert loop.compression.statistics(loop.model)["compression/learning_rate"] == 0.0


def test_before_the_first_piece_the_scripts_own_schedule_holds() -> None:
    loop = Loop(settings(LearningRateConfig(pieces=(RatePiece(2.0, None, "constant", 0.5),))), lr=1e-3)
    scheduler = lr_scheduler.LambdaLR(loop.optimizer, lambda step: 1 / (step + 1))
    seen = []
    for step in range(1, 11):
        loop.run(step)
        seen.append(loop.optimizer.param_groups[0]["lr"])
        scheduler.step()
    assert seen == pytest.approx([1e-3 / n for n in range(1, 9)] + [0.5, 0.5])


# Weight decay ------------------------------------------------------------------------------------------------------


def test_weight_decay_of_the_models_own_groups() -> None:
    loop = Loop(settings(QuantizationConfig(calibration_samples=2), WeightDecayConfig(value=0.25, start_epoch=1.0)))
    loop.run(EPOCH)
    assert [group["weight_decay"] for group in loop.optimizer.param_groups] == [0.1, 0.0]
    loop.run(EPOCH + 1)
    assert [group["weight_decay"] for group in loop.optimizer.param_groups] == [0.25, 0.0]


# Frozen parameters -------------------------------------------------------------------------------------------------


def changes(loop: Loop, name: str) -> list[int]:
    """The epochs in which a parameter moves."""
    found, before = [], loop.model.get_parameter(name).detach().clone()
    for epoch in range(TOTAL // EPOCH):
        loop.run((epoch + 1) * EPOCH)
        after = loop.model.get_parameter(name).detach().clone()
        if not torch.equal(before, after):
            found.append(epoch)
        before = after
    return found


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(0.0, None, []), (0.0, 2.0, [2, 3]), (1.0, 3.0, [0, 3]), (1.0, None, [0])],
)
def test_what_is_frozen_does_not_move(start: float, end: float | None, expected: list[int]) -> None:
    # Neither by momentum nor by decay.
    config = TrainableConfig(parameters=QUERIES, trainable=False, start_epoch=start, end_epoch=end)
    loop = Loop(settings(config))
    assert changes(loop, QUERY) == expected
    other = QUERY.replace("query", "key")
    assert changes(Loop(settings(config)), other) == [0, 1, 2, 3]
    loop.finish()
    assert all(parameter.requires_grad for parameter in loop.model.parameters())


def test_what_was_frozen_is_trained_for_a_while() -> None:
    model = tiny_model()
    for parameter in model.base_model.parameters():
        parameter.requires_grad_(False)
    loop = Loop(settings(TrainableConfig(parameters=QUERIES, start_epoch=1.0, end_epoch=2.0)), model)
    assert changes(loop, QUERY) == [1]
    assert not loop.finish().model.get_parameter(QUERY).requires_grad


def test_two_freezes_that_overlap() -> None:
    first = TrainableConfig(parameters=QUERIES, trainable=False, end_epoch=2.0)
    second = TrainableConfig(parameters=QUERIES, trainable=False, start_epoch=1.0, end_epoch=3.0)
    assert changes(Loop(settings(first, second)), QUERY) == [3]


def test_an_optimizer_without_what_is_trained_later() -> None:
    model = tiny_model()
    model.get_parameter(QUERY).requires_grad_(False)
    compression = Compression(settings(TrainableConfig(place="r.yaml", parameters=QUERIES, start_epoch=1.0)))
    compression.start(model, tiny_batches(model))
    with compression.all_trainable(model):
        whole = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    assert not model.get_parameter(QUERY).requires_grad
    compression.add_to(whole, model, steps_per_epoch=EPOCH)
    part = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    with pytest.raises(UsageError, match="query.weight is to be trained, but the optimizer does not have it"):
        compression.add_to(part, model, steps_per_epoch=EPOCH)


def test_names_that_need_not_be_there(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(settings(TrainableConfig(place="r", parameters=("none", QUERY), trainable=False, strict=False)))
    assert 'r.params: "none" matches no parameter' in caplog.text
    assert not loop.model.get_parameter(QUERY).requires_grad
    with pytest.raises(ConfigError, match='"none" matches no parameter'):
        Loop(settings(TrainableConfig(parameters=("none",), strict=True)))


# Filled parameters -------------------------------------------------------------------------------------------------


def test_a_parameter_is_filled_once() -> None:
    loop = Loop(settings(SetParameterConfig(parameters=(QUERY,), init_value=0.25, final_value=0.25, start_epoch=1.0)))
    weight = loop.model.get_parameter(QUERY)
    loop.run(3)
    assert weight.std() > 0.1
    loop.run(4)
    assert torch.equal(weight, torch.full((32, 32), 0.25))
    loop.run(5)
    assert not torch.equal(weight, torch.full((32, 32), 0.25))


@pytest.mark.parametrize("form", ["linear", "cubic", "inverse_cubic"])
def test_a_parameter_moves_from_one_value_to_another(form: str) -> None:
    config = SetParameterConfig(
        parameters=(QUERY,), init_value=0.5, final_value=-0.5, start_epoch=0.5, end_epoch=2.5, form=form
    )
    loop = Loop(settings(config))
    for step in range(2, 11):
        x = (step / EPOCH - 0.5) / 2.0
        share = {"linear": x, "cubic": 1 - (1 - x) ** 3, "inverse_cubic": 1 - (1 - x) ** (1 / 3)}[form]
        weight = loop.run(step).model.get_parameter(QUERY)
        assert weight.detach().numpy() == pytest.approx(np.full((32, 32), 0.5 - share), abs=1e-6)
    assert loop.run(11).model.get_parameter(QUERY).std() > 0


# Distillation ------------------------------------------------------------------------------------------------------


def teacher_at(tmp_path: Path) -> str:
    tiny_model(seed=5).save_pretrained(tmp_path / "teacher")
    return str(tmp_path / "teacher")


def test_a_teacher_has_its_time(tmp_path: Path) -> None:
    config = DistillationConfig(teacher=teacher_at(tmp_path), start_epoch=1.0, end_epoch=2.0)
    loop, plain = Loop(settings(config)), Loop(None)
    calls: list[int] = []
    loop.compression.algorithms[0]._teacher.register_forward_hook(lambda *_: calls.append(loop.step))  # type: ignore[union-attr]
    loop.run(EPOCH)
    assert loop.losses == plain.run(EPOCH).losses and not calls
    assert "distillation_loss" not in loop.compression.statistics(loop.model)
    loop.run(EPOCH + 1)
    assert loop.losses[-1] != plain.run(EPOCH + 1).losses[-1]
    assert "distillation_loss" in loop.compression.statistics(loop.model)
    loop.run()
    assert calls == [4, 5, 6, 7]


@pytest.mark.parametrize(
    ("outputs", "which"), [((), [0, 1]), (("end_logits",), [1]), (("end_logits", "start_logits"), [0, 1])]
)
def test_outputs_are_compared_by_name(outputs: tuple[str, ...], which: list[int], tmp_path: Path) -> None:
    config = DistillationConfig(teacher=teacher_at(tmp_path), weight=1.0, temperature=2.0, outputs=outputs)
    model = tiny_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    batch = tiny_batches(model)[0]
    with torch.no_grad():
        logits = [m(**model_inputs(model, batch), return_dict=False) for m in (model, tiny_model(seed=5))]
    terms = []
    for student, teacher in zip(*logits, strict=True):
        s, t = (torch.log_softmax(x.double() / 2, -1).numpy() for x in (student, teacher))
        terms.append(4 * (np.exp(t) * (t - s)).sum(-1).mean())
    loop = Loop(settings(config), model).run(1)
    assert loop.losses[0] == pytest.approx(np.mean([terms[i] for i in which]), rel=1e-5)


def test_an_unknown_output(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no output loss to distil; it has start_logits, end_logits"):
        Loop(settings(DistillationConfig(teacher=teacher_at(tmp_path), outputs=("start_logits", "loss"))))
    with pytest.raises(UsageError, match="no output start_logits to distil; it has logits"):
        Loop(settings(DistillationConfig(teacher="self", outputs=("start_logits",))), tiny_model(head="classes"))
