"""A training of several stages into one folder, which goes on after an interruption.

Accelerate moves tensors, averages gradients over processes and takes care of mixed precision; what is here is the state
on disk, and the log.
"""

import argparse
import logging
import os
import shutil
from datetime import timedelta
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, gather_object

from nncf_transformers.errors import IntegrityError, UsageError
from nncf_transformers.training.arguments import (
    ARGUMENTS_FILE,
    prepare_folder,
    remove_states,
    settings_of,
    state_folders,
)
from nncf_transformers.training.stage import Objective, Stage, StageRun, random_state

logger = logging.getLogger(__name__)

_RESUME, _STATE = "resume-", "training.pt"
# So long the processes wait for the one that judges a model: on a CPU that takes hours.
_PATIENCE = timedelta(days=1)


class Run:
    """A training of one or more stages into one folder.

    Args:
        out: the output folder.
        settings: what must be the same for a training to be resumed, as JSON.
        micro_batch: samples a process computes at a time.
        seed: decides the order of the samples, and dropout.
        mixed_precision: ``no``, ``bf16`` or ``fp16``.
        cpu: leave a GPU alone.
        save_steps: optimizer steps between two states on disk.
        overwrite: forget what is in the folder.

    Attributes:
        resumed_model: folder of the student of the interrupted training; None if there is nothing to go on with.
        resumed_stage: number of the stage in which it was interrupted, counted from 0.
    """

    def __init__(
        self,
        out: Path,
        settings: dict[str, Any],
        *,
        micro_batch: int,
        seed: int = 42,
        mixed_precision: str = "no",
        cpu: bool = False,
        save_steps: int = 500,
        overwrite: bool = False,
    ) -> None:
        # A frozen part, or a head that no loss uses, has no gradient.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        options = [unused, InitProcessGroupKwargs(timeout=_PATIENCE)]
        self.accelerator = Accelerator(mixed_precision=mixed_precision, cpu=cpu, kwargs_handlers=options)
        self.out, self.settings, self.micro_batch, self.seed = out, settings, micro_batch, seed
        self.save_steps = save_steps
        self._stage_number = 0
        self._writer: Any = None
        self.state = None if overwrite else self._read_state()
        self.resumed_model: Path | None = self.state["folder"] if self.state else None
        self.resumed_stage: int = self.state["stage"] if self.state else 0
        torch.manual_seed(seed + self.accelerator.process_index)

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Run":
        """The training that a command line asks for."""
        if args.mixed_precision == "fp16" and (args.no_cuda or not torch.cuda.is_available()):
            raise UsageError("--mixed_precision fp16: needs a GPU; on a CPU use bf16, or no")
        prepare_folder(args)
        run = cls(
            Path(args.output_dir),
            settings_of(args),
            micro_batch=args.per_gpu_train_batch_size,
            seed=args.seed,
            mixed_precision=args.mixed_precision,
            cpu=args.no_cuda,
            save_steps=args.save_steps,
            overwrite=args.overwrite_output_dir,
        )
        for flag in ("total_train_batch_size", "total_train_batch_size_for_tune"):
            wanted = getattr(args, flag, None)
            if wanted is not None and run.batch(wanted, flag) != wanted:
                run.log(
                    f"--{flag} {wanted}: {run.batch(wanted, flag)} samples are taken at a step, whole micro-batches"
                )
        return run

    @property
    def stage_to_come(self) -> bool:
        """Whether the next stage is still to be trained, at least in part."""
        return self._stage_number >= self.resumed_stage

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return bool(self.accelerator.is_main_process)

    def batch(self, wanted: int, flag: str = "total_train_batch_size") -> int:
        """Samples an optimizer step: as many as wanted, down to whole micro-batches in every process.

        Raises:
            UsageError: not even one micro-batch.
        """
        share = self.micro_batch * self.accelerator.num_processes
        if wanted < share:
            raise UsageError(
                f"--{flag} {wanted}: is less than --per_gpu_train_batch_size {self.micro_batch} x "
                f"{self.accelerator.num_processes} processes; raise the first, or lower the second"
            )
        return wanted - wanted % share

    def train(self, stage: Stage, objective: Objective) -> None:
        """Train one stage, or what is left of it; one that was over before the interruption is skipped.

        Args:
            stage: the next one; the order of calls is the order of the training.
            objective: around the student, which was loaded from :attr:`resumed_model` if there is one.
        """
        number, self._stage_number = self._stage_number, self._stage_number + 1
        if number == 0 and self.main:
            # Not earlier: a mistake in the command line must not cost what an earlier one has made.
            (self.out / ARGUMENTS_FILE).unlink(missing_ok=True)
            if self.state is None:
                remove_states(self.out)
        if number >= self.resumed_stage:  # see stage_to_come
            state, self.state = self.state, None
            StageRun(self, stage, objective, number).run(state)

    def log(self, text: str) -> None:
        """Say something once, not in every process."""
        if self.main:
            logger.info(text)

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Write values for TensorBoard."""
        if not self.main:
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.out / "tensorboard"))
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self) -> None:
        """The result is written: the state on disk is of no use any more."""
        self.accelerator.wait_for_everyone()
        if self.main:
            remove_states(self.out)

    def save(self, state: dict[str, Any], student: Any) -> None:
        """Write the whole state of the training; an interruption leaves the last one whole."""
        rng = gather_object([random_state(self.accelerator.device)])
        if self.main:
            name = f"{_RESUME}{state['stage']:02d}-{state['step']:07d}"
            temporary = self.out / f".{name}.{os.getpid()}"
            student.save_pretrained(temporary)
            state = state | {"rng": rng, "settings": self.settings}
            torch.save(state, temporary / _STATE)
            shutil.rmtree(self.out / name, ignore_errors=True)
            temporary.rename(self.out / name)
            remove_states(self.out, but=name)
        self.accelerator.wait_for_everyone()

    def _read_state(self) -> dict[str, Any] | None:
        found = [folder for folder in state_folders(self.out) if not folder.name.startswith(".")]
        if not found:
            return None
        try:
            state = torch.load(found[-1] / _STATE, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, UnpicklingError, EOFError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise IntegrityError(
                f"{found[-1] / _STATE}: damaged ({reason}); start anew with --overwrite_output_dir"
            ) from error
        theirs = state["settings"]
        changed = [k for k in sorted({*theirs, *self.settings}) if theirs.get(k) != self.settings.get(k)]
        if changed:
            key = changed[0]
            raise UsageError(
                f"{self.out}: holds an interrupted training with --{key} {theirs.get(key)}, not "
                f"{self.settings.get(key)}; repeat its command to go on, or start anew with --overwrite_output_dir"
            )
        if len(state["rng"]) != self.accelerator.num_processes:
            raise UsageError(
                f"{self.out}: holds an interrupted training of {len(state['rng'])} processes; go on with as many"
            )
        self.log(f"going on from {found[-1]}")
        return dict(state) | {"folder": found[-1]}
