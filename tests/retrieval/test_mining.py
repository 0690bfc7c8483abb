"""Hard negatives against a loop over all candidates, and their state through a file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nncf_transformers.retrieval import mining
from nncf_transformers.retrieval.mining import HardNegatives

SIZE = 6


def make(contexts: int = 50, num: int = 8, history: int = 4, alpha: float = 1.0, seed: int = 1) -> HardNegatives:
    return HardNegatives(contexts, num=num, history=history, alpha=alpha, seed=seed)


def vectors(rows: int, seed: int, size: int = SIZE) -> torch.Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


class ByHand:
    """All that was ever added, and the rule of the inventory."""

    def __init__(self, history: int, alpha: float) -> None:
        self.history, self.alpha = history, alpha
        self.added: list[tuple[int, list[int], np.ndarray]] = []

    def add(self, step: int, ids: list[int], embedded: torch.Tensor) -> None:
        self.added.append((step, ids, embedded.double().numpy()))

    def scores(self, step: int, question: torch.Tensor, positive: int) -> dict[int, float]:
        """The best score by context."""
        best: dict[int, float] = {}
        for made, ids, stored in self.added:
            age = step - made
            if age >= self.history:
                continue
            scores = -np.linalg.norm(question.double().numpy() - stored, axis=1) * self.alpha**age
            for i, score in zip(ids, scores, strict=True):
                if i != positive:
                    best[i] = max(best.get(i, -np.inf), float(score))
        return best


def run(miner: HardNegatives, steps: range, oracle: ByHand | None = None) -> list[list[int]]:
    """Mine as a training does, and compare with the oracle."""
    picked = []
    for step in steps:
        ids = miner.sample(step)
        embedded, questions = vectors(len(ids), step), vectors(5, 1000 + step)
        positives = [ids[0], ids[-1], 3, 4, 5]
        miner.add(step, ids, embedded)
        chosen = miner.pick(step, questions, positives)
        picked.append(chosen)
        if oracle is not None:
            oracle.add(step, ids, embedded)
            for question, positive, found in zip(questions, positives, chosen, strict=True):
                scores = oracle.scores(step, question, positive)
                assert found != positive
                assert scores[found] == pytest.approx(max(scores.values()), rel=1e-5)
    return picked


@pytest.mark.parametrize("alpha", [1.0, 1.3, 0.7])
@pytest.mark.parametrize("history", [1, 4])
def test_as_by_hand(alpha: float, history: int) -> None:
    run(make(history=history, alpha=alpha), range(12), ByHand(history, alpha))


def test_steps_without_mining() -> None:
    """Candidates grow old even where nothing takes their place."""
    miner, oracle = make(), ByHand(4, 1.0)
    run(miner, range(5), oracle)
    run(miner, range(7, 9), oracle)
    run(miner, range(90, 91), oracle)
    assert {step for step in miner.state_dict()["steps"].tolist() if step > 90 - 4} == {90}
    # Too late for all of them: any other context will do, as if there had been none.
    chosen = miner.pick(94, vectors(20, 0), [3] * 20)
    assert chosen == make().pick(94, vectors(20, 0), [3] * 20)
    assert all(0 <= i < 50 and i != 3 for i in chosen)
    assert {*miner.pick(93, vectors(20, 0), [3] * 20)} <= {*miner.sample(90)}


def test_older_vectors_are_pushed_away() -> None:
    near, far = torch.zeros(1, SIZE), torch.ones(1, SIZE)
    for alpha, expected in [(1.0, 0), (1.2, 0), (3.0, 1)]:
        miner = make(num=1, alpha=alpha)
        miner.add(0, [0], near + 0.5)
        miner.add(1, [1], far)
        assert miner.pick(1, near, [9]) == [expected]


def test_a_context_is_never_its_own_negative() -> None:
    miner = make(num=2)
    for step in range(3):
        miner.add(step, [7, 8], torch.stack([torch.zeros(SIZE), torch.full((SIZE,), 9.0 + step)]))
    assert miner.pick(2, torch.zeros(2, SIZE), [7, 8]) == [8, 7]
    # Nothing but itself was embedded.
    lonely = make(contexts=9, num=1)
    lonely.add(0, [7], torch.zeros(1, SIZE))
    assert 7 not in lonely.pick(0, torch.zeros(30, SIZE), [7] * 30)


def test_ties_and_vectors_that_are_no_numbers() -> None:
    miner = make(num=3)
    miner.add(0, [1, 2, 3], torch.ones(3, SIZE))
    assert miner.pick(0, torch.zeros(1, SIZE), [1])[0] in (2, 3)
    assert miner.pick(0, torch.zeros(1, SIZE), [1]) == miner.pick(0, torch.zeros(1, SIZE), [1])
    miner.add(1, [4, 5, 6], torch.full((3, SIZE), torch.nan))
    assert miner.pick(1, torch.zeros(2, SIZE), [1, 1])[0] in (2, 3)
    assert all(0 <= i < 50 and i != 1 for i in miner.pick(1, torch.full((20, SIZE), torch.nan), [1] * 20))


def test_without_mining_any_other_context() -> None:
    miner = make(contexts=4, num=0)
    assert miner.sample(0) == []
    miner.add(0, [], torch.zeros(0, SIZE))
    positives = [step % 4 for step in range(400)]
    chosen = [miner.pick(step, vectors(1, 0), [positive])[0] for step, positive in enumerate(positives)]
    assert all(a != b for a, b in zip(chosen, positives, strict=True))
    counts = np.bincount(chosen, minlength=4)
    assert counts.min() > 60
    assert chosen == [make(4, 0).pick(step, vectors(1, 0), [p])[0] for step, p in enumerate(positives)]
    assert len(set(miner.pick(0, vectors(60, 0), [1] * 60))) == 3


def test_sample_depends_on_seed_and_step_alone() -> None:
    used, fresh = make(), make()
    run(used, range(6))
    torch.manual_seed(7)
    assert [used.sample(step) for step in range(9)] == [fresh.sample(step) for step in range(9)]
    assert fresh.sample(3) == fresh.sample(3) != fresh.sample(4)
    assert fresh.sample(3) != make(seed=2).sample(3)
    assert make(seed=-1).sample(0)
    for step in range(20):
        ids = fresh.sample(step)
        assert len(set(ids)) == 8 and all(isinstance(i, int) and 0 <= i < 50 for i in ids)
    assert {i for step in range(200) for i in fresh.sample(step)} == set(range(50))
    assert sorted(make(contexts=5, num=8).sample(0)) == [0, 1, 2, 3, 4]


def through_a_file(miner: HardNegatives, path: Path) -> dict[str, Any]:
    torch.save(miner.state_dict(), path)
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


@pytest.mark.parametrize("killed", [0, 2, 7])
def test_resume(tmp_path: Path, killed: int) -> None:
    whole, first, second = make(alpha=1.1), make(alpha=1.1), make(alpha=1.1)
    expected = run(whole, range(12))
    start = run(first, range(killed))
    second.load_state_dict(through_a_file(first, tmp_path / "state.pt"))
    assert start + run(second, range(killed, 12)) == expected
    # The state was a copy, and the one who saved it may go on, too.
    assert start + run(first, range(killed, 12)) == expected


def test_state_of_another_shape(tmp_path: Path) -> None:
    state = through_a_file(make(), tmp_path / "state.pt")
    with pytest.raises(ValueError, match=r"shape \(4, 8\) \(history, num\), now \(4, 9\)"):
        make(num=9).load_state_dict(state)


def test_half_precision_and_gradients() -> None:
    miner, oracle = make(), ByHand(4, 1.0)
    ids = miner.sample(0)
    embedded = vectors(8, 0).bfloat16().requires_grad_()
    miner.add(0, ids, embedded)
    oracle.add(0, ids, embedded.detach().float())
    questions = (vectors(30, 5) + 100).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = miner.pick(0, questions, [ids[2]] * 30)
    for question, chosen in zip(questions.detach(), found, strict=True):
        scores = oracle.scores(0, question, ids[2])
        assert scores[chosen] == pytest.approx(max(scores.values()), rel=1e-5)
    assert not any(x.requires_grad for x in miner.state_dict().values() if isinstance(x, torch.Tensor))


def test_wrong_use() -> None:
    for arguments in [{"contexts": 1}, {"num": -1}, {"history": 0}, {"alpha": 0.0}, {"alpha": float("nan")}]:
        with pytest.raises(ValueError, match="contexts"):
            make(**arguments)  # type: ignore[arg-type]
    miner = make()
    with pytest.raises(ValueError, match="expected 8"):
        miner.add(0, [1], vectors(1, 0))
    with pytest.raises(ValueError, match="expected 8"):
        miner.add(0, miner.sample(0), vectors(7, 0))
    miner.add(5, miner.sample(5), vectors(8, 0))
    with pytest.raises(ValueError, match="step 4 after step 5"):
        miner.add(4, miner.sample(4), vectors(8, 0))


class TestFaiss:
    """The same with FAISS, which does not find the nearest always, but an allowed and near one."""

    @pytest.fixture(autouse=True)
    def _from_few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mining, "FAISS_FROM", 300)

    def big(self, **kind: Any) -> HardNegatives:
        return make(**{"contexts": 400, "num": 100, "history": 6, **kind})

    def test_all_lists_are_exact(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mining, "_PROBED", 1000)
        miner = self.big()
        run(miner, range(15), ByHand(6, 1.0))
        assert miner.state_dict()["centers"] is not None

    def test_some_lists_are_near(self) -> None:
        miner, oracle = self.big(), ByHand(6, 1.0)
        ratios = []
        for step in range(20):
            ids = miner.sample(step)
            embedded, questions = vectors(100, step), vectors(20, 1000 + step)
            miner.add(step, ids, embedded)
            oracle.add(step, ids, embedded)
            for question, found in zip(questions, miner.pick(step, questions, [ids[0]] * 20), strict=True):
                scores = oracle.scores(step, question, ids[0])
                ratios.append(scores[found] / max(scores.values()))
        assert min(ratios) > 1 - 1e-5
        assert np.mean(ratios) < 1.15

    def test_resume(self, tmp_path: Path) -> None:
        expected = run(self.big(), range(20))
        # Right after the lists were made, and in the middle of their life.
        for killed in (3, 13):
            first, second = self.big(), self.big()
            start = run(first, range(killed))
            second.load_state_dict(through_a_file(first, tmp_path / "state.pt"))
            assert start + run(second, range(killed, 20)) == expected

    def test_only_forbidden_ones_are_near(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where the lists that were looked at hold nothing that is allowed, all candidates are looked at."""
        monkeypatch.setattr(mining, "_PROBED", 1)
        miner, oracle = self.big(history=3), ByHand(3, 1.0)
        for step in range(3):
            # Half of the candidates are one context, right where the question is.
            ids = [0] * 50 + list(range(1, 51))
            embedded = torch.cat([torch.zeros(50, SIZE), 9 + vectors(50, step)])
            miner.add(step, ids, embedded)
            oracle.add(step, ids, embedded)
        assert miner.state_dict()["centers"] is not None
        scores = oracle.scores(2, torch.zeros(SIZE), 0)
        assert miner.pick(2, torch.zeros(3, SIZE), [0, 0, 0]) == [max(scores, key=lambda i: scores[i])] * 3

    def test_lists_follow_the_model(self) -> None:
        """They are made anew when all the vectors that they were made of are gone."""
        miner = self.big()
        centers = []
        for step in range(16):
            miner.add(step, miner.sample(step), vectors(100, step) + step)
            centers.append(miner.state_dict()["centers"])
        changes = [step for step in range(1, 16) if centers[step] is not centers[step - 1]]
        assert changes == [2, 8, 14]
        assert centers[14].mean() > centers[2].mean() + 8

    def test_scores_that_depend_on_age_are_exact(self) -> None:
        miner = self.big(alpha=1.1)
        run(miner, range(10), ByHand(6, 1.1))
        assert miner.state_dict()["centers"] is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mining, "FAISS_FROM", 10)
    expected = run(make(alpha=1.1), range(12))
    miner = make(alpha=1.1)
    for step in range(12):
        ids = miner.sample(step)
        miner.add(step, ids, vectors(8, step).cuda())
        assert miner.pick(step, vectors(5, 1000 + step).cuda(), [ids[0], ids[-1], 3, 4, 5]) == expected[step]
        if step == 5:
            # As a checkpoint is read: to the CPU first.
            torch.save(miner.state_dict(), tmp_path / "state.pt")
            miner = make(alpha=1.1)
            miner.load_state_dict(torch.load(tmp_path / "state.pt", map_location="cpu", weights_only=True))
