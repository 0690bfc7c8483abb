"""Magnitude sparsity: the smallest weights are masked, more and more of them as training goes on.

The weights themselves are never set to zero while training lasts: each update ranks all of them anew, so a masked
weight that has become large among the others comes back, with the value that it had.
"""

import logging
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nncf_transformers.algorithms import schedules
from nncf_transformers.algorithms.base import Algorithm, Batch, Clock
from nncf_transformers.algorithms.masks import (
    Mask,
    add_mask,
    masked_fraction,
    masks,
    pool,
    refuse_masked,
    target_layers,
)
from nncf_transformers.algorithms.removal import remove_masked_units
from nncf_transformers.config import MagnitudeSparsityConfig
from nncf_transformers.errors import UsageError
from nncf_transformers.structure import Group, find_groups, unit_masks

logger = logging.getLogger(__name__)

# What a file in the schema of NNCF 1 and 2 calls the keys that messages name.
_LEGACY_KEYS = {
    "end_epoch": "params.sparsity_target_epoch",
    "multistep_epochs": "params.multistep_steps",
    "steps_per_epoch": "params.steps_per_epoch",
}


@dataclass(frozen=True)
class Schedule:
    """A configuration's schedule in optimizer steps.

    Attributes:
        config: what was asked for.
        steps_per_epoch: optimizer steps in an epoch.
    """

    config: MagnitudeSparsityConfig
    steps_per_epoch: int

    @property
    def start(self) -> int:
        """The step that is the first with a mask."""
        return self._step(self.config.start_epoch)

    @property
    def end(self) -> int:
        """The first step with the final sparsity."""
        return self._step(self.end_epoch)

    @property
    def end_epoch(self) -> float:
        if self.config.schedule == "multistep":
            return max(self.config.multistep_epochs, default=self.config.start_epoch)
        return self.config.end_epoch

    @property
    def freeze(self) -> int:
        """The step from which on the masks are final."""
        return self.end if self.config.freeze_epoch is None else self._step(self.config.freeze_epoch)

    def level(self, step: int) -> float:
        """Sparsity for the optimizer step that follows ``step`` done ones, from :attr:`start` on."""
        config = self.config
        if config.schedule == "multistep":
            points = [self._step(epoch) for epoch in config.multistep_epochs]
            return schedules.multistep(step, points, config.multistep_sparsities)
        # Not from step numbers: the interval may begin and end between two steps.
        epochs = config.end_epoch - config.start_epoch
        progress = 1.0 if step >= self.end else (step / self.steps_per_epoch - config.start_epoch) / epochs
        return schedules.level(
            progress, config.initial_sparsity, config.final_sparsity, config.schedule, config.power, config.concave
        )

    def latest_update(self, step: int) -> int | None:
        """The last step up to ``step`` at which the masks are to be updated; None before the start.

        It depends on nothing but the step, so a training that is resumed updates its masks when one without a break
        would have done so.
        """
        if step < self.start:
            return None
        every = 1
        if self.config.update_frequency is not None:
            every = max(1, int(self.config.update_frequency * self.steps_per_epoch + 1e-6))
        steps = [step - (step - self.start) % every, self.end]
        if self.config.schedule == "multistep":
            steps += [self._step(epoch) for epoch in self.config.multistep_epochs]
        return max(due for due in steps if due <= step)

    def _step(self, epoch: float) -> int:
        # The small number: 0.1 epochs of 30 steps are 3 steps, and 3.0000000000000004 in floating point.
        return max(0, math.ceil(epoch * self.steps_per_epoch - 1e-6))


