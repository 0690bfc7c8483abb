"""Pack a model: fewer layers, another hidden size, deeper and narrower feed-forward parts (inventory 3.3.1).

A packed model is of the library's own class; modules in it were replaced. While it is trained, linear layers turn its
hidden states, and its head's input, into such of the large model's size: the large model's head serves it, and losses
can compare the two. :func:`merge` folds what it can of them and drops the rest, and leaves a plain smaller model.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn

from nncf_transformers.algorithms.base import hooks
from nncf_transformers.embedding import SIZE_KEY, SUFFIX
from nncf_transformers.errors import UsageError
from nncf_transformers.families import family_of
from nncf_transformers.packing.config import ORIGINAL, PackConfig, Packed, is_packed
from nncf_transformers.packing.layers import (
    PackedEmbedding,
    PackedHead,
    pack_attention,
    pack_embeddings,
    pack_feed_forward,
    table_names,
)
from nncf_transformers.structure import CONFIG_KEY, find_groups

FAMILIES = ("bert", "roberta", "xlm-roberta", "electra")
# Where a model has its head, by how its class is named.
_HEADS = {"ForQuestionAnswering": "qa_outputs", SUFFIX: "embedder.dense"}


def layer_map(large: int, packed: int) -> list[int]:
    """The large model's layers that stay: (i + 1) large // packed - 1, such as 1, 3, ..., 23 for 24 and 12."""
    return [large * (i + 1) // packed - 1 for i in range(packed)]


def pack(model: Any, config: PackConfig) -> None:
    """Pack a model in place; what is new gets PyTorch's default initialization.

    Kept are the embedding tables, the head, and the attention of the layers that stay if the hidden size does. The
    model keeps all heads of a layer until :func:`~.importance.prune_heads`.

    Args:
        model: ``...ForQuestionAnswering`` or ``...ModelEMB`` of one of :data:`FAMILIES`.
        config: the sizes.

    Raises:
        UsageError: the model cannot be packed, or not so.
    """
    _check(model)
    large = model.config
    config.check(large)
    base, parameter = model.base_model, next(model.parameters())
    Packed(
        **asdict(config),
        base_class_name=type(model).__name__,
        original_hidden_size=large.hidden_size,
        original_embedding_size=base.embeddings.word_embeddings.embedding_dim,
        attention_head_size=large.hidden_size // large.num_attention_heads,
    ).write(large)
    kept = layer_map(large.num_hidden_layers, config.num_hidden_layers)
    base.encoder.layer = nn.ModuleList(base.encoder.layer[i] for i in kept)
    large.num_hidden_layers = config.num_hidden_layers
    # The library alone would make one wide layer of it, whose shape does not fit the weights: it refuses them.
    large.intermediate_size = (config.ff_iter_num - 1) * config.hidden_size
    if config.hidden_act != ORIGINAL:
        large.hidden_act = config.hidden_act
    with torch.device(parameter.device):
        build(base)
        build(model)
    model.to(parameter.dtype).train(model.training)


def build(model: Any) -> None:
    """Give a freshly made model the structure that its configuration names; ``from_pretrained`` comes here.

    Args:
        model: an encoder, or a model with a head whose encoder has been here.

    Raises:
        IntegrityError: the configuration says nothing sensible.
        UsageError: the class has another head than the packed model.
    """
    config = model.config
    packed = Packed.of(config)
    if model.base_model is model:
        _build_encoder(model, packed)
    elif packed.narrower and not packed.merged:
        module, name = _head(model)
        setattr(module, name, PackedHead(getattr(module, name), packed.hidden_size))


def merge(model: Any) -> None:
    """Make a packed model a plain one in place: fold linear layers into tables and head, drop those of the losses.

    Outputs stay equal up to rounding: the head's bias is kept, which the original of inventory 3.3.3 drops.

    Args:
        model: packed; its parameters are other objects afterwards.

    Raises:
        UsageError: it is not packed, or merged already, or its heads do not divide its hidden size.
    """
    config, base = model.config, model.base_model
    if not is_packed(config) or Packed.of(config).merged:
        state = "merged already" if is_packed(config) else "not packed"
        raise UsageError(f"{type(model).__name__}: cannot be merged, for it is {state}")
    packed = Packed.of(config)
    groups = {group.name: group.count for group in find_groups(model) if group.kind == "head"}
    heads = max(groups.values())
    if packed.hidden_size % heads:
        raise UsageError(
            f"a merged model cannot have {heads} heads, for its hidden size is {packed.hidden_size}; "
            f"prune them to {packed.num_attention_heads} first"
        )
    if packed.narrower:
        embeddings = base.embeddings
        for name in table_names(embeddings):
            table = getattr(embeddings, name)
            setattr(embeddings, name, table.merged() if isinstance(table, PackedEmbedding) else table)
        module, name = _head(model)
        setattr(module, name, getattr(module, name).merged())
        del base.input_transform, base.output_transforms
        if hasattr(config, "embedding_size"):
            config.embedding_size = packed.hidden_size
    if type(model).__name__.endswith(SUFFIX):
        setattr(config, SIZE_KEY, model.embedder.dense.out_features)
    config.hidden_size, config.num_attention_heads = packed.hidden_size, heads
    _forget_heads(config, heads)
    replace(packed, merged=True).write(config)


def transforms(model: Any) -> list[nn.Module]:
    """Linear layers that bring hidden states to the large model's size: the embeddings' and that of each layer.

    None where the hidden size stayed, after :func:`merge`, and for a model that is not packed.
    """
    base = model.base_model
    if not hasattr(base, "input_transform"):
        return []
    module, name = _head(model)
    return [base.input_transform, *base.output_transforms, getattr(module, name).transform]


def transformed(model: Any, states: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Bring hidden states to the large model's size, for a loss to compare them.

    Args:
        model: of any kind; from one that is not packed, or merged, they come back as they are.
        states: the input of the first layer and the output of each, or the first ones of these, as
            :class:`~nncf_transformers.algorithms.distillation.HiddenStates` has them: (batch, sequence, hidden) each.

    Returns:
        As many, each (batch, sequence, hidden size of the large model).
    """
    present = transforms(model)
    if not present:
        return list(states)
    return [transform(state) for transform, state in zip(present, states, strict=False)]


def embedding_parameters(model: Any) -> list[nn.Parameter]:
    """Parameters of the embeddings but for the tables, and of the transform of their result: what is trained first."""
    embeddings = model.base_model.embeddings
    tables = {id(getattr(embeddings, name).weight) for name in table_names(embeddings)}
    own = [parameter for parameter in embeddings.parameters() if id(parameter) not in tables]
    return own + [p for transform in transforms(model)[:1] for p in transform.parameters()]


def layer_parameters(model: Any, i: int) -> list[nn.Parameter]:
    """Parameters of a layer, counted from 0, and of the transform of its result."""
    modules = [model.base_model.encoder.layer[i], *transforms(model)[i + 1 : i + 2]]
    return [parameter for module in modules for parameter in module.parameters()]


def remove_dropout(model: nn.Module) -> None:
    """Let no value be dropped in training; the configuration, and so a model loaded anew, keeps its dropout."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        # Some attention asks no module but a number.
        if isinstance(getattr(module, "dropout_prob", None), float):
            module.dropout_prob = 0.0  # type: ignore[assignment]


def _check(model: Any) -> None:
    """Refuse a model that cannot be packed."""
    name, family = type(model).__name__, family_of(model)
    if is_packed(model.config):
        raise UsageError(f"{name}: is packed already; pack the large model it was made of")
    if family not in FAMILIES:
        raise UsageError(f"model family {family!r} cannot be packed; those that can: {', '.join(FAMILIES)}")
    _head(model)
    if getattr(model.config, CONFIG_KEY, None) or next(hooks(model), None) is not None:
        raise UsageError(f"{name}: is compressed already (quantized, or pruned); pack it before")
    kind = getattr(model.config, "position_embedding_type", None) or "absolute"
    if kind != "absolute":
        raise UsageError(f"{name}: position embeddings of the kind {kind!r} cannot be packed, only absolute ones")


def _head(model: Any) -> tuple[nn.Module, str]:
    """Where a model has its head: a module, and a name in it."""
    path = next((path for suffix, path in _HEADS.items() if type(model).__name__.endswith(suffix)), None)
    if path is None:
        known = ", ".join(f"...{suffix}" for suffix in _HEADS)
        raise UsageError(f"{type(model).__name__}: a packed model has another head; known: {known}")
    place, _, name = path.rpartition(".")
    return model.get_submodule(place), name


def _build_encoder(base: Any, packed: Packed) -> None:
    config, size, large = base.config, packed.hidden_size, packed.original_hidden_size
    for layer in base.encoder.layer:
        pack_attention(layer.attention, size, config.num_attention_heads, packed.attention_head_size)
        pack_feed_forward(layer, size, packed.ff_iter_num, config.hidden_act)
    if not packed.narrower:
        return
    pack_embeddings(base.embeddings, packed.original_embedding_size, size, packed.factorized, packed.merged)
    if hasattr(base, "embeddings_project"):
        del base.embeddings_project
    if not packed.merged:
        base.input_transform = nn.Linear(size, large)
        # That of the last layer belongs to the head.
        base.output_transforms = nn.ModuleList(nn.Linear(size, large) for _ in base.encoder.layer[1:])
        if getattr(base, "pooler", None) is not None:
            # Of the large model's size; no head that a packed model can have asks for it.
            base.pooler = None


def _forget_heads(config: Any, heads: int) -> None:
    """Say no more of layers with ``heads`` heads, which is what the library gives them now."""
    left = dict(_other_counts(getattr(config, CONFIG_KEY, None) or {}, heads))
    if left:
        setattr(config, CONFIG_KEY, left)
    elif hasattr(config, CONFIG_KEY):
        delattr(config, CONFIG_KEY)


def _other_counts(counts: dict[str, int], heads: int) -> Iterator[tuple[str, int]]:
    for name, count in counts.items():
        if count != heads or not re.search(r"attention\.self$", name):
            yield name, count
