"""What the recipe that a model came with means for a training that goes on from it."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nncf_transformers import checkpoint
from nncf_transformers.config import CompressionConfig
from nncf_transformers.config.model import LEFT_OUT
from nncf_transformers.config.parameters import KEPT_LAYERS
from nncf_transformers.errors import UsageError

if TYPE_CHECKING:
    from nncf_transformers.recipe.recipe import Recipe

logger = logging.getLogger(__name__)

RECIPE_FILE = "recipe.yaml"


def composed(raw: Mapping[str, Any], metadata: Mapping[str, Any]) -> str | None:
    """The recipe to save with a model: what it came with, then what was done to it; None for no recipe.

    Args:
        raw: of a :class:`CompressionConfig`.
        metadata: what to say of the last training.
    """
    texts = [raw[key] for key in ("previous_recipe", "recipe") if raw.get(key)]
    if not texts:
        return None
    from nncf_transformers.recipe.recipe import compose, parse_recipe

    *earlier, last = (parse_recipe(text, RECIPE_FILE) for text in texts)
    if raw.get("recipe"):
        left_out = {LEFT_OUT: raw[LEFT_OUT]} if raw.get(LEFT_OUT) else {}
        last = replace(last, metadata={**last.metadata, **metadata, **left_out})
    return compose(earlier[0] if earlier else None, last).to_yaml()


def recipe_of(folder: Path) -> "Recipe | None":
    """Read the recipe that was saved with a model.

    Raises:
        ConfigError: the file is no recipe.
    """
    path = folder / RECIPE_FILE
    if not path.is_file():
        return None
    from nncf_transformers.recipe.recipe import load_recipe

    return load_recipe(str(path), applied=True)


def inherit(config: CompressionConfig | None, model: Any, name: str, *, trains: bool) -> CompressionConfig | None:
    """Let what the model's own recipe has done go on: layers stay removed, zeros stay zero, quantizers come back.

    Args:
        config: what the user asks for now.
        model: as it was loaded, with its compression if it was saved with one. It loses the layers that its recipe
            says, where whoever trained it only left their weights out.
        name: folder, or name on the hub, that it was loaded from.
        trains: whether a training follows; otherwise a model is what its weights and its state are.

    Returns:
        The settings of the training.

    Raises:
        UsageError: the model is quantized in a form that only SparseML reads.
    """
    from nncf_transformers.compression import Compression

    folder = checkpoint.local_folder(name)
    previous = recipe_of(folder) if folder is not None else None
    if previous is None or folder is None:
        return config
    from nncf_transformers.recipe.recipe import parse_recipe
    from nncf_transformers.recipe.translate import lasting, recipe_config, with_previous

    compression = Compression.of(model)
    _replay(previous, folder, model, compression)
    count = len(previous.stages)
    logger.info("%s: a recipe of %d stage%s was applied to the model", folder / RECIPE_FILE, count, "s"[: count - 1])
    for name in previous.unsupported:
        logger.info("%s: what it has done is over: %s", folder / RECIPE_FILE, name)
    if not any(stage.modifiers for stage in previous.stages):
        return config
    if compression is not None and (not compression.finished or not trains):
        # The file ends with the recipe that the state is of; what came before it stands there, too.
        text = compression.config.raw.get("previous_recipe")
        previous = parse_recipe(text, str(folder / RECIPE_FILE), applied=True) if text else None
        if previous is None:
            return config
    elif not trains:
        return config
    if config is not None and config.from_recipe:
        return with_previous(config, previous)
    kept = lasting(previous)
    if not trains or not kept:
        return config
    if config is not None:
        logger.warning(
            "%s: its zeros do not stay zero under %s; add constant_sparsity to keep them", folder, config.source
        )
        return config
    prunes = any(item.algorithm == "constant_sparsity" for item in kept)
    return recipe_config(None, previous) if compression is None or prunes else None


def _replay(previous: "Recipe", folder: Path, model: Any, compression: Any) -> None:
    """Remove the layers that a foreign model still has, with random weights; refuse foreign quantizers."""
    from nncf_transformers.recipe.translate import dropped_layers, lasting

    if compression is None and any(item.algorithm == "quantization" for item in lasting(previous)):
        raise UsageError(
            f"{folder}: {RECIPE_FILE} says that the model is quantized, but {checkpoint.STATE_FILE} is missing: "
            "quantizers of SparseML's cannot be read; take the model from before its quantization, or copy the "
            "checkpoint whole"
        )
    if getattr(model.config, KEPT_LAYERS, None) is None:
        from nncf_transformers.algorithms.layer_dropping import drop_layers

        config = dropped_layers(previous)
        if config is not None:
            drop_layers(model, config)
