"""Modifiers of the training itself: its length, learning rate, weight decay, and single parameters (inventory 5.4)."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from nncf_transformers.config.errors import ConfigError, nearest
from nncf_transformers.recipe.modifiers.base import Modifier
from nncf_transformers.recipe.modifiers.fields import (
    MAX_EPOCH,
    End,
    Flag,
    Frequency,
    Groups,
    Interpolation,
    Params,
    Rate,
    Start,
    choice,
    mapping,
    number,
    whole,
    wrong,
)

_positive = number(above=0, high=MAX_EPOCH)
# A warm-up starts at 0.
RateFromZero = Annotated[float, number(low=0, high=1)]
Number = Annotated[float, number(low=-1e30, high=1e30)]


@dataclass(frozen=True, kw_only=True)
class EpochRangeModifier(Modifier):
    """How long the training is. Of several the largest end counts."""

    start_epoch: Start
    end_epoch: End


@dataclass(frozen=True, kw_only=True)
class LearningRateFunctionModifier(Modifier):
    """A learning rate that changes at every step, from ``init_lr`` to ``final_lr``."""

    lr_func: Annotated[str, choice("linear", "cosine", "cyclic_linear")]
    init_lr: RateFromZero
    final_lr: RateFromZero
    start_epoch: Start
    end_epoch: End
    cycle_epochs: Annotated[float, _positive] = 1.0
    param_groups: Groups = None
    update_frequency: Frequency = -1.0

    idle_fields: ClassVar[Mapping[str, Any]] = {"update_frequency": -1.0}

    def check(self, given: Mapping[str, Any]) -> None:
        """Like all, and it needs an end to go to."""
        super().check(given)
        if self.end_epoch < 0:
            raise self.wrong("end_epoch", "an epoch: the rate has to know when it arrives at final_lr")


@dataclass(frozen=True, kw_only=True)
class SetLearningRateModifier(Modifier):
    """A learning rate from some epoch on, until another one starts."""

    learning_rate: Rate
    param_groups: Groups = None
    start_epoch: Start = -1.0
    end_epoch: End = -1.0

    idle_fields: ClassVar[Mapping[str, Any]] = {"end_epoch": -1.0}

    @property
    def interval(self) -> tuple[float, float]:
        """It acts at one moment."""
        start = max(0.0, self.start_epoch)
        return start, start

    def check(self, given: Mapping[str, Any]) -> None:
        """An end has no effect, as in SparseML."""


def _settings(value: Any, place: str) -> dict[str, Any]:
    readers = {
        "gamma": number(above=0, high=1e6),
        "step_size": _positive,
        "milestones": _milestones,
        "lr_min": number(low=0, high=1),
        "cycle_epochs": whole(1),
    }
    settings: dict[str, Any] = {}
    for name, item in mapping(value, place).items():
        if name not in readers:
            hint = nearest(name, readers) or f"; known: {', '.join(readers)}"
            raise ConfigError(f'{place}: unknown setting "{name}"{hint}')
        settings[name] = readers[name](item, f"{place}.{name}")
    return settings


def _milestones(value: Any, place: str) -> tuple[float, ...]:
    if not isinstance(value, (list, tuple)) or not value:
        raise wrong(place, value, "a list of epochs")
    found = tuple(number(above=0, high=MAX_EPOCH)(item, f"{place}[{i}]") for i, item in enumerate(value))
    if list(found) != sorted(set(found)):
        raise wrong(place, value, "a list of rising epochs")
    return found


@dataclass(frozen=True, kw_only=True)
class LearningRateModifier(Modifier):
    """A learning rate by one of four classes of torch, with SparseML's names for their settings, all in epochs.

    StepLR: gamma, step_size. MultiStepLR: gamma, milestones, counted from the start of the stage. ExponentialLR:
    gamma, once an epoch. CosineAnnealingWarmRestarts: lr_min, cycle_epochs.
    """

    lr_class: Annotated[str, choice("StepLR", "MultiStepLR", "ExponentialLR", "CosineAnnealingWarmRestarts")]
    lr_kwargs: Annotated[Mapping[str, Any], _settings]
    init_lr: Rate
    start_epoch: Start
    end_epoch: End = -1.0
    update_frequency: Frequency = -1.0

    idle_fields: ClassVar[Mapping[str, Any]] = {"update_frequency": -1.0}
    ends_with_stage: ClassVar[bool] = True
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "StepLR": ("gamma", "step_size"),
        "MultiStepLR": ("gamma", "milestones"),
        "ExponentialLR": ("gamma",),
        "CosineAnnealingWarmRestarts": ("lr_min", "cycle_epochs"),
    }

    def check(self, given: Mapping[str, Any]) -> None:
        """Each class has settings of its own; milestones are inside its time."""
        super().check(given)
        needed = self.needs[self.lr_class]
        # SparseML made a StepLR of an ExponentialLR, and so wrote its step size into files.
        allowed = (*needed, "step_size") if self.lr_class == "ExponentialLR" else needed
        where = f"{self.place}.lr_kwargs"
        for name in needed:
            if name not in self.lr_kwargs:
                raise ConfigError(f"{where}: {self.lr_class} needs {name}; add it")
        for name in self.lr_kwargs:
            if name not in allowed:
                raise ConfigError(f"{where}.{name}: is no setting of {self.lr_class}, which has {', '.join(needed)}")
        if self.lr_class == "ExponentialLR" and self.lr_kwargs.get("step_size", 1.0) != 1.0:
            raise ConfigError(f"{where}.step_size: ExponentialLR steps once an epoch; take StepLR for other steps")
        start, end = self.interval
        for milestone in self.lr_kwargs.get("milestones", ()):
            if milestone <= start or 0 <= end <= milestone:
                raise ConfigError(f"{where}.milestones: {milestone:g} is not between start_epoch and end_epoch")

    def shifted(self, epochs: float) -> Self:
        """Milestones are epochs, too."""
        moved = super().shifted(epochs)
        if epochs == 0 or "milestones" not in self.lr_kwargs:
            return moved
        milestones = tuple(epoch + epochs for epoch in self.lr_kwargs["milestones"])
        return dataclasses.replace(moved, lr_kwargs={**self.lr_kwargs, "milestones": milestones})


@dataclass(frozen=True, kw_only=True)
class SetWeightDecayModifier(Modifier):
    """The optimizer's weight decay from some epoch on."""

    weight_decay: Annotated[float, number(low=0, high=1e6)]
    start_epoch: Start = -1.0
    param_groups: Groups = None
    end_epoch: End = -1.0

    idle_fields: ClassVar[Mapping[str, Any]] = {"end_epoch": -1.0}

    def check(self, given: Mapping[str, Any]) -> None:
        """An end has no effect, as in SparseML."""


