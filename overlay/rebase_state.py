"""A rebase that waits for the user: a folder with the carried files, and what has to be known to go on."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from overlay.carry import Layer, PatchedFile
from overlay.errors import ConflictError, IntegrityError, NothingToDo
from overlay.files import write_atomically
from overlay.git import Git
from overlay.layout import Layout
from overlay.meaning import parse
from overlay.merge import merge

_STATE = "rebase.json"
# Not the line of equal signs, which is also how a title is underlined.
_MARKER = re.compile(r"^(<{7}|\|{7}|>{7}) ", re.MULTILINE)


@dataclass(frozen=True)
class Request:
    """What the user asked `rebase` for.

    Attributes:
        to: Commit of the new pin.
        name: Its name.
        library: Requirement to install beside its checkout; by default the version that upstream names there.
        source: Where to get what the mirror lacks.
        drop: Names of patches to leave out.
    """

    to: str
    name: str
    library: str | None = None
    source: str | None = None
    drop: tuple[str, ...] = ()


@dataclass(frozen=True)
class State:
    """A rebase that waits for the user: the request, the pin it began at, and the files it has carried.

    ``left`` has the sha256 of each file that needs the user, as it was left to him, by its path.
    """

    request: Request
    old: str
    tip: str
    notes: tuple[str, ...]
    files: tuple[PatchedFile, ...]
    left: Mapping[str, str]


def waits(layout: Layout) -> bool:
    """Whether a rebase waits for the user."""
    return (layout.rebase / _STATE).is_file()


def leave_to_user(git: Git, layout: Layout, state: State, open_files: set[str]) -> None:
    """Writes the carried files, with markers for hunks without a place, and the state; the state comes last."""
    left = {}
    for file in state.files:
        content = file.patched
        for layer in file.layers:
            for lost in layer.lost:
                # Theirs first, so that the markers read as in any rebase: upstream above, our patch below.
                labels = (f"upstream {state.tip[:12]}", "before", layer.patch)
                content = merge(git, lost.base, content, lost.ours, labels).content
        path = layout.rebase / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if file.origin in open_files:
            left[file.path] = hashlib.sha256(content).hexdigest()
    write_atomically(layout.rebase / _STATE, json.dumps(_to_json(replace(state, left=left)), indent=1).encode())


def edited(layout: Layout, file: PatchedFile, left: Mapping[str, str]) -> PatchedFile:
    """Takes a file from the rebase folder; what the user has changed belongs to the last patch of the file."""
    path = layout.rebase / file.path
    shown = layout.shown(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ConflictError(f"{shown} is gone; restore it, or leave its patch out with --drop NN-name") from None
    text = content.decode("utf-8", "replace")
    if match := _MARKER.search(text):
        raise ConflictError(f"{shown}:{text[: match.start()].count(chr(10)) + 1}: {match[0].strip()!r} is still there")
    if left.get(file.path) == hashlib.sha256(content).hexdigest():
        raise ConflictError(f"{shown} is as it was left to you; edit it, or leave its patch out with --drop NN-name")
    if path.suffix == ".py":
        try:
            parse(text)
        except (SyntaxError, ValueError) as error:
            raise ConflictError(f"{shown} is no valid Python ({error}); correct it, then --continue again") from None
    if content == file.upstream:
        raise ConflictError(
            f"{shown} is as upstream has it, so {file.layers[-1].patch} would become empty; if it shall go, add "
            f"--drop {file.layers[-1].patch.removesuffix('.patch')}"
        )
    *below, last = file.layers
    return replace(file, layers=(*below, replace(last, content=content, edits=(), lost=())))


def read_state(layout: Layout) -> State:
    try:
        data = json.loads((layout.rebase / _STATE).read_bytes())
        files = tuple(
            PatchedFile(
                file["origin"],
                file["path"],
                file["upstream"].encode("utf-8", "surrogateescape"),
                tuple(
                    Layer(layer["patch"], layer["content"].encode("utf-8", "surrogateescape"), ())
                    for layer in file["layers"]
                ),
            )
            for file in data["files"]
        )
        request = Request(**data["request"] | {"drop": tuple(data["request"]["drop"])})
        return State(request, data["old"], data["tip"], tuple(data["notes"]), files, dict(data["left"]))
    except FileNotFoundError:
        raise NothingToDo("no rebase waits; begin one with 'rebase --to REF --as NAME'") from None
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{layout.shown(layout.rebase / _STATE)} cannot be read ({type(error).__name__}: {error}); delete "
            f"{layout.shown(layout.rebase)} and begin again"
        ) from None


def _to_json(state: State) -> Mapping[str, Any]:
    return {
        "request": asdict(state.request),
        "old": state.old,
        "tip": state.tip,
        "notes": state.notes,
        "left": dict(state.left),
        "files": [
            {
                "origin": file.origin,
                "path": file.path,
                "upstream": file.upstream.decode("utf-8", "surrogateescape"),
                "layers": [
                    {"patch": layer.patch, "content": layer.content.decode("utf-8", "surrogateescape")}
                    for layer in file.layers
                ],
            }
            for file in state.files
        ],
    }
