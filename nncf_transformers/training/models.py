"""Students and teachers: load them, make a packed one plain, quantize, and write the result."""

import copy
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForQuestionAnswering, AutoTokenizer

from nncf_transformers.algorithms.base import hooks
from nncf_transformers.algorithms.teacher import load_teacher, position_limit
from nncf_transformers.card import CardFacts, write_card
from nncf_transformers.compression import Compression
from nncf_transformers.embedding import EmbeddingModel, is_embedding, load_embedding_model
from nncf_transformers.errors import IntegrityError, UsageError
from nncf_transformers.export import export_model, rows_of
from nncf_transformers.inputs import model_inputs
from nncf_transformers.loading import load_model, remove_reports
from nncf_transformers.packing import is_merged, is_packed, merge, transforms
from nncf_transformers.summary import add_exports
from nncf_transformers.training.data import Encoded

logger = logging.getLogger(__name__)

# Beside a merged model: what brings its hidden states to the size of the model it was packed from.
TRANSFORMS_FILE = "hidden_transforms.safetensors"
ONNX_FILE, IR_FOLDER = "model.onnx", "openvino"
# Batches and rows of training data on which an export is compared with torch.
_PARITY_BATCHES, _PARITY_ROWS = 4, 4


def read_model_config(flag: str, name: str | None) -> Any:
    """Read the configuration of a model that a flag names.

    Raises:
        UsageError: there is none.
    """
    if not name:
        raise UsageError(f"--{flag}: is needed; name a model's folder")
    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        if Path(name).exists() or name.startswith((".", "/")) or name.count("/") > 1:
            raise UsageError(f"--{flag} {name}: is no model's folder ({_line(error)})") from error
        raise


def load_student(name: str, resumed: Path | None, *, embedding: bool, pooling: str | None = None) -> Any:
    """Load the model to train, or, of an interrupted training, the model as far as it has come."""
    if not embedding and is_embedding(read_model_config("model_student", name)):
        raise UsageError(f"--model_student {name}: is an embedding model; train it by train_qcemb")
    folder = resumed or name
    try:
        return load_embedding_model(folder, pooling) if embedding else load_model(AutoModelForQuestionAnswering, folder)
    except (IntegrityError, SafetensorError) as error:
        if resumed is None:
            raise
        raise IntegrityError(f"{resumed}: damaged ({_line(error)}); start anew with --overwrite_output_dir") from error


def load_any_teacher(student: nn.Module, name: str, student_name: str) -> Any:
    """Load a model to learn from, of the student's task.

    Raises:
        UsageError: it is packed, reads other tokens, or is of another task.
    """
    config = read_model_config("model_teacher", name)
    if is_packed(config):
        raise UsageError(
            f"--model_teacher {name}: is a packed model itself; name the large one, whose hidden states are learnt"
        )
    if not isinstance(student, EmbeddingModel):
        return load_teacher(student, name, student_name)
    ours: Any = student.config
    if config.vocab_size != ours.vocab_size:
        raise UsageError(
            f"--model_teacher {name}: has {config.vocab_size} tokens in its vocabulary, the student "
            f"{ours.vocab_size}; both must use the same tokenizer"
        )
    return load_embedding_model(name)


