"""Write running text and small language models with random weights, for scripts that the demo's BERT does not suit.

    python -m demo.language --data DIR [--seed 0]

DIR is what `python -m demo.data` wrote. This adds

    DIR/wikitext/wiki.{train,valid,test}.raw    the paragraphs of the reading-comprehension set, in WikiText's layout
    DIR/gpt2/                                   a GPT-2 and its tokenizer
    DIR/t5/                                     a T5 and its tokenizer

The same data and seed give the same bytes. The tokenizers know the words of DIR/model/vocab.txt; nothing is downloaded.
"""

import argparse
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, T5Config, T5ForConditionalGeneration

from demo.data import write_text
from demo.model import MAX_LENGTH

# In WikiText a title stands between equality signs and blank lines, and every line has a space before its end.
ARTICLE = " \n = Part {number} = \n \n {text} \n"
# Each split of the text, with the file whose paragraphs it has.
SOURCES = {"train": "train", "valid": "dev", "test": "dev"}
END = "<|endoftext|>"
PAD, CLOSE, UNKNOWN = "<pad>", "</s>", "<unk>"


def write_articles(data: Path) -> None:
    """Write the text of each split."""
    for split, source in SOURCES.items():
        squad = json.loads((data / "squad" / f"{source}-v1.1.json").read_text(encoding="utf-8"))
        texts = [paragraph["context"] for article in squad["data"] for paragraph in article["paragraphs"]]
        articles = (ARTICLE.format(number=number, text=text) for number, text in enumerate(texts, start=1))
        write_text(data / "wikitext" / f"wiki.{split}.raw", "".join(articles))


def write_tokenizer(folder: Path, tokens: list[str], special: dict[str, str], template: str) -> None:
    """Write tokenizer.json and tokenizer_config.json of a tokenizer that knows words and punctuation.

    Args:
        folder: Where to.
        tokens: The vocabulary, in the order of the ids.
        special: The special tokens by what they are for, such as ``{"eos_token": "</s>"}``.
        template: What becomes of a text, such as ``"$A </s>"``.
    """
    ids = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=special["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(sorted(set(special.values())))
    within = [(token, ids[token]) for token in special.values() if token in template]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=within)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MAX_LENGTH,
        "model_input_names": ["input_ids", "attention_mask"],
        **special,
    }
    write_text(folder / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")


def write_gpt2(folder: Path, words: list[str]) -> PreTrainedModel:
    """Write the tokenizer of a GPT-2 that has one special token, as the original has; return the model."""
    tokens = [END, *words]
    write_tokenizer(folder, tokens, {"bos_token": END, "eos_token": END, "unk_token": END}, "$A")
    config = GPT2Config(
        vocab_size=len(tokens),
        n_positions=MAX_LENGTH,
        n_embd=64,
        n_layer=2,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config)


def write_t5(folder: Path, words: list[str]) -> PreTrainedModel:
    """Write the tokenizer of a T5, which closes every text; return the model."""
    tokens = [PAD, CLOSE, UNKNOWN, *words]
    special = {"pad_token": PAD, "eos_token": CLOSE, "unk_token": UNKNOWN}
    write_tokenizer(folder, tokens, special, f"$A {CLOSE}")
    config = T5Config(
        vocab_size=len(tokens),
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config)


def generate(data: Path, seed: int = 0) -> None:
    """Add text and models to the demo's data.

    Args:
        data: Folder that ``demo.data`` has written.
        seed: Decides the weights.
    """
    write_articles(data)
    vocabulary = (data / "model" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    words = [token for token in vocabulary if not token.startswith(("[", "##"))]
    for name, write in (("gpt2", write_gpt2), ("t5", write_t5)):
        folder = data / name
        folder.mkdir(exist_ok=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            write(folder, words).save_pretrained(folder)


def main() -> None:
    """Parse the flags and generate."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.language", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder that demo.data has written")
    parser.add_argument("--seed", type=int, default=0, help="decides the weights (default: 0)")
    args = parser.parse_args()
    generate(args.data, args.seed)
    print(f"Wrote text and language models to {args.data}")


if __name__ == "__main__":
    main()
