"""Models small enough to be trained in a test, whose answers are known, and how they are saved."""

import random
from pathlib import Path
from typing import Any

import torch
from tiny import tiny_model

from demo.model import build_vocabulary, write_tokenizer

NAMES = ["Snorlax", "Pikachu", "Eevee", "Mew", "Onix", "Abra", "Ditto", "Jynx", "Golem", "Gengar"]
CITIES = ["Kanto", "Johto", "Hoenn", "Sinnoh", "Unova", "Kalos", "Alola", "Galar"]
FACTS = {"What's my name?": ("My name is {}", NAMES), "Where do I live?": ("I live in {}", CITIES)}
FILLING = ["the", "sun", "shines", "and", "it", "is", "a", "fine", "day"]
TEXTS = [*FACTS, *(fact.format(" ".join(words)) for fact, words in FACTS.values()), *FILLING, "good bad ."]


def save(model: Any, folder: Path, positions: int = 128) -> Path:
    """Save a model with a tokenizer that has a token for each word of :data:`TEXTS`."""
    model.config.name_or_path = ""
    model.save_pretrained(folder)
    write_tokenizer(folder, build_vocabulary(TEXTS))
    return folder


def new_model(head: str, **sizes: Any) -> Any:
    """A random model with a table for the tokenizer's vocabulary."""
    return tiny_model(head=head, vocab_size=len(build_vocabulary(TEXTS)), initializer_range=0.1, **sizes)


def question_row(rng: random.Random) -> tuple[str, str, int, int]:
    """A question, a context with facts in any order among filling words, and where in it the answer begins and ends."""
    facts = [(question, fact, rng.choice(words)) for question, (fact, words) in FACTS.items()]
    rng.shuffle(facts)
    parts, asked = [], rng.choice(facts)
    for _, fact, word in facts[: rng.choice((1, 2))] if facts[0] is asked else facts:
        parts += [" ".join(rng.choices(FILLING, k=rng.randrange(3))), fact.format(word)]
    context = " . ".join(part for part in parts if part)
    start = context.index(asked[2])
    return asked[0], context, start, start + len(asked[2])


def train(model: Any, tokenizer: Any, steps: int, rate: float = 3e-3) -> float:
    """Teach a question-answering model to find the facts; returns the last loss."""
    rng = random.Random(0)
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    model.train()
    for _ in range(steps):
        questions, contexts, starts, ends = zip(*(question_row(rng) for _ in range(32)), strict=True)
        batch = tokenizer(list(questions), list(contexts), padding=True, return_tensors="pt")
        places = [
            [batch.char_to_token(i, character, 1) for i, character in enumerate(characters)]
            for characters in (starts, [end - 1 for end in ends])
        ]
        loss = model(**batch, start_positions=torch.tensor(places[0]), end_positions=torch.tensor(places[1])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    return float(loss.detach())


def quantize(model: Any, tokenizer: Any) -> Any:
    """Quantize a model, calibrated on rows of the training."""
    from nncf_transformers import Compression
    from nncf_transformers.config import parse_config

    rng = random.Random(1)
    rows = [tokenizer(*question_row(rng)[:2], return_tensors="pt") for _ in range(16)]
    config = parse_config({"algorithms": [{"algorithm": "quantization", "calibration_samples": 16}]}, "int8.json")
    Compression(config).start(model, [dict(row) for row in rows])
    return model
