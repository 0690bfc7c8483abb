"""Layers that a packed model has and others do not: library layers with one more linear layer, and a feed-forward part.

Each stands where the library has a plain layer, under the same name and with the same parameters; so the library's
forward runs as it is.
"""

from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN


class PackedEmbedding(nn.Embedding):
    """A table, and behind it a linear layer to another width."""

    def __init__(self, table: nn.Embedding, size: int) -> None:
        super().__init__(table.num_embeddings, table.embedding_dim, table.padding_idx, _weight=table.weight.detach())
        self.weight = table.weight
        self.transform = nn.Linear(table.embedding_dim, size)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.transform(super().forward(input))

    def merged(self) -> nn.Embedding:
        """A plain table with the same result."""
        with torch.no_grad():
            weight = nn.functional.linear(self.weight, self.transform.weight, self.transform.bias)
        # The padding token's row is zero in the table, and the linear layer's bias here.
        return nn.Embedding.from_pretrained(weight, freeze=False, padding_idx=self.padding_idx)


class PackedLayerNorm(nn.LayerNorm):
    """A normalization, and behind it a linear layer to another width."""

    def __init__(self, norm: nn.LayerNorm, size: int) -> None:
        super().__init__(norm.normalized_shape, eps=norm.eps)
        self.weight, self.bias = norm.weight, norm.bias
        self.transform = nn.Linear(norm.normalized_shape[0], size)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.transform(super().forward(input))


class PackedHead(nn.Linear):
    """A head of the large model, and before it a linear layer from the packed model's hidden size to its own."""

    def __init__(self, head: nn.Linear, size: int) -> None:
        super().__init__(head.in_features, head.out_features, bias=head.bias is not None)
        self.weight, self.bias = head.weight, head.bias
        self.transform = nn.Linear(size, head.in_features)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(self.transform(input))

    def merged(self) -> nn.Linear:
        """One linear layer with the same result: W_head W_t, and W_head b_t + b_head as its bias."""
        inner = self.transform
        with torch.no_grad():
            head = nn.Linear(inner.in_features, self.out_features, device=self.weight.device, dtype=self.weight.dtype)
            head.weight.copy_(self.weight @ inner.weight)
            head.bias.copy_(nn.functional.linear(inner.bias, self.weight, self.bias))
        return head


class PackedIntermediate(nn.Module):
    """Some square linear layers, an activation behind each; in the place of the one that widens."""

    def __init__(self, size: int, count: int, activation: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(size, size) for _ in range(count))
        self.intermediate_act_fn = ACT2FN[activation]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            hidden_states = self.intermediate_act_fn(block(hidden_states))
        return hidden_states


def pack_embeddings(embeddings: Any, width: int, size: int, factorized: bool, merged: bool) -> None:
    """Make embeddings of ``size`` from tables of ``width``; what fits already is kept, weights and all.

    Args:
        embeddings: the module that has the tables and a LayerNorm.
        width: of the large model's tables.
        size: the packed model's hidden size.
        factorized: whether each table has a linear layer of its own, not all together.
        merged: whether the linear layers of the tables are folded into them.
    """
    inside = size if factorized and merged else width
    norm = embeddings.LayerNorm
    for name in table_names(embeddings):
        table = getattr(embeddings, name)
        if table.embedding_dim != inside:
            table = nn.Embedding(table.num_embeddings, inside, table.padding_idx)
        setattr(embeddings, name, PackedEmbedding(table, size) if factorized and not merged else table)
    normalized = size if factorized else width
    if norm.normalized_shape[0] != normalized:
        norm = nn.LayerNorm(normalized, eps=norm.eps)
    embeddings.LayerNorm = norm if normalized == size else PackedLayerNorm(norm, size)


def table_names(embeddings: nn.Module) -> list[str]:
    """Names of the tables in embeddings."""
    return [name for name, module in embeddings.named_children() if isinstance(module, nn.Embedding)]


def pack_attention(attention: Any, size: int, heads: int, head_size: int) -> None:
    """Give an attention the packed model's hidden size; what fits already is kept, weights and all."""
    inner, outer, width = attention.self, attention.output, heads * head_size
    for name in ("query", "key", "value"):
        setattr(inner, name, _linear(getattr(inner, name), size, width))
    outer.dense = _linear(outer.dense, width, size)
    if outer.LayerNorm.normalized_shape[0] != size:
        outer.LayerNorm = nn.LayerNorm(size, eps=outer.LayerNorm.eps)
    inner.num_attention_heads, inner.attention_head_size, inner.all_head_size = heads, head_size, width
    if hasattr(inner, "scaling"):
        inner.scaling = head_size**-0.5


def pack_feed_forward(layer: Any, size: int, depth: int, activation: str) -> None:
    """Replace a feed-forward part by ``depth`` square linear layers; all but the last with an activation."""
    if depth == 2:
        # Plain, so that every tool knows it.
        layer.intermediate.dense = nn.Linear(size, size)
        layer.intermediate.intermediate_act_fn = ACT2FN[activation]
    else:
        layer.intermediate = PackedIntermediate(size, depth - 1, activation)
    layer.output.dense = nn.Linear(size, size)
    layer.output.LayerNorm = nn.LayerNorm(size, eps=layer.output.LayerNorm.eps)


def _linear(linear: nn.Linear, inputs: int, outputs: int) -> nn.Linear:
    fits = (linear.in_features, linear.out_features) == (inputs, outputs)
    return linear if fits else nn.Linear(inputs, outputs)
