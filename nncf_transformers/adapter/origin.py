"""Where a model's weights come from: a folder has them, or lacks some, or the model was made from a configuration."""

from pathlib import Path
from typing import Any

import torch

from nncf_transformers.checkpoint import local_folder, stored_names, stored_rows

# Checkpoints of 2018 call the parameters of a layer norm by these names.
_OLD_NAMES = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
_ROWS = 4


def origin(model: Any) -> tuple[str, set[str]]:
    """Find out what of a model has to be saved with its adapter, because nobody could load it again.

    Args:
        model: as a script has it, before it gets an adapter.

    Returns:
        The folder or hub name that it was loaded from, empty for one that was made from a configuration; and the names
        of parameters of the base that are not in there, such as a pooler, and are random therefore. Where the weights
        are no safetensors, neither can be told, and the configuration is believed.
    """
    name = str(getattr(model.config, "_name_or_path", "") or "")
    place = local_folder(name) if name else None
    files = stored_names(place) if place is not None else {}
    base = dict(model.base_model.named_parameters())
    found = {own: key for own in base if (key := _stored(own, model.base_model_prefix, files)) is not None}
    if not found:
        return name, set()
    for own, key in found.items():
        if base[own].ndim == 2:
            rows = stored_rows(files[key], key, _ROWS)
            if rows.shape != base[own][:_ROWS].shape or not torch.equal(rows.to(base[own]), base[own][:_ROWS].detach()):
                return "", set()
            break
    lacking = {id(base[own]) for own in base.keys() - found.keys()}
    return name, {full for full, parameter in model.named_parameters() if id(parameter) in lacking}


def _stored(own: str, prefix: str, files: dict[str, Path]) -> str | None:
    """The name in a checkpoint of a parameter of the base; models with and without a head differ in it."""
    names = [own, *(own.replace(new, old) for new, old in _OLD_NAMES.items() if own.endswith(new))]
    return next((key for n in names for key in (n, f"{prefix}.{n}") if key in files), None)
