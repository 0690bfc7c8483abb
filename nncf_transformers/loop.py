"""What a script with a training loop of its own calls at its seams: after the optimizer is made, and before the export.

These functions take the script's parsed arguments as they have been since 2019, and need no particular version of
Transformers.
"""

import argparse
import atexit
import functools
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

from nncf_transformers.card import CardFacts, write_card
from nncf_transformers.compression import Compression
from nncf_transformers.errors import UsageError
from nncf_transformers.export import export_model as _export_model
from nncf_transformers.export import sizes_of
from nncf_transformers.flags import flags_of
from nncf_transformers.inputs import INPUT_NAMES
from nncf_transformers.recipe.inherit import inherit
from nncf_transformers.summary import add_exports

logger = logging.getLogger(__name__)


def start_training(
    args: argparse.Namespace, model: nn.Module, optimizer: torch.optim.Optimizer, train_dataset: TensorDataset
) -> None:
    """Compress ``model`` if ``--nncf-config`` says so; give the compression's parameters to the optimizer.

    To be called after the optimizer and before the learning-rate scheduler is made. The scalars of the compression go
    to TensorBoard every ``args.logging_steps`` updates, from the first process only.

    Args:
        args: the script's arguments, with the flags of :func:`add_arguments`.
        model: on its device, not yet wrapped for distributed training; changed in place.
        optimizer: holds the model's own parameters.
        train_dataset: tensors in the order input_ids, attention_mask, token_type_ids, …, each (samples, sequence).
    """
    config = inherit(flags_of(args).check(), model, args.model_name_or_path, trains=True)
    compression = Compression.of(model)

    def rows() -> Iterator[dict[str, torch.Tensor]]:
        order = torch.randperm(len(train_dataset), generator=torch.Generator().manual_seed(args.seed)).tolist()
        return (_named(train_dataset[i]) for i in order)

    if config is not None and (compression is None or compression.replaceable(model, config)):
        compression = Compression(config)
        compression.start(model, rows())
    elif compression is not None and config is not None:
        compression.check_same(config)
    if compression is None:
        return
    compression.rows = rows
    compression.check_gpus(getattr(args, "n_gpu", 1))
    compression.final_folder = Path(args.output_dir)
    compression.identify(model, lambda indices: (_named(train_dataset[i]) for i in indices), len(train_dataset))
    compression.add_to(optimizer, model, **_count_steps(args, compression, len(train_dataset)))
    if args.local_rank in (-1, 0):
        _log_statistics(args, compression, model, optimizer)


def export_model(args: argparse.Namespace, model: nn.Module, tokenizer: Any) -> None:
    """Write what ``--to-onnx`` and ``--to-openvino`` ask for, in the first process."""
    flags = flags_of(args)
    if (flags.nncf_config or flags.recipe) and Compression.of(model) is None:
        flag = "--recipe" if flags.recipe else "--nncf-config"
        raise UsageError(
            f"{flag}: {args.model_name_or_path} is not a compressed checkpoint; add --do_train to compress it"
        )
    if (flags.to_onnx or flags.to_openvino) and args.local_rank in (-1, 0):
        _export_model(model, to_onnx=flags.to_onnx, to_openvino=flags.to_openvino, tokenizer=tokenizer)
        add_exports(Path(args.output_dir), sizes_of(flags.to_onnx, flags.to_openvino))
    if Compression.of(model) is not None and args.do_train and args.local_rank in (-1, 0):
        # Again at the end: the figures of the evaluation come later.
        card = functools.partial(write_card, Path(args.output_dir), CardFacts.of(args, sys.argv))
        card()
        atexit.register(card)


def _named(row: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """A sample of the script's data set as a batch of one."""
    return {name: tensor.unsqueeze(0) for name, tensor in zip(INPUT_NAMES, row, strict=False)}


def _count_steps(args: argparse.Namespace, compression: Compression, samples: int) -> dict[str, int]:
    """Optimizer steps in an epoch and at the end, as the scripts count them."""
    world = torch.distributed.get_world_size() if args.local_rank != -1 else 1
    share = -(-samples // world)
    batch = args.per_gpu_train_batch_size * max(1, getattr(args, "n_gpu", 1))
    epoch = max(1, -(-share // batch) // args.gradient_accumulation_steps)
    # Upstream's scripts train whole epochs only.
    epochs = int(args.num_train_epochs) if args.num_train_epochs >= 1 else args.num_train_epochs
    total = args.max_steps if args.max_steps > 0 else int(epoch * epochs)
    resumed = all(os.path.isfile(os.path.join(args.model_name_or_path, f"{n}.pt")) for n in ("optimizer", "scheduler"))
    return {"steps_per_epoch": epoch, "total_steps": total + (0 if resumed else compression.clock.step)}


def _log_statistics(
    args: argparse.Namespace, compression: Compression, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Write the compression's scalars after every ``args.logging_steps``-th update of ``optimizer``."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(os.path.join(args.output_dir, "compression"))
    steps = 0

    def log(*_: Any) -> None:
        nonlocal steps
        steps += 1
        if args.logging_steps > 0 and steps % args.logging_steps == 0:
            for name, value in compression.statistics(model).items():
                writer.add_scalar(name, value, steps)
            writer.flush()

    optimizer.register_step_post_hook(log)
