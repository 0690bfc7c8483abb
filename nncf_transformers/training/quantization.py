"""Quantize a student before a stage, and its quantizers' part in the stages."""

import logging
from collections.abc import Callable
from typing import Any

from torch import nn

from nncf_transformers.algorithms.quantization import Quantization
from nncf_transformers.compression import Compression
from nncf_transformers.config import CompressionConfig
from nncf_transformers.training.data import Encoded
from nncf_transformers.training.evaluation import in_words
from nncf_transformers.training.models import rows, trainable
from nncf_transformers.training.run import Run
from nncf_transformers.training.stage import Objective, Stage, linear

logger = logging.getLogger(__name__)

Judge = Callable[[nn.Module], dict[str, float]]


def compress(run: Run, student: nn.Module, config: CompressionConfig | None, data: Encoded, judge: Judge) -> None:
    """Compress a student as the configuration says, and say what that alone costs.

    Args:
        run: if it goes on after an interruption, the student came back compressed.
        student: on its device; changed in place.
        config: None for no compression.
        data: for calibration.
        judge: before and after.
    """
    if config is None:
        return
    present = Compression.of(student)
    if present is not None and not present.replaceable(student, config):
        present.check_same(config)
        return
    if run.resumed_model is not None:
        return
    say(run, "original", student, judge)
    Compression(config).start(student, rows(student, data, run.seed))
    say(run, "quantized", student, judge)


def say(run: Run, what: str, model: nn.Module, judge: Judge) -> dict[str, float]:
    """Judge a model and log it, in one process while the others wait; these get no scores."""
    scores = {}
    if run.main:
        scores = judge(model)
        run.log(f"{what} {in_words(scores)}")
    run.accelerator.wait_for_everyone()
    return scores


def tune(
    run: Run,
    objective: Objective,
    data: Encoded,
    judge: Judge,
    args: Any,
    before_quantizers: Callable[[bool], None] = lambda alone: None,
) -> None:
    """Train a student: of a quantized one, its quantizers alone for an epoch, then everything.

    Args:
        run: of the whole training.
        objective: around the student.
        data: training samples.
        judge: after every epoch.
        args: the script's flags.
        before_quantizers: called with True before the quantizers are trained alone, and with False after it.
    """
    student: Any = objective.student
    compression = Compression.of(student)
    quantized = compression is not None and any(isinstance(a, Quantization) for a in compression.algorithms)
    micro = run.micro_batch * run.accelerator.num_processes

    def evaluate(stage: Stage, epoch: int) -> None:
        say(run, f"checkpoint-{stage.name}-{epoch:02d}", student, judge)

    common = {"learning_rate": args.learning_rate, "schedule": linear, "log_every": args.logging_steps}
    if quantized:
        assert compression is not None
        before_quantizers(True)
        groups = compression.groups(student, args.learning_rate)
        alone = Stage("00", [data], groups, epochs=1, total_batch=micro, end_of_epoch=evaluate, **common)
        run.train(alone, objective)
        before_quantizers(False)
    groups = [{"params": trainable(objective, student, args.freeze_list)}]
    total = run.batch(args.total_train_batch_size)
    stage = Stage(
        "01", [data], groups, epochs=args.num_train_epochs, total_batch=total, end_of_epoch=evaluate, **common
    )
    if compression is not None:
        groups.extend(compression.groups(student, args.learning_rate))
        compression.begin(student, steps_per_epoch=stage.steps_of_data[0], total_steps=stage.total_steps)
        stage.after_step = lambda: compression.advance(student)
    run.train(stage, objective)
    if compression is not None:
        compression.finish(student)
