"""How a patched script ends: on a user's mistake with one line instead of a traceback, and as one of several in order.

The library raises ordinary exceptions, so that a notebook or a hand-written loop can catch them. An upstream script
has no handler of its own; :func:`install` gives it one. Anything that is not known to be a user's mistake keeps its
traceback.
"""

import atexit
import errno
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from types import FrameType, TracebackType

from nncf_transformers.errors import CompressionError, IntegrityError, UnreachableError, UsageError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CANNOT_WRITE = {*_FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}
_ELSEWHERE = "free space or choose another folder"
_LOCAL_INSTEAD = (
    "Pass a local folder as --model_name_or_path (make: MODEL=DIR) and local data as --data-dir (make: DATA=DIR), "
    "or try `make demo`, which needs neither"
)


def install() -> None:
    """Let the running script end on a user's mistake with one line and the error's exit code.

    One of several processes that meet by gloo leaves the others before it ends.
    """
    atexit.register(_leave_processes)
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        known = as_user_error(error, traceback)
        if known is None:
            previous(kind, error, traceback)
            return
        _end_progress_bars()
        print(f"error: {' '.join(str(known).split())}", file=sys.stderr, flush=True)
        # CPython honours a SystemExit raised here; without it an uncaught exception always exits with 1.
        raise SystemExit(known.exit_code)

    sys.excepthook = hook


def _leave_processes() -> None:
    # Threads of gloo let go of tensors a little after a script has what it waited for. One that is late and finds the
    # interpreter ending ends the whole process by SIGABRT, a finished training with it.
    distributed = sys.modules.get("torch.distributed")
    # After an error the others may be waited for in vain.
    if distributed is None or not distributed.is_available() or hasattr(sys, "last_value"):
        return
    if distributed.is_initialized() and distributed.get_backend() == "gloo":
        distributed.destroy_process_group()


def as_user_error(error: BaseException, traceback: TracebackType | None) -> CompressionError | None:
    """Recognise the mistakes that upstream's scripts and libraries report in their own ways."""
    from safetensors import SafetensorError

    if isinstance(error, CompressionError):
        return error
    if isinstance(error, SafetensorError):
        file = _file_in(traceback, ".safetensors") or "a .safetensors file"
        if re.search(r"os error|no space", str(error), re.IGNORECASE):
            return CompressionError(f"{file}: cannot be written ({error}); {_ELSEWHERE}")
        return IntegrityError(f"{file}: damaged or truncated ({error}); copy it again or use another checkpoint")
    if isinstance(error, json.JSONDecodeError):
        file = _file_in(traceback, ".json") or "a JSON file"
        return IntegrityError(f"{file}: not valid JSON, perhaps truncated ({error}); copy it again")
    if isinstance(error, OSError):
        return _from_os_error(error, traceback)
    if isinstance(error, RuntimeError) and "inline_container.cc" in str(error) and "unexpected pos" in str(error):
        # What torch.save says of a file that it could not write to its end.
        file = _file_in(traceback, ".pt") or _file_in(traceback, ".bin") or "a checkpoint file"
        return CompressionError(f"{file}: cannot be written, the disk looks full; {_ELSEWHERE}")
    if isinstance(error, KeyError | IndexError) and _raised_in(traceback, "processors/squad.py"):
        file = _file_in(traceback, ".json") or "the data file"
        return UsageError(f"{file}: not in SQuAD's format, or a training question without answers ({error!r})")
    if isinstance(error, UnpicklingError) and (cache := _local_named("cached_features_file", traceback)):
        return IntegrityError(f"{cache}: another version's features, or damaged; delete it or add --overwrite_cache")
    if isinstance(error, ImportError) and "apex" in str(error):
        return UsageError("--fp16 of this script needs the package apex; leave it out, or use --bf16 with PIN=v4.57")
    if isinstance(error, KeyError) and _raised_in(traceback, "auto/configuration_auto.py"):
        return UsageError(_unknown_type(error.args[0]))
    if _is_beyond_embeddings(error, traceback):
        return UsageError(
            "a token's number or position is beyond the model's embeddings: lower --block_size or --max_seq_length, or "
            "give a tokenizer with no more tokens than the model has"
        )
    if isinstance(error, UnboundLocalError) and "'label_list'" in str(error):
        return UsageError(
            "this script does nothing without one of --do_train, --do_eval and --do_predict; add --do_eval"
        )
    if isinstance(error, AssertionError) and _raised_in(traceback, _script()):
        return UsageError(str(error)) if str(error) else None
    if isinstance(error, ValueError):
        return _from_value_error(error, traceback)
    return None


def _end_progress_bars() -> None:
    """Give what follows a line of its own: a bar has no line end until it is complete."""
    from tqdm import tqdm

    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()


