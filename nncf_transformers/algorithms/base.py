"""What a compression method is to the rest of the runtime."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import nn

Batch = dict[str, torch.Tensor]


class Algorithm(ABC):
    """One compression method, configured; it changes a model in place.

    In place matters: the script that called us, the Trainer and the optimizer all hold references to the model and to
    its parameters, and all of them must keep seeing the model that is trained and saved.
    """

    @abstractmethod
    def attach(self, model: nn.Module, batches: Sequence[Batch]) -> None:
        """Add the method to ``model``; ``batches`` are the model's inputs, as many as :attr:`samples` asks for."""

    @property
    def samples(self) -> int:
        """Number of training samples that :meth:`attach` wants to see."""
        return 0

    def learning_rate(self, model_rate: float) -> float:
        """Learning rate of the parameters that the method adds, where the model trains with ``model_rate``."""
        return model_rate

    def statistics(self, model: nn.Module) -> dict[str, float]:
        """Scalars worth a curve in TensorBoard, by name."""
        return {}
