"""Another weight decay, from some epoch on."""

import torch
from torch import nn

from nncf_transformers.algorithms.base import OWN_GROUP, Algorithm, Clock
from nncf_transformers.config.model import WeightDecayConfig


class WeightDecay(Algorithm):
    """Sets the weight decay of all groups of the model's own parameters."""

    def __init__(self, config: WeightDecayConfig) -> None:
        self.config = config

    def before_update(self, model: nn.Module, optimizer: torch.optim.Optimizer, clock: Clock) -> None:
        if clock.within(self.config.start_epoch, None):
            for group in optimizer.param_groups:
                if OWN_GROUP not in group:
                    group["weight_decay"] = self.config.value
