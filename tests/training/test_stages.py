"""Stages: what they train and in which order, the divergence guard, and going on after an interruption."""

import gc
import math
import multiprocessing
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from nncf_transformers.errors import CompressionError, IntegrityError, UsageError
from nncf_transformers.training import stage as stages
from nncf_transformers.training.data import Encoded
from nncf_transformers.training.run import Run
from nncf_transformers.training.stage import (
    Objective,
    Stage,
    StageRun,
    deal,
    linear,
    warm_constant,
    warm_linear,
)

WORDS = 12


def encoded(count: int, scale: float = 1.0, seed: int = 0) -> Encoded:
    """Texts of 1 to 9 tokens, with a number to learn, and their own number as ``owner``."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 10, (count,), generator=generator).tolist()
    ids = [torch.randint(1, WORDS, (length,), generator=generator).tolist() for length in lengths]
    targets = [scale * (sum(row) / len(row) - 6) for row in ids]
    columns = {"input_ids": ids, "target": targets, "owner": list(range(count))}
    return Encoded(columns, {"input_ids": 0})


def steady(count: int, target: float = 3.0) -> Encoded:
    """The same text again and again: the loss says nothing but how well it is learnt."""
    columns = {"input_ids": [[1, 2, 3]] * count, "target": [target] * count, "owner": list(range(count))}
    return Encoded(columns, {"input_ids": 0})


class Student(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.table = nn.Embedding(WORDS, 4)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(4, 3)

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(self.state_dict(), folder / "student.pt")


class Fit(Objective):
    """Squared error, with a layer of its own, and a memory of its own that the loss depends on."""

    def __init__(self, dropout: float = 0.0, spoil: Callable[[int], float] = lambda step: 1.0) -> None:
        super().__init__(Student(dropout))
        self.own = nn.Linear(3, 1)
        self.memory = torch.zeros(4)
        self.spoil, self.remembers = spoil, dropout > 0
        self.step, self.seen = 0, list[tuple[int, list[int]]]()
        self.watch: Callable[[int], None] = lambda step: None

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        self.seen.append((self.step, batch["owner"].tolist()))
        student, mask = self.student, (batch["input_ids"] != 0).float().unsqueeze(-1)
        means = (student.table(batch["input_ids"]) * mask).sum(1) / mask.sum(1)
        if self.remembers:
            means = means + 0.1 * self.memory
            self.memory = 0.9 * self.memory + 0.1 * means.detach().mean(0)
        found = self.own(student.head(student.dropout(means)))[:, 0]
        loss = (found - batch["target"]).square().mean() * self.spoil(self.step)
        return loss, {"error": loss.detach()}

    def own_state(self) -> dict[str, Any]:
        return {"memory": self.memory.clone()}

    def load_own_state(self, state: dict[str, Any]) -> None:
        self.memory.copy_(state["memory"])

    def tensors(self) -> list[torch.Tensor]:
        return [p.detach().clone() for p in (*self.parameters(), self.memory)]


class Killed(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture(autouse=True, scope="module")
def _made_small() -> Iterator[None]:
    """Short intervals of the guard, no TensorBoard, which takes longer than all the rest, and numbered steps."""
    train_step = StageRun._train_step

    def numbered(self: StageRun, step: int, *args: Any) -> None:
        self.objective.step = step
        self.objective.watch(step)
        train_step(self, step, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "GUARD_INTERVAL", 4)
        patch.setattr(Run, "scalars", lambda *args: None)
        patch.setattr(StageRun, "_train_step", numbered)
        # At the end of a stage accelerate collects garbage, in all that the libraries have made, a quarter of a second.
        gc.freeze()
        yield
        gc.unfreeze()


@pytest.fixture(autouse=True)
def _own_accelerator() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(True)


def a_run(out: Path, micro_batch: int = 4, **options: Any) -> Run:
    out.mkdir(exist_ok=True)
    return Run(out, {"learning_rate": 0.1}, micro_batch=micro_batch, seed=3, cpu=True, **options)


def a_stage(objective: Fit, data: Sequence[Encoded], **options: Any) -> Stage:
    usual = {"learning_rate": 0.05, "epochs": 1, "total_batch": 4, "schedule": linear, "log_every": 1000}
    groups = options.pop("parameters", [{"params": list(objective.parameters())}])
    return Stage(options.pop("name", "00"), data, groups, **{**usual, **options})


def equal(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# deal


@pytest.mark.parametrize(("count", "batch"), [(40, 4), (43, 4), (4, 4), (450, 8), (1, 1)])
def test_deal_gives_whole_batches_of_different_samples(count: int, batch: int) -> None:
    steps = deal(encoded(count), batch, (1, 2))
    assert [len(step) for step in steps] == [batch] * (count // batch)
    dealt = [i for step in steps for i in step]
    assert len(set(dealt)) == len(dealt) and set(dealt) <= set(range(count))


def test_deal_leaves_out_another_rest_in_another_epoch() -> None:
    left = [set(range(7)) - {i for step in deal(encoded(7), 4, (epoch,)) for i in step} for epoch in range(20)]
    assert set().union(*left) == set(range(7))


def test_deal_goes_through_a_small_data_set_several_times() -> None:
    (step,) = deal(encoded(3), 8, (0,))
    assert sorted(step) == [0, 0, 0, 1, 1, 1, 2, 2] or sorted(step.count(i) for i in range(3)) == [2, 3, 3]


def test_deal_is_a_function_of_the_key_alone() -> None:
    data = encoded(64)
    torch.manual_seed(0)
    first = deal(data, 4, (42, 0, 1, 0))
    torch.manual_seed(5)
    assert deal(data, 4, (42, 0, 1, 0)) == first
    for key in ((42, 0, 0, 0), (42, 1, 1, 0), (42, 0, 1, 1), (43, 0, 1, 0)):
        assert deal(data, 4, key) != first


def test_deal_puts_like_lengths_together_and_mixes_the_steps() -> None:
    data = encoded(400)
    means = [[data.length(i) for i in step] for step in deal(data, 8, (0,))]
    # Fifty steps are sorted together: 400 texts of 9 lengths leave some 8 steps with two lengths.
    assert sum(len(set(step)) > 1 for step in means) <= 8
    firsts = [step[0] for step in means]
    assert firsts != sorted(firsts)


# schedules and lengths


def test_schedules() -> None:
    assert [linear(i, 4) for i in range(5)] == [1, 0.75, 0.5, 0.25, 0]
    assert linear(0, 0) == 1 and warm_constant(0, 0) == 1 and warm_linear(0, 0) == 1
    # 1 % of 250 steps, rounded up.
    assert [warm_constant(i, 250) for i in (0, 1, 2, 3, 249)] == pytest.approx([1 / 3, 2 / 3, 1, 1, 1])
    assert warm_linear(1, 250) == pytest.approx(2 / 3 * 249 / 250)
    assert warm_linear(200, 250) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("sizes", "epochs", "total"), [((10,), 2, 4), ((8, 9), 1, 4), ((8, 1), 1, 3), ((40,), 0.25, 2), ((40,), 1.5, 15)]
)
def test_total_steps(sizes: tuple[int, ...], epochs: float, total: int) -> None:
    objective = Fit()
    stage = a_stage(objective, [encoded(size) for size in sizes], epochs=epochs)
    assert stage.total_steps == total


def test_epoch_ends_and_the_order_of_data_sets(tmp_path: Path) -> None:
    objective, ends = Fit(), list[tuple[int, int]]()

    def end_of_epoch(stage: Stage, epoch: int) -> None:
        ends.append((objective.step + 1, epoch))
        # As an evaluation may leave it.
        objective.eval()

    data = [encoded(12), encoded(8, seed=9)]
    stage = a_stage(objective, data, epochs=2.5, end_of_epoch=end_of_epoch)
    objective.watch = lambda step: modes.append(objective.training)  # type: ignore[func-returns-value]
    modes: list[bool] = []
    a_run(tmp_path).train(stage, objective)
    assert ends == [(5, 1), (10, 2), (12, 3)]
    assert modes == [True] * 12
    expected = [deal(data[number], 4, (3, 0, epoch, number)) for epoch in range(3) for number in range(2)]
    assert [owners for _, owners in objective.seen] == [step for part in expected for step in part][:12]


def test_each_group_has_its_own_rate_and_the_rest_stays(tmp_path: Path) -> None:
    objective = Fit()
    before = objective.tensors()
    groups = [{"params": [objective.own.weight]}, {"params": [objective.student.head.weight], "lr": 0.001}]
    stage = a_stage(objective, [encoded(16)], parameters=groups)
    run = StageRun(a_run(tmp_path), stage, objective, 0)
    rates = []
    stage.after_step = lambda: rates.append([group["lr"] for group in run.optimizer.param_groups])
    run.run(None)
    assert rates == [pytest.approx([0.05 * f, 0.001 * f]) for f in (0.75, 0.5, 0.25, 0)]
    changed = {
        name
        for (name, parameter), old in zip(objective.named_parameters(), before, strict=False)
        if not torch.equal(parameter, old)
    }
    assert changed == {"own.weight", "student.head.weight"}
    # Nor does it cost anything: no gradient is computed that nobody asked for.
    assert {name for name, parameter in objective.named_parameters() if parameter.requires_grad} == changed


def test_first_step_is_taken_at_the_schedule_s_first_rate(tmp_path: Path) -> None:
    objective = Fit()
    before = objective.own.weight.detach().clone()
    stage = a_stage(objective, [encoded(4)], schedule=lambda step, total: 0.5 if step == 0 else 100.0)
    a_run(tmp_path).train(stage, objective)
    # The first step of Adam is the rate, whatever the gradient.
    assert torch.allclose((objective.own.weight - before).abs(), torch.tensor(0.025), rtol=1e-4)


def test_accumulated_gradients_equal_those_of_one_large_batch(tmp_path: Path) -> None:
    found = []
    for micro in (8, 2):
        objective = Fit()
        a_run(tmp_path / str(micro), micro_batch=micro).train(
            a_stage(objective, [encoded(40)], total_batch=8, epochs=2), objective
        )
        found.append(objective.tensors())
        assert len(objective.seen) == 10 * 8 // micro
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_gradients_are_cut_at_norm_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objective, norms = Fit(spoil=lambda step: 1e4), []
    stage = a_stage(objective, [encoded(8)])
    run = StageRun(a_run(tmp_path), stage, objective, 0)
    cut = run.accelerator.clip_grad_norm_

    def look(parameters: Any, norm: float) -> Any:
        result = cut(parameters, norm)
        norms.append(torch.stack([p.grad.norm() for p in objective.parameters()]).norm())
        return result

    monkeypatch.setattr(run.accelerator, "clip_grad_norm_", look)
    run.run(None)
    assert torch.allclose(torch.stack(norms), torch.tensor(1.0), rtol=1e-3)


def test_batch_is_whole_micro_batches(tmp_path: Path) -> None:
    run = a_run(tmp_path, micro_batch=4)
    assert run.batch(11) == 8 and run.batch(4) == 4
    with pytest.raises(UsageError, match=r"--total_train_batch_size 3.*per_gpu_train_batch_size 4"):
        run.batch(3)


def test_mixed_precision_is_taken_off_between_stages(tmp_path: Path) -> None:
    objective, kinds = Fit(), list[torch.dtype]()
    objective.own.register_forward_hook(lambda module, args, output: kinds.append(output.dtype))
    run = a_run(tmp_path, mixed_precision="bf16")
    for name in ("00", "01"):
        run.train(a_stage(objective, [encoded(4)], name=name), objective)
    objective(encoded(4).batch(range(4)))
    assert kinds == [torch.bfloat16, torch.bfloat16, torch.float32]
    assert all(parameter.dtype == torch.float32 for parameter in objective.parameters())


# the guard


def guarded(tmp_path: Path, spoil: Callable[[int], float], **options: Any) -> tuple[StageRun, dict[int, Any]]:
    """Train under the guard; also return parameters, optimizer state and rate before each step."""
    objective, before = Fit(spoil=spoil), dict[int, Any]()
    options = {"data": [steady(160)], "guard": True, "learning_rate": 0.01, **options}
    run = StageRun(a_run(tmp_path), a_stage(objective, **options), objective, 0)

    def watch(step: int) -> None:
        moments = [t.clone() for state in run.optimizer.state.values() for t in state.values()]
        before[step] = (objective.tensors(), moments, run.optimizer.param_groups[0]["lr"])

    objective.watch = watch
    run.run(None)
    return run, before


@pytest.mark.parametrize("factor", [math.nan, math.inf, 100.0])
def test_guard_goes_back_to_the_last_good_state(tmp_path: Path, factor: float) -> None:
    # Twice from the same good state, with the training going on in between: that must not have touched it.
    run, before = guarded(tmp_path, lambda step: factor if step in (9, 10, 13) else 1.0)
    assert run.guard.reverted == 2 and run.guard.in_a_row == 0
    for later in (12, 16):
        assert equal(before[later][0], before[8][0]) and equal(before[later][1], before[8][1])
        # The schedule goes on.
        assert before[later][2] == pytest.approx(0.01 * linear(later, 40))
    assert not equal(before[13][0], before[8][0])
    assert all(torch.isfinite(t).all() for t in run.objective.tensors())


def test_guard_compares_with_the_last_good_interval(tmp_path: Path) -> None:
    # Growing by less than half an interval is fine, however far it goes; the parameters hardly move.
    run, _ = guarded(tmp_path, lambda step: 1.3 ** (step // 4), learning_rate=1e-7)
    assert run.guard.reverted == 0
    run, _ = guarded(tmp_path, lambda step: 1.0 + (step >= 4), learning_rate=1e-7, epochs=0.5)
    # Of 5 intervals, 4 are at twice the loss of the one good one.
    assert run.guard.reverted == 4


def test_guard_forgets_what_the_objective_learnt_from_a_bad_interval(tmp_path: Path) -> None:
    objective = Fit(dropout=0.1, spoil=lambda step: math.nan if step == 9 else 1.0)
    run = StageRun(a_run(tmp_path), a_stage(objective, [steady(80)], guard=True), objective, 0)
    run.run(None)
    assert run.guard.reverted == 1
    # It sums up what the spoilt parameters gave.
    assert torch.isfinite(objective.memory).all()


def test_guard_is_content_with_a_loss_of_zero(tmp_path: Path) -> None:
    run, _ = guarded(tmp_path, lambda step: 0.0)
    assert run.guard.reverted == 0 and run.step == 40


def test_guard_looks_at_the_last_steps_too(tmp_path: Path) -> None:
    # Intervals are of four steps; the last one has two.
    run, before = guarded(tmp_path, lambda step: math.nan if step == 37 else 1.0, epochs=0.95)
    assert run.stage.total_steps == 38 and run.guard.reverted == 1
    assert equal(run.objective.tensors(), before[36][0])


def test_guard_gives_up(tmp_path: Path) -> None:
    with pytest.raises(CompressionError, match=r"stage 00, step 47: .*diverges \(loss nan\)"):
        guarded(tmp_path, lambda step: math.nan if step > 3 else 1.0, epochs=2)
    with pytest.raises(CompressionError, match="stage 00, step 3: .*lower the learning rate"):
        guarded(tmp_path / "at once", lambda step: math.nan)


def test_guard_starts_over_with_another_data_set(tmp_path: Path) -> None:
    data = [steady(34), steady(32, target=30)]
    run, _ = guarded(tmp_path, lambda step: 1.0, data=data, epochs=3, learning_rate=1e-5)
    assert run.guard.reverted == 0
    # The two steps left of the first one do not count for the second.
    run, before = guarded(tmp_path / "2", lambda step: math.nan if step == 13 else 1.0, data=[steady(40), data[1]])
    # Ten steps of the first: its intervals end before steps 4 and 8, those of the second before 14 and 18.
    assert run.guard.reverted == 1
    assert [step for step in before if step > 8 and equal(before[step][0], before[8][0])] == [14]


def test_without_a_guard_a_diverging_training_ends(tmp_path: Path) -> None:
    objective = Fit(spoil=lambda step: math.nan if step == 2 else 1.0)
    with pytest.raises(CompressionError, match="stage 00, step 4: .*diverges"):
        a_run(tmp_path).train(a_stage(objective, [encoded(40)], log_every=2), objective)


# going on


def train(out: Path, stop: tuple[int, int] | None = None, save_steps: int = 1, **options: Any) -> list[torch.Tensor]:
    """Three stages with dropout: the layer that is not the student's, everything under a guard, the student."""
    run = a_run(out, save_steps=save_steps, **options)
    objective = Fit(dropout=0.2, spoil=lambda step: 50.0 if 5 <= step < 7 else 1.0)
    if run.resumed_model is not None:
        objective.student.load_state_dict(torch.load(run.resumed_model / "student.pt", weights_only=True))
    parts = (objective.own, objective, objective.student)
    data = [encoded(41), encoded(13, scale=3, seed=7)]
    for number, part in enumerate(parts):
        stage = a_stage(
            objective,
            data,
            name=f"{number:02d}",
            parameters=[{"params": list(part.parameters())}],
            guard=number == 1,
            total_batch=4,
        )

        def watch(step: int, number: int = number) -> None:
            if (number, step) == stop:
                raise Killed

        objective.watch = watch
        run.train(stage, objective)
    return objective.tensors()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[torch.Tensor]:
    return train(tmp_path_factory.mktemp("whole") / "out", save_steps=4)


