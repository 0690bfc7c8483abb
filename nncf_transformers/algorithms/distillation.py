"""Distillation: the model in training, the student, learns from the logits of another model, the teacher.

The teacher stays outside the student: it is no submodule of it, so no optimizer, checkpoint or copy takes it along.
"""

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from nncf_transformers.algorithms.base import Algorithm, Batch, Clock
from nncf_transformers.algorithms.teacher import (
    CHOOSE,
    Task,
    check_hidden,
    encoder_layers,
    fingerprint_model,
    is_regression,
    load_teacher,
    position_limit,
    task_of,
    warn_of_new_head,
)
from nncf_transformers.algorithms.teacher_cache import LogitsCache
from nncf_transformers.config.model import DistillationConfig
from nncf_transformers.errors import UsageError
from nncf_transformers.inputs import call_model, input_names, model_inputs

logger = logging.getLogger(__name__)

# As a teacher: a copy of the model as it was before compression.
SELF = "self"


def kl_loss(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), the mean over the rows.

    Hinton et al. 2015 (arXiv:1503.02531), chapter 2; inventory 1.6. The sum over the classes, or over the positions of
    a question-answering logit, includes padding. One logit alone, a regression, has no distribution: there it is the
    mean squared error.

    Args:
        student: logits, (batch, classes), (batch, sequence) or (batch, sequence, classes).
        teacher: logits of the same shape.
        temperature: T.
        mask: for three dimensions, the tokens to take the mean over: bool, (batch, sequence); None for all.
    """
    student, teacher = student.float(), teacher.float()
    if student.dim() == 3:
        student, teacher = (x.flatten(0, 1) if mask is None else x[mask] for x in (student, teacher))
    if len(student) == 0:
        return student.sum()
    if student.shape[-1] == 1:
        return functional.mse_loss(student, teacher)
    ours = functional.log_softmax(student / temperature, dim=-1)
    theirs = functional.log_softmax(teacher / temperature, dim=-1)
    return functional.kl_div(ours, theirs, log_target=True, reduction="batchmean") * temperature**2


def mse_loss(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Mean squared error of all elements, as NNCF 2 has it for ``mse`` (inventory 2.3).

    Args:
        student: of any shape.
        teacher: of the same shape.
        mask: which of (batch, sequence) count, the first two dimensions: bool; None for all.
    """
    if mask is not None:
        student, teacher = student[mask], teacher[mask]
    return functional.mse_loss(student.float(), teacher.float())


def softmax_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """-mean(log_softmax(student / T) * softmax(teacher / T)) * C * T^2, as NNCF 2 has it (inventory 2.3).

    Args:
        student: logits, (batch, C).
        teacher: logits, (batch, C).
        temperature: T.
    """
    ours = functional.log_softmax(student.float() / temperature, dim=-1)
    theirs = functional.softmax(teacher.float() / temperature, dim=-1)
    return -(ours * theirs).mean() * student.shape[-1] * temperature**2


def aligned(student: int, teacher: int) -> list[int]:
    """For each of the student's hidden states, the teacher's one it is compared with (inventory 3.1).

    Args:
        student: number of hidden states: the embedding output and one for each layer.
        teacher: the same of the teacher.
    """
    return [i * (teacher - 1) // (student - 1) for i in range(student)]


def hidden_losses(
    student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor], mask: torch.Tensor | None = None
) -> list[torch.Tensor]:
    """The mean squared error of each of the student's hidden states, (batch, sequence, hidden)."""
    pairs = zip(student, aligned(len(student), len(teacher)), strict=True)
    return [mse_loss(ours, teacher[j], mask) for ours, j in pairs]


