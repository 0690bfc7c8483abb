"""One line instead of a traceback where a patched script ends on a user's mistake.

The library raises ordinary exceptions, so that a notebook or a hand-written loop can catch them. An upstream script
has no handler of its own; :func:`install` gives it one. Anything that is not known to be a user's mistake keeps its
traceback.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType

from nncf_transformers.errors import CompressionError, IntegrityError, UnreachableError, UsageError


def install() -> None:
    """Let the running script end on a user's mistake with one line and the error's exit code."""
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        known = as_user_error(error, traceback)
        if known is None:
            previous(kind, error, traceback)
            return
        print(f"error: {' '.join(str(known).split())}", file=sys.stderr, flush=True)
        # CPython honours a SystemExit raised here; without it an uncaught exception always exits with 1.
        raise SystemExit(known.exit_code)

    sys.excepthook = hook


def as_user_error(error: BaseException, traceback: TracebackType | None) -> CompressionError | None:
    """Recognise the mistakes that upstream's libraries report in their own ways."""
    from safetensors import SafetensorError

    if isinstance(error, CompressionError):
        return error
    if isinstance(error, SafetensorError):
        file = _value_in(traceback, ".safetensors") or "a .safetensors file of the checkpoint"
        return IntegrityError(f"{file}: damaged or truncated ({error}); copy it again or use another checkpoint")
    if isinstance(error, OSError) and _is_about_the_hub(error):
        return UnreachableError(
            f"the model hub cannot be reached: {error}. Pass a local folder as --model_name_or_path "
            "(make: MODEL=DIR) and local data as --data-dir (make: DATA=DIR), or try `make demo`, which needs neither"
        )
    if isinstance(error, ValueError) and _is_raised_by_script(traceback):
        # The script's own check of its arguments, such as an output folder that holds another run.
        return UsageError(str(error))
    return None


def _is_about_the_hub(error: OSError) -> bool:
    text = str(error).lower()
    return any(sign in text for sign in ("huggingface.co", "connect to", "offline mode", "is not a local folder"))


def _is_raised_by_script(traceback: TracebackType | None) -> bool:
    frames = list(_frames(traceback))
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    return bool(frames) and script is not None and Path(frames[-1].f_code.co_filename) == Path(script)


def _value_in(traceback: TracebackType | None, suffix: str) -> str | None:
    """Find the path that the failing call was about: the exception does not name it, a local variable does."""
    for frame in reversed(list(_frames(traceback))):
        for value in frame.f_locals.values():
            for item in value if isinstance(value, list | tuple) else (value,):
                if isinstance(item, str | Path) and str(item).endswith(suffix):
                    return str(item)
    return None


def _frames(traceback: TracebackType | None) -> Iterator[FrameType]:
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next
