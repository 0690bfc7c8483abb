"""What the stages minimise: answers with a teacher, hidden states alone, embeddings with hard negatives.

Each loss is the mean of a list of terms, as the originals have it (inventory 3.2 to 3.4): the more hidden states there
are to compare, the less each term weighs.
"""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from nncf_transformers.algorithms.distillation import HiddenStates, hidden_losses, softmax_loss
from nncf_transformers.inputs import call_model, model_inputs
from nncf_transformers.packing import HeadImportance, transformed
from nncf_transformers.retrieval.mining import HardNegatives
from nncf_transformers.training.data import Encoded
from nncf_transformers.training.stage import Objective

Terms = dict[str, list[torch.Tensor]]


class Teacher:
    """A model to learn from. It computes without gradients and without dropout, and is no submodule of anything."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model = model.to(device).eval().requires_grad_(False)
        self._states = HiddenStates()
        self._states.watch(model)

    def __call__(self, inputs: dict[str, torch.Tensor]) -> tuple[Sequence[torch.Tensor], list[torch.Tensor]]:
        """Outputs, and hidden states: the embedding output and one of each layer, (batch, sequence, hidden)."""
        with torch.no_grad():
            outputs = call_model(self.model, model_inputs(self.model, inputs))
        return outputs, self._states.take()


class Supervised(Objective):
    """Something with a student and perhaps a teacher, whose hidden states are compared.

    Args:
        student: the model that is trained.
        teacher: None for none.
        transforms: linear layers that take the student's hidden states, one each, to the teacher's size; they are
            trained with the student. None where the sizes are equal, or where the student has its own (a packed model).
    """

    def __init__(self, student: nn.Module, teacher: Teacher | None, transforms: nn.ModuleList | None = None) -> None:
        super().__init__(student)
        self.teacher = teacher
        self.transforms = transforms
        self._states = HiddenStates()
        if teacher is not None:
            self._states.watch(student)

    def hidden(self, inputs: dict[str, torch.Tensor], theirs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The differences of the hidden states of the last forward from the teacher's, padding left out."""
        ours = transformed(self.student, self._states.take())
        if self.transforms is not None:
            ours = [linear(state) for linear, state in zip(self.transforms, ours, strict=True)]
        return hidden_losses(ours, theirs, inputs["attention_mask"].bool())


class AnswerObjective(Supervised):
    """Find the answer, as the labels and the teacher say (inventory 3.2).

    Args:
        student: a question-answering model.
        teacher: another one, or None.
        transforms: see :class:`Supervised`.
        logits_weight: of the teacher's logits; 0 for without.
        hidden_weight: of the teacher's hidden states; 0 for without.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher | None,
        transforms: nn.ModuleList | None = None,
        *,
        logits_weight: float,
        hidden_weight: float,
    ) -> None:
        super().__init__(student, teacher, transforms)
        self.logits_weight, self.hidden_weight = logits_weight, hidden_weight

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of windows with ``start_positions`` and ``end_positions``."""
        inputs = model_inputs(self.student, batch)
        labels = {name: batch[name] for name in ("start_positions", "end_positions")}
        output = self.student(**inputs, **labels)
        terms: Terms = {"qa": [output.loss]}
        if self.teacher is not None:
            logits, states = self.teacher(inputs)
            if self.logits_weight > 0:
                pairs = zip((output.start_logits, output.end_logits), logits, strict=False)
                # T = 1: the cross-entropy with the teacher's distribution over the positions.
                parts = [softmax_loss(ours, theirs, 1.0) for ours, theirs in pairs]
                terms["logits"] = [self.logits_weight * torch.stack(parts).mean()]
            hidden = self.hidden(inputs, states) if self.hidden_weight > 0 else []
            terms["hidden"] = [self.hidden_weight * term for term in hidden]
        return _mean(terms)


