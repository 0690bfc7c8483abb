"""A folder with a model to be used: what tasks there are, what belongs to a folder, and how it is loaded and written.

A deployment folder holds an IR, the same model as ONNX, its configuration, and its tokenizer.
"""

import json
import logging
import operator
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nncf_transformers.errors import CompressionError, IntegrityError, UsageError
from nncf_transformers.export.openvino import XML, read_report
from nncf_transformers.runtimes import Exported, Runtime, onnx_runtime, openvino_runtime, torch_runtime

logger = logging.getLogger(__name__)

RUNTIMES = ("openvino", "onnxruntime", "torch")
ONNX_FILE = "model.onnx"
# In a deployment folder's config.json: how many tokens whoever exported it wants to be read at once.
LENGTH_KEY = "sequence_length"
# One of them is in every folder that a tokenizer was saved to. Without, some libraries make up an empty tokenizer.
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model", "spm.model")
# Without it, texts are split by other rules, and nothing says so.
_TOKENIZER_SETTINGS = "tokenizer_config.json"
# They count positions from the padding token's number + 1.
_SHIFTED_POSITIONS = ("roberta", "xlm-roberta", "camembert")
_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
# What config.json holds under the keys that are read here, if it has them.
_COUNTS = (LENGTH_KEY, "max_position_embeddings")
_KINDS: dict[str, tuple[Any, str]] = {
    **dict.fromkeys(_COUNTS, (int, "a number of tokens")),
    "pad_token_id": (int, "a whole number"),
    "architectures": (list, "a list of names"),
    "id2label": (dict, "an object with names"),
}


@dataclass(frozen=True)
class Task:
    """What a model is for.

    Attributes:
        name: as Transformers' pipelines call it.
        aliases: what others call it; a command takes these, too.
        head: how the name of a model's class ends.
        outputs: names of an exported model's outputs.
    """

    name: str
    aliases: tuple[str, ...]
    head: str
    outputs: tuple[str, ...] = ("logits",)


QUESTION_ANSWERING = Task("question-answering", ("qa",), "ForQuestionAnswering", ("start_logits", "end_logits"))
TEXT_CLASSIFICATION = Task(
    "text-classification", ("glue", "sequence-classification", "sentiment-analysis"), "ForSequenceClassification"
)
TOKEN_CLASSIFICATION = Task("token-classification", ("ner",), "ForTokenClassification")
FILL_MASK = Task("fill-mask", ("mlm", "masked-language-modeling"), "ForMaskedLM")
TASKS = (QUESTION_ANSWERING, TEXT_CLASSIFICATION, TOKEN_CLASSIFICATION, FILL_MASK)


@dataclass(frozen=True)
class Deployed:
    """A model that is ready to run.

    Attributes:
        place: its file or folder, for messages.
        runtime: runs it.
        tokenizer: a fast one.
        config: content of ``config.json``.
        limit: tokens that it takes at most; None for any.
        length: tokens to read at once that were recorded at its export; None if none were.
    """

    place: str
    runtime: Runtime
    tokenizer: Any
    config: dict[str, Any]
    limit: int | None
    length: int | None

    def sequence_length(self, wanted: int | None, usual: int) -> int:
        """Tokens to read at once.

        Args:
            wanted: by the user; None for what was recorded, or else for ``usual``.
            usual: lowered to what the model takes.

        Raises:
            UsageError: the model does not take that many, wherever the number is from.
        """
        if wanted is None:
            wanted = self.length if self.length is not None else min(usual, self.limit or usual)
        check_length(wanted, self.limit, self.place)
        return wanted


def find_task(name: str) -> Task:
    """The task of that name; underscores and spaces count as hyphens.

    Raises:
        UsageError: there is none; the nearest name is proposed.
    """
    from nncf_transformers.config.errors import nearest

    if not isinstance(name, str):
        raise UsageError(f"task {name!r}: is a {type(name).__name__}; give a name, such as {TASKS[0].name}")
    wanted = name.strip().lower().replace("_", "-").replace(" ", "-")
    known = {alias: task for task in TASKS for alias in (task.name, *task.aliases)}
    if wanted not in known:
        raise UsageError(f"task {name!r}: not known{nearest(wanted, known)}; there are {', '.join(known)}")
    return known[wanted]


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """A setting that counts something.

    Raises:
        UsageError: it is no whole number, or below ``least``.
    """
    try:
        # NumPy's numbers count, too; True does only by accident.
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise UsageError(f"{name} {value!r}: must be a whole number, {least} or more")
    return number


