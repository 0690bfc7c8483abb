"""Packing: make a large BERT-class model a small one that learns from it (inventory 3.3).

::

    config = PackConfig.parse("num_hidden_layers:12,num_attention_heads:8,hidden_size:512", model.config)
    pack(model, config)
    ...                                             # train; transformed(model, states) for losses on hidden states
    prune_heads(model, importance, config.num_attention_heads)
    ...                                             # train
    merge(model)
    model.save_pretrained("packed")

A folder with a packed model, merged or not, is loaded by :func:`nncf_transformers.loading.load_model`.
"""

from nncf_transformers.packing.config import PackConfig, is_merged, is_packed
from nncf_transformers.packing.importance import HeadImportance, prune_heads
from nncf_transformers.packing.model import (
    FAMILIES,
    build,
    embedding_parameters,
    layer_map,
    layer_parameters,
    merge,
    pack,
    remove_dropout,
    transformed,
    transforms,
)

__all__ = [
    "FAMILIES",
    "HeadImportance",
    "PackConfig",
    "build",
    "embedding_parameters",
    "is_merged",
    "is_packed",
    "layer_map",
    "layer_parameters",
    "merge",
    "pack",
    "prune_heads",
    "remove_dropout",
    "transformed",
    "transforms",
]
