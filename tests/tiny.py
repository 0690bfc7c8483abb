"""Tiny random models of every supported family, and data for them."""

from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

VOCABULARY = 200
# What a family calls the sizes of its network, where it differs from BERT.
OWN_SIZES: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "albert": {"embedding_size": 16},
    "electra": {"embedding_size": 16},
    "mobilebert": {
        "embedding_size": 16,
        "intra_bottleneck_size": 16,
        "num_feedforward_networks": 2,
        "true_hidden_size": 16,
        # It has no layer normalization: larger random weights make its activations explode.
        "initializer_range": 0.02,
    },
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
    },
    "t5": {"d_kv": 8, "d_ff": 64, "num_decoder_layers": 2, "decoder_start_token_id": 0},
}
HEADS = {
    "qa": AutoModelForQuestionAnswering,
    "classes": AutoModelForSequenceClassification,
    "masked": AutoModelForMaskedLM,
    "causal": AutoModelForCausalLM,
    "seq2seq": AutoModelForSeq2SeqLM,
}


def tiny_model(family: str = "bert", head: str = "qa", seed: int = 0, **sizes: Any) -> nn.Module:
    """Make a random model with two layers of width 32, in evaluation mode."""
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        "initializer_range": 0.3,
        **OWN_SIZES.get(family, {}),
        **sizes,
    }
    torch.manual_seed(seed)
    return HEADS[head].from_config(AutoConfig.for_model(family, **settings)).eval()


def tiny_batches(model: nn.Module, count: int = 4, rows: int = 4, length: int = 24) -> list[dict[str, torch.Tensor]]:
    """Make batches with labels, as a data loader would give them."""
    from nncf_transformers.inputs import synthetic_inputs

    batches = []
    for seed in range(count):
        batch = synthetic_inputs(model, rows, length, seed=seed)
        if type(model).__name__.endswith("ForQuestionAnswering"):
            batch["start_positions"] = torch.arange(rows) % length
            batch["end_positions"] = (torch.arange(rows) + 2) % length
        elif type(model).__name__.endswith("ForSequenceClassification"):
            batch["labels"] = torch.arange(rows) % model.config.num_labels
        else:
            # What a text goes on with, or what it is itself; -100 is no token.
            tokens = batch.pop("decoder_input_ids", batch["input_ids"])
            padding = batch["attention_mask"][:, : tokens.shape[1]] == 0
            batch["labels"] = tokens.masked_fill(padding, -100)
        batches.append(batch)
    return batches
