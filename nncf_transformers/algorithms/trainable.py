"""Parameters that are trained, or frozen, in a part of the training only."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from nncf_transformers.algorithms.base import Algorithm, Batch, Clock
from nncf_transformers.config.model import TrainableConfig
from nncf_transformers.config.parameters import resolve_parameters
from nncf_transformers.errors import UsageError

logger = logging.getLogger(__name__)


class Trainable(Algorithm):
    """Switches the gradients of some parameters on or off.

    An optimizer passes over a parameter without a gradient: it does not move, by momentum or decay either.

    Attributes:
        names: the parameters.
    """

    def __init__(self, config: TrainableConfig) -> None:
        self.config = config
        self.names: tuple[str, ...] = ()
        # And whether they were trained before any method acted: a checkpoint does not hold that, the script says it.
        self._before: list[tuple[nn.Parameter, bool]] = []
        self._acts = False

    def attach(self, model: nn.Module, batches: Sequence[Batch]) -> None:
        config = self.config
        missing: list[str] | None = None if config.strict else []
        place = f"{config.place}.params"
        self.names = tuple(resolve_parameters(config.parameters, model, place, missing=missing))
        for pattern in missing or ():
            logger.warning('%s: "%s" matches no parameter', place, pattern)
        self._remember(model)

    def begin(self, model: nn.Module, clock: Clock) -> None:
        self.on_step(model, clock)
        config, start = self.config, clock.step_of(self.config.start_epoch)
        waits = start is None or clock.step < start
        thaws = waits if config.trainable else self._acts and config.end_epoch is not None
        several = torch.distributed.is_available() and torch.distributed.is_initialized()
        if thaws and several and torch.distributed.get_world_size() > 1:
            # DistributedDataParallel leaves out what is frozen when it is made, and its gradients would differ.
            raise UsageError(
                f"{config.place}: parameters that are frozen at first and trained later need a training in one "
                "process; start it without torchrun, or train them from the beginning"
            )

    def on_step(self, model: nn.Module, clock: Clock) -> None:
        acts = clock.within(self.config.start_epoch, self.config.end_epoch)
        if acts:
            # Every time: another such method may have come to its end.
            self._set(self.config.trainable)
        elif self._acts:
            self._set(None)
        self._acts = acts

    def state(self) -> dict[str, Any]:
        return {"names": list(self.names)}

    def load_state(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        self.names = tuple(state["names"])
        self._remember(model)

    def close(self) -> None:
        if self._acts:
            self._set(None)
            self._acts = False

    def _remember(self, model: nn.Module) -> None:
        self._before = [(p, p.requires_grad) for p in map(model.get_parameter, self.names)]

    def _set(self, trainable: bool | None) -> None:
        """Train all, or none; None for what they were before."""
        for parameter, before in self._before:
            trains = before if trainable is None else trainable
            parameter.requires_grad_(trains)
            if not trains:
                parameter.grad = None
