"""Find the teacher of a distillation, and refuse one that the student cannot learn from."""

import filecmp
import hashlib
import json
import logging
import os
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from nncf_transformers.errors import CompressionError, IntegrityError, UsageError
from nncf_transformers.families import family_of

logger = logging.getLogger(__name__)

# How messages about a teacher end.
CHOOSE = "name another one by --teacher_model_or_path"

# If one of these is the same file in two folders, so is the vocabulary of their tokenizers.
_VOCABULARY_FILES = (
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "tokenizer.json",
)


@dataclass(frozen=True)
class Task:
    """What a model's head is for.

    Attributes:
        suffix: how the names of such model classes end.
        auto: name of the Auto class that loads them.
        outputs: number of logits tensors.
        tokens: whether the logits have three dimensions, (batch, sequence, classes).
    """

    suffix: str
    auto: str
    outputs: int = 1
    tokens: bool = False


TASKS = (
    Task("ForQuestionAnswering", "AutoModelForQuestionAnswering", outputs=2),
    Task("ForSequenceClassification", "AutoModelForSequenceClassification"),
    Task("ForTokenClassification", "AutoModelForTokenClassification", tokens=True),
    Task("ForMaskedLM", "AutoModelForMaskedLM", tokens=True),
    Task("ForCausalLM", "AutoModelForCausalLM", tokens=True),
    Task("LMHeadModel", "AutoModelForCausalLM", tokens=True),
)


def load_teacher(student: nn.Module, name: str, student_name: str = "") -> nn.Module:
    """Load a teacher that fits ``student``; it may be a compressed checkpoint.

    Args:
        student: a Transformers model.
        name: folder or hub name of the teacher.
        student_name: where the student was loaded from.

    Raises:
        UsageError: there is no such model, or the student cannot learn from it.
    """
    from nncf_transformers.loading import load_model

    task = task_of(student)
    config = _read_config(name)
    _check_head(name, config, student, task)
    # A model is made with random weights before it gets those of the file; the training's randomness must not change.
    with torch.random.fork_rng(devices=[]):
        try:
            if _library_of_2019():
                loader = _Loader(type(student))
                teacher = _load_of_2019(loader, name, config, student)
            else:
                loader = _Loader(getattr(transformers, task.auto))
                teacher = load_model(loader, name)
        except CompressionError:
            raise
        # From a wrong shape to a file cut short, every reader has exceptions of its own.
        except Exception as error:
            raise UsageError(f"teacher {name}: cannot be loaded ({_reason(error)}); {CHOOSE}") from error
    used = {key for key, _ in teacher.named_parameters()}
    if task.suffix != "ForSequenceClassification":
        # Only in the library of 2019 have other models a pooler, too; they make no use of it.
        used = {key for key in used if ".pooler." not in key}
    lacking = sorted(used & set(loader.missing))
    if lacking:
        raise UsageError(
            f"teacher {name}: has no weights for {lacking[0]} of {type(teacher).__name__}; "
            f"train it on the student's task first, or {CHOOSE}"
        )
    _check_vocabulary(student, teacher, name, student_name)
    if task.suffix in ("ForSequenceClassification", "ForTokenClassification"):
        _check_labels(student, teacher, name)
    return teacher


class _Loader:
    """Stands for a model class; its ``from_pretrained`` keeps the names of the weights that the file lacks."""

    def __init__(self, original: Any) -> None:
        self._original = original
        self.missing: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def from_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        model, info = self._original.from_pretrained(*args, output_loading_info=True, **kwargs)
        self.missing = list(info["missing_keys"])
        return model


def _library_of_2019() -> bool:
    """Whether there is no Trainer yet; Auto classes then guess a model's family from the name of its folder."""
    # hasattr would import the Trainer and all it needs.
    return "Trainer" not in dir(transformers)