def load_tokenizer(name: str) -> Any:
    """Load a fast tokenizer, which knows where a token stands in the text.

    Raises:
        UsageError: there is none.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    # The Rust library has no exception types of its own.
    except Exception as error:
        if (Path(name) / "tokenizer.json").is_file():
            raise IntegrityError(f"{name}: its tokenizer is damaged ({_line(error)}); copy it again") from error
        raise UsageError(f"--model_student {name}: has no tokenizer ({_line(error)}); copy its files there") from error
    if not tokenizer.is_fast:
        raise UsageError(f"--model_student {name}: has no fast tokenizer, which the positions of answers need")
    return tokenizer


def check_positions(models: dict[str, nn.Module], max_length: int) -> None:
    """Refuse texts that are longer than a model can read.

    Raises:
        UsageError: which model, and what it can.
    """
    for flag, model in models.items():
        limit = position_limit(model)
        if limit is not None and max_length > limit:
            raise UsageError(
                f"--max_seq_length_c {max_length}: --{flag} has {limit} positions only; lower it to {limit}"
            )


def check_hidden_sizes(student: Any, teacher: Any, kept: nn.ModuleList | None = None) -> None:
    """Refuse a teacher whose hidden states cannot be compared with the student's, before any work is done.

    Args:
        student: packed, or plain.
        teacher: the large model.
        kept: see :func:`make_plain`; None for a model that has them itself, or needs none.

    Raises:
        UsageError: the sizes.
    """
    own: list[Any] = list(kept) if kept is not None else transforms(student)
    ours = own[0].weight.shape[0] if own else student.config.hidden_size
    theirs = teacher.config.hidden_size
    if ours != theirs:
        raise UsageError(
            f"--model_teacher: has hidden states of size {theirs}, the student of {ours}, and nothing was trained that "
            "brings them together; name the model that the student was packed from"
        )


def make_plain(student: Any, name: str) -> nn.ModuleList | None:
    """Merge a packed student in place; return what brings its hidden states to the large model's size.

    Args:
        student: of any kind.
        name: where it was loaded from.
    """
    if not is_packed(student.config):
        return None
    if not is_merged(student.config):
        kept = nn.ModuleList(copy.deepcopy(module) for module in transforms(student))
        merge(student)
        return kept if len(kept) else None
    config: Any = read_model_config("model_student", name)
    if is_packed(config) and not is_merged(config):
        # The student is that of an interrupted training, which had merged it.
        return make_plain(load_student(name, None, embedding=isinstance(student, EmbeddingModel)), name)
    path = Path(name) / TRANSFORMS_FILE
    if not path.is_file():
        return None
    try:
        tensors = load_file(path)
        weights = [tensors[f"{i}.weight"] for i in range(len(tensors) // 2)]
        kept = nn.ModuleList(nn.Linear(w.shape[1], w.shape[0]) for w in weights)
        kept.load_state_dict(tensors)
    except (SafetensorError, KeyError, RuntimeError, OSError) as error:
        raise IntegrityError(f"{path}: damaged ({_line(error)}); copy it again") from error
    return kept


def save_transforms(folder: Path, kept: nn.ModuleList | None) -> None:
    """Write :data:`TRANSFORMS_FILE`, or remove that of another model."""
    path = folder / TRANSFORMS_FILE
    if kept is None:
        path.unlink(missing_ok=True)
        return
    temporary = path.with_suffix(".tmp")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in kept.state_dict().items()}, temporary)
    temporary.replace(path)


def rows(model: nn.Module, data: Encoded, seed: int) -> Iterable[dict[str, torch.Tensor]]:
    """Samples one by one in a random order, for calibration."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed)).tolist()
    return (data.batch([i]) for i in order)


def trainable(objective: nn.Module, student: nn.Module, freeze_list: str = "") -> list[nn.Parameter]:
    """All parameters of an objective that training may change, but for the compression's own.

    Args:
        objective: around ``student``.
        student: compressed or not.
        freeze_list: parts of names, separated by commas: parameters that have one in their name stay as they are.
    """
    ours = {id(parameter) for _, hook in hooks(student) for parameter in hook.parameters()}
    words = [word for word in (part.strip() for part in freeze_list.split(",")) if word]
    chosen = []
    for name, parameter in objective.named_parameters():
        if id(parameter) in ours:
            continue
        name = name.removeprefix("student.")
        if any(word in name for word in words):
            logger.info("%s is frozen and excluded from tune", name)
        else:
            chosen.append(parameter)
    if not chosen:
        raise UsageError(f"--freeze_list {freeze_list}: freezes every parameter; name less")
    return chosen


def write_result(
    model: Any, tokenizer: Any, folder: Path, data: Encoded, kept: nn.ModuleList | None, facts: CardFacts | None = None
) -> None:
    """Write a trained model: weights, tokenizer, ``model.onnx``, ``openvino/``, how large it is, and its card.

    Args:
        model: plain or compressed; on any device.
        tokenizer: of the model.
        folder: for all of it.
        data: some of it is run through model and exports, which must agree.
        kept: see :func:`make_plain`.
        facts: what the card is to say of the training.
    """
    if Compression.of(model) is None:
        remove_reports(folder)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_transforms(folder, kept)
    count = min(len(data), _PARITY_BATCHES * _PARITY_ROWS)
    samples = [
        rows_of(model_inputs(model, data.batch(range(i, min(i + _PARITY_ROWS, count)))))
        for i in range(0, count, _PARITY_ROWS)
    ]
    onnx, folder_of_ir = folder / ONNX_FILE, folder / IR_FOLDER
    export_model(model, to_onnx=str(onnx), to_openvino=str(folder_of_ir), tokenizer=tokenizer, samples=samples)
    if Compression.of(model) is not None:
        sizes = {ONNX_FILE: onnx, f"{IR_FOLDER}/openvino_model.bin": folder_of_ir / "openvino_model.bin"}
        add_exports(folder, {name: path.stat().st_size for name, path in sizes.items()})
    if facts is not None or Compression.of(model) is not None:
        write_card(folder, facts)


def quieten() -> None:
    """Leave the library's warnings about new heads and unused weights to those who read them: ours say the same."""
    transformers.logging.set_verbosity_error()


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
