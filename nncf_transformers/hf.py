"""The Hugging Face ``Trainer`` with compression: a thin layer over :class:`nncf_transformers.compression.Compression`.

Without the overlay's flags, and on a model that is not compressed, every method here hands straight on to
``transformers``.
"""

import copyreg
import logging
import math
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch.nn.utils.parametrize import is_parametrized
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Subset
from transformers.trainer_utils import TrainOutput, get_last_checkpoint

from nncf_transformers.adapter.flags import AdapterFlags
from nncf_transformers.adapter.trainer import AdapterMixin
from nncf_transformers.card import CardFacts, read_card, write_card
from nncf_transformers.checkpoint import check_resumable, is_compressed, remove_hooks, same_structure
from nncf_transformers.compression import Compression, compression_parameters
from nncf_transformers.config import CompressionConfig
from nncf_transformers.data import set_local_data
from nncf_transformers.errors import UsageError
from nncf_transformers.export import export_model, rows_of, sizes_of
from nncf_transformers.flags import CompressionFlags, epochs_of
from nncf_transformers.inputs import model_inputs, own_forward
from nncf_transformers.loading import remove_reports, restore, restore_if_compressed
from nncf_transformers.parts import is_seq2seq
from nncf_transformers.recipe.inherit import inherit
from nncf_transformers.runtimes import Inputs
from nncf_transformers.summary import add_exports

logger = logging.getLogger(__name__)

# The mixins below are always combined with a class of transformers; the type checker may know that.
if TYPE_CHECKING:
    from transformers import Trainer as _Trainer
    from transformers import TrainingArguments as _Arguments
else:
    _Arguments = _Trainer = object

_FLAGS = tuple(field.name for kind in (CompressionFlags, AdapterFlags) for field in fields(kind))
# What the flags come to; never saved.
_PLANS = ("compression_config", "adapter_plan")

# Batches and rows of real data on which an export is compared with the model in memory.
_PARITY_BATCHES, _PARITY_ROWS = 4, 4


class _Flags(CompressionFlags, AdapterFlags, _Arguments):
    """Shared by the argument classes: check the flags, and leave no trace of them where they are not used."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.compression_config = self.check()
        if self.compression_config is not None:
            self.num_train_epochs = epochs_of(self.compression_config, self.num_train_epochs)
        self.adapter_plan = self.check_adapter()
        # The scripts leave the root logger at WARNING and raise the levels of the loggers they know.
        logging.getLogger("nncf_transformers").setLevel(logging.INFO if self.should_log else logging.WARNING)
        set_local_data(
            Path(self.data_dir) if self.data_dir else None,
            need_train=self.do_train,
            need_validation=self.do_eval,
            need_test=self.do_predict,
        )

    def to_dict(self) -> dict[str, Any]:
        """As upstream, without the flags that are not used."""
        values = super().to_dict()
        return {k: v for k, v in values.items() if k not in _PLANS and (k not in _FLAGS or _used(v))}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as upstream's class: ``training_args.bin`` then loads without this package."""
        upstream = next(c for c in type(self).__mro__ if c.__module__.startswith("transformers."))
        state = {k: v for k, v in vars(self).items() if k not in (*_FLAGS, *_PLANS)}
        state |= {k: getattr(self, k) for k in _FLAGS if _used(getattr(self, k))}
        return copyreg._reconstructor, (upstream, object, None), state  # type: ignore[attr-defined]


@dataclass
class TrainingArguments(_Flags, transformers.TrainingArguments):
    """``transformers.TrainingArguments`` with the overlay's flags."""


@dataclass
class Seq2SeqTrainingArguments(_Flags, transformers.Seq2SeqTrainingArguments):
    """``transformers.Seq2SeqTrainingArguments`` with the overlay's flags."""


def _used(value: Any) -> bool:
    """Whether a flag was given; a weight of 0 was."""
    return value is not None and value is not False


def _length(dataset: Any) -> int:
    """Number of samples, 0 for no data set."""
    return 0 if dataset is None else len(dataset)


