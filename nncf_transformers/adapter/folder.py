"""Folders of adapters: which adapter is in one, what it is for, and the names that a folder can have.

The layout is the library's: a folder for each adapter with its configuration and weights, and those of the head.
"""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adapters import AdapterConfig
from adapters.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME, SETUP_CONFIG_NAME, WEIGHTS_NAME
from torch import nn

from nncf_transformers.errors import IntegrityError, UnreachableError, UsageError

# A name becomes a folder, and a part of the names of parameters, where a dot separates.
_LEGAL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+-]{0,99}")
# What else an output folder has: Trainer's checkpoints, which it deletes by and by, its logs, and our own.
_TAKEN = re.compile(r"checkpoint-.*|runs|base_model")


@dataclass(frozen=True)
class AdapterFolder:
    """A saved adapter.

    Attributes:
        path: holds ``adapter_config.json`` and the weights.
        content: of that file.
        language: the adapter that it was stacked on, if any.
    """

    path: Path
    content: dict[str, Any]
    language: "AdapterFolder | None" = None

    @property
    def name(self) -> str:
        """The adapter's name when it was saved."""
        return str(self.content["name"])


def check_name(flag: str, name: str) -> str:
    """Refuse a name that cannot be a folder, or not a part of a parameter's name.

    Raises:
        UsageError: with a name that can.
    """
    if _LEGAL.fullmatch(name) and not _is_taken(name):
        return name
    instead = clean_name(name)
    raise UsageError(
        f"{flag} {name!r}: cannot name a folder and a module: use letters, digits, _ and -, and no name that is taken"
        + (f"; {instead} would do" if instead else "")
    )


def clean_name(name: str) -> str:
    """Make a legal name of a data set's: what is not allowed becomes ``_``."""
    cleaned = re.sub(r"[^A-Za-z0-9_+-]+", "_", name).strip("_-+")[:100]
    return f"{cleaned}_" if cleaned and _is_taken(cleaned) else cleaned


def _is_taken(name: str) -> bool:
    # An instance has more attributes than the class.
    return hasattr(nn.ModuleDict(), name) or _TAKEN.fullmatch(name) is not None


def find_adapter(flag: str, place: str) -> AdapterFolder:
    """Find the adapter that a flag names.

    Args:
        flag: for errors.
        place: an adapter's folder; an output folder, which has one or says in ``adapter_setup.json`` which was
            trained; or the name of an adapter on the hub.

    Raises:
        UsageError: nothing is there, or several are.
        IntegrityError: a file is missing or damaged.
        UnreachableError: it is on a hub that cannot be reached.
    """
    folder = Path(place).expanduser()
    if not folder.is_dir():
        if folder.exists() or place.startswith((".", "/", "~")) or place.count("/") != 1:
            raise UsageError(f"{flag} {place}: is no folder; name the folder of an adapter, or of the run that made it")
        folder = _download(flag, place)
    if (folder / CONFIG_NAME).is_file():
        # What it was stacked on is said in the folder of its run.
        names = _stacked(folder.parent / SETUP_CONFIG_NAME)
        below = folder.parent / names[0] if len(names) == 2 and names[-1] == folder.name else None
        return replace(_read(folder), language=_read(below) if below is not None else None)
    names = _stacked(folder / SETUP_CONFIG_NAME)
    if names:
        language = _read(folder / names[0]) if len(names) == 2 else None
        return replace(_read(folder / names[-1]), language=language)
    found = _folders_in(folder)
    if not found:
        raise UsageError(f"{flag} {place}: no adapter is in it: there is no {CONFIG_NAME}; name another folder")
    if len(found) > 1:
        raise UsageError(f"{flag} {place}: has several adapters; name one of {', '.join(map(str, found))}")
    return _read(found[0])


def saved_in(folder: Path) -> list[AdapterFolder]:
    """All adapters of an output folder or of a checkpoint, by name."""
    return [_read(path) for path in _folders_in(folder)]


def _folders_in(folder: Path) -> list[Path]:
    # One that begins with a dot is of a run that was killed while it saved.
    return sorted(path.parent for path in folder.glob(f"[!.]*/{CONFIG_NAME}"))


def _read(folder: Path) -> AdapterFolder:
    path = folder / CONFIG_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise IntegrityError(f"{path}: cannot be read ({error.strerror}); copy the adapter again") from error
    except ValueError as error:
        raise IntegrityError(f"{path}: is no valid JSON ({error}); copy it again") from error
    if not isinstance(content, dict) or not isinstance(content.get("config") or None, dict) or not content.get("name"):
        raise IntegrityError(f"{path}: does not describe an adapter: it needs a name and a config; copy it again")
    try:
        AdapterConfig.load(content["config"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise IntegrityError(f"{path}: its config is of no adapter that the library knows ({error!r})") from error
    if not any((folder / name).is_file() for name in (SAFE_WEIGHTS_NAME, WEIGHTS_NAME)):
        raise IntegrityError(f"{folder}: has no {SAFE_WEIGHTS_NAME}; copy the adapter whole")
    return AdapterFolder(folder, content)


def _stacked(path: Path) -> list[str]:
    """The adapters of a setup, the lowest first."""
    if not path.is_file():
        return []
    try:
        setup = json.loads(path.read_text(encoding="utf-8"))["adapter_setup"]
        names = [name for child in setup["children"] for name in child["children"]]
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{path}: damaged ({error!r}); copy it again") from error
    if setup.get("type") != "Stack" or len(names) > 2 or not all(isinstance(name, str) for name in names):
        raise UsageError(f"{path}: is not one adapter, or one on another; name the folder of one of its adapters")
    return names


def _download(flag: str, name: str) -> Path:
    from adapters.utils import pull_from_hf_model_hub

    try:
        return Path(pull_from_hf_model_hub(name))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnreachableError(f"{flag} {name}: no such folder, and the hub cannot give it ({reason})") from error
