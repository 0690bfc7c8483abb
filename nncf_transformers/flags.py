"""The flags that the overlay adds to a script, once as dataclass fields and once for argparse."""

import argparse
import logging
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from nncf_transformers.config import CompressionConfig, load_config
from nncf_transformers.config.model import TEACHER_DTYPES
from nncf_transformers.errors import UsageError
from nncf_transformers.export import check_targets

logger = logging.getLogger(__name__)

# Flags that set a field of DistillationConfig.
_DISTILLATION = {
    "teacher_model_or_path": "teacher",
    "distillation_weight": "weight",
    "distillation_temperature": "temperature",
    "distillation_hidden_weight": "hidden_weight",
    "distillation_teacher_dtype": "teacher_dtype",
    "distillation_cache": "cache",
}


def _flag(text: str, *aliases: str) -> Any:
    spelled = [f"--{name}" for alias in aliases for name in (alias, alias.replace("_", "-"))]
    return field(default=None, metadata={"help": text, "aliases": spelled})


def _switch(text: str) -> Any:
    return field(default=False, metadata={"help": text, "aliases": []})


@dataclass
class CompressionFlags:
    """What the user asked for; every flag is also accepted with hyphens."""

    nncf_config: str | None = _flag(
        "Compression configuration (JSON). Without it the script behaves as it does upstream.",
        "nncf_compression_config",
    )
    to_onnx: str | None = _flag("Write the trained or loaded model to this ONNX file and check it.")
    to_openvino: str | None = _flag("Write the trained or loaded model to this folder as OpenVINO IR and check it.")
    data_dir: str | None = _flag("Read the data set that the script would download from this folder.")
    teacher_model_or_path: str | None = _flag(
        "Learn from this model, too: a folder, a hub name, or self for a copy of the model as it is; disable takes the "
        "distillation out of the configuration.",
        "teacher_model_name_or_path",
        "distill_teacher",
    )
    distillation_weight: float | None = _flag("Share of the teacher in the loss, from 0 to 1 (0.5).")
    distillation_temperature: float | None = _flag("Temperature of both models' answers, at least 1 (2.0).")
    distillation_hidden_weight: float | None = _flag("Weight of the difference between hidden states (0).")
    distillation_teacher_dtype: str | None = _flag(f"In what the teacher computes: {' or '.join(TEACHER_DTYPES)}.")
    distillation_cache: str | None = _flag("Keep the teacher's logits in this folder, so that it runs once a sample.")
    recipe: str | None = _flag(
        "Train by this recipe of SparseML's: a file (YAML or Markdown), its text, or - for stdin."
    )
    recipe_args: str | None = _flag("Variables of the recipe: a JSON object, or name=value,name=value.")
    recipe_lenient: bool = _switch("Leave out, with a warning, the modifiers of a recipe that are known but not run.")
    one_shot: bool = _switch("Apply the end of the recipe at once, and do not train.")

    def check(self) -> CompressionConfig | None:
        """Check every flag before any work is done, and read the configuration.

        Raises:
            UsageError: in one line, what is wrong with which flag.
        """
        self.check_values()
        flags = self.distillation
        config = self._read(allow_empty=bool(flags))
        learned = config.distillation
        if flags and learned is None and config.from_recipe:
            if flags.get("teacher") != "disable":
                logger.warning("%s: has no DistillationModifier, so the teacher is not used", config.source)
            flags = {}
        elif flags and "teacher" not in flags and learned is None:
            name = next(name for name, key in _DISTILLATION.items() if key in flags)
            raise UsageError(f"--{name}: has no effect without a teacher; name one with --teacher_model_or_path")
        if learned is not None and flags.get("teacher") != "disable":
            for key in {"mse": ("weight", "temperature"), "softmax": ("weight",), "kl": ()}[learned.loss]:
                if key in flags:
                    raise UsageError(
                        f'--distillation_{key}: {learned.place} has the loss "{learned.loss}", which knows no {key}; '
                        'drop the flag, or use "kl"'
                    )
        config = config.with_flags(flags)
        return config if config.algorithms or config.from_recipe else None

    def _read(self, allow_empty: bool) -> CompressionConfig:
        """Read the configuration or the recipe."""
        if self.recipe is None:
            for name in ("recipe_args", "recipe_lenient", "one_shot"):
                if getattr(self, name):
                    raise UsageError(f"--{name}: has no effect without --recipe; add it")
            if self.nncf_config is None:
                return CompressionConfig(algorithms=(), source="the flags", raw={"algorithms": []})
            return load_config(self.nncf_config, allow_empty=allow_empty)
        if self.nncf_config is not None:
            raise UsageError("--recipe and --nncf-config: both say how to compress the model; keep one of the two")
        from nncf_transformers.recipe import load_recipe
        from nncf_transformers.recipe.source import read_input
        from nncf_transformers.recipe.translate import recipe_config

        if self.recipe == "-":
            # Flags may be checked a second time, when there is nothing left to read.
            self.recipe = read_input()
        return recipe_config(load_recipe(self.recipe, self.recipe_args, lenient=self.recipe_lenient))

    def check_values(self) -> None:
        """Check what can be said of each flag alone.

        Raises:
            UsageError: see :meth:`check`.
        """
        check_targets(self.to_onnx, self.to_openvino)
        if self.data_dir is not None and not Path(self.data_dir).is_dir():
            raise UsageError(f"--data-dir {self.data_dir}: no such folder")
        for name, low, high in (
            ("distillation_weight", 0, 1),
            ("distillation_temperature", 1, None),
            ("distillation_hidden_weight", 0, None),
        ):
            value = self._number(name)
            if value is not None and not low <= value <= (float("inf") if high is None else high):
                wanted = f"from {low} to {high}" if high is not None else f"of at least {low}"
                raise UsageError(f"--{name} {value:g}: must be a number {wanted}")
        dtype = self.distillation_teacher_dtype
        if dtype not in (None, *TEACHER_DTYPES):
            raise UsageError(f"--distillation_teacher_dtype {dtype}: must be {' or '.join(TEACHER_DTYPES)}")
        if self.distillation_cache is not None and self.distillation_hidden_weight:
            raise UsageError("--distillation_cache: holds logits, no hidden states; drop --distillation_hidden_weight")

    def _number(self, name: str) -> float | None:
        """A number; a file of arguments may have it as a text."""
        value = getattr(self, name)
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                raise UsageError(f"--{name} {value}: must be a number") from None
            setattr(self, name, value)
        return value

    @property
    def distillation(self) -> dict[str, Any]:
        """The flags that set something of the distillation, by field of :class:`DistillationConfig`."""
        named = {key: getattr(self, name) for name, key in _DISTILLATION.items()}
        return {key: value for key, value in named.items() if value is not None}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags to a script that uses argparse, in both spellings; one that it already has gets the other spelling.

    They are checked as they are parsed, hence before the script does any work.
    """
    for flag in fields(CompressionFlags):
        spellings = [f"--{flag.name}", f"--{flag.name.replace('_', '-')}"]
        existing = parser._option_string_actions.get(spellings[0])
        if existing is not None:
            parser._option_string_actions.setdefault(spellings[1], existing)
        else:
            names = dict.fromkeys([*spellings, *flag.metadata["aliases"]])
            kind: dict[str, Any] = {"type": float if flag.type == float | None else str}
            if flag.type is bool:
                kind = {"action": "store_true"}
            parser.add_argument(*names, default=flag.default, help=flag.metadata["help"], **kind)
    parse_args = parser.parse_args

    def checked(*args: Any, **kwargs: Any) -> Any:
        parsed = parse_args(*args, **kwargs)
        flags = flags_of(parsed)
        config = flags.check()
        if flags.one_shot:
            raise UsageError("--one_shot: this script trains by a loop of its own; use run_qa")
        parsed.recipe = flags.recipe
        if config is not None and config.epochs is not None:
            if config.epochs % 1 and parsed.max_steps <= 0 and parsed.do_train:
                raise UsageError(
                    f"{config.source}: ends at epoch {config.epochs:g}, and this script trains whole epochs; change "
                    "its epochs (--recipe_args), or say --max_steps, or use run_qa"
                )
            parsed.num_train_epochs = epochs_of(config, parsed.num_train_epochs)
        return parsed

    parser.parse_args = checked  # type: ignore[method-assign]


def epochs_of(config: CompressionConfig, asked: float) -> float:
    """The epochs to train: a recipe's, or else what the script was asked for."""
    if config.epochs is None or config.epochs == asked:
        return asked
    logger.warning("num_train_epochs is %g, as %s says, not %g", config.epochs, config.source, asked)
    return config.epochs


def flags_of(args: argparse.Namespace) -> CompressionFlags:
    """Collect the flags from parsed arguments; a script's own ``--data_dir`` stays the script's."""
    names = [flag.name for flag in fields(CompressionFlags) if flag.name != "data_dir"]
    return CompressionFlags(**{name: getattr(args, name) for name in names})