class _CompressionMixin(AdapterMixin):
    """What compression adds to a Trainer class that knows adapters."""

    args: Any
    model: Any
    optimizer: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._compression_config: CompressionConfig | None = getattr(self.args, "compression_config", None)
        if Compression.of(self.model) is None:
            restore_if_compressed(self.model, self.model.config._name_or_path)
        if self._plan is None:
            name = self.model.config._name_or_path
            self._compression_config = inherit(self._compression_config, self.model, name, trains=self.args.do_train)
        self._freeze_compression()
        self._check_arguments()
        if not self.args.do_train:
            self._export()

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Compress the model, or take the compression of the checkpoint to resume from; then train as upstream."""
        folder = self._resume_folder(resume_from_checkpoint)
        if folder is not None and (self._compression_config is not None or not self._adapter_only()):
            self._match(folder)
        compression = Compression.of(self.model)
        config = self._compression_config
        if config is not None and (compression is None or compression.replaceable(self.model, config)):
            compression = Compression(config)
            _take_off_precision(self.model)
            compression.start(self.model, self._rows())
        if compression is not None:
            compression.rows, compression.metadata = self._rows, self._metadata()
        if compression is not None and self.args.one_shot:
            with own_forward(self.model):
                compression.skip_to_end(self.model)
            return TrainOutput(0, 0.0, {})
        if compression is None:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        compression.identify(self.model, self._some_rows, _length(self.train_dataset))
        compression.begin(self.model, **self._count_steps(0 if folder is not None else compression.clock.step))
        # Not the optimizer's own steps: one that mixed precision skips counts for the Trainer's end of training, too.
        clock = _Clock()
        self.add_callback(clock)
        try:
            result = super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            self.remove_callback(clock)
        # Another one, where the best checkpoint was loaded at the end.
        compression = Compression.of(self.model)
        assert compression is not None
        with own_forward(self.model):
            compression.finish(self.model)
        # They hold the parameters of before.
        self.optimizer = self.lr_scheduler = None
        return result

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """As upstream, with the compression's parameters in a group of their own."""
        compression = Compression.of(self.model)
        if compression is None:
            return super().create_optimizer(*args, **kwargs)
        if self.optimizer is not None:
            logger.warning("the optimizer was given: it trains quantizers and scores only if it has their parameters")
            return super().create_optimizer(*args, **kwargs)
        parameters = compression_parameters(self.model)
        # Upstream sorts every trainable parameter into its own groups, so these hide until that is done.
        for parameter in parameters:
            parameter.requires_grad_(False)
        with compression.all_trainable(self.model):
            optimizer: Any = super().create_optimizer(*args, **kwargs)
        for parameter in parameters:
            parameter.requires_grad_(True)
        compression.add_groups(optimizer, self.model)
        optimizer.register_step_pre_hook(lambda *_: self._before_update(optimizer))
        return optimizer

    def _before_update(self, optimizer: torch.optim.Optimizer) -> None:
        compression = Compression.of(self.model)
        if compression is not None:
            compression.before_update(self.model, optimizer)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """As upstream, but a recipe's learning rates take the place of the schedule that the arguments name."""
        compression = Compression.of(self.model)
        if compression is None or not compression.sets_rate:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            logger.info("%s sets the learning rate; lr_scheduler_type has no effect", compression.config.source)
            self.lr_scheduler = RateSchedule(optimizer or self.optimizer, compression)  # type: ignore[assignment]
        return self.lr_scheduler

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As upstream; the training loss comes with the compression's statistics."""
        compression = Compression.of(self.model)
        if compression is not None and "loss" in logs:
            logs = {**logs, **compression.statistics(self.model)}
        super().log(logs, *args, **kwargs)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """As upstream; the card of a model that the overlay made says how, and how large and sparse it is."""
        earlier = read_card(Path(self.args.output_dir))
        super().create_model_card(*args, **kwargs)
        self._write_card(earlier)

    def save_metrics(self, *args: Any, **kwargs: Any) -> None:
        """As upstream; they go into the card, too, for not every script makes one."""
        super().save_metrics(*args, **kwargs)
        self._write_card()

    def _load_best_model(self) -> None:
        """As upstream; masks and quantizers come from the best checkpoint, too, where heads may not yet be removed."""
        best, compression = self.state.best_model_checkpoint, Compression.of(self.model)
        if best is not None and compression is not None and is_compressed(best):
            with own_forward(self.model):
                compression.leave()
                remove_hooks(self.model)
                restore(self.model, best).rows = self._rows
        super()._load_best_model()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As upstream; the final model, once it is safely saved, is exported as the flags ask."""
        super().save_model(output_dir, _internal_call)
        if Compression.of(self.model) is None and self.args.should_save:
            # Of a compressed model that was saved here before, and is overwritten now.
            remove_reports(output_dir or self.args.output_dir)
        if not _internal_call:
            self._export()
            self._write_card()

    def _write_card(self, earlier: str | None = None) -> None:
        args = self.args
        ours = Compression.of(self.model) is not None or self._plan is not None or args.to_onnx or args.to_openvino
        if ours and self.is_world_process_zero():
            facts = CardFacts.of(args, sys.argv, base_model=self.model.config._name_or_path)
            write_card(Path(args.output_dir), facts, earlier=earlier)

    def _resume_folder(self, resume: str | bool | None) -> str | None:
        if resume is True:
            return get_last_checkpoint(self.args.output_dir)
        return resume or None

    def _match(self, folder: str) -> None:
        """Make sure that the checkpoint to resume from and the model are compressed in the same way, or not at all.

        Upstream loads a checkpoint's weights leniently: whatever does not fit would be left out with a warning.
        """
        if not os.path.isdir(folder):
            raise UsageError(f"--resume_from_checkpoint {folder}: no such folder")
        wanted = self._compression_config is not None or Compression.of(self.model) is not None
        if not is_compressed(folder):
            if wanted:
                raise UsageError(
                    f"{folder}: was trained without compression, so it cannot be resumed with it; pass it as "
                    "--model_name_or_path, with another --output_dir"
                )
            return
        check_resumable(folder, "--model_name_or_path")
        compression = Compression.of(self.model)
        if compression is not None:
            if not same_structure(folder, self.model):
                raise UsageError(
                    f"{folder}: is compressed in another way than {self.model.config._name_or_path}; "
                    "start from the model that it was trained from"
                )
            # The model may be of an earlier step: masks, scores and schedules are to be the checkpoint's.
            compression.leave()
            remove_hooks(self.model)
        restore(self.model, folder)
        self._check_arguments()

    def _check_arguments(self) -> None:
        """Refuse what cannot be combined with compression, before any work is done."""
        config, compression = self._compression_config, Compression.of(self.model)
        plain = compression is None or compression.replaceable(self.model, config)
        if config is None and plain:
            return
        anew = compression is not None and self.args.do_train and plain
        if config is not None and compression is not None and not anew:
            compression.check_same(config)
        if compression is None and not self.args.do_train and (self.args.recipe or self.args.nncf_config):
            flag, instead = (
                ("--recipe", "--one_shot") if self.args.recipe else ("--nncf-config", "--num_train_epochs 0")
            )
            raise UsageError(
                f"{flag}: {self.model.config._name_or_path} is not a compressed checkpoint; add --do_train to "
                f"compress it (with {instead} for post-training quantization only)"
            )
        # Gradient checkpointing runs parts of the model again outside its forward, where NNCF's quantizers do not act.
        # A schedule counts steps, whose number must not change on the way.
        for name in ("deepspeed", "fsdp", "torch_compile", "gradient_checkpointing", "auto_find_batch_size"):
            if getattr(self.args, name, None):
                raise UsageError(f"--{name} cannot be combined with compression; drop it")
        if not getattr(self.args, "save_safetensors", True):
            raise UsageError("a compressed model is saved as safetensors only: drop --save_safetensors False")
        if self.model_init is not None:
            raise UsageError(
                "model_init makes a new model for each training, after this one is compressed; give a model"
            )
        active = Compression(config) if config is not None and plain else compression
        if active is not None and self._plan is not None:
            _check_with_adapter(active, self.model)
        if active is not None and active.changes_loss and self.args.label_smoothing_factor:
            raise UsageError("--label_smoothing_factor bypasses the loss of distillation and sparsity; drop it")
        if active is not None:
            active.check_gpus(self.args.n_gpu)
        if self.args.do_train and not hasattr(self.train_dataset or [], "__len__"):
            raise UsageError("the training set has no length, which schedules and calibration need; do not stream it")
        if self.args.do_train and not _length(self.train_dataset):
            raise UsageError("the training set is empty: calibration needs at least one sample")

    def _metadata(self) -> dict[str, Any]:
        """What a saved recipe says of the training."""
        names = ("per_device_train_batch_size", "gradient_accumulation_steps", "fp16", "bf16", "seed")
        return {name: getattr(self.args, name) for name in names} | {"processes": self.args.world_size}

    def _rows(self) -> DataLoader:
        """The training data one row at a time, as the training sees it, in an order that the seed decides."""
        return self._loader(self.train_dataset, batch_size=1, shuffle=True)

    def _some_rows(self, indices: Iterable[int]) -> Iterable[Any]:
        """Some of the training samples, as batches of one."""
        train_dataset: Any = self.train_dataset
        return self._loader(Subset(train_dataset, list(indices)), batch_size=1, shuffle=False)

    def _count_steps(self, done: int) -> dict[str, int]:
        """Optimizer steps in an epoch and at the end, as upstream counts them.

        Args:
            done: steps of an earlier training that the schedules have seen, but this training's count has not.
        """
        args = self.args
        samples, batch = _length(self.train_dataset), args.train_batch_size * args.world_size
        batches = samples // batch if args.dataloader_drop_last else -(-samples // batch)
        epoch = max(1, -(-batches // args.gradient_accumulation_steps))
        total = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * epoch)
        return {"steps_per_epoch": epoch, "total_steps": done + total}

    def _loader(self, dataset: Any, batch_size: int, shuffle: bool) -> DataLoader:
        """Load ``dataset`` outside the Trainer's own loaders, which would deal it out to the processes."""
        collate = self._get_collator_with_removed_columns(self.data_collator)
        generator = torch.Generator().manual_seed(self.args.seed)
        return DataLoader(dataset, batch_size, shuffle=shuffle, generator=generator, collate_fn=collate)

    def _export(self) -> None:
        """Write what ``--to-onnx`` and ``--to-openvino`` ask for, in the one process that writes."""
        targets = {k: getattr(self.args, k, None) for k in ("to_onnx", "to_openvino")}
        if not any(targets.values()) or not self.args.should_save:
            return
        samples = self._parity_samples()
        model: Any = self.accelerator.unwrap_model(self.model)
        with own_forward(model):
            export_model(model, tokenizer=self.processing_class, samples=samples, **targets)
        add_exports(Path(self.args.output_dir), sizes_of(**targets))

    def _parity_samples(self) -> list[Inputs] | None:
        dataset = self.eval_dataset if self.eval_dataset is not None else self.train_dataset
        if isinstance(dataset, dict) or not _length(dataset):
            return None
        loader = self._loader(dataset, _PARITY_ROWS, shuffle=False)
        return [rows_of(model_inputs(self.model, batch)) for batch in islice(loader, _PARITY_BATCHES)]


