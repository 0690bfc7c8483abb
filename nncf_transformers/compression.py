"""The one object that compresses a model, whoever runs the training loop.

A hand-written loop::

    compression = Compression(load_config("nncf_configs/nncf_bert_config_squad.json"))
    optimizer = torch.optim.AdamW(model.parameters())
    compression.start(model, loader)                          # calibrate; the model is changed in place
    compression.add_to(optimizer, model)                      # the quantizers' own parameter group
    ...                                                       # train as always
    model.save_pretrained("checkpoint")                       # writes the quantizer state too

and later ``restore(model, "checkpoint")`` on the model that ``from_pretrained("checkpoint")`` returned.
The Hugging Face ``Trainer`` of :mod:`nncf_transformers.hf` does just this at the right moments.
"""

import inspect
import logging
import os
from collections.abc import Iterable
from itertools import islice
from types import MethodType
from typing import Any

import torch
from torch import nn

from nncf_transformers import checkpoint
from nncf_transformers.algorithms import Batch, create
from nncf_transformers.algorithms.quantization import quantizers
from nncf_transformers.config import CompressionConfig, parse_config
from nncf_transformers.errors import UsageError
from nncf_transformers.families import check_supported
from nncf_transformers.inputs import model_inputs
from nncf_transformers.kernels import use_fast_kernels

logger = logging.getLogger(__name__)

# Where from_pretrained says which weights it did not use.
LOADING_LOGGER = logging.getLogger("transformers.modeling_utils")

# The attribute under which a compressed model carries its Compression.
_ATTRIBUTE = "nncf_compression"


class Compression:
    """A configured compression, attached to at most one model."""

    def __init__(self, config: CompressionConfig) -> None:
        self.config = config
        self.algorithms = [create(algorithm) for algorithm in config.algorithms]

    @staticmethod
    def of(model: nn.Module) -> "Compression | None":
        """Return the compression that ``model`` carries, if any."""
        return getattr(model, _ATTRIBUTE, None)

    def check_same(self, config: CompressionConfig) -> None:
        """Warn if a model that is compressed already was asked to be compressed in another way."""
        if config.raw != self.config.raw:
            logger.warning(
                "%s has no effect: the model is compressed already, by other settings (%s)",
                config.source,
                self.config.source,
            )

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
        for warning in self.config.warnings:
            logger.warning(warning)
        wanted = max((algorithm.samples for algorithm in self.algorithms), default=0)
        training = model.training
        devices = [p.device for p in islice(model.parameters(), 1) if p.is_cuda]
        with torch.random.fork_rng(devices=devices):
            samples = _first_rows((model_inputs(model, batch) for batch in batches), wanted)
            if not samples:
                raise UsageError("the training set is empty: calibration needs at least one sample")
            if len(samples) < wanted:
                logger.warning(
                    "calibration: the configuration asks for %d samples, the training data has %d", wanted, len(samples)
                )
            model.eval()
            for algorithm in self.algorithms:
                algorithm.attach(model, samples)
        model.train(training)
        self._bind(model)
        logger.info("compressed %s: %d quantizers", type(model).__name__, sum(1 for _ in quantizers(model)))

    def add_to(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
        """Give the compression's parameters a group of their own: no weight decay, perhaps another learning rate.

        Where the optimizer was made from a model that was compressed already, they move there from its other groups.
        """
        hooks = {id(p) for name, p in model.named_parameters() if name.startswith(checkpoint.HOOK_PREFIX)}
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in hooks]
        parameters = compression_parameters(model)
        rate = self.algorithms[0].learning_rate(optimizer.defaults["lr"])
        optimizer.add_param_group({"params": parameters, "weight_decay": 0.0, "lr": rate})

    def statistics(self, model: nn.Module) -> dict[str, float]:
        """Scalars for the log, by names such as ``compression/quantizers``."""
        return {
            f"compression/{name}": value
            for algorithm in self.algorithms
            for name, value in algorithm.statistics(model).items()
        }

    def _bind(self, model: Any) -> None:
        """Let the model carry this compression, and save its state whenever the model is saved."""
        original = model.save_pretrained
        # A library of 2019 saves pytorch_model.bin only, and takes no other weights than the model's.
        knows_safetensors = "state_dict" in inspect.signature(original).parameters

        def save_pretrained(this: nn.Module, save_directory: str, *args: Any, **kwargs: Any) -> Any:
            if kwargs.get("safe_serialization") is False:
                raise UsageError("a compressed model is saved as safetensors only: drop --save_safetensors False")
            state_dict = kwargs.pop("state_dict", None) or this.state_dict()
            checkpoint.write_state(save_directory, this, self.config.raw)
            if not knows_safetensors:
                checkpoint.complete_config(this)
                checkpoint.write_weights(save_directory, checkpoint.save_ready(state_dict))
                return original.__func__(this, save_directory)
            return original.__func__(
                this, save_directory, *args, state_dict=checkpoint.save_ready(state_dict), **kwargs
            )

        setattr(model, _ATTRIBUTE, self)
        model.save_pretrained = MethodType(save_pretrained, model)