def _load_of_2019(loader: _Loader, name: str, config: Mapping[str, Any], student: nn.Module) -> Any:
    from nncf_transformers.seams_v2 import compressible

    family = config.get("model_type") or family_of(student)
    if family != family_of(student):
        raise UsageError(
            f"teacher {name}: is a {family} model, the student a {family_of(student)} model; under pin v2.2 both must "
            f"be of one family: {CHOOSE}"
        )
    return compressible({family: (None, loader, None)})[family][1].from_pretrained(name)


def task_of(model: nn.Module) -> Task:
    """Say what ``model`` is for.

    Raises:
        UsageError: none of the tasks that distillation knows.
    """
    task = _task_of_class(type(model).__name__)
    if task is None:
        known = ", ".join(task.suffix for task in TASKS)
        raise UsageError(f"distillation: {type(model).__name__} is none of the models that can learn so ({known})")
    return task


def _task_of_class(name: str) -> Task | None:
    return next((task for task in TASKS if name.endswith(task.suffix)), None)


def _read_config(name: str) -> dict[str, Any]:
    """Read the configuration of a model before it is loaded."""
    folder = Path(name)
    if not folder.is_dir():
        if folder.is_absolute() or folder.exists() or name.startswith(".") or name.count("/") > 1:
            raise UsageError(f"teacher {name}: no such folder; {CHOOSE}")
        if _library_of_2019():
            return {}
        try:
            return transformers.AutoConfig.from_pretrained(name).to_dict()
        # The library has several for the same thing: there is no such model, or the hub cannot be reached.
        except Exception as error:
            raise UsageError(
                f"teacher {name}: neither a folder nor a model on the hub ({_reason(error)}); {CHOOSE}"
            ) from error
    path = folder / "config.json"
    if not path.is_file():
        raise UsageError(f"teacher {name}: has no config.json, so it is no model; {CHOOSE}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path}: cannot be read ({error}); copy it again from the original") from error
    if not isinstance(config, dict):
        raise IntegrityError(f"{path}: not the configuration of a model; copy it again from the original")
    return config


def _reason(error: Exception) -> str:
    """What a library says, on one line of moderate length."""
    return textwrap.shorten(str(error), 200, placeholder=" ...") or type(error).__name__


def _check_head(name: str, config: Mapping[str, Any], student: nn.Module, task: Task) -> None:
    """Refuse a teacher of another task: loaded for this one, it would get a new, random head."""
    architectures = config.get("architectures") or []
    theirs = _task_of_class(architectures[0]) if architectures else task
    if theirs is None or theirs.auto != task.auto:
        raise UsageError(
            f"teacher {name}: is a {architectures[0]}, the student a {type(student).__name__}; "
            f"train it on the student's task first, or {CHOOSE}"
        )


def warn_of_new_head(model: nn.Module, name: str) -> None:
    if name and os.path.isdir(name):
        try:
            _check_head(name, _read_config(name), model, task_of(model))
        except CompressionError:
            logger.warning('teacher "self": %s has no head for this task, so it has not been trained for it', name)


def _check_vocabulary(student: nn.Module, teacher: nn.Module, name: str, student_name: str) -> None:
    """Refuse a teacher that reads other tokens from the same numbers."""
    ours, theirs = (getattr(model.config, "vocab_size", None) for model in (student, teacher))
    if ours != theirs:
        raise UsageError(
            f"teacher {name}: has {theirs} tokens in its vocabulary, the student {ours}; "
            f"both must use the same tokenizer: {CHOOSE}"
        )
    folders = Path(student_name), Path(name)
    if not student_name or not all(folder.is_dir() for folder in folders) or _same_files(*folders):
        return
    first, second = map(_vocabulary, folders)
    for number in sorted(first.keys() & second.keys()):
        if first[number] != second[number]:
            raise UsageError(
                f"teacher {name}: its token {number} is {second[number]!r}, the student's {first[number]!r}; "
                f"both must use the same tokenizer: {CHOOSE}"
            )


def _same_files(first: Path, second: Path) -> bool:
    """Say whether the two tokenizers surely have the same vocabulary, without the time it takes to load them."""
    for name in _VOCABULARY_FILES:
        if (first / name).is_file() and (second / name).is_file():
            return filecmp.cmp(first / name, second / name, shallow=False)
    return False