class MagnitudeSparsity(Algorithm):
    """Mask the weights, blocks, heads or channels of least magnitude, by a schedule. Inventory 2.4 and 5.5."""

    def __init__(self, config: MagnitudeSparsityConfig) -> None:
        self.config = config
        self._place = config.place or config.algorithm
        self._block, self._pattern = _read_structure(config.structure)
        self._groups: list[Group] = []
        self._masked: tuple[str, ...] = ()
        self._level = 0.0
        self._frozen = False
        # The step whose update the masks have seen last.
        self._updated = -1

    @property
    def samples(self) -> int:
        return 1

    def attach(self, model: nn.Module, batches: Sequence[Batch]) -> None:
        layers = target_layers(self.config, model, batches[0])
        if self._by_unit:
            self._groups = self._whole_groups(model, layers)
            kept = {group.name: torch.ones(group.count, dtype=torch.bool) for group in self._groups}
            shapes = {name: tuple(mask.shape) for name, mask in self._by_parameter(model, kept).items()}
        else:
            shapes = {f"{layer}.weight": self._mask_shape(model, layer) for layer in layers}
        refuse_masked(self.config, model, shapes)
        for parameter, shape in shapes.items():
            add_mask(model, parameter, shape)
        self._masked = tuple(shapes)

    def begin(self, model: nn.Module, clock: Clock) -> None:
        if self._schedule(clock) is None and not self._frozen:
            logger.warning(
                "%s: nothing is masked until the length of an epoch is known; steps_per_epoch sets it", self._place
            )
        self.on_step(model, clock)

    def on_step(self, model: nn.Module, clock: Clock) -> None:
        """Mask what is to be masked for the next step.

        Raises:
            UsageError: the schedule does not fit the training. Not at the start only: the length of an epoch may
                become known later.
        """
        if self._frozen:
            return
        schedule = self._schedule(clock)
        if schedule is None:
            return
        if clock.total_steps is not None and schedule.end > clock.total_steps:
            key = self._key("multistep_epochs" if self.config.schedule == "multistep" else "end_epoch")
            raise UsageError(
                f"{self._place}.{key}: the schedule is longer than the training: it ends at epoch "
                f"{schedule.end_epoch:g} (step {schedule.end}), the training at step {clock.total_steps}; "
                f"raise --num_train_epochs or lower {key}"
            )
        self._advance(model, schedule, clock.step)

    def statistics(self, model: nn.Module) -> dict[str, float]:
        """The masked part of the weights that have masks, and what the schedule asks for."""
        sparsity = masked_fraction(model, self._masked)
        return {} if sparsity is None else {"sparsity": sparsity, "sparsity_level": self._level}

    def state(self) -> dict[str, Any]:
        return {"masked": list(self._masked), "level": self._level, "updated": self._updated}

    def load_state(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        self._masked = tuple(state["masked"])
        self._level = float(state["level"])
        self._updated = int(state["updated"])
        own = self._own_masks(model)
        self._frozen = bool(own) and all(mask.frozen for mask in own.values())
        if self._by_unit and own:
            layers = {name.rpartition(".")[0] for name in own}
            self._groups = [group for group in self._fitting_groups(model) if layers.issuperset(group.members)]

    def finalize(self, model: nn.Module) -> None:
        if not self._frozen:
            logger.warning(
                "%s: the schedule is not over; the sparsity stays at %.1f %%", self._place, 100 * self._level
            )
        if self._by_unit:
            remove_masked_units(model)
            self._masked = ()

    @property
    def _by_unit(self) -> bool:
        return self.config.structure in ("head", "channel")

    def _key(self, key: str) -> str:
        """What the configuration's file calls a setting."""
        return _LEGACY_KEYS[key] if self.config.legacy_scopes else key

    def _schedule(self, clock: Clock) -> Schedule | None:
        """The schedule in steps; None while the length of an epoch is unknown."""
        configured, actual = self.config.steps_per_epoch, clock.steps_per_epoch
        if configured is not None and actual is not None and configured != actual and not self._frozen:
            raise UsageError(
                f"{self._place}.{self._key('steps_per_epoch')}: Actual steps per epoch ({actual}) and those of the "
                f"configuration ({configured}) differ; write {actual}, or leave it out to have them counted"
            )
        steps = configured or actual
        return None if not steps else Schedule(self.config, steps)

    def _advance(self, model: nn.Module, schedule: Schedule, step: int) -> None:
        """Bring the masks to where they are to be after ``step`` optimizer steps."""
        last = min(step, schedule.freeze)
        due = schedule.latest_update(last)
        if due is not None and due > self._updated:
            self._update(model, schedule.level(last), final=last >= schedule.end)
            self._updated = due
        if step >= schedule.freeze:
            for mask in self._own_masks(model).values():
                mask.freeze()
            self._frozen = True

    @torch.no_grad()
    def _update(self, model: nn.Module, level: float, final: bool) -> None:
        """Rank all weights anew and mask the smallest."""
        scores = self._scores(model)
        if self._pattern is not None:
            n, m = self._pattern
            count = m - n if final else min(m - n, round(m * level))
            kept = {name: keep_in_groups(score, m, count) for name, score in scores.items()}
        else:
            together = self.config.ranking == "global"
            kept = keep_largest(scores, level, together=together, spare_one=self._by_unit)
        own = self._own_masks(model)
        for name, mask in self._by_parameter(model, kept).items():
            # In place: masks of one group must not share their memory, or the model cannot be saved.
            own[name].mask.copy_(mask)
        self._level = level

    def _scores(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """Importance by layer, in the shape of its mask; or by group, of shape (units,)."""
        if self._by_unit:
            return {group.name: self._unit_scores(model, group) for group in self._groups}
        rows, columns = self._block
        scores = {}
        for name in self._masked:
            score = importance(model.get_parameter(name), self.config.importance)
            if (rows, columns) != (1, 1):
                blocks = (score.shape[0] // rows, score.shape[1] // columns)
                score = pool(score, blocks) / (rows * columns)
            scores[name.removesuffix(".weight")] = score
        return scores

    def _unit_scores(self, model: nn.Module, group: Group) -> torch.Tensor:
        """Mean over all weights of a unit in all layers of its group: shape (units,)."""
        total, weights = torch.zeros(()), 0
        for name in group.members:
            weight = model.get_submodule(name).get_parameter("weight")
            shape = (group.count, 1) if name in group.rows else (1, group.count)
            score = pool(importance(weight, self.config.importance), shape).flatten()
            total, weights = total.to(score.device) + score, weights + weight.numel() // group.count
        return total / weights

    def _by_parameter(self, model: nn.Module, kept: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Turn what is kept by layer or group into masks by parameter."""
        if not self._by_unit:
            return {f"{layer}.weight": mask for layer, mask in kept.items()}
        found: dict[str, torch.Tensor] = {}
        for group in self._groups:
            found |= unit_masks(model, group, kept[group.name])
        return found

    def _own_masks(self, model: nn.Module) -> dict[str, Mask]:
        return {name: mask for name, mask in masks(model) if name in self._masked}

    def _fitting_groups(self, model: nn.Module) -> list[Group]:
        return [group for group in find_groups(model) if group.kind == self.config.structure]

    def _whole_groups(self, model: nn.Module, layers: Collection[str]) -> list[Group]:
        """The groups of which the configuration means every member."""
        groups = []
        for group in self._fitting_groups(model):
            missing = sorted(set(group.members) - set(layers))
            if not missing:
                groups.append(group)
            elif len(missing) < len(group.members):
                logger.warning(
                    "%s: the %ss of %s stay, for the scopes leave out %s",
                    self._place,
                    group.kind,
                    group.name,
                    ", ".join(missing),
                )
        if not groups:
            raise UsageError(
                f"{self._place}: no linear layer to make sparse: the scopes mean no {self.config.structure}s with all "
                "layers that belong to them; widen target_scopes or ignore less"
            )
        return groups

    def _mask_shape(self, model: nn.Module, layer: str) -> tuple[int, int]:
        """Shape of the mask of a layer's weight, where the structure is not one of heads or channels."""
        out, width = model.get_submodule(layer).get_parameter("weight").shape
        if self._pattern is not None and width % self._pattern[1]:
            raise UsageError(
                f"{self._place}.structure: {self.config.structure} does not divide the input of {layer}.weight "
                f"({out}x{width}); choose another structure, or name the layer in ignored_scopes"
            )
        rows, columns = self._block
        if out % rows or width % columns:
            raise UsageError(
                f"{self._place}.structure: blocks of {self.config.structure} do not divide {layer}.weight "
                f"({out}x{width}); choose another block, or name the layer in ignored_scopes"
            )
        return out // rows, width // columns


def importance(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """How much each weight of a layer counts.

    Args:
        weight: of any shape.
        kind: ``abs``: |w|; ``normed_abs``: |w| / ||w||_2, which makes layers comparable (inventory 2.4).
    """
    magnitude = weight.detach().float().abs()
    if kind == "normed_abs":
        # A layer of zeros stays one.
        magnitude = magnitude / magnitude.norm().clamp_min(torch.finfo(torch.float32).tiny)
    return magnitude


def keep_largest(
    scores: Mapping[str, torch.Tensor], level: float, together: bool = False, spare_one: bool = False
) -> dict[str, torch.Tensor]:
    """Leave out exactly round(n * level) elements of least score (inventory 5.5).

    Args:
        scores: tensors by name, of any shape.
        level: the part to leave out.
        together: whether n counts the elements of all tensors, ranked together, or those of each.
        spare_one: whether the largest element of each tensor stays whatever ``level`` says.

    Returns:
        By name, a boolean tensor of the same shape, False for what is left out.
    """
    if not together:
        return {name: _keep([score], level, spare_one)[0] for name, score in scores.items()}
    return dict(zip(scores, _keep(list(scores.values()), level, spare_one), strict=True))


def _keep(scores: Sequence[torch.Tensor], level: float, spare_one: bool) -> list[torch.Tensor]:
    # A copy, even of a single tensor.
    every = torch.cat([score.flatten() for score in scores])
    sizes = [score.numel() for score in scores]
    count = round(len(every) * level)
    if spare_one:
        for part in every.split(sizes):
            part[part.argmax()] = math.inf
        count = min(count, len(every) - len(scores))
    kept = torch.ones_like(every, dtype=torch.bool)
    # Selected by index, not by a threshold: among equal scores just as many go as the number asks for.
    kept[every.topk(count, largest=False, sorted=False).indices] = False
    return [part.view(score.shape) for part, score in zip(kept.split(sizes), scores, strict=True)]


def keep_in_groups(scores: torch.Tensor, size: int, count: int) -> torch.Tensor:
    """Leave out the ``count`` elements of least score in every ``size`` neighbours of a row.

    Args:
        scores: shape (rows, columns); ``size`` divides the number of columns.
        size: M of N:M.
        count: M - N.

    Returns:
        A boolean tensor of the same shape, False for what is left out.
    """
    groups = scores.reshape(-1, size)
    smallest = groups.topk(count, dim=-1, largest=False, sorted=False).indices
    kept = torch.ones_like(groups, dtype=torch.bool).scatter_(-1, smallest, False)
    return kept.view(scores.shape)


def _read_structure(structure: str) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """Read rows and columns of a block, and N and M of N:M."""
    if match := re.fullmatch(r"(\d+)x(\d+)", structure):
        return (int(match[1]), int(match[2])), None
    if match := re.fullmatch(r"(\d+):(\d+)", structure):
        return (1, 1), (int(match[1]), int(match[2]))
    return (1, 1), None