class HiddenObjective(Supervised):
    """Compute the teacher's hidden states, and nothing else (inventory 3.3.2).

    Attributes:
        count: the first so many hidden states count; None for all.
        alpha: hidden state i counts alpha to the power of i.
        importance: of the heads, if it is to be found out.
    """

    def __init__(self, student: nn.Module, teacher: Teacher) -> None:
        super().__init__(student, teacher)
        self.count: int | None = None
        self.alpha = 1.0
        self.importance: HeadImportance | None = None

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The weighted mean of the differences of the hidden states."""
        assert self.teacher is not None
        inputs = model_inputs(self.student, batch)
        call_model(self.student, inputs)
        _, states = self.teacher(inputs)
        losses = torch.stack(self.hidden(inputs, states)[: self.count])
        weights = self.alpha ** torch.arange(len(losses), device=losses.device)
        loss = (weights * losses).sum() / weights.sum()
        return loss, {f"h{i}": part for i, part in enumerate(losses.detach())}

    def after_backward(self, scale: float) -> None:
        if self.importance is not None:
            self.importance.update(scale)

    def own_state(self) -> dict[str, Any]:
        return {} if self.importance is None else self.importance.state_dict()

    def load_own_state(self, state: dict[str, Any]) -> None:
        if self.importance is not None and state:
            self.importance.load_state_dict(state)


class EmbeddingObjective(Supervised):
    """Put a question near its context and far from the hardest other one (inventory 3.4).

    The candidates are random contexts, embedded anew at every step and remembered for some steps; the hard negative is
    the nearest to the question among them. It is embedded again with a gradient.

    Args:
        student: an embedding model.
        teacher: another one, or None.
        transforms: see :class:`Supervised`.
        contexts: all contexts of the training set.
        negatives: chooses among them.
        gather: puts the tensors of all processes together, along the first dimension.
        autocast: a context of mixed precision for what is computed outside :meth:`forward`.
        share: number of this process, and of processes.
        batch_size: contexts embedded at a time while looking for negatives.
        triplets: number of triplet terms: 0, 1 or 2.
        embedding_loss: how embeddings differ from the teacher's: ``none``, ``L1`` or ``L2``.
        teacher_weight: of what comes from the teacher.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher | None,
        transforms: nn.ModuleList | None = None,
        *,
        contexts: Encoded,
        negatives: HardNegatives,
        gather: Callable[[torch.Tensor], torch.Tensor],
        autocast: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
        share: tuple[int, int],
        batch_size: int,
        triplets: int,
        embedding_loss: str,
        teacher_weight: float,
    ) -> None:
        super().__init__(student, teacher, transforms)
        self.contexts, self.negatives, self.gather, self.share = contexts, negatives, gather, share
        self.autocast = autocast
        self.batch_size = batch_size
        self.triplets = self._triplets = triplets
        self.embedding_loss, self.teacher_weight = embedding_loss, teacher_weight
        self._step = 0

    def before_step(self) -> None:
        """Embed the candidates of this step, each process its share, and remember those of all."""
        if self.triplets == 0:
            return
        # Through all stages: a stage's own number would make the vectors of the one before look young.
        self._step += 1
        ids = self.negatives.sample(self._step)
        if not ids:
            return
        rank, world = self.share
        # The shares are equally large; texts of like length together need less padding.
        own = sorted(ids[rank::world], key=self.contexts.length)
        vectors = torch.cat(
            [self._candidates(own[i : i + self.batch_size]) for i in range(0, len(own), self.batch_size)]
        )
        device = vectors.device
        self.negatives.add(
            self._step, self.gather(torch.tensor(own, device=device)).tolist(), self.gather(vectors.contiguous())
        )

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of questions with the numbers of their contexts, ``owner``."""
        owners = batch["owner"].tolist()
        terms: Terms = {}
        question = self._embed(batch, terms, "question")
        positive = self._embed(self._contexts(owners), terms, "context")
        if self.triplets:
            chosen = self.negatives.pick(self._step, question.detach(), owners)
            negative = self._embed(self._contexts(chosen), {}, "")
            near, far = _distance(question, positive), _distance(question, negative)
            others = [far, _distance(positive, negative)][: self.triplets]
            terms["triplet"] = [functional.softplus(near - other).mean() for other in others]
        loss, parts = _mean(terms)
        if self.triplets:
            parts |= {"near": near.detach().mean(), "far": far.detach().mean()}
        return loss, parts

    def without_triplets(self, without: bool) -> None:
        """Learn from the teacher alone, as long as the quantizers are trained alone, if there is something to learn."""
        self.triplets = 0 if without and self.teacher is not None else self._triplets

    def own_state(self) -> dict[str, Any]:
        return {"step": self._step, "negatives": self.negatives.state_dict()}

    def load_own_state(self, state: dict[str, Any]) -> None:
        self._step = state["step"]
        self.negatives.load_state_dict(state["negatives"])

    def _contexts(self, ids: Sequence[int]) -> dict[str, torch.Tensor]:
        return self.contexts.batch(ids)

    def _candidates(self, ids: Sequence[int]) -> torch.Tensor:
        """Embed contexts without a gradient and without dropout."""
        training = self.student.training
        self.student.eval()
        with torch.no_grad(), self.autocast():
            (vectors,) = call_model(self.student, model_inputs(self.student, self._contexts(ids)))
        self.student.train(training)
        self._states.take()
        return vectors.float()

    def _embed(self, batch: dict[str, torch.Tensor], terms: Terms, kind: str) -> torch.Tensor:
        """Embed texts; with a ``kind``, what the teacher says of them goes to ``terms``."""
        inputs = model_inputs(self.student, batch)
        (vectors,) = call_model(self.student, inputs)
        if self.teacher is None or not kind:
            self._states.take()
            return vectors.float()
        outputs, states = self.teacher(inputs)
        terms[f"{kind}_hidden"] = [self.teacher_weight * term for term in self.hidden(inputs, states)]
        if self.embedding_loss != "none":
            loss = functional.mse_loss if self.embedding_loss == "L2" else functional.l1_loss
            terms[f"{kind}_embedding"] = [self.teacher_weight * loss(vectors.float(), outputs[0].float())]
        return vectors.float()


def _distance(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """L2 distance of the rows of two tensors (rows, size); its gradient is finite for equal rows, too."""
    return (first - second).square().sum(-1).clamp(min=1e-12).sqrt()


def _mean(terms: Terms) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The mean of all terms, and the mean of each kind of them, detached."""
    flat = [term for group in terms.values() for term in group]
    return torch.stack(flat).mean(), {name: torch.stack(g).mean().detach() for name, g in terms.items() if g}