def hidden_loss(student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean over the student's hidden states of the mean squared error."""
    return torch.stack(hidden_losses(student, teacher)).mean()


class HiddenStates:
    """Records the hidden states of a model's last forward: the input of each encoder layer, and the last one's output.

    The hooks for it belong to the modules, so they are copied with them; a copy of the recorder records nothing.
    """

    def __init__(self, training_only: bool = False) -> None:
        self._training_only = training_only
        self._watched: set[nn.Module] = set()
        self._handles: list[Any] = []
        self._states: list[torch.Tensor] = []
        self._last: list[torch.Tensor] = []

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle as an empty recorder."""
        return type(self), ()

    def watch(self, model: nn.Module) -> None:
        """Record ``model`` from now on."""
        self.remove()
        base: Any = model.base_model
        layers = encoder_layers(model) or []
        self._watched = {base, *layers}
        self._handles = [base.register_forward_pre_hook(self._start)]
        self._handles += [layer.register_forward_hook(self._record, with_kwargs=True) for layer in layers]

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._watched = [], set()
        self.take()

    def take(self) -> list[torch.Tensor]:
        """Return what the last forward left, and forget it."""
        states = self._states + self._last
        self._states, self._last = [], []
        return states

    def _start(self, module: nn.Module, args: Any) -> None:
        if module in self._watched:
            self.take()

    def _record(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        # Copies of the model, and the replicas of DataParallel, have the hooks but are other modules.
        if module not in self._watched:
            return
        if self._training_only and not (module.training and torch.is_grad_enabled()):
            return
        named = (kwargs[name] for name in ("hidden_states", "x") if name in kwargs)
        self._states.append(args[0] if args else next(named))
        # Beside it, a tuple may hold attention maps, which have four dimensions.
        values = (output,) if isinstance(output, torch.Tensor) else output
        self._last = [next(value for value in values if isinstance(value, torch.Tensor) and value.dim() == 3)]


class Distillation(Algorithm):
    """See :class:`DistillationConfig`.

    Attributes:
        last: the parts of the last loss, without their weights: ``task_loss``, ``distillation_loss`` and, if hidden
            states are compared, ``hidden_loss``.
        data_fingerprint: names the training data, see :func:`~.teacher_cache.fingerprint_rows`; to be set before
            :meth:`begin` by who wants a cache of another data set to be refused.
    """

    def __init__(self, config: DistillationConfig) -> None:
        self.config = config
        self.last: dict[str, torch.Tensor] = {}
        self.data_fingerprint: str | None = None
        self._teacher: nn.Module | None = None
        self._fingerprint = ""
        self._origin = ""
        self._recorded: dict[str, Any] = {}
        self._limit: int | None = None
        self._cache: LogitsCache | None = None
        # Whether the training is between the epochs in which the teacher has a say.
        self._acts = config.start_epoch <= 0
        # Which of the outputs are compared.
        self._compared: tuple[int, ...] = ()
        self._student_states = HiddenStates(training_only=True)
        self._teacher_states = HiddenStates()

    def prepare(self, model: nn.Module, sample: Batch, name: str) -> None:
        self._origin = name
        if self.config.teacher == SELF:
            self._check_settings(model)
            self._adopt(model, copy.deepcopy(model), "")
            warn_of_new_head(model, name)
        else:
            self._load(model)
        assert self._teacher is not None
        self._check_length(sample)
        if "token_type_ids" in input_names(self._teacher) and "token_type_ids" not in sample:
            logger.warning("teacher %s: gets no token_type_ids, for the student takes none", self.config.teacher)
        if self.config.cache is not None:
            self._open_cache(model, None).close()

    def begin(self, model: nn.Module, clock: Clock) -> None:
        self.on_step(model, clock)
        end = None if self.config.end_epoch is None else clock.step_of(self.config.end_epoch)
        if end is not None and clock.step >= end:
            return
        if self._teacher is None:
            self._load(model)
        assert self._teacher is not None
        if self.config.hidden_weight:
            self._student_states.watch(model)
            self._teacher_states.watch(self._teacher)
        if self.config.cache is not None:
            self._close_cache()
            self._cache = self._open_cache(model, self.data_fingerprint)

    def on_step(self, model: nn.Module, clock: Clock) -> None:
        self._acts = clock.within(self.config.start_epoch, self.config.end_epoch)

    def combine(
        self, model: nn.Module, inputs: Mapping[str, torch.Tensor], outputs: Sequence[torch.Tensor], loss: torch.Tensor
    ) -> torch.Tensor:
        task, config = task_of(model), self.config
        if not self._acts:
            self.last = {"task_loss": loss.detach()}
            self._student_states.take()
            return loss
        if getattr(model, "_is_replica", False):
            raise UsageError(
                "distillation needs a process for each GPU: start the script by torchrun --nproc-per-node, or show it "
                "one GPU only (CUDA_VISIBLE_DEVICES=0)"
            )
        # Some scripts say what they do not pass.
        inputs = {name: tensor for name, tensor in inputs.items() if tensor is not None}
        self._check_length(inputs)
        student = _logits(outputs, task)
        teacher = self._teacher_logits(inputs, student[0].shape[1], task)
        mask = _counted(inputs, task) if task.tokens else None
        pairs = [*zip(student, teacher, strict=True)]
        if self._compared:
            pairs = [pairs[i] for i in self._compared]
        loss = loss.float()
        if config.loss == "kl":
            term = torch.stack([kl_loss(s, t, config.temperature, mask) for s, t in pairs]).mean()
            combined = (1 - config.weight) * loss + config.weight * term
        else:
            if config.loss == "mse":
                parts = [mse_loss(s, t, mask) for s, t in pairs]
            else:
                parts = [softmax_loss(s, t, config.temperature) for s, t in pairs]
            term = torch.stack(parts).sum()
            combined = loss + config.scale * term
        self.last = {"task_loss": loss.detach(), "distillation_loss": term.detach()}
        if config.hidden_weight:
            hidden = hidden_loss(self._student_states.take(), self._teacher_states.take())
            self.last["hidden_loss"] = hidden.detach()
            combined = combined + config.hidden_weight * hidden
        return combined

    def state(self) -> dict[str, Any]:
        return {
            "teacher": self._name(),
            "fingerprint": self._fingerprint or self._recorded.get("fingerprint", ""),
            "origin": self._origin,
        }

    def load_state(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        self._recorded = dict(state)
        self._origin = state.get("origin", "")

    def relocate(self, places: Mapping[str, str]) -> None:
        config = self.config
        self.config = replace(
            config, teacher=places.get("teacher", config.teacher), cache=places.get("cache", config.cache)
        )

    def close(self) -> None:
        self._student_states.remove()
        self._teacher_states.remove()
        self._close_cache()
        self._teacher = None

    def _name(self) -> str | None:
        """The teacher's name: a resumed run may leave it to its checkpoint."""
        return self.config.teacher or self._recorded.get("teacher")

    def _load(self, model: nn.Module) -> None:
        """Load the teacher, and make sure that it is the one the checkpoint was trained with, if there is one."""
        self._check_settings(model)
        name = self._name()
        if name is None:
            raise UsageError(
                "the configuration distils but names no teacher: give --teacher_model_or_path "
                "(or --distill_teacher disable)"
            )
        folder = self._origin if name == SELF else name
        if not folder:
            raise UsageError(
                'the checkpoint does not say from where its teacher ("self") was loaded; '
                "give its uncompressed model by --teacher_model_or_path to a new run"
            )
        teacher = load_teacher(model, folder, self._origin)
        self._adopt(model, teacher, "" if name == SELF else folder)
        expected = self._recorded.get("fingerprint")
        if expected and expected != self._fingerprint:
            self._teacher = None
            raise UsageError(
                f"teacher {folder}: the checkpoint to resume was trained with another one "
                f"({self._recorded.get('teacher')}: {expected[:12]}, now {self._fingerprint[:12]}); "
                "resume with that one, or start a new run"
            )

    def _adopt(self, model: nn.Module, teacher: nn.Module, folder: str) -> None:
        """Take ``teacher`` as ours; ``folder`` is where its weights lie, if that is what names it."""
        self._fingerprint = fingerprint_model(teacher, folder)
        device = next(model.parameters()).device
        self._teacher = teacher.to(device, getattr(torch, self.config.teacher_dtype)).eval().requires_grad_(False)
        self._limit = position_limit(teacher)
        if self.config.hidden_weight:
            check_hidden(model, teacher, self._name())

    def _check_settings(self, model: nn.Module) -> None:
        """Refuse settings that contradict each other or the model's task."""
        config, task = self.config, task_of(model)
        place = config.place or "distillation"
        names = ("start_logits", "end_logits") if task.outputs == 2 else ("logits",)
        unknown = [name for name in config.outputs if name not in names]
        if unknown:
            raise UsageError(f"{place}: the model has no output {unknown[0]} to distil; it has {', '.join(names)}")
        self._compared = tuple(names.index(name) for name in config.outputs)
        if config.cache is not None and config.hidden_weight:
            raise UsageError(f'{place}: "cache" holds logits only, "hidden_weight" needs more; drop one of the two')
        if config.cache is not None and task.tokens:
            raise UsageError(f'{place}: "cache" holds no logits of {task.suffix}, they are too many; drop it')
        if config.loss == "softmax" and (task.tokens or is_regression(model, task)):
            kind = "a regression" if is_regression(model, task) else f"a model {task.suffix}"
            raise UsageError(f'{place}: the loss "softmax" says nothing about {kind}; use "kl" or "mse"')

    def _check_length(self, inputs: Mapping[str, torch.Tensor]) -> None:
        length = inputs["input_ids"].shape[1]
        if self._limit is not None and length > self._limit:
            raise UsageError(
                f"teacher {self._name()}: has {self._limit} positions, the data has {length} tokens; "
                f"lower --max_seq_length (or --block_size), or {CHOOSE}"
            )

    def _teacher_logits(self, inputs: Mapping[str, torch.Tensor], width: int, task: Task) -> Sequence[torch.Tensor]:
        teacher = self._teacher
        if teacher is None:
            raise RuntimeError("begin() was not called")
        device = inputs["input_ids"].device
        if next(teacher.parameters()).device != device:
            teacher.to(device)

        def run(rows: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
            # In its own data type, whatever the student's mixed precision.
            with torch.no_grad(), torch.autocast(device.type, enabled=False):
                return _logits(call_model(teacher, rows), task)

        own = model_inputs(teacher, inputs)
        return run(own) if self._cache is None else self._cache.logits(own, width, run)

    def _open_cache(self, model: nn.Module, data: str | None) -> LogitsCache:
        assert self.config.cache is not None
        dtype = self.config.teacher_dtype
        teacher = self._fingerprint if dtype == "float32" else f"{dtype}:{self._fingerprint}"
        return LogitsCache(self.config.cache, teacher, data, task_of(model).outputs)

    def _close_cache(self) -> None:
        if self._cache is not None:
            self._cache.close()
        self._cache = None


def _logits(outputs: Sequence[Any], task: Task) -> list[torch.Tensor]:
    """Pick the logits from a model's outputs, which may go on with hidden states and caches."""
    return [output for output in outputs if isinstance(output, torch.Tensor)][: task.outputs]


def _counted(inputs: Mapping[str, torch.Tensor], task: Task) -> torch.Tensor | None:
    """Mark the tokens of (batch, sequence) whose logits count: those with a label, else those that are no padding."""
    labels = inputs.get("labels")
    if labels is None:
        mask = inputs.get("attention_mask")
        return None if mask is None else mask.bool()
    counted = labels != -100
    if task.auto == "AutoModelForCausalLM":
        # A token's logits speak of the next one.
        return functional.pad(counted[:, 1:], (0, 1), value=False)
    return counted
