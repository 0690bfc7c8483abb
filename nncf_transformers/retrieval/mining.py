"""Hard negatives: contexts that do not belong to a question, but lie near it (inventory 3.4, step 2).

At every optimizer step some random contexts are embedded. Together with those of the steps before they are the
candidates, and the one nearest to a question is its hard negative. Vectors of earlier steps come from an earlier model,
and are the less true the older they are.

The search is exact: one matrix product of the questions and the candidates, which takes milliseconds where embedding
the new candidates takes seconds. From :data:`FAISS_FROM` candidates on a CPU, FAISS looks at a part of them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from nncf_transformers.retrieval.nearest import import_faiss

# From this number of candidates on, FAISS searches, unless they are on a GPU or scores depend on their age (each age
# would need an index of its own, of too few vectors to be worth it). 32 questions, 131,072 candidates, one core: 66 ms
# exact, 14 by FAISS with keeping its lists up to date (size 384); 200 and 30 ms (size 1024); and 4 or 8 s once in 512
# steps to make the lists. The negatives are 3 % farther away than the nearest (benchmarks/bench_retrieval.py).
FAISS_FROM = 100_000
# Lists for each square root of the number of candidates, those looked at for a question, vectors and iterations that
# find the centre of one. Rough centres do: finding better ones took longer than the searches of a history.
_LISTS, _PROBED, _TRAINING, _ITERATIONS = 4, 8, 39, 4
# In the place of a step's number: nothing is stored there yet.
_EMPTY = -1


class HardNegatives:
    """The candidates of the last steps, and the nearest of them for each question.

    Every process of a training holds the same ones: :meth:`sample` gives all of them the same contexts, and the
    caller gathers the vectors before :meth:`add`.
    """

    def __init__(self, contexts: int, *, num: int, history: int, alpha: float, seed: int) -> None:
        """Start without candidates.

        Args:
            contexts: number of contexts; their ids are 0 … contexts - 1.
            num: contexts to embed at a step; 0: no mining, any other context is a negative.
            history: how many steps a vector stays a candidate.
            alpha: score = -distance * alpha ** age, so that more than 1 pushes old vectors away.
            seed: of the random choices.

        Raises:
            ValueError: a number that makes no sense, or fewer than two contexts.
        """
        if contexts < 2 or num < 0 or history < 1 or not alpha > 0:
            raise ValueError(f"{contexts} contexts, num {num}, history {history}, alpha {alpha}")
        self.contexts, self.num, self.history, self.alpha = contexts, min(num, contexts), history, alpha
        self._seed = seed % 2**64
        # Number of a pass over the contexts, and their order in it.
        self._order: tuple[int, np.ndarray] = (_EMPTY, np.empty(0, np.int64))
        # One row for each step of the history, used in turn. Made when the first vectors say their size and device.
        self._vectors: torch.Tensor | None = None
        self._squares = torch.zeros(history, self.num)
        self._ids = torch.zeros(history, self.num, dtype=torch.int64)
        self._steps = torch.full((history,), _EMPTY, dtype=torch.int64)
        self._lists: _Lists | None = None
        self._lists_made = _EMPTY

    def sample(self, step: int) -> list[int]:
        """The contexts to embed at a step, none of them twice: a function of the seed and the step alone.

        They go through all contexts in a random order, and then in another one, so that the history holds as many
        different ones as it can.
        """
        if not self.num:
            return []
        number, place = divmod(step, self.contexts // self.num)
        if self._order[0] != number:
            self._order = (number, np.random.default_rng((self._seed, number)).permutation(self.contexts))
        return [int(i) for i in self._order[1][place * self.num : (place + 1) * self.num]]

    def add(self, step: int, ids: Sequence[int], vectors: torch.Tensor) -> None:
        """Store what was embedded at a step, and forget what is too old.

        Args:
            step: of the optimizer; not before one that was added already.
            ids: contexts, as :meth:`sample` gave them.
            vectors: shape (ids, size).
        """
        if len(ids) != self.num or vectors.shape[:1] != (self.num,):
            raise ValueError(f"{len(ids)} ids and vectors {tuple(vectors.shape)} at a step, expected {self.num}")
        if step < int(self._steps.max()):
            raise ValueError(f"step {step} after step {int(self._steps.max())}")
        if not self.num:
            return
        if self._vectors is None:
            self._vectors = vectors.new_zeros(self.history, *vectors.shape, dtype=torch.float32)
        self._to(vectors.device)
        place = step % self.history
        self._vectors[place] = vectors.detach()
        self._squares[place] = self._vectors[place].square().sum(dim=1)
        self._ids[place] = torch.as_tensor(ids, device=vectors.device)
        self._steps[place] = step
        self._update_lists(step, place)

    def pick(self, step: int, questions: torch.Tensor, positives: Sequence[int]) -> list[int]:
        """Choose one hard negative a question.

        Args:
            step: now; says how old the candidates are.
            questions: shape (questions, size).
            positives: the context of each question, which is never chosen.

        Returns:
            A context id for each question. Where no candidate is left, any other context.
        """
        chosen = [self._other(step, i, positive) for i, positive in enumerate(positives)]
        if self._vectors is None:
            return chosen
        self._to(questions.device)
        # Autocast would compute distances in half precision, and whole neighbourhoods would tie.
        with torch.no_grad(), torch.autocast(questions.device.type, enabled=False):
            rows = self._nearest(step, questions.detach().float(), torch.as_tensor(positives, device=questions.device))
        found = zip(rows.tolist(), self._ids.flatten()[rows].tolist(), strict=True)
        return [i if row >= 0 else other for (row, i), other in zip(found, chosen, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """All that :meth:`pick` depends on."""
        return {
            "ids": self._ids,
            "steps": self._steps,
            "vectors": self._vectors,
            "squares": self._squares,
            "centers": None if self._lists is None else self._lists.centers,
            "lists_made": self._lists_made,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called.

        Raises:
            ValueError: the state is that of another ``num`` or ``history``.
        """
        if state["ids"].shape != self._ids.shape:
            raise ValueError(
                f"mined contexts of shape {tuple(state['ids'].shape)} (history, num), now {tuple(self._ids.shape)}"
            )
        self._ids, self._steps, self._squares = (state[key].clone() for key in ("ids", "steps", "squares"))
        self._vectors = None if state["vectors"] is None else state["vectors"].clone()
        self._lists, self._lists_made = None, state["lists_made"]
        if state["centers"] is not None and state["centers"].device.type == "cpu":
            self._lists = _Lists(state["centers"].clone())
            self._fill_lists()

    def _to(self, device: torch.device) -> None:
        """Keep the candidates where the model is; a checkpoint may have been read to somewhere else."""
        assert self._vectors is not None
        if device.type != "cpu":
            self._lists = None
        self._vectors = self._vectors.to(device)
        self._ids, self._steps, self._squares = (x.to(device) for x in (self._ids, self._steps, self._squares))

    def _nearest(self, step: int, questions: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
        """For each question, the row (place * num + i) of the candidate with the best score, -1 if there is none."""
        if self._lists is None:
            return _best(self._scores(step, questions, positives))
        # So many that one remains when those of the positive context are taken away.
        count = 1 + int(self._ids.flatten().bincount(minlength=self.contexts)[positives].max())
        scores, rows = self._lists.search(questions, count)
        scores.masked_fill_((rows < 0) | self._forbidden(step, positives, rows), -torch.inf)
        best = _best(scores)
        found = torch.where(best < 0, best, rows.gather(1, best.clamp_min(0)[:, None])[:, 0])
        lost = found < 0
        if lost.any():
            found[lost] = _best(self._scores(step, questions[lost], positives[lost]))
        return found

    def _scores(self, step: int, questions: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
        """Scores of all candidates, (questions, candidates), -inf for those that must not be chosen."""
        assert self._vectors is not None
        candidates = self._vectors.flatten(0, 1)
        squares = torch.addmm(self._squares.flatten(), questions, candidates.T, alpha=-2)
        squares += questions.square().sum(dim=1, keepdim=True)
        scores = squares.clamp_min_(0).sqrt_().neg_()
        if self.alpha != 1:
            scores *= (self.alpha ** (step - self._steps).float()).repeat_interleave(self.num)
        rows = torch.arange(len(candidates), device=candidates.device)[None]
        return scores.masked_fill_(self._forbidden(step, positives, rows), -torch.inf)

    def _forbidden(self, step: int, positives: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Whether a row is too old, empty, or of the question's own context; rows is (questions or 1, any)."""
        age = step - self._steps
        unusable = (self._steps == _EMPTY) | (age < 0) | (age >= self.history)
        return unusable[rows // self.num] | (self._ids.flatten()[rows] == positives[:, None])

    def _update_lists(self, step: int, place: int) -> None:
        """Let FAISS know of the new candidates, if it is to search.

        The lists are made anew when all candidates have changed since, for the model has changed, too.
        """
        assert self._vectors is not None
        filled = self._steps != _EMPTY
        if self.alpha != 1 or self._vectors.device.type != "cpu" or int(filled.sum()) * self.num < FAISS_FROM:
            return
        if self._lists is None or step - self._lists_made >= self.history:
            self._lists, self._lists_made = _Lists(_centers(self._vectors[filled].flatten(0, 1))), step
            self._fill_lists()
        else:
            self._lists.replace(place * self.num, self._vectors[place])

    def _fill_lists(self) -> None:
        assert self._lists is not None and self._vectors is not None
        for place in (self._steps != _EMPTY).nonzero().flatten().tolist():
            self._lists.replace(place * self.num, self._vectors[place])

    def _other(self, step: int, question: int, positive: int) -> int:
        """A random context that is not the positive one."""
        other = int(np.random.default_rng((self._seed, step, question, positive)).integers(self.contexts - 1))
        return other + (other >= positive)


class _Lists:
    """Vectors in lists, each around a centre, that FAISS searches; vectors are added and removed at any time."""

    def __init__(self, centers: torch.Tensor) -> None:
        faiss = import_faiss()
        self.centers = centers
        # FAISS does not keep the quantizer alive.
        self._quantizer = faiss.IndexFlatL2(centers.shape[1])
        self._quantizer.add(centers.numpy())
        self._index = faiss.IndexIVFFlat(self._quantizer, centers.shape[1], len(centers))
        self._index.nprobe = _PROBED

    def replace(self, first: int, vectors: torch.Tensor) -> None:
        """Put vectors into the rows from ``first`` on, in the place of those that are there."""
        last = first + len(vectors)
        self._index.remove_ids(import_faiss().IDSelectorRange(first, last))
        self._index.add_with_ids(vectors.numpy(), np.arange(first, last))

    def search(self, questions: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and rows, (questions, count), of about the nearest; row -1 where there are fewer."""
        squares, rows = self._index.search(questions.numpy(), count)
        return -torch.from_numpy(squares).clamp_min_(0).sqrt_(), torch.from_numpy(rows)


def _centers(vectors: torch.Tensor) -> torch.Tensor:
    """Centres for the lists of so many vectors, by k-means on a part of them that is always the same one."""
    count = round(_LISTS * len(vectors) ** 0.5)
    kmeans = import_faiss().Kmeans
    means = kmeans(vectors.shape[1], count, niter=_ITERATIONS, max_points_per_centroid=_TRAINING, seed=0)
    means.train(vectors.numpy())
    return torch.from_numpy(means.centroids.copy())


def _best(scores: torch.Tensor) -> torch.Tensor:
    """The column of the largest finite score in each row, -1 if there is none."""
    scores.masked_fill_(scores.isnan(), -torch.inf)
    values, columns = scores.max(dim=1)
    return columns.masked_fill_(~values.isfinite(), -1)