@pytest.mark.parametrize(
    ("stop", "save_steps"), [((n, s), 1 + 3 * (s % 2)) for n in range(3) for s in (0, 1, 7, 8, 9, 12)]
)
def test_goes_on_bit_for_bit(
    tmp_path: Path, uninterrupted: list[torch.Tensor], stop: tuple[int, int], save_steps: int
) -> None:
    with pytest.raises(Killed):
        train(tmp_path, stop, save_steps)
    torch.manual_seed(1234)
    assert equal(train(tmp_path, None, save_steps), uninterrupted)


def test_goes_on_after_two_interruptions_and_from_a_finished_stage(
    tmp_path: Path, uninterrupted: list[torch.Tensor]
) -> None:
    for stop in ((0, 5), (1, 4), (1, 7)):
        with pytest.raises(Killed):
            train(tmp_path, stop)
    assert equal(train(tmp_path), uninterrupted)
    # All is done; the state of the last step of the last stage is all there is.
    assert equal(train(tmp_path), uninterrupted)


def test_save_steps_change_nothing_and_one_state_is_kept(tmp_path: Path, uninterrupted: list[torch.Tensor]) -> None:
    assert equal(train(tmp_path, save_steps=100), uninterrupted)
    assert [path.name for path in tmp_path.glob("*resume*")] == ["resume-02-0000013"]


