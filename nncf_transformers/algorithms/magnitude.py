"""Magnitude sparsity: the smallest weights are masked, more and more of them as training goes on.

The weights themselves are never set to zero while training lasts: each update ranks all of them anew, so a masked
weight that has become large among the others comes back, with the value that it had. A recipe may forbid that, and may
rank by where training has moved the weights instead of by their size.
"""

import logging
import math
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
    apply_magnitude_binary_mask,
    lift,
    masked_fraction,
    masks,
    pool,
    refuse_masked,
    settled_masks,
    target_layers,
)
from nncf_transformers.algorithms.ranking import importance, keep_in_groups, keep_largest, read_structure, zero_part
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

    def level(self, step: int, initial: float | None = None) -> float:
        """Sparsity for the optimizer step that follows ``step`` done ones, from :attr:`start` on.

        Args:
            step: see above.
            initial: what a tensor had at the start, where the configuration leaves that to the tensor.
        """
        config = self.config
        first = config.initial_sparsity if config.initial_sparsity is not None else initial or 0.0
        if config.initial_sparsity is None and first >= config.final_sparsity:
            return first
        if config.schedule == "multistep":
            points = [self._step(epoch) for epoch in config.multistep_epochs]
            return schedules.multistep(step, points, config.multistep_sparsities)
        # Not from step numbers: the interval may begin and end between two steps.
        epochs = config.end_epoch - config.start_epoch
        progress = 1.0 if step >= self.end else (step / self.steps_per_epoch - config.start_epoch) / epochs
        return schedules.level(progress, first, config.final_sparsity, config.schedule, config.power, config.concave)

    def latest_update(self, step: int) -> int | None:
        """The last step up to ``step`` at which the masks are to be updated; None before the start."""
        if step < self.start:
            return None
        often = schedules.latest_update(step, self.start, self.config.update_frequency, self.steps_per_epoch)
        steps = [often, self.end]
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
        self._block, self._pattern = read_structure(config.structure)
        if self._by_unit and (config.importance == "movement" or config.initial_sparsity is None):
            raise UsageError(
                f"{self._place}.structure: {config.structure}s are ranked by magnitude, from a sparsity that is given; "
                "take another structure, or say importance and initial_sparsity"
            )
        self._groups: list[Group] = []
        self._masked: tuple[str, ...] = ()
        self._level = 0.0
        self._frozen = False
        # By name of its scores, the share of zeros that a tensor began with, where that is its first level.
        self._initial: dict[str, float] = {}
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
        summed, config = self.config.importance == "movement", self.config
        taken: dict[str, Mask] = {}
        if not config.regrow:
            # A pruning that follows another one of the same weights goes on with its masks.
            for name, mask in settled_masks(model, config.start_epoch).items():
                if shapes.get(name) == tuple(mask.mask.shape) and (mask.accumulated is not None or not summed):
                    taken[name] = mask
        refuse_masked(config, model, [name for name in shapes if name not in taken])
        for name, shape in shapes.items():
            mask = taken.get(name) or add_mask(model, name, shape, summed=summed)
            mask.settled = config.end_epoch if config.leave_enabled and not config.regrow else None
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

    @torch.no_grad()
    def before_update(self, model: nn.Module, optimizer: torch.optim.Optimizer, clock: Clock) -> None:
        """Add -gradient * weight to the scores of movement pruning; of a masked weight the gradient is zero."""
        if self.config.importance != "movement" or self._frozen:
            return
        # Both set by mixed precision where the optimizer itself takes the scale off the gradients, or passes over a
        # step whose gradients overflowed.
        scale, overflow = (getattr(optimizer, name, None) for name in ("grad_scale", "found_inf"))
        if overflow is not None and bool(overflow):
            return
        for name, mask in self._own_masks(model).items():
            weight = model.get_parameter(name)
            if weight.grad is not None and mask.accumulated is not None:
                product = weight.grad.float() * weight
                mask.accumulated.sub_(product if scale is None else product / scale)

    def statistics(self, model: nn.Module) -> dict[str, float]:
        """The masked part of the weights that have masks, and what the schedule asks for."""
        sparsity = masked_fraction(model, self._masked)
        return {} if sparsity is None else {"sparsity": sparsity, "sparsity_level": self._level}

    def state(self) -> dict[str, Any]:
        state = {
            "masked": list(self._masked),
            "level": self._level,
            "updated": self._updated,
            "frozen": self._frozen,
        }
        return state | {"initial": self._initial} if self._initial else state

    def load_state(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        self._masked = tuple(state["masked"])
        self._level = float(state["level"])
        self._updated = int(state["updated"])
        self._initial = dict(state.get("initial", {}))
        own = self._own_masks(model)
        # Checkpoints of before know it by the masks alone.
        self._frozen = bool(state.get("frozen", own and all(mask.frozen for mask in own.values())))
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
            self._update(model, schedule, last)
            self._updated = due
        if step >= schedule.freeze:
            for name, mask in self._own_masks(model).items():
                if self.config.leave_enabled:
                    mask.freeze()
                else:
                    lift(model, name, mask)
            self._frozen = True

    @torch.no_grad()
    def _update(self, model: nn.Module, schedule: Schedule, step: int) -> None:
        """Rank all weights anew and mask the smallest."""
        scores = self._scores(model)
        if self._updated < 0 and self.config.initial_sparsity is not None:
            self._warn_of_lost_zeros(model, scores)
        if self.config.initial_sparsity is None and not self._initial:
            self._initial = {name: self._zero_part(model, name) for name in scores}
        own = self._own_masks(model)
        # What is masked has no gradient, so movement says nothing of it any more.
        if not self.config.regrow or self.config.importance == "movement":
            first = {group.name: group.rows[0] for group in self._groups}
            for name, score in scores.items():
                gone = ~own[f"{first.get(name, name)}.weight"].mask.view(score.shape)
                scores[name] = score.masked_fill(gone, -math.inf)
        weights = sum(score.numel() for score in scores.values())
        zeros = sum(part * scores[name].numel() for name, part in self._initial.items())
        self._level = schedule.level(step, zeros / max(1, weights))
        for name, mask in self._by_parameter(model, self._keep(scores, schedule, step)).items():
            # In place: masks of one group must not share their memory, or the model cannot be saved.
            own[name].mask.copy_(mask if self.config.regrow else mask & own[name].mask)

    def _warn_of_lost_zeros(self, model: nn.Module, scores: Mapping[str, torch.Tensor]) -> None:
        """Say that a schedule begins below the sparsity that the weights have, so that zeros are trained again."""
        if self._by_unit:
            return
        sizes = {name: model.get_parameter(f"{name}.weight").numel() for name in scores}
        zeros = sum(zero_part(model.get_parameter(f"{name}.weight")) * size for name, size in sizes.items())
        zeros /= max(1, sum(sizes.values()))
        first = float(self.config.initial_sparsity or 0.0)
        if zeros > first + 0.01:
            hint = " (init_sparsity: __FROM_PARAM__ in a recipe)" if not self.config.regrow else ""
            logger.warning(
                "%s: begins at %.0f %% zeros, and the weights have %.0f %%: the others are trained again; begin at "
                "theirs to keep them%s",
                self._place,
                100 * first,
                100 * zeros,
                hint,
            )

    def _zero_part(self, model: nn.Module, layer: str) -> float:
        """The part of a layer's weight that is zero, or masked by a pruning that went before."""
        mask = self._own_masks(model)[f"{layer}.weight"].mask
        return zero_part(apply_magnitude_binary_mask(model.get_parameter(f"{layer}.weight"), mask))

    def _keep(self, scores: dict[str, torch.Tensor], schedule: Schedule, step: int) -> dict[str, torch.Tensor]:
        """What stays, by the name of the scores."""
        level = self._level
        if self._pattern is not None:
            n, m = self._pattern
            count = m - n if step >= schedule.end else min(m - n, round(m * level))
            return {name: keep_in_groups(score, m, count) for name, score in scores.items()}
        together = self.config.ranking == "global"
        if not self._initial or together:
            return keep_largest(scores, level, together=together, spare_one=self._by_unit)
        levels = {name: schedule.level(step, self._initial[name]) for name in scores}
        return {name: keep_largest({name: score}, levels[name])[name] for name, score in scores.items()}

    def _scores(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """Importance by layer, in the shape of its mask; or by group, of shape (units,)."""
        if self._by_unit:
            return {group.name: self._unit_scores(model, group) for group in self._groups}
        rows, columns = self._block
        own, scores = self._own_masks(model), {}
        for name in self._masked:
            score = own[name].accumulated
            if score is None:
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