def _is_beyond_embeddings(error: BaseException, traceback: TracebackType | None) -> bool:
    """Whether torch found no row of an embedding, or could not add embeddings of unequal length (a GPU says less)."""
    if isinstance(error, IndexError):
        return str(error) == "index out of range in self"
    last = list(_frames(traceback))[-1:]
    in_embeddings = any(type(frame.f_locals.get("self")).__name__.endswith("Embeddings") for frame in last)
    return isinstance(error, RuntimeError) and in_embeddings and "must match the size of tensor" in str(error)


def _unknown_type(model_type: str | None) -> str:
    if model_type is None:
        return "no model: pass --model_name_or_path, or --model_type and --tokenizer_name for one made on the fly"
    return f"--model_type {model_type}: no such model type; check its spelling, such as gpt2 or bert"


def _from_os_error(error: OSError, traceback: TracebackType | None) -> CompressionError | None:
    text = str(error)
    if error.errno in _CANNOT_WRITE and error.filename is not None:
        return CompressionError(f"{error.filename}: {error.strerror}; {_ELSEWHERE}")
    if error.errno in _FULL:
        # The write failed, not the opening, so the exception knows no name.
        return CompressionError(f"an output file cannot be written: {error.strerror}; {_ELSEWHERE}")
    if error.errno == errno.ENOENT and [f.f_code.co_name for f in _frames(traceback)][-1:] in (["makedirs"], ["mkdir"]):
        return CompressionError(f"{error.filename}: cannot be created; choose another folder")
    if "no file named" in text:
        return IntegrityError(f"the model folder is not complete: {text}")
    name = next((n for n in re.findall(r"'([^']+)'", text) if not n.startswith("http")), "")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        return UsageError(f"{name}: no such model folder, or no model in it; check --model_name_or_path (make: MODEL)")
    signs = ("huggingface.co", "connect to", "offline mode", "is not a local folder")
    if any(sign in text.lower() for sign in signs):
        return UnreachableError(f"the model hub cannot be reached: {text}. {_LOCAL_INSTEAD}")
    return None


def _from_value_error(error: ValueError, traceback: TracebackType | None) -> CompressionError | None:
    text = str(error)
    if text.startswith("Unrecognized model"):
        return IntegrityError(f"{text.split('.')[0]}: its config.json is missing or names no model type")
    if text.startswith("num_samples should be a positive"):
        return UsageError("the training set is empty; if the file is not, its cached features are: --overwrite_cache")
    if text.startswith("tokenizer stride set to"):
        return UsageError(f"--doc_stride is too large for --max_seq_length: {text.strip(' ,')}")
    if _raised_in(traceback, "squad.py") and "which SQuAD v1.1 does not know" in text:
        return UsageError(f"{text}, or give data with answers")
    if _within(traceback, "update_from_string"):
        return UsageError(f"--config_overrides: {text}; write KEY=VALUE,KEY=VALUE with settings of the model type")
    if _within(traceback, "from_config"):
        return UsageError(f"no model can be made of --model_type and --config_overrides: {text}")
    # Raised by the script itself or by its parser: checks of the arguments, such as an output folder in use.
    if _raised_in(traceback, "hf_argparser.py") or _raised_in(traceback, _script()):
        return UsageError(text)
    return None


def _script() -> str | None:
    """The file of the script that runs."""
    return getattr(sys.modules.get("__main__"), "__file__", None)


def _within(traceback: TracebackType | None, function: str) -> bool:
    """Whether a function of this name was being called."""
    return any(frame.f_code.co_name == function for frame in _frames(traceback))


def _raised_in(traceback: TracebackType | None, file: str | None) -> bool:
    frames = list(_frames(traceback))
    return (
        bool(frames)
        and file is not None
        and Path(frames[-1].f_code.co_filename).as_posix().endswith(Path(file).as_posix())
    )


def _file_in(traceback: TracebackType | None, suffix: str) -> str | None:
    """Find the file that the failing call was about: the exception does not name it, a local variable does."""
    for frame in reversed(list(_frames(traceback))):
        for value in frame.f_locals.values():
            for item in value if isinstance(value, list | tuple) else (value,):
                name = getattr(item, "name", item)
                if isinstance(name, str | Path) and str(name).endswith(suffix):
                    return str(name)
    return None


def _local_named(name: str, traceback: TracebackType | None) -> object:
    """The value of a local variable of that name in the innermost function that has one."""
    frames = [frame for frame in _frames(traceback) if name in frame.f_locals]
    return frames[-1].f_locals[name] if frames else None


def _frames(traceback: TracebackType | None) -> Iterator[FrameType]:
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next
