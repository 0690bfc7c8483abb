"""The learning rate of every optimizer step, as a recipe says it."""

import torch
from torch import nn

from nncf_transformers.algorithms.base import Algorithm, Clock
from nncf_transformers.algorithms.rates import rate_at
from nncf_transformers.config.model import LearningRateConfig


class LearningRate(Algorithm):
    """Says the model's learning rate; the compression sets it, for it knows the groups that have rates of their own."""

    def __init__(self, config: LearningRateConfig) -> None:
        self.config = config
        self._now: float | None = None

    def rate(self, step: int, clock: Clock) -> float | None:
        """The learning rate of the step that follows ``step`` done ones; None for the optimizer's own."""
        if clock.steps_per_epoch is None:
            return rate_at(self.config.pieces, 0.0)
        return rate_at(self.config.pieces, step / clock.steps_per_epoch, clock.steps_per_epoch)

    def before_update(self, model: nn.Module, optimizer: torch.optim.Optimizer, clock: Clock) -> None:
        self._now = self.rate(clock.step, clock)

    def statistics(self, model: nn.Module) -> dict[str, float]:
        """The rate of the latest step."""
        return {} if self._now is None else {"learning_rate": self._now}
