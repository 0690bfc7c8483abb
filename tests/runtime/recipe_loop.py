"""A training by hand of a tiny model, with dropout, that can be broken off and taken up again."""

import copy
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from tiny import tiny_batches, tiny_model
from torch import nn

from nncf_transformers import loading
from nncf_transformers.compression import Compression
from nncf_transformers.config import AlgorithmConfig, CompressionConfig
from nncf_transformers.loading import load_model

# Optimizer steps in an epoch, and in the whole training.
EPOCH, TOTAL = 4, 16


def settings(*algorithms: AlgorithmConfig) -> CompressionConfig:
    return CompressionConfig(algorithms=algorithms, source="test.yaml", raw={"algorithms": []})


class Loop:
    """A model in training.

    Attributes:
        model: compressed, unless ``config`` is None.
        losses: of every step, as numbers.
    """

    def __init__(self, config: CompressionConfig | None, model: nn.Module | None = None, **optimizer: Any) -> None:
        self.config = config
        self.model: Any = model if model is not None else tiny_model()
        self.batches = tiny_batches(self.model)
        self.losses: list[float] = []
        self.step = 0
        self._arguments = {"lr": 1e-2, "weight_decay": 0.1, **optimizer}
        if config is not None:
            compression = Compression(config)
            compression.start(self.model, self.batches)
            self._prepare(compression)
        else:
            self.optimizer = torch.optim.AdamW(self.model.parameters(), **self._arguments)

    def _prepare(self, compression: Compression) -> None:
        self.compression = compression
        compression.rows = lambda: self.batches
        self.optimizer = torch.optim.AdamW(self.model.parameters(), **self._arguments)
        compression.add_to(self.optimizer, self.model, steps_per_epoch=EPOCH, total_steps=TOTAL)

    def run(self, until: int = TOTAL) -> "Loop":
        """Train until so many optimizer steps are done."""
        self.model.train()
        while self.step < until:
            # Of dropout.
            torch.manual_seed(self.step)
            loss = self.model(**self.batches[self.step % EPOCH], return_dict=True).loss
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.losses.append(loss.item())
            self.step += 1
        return self

    def reloaded(self, folder: Path) -> "Loop":
        """Save everything, and go on from what was saved."""
        self.model.save_pretrained(folder)
        other = copy.copy(self)
        other.losses = list(self.losses)
        with mock.patch.object(loading, "_read_config", return_value=self.config):
            other.model = load_model(type(self.model), folder)
        compression = Compression.of(other.model)
        assert compression is not None and compression.clock.step == self.step
        other._prepare(compression)
        other.optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        return other

    def finish(self) -> "Loop":
        self.compression.finish(self.model)
        return self


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(first: nn.Module, second: nn.Module) -> bool:
    """Whether two models have the same tensors, bit for bit."""
    one, other = tensors(first), tensors(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
