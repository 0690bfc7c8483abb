"""The one object that compresses a model, whoever runs the training loop.

A hand-written loop::

    compression = Compression(load_config("nncf_configs/nncf_bert_config_squad.json"))
    optimizer = torch.optim.AdamW(model.parameters())
    compression.start(model, loader)                                   # calibrate; the model is changed in place
    compression.add_to(optimizer, model, steps_per_epoch=len(loader))  # parameter groups, and the clock
    ...                                                                # train on the loss that the model returns
    compression.finish(model)                                          # remove what was pruned
    model.save_pretrained("checkpoint")                                # writes the compression's state, too

and later ``nncf_transformers.restore(model, "checkpoint")`` on what ``from_pretrained("checkpoint")`` returned.
The Hugging Face ``Trainer`` of :mod:`nncf_transformers.hf` does just this at the right moments.
"""

import contextlib
import csv
import inspect
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import nn

from nncf_transformers import checkpoint
from nncf_transformers.algorithms import Batch, Clock, create
from nncf_transformers.algorithms.base import OWN_GROUP, Algorithm, hooks
from nncf_transformers.algorithms.layer_dropping import LayerDropping
from nncf_transformers.algorithms.learning_rate import LearningRate
from nncf_transformers.algorithms.quantization import quantizers
from nncf_transformers.algorithms.trainable import Trainable
from nncf_transformers.config import CompressionConfig
from nncf_transformers.config.model import LEFT_OUT, LayerDroppingConfig
from nncf_transformers.config.parameters import KEPT_LAYERS
from nncf_transformers.errors import UsageError
from nncf_transformers.families import check_supported, is_adapted
from nncf_transformers.inputs import first_rows, model_inputs
from nncf_transformers.recipe.inherit import RECIPE_FILE, composed
from nncf_transformers.structure import CONFIG_KEY
from nncf_transformers.summary import describe, write_statistics
from nncf_transformers.training_loss import TrainingLoss, changes_loss

logger = logging.getLogger(__name__)

# The attribute under which a compressed model carries its Compression.
_ATTRIBUTE = "nncf_compression"
# The key of an optimizer's group for its learning rate in units of the model's.
RATE_PART = "nncf_rate_part"
# Steps in an epoch where there is none: enough for any fraction of an epoch that a recipe names.
_FINE_STEPS = 10_000
# So many samples stand for a data set.
_IDENTIFYING_ROWS = 64
# Beside a model whose heads or channels were decided on: which ones stay.
TABLE_FILE = "structured_sparsity.csv"


