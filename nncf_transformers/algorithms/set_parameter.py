"""Parameters that are filled with a value."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from nncf_transformers.algorithms import schedules
from nncf_transformers.algorithms.base import Algorithm, Batch, Clock
from nncf_transformers.config.errors import ConfigError
from nncf_transformers.config.model import SetParameterConfig
from nncf_transformers.config.parameters import resolve_parameters


class SetParameter(Algorithm):
    """Fills parameters once, or before every step between two epochs."""

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
        self._names = tuple(resolve_parameters(self.config.parameters, model, f"{self.config.place}.params"))

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
            progress = ((clock.epoch or 0.0) - config.start_epoch) / (config.end_epoch - config.start_epoch)
            value = schedules.level(progress, config.init_value, config.final_value, config.form)
        for name in self._names:
            model.get_parameter(name).fill_(value)

    def state(self) -> dict[str, Any]:
        return {"names": list(self._names), "over": self._over}

    def load_state(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        self._names, self._over = tuple(state["names"]), bool(state["over"])
