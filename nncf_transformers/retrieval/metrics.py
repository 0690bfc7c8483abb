"""How often a question's own context is among the nearest."""

from collections.abc import Sequence

import numpy as np

KS = (1, 5, 10, 100, 200)

# Two squared distances that differ by less than this times the largest possible one are equal: float64 rounds
# at 1e-16, a sum of a thousand products at some 1e-13, while the vectors themselves are known to 1e-7 only.
_TIE = 1e-12
# Distances held at once.
_BLOCK = 1 << 23


def top_k(
    questions: np.ndarray, contexts: np.ndarray, owners: Sequence[int], ks: Sequence[int] = KS
) -> dict[str, float]:
    """Rank the contexts by L2 distance to each question (inventory 3.4, "Evaluation").

    A context that is as near as the right one counts as nearer, and so does a distance that is not a number: a model
    that gives all texts the same vector finds nothing.

    Args:
        questions: shape (questions, size).
        contexts: shape (contexts, size).
        owners: for each question, the row of its own context.
        ks: how many of the nearest to look at.

    Returns:
        Percent of the questions by ``top1``, ``top5`` …; without those that would look at all contexts, or more.

    Raises:
        ValueError: the shapes do not fit, an owner is not a context, or there is no question.
    """
    owned = np.asarray(owners)
    if questions.ndim != 2 or contexts.ndim != 2 or questions.shape[1] != contexts.shape[1]:
        raise ValueError(f"questions {questions.shape} and contexts {contexts.shape} must be (rows, one size)")
    if not len(questions) or owned.shape != (len(questions),):
        raise ValueError(f"{len(questions)} questions with owners of shape {owned.shape}")
    if owned.min() < 0 or owned.max() >= len(contexts):
        raise ValueError(f"owners from {owned.min()} to {owned.max()}, but there are {len(contexts)} contexts")
    ranks = np.empty(len(questions), np.int64)
    # Overflow and "not a number" are answers here, and the worst ones.
    with np.errstate(over="ignore", invalid="ignore"):
        # Differences to the middle are the same distances with less rounding: untrained models put all texts close
        # together and far from zero.
        middle = contexts.mean(axis=0, dtype=np.float64)
        contexts = contexts - middle
        step = max(1, _BLOCK // len(contexts))
        for start in range(0, len(questions), step):
            rows = slice(start, start + step)
            ranks[rows] = _ranks(questions[rows] - middle, contexts, owned[rows])
    return {f"top{k}": 100.0 * float((ranks <= k).mean()) for k in ks if k < len(contexts)}


def _ranks(questions: np.ndarray, contexts: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """The place of each question's own context, 1 for the nearest; vectors are float64."""
    own, lengths = np.square(questions).sum(axis=1), np.square(contexts).sum(axis=1)
    distances = own[:, None] + lengths - 2 * (questions @ contexts.T)
    slack = _TIE * np.square(np.sqrt(own) + np.sqrt(lengths.max()))
    limit = distances[np.arange(len(owners)), owners] + slack
    # "Farther" is what can be said for sure; the rest is as near or nearer.
    farther = distances > limit[:, None]
    return np.asarray(len(contexts) - farther.sum(axis=1))
