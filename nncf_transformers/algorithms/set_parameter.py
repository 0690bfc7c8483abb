"""Parameters that are filled with a value."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from nncf_transformers.algorithms import schedules
from nncf_transformers.algorithms.base import Algorithm, Batch, Clock
from nncf_transformers.config.errors import ConfigError
from nncf_transformers.config.model import SetParameterConfig
from nncf_transformers.config.parameters import resolve_parameters

logger = logging.getLogger(__name__)


class SetParameter(Algorithm):
    """Fills parameters once, or before every step between two epochs.

    Where the value changes only now and then, it holds between: SparseML let the optimizer train the parameters there.
    """

    def __init__(self, config: SetParameterConfig) -> None:
        if config.end_epoch is not None and config.end_epoch <= config.start_epoch:
            raise ConfigError(
                f"{config.place}.end_epoch: is {config.end_epoch:g}, must be greater than start_epoch, "
                f"{config.start_epoch:g}"
            )
        self.config = config
        self._names: tuple[str, ...] = ()
        self._over = False

    def attach(self, model: nn.Module, batches: Sequence[Batch]) -> None:
        missing: list[str] | None = None if self.config.strict else []
        place = f"{self.config.place}.params"
        self._names = tuple(resolve_parameters(self.config.parameters, model, place, missing=missing))
        for pattern in missing or ():
            logger.warning('%s: "%s" matches no parameter', place, pattern)

    def begin(self, model: nn.Module, clock: Clock) -> None:
        self.on_step(model, clock)

    @torch.no_grad()
    def on_step(self, model: nn.Module, clock: Clock) -> None:
        config = self.config
        if self._over or not clock.within(config.start_epoch, None):
            return
        self._over = config.end_epoch is None or clock.within(config.end_epoch, None)
        value = config.init_value
        if config.end_epoch is not None:
            progress = 1.0 if self._over else self._progress(clock, config.end_epoch)
            value = schedules.level(progress, config.init_value, config.final_value, config.form)
        for name in self._names:
            model.get_parameter(name).fill_(value)

    def _progress(self, clock: Clock, end_epoch: float) -> float:
        """The part of the interval that was over at the latest update."""
        config, length = self.config, clock.steps_per_epoch
        if not length:
            return 0.0
        start = clock.step_of(config.start_epoch) or 0
        latest = schedules.latest_update(clock.step, start, config.update_frequency, length)
        return (latest / length - config.start_epoch) / (end_epoch - config.start_epoch)

    def state(self) -> dict[str, Any]:
        return {"names": list(self._names), "over": self._over}

    def load_state(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        self._names, self._over = tuple(state["names"]), bool(state["over"])
