"""A sentiment set in the manner of SST-2: one sentence, 1 for praise and 0 for blame."""

import random

from demo.lexicon import words

SUBJECTS = words(
    "soup bread coffee waiter room garden music film story actor hotel service driver ending view price "
    "staff kitchen concert lecture"
)
GOOD = words("delicious lovely charming excellent friendly brilliant delightful superb gentle wonderful graceful fresh")
BAD = words("dreadful stale rude boring dull awful clumsy noisy bitter shabby tasteless gloomy")
DEGREES = ("", "really ", "quite ", "simply ", "truly ")
PLAIN = (
    "the {a} was {degree}{good}",
    "a {degree}{good} {a}",
    "what a {good} {a}",
    "i found the {a} {degree}{good}",
)
NEGATED = ("the {a} was not {bad} at all", "nobody could call the {a} {bad}", "the {a} was never {bad}")
CONTRASTED = (
    "although the {a} was {bad} , the {b} was {degree}{good}",
    "the {a} was {bad} , but the {b} was so {good} that we came back",
    "a {degree}{good} {b} , despite the {bad} {a}",
)


def make_review(rng: random.Random) -> tuple[str, int]:
    """Return a sentence and its label.

    Every pattern is written for praise; blame is the same pattern with the good and the bad words exchanged,
    so that no pattern gives the label away. Single words do not either: patterns negate and contrast.
    """
    label = rng.randint(0, 1)
    good, bad = (GOOD, BAD) if label else (BAD, GOOD)
    first, second = rng.sample(SUBJECTS, 2)
    pattern = rng.choice(PLAIN + NEGATED + CONTRASTED)
    values = {
        "a": first,
        "b": second,
        "good": rng.choice(good),
        "bad": rng.choice(bad),
        "degree": rng.choice(DEGREES),
    }
    return pattern.format(**values), label


def make_reviews(rng: random.Random, train: int, dev: int, test: int) -> list[list[tuple[str, int]]]:
    """Return the train, dev and test split; no sentence occurs twice."""
    reviews: dict[str, int] = {}
    while len(reviews) < train + dev + test:
        sentence, label = make_review(rng)
        reviews[sentence] = label
    rows = list(reviews.items())
    return [rows[:train], rows[train : train + dev], rows[train + dev :]]
