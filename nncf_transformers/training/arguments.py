"""The flags that train_qa, pack_and_distill and train_qcemb share, and what every one of them does with its folder."""

import argparse
import json
import logging
import math
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nncf_transformers.card_facts import CardFacts
from nncf_transformers.checkpoint import write_text
from nncf_transformers.config import CompressionConfig, load_config
from nncf_transformers.errors import UsageError

logger = logging.getLogger(__name__)

# Written last: the folder holds the result of a whole training.
ARGUMENTS_FILE = "training_args.txt"
SHIPPED_CONFIGS = Path(__file__).resolve().parent.parent.parent / "nncf_configs"
# They say where the computation is done, how often something is written, or who judges it, not what comes out.
_IMMATERIAL = (
    "output_dir",
    "per_gpu_eval_batch_size",
    "no_cuda",
    "overwrite_output_dir",
    "save_steps",
    "logging_steps",
    "squad_eval_script",
)
# Folders with a training's state; those with a dot were not written to their end.
_STATE_FOLDER = re.compile(r"\.?resume-\d{2,}-\d{7}(\.\d+)?")


def parser(description: str, *, answers: bool = True, **defaults: Any) -> argparse.ArgumentParser:
    """A parser with the common flags.

    Args:
        description: the script's docstring.
        answers: whether windows with answers are among the data.
        **defaults: the defaults of common flags that differ from script to script.
    """
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = made.add_argument
    add("--squad_train_data", required=True, help="training file in SQuAD's format")
    add("--squad_dev_data", required=True, help="file to evaluate on, in SQuAD's format")
    add("--model_student", help="model to train: a folder or a hub name")
    add("--model_teacher", help="model to learn from")
    add("--output_dir", required=True, help="where the result goes; an interrupted training goes on from there")
    add("--total_train_batch_size", type=int, help="samples an optimizer step")
    add("--per_gpu_train_batch_size", type=int, help="samples a process computes at a time")
    add("--per_gpu_eval_batch_size", type=int, help="the same in an evaluation")
    add("--learning_rate", type=float)
    add("--num_train_epochs", type=float, help="fractions are allowed")
    add("--no_cuda", action="store_true", help="compute on the CPU")
    add("--max_seq_length_q", type=int, help="tokens of a question; longer ones are cut")
    add("--max_seq_length_c", type=int, help="tokens of a window (QA: question and context), or of a context")
    add("--seed", type=int, default=42)
    add("--mixed_precision", choices=("no", "bf16", "fp16"), default="no", help="data type of most computations")
    add("--save_steps", type=int, default=500, help="optimizer steps between two states to go on from")
    add("--logging_steps", type=int, help="optimizer steps between two lines of the log")
    add("--overwrite_output_dir", action="store_true", help="start anew, whatever is in --output_dir")
    if answers:
        add(
            "--squad_eval_script",
            help="official evaluation script, evaluate-v1.1.py; without it the same metric of ours",
        )
        add("--doc_stride", type=int, default=128, help="tokens by which two windows of a long context overlap")
    made.set_defaults(**defaults)
    for action in made._actions:
        if action.help is None:
            action.help = ""
        if action.default not in (None, False, argparse.SUPPRESS):
            action.help += " (default: %(default)s)"
    return made


def check(args: argparse.Namespace) -> None:
    """Refuse values that cannot work, before anything is loaded.

    Raises:
        UsageError: which flag.
    """
    for flag in ("squad_train_data", "squad_dev_data", "squad_eval_script"):
        value = getattr(args, flag, None)
        if value is not None and not Path(value).is_file():
            raise UsageError(f"--{flag} {value}: no such file")
    if args.model_student and Path(args.model_student).resolve() == Path(args.output_dir).resolve():
        raise UsageError(f"--output_dir {args.output_dir}: is the folder of --model_student; choose another")
    for flag, low in _LOWEST.items():
        value = getattr(args, flag, None)
        if value is not None and not low <= value < math.inf:
            raise UsageError(f"--{flag} {value}: must be at least {low}")
    for flag in _POSITIVE:
        value = getattr(args, flag, None)
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"--{flag} {value}: must be greater than 0")