def _vocabulary(folder: Path) -> dict[int, str]:
    """Read a tokenizer's tokens by number; none if there is no tokenizer that can be read."""
    if not any((folder / name).is_file() for name in _VOCABULARY_FILES):
        return {}
    try:
        if _library_of_2019():
            return dict(enumerate((folder / "vocab.txt").read_text(encoding="utf-8").split("\n")))
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
        return {number: token for token, number in tokenizer.get_vocab().items()}
    # It is a check more where it is possible; a tokenizer may need a package that is not there.
    except Exception:
        return {}


def _check_labels(student: nn.Module, teacher: nn.Module, name: str) -> None:
    """Refuse a teacher with other classes than the student's, or the same in another order."""
    configs: list[Any] = [student.config, teacher.config]
    ours, theirs = (config.num_labels for config in configs)
    if ours != theirs:
        raise UsageError(f"teacher {name}: has {theirs} labels, the student {ours}; {CHOOSE}")
    first, second = map(_labels, (student, teacher))
    if first is None or second is None or first == second:
        return
    if sorted(first) == sorted(second):
        raise UsageError(
            f"teacher {name}: has its labels in the order {', '.join(second)}, the student {', '.join(first)}; {CHOOSE}"
        )
    logger.warning("teacher %s: calls its labels %s, the student %s", name, ", ".join(second), ", ".join(first))


def _labels(model: nn.Module) -> list[str] | None:
    """Name a model's labels in order; None if it has none but those the library makes up."""
    config: Any = model.config
    names = {int(k): str(v).lower() for k, v in (getattr(config, "id2label", None) or {}).items()}
    if not names or all(name == f"label_{i}" for i, name in names.items()):
        return None
    return [names[i] for i in sorted(names)]


def check_hidden(student: nn.Module, teacher: nn.Module, name: str | None) -> None:
    for model in (student, teacher):
        if encoder_layers(model) is None:
            raise UsageError(
                f'distillation: the layers of {type(model).__name__} are not known; set "hidden_weight" to 0'
            )
    ours, theirs = (int(getattr(model.config, "hidden_size", 0)) for model in (student, teacher))
    if ours != theirs:
        raise UsageError(
            f"teacher {name}: has hidden states of size {theirs}, the student of {ours}; "
            f'set "hidden_weight" to 0, or {CHOOSE}'
        )


def encoder_layers(model: nn.Module) -> list[nn.Module] | None:
    """List the modules that run one after the other in a model's encoder; ALBERT's run several times."""
    for path in ("encoder.layer", "transformer.layer", "encoder.albert_layer_groups"):
        found: Any = model.base_model
        for part in path.split("."):
            found = getattr(found, part, None)
        if found is not None:
            return list(found)
    return None


def position_limit(model: nn.Module) -> int | None:
    """Length of the longest sequence that ``model`` takes; None for any."""
    config: Any = model.config
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa counts positions from the padding token's number + 1.
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    # DeBERTa's positions are relative, its configuration names a maximum all the same.
    return None if getattr(config, "relative_attention", False) else getattr(config, "max_position_embeddings", None)


def fingerprint_model(model: nn.Module, folder: str = "") -> str:
    """Name a model by its weights (SHA-256, hexadecimal): by their files in ``folder``, else by the model's tensors.

    The tensors count as float32, for some libraries load half-precision files as they are and others do not.
    """
    digest = hashlib.sha256()
    root = Path(folder)
    patterns = ("model*.safetensors", "pytorch_model*.bin") if folder and root.is_dir() else ()
    for files in (sorted(root.glob(pattern)) for pattern in patterns):
        for path in files:
            with path.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
        if files:
            return digest.hexdigest()
    for name, tensor in sorted(model.state_dict().items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update((tensor.float() if tensor.is_floating_point() else tensor).numpy().tobytes())
    return digest.hexdigest()


def is_regression(model: nn.Module, task: Task) -> bool:
    config: Any = model.config
    return task.suffix == "ForSequenceClassification" and config.num_labels == 1
