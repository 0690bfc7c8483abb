"""What the patches import into an upstream script, and nothing else.

A patch shadows names that the script has imported already (``Trainer``, ``TrainingArguments``, ``evaluate``,
``load_dataset``, an ``AutoModelFor…``), or calls one of the functions below at one place. Importing this module also
lets the script end on a user's mistake with one line instead of a traceback.
"""

from typing import Any

import transformers
from torch import nn

from nncf_transformers import excepthook
from nncf_transformers.data import evaluate, load_dataset
from nncf_transformers.flags import add_arguments
from nncf_transformers.hf import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments
from nncf_transformers.loading import LOADING_LOGGER, load_model, without_quantizers
from nncf_transformers.loop import export_model, start_training
from nncf_transformers.structure import load_smaller_models

__all__ = [
    "AutoModelForQuestionAnswering",
    "Seq2SeqTrainer",
    "Seq2SeqTrainingArguments",
    "Trainer",
    "TrainingArguments",
    "add_arguments",
    "evaluate",
    "export_model",
    "load_dataset",
    "start_training",
]

excepthook.install()
# The scripts may load a model that lost heads or channels.
load_smaller_models()
# The scripts load a model and hand it to the Trainer, which restores its quantizers.
LOADING_LOGGER.addFilter(without_quantizers)


class AutoModelForQuestionAnswering:
    """Stands for upstream's class of that name in a script: what it loads may be compressed."""

    @staticmethod
    def from_pretrained(folder: str, *args: Any, **kwargs: Any) -> nn.Module:
        return load_model(transformers.AutoModelForQuestionAnswering, folder, *args, **kwargs)
