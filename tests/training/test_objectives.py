"""What the stages minimise, against the formulas of inventory 3.2 to 3.4 in plain numpy."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import VOCABULARY, tiny_model
from torch import nn
from transformers import AutoModelForQuestionAnswering, BertConfig, BertModel

from nncf_transformers.algorithms.distillation import aligned
from nncf_transformers.embedding import embedding_class
from nncf_transformers.errors import UsageError
from nncf_transformers.loading import load_model
from nncf_transformers.packing import PackConfig, is_merged, pack, transforms
from nncf_transformers.retrieval.mining import HardNegatives
from nncf_transformers.training.data import Encoded
from nncf_transformers.training.models import check_hidden_sizes, make_plain
from nncf_transformers.training.objectives import AnswerObjective, EmbeddingObjective, HiddenObjective, Teacher

CPU = torch.device("cpu")
Array = np.ndarray


def texts(lengths: Sequence[int], seed: int = 0, **columns: list[int]) -> Encoded:
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(5, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]
    rows = {
        "input_ids": ids,
        "attention_mask": [[1] * n for n in lengths],
        "token_type_ids": [[0] * n for n in lengths],
    }
    return Encoded({**rows, **columns}, dict.fromkeys(rows, 0))


def batch() -> dict[str, torch.Tensor]:
    """Three windows with padding."""
    return texts([9, 5, 7], start_positions=[2, 0, 6], end_positions=[4, 0, 6]).batch(range(3))


def states_of(model: Any, inputs: dict[str, torch.Tensor]) -> tuple[Any, list[Array]]:
    """Outputs and hidden states, as the library itself has them."""
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
    return output, [state.numpy().astype(np.float64) for state in output.hidden_states]


def softmax(x: Array) -> Array:
    e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def cross_entropy(logits: Any, labels: Any) -> float:
    return float(-np.log(softmax(logits.numpy())[np.arange(len(labels)), labels]).mean())


def mean_square(ours: Sequence[Array], theirs: Sequence[Array], pairs: Sequence[int], mask: Any) -> list[float]:
    """Of real tokens alone."""
    real = mask.bool().numpy()
    return [float(np.square(one[real] - theirs[j][real]).mean()) for one, j in zip(ours, pairs, strict=True)]


def qa(layers: int = 2, seed: int = 0, dropout: float = 0.0, **sizes: Any) -> Any:
    dropouts = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return tiny_model("bert", seed=seed, num_hidden_layers=layers, **dropouts, **sizes)


# answers


def test_alignment() -> None:
    assert aligned(13, 25) == list(range(0, 25, 2)) and aligned(3, 5) == [0, 2, 4] and aligned(4, 6) == [0, 1, 3, 5]


@pytest.mark.parametrize("weights", [(1.0, 0.02), (0.5, 0.0), (0.0, 2.0)])
def test_answers_are_the_mean_of_a_list(weights: tuple[float, float]) -> None:
    # A teacher with dropout: in an objective it has none, whatever mode the objective is in.
    student, large = qa(), qa(4, seed=1, dropout=0.5)
    (ours, our_states), (theirs, their_states) = states_of(student, batch()), states_of(large, batch())
    terms = [np.mean([cross_entropy(ours.start_logits, [2, 0, 6]), cross_entropy(ours.end_logits, [4, 0, 6])])]
    logits = zip((ours.start_logits, ours.end_logits), (theirs.start_logits, theirs.end_logits), strict=True)
    taught = [-(softmax(t.numpy()) * np.log(softmax(s.numpy()))).sum(-1).mean() for s, t in logits]
    if weights[0]:
        terms.append(weights[0] * np.mean(taught))
    if weights[1]:
        mask = batch()["attention_mask"]
        terms += [weights[1] * term for term in mean_square(our_states, their_states, (0, 2, 4), mask)]
    objective = AnswerObjective(
        student, Teacher(large, CPU), logits_weight=weights[0], hidden_weight=weights[1]
    ).train()
    loss, parts = objective(batch())
    assert len(terms) == 1 + (weights[0] > 0) + 3 * (weights[1] > 0)
    assert loss.item() == pytest.approx(np.mean(terms), rel=1e-5)
    assert parts["qa"].item() == pytest.approx(terms[0], rel=1e-5)
    assert set(parts) == {"qa", *(["logits"] if weights[0] else []), *(["hidden"] if weights[1] else [])}
    assert not any(part.requires_grad for part in parts.values())


def test_answers_without_a_teacher() -> None:
    student = qa()
    output, _ = states_of(student, batch())
    loss, parts = AnswerObjective(student, None, logits_weight=1.0, hidden_weight=1.0)(batch())
    expected = [cross_entropy(output.start_logits, [2, 0, 6]), cross_entropy(output.end_logits, [4, 0, 6])]
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-5) and list(parts) == ["qa"]


def test_padding_has_no_hidden_state() -> None:
    objective = AnswerObjective(qa(), Teacher(qa(4, seed=1), CPU), logits_weight=1.0, hidden_weight=1.0)
    _, parts = objective(batch())
    other = batch()
    other["input_ids"][other["attention_mask"] == 0] = 77
    _, changed = objective(other)
    assert changed["hidden"] == pytest.approx(parts["hidden"].item(), rel=1e-5)
    assert changed["qa"] != parts["qa"]


def test_nothing_of_the_teacher_is_trained() -> None:
    large = qa(seed=1, dropout=0.5).train()
    objective = AnswerObjective(qa(), Teacher(large, CPU), logits_weight=1.0, hidden_weight=1.0)
    objective.requires_grad_(True).train()
    loss, _ = objective(batch())
    loss.backward()
    assert not large.training and objective.student.training
    assert all(p.grad is None and not p.requires_grad for p in large.parameters())
    taken = {id(p) for p in objective.parameters()}
    assert taken == {id(p) for p in objective.student.parameters()}
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters())


def test_transforms_bring_states_to_the_teacher_s_size() -> None:
    student, large = qa(hidden_size=16), qa(seed=1)
    with pytest.raises(UsageError, match="size 32, the student of 16"):
        check_hidden_sizes(student, large)
    # Nothing is compared, and nothing is refused.
    AnswerObjective(student, Teacher(large, CPU), logits_weight=1.0, hidden_weight=0.0)(batch())
    kept = nn.ModuleList(nn.Linear(16, 32) for _ in range(3))
    check_hidden_sizes(student, large, kept)
    objective = AnswerObjective(student, Teacher(large, CPU), kept, logits_weight=0.0, hidden_weight=2.0)
    loss, parts = objective(batch())
    ours = [
        state @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
        for state, linear in zip(states_of(student, batch())[1], kept, strict=True)
    ]
    expected = mean_square(ours, states_of(large, batch())[1], range(3), batch()["attention_mask"])
    assert parts["hidden"].item() == pytest.approx(2 * np.mean(expected), rel=1e-5)
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in kept.parameters())


def packed(sizes: str = "num_hidden_layers:2,hidden_size:16") -> Any:
    torch.manual_seed(2)
    model = qa(4)
    pack(model, PackConfig.parse(sizes, model.config))
    return model


def test_packed_student_is_plain_after_an_interruption_too(tmp_path: Path) -> None:
    original, student = packed(), packed()
    original.save_pretrained(tmp_path / "unmerged")
    kept = make_plain(student, str(tmp_path / "unmerged"))
    assert kept is not None and len(kept) == 3 and is_merged(student.config)
    # What an interrupted training finds: the student is merged, the folder it began with is not.
    student.save_pretrained(tmp_path / "resume")
    again = load_model(AutoModelForQuestionAnswering, tmp_path / "resume")
    found = make_plain(again, str(tmp_path / "unmerged"))
    assert found is not None and is_merged(again.config)
    for one, other in zip(kept.parameters(), found.parameters(), strict=True):
        assert torch.equal(one, other)
    assert make_plain(qa(), str(tmp_path / "unmerged")) is None


# hidden states alone


@pytest.mark.parametrize(("count", "alpha"), [(None, 1.0), (None, 1.5), (1, 1.5), (2, 3.0)])
def test_hidden_states_weigh_alpha_to_the_power_of_i(count: int | None, alpha: float) -> None:
    student, large = qa(), qa(4, seed=1)
    objective = HiddenObjective(student, Teacher(large, CPU)).train()
    objective.count, objective.alpha = count, alpha
    mask = batch()["attention_mask"]
    all_terms = mean_square(states_of(student, batch())[1], states_of(large, batch())[1], (0, 2, 4), mask)
    terms = all_terms[:count]
    loss, parts = objective(batch())
    weights = alpha ** np.arange(len(terms))
    assert loss.item() == pytest.approx((weights * terms).sum() / weights.sum(), rel=1e-5)
    assert [part.item() for part in parts.values()] == pytest.approx(terms, rel=1e-5)


def test_hidden_states_of_a_packed_student_are_the_transformed_ones() -> None:
    student, large = packed(), qa(4, seed=1)
    states, own = list[torch.Tensor](), transforms(student)
    handles = [module.register_forward_pre_hook(lambda m, args: states.append(args[0])) for module in own]
    loss, _ = HiddenObjective(student, Teacher(large, CPU))(batch())
    for handle in handles:
        handle.remove()
    # Whatever the model itself transforms is left out: the last three are those of the loss.
    ours = [linear(x).detach().numpy() for linear, x in zip(own, states[-3:], strict=True)]
    expected = mean_square(ours, states_of(large, batch())[1], (0, 2, 4), batch()["attention_mask"])
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-4)


# embeddings


class Chosen:
    """Negatives that are given, and what is told to their chooser."""

    def __init__(self, chosen: list[int], sampled: Sequence[int] = ()) -> None:
        self.chosen, self.sampled = chosen, list(sampled)
        self.added: list[tuple[int, list[int], torch.Tensor]] = []
        self.asked: list[tuple[int, list[int]]] = []

    def sample(self, step: int) -> list[int]:
        return self.sampled

    def add(self, step: int, ids: list[int], vectors: torch.Tensor) -> None:
        self.added.append((step, ids, vectors))

    def pick(self, step: int, questions: torch.Tensor, positives: list[int]) -> list[int]:
        assert not questions.requires_grad
        self.asked.append((step, positives))
        return self.chosen


def embedding(layers: int = 1, seed: int = 0, dropout: float = 0.0) -> Any:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.3,
    )
    return embedding_class(BertModel)(config).eval()


CONTEXTS = texts([6, 9, 4, 8, 5], seed=5)
OWNERS = [3, 0, 3]


def questions() -> dict[str, torch.Tensor]:
    return texts([4, 6, 3], seed=6, owner=OWNERS).batch(range(3))


def objective_of(
    student: Any, teacher: Any = None, negatives: Any = None, contexts: Encoded = CONTEXTS, **options: Any
) -> EmbeddingObjective:
    settings = {"triplets": 1, "embedding_loss": "none", "teacher_weight": 0.5, "share": (0, 1), **options}
    return EmbeddingObjective(
        student,
        None if teacher is None else Teacher(teacher, CPU),
        contexts=contexts,
        negatives=negatives or Chosen([1, 2, 4]),
        gather=lambda tensor: tensor,
        batch_size=2,
        **settings,
    )


def vectors(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(**{name: value for name, value in inputs.items() if name != "owner"}).embedding


def lengths(x: Array) -> Array:
    return np.sqrt(np.square(x.astype(np.float64)).sum(-1))


def triplet_terms(model: Any) -> list[float]:
    with torch.no_grad():
        rows = (questions(), CONTEXTS.batch(OWNERS), CONTEXTS.batch([1, 2, 4]))
        q, near, far = (vectors(model, row).numpy() for row in rows)
    others = (lengths(q - far), lengths(near - far))
    return [float(np.log1p(np.exp(lengths(q - near) - other)).mean()) for other in others]


@pytest.mark.parametrize("triplets", [1, 2])
def test_triplet_terms(triplets: int) -> None:
    student, negatives = embedding(), Chosen([1, 2, 4])
    objective = objective_of(student, negatives=negatives, triplets=triplets)
    objective.before_step()
    loss, parts = objective(questions())
    assert loss.item() == pytest.approx(np.mean(triplet_terms(student)[:triplets]), rel=1e-5)
    assert [owners for _, owners in negatives.asked] == [OWNERS]
    assert parts["near"] > 0 and parts["far"] > 0 and parts["triplet"].item() == pytest.approx(loss.item())


@pytest.mark.parametrize("kind", ["none", "L1", "L2"])
@pytest.mark.parametrize("triplets", [0, 2])
def test_embeddings_with_a_teacher_are_the_mean_of_a_list(kind: str, triplets: int) -> None:
    student, large = embedding(), embedding(2, seed=1, dropout=0.5)
    terms = triplet_terms(student)[:triplets]
    for inputs in (questions(), CONTEXTS.batch(OWNERS)):
        (ours, our_states), (theirs, their_states) = states_for(student, inputs), states_for(large, inputs)
        terms += [0.5 * term for term in mean_square(our_states, their_states, (0, 2), inputs["attention_mask"])]
        if kind != "none":
            difference = (ours - theirs).numpy()
            terms.append(0.5 * float((np.square(difference) if kind == "L2" else np.abs(difference)).mean()))
    objective = objective_of(student, large, triplets=triplets, embedding_loss=kind).train()
    loss, _ = objective(questions())
    assert len(terms) == triplets + 4 + 2 * (kind != "none")
    assert loss.item() == pytest.approx(np.mean(terms), rel=1e-5)
    loss.backward()
    assert all(p.grad is None for p in large.parameters()) and not large.training


def states_for(model: Any, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, list[Array]]:
    with torch.no_grad():
        vector = vectors(model, inputs)
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    return vector, states_of(model.base_model, inputs)[1]


def test_equal_distances_are_log_2_and_have_a_gradient() -> None:
    columns = {name: 3 * rows.tolist() for name, rows in texts([4]).batch([0]).items()}
    same = Encoded(columns, dict.fromkeys(columns, 0))
    objective = objective_of(embedding(), negatives=Chosen([1, 1]), contexts=same, triplets=2)
    loss, _ = objective(same.batch([0, 0]) | {"owner": torch.tensor([0, 2])})
    assert loss.item() == pytest.approx(0.693147, abs=1e-6)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters() if p.grad is not None)


def test_the_gradient_is_that_of_all_three_texts() -> None:
    student, reference = embedding(), embedding()
    loss, _ = objective_of(student, triplets=2)(questions())
    loss.backward()
    rows = (questions(), CONTEXTS.batch(OWNERS), CONTEXTS.batch([1, 2, 4]))
    q, near, far = (vectors(reference, row) for row in rows)
    terms = [torch.log(1 + torch.exp((q - near).norm(dim=1) - x.norm(dim=1))).mean() for x in (q - far, near - far)]
    (sum(terms) / 2).backward()
    for one, other in zip(student.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_candidates_are_embedded_without_dropout_and_gradient(training: bool) -> None:
    student = embedding(dropout=0.5).train(training)
    negatives = Chosen([1, 2, 4], sampled=[4, 0, 2])
    objective_of(student, embedding(seed=1), negatives).before_step()
    ((_, ids, found),) = negatives.added
    assert sorted(ids) == [0, 2, 4] and not found.requires_grad and student.training is training
    with torch.no_grad():
        expected = vectors(student.eval(), CONTEXTS.batch(ids))
    assert torch.allclose(found, expected, atol=1e-5)


def test_processes_share_the_candidates() -> None:
    shares = []
    for rank in range(2):
        negatives = Chosen([1, 2, 4], sampled=[4, 0, 2, 3])
        objective_of(embedding(), None, negatives, share=(rank, 2)).before_step()
        shares.append(negatives.added[0][1])
    assert [len(share) for share in shares] == [2, 2] and sorted(shares[0] + shares[1]) == [0, 2, 3, 4]


def test_quantizers_are_trained_on_what_the_teacher_says() -> None:
    negatives = Chosen([1, 2, 4], sampled=[0])
    objective = objective_of(embedding(), embedding(seed=1), negatives, triplets=2)
    objective.without_triplets(True)
    objective.before_step()
    _, parts = objective(questions())
    assert set(parts) == {"question_hidden", "context_hidden"} and not negatives.added and not negatives.asked
    objective.without_triplets(False)
    objective.before_step()
    _, parts = objective(questions())
    assert "triplet" in parts and objective.triplets == 2 and len(negatives.added) == 1
    # There is nothing else to learn from.
    alone = objective_of(embedding())
    alone.without_triplets(True)
    assert alone.triplets == 1 and "triplet" in alone(questions())[1]


@pytest.mark.parametrize("steps", [0, 3])
def test_the_history_goes_through_a_state_on_disk(steps: int) -> None:
    def make() -> EmbeddingObjective:
        return objective_of(embedding(), negatives=HardNegatives(5, num=2, history=2, alpha=1.0, seed=0))

    objective, other = make(), make()
    for _ in range(steps):
        objective.before_step()
    file = io.BytesIO()
    torch.save(objective.own_state(), file)
    file.seek(0)
    other.load_own_state(torch.load(file, weights_only=True))
    for _ in range(3):
        losses = []
        for one in (objective, other):
            one.before_step()
            losses.append(one(questions())[0].item())
        assert losses[0] == losses[1]


def test_a_step_s_candidates_are_what_its_negatives_are_chosen_from() -> None:
    negatives = Chosen([1, 2, 4], sampled=[0, 1])
    objective = objective_of(embedding(), negatives=negatives)
    for _ in range(3):
        objective.before_step()
        objective(questions())
    steps = [step for step, *_ in negatives.added]
    # The history knows them by their step, which never goes back.
    assert steps == [step for step, _ in negatives.asked] and steps == [steps[0], steps[0] + 1, steps[0] + 2]
