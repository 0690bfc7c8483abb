"""Bring a saved model back, compressed as it was."""

import logging
import os
from pathlib import Path
from typing import Any

from torch import nn

from nncf_transformers import checkpoint
from nncf_transformers.algorithms.layer_dropping import keep_layers
from nncf_transformers.compression import TABLE_FILE, Compression
from nncf_transformers.config import CompressionConfig, parse_config
from nncf_transformers.config.model import RECIPE_KEYS
from nncf_transformers.config.parameters import KEPT_LAYERS
from nncf_transformers.errors import IntegrityError
from nncf_transformers.kernels import use_fast_kernels
from nncf_transformers.recipe.inherit import RECIPE_FILE
from nncf_transformers.structure import CONFIG_KEY, load_smaller_models
from nncf_transformers.summary import STATISTICS_FILE

logger = logging.getLogger(__name__)

# Where from_pretrained says which weights it did not use.
LOADING_LOGGER = logging.getLogger("transformers.modeling_utils")


def restore(model: nn.Module, folder: str | os.PathLike[str]) -> Compression:
    """Make ``model``, as ``from_pretrained(folder)`` returned it, the compressed model that was saved in ``folder``.

    Raises:
        IntegrityError: the checkpoint's parts are missing, damaged or do not fit together.
    """
    use_fast_kernels()
    # A checkpoint to resume from may have lost layers that the model, as it was loaded, has.
    keep_layers(model, checkpoint.read_state(folder, model).get(KEPT_LAYERS))
    state = checkpoint.load_compressed(folder, model)
    place = f"{folder}/{checkpoint.STATE_FILE}"
    sizes = getattr(model.config, CONFIG_KEY, None)
    if state.get(CONFIG_KEY, sizes) != sizes:
        raise IntegrityError(
            f"{place}: is of a model that lost heads or channels, and this one has others (was another run saved over "
            f"it?); delete {checkpoint.STATE_FILE} to use the model as it is"
        )
    compression = Compression(_read_config(state["config"], place).with_flags(state.get("flags", {})))
    compression._load_state(model, state)
    compression._bind(model)
    logger.info("%s: restored %s", folder, compression._methods(model))
    return compression


def _read_config(raw: Any, place: str) -> CompressionConfig:
    if isinstance(raw, dict) and RECIPE_KEYS & set(raw):
        from nncf_transformers.recipe.translate import read_raw

        return read_raw(raw, place)
    return parse_config(raw, place, allow_empty=True)


def remove_reports(folder: str | os.PathLike[str]) -> None:
    """Remove what an earlier, compressed model has left in a folder where another model is saved now."""
    if Path(folder, checkpoint.STATE_FILE).is_file():
        for name in (RECIPE_FILE, STATISTICS_FILE, TABLE_FILE, checkpoint.STATE_FILE):
            Path(folder, name).unlink(missing_ok=True)


def load_model(auto_class: Any, folder: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
    """Load a model by an ``AutoModelFor…`` class; the checkpoint of a compressed model comes back compressed.

    Args:
        auto_class: such as ``transformers.AutoModelForQuestionAnswering``.
        folder: a local folder, or the name of a model on the hub.
        *args: handed on to ``from_pretrained``, as are the keyword arguments.
    """
    load_smaller_models()
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
