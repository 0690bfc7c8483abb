"""A model that turns a text into one vector, such that a question lies near the passages that answer it.

It is an encoder whose pooled hidden state goes through one linear layer and is scaled by ``exp(scale)``, a number that
training finds (inventory 3.4, "BertModelEMB"). Texts are compared by L2 distance: the triplet loss has no margin, so
the scale decides how far apart it wants them.

Its class is named after the encoder's, ``BertModelEMB`` for a ``BertModel``: by that name ``config.json`` knows it.
"""

import functools
import inspect
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers.utils import ModelOutput

from nncf_transformers.loading import load_model
from nncf_transformers.runtimes import Runtime

# How the names of embedding model classes end.
SUFFIX = "ModelEMB"
# Keys in config.json: which hidden state stands for a text, and the embedding's size where it is not the hidden size.
POOLING_KEY, SIZE_KEY = "embedding_pooling", "embedding_dim"
POOLINGS = ("cls", "mean")


@dataclass
class EmbeddingOutput(ModelOutput):
    """What an embedding model returns.

    Attributes:
        embedding: shape (batch, size).
    """

    embedding: torch.Tensor | None = None


class Scale(nn.Module):
    """Multiply by exp(scale), which is 1 at the beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale.exp()


class EmbeddingPooler(nn.Module):
    """Hidden states (batch, sequence, hidden) to embeddings (batch, size)."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.mean = getattr(config, POOLING_KEY, "cls") == "mean"
        self.dense = nn.Linear(config.hidden_size, getattr(config, SIZE_KEY, None) or config.hidden_size)
        self.activation = Scale()

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self.mean:
            weights = mask.to(hidden.dtype).unsqueeze(-1)
            pooled = (hidden * weights).sum(1) / weights.sum(1)
        else:
            pooled = hidden[:, 0]
        return self.activation(self.dense(pooled))


class EmbeddingModel:
    """The methods of every embedding model class; the rest is that of the family's ``…PreTrainedModel``."""

    base_model_prefix: str
    encoder_class: type

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        known = inspect.signature(self.encoder_class).parameters
        options = {"add_pooling_layer": False} if "add_pooling_layer" in known else {}
        setattr(self, self.base_model_prefix, self.encoder_class(config, **options))
        # Not "pooler": the library would take the weights of an encoder, which has one, for those of this model.
        self.embedder = EmbeddingPooler(config)
        self.post_init()  # type: ignore[attr-defined]

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Embed texts.

        Args:
            input_ids: (batch, sequence).
            attention_mask: the same shape; all ones if None.
            token_type_ids: the same shape; all zeros if None.
            return_dict: :class:`EmbeddingOutput`, or a tuple.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        hidden = getattr(self, self.base_model_prefix)(**inputs, return_dict=False)[0]
        embedding = self.embedder(hidden, attention_mask)
        return EmbeddingOutput(embedding=embedding) if return_dict else (embedding,)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Scale):
            nn.init.zeros_(module.scale)
        else:
            super()._init_weights(module)  # type: ignore[misc]


@functools.cache
def embedding_class(encoder: type) -> type:
    """The class of embedding models on an encoder's class, such as ``BertModel``."""
    family = next(c for c in encoder.__mro__ if c.__name__.endswith("PreTrainedModel"))
    name = encoder.__name__.removesuffix("Model") + SUFFIX
    return type(name, (EmbeddingModel, family), {"__module__": __name__, "encoder_class": encoder})


def is_embedding(config: Any) -> bool:
    """Whether a configuration is that of an embedding model."""
    architectures = getattr(config, "architectures", None) or [""]
    return bool(architectures[0].endswith(SUFFIX))


def load_embedding_model(folder: str | os.PathLike[str], pooling: str | None = None) -> Any:
    """Load an embedding model, compressed or not, or make one of a plain encoder.

    Of a plain encoder, the linear layer is the encoder's pooler where it has one, without its tanh; for mean pooling,
    which no pooler was trained for, it is the identity.

    Args:
        folder: a local folder, or the name of a model on the hub.
        pooling: one of :data:`POOLINGS`; None for what the configuration says, ``cls`` for a plain encoder.
    """
    config: Any = AutoConfig.from_pretrained(folder)
    new = not is_embedding(config)
    if new or pooling is not None:
        setattr(config, POOLING_KEY, pooling or "cls")
    model = load_model(embedding_class(AutoModel._model_mapping[type(config)]), folder, config=config)
    if new:
        _start_pooler(model, folder)
    return model


def embed(runtime: Runtime, tokenizer: Any, texts: Sequence[str], max_length: int, batch_size: int = 16) -> np.ndarray:
    """Embed texts, those of like length together.

    Args:
        runtime: an embedding model in any runtime.
        tokenizer: of the model.
        texts: any number.
        max_length: tokens, special ones included; longer texts are cut.
        batch_size: texts a call.

    Returns:
        float32, shape (texts, size).
    """
    from nncf_transformers.evaluation import in_batches

    encoded = tokenizer(list(texts), truncation=True, max_length=max_length)
    vectors: list[np.ndarray] = [np.empty(0, np.float32)] * len(texts)
    for rows, (embedding, *_) in in_batches(runtime, tokenizer, encoded, batch_size):
        for row, vector in zip(rows, embedding, strict=True):
            vectors[row] = vector
    return np.stack(vectors).astype(np.float32, copy=False)


def _start_pooler(model: Any, folder: str | os.PathLike[str]) -> None:
    """Give the linear layer of a new embedding model its first weights."""
    dense = model.embedder.dense
    with torch.no_grad():
        if model.embedder.mean:
            nn.init.eye_(dense.weight)
            nn.init.zeros_(dense.bias)
            return
        encoder, report = type(model).encoder_class.from_pretrained(folder, output_loading_info=True)
        pooler: Any = getattr(encoder, "pooler", None)
        if pooler is None or any("pooler" in key for key in report["missing_keys"]):
            return
        if pooler.dense.weight.shape == dense.weight.shape:
            dense.load_state_dict(pooler.dense.state_dict())
