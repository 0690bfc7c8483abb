"""What a compression method is to the rest of the runtime."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Batch = dict[str, torch.Tensor]
# A group of an optimizer's parameters has this key where compression added them: the number of the algorithm.
OWN_GROUP = "compression"


@dataclass
class Clock:
    """How far the training is, in optimizer steps.

    Attributes:
        step: optimizer steps done.
        steps_per_epoch: optimizer steps in one pass over the data; None while nobody knows.
        total_steps: the step at which training ends; None if nobody knows.
    """

    step: int = 0
    steps_per_epoch: int | None = None
    total_steps: int | None = None

    @property
    def epoch(self) -> float | None:
        """Passes over the data done, as a fraction; None while their length is unknown."""
        return self.step / self.steps_per_epoch if self.steps_per_epoch else None

    def step_of(self, epoch: float) -> int | None:
        """The first optimizer step at or behind an epoch; None while the length of an epoch is unknown."""
        if epoch <= 0:
            return 0
        # The small number: 0.1 epochs of 30 steps are 3 steps, and 3.0000000000000004 in floating point.
        return math.ceil(epoch * self.steps_per_epoch - 1e-6) if self.steps_per_epoch else None

    def within(self, start: float, end: float | None) -> bool:
        """Whether the training is between two epochs, ``start`` included; None has no end."""
        first, last = self.step_of(start), None if end is None else self.step_of(end)
        return first is not None and self.step >= first and (last is None or self.step < last)


class Algorithm:
    """One compression method, configured; it changes a model in place.

    In place matters: the script that called us, the Trainer and the optimizer all hold references to the model and to
    its parameters, and all of them must keep seeing the model that is trained and saved.

    The methods are called in this order: :meth:`prepare`, :meth:`attach` on a fresh model or :meth:`load_state` on one
    whose hooks came from a checkpoint, :meth:`begin` before training, :meth:`on_step` before each optimizer step's
    first forward, :meth:`combine` and :meth:`penalty` in each forward with labels, :meth:`finalize` after training, and
    :meth:`close`.
    """

    config: Any
    #: Gives the training samples again, as batches in the order of calibration; None if nobody can.
    rows: Callable[[], Iterable[Batch]] | None = None
    #: Whether the method goes on acting in a model whose training is over.
    lasting = False

    @property
    def samples(self) -> int:
        """Number of training samples that :meth:`attach` wants to see."""
        return 0

    def prepare(self, model: nn.Module, sample: Batch, name: str) -> None:
        """Look at the model before any method has changed it, and refuse what cannot work.

        Args:
            model: uncompressed.
            sample: the inputs of one training sample, shape (1, sequence).
            name: folder or hub name that the model was loaded from; may be empty.
        """

    def attach(self, model: nn.Module, batches: Sequence[Batch]) -> None:
        """Add the method to ``model``; ``batches`` are the model's inputs, as many as :attr:`samples` asks for."""

    def parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """The trainable parameters that the method has added to ``model``."""
        return []

    def learning_rate(self, model_rate: float) -> float:
        """Learning rate of these parameters, where the model trains with ``model_rate``."""
        return model_rate

    def begin(self, model: nn.Module, clock: Clock) -> None:
        """Check the schedule against the length of the training, and load what only training needs."""

    def on_step(self, model: nn.Module, clock: Clock) -> None:
        """Get ready for the optimizer step that follows ``clock.step`` done ones."""

    def before_update(self, model: nn.Module, optimizer: torch.optim.Optimizer, clock: Clock) -> None:
        """Gradients are complete, and the optimizer's step follows."""

    def combine(
        self, model: nn.Module, inputs: Mapping[str, torch.Tensor], outputs: Sequence[torch.Tensor], loss: torch.Tensor
    ) -> torch.Tensor:
        """Make the loss to train with from the task's loss.

        Args:
            model: in training mode.
            inputs: the arguments of its ``forward``, labels included.
            outputs: its outputs without the loss: logits, as tuples of the library have them.
            loss: a scalar, with gradient.
        """
        return loss

    def penalty(self, model: nn.Module) -> torch.Tensor | None:
        """A scalar to add to the loss; None for none."""
        return None

    def statistics(self, model: nn.Module) -> dict[str, float]:
        """Scalars worth a curve in TensorBoard, by name."""
        return {}

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold beside the model's tensors, as JSON."""
        return {}

    def load_state(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        """Take up the state of a checkpoint, whose tensors ``model`` has already."""

    def relocate(self, places: Mapping[str, str]) -> None:
        """Learn where the files are that training needs, by field of the configuration."""

    def finalize(self, model: nn.Module) -> None:
        """Training is over: turn what training needed into a plain model."""

    def close(self) -> None:
        """Give up what only training needs, whether it has come to its end or not."""


def hooks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module that compression has hooked into ``model``, once, with the first of its hook names."""
    # NNCF takes seconds to import, and this module is imported by every script.
    from nncf.torch.function_hook.wrapper import ATR_HOOK_STORAGE

    # Not nncf's is_wrapped(): it looks at model.forward, around which mixed precision puts a wrapper of its own.
    storage = getattr(model, ATR_HOOK_STORAGE, None)
    yield from storage.named_hooks() if storage is not None else ()