def test_the_guard_s_memory_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guards = []
    real = StageRun._watch

    def watch(self: StageRun, *args: Any) -> None:
        real(self, *args)
        guards.append((self.step, self.guard.reverted, self.guard.reference, len(self.guard.losses)))

    monkeypatch.setattr(StageRun, "_watch", watch)
    train(tmp_path / "whole")
    whole, guards[:] = guards[:], []
    for stop in ((1, 6), (1, 8), (1, 11)):
        with pytest.raises(Killed):
            train(tmp_path / "parts", stop)
    train(tmp_path / "parts")
    assert guards == whole
    # It went back after the interval with the spoilt steps, and only then.
    assert [reverted for _, reverted, *_ in whole] == [0] * 7 + [1] * 6


def test_interrupted_while_saving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: list[torch.Tensor]
) -> None:
    saves = []

    def fail(*args: Any) -> None:
        saves.append(args)
        if len(saves) == 6:
            raise Killed
        real(*args)

    real = torch.save
    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(Killed):
        train(tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir() if "resume" in path.name)
    assert len(left) == 2 and left[0].startswith(".resume-")
    monkeypatch.setattr(torch, "save", real)
    assert equal(train(tmp_path), uninterrupted)
    assert [path.name for path in tmp_path.glob("*resume*")] == ["resume-02-0000013"]


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    with pytest.raises(Killed):
        train(tmp_path / "out", (1, 3))
    return tmp_path / "out"


