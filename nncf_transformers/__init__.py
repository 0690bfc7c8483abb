"""INT8 quantization-aware training, checkpoints and export for encoder models of Transformers.

The names below are loaded when they are first used: importing the package loads neither torch nor NNCF.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Compression": "compression",
    "load_model": "loading",
    "restore": "loading",
    "load_config": "config",
    "export_model": "export",
    "pipeline": "pipelines",
    "Trainer": "hf",
    "Seq2SeqTrainer": "hf",
    "TrainingArguments": "hf",
    "Seq2SeqTrainingArguments": "hf",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
