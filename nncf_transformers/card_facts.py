"""What a run knows about the model that it made, for the model card: command, data, settings, versions."""

import platform
import re
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

from nncf_transformers.data.files import sha256_of

_PROJECT = Path(__file__).resolve().parent.parent
_PACKAGES = ("torch", "transformers", "datasets", "adapters", "nncf", "openvino", "onnx", "onnxruntime")
# Flags that name a file whose content decides about the figures, and what it is for.
_FILES = {
    "train_file": "training",
    "squad_train_data": "training",
    "train_data_file": "training",
    "validation_file": "evaluation",
    "predict_file": "evaluation",
    "squad_dev_data": "evaluation",
    "eval_data_file": "evaluation",
    "test_file": "prediction",
    "nncf_config": "compression configuration",
    "nncf_compression_config": "compression configuration",
    "recipe": "recipe",
    "squad_eval_script": "evaluation script",
}
# A data folder with more files than this is no benchmark's distribution, and not worth hours of checksums.
_MOST_FILES = 40
_SETTINGS = (
    "learning_rate",
    "per_device_train_batch_size",
    "per_gpu_train_batch_size",
    "total_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "warmup_ratio",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "lr_scheduler_type",
    "optim",
    "adam_epsilon",
    "label_smoothing_factor",
    "fp16",
    "bf16",
    "mixed_precision",
    "max_seq_length",
    "max_seq_length_q",
    "max_seq_length_c",
    "doc_stride",
    "seed",
)
_SECRET = re.compile(r"(.*_)?(token|password|secret|api_key)")
# Flags by which only a part of the data is taken, and of what.
_SLICES = {"max_train_samples": "Training", "max_eval_samples": "Evaluation", "max_predict_samples": "Prediction"}


@dataclass(frozen=True)
class CardFacts:
    """What is known of a run; whatever is not stays out of the card.

    Attributes:
        command: the program and its arguments, as they were given.
        base_model: folder or hub name of the model that the run started from.
        trained: whether it trained the model, or only evaluated it.
        settings: hyperparameters by name.
        metrics: of the evaluation, by name; None to take what the script has written beside the model.
        dataset: of the evaluation, as in a card's model-index: ``name``, ``type``, perhaps ``config`` and ``split``.
    """

    command: Sequence[str] = ()
    base_model: str | None = None
    trained: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] | None = None
    dataset: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, args: Any, command: Sequence[str], **known: Any) -> "CardFacts":
        """Take what the card needs from a script's arguments.

        Args:
            args: parsed by argparse, or the Trainer's.
            command: the program and its arguments; secrets among them do not get into the card.
            **known: attributes that the caller knows better.
        """
        settings = {name: getattr(args, name, None) for name in _SETTINGS}
        names = (getattr(args, name, None) for name in ("model_name_or_path", "model_student"))
        found = {
            "base_model": next(filter(None, names), None) or flags_of(command).get("model_name_or_path"),
            "trained": bool(getattr(args, "do_train", True)),
            "settings": {k: _plain(v) for k, v in settings.items() if v is not None and v is not False},
        }
        return cls(command=tuple(command), **found | known)  # type: ignore[arg-type]

    @property
    def flags(self) -> dict[str, str]:
        """The command's flags."""
        return flags_of(self.command)

    @property
    def script(self) -> str:
        """The script's path below its pin's work tree or the project, or else its name."""
        path = Path(self.command[0]) if self.command else Path()
        for root in (pin_folder(path), _PROJECT):
            if root is not None and path.resolve().is_relative_to(root):
                return path.resolve().relative_to(root).as_posix()
        return path.name

    @property
    def pin(self) -> str | None:
        """The pin and the upstream commit that the script is of; None for a script of another origin."""
        folder = pin_folder(Path(self.command[0])) if self.command else None
        try:
            pins = tomllib.loads((_PROJECT / "pins.toml").read_text(encoding="utf-8"))["pins"]
        except (OSError, KeyError, tomllib.TOMLDecodeError):
            return None
        entry = pins.get(folder.name) if folder is not None else None
        return f"{folder.name}, upstream commit {entry['commit']}" if folder and entry and "commit" in entry else None

    @property
    def command_line(self) -> str:
        """The command, ready for a shell, without secrets."""
        words = list(self.command)
        for number, word in enumerate(words):
            name, equals, _ = word.partition("=")
            if not name.startswith("--") or not _SECRET.fullmatch(name[2:].replace("-", "_")):
                continue
            if equals:
                words[number] = f"{name}=***"
            elif number + 1 < len(words) and not words[number + 1].startswith("-"):
                words[number + 1] = "***"
        return shlex.join(["python", *words])

    @property
    def limits(self) -> list[str]:
        """In what the data was less, or something else, than a data set as it is published."""
        flags, lines = self.flags, []
        for name, what in _SLICES.items():
            if name in flags and (what != "Training" or self.trained):
                lines.append(f"{what}: at most {flags[name]} samples of the data (`--{name}`), not all of it.")
        if "data_dir" in flags:
            part = "Training" if self.trained else "Evaluation"
            lines.append(
                f"{part}: the data were read from a local folder; only its files' checksums tell what they are."
            )
        return lines

    def dataset_of_flags(self) -> dict[str, Any] | None:
        """The data set of the evaluation, as far as the command names it, as an entry of a model-index."""
        flags = self.flags
        for flag in ("validation_file", "predict_file", "squad_dev_data", "eval_data_file"):
            if flags.get(flag):
                return {"name": Path(flags[flag]).name, "type": "unknown"}
        name = flags.get("dataset_name") or ("glue" if "task_name" in flags else None)
        if not name:
            return None
        config = flags.get("dataset_config_name") or flags.get("task_name")
        return {"name": name, "type": name, **({"config": config} if config else {}), "split": "validation"}

    def files(self) -> list[tuple[str, str, str]]:
        """Name, purpose and SHA-256 of the local files that the command names, and of those in its data folder."""
        found = []
        for flag, purpose in _FILES.items():
            path = Path(self.flags.get(flag, ""))
            if _is_file(path):
                found.append((path.name, purpose, sha256_of(path)))
        folder = self.flags.get("data_dir")
        if folder:
            paths = list(islice((path for path in Path(folder).rglob("*") if path.is_file()), _MOST_FILES + 1))
            if len(paths) <= _MOST_FILES:
                named = sorted((path.relative_to(folder).as_posix(), path) for path in paths)
                found += [(name, "in the data folder", sha256_of(path)) for name, path in named]
        return found


def pin_folder(script: Path) -> Path | None:
    """The work tree under ``build/`` that a script is in."""
    build, path = _PROJECT / "build", script.resolve()
    return build / path.relative_to(build).parts[0] if path.is_relative_to(build) and path != build else None


def flags_of(command: Sequence[str]) -> dict[str, str]:
    """The flags of a command line with their values, by names with underscores; the empty text for a switch."""
    flags, words = {}, list(command)
    for number, word in enumerate(words):
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            follows = words[number + 1] if number + 1 < len(words) else "--"
            flags[name.replace("-", "_")] = value if equals else "" if follows.startswith("--") else follows
    return flags


def versions() -> dict[str, str]:
    """The libraries that are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _is_file(path: Path) -> bool:
    try:
        return path.name != "" and path.is_file()
    except OSError:
        # A recipe may be given as its text, which is too long for a name.
        return False


def _plain(value: Any) -> Any:
    """A setting as it is written: the value of an enumeration, a number as it is."""
    return getattr(value, "value", value)
