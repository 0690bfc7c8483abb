"""What the patches of pin v2.2 import: its scripts are of 2019, and so is the library beside them.

That library has no Trainer, reads and writes ``pytorch_model.bin`` only, and knows no hooks on saving. A compressed
checkpoint is written both ways, so that the scripts find the files they look for and every other pin finds its own.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nncf_transformers import excepthook
from nncf_transformers.checkpoint import HOOK_PREFIX, WEIGHTS_FILE, is_compressed, read_weights
from nncf_transformers.flags import add_arguments
from nncf_transformers.loading import restore
from nncf_transformers.loop import export_model, start_training
from nncf_transformers.structure import load_smaller_models

__all__ = ["add_arguments", "compressible", "export_model", "start_training"]

excepthook.install()
# The scripts may load a model that lost heads or channels.
load_smaller_models()


def compressible(classes: Mapping[str, tuple[Any, Any, Any]]) -> dict[str, tuple[Any, Any, Any]]:
    """Let a script's ``MODEL_CLASSES`` load compressed checkpoints, and safetensors.

    Args:
        classes: configuration, model and tokenizer class by model type.
    """
    return {name: (config, _Model(model), tokenizer) for name, (config, model, tokenizer) in classes.items()}


class _Model:
    """Stands for a model class of 2019; its ``from_pretrained`` is upstream's, except where upstream's cannot work."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def from_pretrained(self, folder: str, *args: Any, **kwargs: Any) -> Any:
        compressed = os.path.isdir(folder) and is_compressed(folder)
        has = {name: os.path.isfile(os.path.join(folder, name)) for name in ("pytorch_model.bin", WEIGHTS_FILE)}
        if not compressed and (has["pytorch_model.bin"] or not has[WEIGHTS_FILE]):
            return self._original.from_pretrained(folder, *args, **kwargs)
        if kwargs.get("config") is None:
            kwargs["config"] = self._original.config_class.from_pretrained(folder, **_labels(folder))
        weights = {name: tensor for name, tensor in read_weights(folder) if not name.startswith(HOOK_PREFIX)}
        # Any file will do as the name, for the weights are given.
        file = os.path.join(folder, WEIGHTS_FILE)
        model = self._original.from_pretrained(file, *args, state_dict=weights, **kwargs)
        if compressed:
            restore(model, folder)
        return model


def _labels(folder: str) -> dict[str, int]:
    """The number of labels, which newer libraries do not write down as such."""
    path = Path(folder, "config.json")
    names = json.loads(path.read_text(encoding="utf-8")).get("id2label") if path.is_file() else None
    return {"num_labels": len(names)} if names else {}
