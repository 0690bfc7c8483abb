"""Where the right context ranks, against a loop over all of them."""

from unittest import mock

import numpy as np
import pytest

from nncf_transformers.retrieval import metrics
from nncf_transformers.retrieval.metrics import top_k


def vectors(rows: int, size: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, size), dtype=np.float32)


def by_hand(questions: np.ndarray, contexts: np.ndarray, owners: list[int], k: int) -> float:
    hits = 0
    for question, owner in zip(questions, owners, strict=True):
        distances = [float(np.sqrt(((question - context).astype(np.float64) ** 2).sum())) for context in contexts]
        hits += sum(distance <= distances[owner] for distance in distances) <= k
    return 100 * hits / len(questions)


@pytest.mark.parametrize("block", [1, 90, 1 << 20], ids=["one question at a time", "some", "all"])
def test_as_by_hand(block: int) -> None:
    contexts = vectors(30)
    owners = [int(i) for i in np.random.default_rng(2).integers(30, size=50)]
    questions = contexts[owners] + vectors(50, seed=1)
    with mock.patch.object(metrics, "_BLOCK", block):
        found = top_k(questions, contexts, owners)
    assert found == {f"top{k}": by_hand(questions, contexts, owners, k) for k in (1, 5, 10)}
    assert 0 < found["top1"] < found["top5"] < found["top10"] < 100


def test_the_right_one_is_nearest() -> None:
    contexts = vectors(20)
    assert top_k(contexts + 0.001, contexts, range(20)) == {"top1": 100, "top5": 100, "top10": 100}
    assert top_k(contexts, contexts, [(i + 1) % 20 for i in range(20)])["top1"] == 0


@pytest.mark.parametrize(("count", "keys"), [(2, {"top1"}), (5, {"top1"}), (6, {"top1", "top5"}), (1, set())])
def test_more_than_there_are_is_left_out(count: int, keys: set[str]) -> None:
    assert top_k(vectors(3), vectors(count), [0, 0, 0]).keys() == keys


def test_equally_near_counts_as_nearer() -> None:
    # So many, and no power of two: matrix products are computed in pieces, which round differently.
    contexts = np.repeat(vectors(2, 384, seed=3), [67, 10], axis=0)
    questions = contexts[0] + vectors(41, 384) / 9
    for owner in (0, 31, 66):
        found = top_k(questions, contexts, [owner] * 41, ks=(1, 66, 67))
        assert found == {"top1": 0, "top66": 0, "top67": 100}


def test_equally_near_in_theory() -> None:
    """Permutations of one vector are equally far from zero, but rounding would put one of them first."""
    shuffled = np.random.default_rng(0).permuted(np.tile(vectors(1, 384), (30, 1)), axis=1)
    found = top_k(np.zeros((30, 384), np.float32), shuffled, range(30), ks=(1, 29))
    assert found == {"top1": 0, "top29": 0}


def test_close_together_and_far_from_zero() -> None:
    """An untrained encoder's vectors differ in the last digits only; float32 products would not tell them apart."""
    contexts = (100 + 1e-4 * vectors(40, 384)).astype(np.float32)
    questions = contexts + (2e-5 * vectors(40, 384, seed=1)).astype(np.float32)
    assert top_k(questions, contexts, range(40))["top1"] == by_hand(questions, contexts, list(range(40)), 1) == 100


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_diverged_model_finds_nothing(value: float) -> None:
    broken = np.full((10, 4), value, np.float32)
    assert top_k(broken, broken, range(10))["top5"] == 0
    # One bad question costs nothing but itself.
    questions = vectors(10)
    contexts = questions.copy()
    questions[3, 1] = value
    assert top_k(questions, contexts, range(10))["top1"] == 90


def test_wrong_shapes() -> None:
    for questions, contexts, owners in [
        (vectors(3), vectors(4, 6), [0, 1, 2]),
        (vectors(3)[0], vectors(4), [0]),
        (vectors(3), vectors(4), [0, 1]),
        (vectors(3), vectors(4), [0, 1, 4]),
        (vectors(3), vectors(4), [0, 1, -1]),
        (vectors(0), vectors(4), []),
    ]:
        with pytest.raises(ValueError, match=r"questions|owners"):
            top_k(questions, contexts, owners)