def check_length(length: int, limit: int | None, place: str) -> None:
    """Refuse a sequence length that a model does not take.

    Raises:
        UsageError: with the largest one.
    """
    length = whole_number(LENGTH_KEY, length)
    if limit is not None and length > limit:
        raise UsageError(f"{place}: takes at most {limit} tokens, sequence_length is {length}; lower it")


def load_deployed(
    model_path: str | os.PathLike[str], task: Task, runtime: str | None = None, threads: int = 0
) -> Deployed:
    """Load a model for a task.

    Args:
        model_path: a deployment folder, an IR folder or its .xml file, an .onnx file with configuration and tokenizer
            beside it, or the folder of a checkpoint.
        task: what it must be for.
        runtime: one of :data:`RUNTIMES`; None for OpenVINO where there is an exported model, and torch otherwise.
        threads: of an exported model; 0 leaves the number to the runtime.

    Raises:
        UsageError: no such model, one for another task, or not for that runtime.
        IntegrityError: a damaged file.
    """
    threads = whole_number("threads", threads, 0)
    if not isinstance(model_path, str | os.PathLike):
        raise UsageError(f"model_path {model_path!r}: is a {type(model_path).__name__}; name a folder with a model")
    path = Path(model_path)
    if runtime is not None and runtime not in RUNTIMES:
        from nncf_transformers.config.errors import nearest

        close = nearest(str(runtime), RUNTIMES)
        raise UsageError(f"runtime {runtime!r}: not known{close}; there are {', '.join(RUNTIMES)}")
    if not path.exists():
        raise UsageError(f"{path}: no such model; name a folder with one, or an .onnx file")
    folder = path if path.is_dir() else path.parent
    file = _exported_file(path, runtime)
    config = read_config(folder / "config.json")
    check_task(config, task, str(path))
    if file is None:
        found: Runtime = torch_runtime(load_checkpoint(folder, task).eval())
    else:
        exported = onnx_runtime(file, threads) if runtime == "onnxruntime" else openvino_runtime(file, threads)
        _check_ports(exported, task, file)
        found = exported
    limit, length = position_limit(config), config.get(LENGTH_KEY)
    return Deployed(str(path), found, load_tokenizer(folder), config, limit, length)


def _exported_file(path: Path, runtime: str | None) -> Path | None:
    """The file that a runtime is to load; None for a checkpoint."""
    if path.is_file():
        wanted = {".onnx": ("openvino", "onnxruntime"), ".xml": ("openvino",)}.get(path.suffix)
        if wanted is None:
            raise UsageError(f"{path}: is no exported model; name an .onnx or .xml file, or a folder")
        if runtime is not None and runtime not in wanted:
            raise UsageError(f"{path}: cannot be run by {runtime}; {' or '.join(wanted)} can")
        return path
    if runtime == "torch":
        return None
    named, onnx = path / ONNX_FILE, sorted(path.glob("*.onnx"))
    files = [named] if named.is_file() else onnx
    if runtime != "onnxruntime" and (path / XML).is_file():
        return path / XML
    if len(files) > 1:
        raise UsageError(f"{path}: holds {len(files)} .onnx files, none is {ONNX_FILE}; name one of them")
    if runtime is not None and not files:
        what = ONNX_FILE if runtime == "onnxruntime" else f"{XML} or {ONNX_FILE}"
        raise UsageError(f"{path}: holds no {what}; export the model first (export_onnx --model_path {path})")
    return files[0] if files else None


def _check_ports(model: Exported, task: Task, file: Path) -> None:
    if model.outputs != task.outputs:
        outputs = ", ".join(model.outputs)
        raise UsageError(f"{file}: has the outputs {outputs}; {task.name} needs {', '.join(task.outputs)}")
    if unknown := set(model.inputs) - _INPUTS:
        raise UsageError(f"{file}: wants the input {min(unknown)}, which no tokenizer gives; export the model anew")