_POSITIVE = ("learning_rate", "num_train_epochs", "learning_rate_for_tune", "hnm_hist_alpha", "loss_weight_alpha")
_LOWEST = {
    "total_train_batch_size": 1,
    "per_gpu_train_batch_size": 1,
    "per_gpu_eval_batch_size": 1,
    "max_seq_length_q": 3,
    "max_seq_length_c": 8,
    "doc_stride": 0,
    "save_steps": 1,
    "logging_steps": 1,
    "supervision_weight": 0,
    "kd_weight": 0,
    "hnm_batch_size": 1,
    "hnm_num": 0,
    "hnm_hist_num": 1,
    "total_train_batch_size_for_tune": 1,
}


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """What must be the same for an interrupted training to go on."""
    return {name: value for name, value in sorted(vars(args).items()) if name not in _IMMATERIAL}


def start_log(name: str) -> None:
    """Log as the originals did: time, level, process and script; every parameter once."""
    if os.environ.get("RANK", "0") == "0":
        form = f"%(asctime)s %(levelname)s '%(process)d {name}' %(message)s"
        logging.basicConfig(format=form, stream=sys.stderr, level=logging.WARNING)
        logging.getLogger("nncf_transformers").setLevel(logging.INFO)
    else:
        logging.basicConfig(level=logging.ERROR)


def is_finished(args: argparse.Namespace) -> bool:
    """Whether the output folder holds the result of this very command already.

    Raises:
        UsageError: it holds that of another one, or something that is no training's.
    """
    out = Path(args.output_dir)
    if args.overwrite_output_dir or not out.exists():
        return False
    if not out.is_dir():
        raise UsageError(f"--output_dir {out}: is a file; name a folder")
    path = out / ARGUMENTS_FILE
    if path.is_file():
        if path.read_text(encoding="utf-8") != _listing(args):
            raise UsageError(
                f"--output_dir {out}: holds the result of a training with other parameters (see {path}); choose "
                "another folder, or train anew with --overwrite_output_dir"
            )
        # Of a process that was killed right after it had written the last file.
        remove_states(out)
        logger.info("%s: holds the result of this command already; --overwrite_output_dir trains anew", out)
        return True
    if (out / "config.json").is_file() and not state_folders(out):
        raise UsageError(
            f"--output_dir {out}: holds a model that is not of this training; choose another folder, or give "
            "--overwrite_output_dir"
        )
    return False


def state_folders(out: Path) -> list[Path]:
    """The folders with states of a training, whole or not, in the order in which they were written."""
    return sorted(path for path in out.glob("*") if _STATE_FOLDER.fullmatch(path.name) and path.is_dir())


def remove_states(out: Path, but: str | None = None) -> None:
    """Remove the states of a training, but for one."""
    for folder in state_folders(out):
        if folder.name != but:
            shutil.rmtree(folder, ignore_errors=True)


def prepare_folder(args: argparse.Namespace) -> None:
    """Make the output folder. What is in it stays until there is something to put in its place."""
    out = Path(args.output_dir)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output_dir {out}: cannot be written ({error.strerror}); choose another folder") from error


def card_facts(args: argparse.Namespace, argv: Sequence[str] | None, scores: dict[str, float]) -> CardFacts:
    """What the model's card says of the training.

    Args:
        args: the script's flags.
        argv: the command line they were parsed from; None for this process's.
        scores: of the model that is written.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    return CardFacts.of(args, [sys.argv[0], *words], metrics=scores)


def write_arguments(args: argparse.Namespace) -> None:
    """Mark the output folder as finished: one line, name and value, for each parameter."""
    write_text(Path(args.output_dir) / ARGUMENTS_FILE, _listing(args))


def _listing(args: argparse.Namespace) -> str:
    return "".join(f"{name} {json.dumps(value)}\n" for name, value in settings_of(args).items())


def log_parameters(args: argparse.Namespace) -> None:
    for name, value in sorted(vars(args).items()):
        logger.info("parameter %s %s", name, value)


def read_config(name: str | None) -> CompressionConfig | None:
    """Read a compression configuration: a file, or the name of one in ``nncf_configs/``."""
    if name is None:
        return None
    if not Path(name).exists() and Path(name).name == name and (SHIPPED_CONFIGS / name).is_file():
        return load_config(SHIPPED_CONFIGS / name)
    return load_config(name)


def read_pairs(flag: str, text: str, known: dict[str, Sequence[str]]) -> dict[str, str]:
    """Read ``key:value,key:value``.

    Args:
        flag: for messages.
        text: may be empty.
        known: what values each key takes.

    Raises:
        UsageError: an unknown key, or a value that it does not take.
    """
    pairs: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, _, value = part.partition(":")
        if key not in known:
            raise UsageError(f"--{flag} {part}: unknown; known are {', '.join(known)}")
        if value not in known[key]:
            raise UsageError(f"--{flag} {part}: must be {' or '.join(known[key])}")
        pairs[key] = value
    return pairs
