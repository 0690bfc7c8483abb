"""A stage of a training: its parameters, rate and length, and how it is trained."""

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object
from torch import nn

from nncf_transformers.errors import CompressionError
from nncf_transformers.training.data import Encoded

if TYPE_CHECKING:
    from nncf_transformers.training.run import Run

# Gradient norm at which gradients are cut (inventory 3.1).
MAX_NORM = 1.0
# The divergence guard looks at the mean loss of so many micro-batches, and goes back where it is not below so many
# times that of the last good ones (inventory 3.3.2).
GUARD_INTERVAL, GUARD_FACTOR = 50, 1.5
# Steps' worth of texts that are sorted by length together.
_SORTED_STEPS = 50
# So often in a row the guard goes back before it gives up.
_GUARD_PATIENCE = 10


class Objective(nn.Module):
    """What a stage minimises: called on a batch, it returns the loss and its parts.

    Accelerate wraps it for several processes, so all that has gradients must happen in its ``forward``.

    Attributes:
        student: the model that is trained.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of a batch, a scalar, and what it is made of, detached scalars by name."""
        raise NotImplementedError

    def before_step(self) -> None:
        """Get ready for an optimizer step; called in every process."""

    def after_backward(self, scale: float) -> None:
        """A micro-batch's gradients are there, multiplied by what fp16 scales the loss by."""

    def own_state(self) -> dict[str, Any]:
        """What an interrupted training must keep beside the parameters: tensors, numbers, lists and dictionaries."""
        return {}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`own_state` returned."""


@dataclass
class Stage:
    """A part of the training.

    Attributes:
        name: for folders and the log, such as ``07``.
        data: data sets; an epoch runs through one after the other.
        parameters: what is trained, as parameter groups of an optimizer; ``lr`` in a group is its own rate.
        learning_rate: of groups without a rate.
        epochs: passes over the data; a fraction ends in the middle of one.
        total_batch: samples an optimizer step, see :meth:`Run.batch`.
        schedule: the learning rate's factor at a step, from the step and the number of steps.
        guard: go back to the last good state where the loss jumps.
        end_of_epoch: called with the stage and the number of epochs done, in every process.
        after_step: called after every optimizer step.
        log_every: optimizer steps.
    """

    name: str
    data: Sequence[Encoded]
    parameters: list[dict[str, Any]]
    learning_rate: float
    epochs: float
    total_batch: int
    schedule: Callable[[int, int], float]
    guard: bool = False
    end_of_epoch: Callable[["Stage", int], None] | None = None
    after_step: Callable[[], None] | None = None
    log_every: int = 50

    @property
    def steps_of_data(self) -> list[int]:
        """Optimizer steps in a pass over each data set: whole batches, at least one."""
        return [max(1, len(data) // self.total_batch) for data in self.data]

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the stage, at least one."""
        return max(1, int(sum(self.steps_of_data) * self.epochs))


def linear(step: int, total: int) -> float:
    """From 1 to 0, without a warm-up."""
    return max(0.0, 1 - step / max(1, total))


def warm_constant(step: int, total: int) -> float:
    """1 % of the steps to warm up, then 1."""
    return min(1.0, (step + 1) / max(1, math.ceil(0.01 * total)))


def warm_linear(step: int, total: int) -> float:
    """1 % of the steps to warm up, then from 1 to 0."""
    return warm_constant(step, total) * linear(step, total)


@dataclass
class Guard:
    """The divergence guard: mean losses of intervals, and the state at the end of the last good one."""

    losses: list[torch.Tensor] = field(default_factory=list)
    reference: float | None = None
    data: int = 0
    reverted: int = 0
    in_a_row: int = 0
    good: dict[str, Any] | None = None