class Compression:
    """A configured compression, attached to at most one model.

    Attributes:
        config: what was asked for.
        algorithms: its methods, in the order in which they act.
        clock: how far the training is.
        finished: whether training is over, and the model plain but for its quantizers.
        final_folder: saving the model there ends the training; for scripts that say its end in no other way.
        losses: parts of the latest training loss, detached scalars by name.
        metadata: what a recipe that is saved with the model says of the training.
    """

    def __init__(self, config: CompressionConfig) -> None:
        self.config = config
        # Layers go before any other method looks at the model.
        dropping = [isinstance(item, LayerDroppingConfig) for item in config.algorithms]
        first = sorted(range(len(dropping)), key=lambda number: not dropping[number])
        self.algorithms = [create(config.algorithms[number]) for number in first]
        self.clock = Clock()
        self.finished = False
        self.final_folder: Path | None = None
        self.losses: dict[str, torch.Tensor] = {}
        self.metadata: dict[str, Any] = {}
        self._before: dict[str, Any] = {}
        self._handle: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Compression":
        # A copy of a model, made for an export say, is of the same compression; it must not copy the teacher.
        return self

    @staticmethod
    def of(model: nn.Module) -> "Compression | None":
        """Return the compression that ``model`` carries, if any."""
        return getattr(model, _ATTRIBUTE, None)

    @property
    def rows(self) -> Callable[[], Iterable[Batch]] | None:
        """Gives the training samples again, as batches in the order of calibration, for what calibrates late."""
        return next((algorithm.rows for algorithm in self.algorithms), None)

    @rows.setter
    def rows(self, rows: Callable[[], Iterable[Batch]] | None) -> None:
        for algorithm in self.algorithms:
            algorithm.rows = rows

    def check_same(self, config: CompressionConfig) -> None:
        """Compare what a model is compressed by with what is asked for now.

        A training that is not over goes on with its own settings only; where its teacher and the cache of its answers
        are is up to now. On a finished model a configuration has no effect.

        Raises:
            UsageError: the training was begun with other settings.
        """
        moved = ("teacher", "cache")
        theirs, ours = ({k: v for k, v in c.flags.items() if k not in moved} for c in (self.config, config))
        # A flag adds a distillation, or takes it away.
        methods = [[algorithm.algorithm for algorithm in c.algorithms] for c in (self.config, config)]
        # What is left out of a recipe changes nothing.
        asked, begun = ({k: v for k, v in c.raw.items() if k != LEFT_OUT} for c in (config, self.config))
        same = asked == begun and theirs == ours and methods[0] == methods[1]
        if self.finished:
            if not same:
                logger.warning(
                    "%s has no effect: the model is compressed already, by other settings (%s)",
                    config.source,
                    self.config.source,
                )
            return
        if not same:
            what = config.source if asked != begun else "the flags"
            raise UsageError(
                f"{self.config.source}: the training was begun with other settings than those of {what}; go on with "
                "the settings of its beginning, or start anew from its model"
            )
        places = {k: v for k, v in config.flags.items() if k in moved}
        self.config = replace(self.config, flags={**self.config.flags, **places})
        for algorithm in self.algorithms:
            algorithm.relocate(places)

    @property
    def changes_loss(self) -> bool:
        """Whether the training loss is, or will be, another than the task's."""
        return not self.finished and any(map(changes_loss, self.algorithms))

    def check_gpus(self, count: int) -> None:
        """Refuse several GPUs in one process, whose copies of the model have no parameters to be masked.

        Raises:
            UsageError: how to start one process for each GPU.
        """
        if self.changes_loss and count > 1:
            raise UsageError(
                "distillation and sparsity need a process for each GPU: start the script by torchrun --nproc-per-node "
                "(make: NPROC), or show it one GPU only (CUDA_VISIBLE_DEVICES=0)"
            )

    def replaceable(self, model: nn.Module, config: CompressionConfig | None) -> bool:
        """Whether ``model`` can be compressed anew, by ``config``.

        That is, it is plain again, or a recipe, which knows of the quantizers that it came with, makes new ones.
        """
        recipe = config is not None and config.from_recipe
        return self.finished and (recipe or next(hooks(model), None) is None)

    def start(self, model: nn.Module, batches: Iterable[Batch]) -> None:
        """Calibrate on ``batches`` and compress ``model`` in place.

        The random state of torch is the same before and after, so that what follows (dropout, the order of the
        training data) does not depend on whether a model is compressed.

        Args:
            model: an uncompressed Transformers model.
            batches: training batches, tensors of shape (batch, sequence) by name; labels in them are ignored.

        Raises:
            UsageError: no batches, an unsupported model family, or a configuration that does not fit the model.
        """
        check_supported(model)
        self._check_together()
        checkpoint.remove_hooks(model)
        for warning in self.config.warnings:
            logger.warning(warning)
        wanted = max((algorithm.samples for algorithm in self.algorithms), default=0)
        training = model.training
        devices = [p.device for p in islice(model.parameters(), 1) if p.is_cuda]
        with torch.random.fork_rng(devices=devices):
            samples = first_rows((model_inputs(model, batch) for batch in batches), max(1, wanted))
            if not samples:
                raise UsageError("the training set is empty: calibration needs at least one sample")
            if len(samples) < wanted:
                logger.warning(
                    "calibration: the configuration asks for %d samples, the training data has %d", wanted, len(samples)
                )
            model.eval()
            self._before = describe(model)
            name = getattr(model.config, "_name_or_path", None) or ""
            for algorithm in self.algorithms:
                algorithm.prepare(model, samples[0], name)
            for algorithm in self.algorithms:
                algorithm.attach(model, samples)
        model.train(training)
        self._bind(model)
        logger.info("compressed %s: %s", type(model).__name__, self._methods(model))

    def add_to(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module,
        *,
        steps_per_epoch: int | None = None,
        total_steps: int | None = None,
    ) -> None:
        """Get ready for training with ``optimizer``.

        The compression's parameters get groups of their own: no weight decay, perhaps another learning rate. Where the
        optimizer was made from a model that was compressed already, they move there from its other groups. From here
        on every step of the optimizer moves the schedules.

        Args:
            optimizer: holds the model's own parameters.
            model: compressed.
            steps_per_epoch: optimizer steps in an epoch. If None, call :meth:`end_epoch` after the first epoch.
            total_steps: the step at which training will end; None if unknown.

        Raises:
            UsageError: a schedule does not fit the training, or the teacher of a resumed training is not at hand.
        """
        self.add_groups(optimizer, model)
        self.begin(model, steps_per_epoch=steps_per_epoch, total_steps=total_steps)
        optimizer.register_step_pre_hook(lambda *_: self.before_update(model, optimizer))
        optimizer.register_step_post_hook(lambda *_: self.advance(model))

    def add_groups(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
        """The first part of :meth:`add_to`: parameter groups."""
        # All of them: a quantizer has parameters that are not trained, too.
        ours = {id(parameter) for _, hook in hooks(model) for parameter in hook.parameters()}
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in ours]
        for group in self.groups(model, optimizer.defaults["lr"]):
            optimizer.add_param_group(group)
        present = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for algorithm in self.algorithms:
            names = algorithm.names if isinstance(algorithm, Trainable) and algorithm.config.trainable else ()
            for name in names:
                if id(model.get_parameter(name)) not in present:
                    raise UsageError(
                        f"{algorithm.config.place}: {name} is to be trained, but the optimizer does not have it; make "
                        "the optimizer with all of the model's parameters"
                    )

    @contextlib.contextmanager
    def all_trainable(self, model: nn.Module) -> Iterator[None]:
        """Let an optimizer, made meanwhile, take the parameters that are frozen now and trained later."""
        names = {name for algorithm in self.algorithms for name in getattr(algorithm, "names", ())}
        frozen = [p for name, p in model.named_parameters() if name in names and not p.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(True)
        try:
            yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)

    def groups(self, model: nn.Module, rate: float) -> list[dict[str, Any]]:
        """Parameter groups of what compression added to ``model``, which itself trains with ``rate``."""
        found = [(number, algorithm, algorithm.parameters(model)) for number, algorithm in enumerate(self.algorithms)]
        return [
            {"params": parameters, "weight_decay": 0.0, "lr": algorithm.learning_rate(rate), OWN_GROUP: number}
            for number, algorithm, parameters in found
            if parameters
        ]

    @property
    def sets_rate(self) -> bool:
        """Whether a recipe says the learning rate."""
        return not self.finished and any(isinstance(algorithm, LearningRate) for algorithm in self.algorithms)

    def rate(self, step: int) -> float | None:
        """The model's learning rate for the step that follows ``step`` done ones; None for the optimizer's own."""
        if self.finished:
            return None
        found = (algorithm for algorithm in self.algorithms if isinstance(algorithm, LearningRate))
        return next((algorithm.rate(step, self.clock) for algorithm in found), None)

    def rates(self, optimizer: torch.optim.Optimizer, step: int) -> list[float]:
        """The learning rates of an optimizer's groups for the step that follows ``step`` done ones."""
        rate, base = self.rate(step), float(optimizer.defaults["lr"])
        own = [float(group.setdefault("initial_lr", group["lr"])) for group in optimizer.param_groups]
        # A group with a rate of its own keeps its proportion to the model's, also where a training is resumed with
        # another --learning_rate: the groups are those of the checkpoint then, and the default is not.
        parts = [
            float(group.setdefault(RATE_PART, first / base if base else 1.0))
            for group, first in zip(optimizer.param_groups, own, strict=True)
        ]
        return own if rate is None else [rate * part for part in parts]

    def begin(self, model: nn.Module, *, steps_per_epoch: int | None = None, total_steps: int | None = None) -> None:
        """The second part of :meth:`add_to`: schedules, teacher, and the loss that the model returns."""
        self.clock.steps_per_epoch = steps_per_epoch or self.clock.steps_per_epoch
        self.clock.total_steps = total_steps
        if self.finished:
            past = [algorithm.config.algorithm for algorithm in self.algorithms if not algorithm.lasting]
            if past:
                logger.warning(
                    "%s: its training is over, so it goes on without %s", self.config.source, " and ".join(past)
                )
            return
        for algorithm in self.algorithms:
            start = self.clock.step_of(getattr(algorithm.config, "start_epoch", 0.0))
            if start and self.clock.total_steps is not None and start >= self.clock.total_steps:
                logger.warning(
                    "%s: starts at step %d, the training ends at step %d: it has no effect",
                    algorithm.config.place or algorithm.config.algorithm,
                    start,
                    self.clock.total_steps,
                )
        for algorithm in self._in_turn():
            algorithm.begin(model, self.clock)
        if self._handle is None and self.changes_loss:
            self._handle = model.register_forward_hook(
                TrainingLoss(self.algorithms, self.losses, model), with_kwargs=True
            )

    def before_update(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Note that gradients are complete, and that the step of ``optimizer`` follows."""
        if not self.finished:
            for algorithm in self.algorithms:
                algorithm.before_update(model, optimizer, self.clock)
            if self.rate(self.clock.step) is not None:
                for group, rate in zip(optimizer.param_groups, self.rates(optimizer, self.clock.step), strict=True):
                    group["lr"] = rate

    def _check_together(self) -> None:
        """Refuse methods that exclude each other."""
        late = [item for item in self.algorithms if isinstance(item, LayerDropping) and item.late]
        if late and self.config.quantization is not None:
            raise UsageError(
                f"{late[0].config.place}: layers that are left out in a part of the training only cannot be combined "
                "with quantization; remove them from the beginning, or quantize in a training of its own"
            )

    def advance(self, model: nn.Module) -> None:
        """Note that an optimizer step is done: the third part of :meth:`add_to`, for who knows the steps better."""
        self.clock.step += 1
        if not self.finished:
            for algorithm in self._in_turn():
                algorithm.on_step(model, self.clock)

    def _in_turn(self) -> list[Algorithm]:
        """The methods, those that hold parameters last: what is over lets go before another takes hold of the same."""

        def holds(item: Algorithm) -> bool:
            return isinstance(item, Trainable) and self.clock.within(item.config.start_epoch, item.config.end_epoch)

        return sorted(self.algorithms, key=holds)

    def identify(self, model: nn.Module, rows: Callable[[Iterable[int]], Iterable[Batch]], count: int) -> None:
        """Let a cache of the teacher's answers know which data it is for.

        Args:
            model: takes the rows.
            rows: gives the training samples at some indices, as batches of one.
            count: of the training samples.
        """
        for algorithm in self.algorithms:
            if getattr(algorithm.config, "cache", None):
                from nncf_transformers.algorithms.teacher_cache import fingerprint_rows

                some = range(0, count, max(1, count // _IDENTIFYING_ROWS))
                found = fingerprint_rows(model_inputs(model, row) for row in rows(some))
                algorithm.data_fingerprint = f"{count}-{found}"  # type: ignore[attr-defined]

    def end_epoch(self, model: nn.Module) -> None:
        """Count the optimizer steps of the first epoch, for whoever could not say how many there would be."""
        if self.clock.steps_per_epoch is None and self.clock.step:
            logger.info("an epoch has %d optimizer steps", self.clock.step)
            self.begin(model, steps_per_epoch=self.clock.step, total_steps=self.clock.total_steps)

    def finish(self, model: nn.Module) -> None:
        """End of training: remove what was pruned, and leave a plain model with at most its quantizers.

        The model's parameters may be other objects afterwards, so an optimizer made before is of no use any more.
        """
        if self.finished:
            return
        from nncf_transformers.algorithms.masks import bake

        # The layers that are left out go last, when nothing names their parts any more.
        for algorithm in reversed(self.algorithms):
            algorithm.finalize(model)
        bake(model)
        self.leave()
        self.finished = True

    def skip_to_end(self, model: nn.Module) -> None:
        """Apply the end of all schedules at once, without a training, and finish.

        Raises:
            UsageError: a method that only training can do.
        """
        for algorithm in self.algorithms:
            if getattr(algorithm.config, "importance", None) == "movement":
                raise UsageError(f"{algorithm.config.place}: movement pruning follows gradients; it cannot be one-shot")
        self.clock.steps_per_epoch = _FINE_STEPS
        # Of what has no end, the start is the end.
        starts = [getattr(item.config, "start_epoch", 0.0) for item in self.algorithms]
        self.clock.step = math.ceil(max(self.config.epochs or 0.0, *starts, 0.0) * _FINE_STEPS)
        for algorithm in self.algorithms:
            algorithm.on_step(model, self.clock)
        self.finish(model)

    def leave(self) -> None:
        """Have no more part in the training: give up the teacher, and leave the model's loss as it is."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        self.losses.clear()
        for algorithm in self.algorithms:
            algorithm.close()

    def statistics(self, model: nn.Module) -> dict[str, float]:
        """Scalars for the log, by names such as ``compression/quantizers``; parts of the loss by their own names."""
        scalars = {
            f"compression/{name}": value
            for algorithm in self.algorithms
            if algorithm.lasting or not self.finished
            for name, value in algorithm.statistics(model).items()
        }
        return {name: float(loss) for name, loss in self.losses.items()} | scalars

    def describe(self, model: nn.Module) -> dict[str, Any]:
        """How large and how sparse ``model`` is, and was before; the content of ``statistics.json``."""
        named: dict[bool, dict[str, None]] = {True: {}, False: {}}
        for algorithm in self.config.algorithms:
            named[algorithm.compresses][algorithm.algorithm] = None
        return {
            "algorithms": list(named[True]),
            "training": list(named[False]),
            "left_out": list(self.config.raw.get(LEFT_OUT, ())),
            "finished": self.finished,
            "optimizer_steps": self.clock.step,
            "before": self._before,
            **describe(model),
        }

    def _methods(self, model: nn.Module) -> str:
        """The methods in words, for the log."""
        count = sum(1 for _ in quantizers(model))
        names = dict.fromkeys(item.algorithm.replace("_", " ") for item in self.config.algorithms if item.compresses)
        found = [f"{name} ({count} quantizers)" if name == "quantization" else name for name in names]
        return ", ".join(found) or "nothing but how it is trained"

    def _state(self, model: nn.Module) -> dict[str, Any]:
        """What a checkpoint holds beside NNCF's description of the hooks."""
        adapters = {}
        if is_adapted(model):
            from nncf_transformers.adapter.model import setup_of

            adapters = {checkpoint.ADAPTERS_KEY: setup_of(model)}
        return adapters | {
            "config": self.config.raw,
            "flags": self.config.flags,
            "clock": {"step": self.clock.step, "steps_per_epoch": self.clock.steps_per_epoch},
            "finished": self.finished,
            "before": self._before,
            CONFIG_KEY: getattr(model.config, CONFIG_KEY, None),
            KEPT_LAYERS: getattr(model.config, KEPT_LAYERS, None),
            "algorithms": [algorithm.state() for algorithm in self.algorithms],
        }

    def _load_state(self, model: nn.Module, state: dict[str, Any]) -> None:
        # Checkpoints of earlier versions hold none of this; they are of models with quantizers only.
        self.clock = Clock(**state.get("clock", {}))
        self.finished = state.get("finished", True)
        self._before = state.get("before", {})
        if not self.finished and self.clock.step:
            logger.info("%s: %d optimizer steps are done", self.config.source, self.clock.step)
        for algorithm, own in zip(self.algorithms, state.get("algorithms", []), strict=False):
            algorithm.load_state(model, own)

    def _bind(self, model: Any) -> None:
        """Let the model carry this compression, and save its state whenever the model is saved."""
        original = type(model).save_pretrained
        if is_adapted(model):
            from transformers import PreTrainedModel

            # The library's own takes prefixes out of the model for good.
            original = PreTrainedModel.save_pretrained
        # A library of 2019 saves pytorch_model.bin only, and takes no other weights than the model's.
        knows_safetensors = "state_dict" in inspect.signature(original).parameters

        def save_pretrained(this: nn.Module, save_directory: str, *args: Any, **kwargs: Any) -> Any:
            if kwargs.get("safe_serialization") is False:
                raise UsageError("a compressed model is saved as safetensors only: drop --save_safetensors False")
            if self.final_folder is not None and Path(save_directory).resolve() == self.final_folder.resolve():
                self.finish(this)
            state_dict = kwargs.pop("state_dict", None) or this.state_dict()
            if is_adapted(this):
                from nncf_transformers.adapter.keys import without_copies

                state_dict = without_copies(this, state_dict)
            checkpoint.write_state(save_directory, this, self._state(this))
            if not knows_safetensors:
                checkpoint.complete_config(this)
                checkpoint.write_weights(save_directory, checkpoint.save_ready(state_dict))
                result = original(this, save_directory)
            else:
                result = original(this, save_directory, *args, state_dict=checkpoint.save_ready(state_dict), **kwargs)
            self._write_reports(this, Path(save_directory))
            return result

        setattr(model, _ATTRIBUTE, self)
        model.save_pretrained = MethodType(save_pretrained, model)

    def _write_reports(self, model: nn.Module, folder: Path) -> None:
        write_statistics(folder, self.describe(model))
        recipe = composed(self.config.raw, self.metadata)
        if recipe is None:
            (folder / RECIPE_FILE).unlink(missing_ok=True)
        else:
            checkpoint.write_text(folder / RECIPE_FILE, recipe)
        rows = [row for algorithm in self.algorithms for row in getattr(algorithm, "table", ())]
        (folder / TABLE_FILE).unlink(missing_ok=True)
        if rows:
            with open(folder / TABLE_FILE, "w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(["", *rows[0]])
                writer.writerows([number, *row.values()] for number, row in enumerate(rows))


def compression_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The trainable parameters that compression added to ``model``."""
    return [p for _, hook in hooks(model) for p in hook.parameters() if p.requires_grad]
