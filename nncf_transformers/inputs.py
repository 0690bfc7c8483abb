"""Which tensors of a batch a model takes as inputs.

A training batch also holds labels, and, depending on the tokenizer, tensors that the model has no use for.
Calibration, tracing and export must agree on the same inputs in the same order, so all of them ask here.
"""

import contextlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import nn

from nncf_transformers.errors import UsageError

# The order in which exported models list their inputs, whatever the order in the batch.
INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids", "decoder_input_ids")


def input_names(model: nn.Module, available: Iterable[str] | None = None) -> tuple[str, ...]:
    """Name the inputs of a model, in export order.

    Args:
        model: a Transformers model.
        available: the names to choose from; every input that the model knows when omitted.

    Returns:
        The names among :data:`INPUT_NAMES` that the model's ``forward`` takes and that carry information:
        ``token_type_ids`` is left out where the model has at most one token type (RoBERTa, XLM-R, DistilBERT).
    """
    parameters = inspect.signature(model.forward).parameters
    names = [name for name in INPUT_NAMES if name in parameters]
    if getattr(model.config, "type_vocab_size", 0) <= 1 and "token_type_ids" in names:
        names.remove("token_type_ids")
    return tuple(name for name in names if available is None or name in available)


def call_model(model: nn.Module, inputs: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
    """Call a model and return its outputs as a tuple, whatever the age of its library.

    A model that generates text is called without its cache: keys and values of earlier tokens are no outputs here.

    Args:
        model: a Transformers model.
        inputs: its inputs by name.
    """
    parameters = inspect.signature(model.forward).parameters
    flags = {"use_cache": False} if "use_cache" in parameters else {}
    # Models of 2019 return tuples and know no such flag.
    if any(p.name == "return_dict" or p.kind is p.VAR_KEYWORD for p in parameters.values()):
        flags["return_dict"] = False
    return tuple(model(**inputs, **flags))


def model_inputs(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Pick a model's inputs from a batch, on the model's device.

    A sequence-to-sequence model is trained on labels, from which it makes the inputs of its decoder; so they are here.

    Args:
        model: a Transformers model.
        batch: tensors of shape (batch, sequence) by name; anything else in it is ignored.

    Raises:
        UsageError: the batch has nothing for the decoder to read.
    """
    device = next(model.parameters()).device
    inputs = {name: batch[name].to(device) for name in input_names(model, batch)}
    if "decoder_input_ids" in input_names(model) and "decoder_input_ids" not in inputs:
        labels = batch.get("labels")
        if labels is None:
            raise UsageError(
                f"{type(model).__name__}: the data has no labels, from which the decoder's inputs are made; "
                "give data with targets"
            )
        any_model: Any = model
        inputs["decoder_input_ids"] = any_model.prepare_decoder_input_ids_from_labels(labels=labels.to(device))
    return inputs


def synthetic_inputs(model: nn.Module, batch: int, sequence: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Make up inputs from random token ids, for tracing or when no real data is at hand.

    Every row has its own length (at least half of ``sequence``), so that padding is exercised too. A decoder reads
    three quarters of that many tokens, all of them real.

    Args:
        model: a Transformers model.
        batch: number of rows.
        sequence: number of token positions; cut to what the model's position table holds.
        seed: of a generator of its own, the global random state is left alone.
    """
    config: Any = model.config
    pad = getattr(config, "pad_token_id", None) or 0
    # RoBERTa counts positions from pad + 1, so that many entries of its position table are no position. Where padding
    # is a token far behind (GPT-2's is its last), it has nothing to do with positions.
    limit = getattr(config, "max_position_embeddings", 0) or sequence
    if limit > 0:
        sequence = min(sequence, limit - pad - 1 if pad + 1 < limit else limit)
    generator = torch.Generator().manual_seed(seed)
    # Ids from 5 on: the lower ones are padding and other special tokens in every vocabulary we meet.
    ids = torch.randint(min(5, config.vocab_size - 1), config.vocab_size, (batch, sequence), generator=generator)
    lengths = torch.randint(max(1, sequence // 2), sequence + 1, (batch, 1), generator=generator)
    mask = (torch.arange(sequence) < lengths).long()
    ids = torch.where(mask.bool(), ids, torch.tensor(pad))
    types = (torch.arange(sequence) >= lengths // 2).long() * mask
    everything = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    if "decoder_input_ids" in input_names(model):
        shape = (batch, max(2, 3 * sequence // 4))
        decoder_ids = torch.randint(min(5, config.vocab_size - 1), config.vocab_size, shape, generator=generator)
        decoder_ids[:, 0] = config.decoder_start_token_id
        everything["decoder_input_ids"] = decoder_ids
    return model_inputs(model, everything)


def first_rows(batches: Iterable[dict[str, torch.Tensor]], count: int) -> list[dict[str, torch.Tensor]]:
    """Split batches into single rows, the first ``count`` of them.

    One row a batch, for NNCF takes the statistics of a transformer per batch, not per row.
    """
    rows = (
        {name: tensor[i : i + 1] for name, tensor in batch.items()}
        for batch in batches
        for i in range(len(next(iter(batch.values()))))
    )
    return list(islice(rows, count))


@contextlib.contextmanager
def own_forward(model: Any) -> Iterator[None]:
    """Put the model's own forward back for a while: mixed precision leaves its wrapper around it.

    Accelerate's own way to take it off binds the forward as a method, which NNCF's is not.
    """
    wrapped = model.__dict__.get("forward")
    if "_original_forward" in model.__dict__:
        model.forward = model._original_forward
    try:
        yield
    finally:
        if wrapped is not None:
            model.forward = wrapped
