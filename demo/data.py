"""Generate all data of the demo, and the model that it starts from.

    python -m demo.data --out DIR [--seed 0] [--size full|tiny]

writes

    DIR/squad/{train,dev}-v1.1.json     reading comprehension, SQuAD's nested JSON
    DIR/xnli/en/{train,dev,test}.tsv    inference: premise, hypothesis, label (as a word)
    DIR/glue/SST-2/{train,dev}.tsv      sentiment: sentence, label (0 or 1); test.tsv: index, sentence
    DIR/model/                          a small BERT with random weights, its vocabulary and tokenizer

The same seed and size give the same bytes. Nobody in the dev and test sets has a full name that a text of the
train set mentions.
"""

import argparse
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from demo.lexicon import Person, people
from demo.pairs import make_pairs
from demo.questions import make_squad
from demo.reviews import make_reviews

PARAGRAPHS = {"full": {"train": 1500, "dev": 130}, "tiny": {"train": 12, "dev": 6}}
PAIRS = {"full": {"train": 4000, "dev": 400, "test": 400}, "tiny": {"train": 48, "dev": 16, "test": 16}}
REVIEWS = {"full": {"train": 2000, "dev": 400, "test": 400}, "tiny": {"train": 48, "dev": 16, "test": 16}}
SHARE_OF_PEOPLE = {"train": 0.6, "dev": 0.2, "test": 0.2}


def split_people(seed: int) -> dict[str, list[Person]]:
    """Divide all full names among the splits."""
    everyone = people()
    random.Random(f"people {seed}").shuffle(everyone)
    parts, start = {}, 0
    for split, share in SHARE_OF_PEOPLE.items():
        end = start + int(share * len(everyone))
        parts[split], start = everyone[start:end], end
    return parts


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 with LF, creating the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write tab-separated values."""
    write_text(path, "".join("\t".join(map(str, row)) + "\n" for row in [header, *rows]))


def write_squad(folder: Path, size: str, seed: int, persons: dict[str, list[Person]]) -> list[str]:
    """Write the reading-comprehension set; return its training texts."""
    texts = []
    for split, count in PARAGRAPHS[size].items():
        data = make_squad(random.Random(f"squad {split} {seed}"), persons[split], count, split)
        write_text(folder / f"{split}-v1.1.json", json.dumps(data, ensure_ascii=False, indent=1) + "\n")
        if split == "train":
            for paragraph in data["data"][0]["paragraphs"]:
                texts += [paragraph["context"], *(item["question"] for item in paragraph["qas"])]
    return texts


def write_xnli(folder: Path, size: str, seed: int, persons: dict[str, list[Person]]) -> list[str]:
    """Write the inference set; return its training texts."""
    texts = []
    for split, count in PAIRS[size].items():
        pairs = make_pairs(random.Random(f"xnli {split} {seed}"), persons[split], count)
        write_table(folder / f"{split}.tsv", ("premise", "hypothesis", "label"), pairs)
        if split == "train":
            texts = [text for pair in pairs for text in pair[:2]]
    return texts


def write_sst2(folder: Path, size: str, seed: int) -> list[str]:
    """Write the sentiment set in GLUE's layout; return its training texts."""
    train, dev, test = make_reviews(random.Random(f"sst2 {seed}"), **REVIEWS[size])
    write_table(folder / "train.tsv", ("sentence", "label"), train)
    write_table(folder / "dev.tsv", ("sentence", "label"), dev)
    write_table(folder / "test.tsv", ("index", "sentence"), enumerate(sentence for sentence, _ in test))
    return [sentence for sentence, _ in train]


def generate(out: Path, seed: int = 0, size: str = "full") -> None:
    """Write all data sets and the model.

    Args:
        out: Folder to write into; files of the same names are overwritten.
        seed: Decides every draw.
        size: "full" for the demo, "tiny" for tests.
    """
    from demo.model import build_vocabulary, write_model  # loads torch, which --help does not need

    persons = split_people(seed)
    texts = write_squad(out / "squad", size, seed, persons)
    texts += write_xnli(out / "xnli" / "en", size, seed, persons)
    texts += write_sst2(out / "glue" / "SST-2", size, seed)
    write_model(out / "model", build_vocabulary(texts), seed)


def main() -> None:
    """Parse the flags and generate."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write into")
    parser.add_argument("--seed", type=int, default=0, help="decides every draw (default: 0)")
    parser.add_argument("--size", choices=("full", "tiny"), default="full", help="tiny is for tests (default: full)")
    args = parser.parse_args()
    generate(args.out, args.seed, args.size)
    print(f"Wrote the demo's data and model to {args.out}")


if __name__ == "__main__":
    main()