class RateSchedule(LRScheduler):
    """The learning rates that a recipe sets, for the Trainer, which logs and saves what its schedule says."""

    def __init__(self, optimizer: torch.optim.Optimizer, compression: Compression) -> None:
        self._compression = compression
        super().__init__(optimizer)

    def get_lr(self) -> list[float | torch.Tensor]:
        """The rates of the groups for the next step."""
        return list(self._compression.rates(self.optimizer, self.last_epoch))

    def state_dict(self) -> dict[str, Any]:
        """How many steps are done; the rates follow from that."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after so many steps."""
        self.last_epoch = state_dict["last_epoch"]
        self._last_lr = self.get_lr()


class _Clock(transformers.TrainerCallback):
    """Moves the schedules of the model's compression."""

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        compression = Compression.of(model)
        if compression is not None:
            compression.advance(model)


def _check_with_adapter(compression: Compression, model: Any) -> None:
    """Refuse sparsity while the weights to be masked are frozen, and quantizers that cannot be placed."""
    from nncf_transformers.adapter.config import only_lora

    if not compression.finished and any(map(is_parametrized, model.modules())):
        raise UsageError(
            "--nncf-config: the adapter computes weights from others in every step, which NNCF cannot copy; take "
            "noreft instead of loreft or direft, or train the adapter on a model that is INT8 already"
        )
    if not compression.finished and is_seq2seq(model) and not only_lora(model):
        # Their operations have no module of their own, so that their names depend on whether keys and values are kept.
        raise UsageError(
            "--nncf-config: in a model that writes text, only the LoRA family can be quantized along; take lora, or "
            "train the adapter on a model that is INT8 already"
        )
    pruning = [a.algorithm for a in compression.config.algorithms if a.algorithm.endswith("_sparsity")]
    if pruning and not compression.finished:
        raise UsageError(
            f"--train_adapter freezes the weights that {pruning[0]} would prune; prune first, then train the adapter "
            "on the pruned model"
        )


def _take_off_precision(model: Any) -> None:
    """Take mixed precision's wrapper off the model's forward, where an evaluation has put one; training will again."""
    if "_original_forward" in model.__dict__:
        model.forward = model.__dict__.pop("_original_forward")


class Trainer(_CompressionMixin, transformers.Trainer):
    """``transformers.Trainer`` that compresses its model when ``args.nncf_config`` is given."""


class Seq2SeqTrainer(_CompressionMixin, transformers.Seq2SeqTrainer):
    """``transformers.Seq2SeqTrainer`` that compresses its model when ``args.nncf_config`` is given."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.args.do_eval and not self.args.predict_with_generate:
            logger.warning("nothing is generated, so the evaluation gives a loss only; add --predict_with_generate")
