"""A WordPiece vocabulary from the demo's texts, and a small BERT with random weights to start from."""

import collections
import json
import re
import string
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers.implementations import BertWordPieceTokenizer
from transformers import BertConfig, BertModel

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_LENGTH = 128


def build_vocabulary(texts: Iterable[str]) -> list[str]:
    """Return the tokens in order: special ones, words by how often they occur, and single characters.

    Single characters are there so that a word which the texts lack is not unknown.
    """
    counts = collections.Counter(word for text in texts for word in re.findall(r"\w+|[^\w\s]", text))
    by_count = sorted(counts, key=lambda word: (-counts[word], word))
    characters = sorted({*string.ascii_letters, *string.digits, *"".join(counts)})
    continued = [f"##{char}" for char in characters]
    return list(dict.fromkeys([*SPECIAL_TOKENS, *by_count, *characters, *continued]))


def make_config(vocabulary_size: int) -> BertConfig:
    """Return the shape of the model: half a million parameters."""
    return BertConfig(
        vocab_size=vocabulary_size,
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=MAX_LENGTH,
        # BERT's 0.02 suits a width of 768; weights of this size keep the signal at a width of 128.
        initializer_range=0.06,
        # Data of which there is as much as one likes need no dropout.
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def sinusoids(length: int, width: int) -> torch.Tensor:
    """Return waves of 1 to 1/100 radian a token, (length, width): near positions have similar rows."""
    frequencies = torch.logspace(0, -2, width // 2)
    angles = torch.arange(length)[:, None] * frequencies
    return torch.stack((angles.sin(), angles.cos()), dim=2).flatten(1)


@torch.no_grad()
def help_attention_start(model: BertModel) -> None:
    """Make each token attend to its copies and its neighbours from the first step.

    A question is answered by finding its words in the text, and what stands around them. Random weights take
    thousands of steps to discover that. With equal queries and keys, and positions whose dot product falls
    with their distance, the model learns it within the demo's minutes. All of it stays trainable.
    """
    positions = model.embeddings.position_embeddings.weight
    positions.copy_(sinusoids(*positions.shape) * model.config.initializer_range * 2**0.5)
    for layer in model.encoder.layer:
        layer.attention.self.key.weight.copy_(layer.attention.self.query.weight)


def write_tokenizer(folder: Path, vocabulary: list[str]) -> None:
    """Write vocab.txt, tokenizer.json and tokenizer_config.json.

    Written without the library's tokenizer classes, whose arguments changed with transformers 5.
    """
    lines = "".join(f"{token}\n" for token in vocabulary)
    (folder / "vocab.txt").write_text(lines, encoding="utf-8", newline="\n")
    ids = {token: number for number, token in enumerate(vocabulary)}
    BertWordPieceTokenizer(ids, lowercase=False, strip_accents=False).save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": False,
        "strip_accents": False,
        "model_max_length": MAX_LENGTH,
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    text = json.dumps(config, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8", newline="\n")


def write_model(folder: Path, vocabulary: list[str], seed: int) -> None:
    """Write a model folder that any AutoModelFor...from_pretrained can start from."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder, vocabulary)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertModel(make_config(len(vocabulary)))
    help_attention_start(model)
    model.save_pretrained(folder)