def test_another_training_s_state_is_refused(interrupted: Path) -> None:
    with pytest.raises(UsageError, match=r"with --learning_rate 0\.1, not 0\.2; .*--overwrite_output_dir"):
        Run(interrupted, {"learning_rate": 0.2}, micro_batch=4, seed=3, cpu=True)
    # A flag that one of the two versions does not know.
    with pytest.raises(UsageError, match="with --loss_cfg None, not x"):
        Run(interrupted, {"learning_rate": 0.1, "loss_cfg": "x"}, micro_batch=4, seed=3, cpu=True)


@pytest.mark.parametrize("share", [0, 0.5, 0.95])
def test_damaged_state_is_refused(interrupted: Path, share: float) -> None:
    (path,) = interrupted.glob("resume-*/training.pt")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(IntegrityError, match="training.pt: damaged .*--overwrite_output_dir") as error:
        a_run(interrupted)
    assert "\n" not in str(error.value)


def test_missing_and_foreign_states_are_refused(interrupted: Path) -> None:
    (path,) = interrupted.glob("resume-*/training.pt")
    for content in (b"no such thing", b"\x80\x04]\x94."):
        path.write_bytes(content)
        with pytest.raises(IntegrityError, match="damaged"):
            a_run(interrupted)
    path.unlink()
    with pytest.raises(IntegrityError, match="damaged"):
        a_run(interrupted)


