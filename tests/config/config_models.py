"""Tiny models of every family for the configuration tests, and a look at their quantizers."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nncf
import torch
import transformers as hf
from torch import nn

from nncf_transformers.config import QuantizationConfig, resolve_ignored_scopes, to_nncf_arguments

FIXTURES = Path(__file__).parent / "fixtures"

SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
}
DISTILBERT_SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "dim": 16,
    "n_layers": 2,
    "n_heads": 2,
    "hidden_dim": 24,
    "max_position_embeddings": 40,
}
FAMILIES: dict[str, tuple[type, type, dict[str, Any]]] = {
    "bert": (hf.BertForQuestionAnswering, hf.BertConfig, SIZES),
    "roberta": (hf.RobertaForSequenceClassification, hf.RobertaConfig, SIZES),
    "xlm-roberta": (hf.XLMRobertaForSequenceClassification, hf.XLMRobertaConfig, SIZES),
    "distilbert": (hf.DistilBertForSequenceClassification, hf.DistilBertConfig, DISTILBERT_SIZES),
    "albert": (hf.AlbertForQuestionAnswering, hf.AlbertConfig, {**SIZES, "embedding_size": 8}),
    "electra": (hf.ElectraForQuestionAnswering, hf.ElectraConfig, {**SIZES, "embedding_size": 8}),
    "mobilebert": (
        hf.MobileBertForQuestionAnswering,
        hf.MobileBertConfig,
        {
            **SIZES,
            "embedding_size": 8,
            "intra_bottleneck_size": 8,
            "true_hidden_size": 8,
            "num_feedforward_networks": 2,
        },
    ),
    "deberta-v2": (
        hf.DebertaV2ForSequenceClassification,
        hf.DebertaV2Config,
        {
            **SIZES,
            "relative_attention": True,
            "pos_att_type": ["c2p", "p2c"],
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
        },
    ),
    "bert-masked": (hf.BertForMaskedLM, hf.BertConfig, SIZES),
    "gpt2": (
        hf.GPT2LMHeadModel,
        hf.GPT2Config,
        {"vocab_size": 60, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40},
    ),
    "t5": (
        hf.T5ForConditionalGeneration,
        hf.T5Config,
        {
            "vocab_size": 60,
            "d_model": 16,
            "d_kv": 8,
            "d_ff": 24,
            "num_layers": 2,
            "num_heads": 2,
            "decoder_start_token_id": 0,
        },
    ),
}
# These bring one implementation of attention only.
EAGER_ONLY = {"electra", "mobilebert", "deberta-v2", "t5"}

# Quantizers sit on an operation's numbered inputs; these functions take their weight as number 1 or 2.
WEIGHT_PORT = re.compile(r"pre_hooks\..*/((linear|embedding)/\d+__1|addmm/\d+__2)\.")

MakeModel = Callable[..., nn.Module]


def inputs_of(model: nn.Module, example: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One sample with all that a model takes: a sequence-to-sequence model reads what it has written, too."""
    if not getattr(model.config, "is_encoder_decoder", False):
        return example
    return {**example, "decoder_input_ids": example["input_ids"][:, :5]}


def quantize(config: QuantizationConfig, model: nn.Module, example: dict[str, torch.Tensor]) -> nn.Module:
    """Quantize as the runtime does, on a single sample."""
    scopes = resolve_ignored_scopes(config, model, example)
    return nncf.quantize(
        model,
        nncf.Dataset([example]),
        ignored_scope=nncf.IgnoredScope(names=list(scopes.node_names)),
        **to_nncf_arguments(config),
    )


def quantizer_names(model: nn.Module) -> list[str]:
    """Where the quantizers are."""
    kinds = ("SymmetricQuantizer", "AsymmetricQuantizer")
    return sorted(name for name, module in model.named_modules() if type(module).__name__ in kinds)


def quantizer_modes(model: nn.Module) -> Counter[tuple[str, str]]:
    """How many quantizers there are of each (weights or activations, symmetric or asymmetric)."""
    modes: Counter[tuple[str, str]] = Counter()
    for name in quantizer_names(model):
        kind = type(model.get_submodule(name)).__name__.removesuffix("Quantizer").lower()
        side = "weights" if WEIGHT_PORT.search(name) else "activations"
        modes[side, kind] += 1
    return modes