def restore(model: nn.Module, folder: str | os.PathLike[str]) -> Compression:
    """Make ``model``, as ``from_pretrained(folder)`` returned it, the compressed model that was saved in ``folder``.

    Raises:
        IntegrityError: the checkpoint's parts are missing, damaged or do not fit together.
    """
    use_fast_kernels()
    state = checkpoint.load_compressed(folder, model)
    compression = Compression(parse_config(state["config"], f"{folder}/{checkpoint.STATE_FILE}"))
    compression._bind(model)
    logger.info("%s: restored %d quantizers", folder, sum(1 for _ in quantizers(model)))
    return compression


def load_model(auto_class: Any, folder: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
    """Load a model by an ``AutoModelFor…`` class; the checkpoint of a compressed model comes back compressed.

    Args:
        auto_class: such as ``transformers.AutoModelForQuestionAnswering``.
        folder: a local folder, or the name of a model on the hub.
        *args: handed on to ``from_pretrained``, as are the keyword arguments.
    """
    # Asked first, for from_pretrained would report a damaged checkpoint in its own words.
    if os.path.isdir(folder):
        checkpoint.is_compressed(folder)
    LOADING_LOGGER.addFilter(without_quantizers)
    try:
        model = auto_class.from_pretrained(folder, *args, **kwargs)
    finally:
        LOADING_LOGGER.removeFilter(without_quantizers)
    restore_if_compressed(model, folder)
    return model


def without_quantizers(record: logging.LogRecord) -> bool:
    """Filter out the warning of ``from_pretrained`` that lists every quantizer parameter as of no use.

    For where :func:`restore_if_compressed` follows, which loads them or refuses the checkpoint.
    """
    return checkpoint.HOOK_PREFIX not in record.getMessage()


def restore_if_compressed(model: nn.Module, name: str | os.PathLike[str]) -> None:
    """Restore a model's compression if ``name``, a local folder or a hub name, is a compressed checkpoint."""
    folder = checkpoint.local_folder(name)
    if folder is not None and checkpoint.is_compressed(folder):
        restore(model, folder)


def compression_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The trainable parameters that compression added to ``model``."""
    return [
        parameter
        for name, parameter in model.named_parameters()
        if name.startswith(checkpoint.HOOK_PREFIX) and parameter.requires_grad
    ]


def _first_rows(batches: Iterable[Batch], count: int) -> list[Batch]:
    """Split batches into single rows, the first ``count`` of them.

    One row a batch, for NNCF takes the statistics of a transformer per batch, not per row.
    """
    rows = (
        {name: tensor[i : i + 1] for name, tensor in batch.items()}
        for batch in batches
        for i in range(len(next(iter(batch.values()))))
    )
    return list(islice(rows, count))
