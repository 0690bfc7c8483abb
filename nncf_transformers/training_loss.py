"""The forward hook that puts the compression's parts into the loss that a model returns.

A model that is given labels returns the task's loss. To change it there, and not in a training loop, serves every loop:
the Trainer's, those of the scripts, and one around a model that is wrapped for several processes.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from nncf_transformers.algorithms import Algorithm
from nncf_transformers.errors import UsageError

# What models call their labels.
_LABELS = ("labels", "start_positions", "end_positions")


class TrainingLoss:
    """A forward hook, to be registered with keyword arguments.

    Args:
        algorithms: they combine the loss, and add to it.
        losses: takes the parts of the latest loss, detached scalars by name.
        model: the one that is trained; on its copies, which take the hook along, it does nothing.
    """

    def __init__(self, algorithms: Sequence[Algorithm], losses: dict[str, torch.Tensor], model: nn.Module) -> None:
        self._algorithms = algorithms
        self._losses = losses
        self._model = model

    def __deepcopy__(self, memo: dict[int, Any]) -> "TrainingLoss":
        return self

    def __call__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> Any:
        ours = model is self._model or getattr(model, "_is_replica", False)  # of DataParallel
        if not ours or not model.training or not torch.is_grad_enabled():
            return outputs
        names = inspect.signature(type(model).forward).parameters
        inputs = {**dict(zip(names, (None, *args), strict=False)), **kwargs}
        if all(inputs.get(name) is None for name in _LABELS):
            raise UsageError(
                "the model was called without labels, so it returned no loss that distillation or sparsity could add "
                "to; pass the labels to the model (and no label smoothing)"
            )
        as_tuple = isinstance(outputs, tuple)
        values = outputs if as_tuple else outputs.to_tuple()
        loss = values[0]
        losses: dict[str, torch.Tensor] = {}
        for algorithm in self._algorithms:
            loss = algorithm.combine(model, inputs, values[1:], loss)
            losses.update(getattr(algorithm, "last", {}))
        penalties = [p for algorithm in self._algorithms if (p := algorithm.penalty(model)) is not None]
        if penalties:
            penalty = torch.stack(penalties).sum()
            loss = loss + penalty
            losses["compression_loss"] = penalty.detach()
        self._losses.clear()
        self._losses.update(losses)
        if as_tuple:
            return (loss, *values[1:])
        outputs["loss"] = loss
        return outputs


def changes_loss(algorithm: Algorithm) -> bool:
    """Say whether ``algorithm`` makes the training loss another than the task's."""
    kind = type(algorithm)
    return kind.combine is not Algorithm.combine or kind.penalty is not Algorithm.penalty