def check_task(config: dict[str, Any], task: Task, place: str) -> None:
    """Refuse a model for another task.

    Raises:
        UsageError: the configuration names another class; what the model is for, is said.
    """
    classes = [name for name in config.get("architectures") or () if isinstance(name, str)]
    if classes and not any(name.endswith(task.head) for name in classes):
        other = next((other for other in TASKS if classes[0].endswith(other.head)), None)
        hint = f"its task is {other.name}" if other is not None else f"train a …{task.head} first"
        raise UsageError(f"{place}: holds a {classes[0]}, which is not for {task.name}; {hint}")


def load_checkpoint(folder: Path, task: Task) -> Any:
    """Load a trained model from its folder, with its compression and without the layers that its recipe removed.

    Raises:
        UsageError: no such folder, no configuration, no weights but a pickle, or a model for another task.
        IntegrityError: the weights are damaged, or do not fit the configuration: some are missing, or would be left
            out, but for another task's head.
    """
    import transformers
    from safetensors import SafetensorError

    from nncf_transformers.checkpoint import INDEX_FILE, WEIGHTS_FILE
    from nncf_transformers.loading import load_model
    from nncf_transformers.recipe.inherit import inherit

    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; name one that a model was saved to")
    config = read_config(folder / "config.json")
    check_task(config, task, str(folder))
    if not (folder / WEIGHTS_FILE).is_file() and not (folder / INDEX_FILE).is_file():
        pickles = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
        if pickles:
            raise UsageError(
                f"{folder}: holds {pickles[0]}, a pickle, which may run any code when it is read; convert it first, "
                f"where you trust it: from_pretrained(...).save_pretrained(...) writes {WEIGHTS_FILE}"
            )
        raise UsageError(f"{folder}: holds no {WEIGHTS_FILE}; name a folder that a model was saved to")
    loader = _Whole(getattr(transformers, f"AutoModel{task.head}"), task)
    try:
        model = load_model(loader, str(folder))
    except SafetensorError as error:
        raise IntegrityError(f"{folder}: its weights are damaged or truncated ({error}); copy them again") from error
    # What from_pretrained says of a configuration that it cannot use.
    except (ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise IntegrityError(
            f"{folder / 'config.json'}: no model can be made of it ({reason}); copy it again"
        ) from error
    inherit(None, model, str(folder), trains=False)
    loader.check_missing(model, folder)
    loader.check_unused(model, folder)
    return model


class _Whole:
    """An ``AutoModelFor…`` class that refuses weights that ``from_pretrained`` would make up or leave out."""

    def __init__(self, auto_class: Any, task: Task) -> None:
        self._auto_class, self._task = auto_class, task
        self._missing: set[str] = set()
        self._unused: set[str] = set()

    def from_pretrained(self, folder: str, **kwargs: Any) -> Any:
        from safetensors import SafetensorError

        from nncf_transformers.checkpoint import ADAPTERS_KEY, STATE_FILE, read_state
        from nncf_transformers.loading import LOADING_LOGGER

        # What it would say on many lines is said here on one.
        LOADING_LOGGER.addFilter(_nothing)
        try:
            model, report = self._auto_class.from_pretrained(
                folder, output_loading_info=True, ignore_mismatched_sizes=True, local_files_only=True, **kwargs
            )
        except (CompressionError, SafetensorError, ImportError, MemoryError, OSError):
            raise
        # A configuration without sense ends in any of the library's and torch's own: a division by zero heads.
        except Exception as error:
            raise ValueError(str(error) or type(error).__name__) from error
        finally:
            LOADING_LOGGER.removeFilter(_nothing)
        # Older libraries list names, newer ones names with shapes.
        names = sorted(entry if isinstance(entry, str) else entry[0] for entry in report["mismatched_keys"])
        if names:
            shape = tuple(model.state_dict()[names[0]].shape)
            raise IntegrityError(
                f"{folder}: by config.json, {names[0]} has the shape {shape}, but in the weights another one; the two "
                "are of different models, copy both from the same one"
            )
        self._missing, self._unused = set(report["missing_keys"]), set(report["unexpected_keys"])
        compressed = Path(folder, STATE_FILE).is_file()
        # Before the quantizers are put back, which would not find their places either. Adapters come back with them.
        if not compressed or ADAPTERS_KEY not in read_state(folder, model):
            self.check_unused(model, Path(folder))
            self._unused = set()
        return model

    def check_missing(self, model: Any, folder: Path) -> None:
        """Refuse a model with random weights, but for those of layers that its recipe has removed by now."""
        from nncf_transformers.config.parameters import original_names

        missing = sorted(self._missing.intersection(original_names(model).values()))
        if missing:
            raise IntegrityError(
                f"{folder}: the weights have no {missing[0]}; it is no {type(model).__name__} (train one for "
                f"{self._task.name} first), or its files are of different models"
            )

    def check_unused(self, model: Any, folder: Path) -> None:
        """Refuse a model that lacks a part of the encoder that the weights have; say so of another task's head.

        Args:
            model: with its adapters.
            folder: for messages.
        """
        from nncf_transformers.checkpoint import HOOK_PREFIX

        # Older libraries saved the numbers of the positions, too, which any model has.
        known = model.state_dict().keys() | dict(model.named_buffers()).keys()
        # Quantizers and masks are checked where they are restored, some of them under another name.
        unused = sorted(key for key in self._unused - known if not key.startswith(HOOK_PREFIX))
        prefix = f"{model.base_model_prefix}."
        # A family without such an attribute has its encoder in the model itself.
        parts = {name for name, _ in getattr(model, model.base_model_prefix, model).named_children()}
        own = [
            key
            for key in unused
            if key.startswith(prefix) or key.split(".")[0] in parts
            # Whether there is a pooler depends on the task, and on the library's version.
            if key.removeprefix(prefix).split(".")[0] != "pooler"
        ]
        if own:
            raise IntegrityError(
                f"{folder}: the weights have {own[0]}, but the model of config.json has no such part and would leave "
                "it out; the two are of different models, copy both from the same one"
            )
        if unused:
            logger.warning(
                "%s: the weights have %s, which is no part of a %s and is left out",
                folder,
                unused[0] if len(unused) == 1 else f"{unused[0]} and {len(unused) - 1} more",
                type(model).__name__,
            )


def _nothing(record: logging.LogRecord) -> bool:
    return False


def load_tokenizer(folder: Path) -> Any:
    """Load the fast tokenizer in a folder.

    Raises:
        UsageError: there is none.
        IntegrityError: its files are damaged, or a part of what an export wrote is missing.
    """
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise UsageError(f"{folder}: has no tokenizer; copy {_TOKENIZER_FILES[0]} of the trained model into it")
    if _TOKENIZER_SETTINGS in read_report(folder).get("files", ()) and not (folder / _TOKENIZER_SETTINGS).is_file():
        raise IntegrityError(
            f"{folder / _TOKENIZER_SETTINGS}: is missing, and texts would be split by other rules; copy it from where "
            "the model was exported, or export it again"
        )
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    # The Rust library has no exception types of its own.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise IntegrityError(f"{folder}: its tokenizer cannot be loaded ({reason}); export the model again") from error
    if not tokenizer.is_fast:
        raise UsageError(f"{folder}: its tokenizer has no fast version, which alone knows where its tokens are")
    return tokenizer


def read_config(path: Path) -> dict[str, Any]:
    """Read a ``config.json``.

    Raises:
        UsageError: there is none, or it cannot be read.
        IntegrityError: it is damaged, or holds what cannot be used.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file; name a folder with a whole model") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); name a folder with a whole model") from error
    except ValueError as error:
        raise IntegrityError(f"{path}: not valid JSON ({error}); copy it or export the model again") from error
    if not isinstance(config, dict):
        raise IntegrityError(f"{path}: not a JSON object; copy it or export the model again")
    for key, (kind, text) in _KINDS.items():
        value = config.get(key)
        # JSON's true is no number, though Python's is.
        if value is not None and (type(value) is not kind or (key in _COUNTS and value < 1)):
            shown = repr(value)[:60]
            raise IntegrityError(f"{path}: {key} is {shown}, not {text}; correct it, or copy the file again")
    return config


def position_limit(config: dict[str, Any]) -> int | None:
    """Length of the longest sequence that a model with this configuration takes; None for any."""
    limit: int | None = config.get("max_position_embeddings")
    if limit is None or (config.get("relative_attention") and not config.get("position_biased_input", True)):
        return None
    if config.get("model_type") not in _SHIFTED_POSITIONS:
        return limit
    padding = config.get("pad_token_id")
    return limit - 1 - (1 if padding is None else padding)
