"""What all methods calibrate on: the same questions, read the same way."""

import random
from pathlib import Path
from typing import Any

import numpy as np

from nncf_transformers.errors import UsageError

# Tokens of a window, as in the evaluation.
LENGTH = 384
SAMPLES = 300


def calibration_samples(
    tokenizer: Any, file: Path, count: int = SAMPLES, seed: int = 42, length: int = LENGTH
) -> list[dict[str, np.ndarray]]:
    """Choose questions at random and encode each with the beginning of its context.

    Args:
        tokenizer: a fast tokenizer.
        file: in SQuAD's format.
        count: of samples.
        seed: of the choice.
        length: longer samples are cut, in tokens.

    Returns:
        Inputs of one row each, int64 of shape (1, tokens), without padding: real values only.

    Raises:
        UsageError: the file has fewer questions.
    """
    from nncf_transformers.data import read_squad

    examples = read_squad(file)
    if len(examples) < count:
        raise UsageError(
            f"{file}: has {len(examples)} questions, calibration wants {count}; give --samples {len(examples)}"
        )
    samples = []
    for example in random.Random(seed).sample(examples, count):
        encoded = tokenizer(example.question.lstrip(), example.context, truncation="only_second", max_length=length)
        samples.append({name: np.asarray([values], np.int64) for name, values in encoded.items()})
    return samples