@dataclass(frozen=True, kw_only=True)
class TrainableParamsModifier(Modifier):
    """Parameters that are frozen, or trained, for some time."""

    params: Params
    trainable: Flag = True
    params_strict: Flag = True
    start_epoch: Start = -1.0
    end_epoch: End = -1.0


@dataclass(frozen=True, kw_only=True)
class SetParamModifier(Modifier):
    """Parameters that are set to a number at ``start_epoch``, and trained as usual from there."""

    params: Params
    val: Number
    params_strict: Flag = True
    start_epoch: Start = 0.0
    end_epoch: End = -1.0

    idle_fields: ClassVar[Mapping[str, Any]] = {"end_epoch": -1.0}

    def check(self, given: Mapping[str, Any]) -> None:
        """An end has no effect, as in SparseML."""


@dataclass(frozen=True, kw_only=True)
class GradualParamModifier(Modifier):
    """Parameters that go from one number to another."""

    params: Params
    init_val: Number
    final_val: Number
    start_epoch: Start
    end_epoch: End
    update_frequency: Frequency
    inter_func: Interpolation = "linear"
    params_strict: Flag = True

    def check(self, given: Mapping[str, Any]) -> None:
        """Like all, and it needs an end to go to."""
        super().check(given)
        if self.end_epoch < 0:
            raise self.wrong("end_epoch", "an epoch: the value has to know when it arrives at final_val")
