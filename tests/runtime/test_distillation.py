"""Distillation: the losses against numpy, the choice of a teacher and what is refused, hidden states, resuming."""

import copy
import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from tiny import VOCABULARY, tiny_batches, tiny_model
from torch import nn

from nncf_transformers.algorithms import distillation
from nncf_transformers.algorithms.base import Clock
from nncf_transformers.algorithms.distillation import (
    Distillation,
    HiddenStates,
    aligned,
    hidden_loss,
    kl_loss,
    mse_loss,
    softmax_loss,
)
from nncf_transformers.algorithms.teacher import fingerprint_model, position_limit
from nncf_transformers.compression import Compression
from nncf_transformers.config import DistillationConfig, parse_config
from nncf_transformers.errors import CompressionError, IntegrityError, UsageError
from nncf_transformers.families import GENERATING, SUPPORTED
from nncf_transformers.inputs import call_model, model_inputs, synthetic_inputs

ROOT = Path(__file__).resolve().parents[2]

TOKENS = {
    "classes": transformers.AutoModelForTokenClassification,
    "masked": transformers.AutoModelForMaskedLM,
    "next": transformers.AutoModelForCausalLM,
}


def sample(model: nn.Module) -> dict[str, torch.Tensor]:
    return model_inputs(model, tiny_batches(model, count=1, rows=1)[0])


def method(**settings: Any) -> Distillation:
    return Distillation(DistillationConfig(**settings))


def ready(model: nn.Module, teacher: str | Path = "self", name: str = "", **settings: Any) -> Distillation:
    """Distillation that is ready for training; ``model`` is then the student, in training mode."""
    algorithm = method(teacher=str(teacher), **settings)
    algorithm.prepare(model, sample(model), name)
    algorithm.begin(model, Clock())
    model.train()
    return algorithm