def test_overwrite_and_finish_remove_states(interrupted: Path, uninterrupted: list[torch.Tensor]) -> None:
    shutil.copytree(next(interrupted.glob("resume-*")), interrupted / ".resume-01-0000001.77")
    (interrupted / "my-resume").mkdir()
    run = a_run(interrupted, overwrite=True)
    assert run.resumed_model is None and run.resumed_stage == 0
    # Only a training that begins replaces what is there: a mistake may come before it.
    assert len(list(interrupted.glob("*resume-0*"))) == 2
    objective = Fit()
    run.train(a_stage(objective, [encoded(16)]), objective)
    assert [path.name for path in interrupted.glob("*resume-0*")] == ["resume-00-0000004"]
    shutil.rmtree(interrupted / "resume-00-0000004")
    with pytest.raises(Killed):
        train(interrupted, (0, 2))
    a_run(interrupted).finish()
    assert [path.name for path in interrupted.glob("*resume*")] == ["my-resume"]


# several processes


def _child(rank: int, port: int, folder: Path) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    # OpenMP's threads do not survive a fork.
    torch.set_num_threads(1)
    AcceleratorState._reset_state(True)
    objective = Fit()
    run = a_run(folder / "plain", micro_batch=2)
    assert run.accelerator.num_processes == 2
    run.train(a_stage(objective, [encoded(40)], total_batch=8, epochs=2), objective)
    result = {"plain": objective.tensors(), "seen": objective.seen}
    result["whole"] = train(folder / "whole", micro_batch=2)
    for stop in ((0, 2), (1, 3), (1, 6)):
        try:
            train(folder / "parts", stop, micro_batch=2)
        except Killed:
            continue
        raise AssertionError(f"not stopped at {stop}")
    result["parts"] = train(folder / "parts", micro_batch=2)
    torch.save(result, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_child, args=(rank, port, folder), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    return folder, [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_processes_train_as_one(tmp_path: Path, two_processes: tuple[Path, list[dict[str, Any]]]) -> None:
    _, (first, second) = two_processes
    objective = Fit()
    a_run(tmp_path, micro_batch=8).train(a_stage(objective, [encoded(40)], total_batch=8, epochs=2), objective)
    assert len(first["seen"]) == len(second["seen"]) == 20
    for step, owners in objective.seen:
        both = [i for seen in (first["seen"], second["seen"]) for at, some in seen for i in some if at == step]
        assert sorted(both) == sorted(owners)
    assert equal(first["plain"], second["plain"])
    for one, other in zip(first["plain"], objective.tensors(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_two_processes_go_on_bit_for_bit(two_processes: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, results = two_processes
    for result in results:
        assert equal(result["whole"], result["parts"])
    # The parameters are the same, the memory is that of each process's own samples.
    assert equal(results[0]["parts"][:-1], results[1]["parts"][:-1])
    assert not torch.equal(results[0]["parts"][-1], results[1]["parts"][-1])
    with pytest.raises(UsageError, match="interrupted training of 2 processes"):
        a_run(folder / "whole", micro_batch=2)