class StageRun:
    """One stage in progress."""

    def __init__(self, run: "Run", stage: Stage, objective: Any, number: int) -> None:
        self._run, self.stage, self.objective, self.number = run, stage, objective, number
        self.accelerator = run.accelerator
        self.trained = [p for group in stage.parameters for p in group["params"]]
        self.step, self.guard = 0, Guard()
        self.loss, self.parts, self.rates = torch.zeros(()), dict[str, torch.Tensor](), list[float]()
        self.started = time.monotonic()

    def run(self, state: dict[str, Any] | None) -> None:
        """Train from the first step, or from where an interrupted training's state stands."""
        run, stage, total = self._run, self.stage, self.stage.total_steps
        # Saved in training mode, as a model on the way is; and on its device before the optimizer sees it.
        self.objective.requires_grad_(False).to(self.accelerator.device).train()
        for parameter in self.trained:
            parameter.requires_grad_(True)
        optimizer = torch.optim.AdamW(stage.parameters, lr=stage.learning_rate, eps=1e-8, weight_decay=0.0)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: stage.schedule(step, total))
        self.model = self.accelerator.prepare_model(self.objective)
        self.optimizer = self.accelerator.prepare_optimizer(optimizer)
        if state is not None and state["stage"] == self.number:
            self._load(state)
        first, ends = self.step, self._epoch_ends()
        run.log(f"{stage.name} begins: {total} steps of {stage.total_batch}" + (f", {first} are done" if first else ""))
        for step, data, micro_batches in self._steps(first):
            self._train_step(step, data, micro_batches)
            self.step = step + 1
            if self.step % stage.log_every == 0 or self.step == total:
                self._report(first)
            if self.step in ends and stage.end_of_epoch is not None:
                stage.end_of_epoch(stage, ends.index(self.step) + 1)
                self.objective.train()
            if self.step % run.save_steps == 0 or self.step == total:
                self._save()
        # Takes mixed precision's wrapper off the objective's forward, too: the next stage puts on its own, but only on
        # what accelerate has not marked.
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        vars(self.objective).pop("_is_accelerate_prepared", None)
        self.accelerator.free_memory()

    def _train_step(self, step: int, data: int, micro_batches: list[list[int]]) -> None:
        """One optimizer step of this process."""
        stage, device = self.stage, self.accelerator.device
        self.objective.before_step()
        scale = 1.0 if self.accelerator.scaler is None else self.accelerator.scaler.get_scale()
        losses = []
        for i, indices in enumerate(micro_batches):
            batch = {k: v.to(device, non_blocking=True) for k, v in stage.data[data].batch(indices).items()}
            alone = i < len(micro_batches) - 1
            # Gradients are averaged over the processes with the last of them only.
            with self.accelerator.no_sync(self.model) if alone else contextlib.nullcontext():
                loss, self.parts = self.model(batch)
                self.accelerator.backward(loss / len(micro_batches))
            self.objective.after_backward(scale)
            losses.append(loss.detach().float())
        self.loss = torch.stack(losses).mean()
        self.accelerator.clip_grad_norm_(self.trained, MAX_NORM)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        if stage.after_step is not None:
            stage.after_step()
        if stage.guard:
            self._watch(step, data, len(micro_batches))

    def _steps(self, first: int) -> Iterator[tuple[int, int, list[list[int]]]]:
        """Yield the steps from ``first`` on: number, data set, and this process's micro-batches."""
        step, epoch, size = 0, 0, self._run.micro_batch
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        while step < self.stage.total_steps:
            for number, data in enumerate(self.stage.data):
                for chosen in deal(data, self.stage.total_batch, (self._run.seed, self.number, epoch, number)):
                    if step == self.stage.total_steps:
                        return
                    if step >= first:
                        share = chosen[rank::world]
                        yield step, number, [share[i : i + size] for i in range(0, len(share), size)]
                    step += 1
            epoch += 1

    def _epoch_ends(self) -> list[int]:
        """The steps after which an epoch is over; the last one may be cut short."""
        each, total = sum(self.stage.steps_of_data), self.stage.total_steps
        return sorted({*range(each, total + 1, each), total})

    def _watch(self, step: int, data: int, micro_batches: int) -> None:
        """Go back to the last good state where the loss has jumped."""
        guard = self.guard
        if guard.data != data:
            # Another data set's losses are no measure for this one's.
            guard.data, guard.reference, guard.losses = data, None, []
        guard.losses.append(self.loss)
        last = step + 1 == self.stage.total_steps
        if len(guard.losses) * micro_batches < GUARD_INTERVAL and not last:
            return
        mean = float(self.accelerator.reduce(torch.stack(guard.losses).mean(), "mean"))
        guard.losses = []
        if math.isfinite(mean) and (guard.reference is None or mean <= GUARD_FACTOR * guard.reference):
            guard.reference, guard.in_a_row, guard.good = mean, 0, self._snapshot()
            return
        guard.reverted += 1
        guard.in_a_row += 1
        if guard.good is None or guard.in_a_row > _GUARD_PATIENCE:
            raise self._diverged(step, mean)
        self._run.log(f"{self.stage.name} step {step}: loss {mean:.4g}, back to the last good state")
        self._restore(guard.good)

    def _diverged(self, step: int, loss: float) -> CompressionError:
        where = f"stage {self.stage.name}, step {step}"
        return CompressionError(f"{where}: the training diverges (loss {loss:.4g}); lower the learning rate")

    def _snapshot(self) -> dict[str, Any]:
        """The trained parameters, the optimizer, and each process's own state of the objective, on the CPU."""
        return _cpu({"parameters": self.trained, "optimizer": self.optimizer.state_dict()}) | self._own_states()

    def _restore(self, snapshot: dict[str, Any]) -> None:
        """Take a snapshot back; the learning rate stays the schedule's."""
        with torch.no_grad():
            for parameter, value in zip(self.trained, snapshot["parameters"], strict=True):
                parameter.copy_(value)
        rates = [group["lr"] for group in self.optimizer.param_groups]
        # A copy, for the optimizer goes on with the very tensors, and the snapshot may be needed again.
        self.optimizer.load_state_dict(_cpu(snapshot["optimizer"]))
        self.objective.load_own_state(snapshot["objective"][self.accelerator.process_index])
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def _save(self) -> None:
        if not math.isfinite(float(self.loss)) and not self.stage.guard:
            raise self._diverged(self.step, float(self.loss))
        if self.guard.losses:
            # One process writes the guard, for all of them.
            self.guard.losses = list(self.accelerator.reduce(torch.stack(self.guard.losses), "mean"))
        student = {id(parameter) for parameter in self.objective.student.parameters()}
        others = {n: p for n, p in self.objective.named_parameters() if id(p) not in student}
        state = {
            "stage": self.number,
            "step": self.step,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": {"last_epoch": self.scheduler.last_epoch},
            "others": _cpu(others),
            "guard": _cpu(vars(self.guard)),
            **self._own_states(),
        }
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        self._run.save(state, self.objective.student)

    def _own_states(self) -> dict[str, Any]:
        """The objective's own state in every process: each has seen other samples."""
        return {"objective": gather_object([_cpu(self.objective.own_state())])}

    def _load(self, state: dict[str, Any]) -> None:
        """Take up a state; the student's weights come from its folder and are there already."""
        self.step = state["step"]
        self.optimizer.load_state_dict(state["optimizer"])
        named = dict(self.objective.named_parameters())
        with torch.no_grad():
            for name, value in state["others"].items():
                named[name].copy_(value)
        self.objective.load_own_state(state["objective"][self.accelerator.process_index])
        self.scheduler.last_epoch = state["scheduler"]["last_epoch"]
        self.scheduler._last_lr = [group["lr"] for group in self.optimizer.param_groups]
        self.guard = Guard(**state["guard"])
        self.guard.losses = [loss.to(self.accelerator.device) for loss in self.guard.losses]
        if self.accelerator.scaler is not None and "scaler" in state:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        set_random_state(state["rng"][self.accelerator.process_index], self.accelerator.device)

    def _report(self, first: int) -> None:
        """The line of the log: rate, loss and its parts, seconds a step, minutes an epoch, hours to go."""
        stage = self.stage
        loss, parts = float(self.loss), {name: float(part) for name, part in self.parts.items()}
        if not math.isfinite(loss) and not stage.guard:
            raise self._diverged(self.step, loss)
        seconds = (time.monotonic() - self.started) / max(1, self.step - first)
        each = sum(stage.steps_of_data)
        rates = " ".join(f"{math.log10(rate):.2f}" if rate else "-inf" for rate in self.rates)
        terms = " ".join(f"{name} {value:.4g}" for name, value in parts.items())
        self._run.log(
            f"{stage.name} ep {self.step / each:.2f} lrp {rates}"
            + (f" rc {self.guard.reverted}" if stage.guard else "")
            + f" loss {loss:.4g} ll {terms} it {seconds:.2f}s ep {seconds * each / 60:.1f}m "
            f"eta {seconds * (stage.total_steps - self.step) / 3600:.2f}h"
        )
        values = {"loss": loss, "learning_rate": self.rates[0]} | parts
        self._run.scalars({f"{stage.name}/{name}": value for name, value in values.items()}, self.step)