def step(algorithm: Distillation, model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The training loss of one batch."""
    torch.manual_seed(3)
    loss, *outputs = model(**batch, return_dict=False)
    return algorithm.combine(model, batch, outputs, loss)


def saved(model: nn.Module, folder: Path) -> str:
    model.save_pretrained(folder)
    return str(folder)


def token_model(kind: str, **sizes: Any) -> nn.Module:
    torch.manual_seed(0)
    own = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64} | sizes
    config = transformers.BertConfig(vocab_size=VOCABULARY, is_decoder=kind == "next", **own)
    return TOKENS[kind].from_config(config).eval()


@contextmanager
def refused(message: str, kind: type[CompressionError] = UsageError) -> Iterator[None]:
    with pytest.raises(kind, match=message) as caught:
        yield
    assert "\n" not in str(caught.value)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def kl_of(student: Any, teacher: Any, temperature: float) -> float:
    """The definition, in double precision: T^2 * mean over the rows of sum(p * log(p / q))."""
    p, q = (softmax(np.asarray(x, np.float64) / temperature) for x in (teacher, student))
    return float(temperature**2 * (p * np.log(p / q)).sum(axis=-1).mean())


def random_logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# The losses.


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("shape", [(4, 24), (5, 3)])
def test_kl_is_the_definition(shape: tuple[int, int], temperature: float) -> None:
    student, teacher = random_logits(*shape), random_logits(*shape, seed=1)
    expected = kl_of(student, teacher, temperature)
    assert kl_loss(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-5)
    # It is no symmetric function: the teacher comes first in KL(teacher || student).
    assert kl_of(teacher, student, temperature) != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 7.0])
def test_identical_logits_cost_nothing(temperature: float) -> None:
    same = random_logits(4, 24)
    assert kl_loss(same, same.clone(), temperature).item() == 0
    assert mse_loss(same, same.clone()).item() == 0


def test_the_square_of_the_temperature_scales() -> None:
    student, teacher = random_logits(4, 24), random_logits(4, 24, seed=1)
    cold = kl_loss(student / 3, teacher / 3, 1.0).item()
    assert kl_loss(student, teacher, 3.0).item() == pytest.approx(9 * cold, rel=1e-5)


def test_a_mean_over_the_tokens_that_count() -> None:
    student, teacher = random_logits(2, 3, 5), random_logits(2, 3, 5, seed=1)
    mask = torch.tensor([[True, False, True], [False, False, True]])
    rows = [(0, 0), (0, 2), (1, 2)]
    expected = np.mean([kl_of(student[i, j], teacher[i, j], 2.0) for i, j in rows])
    assert kl_loss(student, teacher, 2.0, mask).item() == pytest.approx(expected, rel=1e-5)
    everything = kl_of(student.flatten(0, 1), teacher.flatten(0, 1), 2.0)
    assert kl_loss(student, teacher, 2.0).item() == pytest.approx(everything, rel=1e-5)
    nothing = kl_loss(student.requires_grad_(), teacher, 2.0, torch.zeros_like(mask))
    nothing.backward()
    assert nothing.item() == 0 and student.grad is not None


def test_one_logit_is_a_number_not_a_distribution() -> None:
    student, teacher = random_logits(6, 1), random_logits(6, 1, seed=1)
    expected = np.square(student.numpy() - teacher.numpy()).mean()
    assert kl_loss(student, teacher, 4.0).item() == pytest.approx(expected, rel=1e-5) != 0


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_losses_of_nncf_2(temperature: float) -> None:
    student, teacher = random_logits(4, 7), random_logits(4, 7, seed=1)
    s, t = student.double().numpy() / temperature, teacher.double().numpy() / temperature
    expected = -(np.log(softmax(s)) * softmax(t)).mean() * 7 * temperature**2
    assert softmax_loss(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-5)
    squares = np.square(student.numpy() - teacher.numpy()).mean()
    assert mse_loss(student, teacher).item() == pytest.approx(squares, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_only_where_the_logits_come_from(dtype: torch.dtype) -> None:
    student, teacher = (100 * random_logits(4, 24, seed=seed).to(dtype) for seed in (0, 1))
    for function, arguments in ((kl_loss, (1.0,)), (mse_loss, ()), (softmax_loss, (2.0,))):
        result = function(student, teacher, *arguments)
        assert result.dtype is torch.float32
        assert torch.equal(result, function(student.float(), teacher.float(), *arguments))
        assert result.isfinite()


def test_hidden_states_are_paired_over_the_whole_depth() -> None:
    assert aligned(13, 25) == list(range(0, 25, 2))
    assert aligned(7, 13) == list(range(0, 13, 2))
    assert aligned(13, 13) == list(range(13))
    assert aligned(5, 4) == [0, 0, 1, 2, 3]
    assert aligned(2, 25) == [0, 24]


def test_hidden_loss_is_the_mean_of_the_pairs() -> None:
    student = [random_logits(2, 3, 4, seed=i) for i in range(3)]
    teacher = [random_logits(2, 3, 4, seed=9 + i) for i in range(5)]
    expected = np.mean([np.square(student[i].numpy() - teacher[2 * i].numpy()).mean() for i in range(3)])
    assert hidden_loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)


# The loss of a training step.


@pytest.mark.parametrize("head", ["qa", "classes"])
def test_the_weights_of_task_and_teacher(tmp_path: Path, head: str) -> None:
    labels = {"num_labels": 3} if head == "classes" else {}
    model, other = tiny_model(head=head, **labels), tiny_model(head=head, seed=1, **labels)
    algorithm = ready(model, saved(other, tmp_path), weight=0.9, temperature=2.0)
    model.eval()
    batch = tiny_batches(model, count=1)[0]
    loss, *outputs = model(**batch, return_dict=False)
    with torch.no_grad():
        theirs = call_model(other, model_inputs(other, batch))
    assert len(outputs) == (2 if head == "qa" else 1)
    kl = np.mean([kl_of(s.detach(), t, 2.0) for s, t in zip(outputs, theirs, strict=True)])
    combined = algorithm.combine(model, batch, outputs, loss)
    assert combined.item() == pytest.approx(0.1 * loss.item() + 0.9 * kl, rel=1e-4)
    assert algorithm.last["task_loss"].item() == pytest.approx(loss.item())
    assert algorithm.last["distillation_loss"].item() == pytest.approx(kl, rel=1e-4)
    assert not any(part.requires_grad for part in algorithm.last.values())
    assert algorithm.statistics(model) == {}


def test_a_student_that_equals_its_teacher_has_the_task_loss_only() -> None:
    # The teacher has no dropout, whatever the mode of the model it was copied from.
    model = tiny_model().train()
    algorithm = ready(model, weight=0.5)
    model.eval()
    batch = tiny_batches(model, count=1)[0]
    loss, *outputs = model(**batch, return_dict=False)
    assert algorithm.combine(model, batch, outputs, loss).item() == pytest.approx(0.5 * loss.item())
    assert algorithm.last["distillation_loss"].item() == 0


@pytest.mark.parametrize("loss", ["mse", "softmax"])
def test_scale_of_the_losses_of_nncf_2(tmp_path: Path, loss: str) -> None:
    model, other = tiny_model(), tiny_model(seed=1)
    algorithm = ready(model, saved(other, tmp_path), loss=loss, scale=3.0, temperature=2.0)
    model.eval()
    batch = tiny_batches(model, count=1)[0]
    task, *outputs = model(**batch, return_dict=False)
    pairs = [*zip(outputs, call_model(other, model_inputs(other, batch)), strict=True)]
    terms = [mse_loss(s, t) if loss == "mse" else softmax_loss(s, t, 2.0) for s, t in pairs]
    expected = task.item() + 3.0 * (terms[0] + terms[1]).item()
    assert algorithm.combine(model, batch, outputs, task).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", TOKENS)
def test_only_tokens_with_a_label_count(tmp_path: Path, kind: str) -> None:
    model, other = token_model(kind), token_model(kind)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    algorithm = ready(model, saved(other, tmp_path), weight=1.0)
    model.eval()
    batch = {"input_ids": torch.randint(5, VOCABULARY, (2, 6)), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
    batch["attention_mask"][1, 3:] = 0
    labels = torch.full((2, 6), -100)
    labels[0, 2] = labels[0, 4] = labels[1, 0] = 1
    student, teacher = (call_model(m, model_inputs(m, batch))[0].detach() for m in (model, other))
    # What predicts the next token has its prediction one position before the label; the first label has none.
    places = [(0, 1), (0, 3)] if kind == "next" else [(0, 2), (0, 4), (1, 0)]
    expected = np.mean([kl_of(student[i, j], teacher[i, j], 2.0) for i, j in places])
    algorithm.combine(model, {**batch, "labels": labels}, [student], torch.zeros(()))
    assert algorithm.last["distillation_loss"].item() == pytest.approx(expected, rel=1e-4)
    real = [(i, j) for i, j in np.ndindex(2, 6) if batch["attention_mask"][i, j]]
    expected = np.mean([kl_of(student[i, j], teacher[i, j], 2.0) for i, j in real])
    algorithm.combine(model, {**batch, "labels": None}, [student], torch.zeros(()))
    assert algorithm.last["distillation_loss"].item() == pytest.approx(expected, rel=1e-4)


def test_only_the_student_learns(tmp_path: Path) -> None:
    model = tiny_model()
    algorithm = ready(model, saved(tiny_model(seed=1), tmp_path), weight=1.0)
    teacher = algorithm._teacher
    assert teacher is not None and not teacher.training
    before = fingerprint_model(teacher)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(5):
        loss = step(algorithm, model, tiny_batches(model, count=1)[0])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert fingerprint_model(teacher) == before


def test_the_teacher_is_no_part_of_the_student(tmp_path: Path) -> None:
    model = tiny_model()
    names = (list(model.state_dict()), [name for name, _ in model.named_parameters()], len(list(model.modules())))
    algorithm = ready(model, saved(tiny_model(seed=1), tmp_path), hidden_weight=1.0)
    assert (list(model.state_dict()), [n for n, _ in model.named_parameters()], len(list(model.modules()))) == names
    batch = tiny_batches(model, count=1)[0]
    expected = step(algorithm, model, batch)
    # Copies have the hooks, but what runs through them is not recorded, here or there.
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        model(**batch)
        other(**batch)
        (hook,) = other.bert.encoder.layer[0]._forward_hooks.values()
        assert hook.__self__ is not algorithm._student_states and hook.__self__.take() == []
        assert len(algorithm._student_states.take()) == 3
    # The replicas of DataParallel share the hooks.
    layer = model.bert.encoder.layer[0]._replicate_for_data_parallel()
    algorithm._student_states._record(layer, (torch.zeros(1, 2, 3),), {}, torch.zeros(1, 2, 3))
    assert algorithm._student_states.take() == []
    assert step(algorithm, model, batch).item() == expected.item()


def test_the_teacher_gets_the_inputs_it_takes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    student, teacher = tiny_model("bert"), tiny_model("distilbert", seed=1)
    algorithm = ready(student, saved(teacher, tmp_path / "distilbert"))
    step(algorithm, student, tiny_batches(student, count=1)[0])
    assert "token_type_ids" not in caplog.text
    student, teacher = tiny_model("distilbert"), tiny_model("bert", seed=1)
    algorithm = ready(student, saved(teacher, tmp_path / "bert"))
    batch = tiny_batches(student, count=1)[0]
    # Scripts of 2019 say what they do not pass.
    algorithm.combine(student, {**batch, "token_type_ids": None}, call_model(student, batch)[1:], torch.zeros(()))
    assert "gets no token_type_ids" in caplog.text


def test_mixed_precision_is_the_students_own_affair(tmp_path: Path) -> None:
    model = tiny_model()
    algorithm = ready(model, saved(tiny_model(seed=1), tmp_path))
    batch = tiny_batches(model, count=1)[0]
    outputs = call_model(model, model_inputs(model, batch))
    plain = algorithm.combine(model, batch, outputs, torch.zeros(()))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = algorithm.combine(model, batch, outputs, torch.zeros((), dtype=torch.bfloat16))
    assert torch.equal(plain, mixed)


def test_teacher_in_bfloat16(tmp_path: Path) -> None:
    model = tiny_model()
    algorithm = ready(model, saved(tiny_model(seed=1), tmp_path), teacher_dtype="bfloat16")
    assert algorithm._teacher is not None
    assert {p.dtype for p in algorithm._teacher.parameters()} == {torch.bfloat16}
    loss = step(algorithm, model, tiny_batches(model, count=1)[0])
    exact = step(ready(model, tmp_path), model, tiny_batches(model, count=1)[0])
    assert loss.dtype is torch.float32 and loss.item() != exact.item() == pytest.approx(loss.item(), rel=0.1)


def test_replicas_of_data_parallel_are_refused() -> None:
    model = tiny_model()
    algorithm = ready(model)
    replica = model._replicate_for_data_parallel()  # type: ignore[operator]
    batch = tiny_batches(model, count=1)[0]
    with refused("torchrun --nproc-per-node"):
        algorithm.combine(replica, batch, call_model(model, batch)[1:], torch.zeros(()))


# Hidden states.


@pytest.mark.parametrize("family", [family for family in SUPPORTED if family not in GENERATING])
def test_hidden_states_are_those_of_the_library(family: str) -> None:
    model = tiny_model(family)
    recorder = HiddenStates()
    recorder.watch(model)
    for _ in range(2):
        outputs = model(**tiny_batches(model, count=1)[0], output_hidden_states=True, return_dict=True)
    states = recorder.take()
    assert len(states) == len(outputs.hidden_states) == 3
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(states, outputs.hidden_states, strict=True))
    recorder.remove()
    model(**tiny_batches(model, count=1)[0])
    assert recorder.take() == []


def test_hidden_states_of_a_deeper_teacher(tmp_path: Path) -> None:
    model, other = tiny_model(), tiny_model(seed=1, num_hidden_layers=4)
    algorithm = ready(model, saved(other, tmp_path), weight=0.25, hidden_weight=0.5)
    batch = tiny_batches(model, count=1)[0]
    loss = step(algorithm, model, batch)
    torch.manual_seed(3)
    ours = model(**batch, output_hidden_states=True).hidden_states
    theirs = other(**batch, output_hidden_states=True).hidden_states
    expected = torch.stack([(ours[i] - theirs[2 * i]).square().mean() for i in range(3)]).mean().item()
    assert algorithm.last["hidden_loss"].item() == pytest.approx(expected, rel=1e-5)
    parts = {name: value.item() for name, value in algorithm.last.items()}
    combined = 0.75 * parts["task_loss"] + 0.25 * parts["distillation_loss"] + 0.5 * expected
    assert loss.item() == pytest.approx(combined, rel=1e-5)
    loss.backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "encoder" in n)


def test_hidden_states_are_kept_in_training_only() -> None:
    model = tiny_model()
    algorithm = ready(model, hidden_weight=1.0)
    batch = tiny_batches(model, count=1)[0]
    model.eval()(**batch)
    assert algorithm._student_states.take() == []
    model.train()
    with torch.no_grad():
        model(**batch)
    assert algorithm._student_states.take() == []
    step(algorithm, model, batch)
    assert algorithm._student_states.take() == []
    algorithm.close()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert algorithm._teacher is None


def test_hidden_states_of_a_quantized_student() -> None:
    model = tiny_model()
    algorithm = method(teacher="self", hidden_weight=1.0)
    algorithm.prepare(model, sample(model), "")
    batches = tiny_batches(model)
    quantization = {"algorithms": [{"algorithm": "quantization", "calibration_samples": 8}]}
    Compression(parse_config(quantization, "test")).start(model, batches)
    with torch.no_grad():
        expected = torch.stack(call_model(model, model_inputs(model, batches[0])))
    algorithm.begin(model, Clock())
    with torch.no_grad():
        assert torch.equal(torch.stack(call_model(model, model_inputs(model, batches[0]))), expected)
    loss = step(algorithm, model.train(), batches[0])
    # Quantized, it differs from what it was; the teacher is not quantized.
    assert 0 < algorithm.last["hidden_loss"] < 1
    loss.backward()


# Finding a teacher, and refusing it.


def test_no_teacher_is_named() -> None:
    with refused(r"names no teacher: give --teacher_model_or_path \(or --distill_teacher disable\)"):
        method(teacher=None).prepare(tiny_model(), sample(tiny_model()), "")


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "a/b/c"])
def test_no_such_folder(name: str) -> None:
    with refused(f"teacher {name}: no such folder; name another one by --teacher_model_or_path"):
        ready(tiny_model(), name)


def test_no_such_model_on_the_hub() -> None:
    with refused("teacher nobody/nothing: neither a folder nor a model on the hub"):
        ready(tiny_model(), "nobody/nothing")


def test_folders_that_hold_no_model(tmp_path: Path) -> None:
    with refused("has no config.json"):
        ready(tiny_model(), tmp_path)
    (tmp_path / "config.json").write_text("{")
    with refused("config.json: cannot be read", IntegrityError):
        ready(tiny_model(), tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with refused("not the configuration of a model", IntegrityError):
        ready(tiny_model(), tmp_path)
    tiny_model().config.save_pretrained(tmp_path)
    with refused("cannot be loaded"):
        ready(tiny_model(), tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"garbage")
    with refused("cannot be loaded"):
        ready(tiny_model(), tmp_path)


def test_truncated_weights(tmp_path: Path) -> None:
    saved(tiny_model(), tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with refused("damaged or truncated", IntegrityError):
        ready(tiny_model(), tmp_path)


def test_weights_of_another_shape(tmp_path: Path) -> None:
    saved(tiny_model(), tmp_path)
    tiny_model(intermediate_size=48).config.save_pretrained(tmp_path)
    with refused("cannot be loaded"):
        ready(tiny_model(), tmp_path)


@pytest.mark.parametrize(("head", "other", "name"), [("classes", "qa", "Question"), ("qa", "classes", "Sequence")])
def test_teacher_of_another_task(tmp_path: Path, head: str, other: str, name: str) -> None:
    with refused(f"is a BertFor{name}.*, the student a BertFor.*; train it on the student's task first"):
        ready(tiny_model(head=head), saved(tiny_model(head=other), tmp_path))


def test_teacher_without_a_head(tmp_path: Path) -> None:
    saved(tiny_model().bert, tmp_path)
    with refused("is a BertModel, the student a BertForQuestionAnswering"):
        ready(tiny_model(), tmp_path)
    # Where the configuration does not say what the model is, its weights do.
    config = json.loads((tmp_path / "config.json").read_text())
    del config["architectures"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with refused("has no weights for qa_outputs.bias of BertForQuestionAnswering"):
        ready(tiny_model(), tmp_path)


def test_teacher_whose_configuration_names_no_class(tmp_path: Path) -> None:
    other = tiny_model(seed=1)
    saved(other, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["architectures"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    algorithm = ready(tiny_model(), tmp_path)
    assert algorithm._teacher is not None and fingerprint_model(algorithm._teacher) == fingerprint_model(other)


def test_student_that_cannot_learn_so() -> None:
    with refused("BertModel is none of the models that can learn so"):
        ready(tiny_model().bert, "self")


def test_teacher_of_another_vocabulary(tmp_path: Path) -> None:
    with refused(f"has {VOCABULARY + 1} tokens in its vocabulary, the student {VOCABULARY}"):
        ready(tiny_model(), saved(tiny_model(vocab_size=VOCABULARY + 1), tmp_path))


def write_tokenizer(folder: Path, words: list[str]) -> None:
    model = tokenizers.models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)


def test_teacher_of_other_words(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdef"]
    for name, order in (("student", words), ("same", words), ("other", [*words[:5], *"abdcef"])):
        write_tokenizer(tmp_path / name, order)
        saved(tiny_model(), tmp_path / name)
    student = str(tmp_path / "student")
    ready(tiny_model(), tmp_path / "same", student)
    with refused("its token 7 is 'd', the student's 'c'; both must use the same tokenizer"):
        ready(tiny_model(), tmp_path / "other", student)
    # Files that differ in what is no vocabulary do not matter.
    path = tmp_path / "same" / "tokenizer.json"
    path.write_text(path.read_text() + "\n")
    ready(tiny_model(), tmp_path / "same", student)
    # Nor what cannot be compared.
    ready(tiny_model(), tmp_path / "other", "someone/student")
    (tmp_path / "other" / "tokenizer.json").write_text("{")
    ready(tiny_model(), tmp_path / "other", student)
    (tmp_path / "other" / "tokenizer.json").unlink()
    ready(tiny_model(), tmp_path / "other", student)


def labelled(*names: str, seed: int = 0) -> nn.Module:
    model = tiny_model(head="classes", num_labels=len(names), seed=seed)
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: i for i, name in enumerate(names)}
    return model


def test_teacher_of_other_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    two, three = tiny_model(head="classes", num_labels=2), tiny_model(head="classes", num_labels=3)
    with refused("has 3 labels, the student 2"):
        ready(two, saved(three, tmp_path / "three"))
    saved(labelled("no", "yes"), tmp_path / "named")
    with refused("has its labels in the order no, yes, the student yes, no"):
        ready(labelled("Yes", "No"), tmp_path / "named")
    ready(two, tmp_path / "named")
    ready(labelled("No", "Yes"), tmp_path / "named")
    assert "calls its labels" not in caplog.text
    ready(labelled("negative", "positive"), tmp_path / "named")
    assert "calls its labels no, yes, the student negative, positive" in caplog.text


def test_teacher_of_other_hidden_states(tmp_path: Path) -> None:
    saved(tiny_model(hidden_size=16), tmp_path)
    ready(tiny_model(), tmp_path)
    with refused('has hidden states of size 16, the student of 32; set "hidden_weight" to 0'):
        ready(tiny_model(), tmp_path, hidden_weight=1.0)


@pytest.mark.parametrize(("family", "positions", "limit"), [("bert", 20, 20), ("roberta", 22, 20)])
def test_teacher_of_fewer_positions(tmp_path: Path, family: str, positions: int, limit: int) -> None:
    model, other = tiny_model(family), tiny_model(family, max_position_embeddings=positions)
    saved(other, tmp_path)
    with refused(f"has {limit} positions, the data has 24 tokens; lower --max_seq_length"):
        ready(model, tmp_path)
    algorithm = method(teacher=str(tmp_path))
    algorithm.prepare(model, synthetic_inputs(model, 1, limit), "")
    algorithm.begin(model, Clock())
    with refused(f"has {limit} positions, the data has {limit + 1} tokens"):
        step(algorithm, model, tiny_batches(model, count=1, length=limit + 1)[0])
    step(algorithm, model, tiny_batches(model, count=1, length=limit)[0])


def test_relative_positions_have_no_limit() -> None:
    assert position_limit(tiny_model("deberta-v2", position_biased_input=False)) is None


@pytest.mark.parametrize("kind", ["regression", "tokens"])
def test_a_loss_that_says_nothing_is_refused(kind: str) -> None:
    model = token_model("classes") if kind == "tokens" else tiny_model(head="classes", num_labels=1)
    with refused('the loss "softmax" says nothing about'):
        ready(model, loss="softmax")


def test_a_cache_that_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    with refused('^c.json: algorithms.0.: "cache" holds logits only, "hidden_weight" needs more'):
        ready(tiny_model(), cache=str(tmp_path), hidden_weight=1.0, place="c.json: algorithms[0]")
    with refused('"cache" holds no logits of ForTokenClassification'):
        ready(token_model("classes"), cache=str(tmp_path))


def test_a_compressed_teacher(tmp_path: Path) -> None:
    other = tiny_model(seed=1)
    batches = tiny_batches(other)
    quantization = {"algorithms": [{"algorithm": "quantization", "calibration_samples": 8}]}
    Compression(parse_config(quantization, "test")).start(other, batches)
    model = tiny_model()
    algorithm = ready(model, saved(other, tmp_path))
    assert algorithm._teacher is not None and Compression.of(algorithm._teacher) is not None
    inputs = model_inputs(model, batches[0])
    ours, theirs = (call_model(teacher, inputs) for teacher in (algorithm._teacher, other.eval()))
    assert all(map(torch.equal, ours, theirs))
    step(algorithm, model, batches[0]).backward()
    (tmp_path / "nncf_config.json").unlink()
    with refused("nncf_config.json is missing", IntegrityError):
        ready(tiny_model(), tmp_path)


def test_loading_leaves_the_training_its_random_numbers(tmp_path: Path) -> None:
    saved(tiny_model(seed=1), tmp_path)
    model = tiny_model()
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    ready(model, tmp_path, str(tmp_path))
    assert torch.equal(torch.rand(1), expected)


def test_an_untrained_head_teaches_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved(tiny_model(), tmp_path / "trained")
    ready(tiny_model(), "self", str(tmp_path / "trained"))
    assert "has not been trained" not in caplog.text
    saved(tiny_model().bert, tmp_path / "base")
    ready(tiny_model(), "self", str(tmp_path / "base"))
    assert "has no head for this task, so it has not been trained" in caplog.text


# Resuming.


def resumed(model: nn.Module, state: dict[str, Any], **settings: Any) -> Distillation:
    algorithm = method(**settings)
    algorithm.load_state(model, json.loads(json.dumps(state)))
    algorithm.begin(model, Clock())
    return algorithm


def test_a_resumed_run_has_the_same_teacher(tmp_path: Path) -> None:
    model = tiny_model()
    first = ready(model, saved(tiny_model(seed=1), tmp_path / "teacher"), "someone/student")
    state = first.state()
    assert state.keys() == {"teacher", "fingerprint", "origin"} and state["origin"] == "someone/student"
    batch = tiny_batches(model, count=1)[0]
    expected = step(first, model, batch).item()
    # The teacher may be named again, may have moved, or be known from the checkpoint only.
    shutil.copytree(tmp_path / "teacher", tmp_path / "moved")
    for name in (str(tmp_path / "teacher"), str(tmp_path / "moved"), None):
        second = resumed(model, state, teacher=name)
        assert step(second, model, batch).item() == expected
        assert second.state()["fingerprint"] == state["fingerprint"] and second.state()["origin"] == state["origin"]
    saved(tiny_model(seed=2), tmp_path / "other")
    with refused("the checkpoint to resume was trained with another one"):
        resumed(model, state, teacher=str(tmp_path / "other"))


def test_a_resumed_run_has_its_own_beginning_for_a_teacher(tmp_path: Path) -> None:
    origin = saved(tiny_model(), tmp_path / "origin")
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(origin)
    first = ready(model, "self", origin)
    teacher = first._teacher
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    assert teacher is not None and first.state() == {
        "teacher": "self",
        "fingerprint": fingerprint_model(teacher),
        "origin": origin,
    }
    batch = tiny_batches(model, count=1)[0]
    expected = step(first, model, batch).item()
    assert first.last["distillation_loss"].item() > 0
    second = resumed(model, first.state(), teacher="self")
    assert step(second, model, batch).item() == expected
    saved(tiny_model(seed=2), tmp_path / "origin")
    with refused("the checkpoint to resume was trained with another one"):
        resumed(model, first.state(), teacher="self")
    shutil.rmtree(tmp_path / "origin")
    with refused("no such folder"):
        resumed(model, first.state(), teacher="self")
    with refused("does not say from where its teacher"):
        resumed(model, {**first.state(), "origin": ""}, teacher="self")


def test_a_checkpoint_knows_its_teacher_without_loading_it() -> None:
    algorithm = method(teacher="somewhere")
    state = {"teacher": "somewhere", "fingerprint": "ab" * 32, "origin": "student"}
    algorithm.load_state(tiny_model(), state)
    assert algorithm.state() == state


def test_the_fingerprint_is_of_the_weights(tmp_path: Path) -> None:
    model = tiny_model()
    folder = saved(model, tmp_path)
    assert fingerprint_model(model, folder) == fingerprint_model(tiny_model(seed=1), folder)
    assert fingerprint_model(model) == fingerprint_model(tiny_model()) != fingerprint_model(tiny_model(seed=1))
    with torch.no_grad():
        model.qa_outputs.bias[0] += 1e-6
    assert fingerprint_model(model) != fingerprint_model(tiny_model())
    assert fingerprint_model(model, saved(model, tmp_path / "other")) != fingerprint_model(model, folder)


# The cache.


def test_a_step_with_cached_logits_is_a_step_with_fresh_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    teacher = saved(tiny_model(seed=1), tmp_path / "teacher")
    batches = tiny_batches(model)
    expected = [step(ready(model, teacher), model, batch).item() for batch in batches]
    algorithm = method(teacher=teacher, cache=str(tmp_path / "cache"))
    algorithm.data_fingerprint = "data"
    algorithm.prepare(model, sample(model), "")
    algorithm.begin(model, Clock())
    assert [step(algorithm, model, batch).item() for batch in batches] == expected
    algorithm.close()

    again = method(teacher=teacher, cache=str(tmp_path / "cache"))
    again.data_fingerprint = "data"
    again.prepare(model, sample(model), "")
    again.begin(model, Clock())
    monkeypatch.setattr(distillation, "call_model", None)
    assert [step(again, model, batch).item() for batch in batches] == expected


def test_cached_classes(tmp_path: Path) -> None:
    model = tiny_model(head="classes", num_labels=3)
    teacher = saved(tiny_model(head="classes", num_labels=3, seed=1), tmp_path / "teacher")
    batch = tiny_batches(model, count=1)[0]
    expected = step(ready(model, teacher), model, batch).item()
    algorithm = ready(model, teacher, cache=str(tmp_path / "cache"))
    assert [step(algorithm, model, batch).item() for _ in range(2)] == [expected] * 2


def test_a_cache_of_another_teacher_is_found_at_once(tmp_path: Path) -> None:
    model = tiny_model()
    first, second = (saved(tiny_model(seed=i), tmp_path / str(i)) for i in (1, 2))
    ready(model, first, cache=str(tmp_path / "cache"))
    for teacher, dtype in ((second, "float32"), (first, "bfloat16")):
        algorithm = method(teacher=teacher, cache=str(tmp_path / "cache"), teacher_dtype=dtype)
        with refused("holds the logits of another teacher"):
            algorithm.prepare(model, sample(model), "")


def test_begin_may_be_called_again(tmp_path: Path) -> None:
    model = tiny_model()
    batch = tiny_batches(model, count=1)[0]
    for settings in ({"cache": str(tmp_path)}, {"hidden_weight": 1.0}):
        algorithm = ready(model, **settings)
        expected = step(algorithm, model, batch).item()
        algorithm.begin(model, Clock(5, 5))
        assert step(algorithm, model, batch).item() == expected
        algorithm.close()


# The library of 2019.

SCRIPT_2019 = """
import sys, torch, transformers
from nncf_transformers.algorithms.base import Clock
from nncf_transformers.algorithms.distillation import Distillation
from nncf_transformers.algorithms.teacher import fingerprint_model, load_teacher
from nncf_transformers.config import DistillationConfig
from nncf_transformers.errors import UsageError
from nncf_transformers.inputs import call_model, synthetic_inputs

compressed, plain, other, out = sys.argv[1:]
sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
config = transformers.BertConfig(200, max_position_embeddings=128, **sizes)
model = transformers.BertForQuestionAnswering(config)
model.save_pretrained(out)
for folder in (compressed, plain, out):
    algorithm = Distillation(DistillationConfig(teacher=folder, hidden_weight=1.0))
    inputs = synthetic_inputs(model, 2, 16)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    algorithm.prepare(model, inputs, out)
    assert torch.equal(torch.rand(1), expected)
    algorithm.begin(model, Clock())
    model.train()
    loss = algorithm.combine(model, inputs, call_model(model, inputs), torch.zeros((), requires_grad=True))
    loss.backward()
    print(folder == out, algorithm.last["distillation_loss"].item(), algorithm.last["hidden_loss"].item())
    algorithm.close()
try:
    load_teacher(model, other)
except UsageError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.upstream
def test_teachers_in_the_library_of_2019(tmp_path: Path) -> None:
    python, tree = ROOT / ".venv-v2.2" / "bin" / "python", ROOT / "build" / "v2.2"
    if not python.is_file() or not (tree / "transformers").is_dir():
        pytest.skip("pin v2.2 is not installed and applied; make setup apply PIN=v2.2")
    model = tiny_model(seed=1)
    saved(model, tmp_path / "plain")
    saved(tiny_model("distilbert"), tmp_path / "other")
    quantization = {"algorithms": [{"algorithm": "quantization", "calibration_samples": 8}]}
    Compression(parse_config(quantization, "test")).start(model, tiny_batches(model))
    saved(model, tmp_path / "compressed")
    folders = [tmp_path / name for name in ("compressed", "plain", "other", "own")]
    folders[-1].mkdir()
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{tree}", "OMP_NUM_THREADS": "1"}
    command = [str(python), "-c", SCRIPT_2019, *map(str, folders)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    *figures, message = done.stdout.splitlines()[-4:]
    assert [line.split()[0] for line in figures] == ["False", "False", "True"]
    assert all(float(figure) > 0 for line in figures for figure in line.split()[1:])
    assert "is a distilbert model, the student a bert model; under pin v2.2 both must be of one family" in message