def deal(data: Encoded, batch: int, key: tuple[int, ...]) -> list[list[int]]:
    """Deal a data set out to optimizer steps, at random, texts of like length together: it saves padding.

    Some hundred texts, drawn at random, are sorted by length and cut into steps, whose order is random again.

    Args:
        data: what is dealt out; a rest smaller than a batch is left out.
        batch: samples a step. A smaller data set is gone through several times for one.
        key: decides all that is random.
    """
    seed = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big") >> 1
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data), generator=generator).tolist()
    order = (order * batch)[:batch] if len(order) < batch else order[: len(order) // batch * batch]
    steps: list[list[int]] = []
    for i in range(0, len(order), _SORTED_STEPS * batch):
        some = sorted(order[i : i + _SORTED_STEPS * batch], key=data.length)
        cut = [some[j : j + batch] for j in range(0, len(some), batch)]
        steps += [cut[j] for j in torch.randperm(len(cut), generator=generator).tolist()]
    return steps


def _cpu(value: Any) -> Any:
    """Copy tensors, however deep, to the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {k: _cpu(v) for k, v in value.items()}
    return [_cpu(v) for v in value] if isinstance(value, list) else value


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The state of the random numbers that dropout draws in this process."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Take up what :func:`random_state` returned."""
    torch.set_rng_state(state["cpu"])
    # A state of a CPU may go on on a GPU.
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
