"""Makes a new pin: carries a series to a later upstream commit, and writes series, lock and pins.toml entry.

A rebase that needs no help is one step, all or nothing. One that does leaves a folder with the files, in which git's
ordinary conflict markers stand where a hunk found no place, and a state file; `--continue` takes the files as they are
then, `--abort` forgets them.
"""

import datetime
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from overlay.apply import checked_series
from overlay.carry import PatchedFile, Verdict
from overlay.drift import Carried, needing, patched_files, walk
from overlay.errors import ConflictError, NothingToDo, UsageError
from overlay.export import Layer, commit_layers
from overlay.fetch import fetch
from overlay.files import discard, write_atomically
from overlay.git import Git
from overlay.history import read_blobs, require_descendant, resolve
from overlay.layout import Layout
from overlay.mirror import Mirror, require_mirror
from overlay.objects import open_objects
from overlay.patchfile import Patch
from overlay.pins import Pin, Pins, check_new_name
from overlay.rebase_state import Request, State, edited, leave_to_user, read_state, waits
from overlay.runlock import run_lock
from overlay.series import LOCK_FILE, SERIES_FILE, Series, make_lock, read_series
from overlay.stack import scratch_repository
from overlay.worktree import Change

_VERSION = re.compile(r'^__version__ = "(\d+\.\d+\.\d+)', re.MULTILINE)
_VERSION_FILE = "src/transformers/__init__.py"


@dataclass(frozen=True)
class Rebased:
    """The new pin, the SHA that applying its series gives, and a line on each hunk that was not simply carried."""

    pin: Pin
    applied: str
    patches: int
    notes: tuple[str, ...]


def rebase(
    pin: Pin, pins: Pins, layout: Layout, request: Request, say: Callable[[str], None] = lambda note: None
) -> Rebased:
    """Carries a pin's series to a later commit as a new pin.

    Args:
        pin: The pin to begin at.
        pins: All pins.
        layout: Where things lie.
        request: What the user asked for.
        say: Takes notes for the user.

    Raises:
        UsageError: The name is taken, or the commit does not exist or is not a descendant.
        ConflictError: A hunk needs the user; the files are in the rebase folder. Or another rebase waits there.
    """
    check_new_name(request.name, pins)
    _check_folder(pin, pins, layout, request.name)
    with run_lock(layout.rebase_lock, "a rebase"):
        if waits(layout):
            raise ConflictError(f"a rebase waits in {layout.shown(layout.rebase)}; end it with --continue or --abort")
        discard(layout.rebase)
        mirror = require_mirror(pin, layout)
        if pin.upstream is None:
            raise UsageError(f"pin {pin.name} is built from a folder, which has no history; use 'repin'")
        series, _ = checked_series(pin, layout, mirror)
        tip = resolve(mirror.git, request.to)
        require_descendant(mirror.git, pin.commit, tip)
        carried = Carried(patched_files(mirror.git, pin.commit, series))
        walk(mirror.git, carried, pin.commit, tip, needing(mirror, request.source, say))
        notes = tuple(_notes(carried))
        request = replace(request, library=request.library or _library(mirror, tip, request, say))
        dropped = _names(request.drop, series)
        files = _without_dropped(carried.files.values(), dropped)
        state = State(request, pin.name, tip, notes, files, {})
        broken = [
            (commit, outcome)
            for commit, outcome in carried.broken.values()
            if outcome.hunk.path in carried.files and outcome.hunk.patch not in dropped
        ]
        if broken:
            leave_to_user(mirror.git, layout, state, {outcome.hunk.path for _, outcome in broken})
            told = " | ".join(f"{outcome.hunk}: {outcome}, by {commit}" for commit, outcome in broken)
            raise ConflictError(
                f"{len(broken)} hunks need you: {told}. Edit the files in "
                f"{layout.shown(layout.rebase)}, then run 'python apply_patch.py rebase --continue', or --abort"
            )
        return _finish(mirror, pins, layout, series, state)


def continue_rebase(pins: Pins, layout: Layout, drop: Sequence[str] = ()) -> Rebased:
    """Finishes a rebase with the files as the user has left them.

    Raises:
        NothingToDo: None waits.
        ConflictError: A file that needs the user is as it was left to him, has conflict markers, or does not parse.
    """
    with run_lock(layout.rebase_lock, "a rebase"):
        state = read_state(layout)
        made = pins.by_name.get(state.request.name)
        if made is not None and made.commit == state.tip:
            # The last run was killed when all was done but this.
            discard(layout.rebase)
            applied = read_series(made, layout.series(made), made.patches).read_lock()
            return Rebased(made, applied.applied, len(applied.patches), state.notes)
        check_new_name(state.request.name, pins)
        pin = pins.get(state.old)
        mirror = require_mirror(pin, layout)
        series, _ = checked_series(pin, layout, mirror)
        request = replace(state.request, drop=(*state.request.drop, *drop))
        kept = _without_dropped(state.files, _names(request.drop, series))
        files = tuple(edited(layout, file, state.left) for file in kept)
        done = _finish(mirror, pins, layout, series, replace(state, request=request, files=files))
        discard(layout.rebase)
        return done


def abort_rebase(layout: Layout) -> str:
    """Forgets a rebase that waits; returns the name the pin would have had.

    Raises:
        NothingToDo: None waits.
    """
    with run_lock(layout.rebase_lock, "a rebase"):
        state = read_state(layout)
        discard(layout.rebase)
        return state.request.name


def _series_folder(old: Pin, name: str) -> str:
    """Where the series of a new pin goes: beside that of the old one."""
    return str(PurePosixPath(old.patches).parent / name)


def _check_folder(old: Pin, pins: Pins, layout: Layout, name: str) -> None:
    """Checks that the new series takes no other pin's place, and nothing that a killed run has not left.

    Raises:
        UsageError: Something is there.
    """
    folder = _series_folder(old, name)
    owners = [pin.name for pin in pins.by_name.values() if pin.patches == folder]
    path = layout.project / folder
    if owners or (path.exists() and not (path / LOCK_FILE).is_file()):
        whose = f"is the series of pin {owners[0]}" if owners else "exists, and is no series"
        raise UsageError(f"--as {name}: {folder} {whose}; choose another name, or move it away")


def _notes(carried: Carried) -> list[str]:
    """What the user should know of hunks that did not come through by themselves."""
    notes = [
        f"{outcome.hunk}: {outcome}, {step.commit}"
        for step in carried.steps
        for outcome in step.outcomes
        if outcome.verdict is Verdict.SYNTAX or (outcome.renamed_to and outcome.verdict.survives)
    ]
    return notes + [f"{outcome.hunk}: {outcome}, by {commit}" for commit, outcome in carried.broken.values()]


def _names(drop: Sequence[str], series: Series) -> set[str]:
    """File names of the patches to be left out.

    Raises:
        UsageError: The series has no such patch.
    """
    names = {f"{name.removesuffix('.patch')}.patch" for name in drop}
    known = {patch.name for patch in series.patches}
    for name in sorted(names - known):
        raise UsageError(f"--drop {name.removesuffix('.patch')}: {series.shown} has {', '.join(sorted(known))}")
    return names


def _without_dropped(files: Iterable[PatchedFile], dropped: set[str]) -> tuple[PatchedFile, ...]:
    """Leaves files out that only dropped patches touch."""
    return tuple(file for file in files if not all(layer.patch in dropped for layer in file.layers))


def _library(mirror: Mirror, tip: str, request: Request, say: Callable[[str], None]) -> str:
    """The library that upstream's source says it is, as a released version."""
    listed = mirror.git.records("ls-tree", "-z", "--full-tree", tip, "--", _VERSION_FILE)
    if listed:
        blob = listed[0].split()[2]
        needing(mirror, request.source, say)([blob])
        if match := _VERSION.search(read_blobs(mirror.git, [blob])[blob].decode()):
            say(f"note: the library is transformers=={match[1]}, as upstream's source says; correct it with --library")
            return f"transformers=={match[1]}"
    raise UsageError(f"upstream's {_VERSION_FILE} names no version at {tip[:12]}; give the library with --library")


def _finish(mirror: Mirror, pins: Pins, layout: Layout, series: Series, state: State) -> Rebased:
    """Writes the new series and its entry in pins.toml."""
    old, request, git = series.pin, state.request, mirror.git
    pin = _new_pin(git, old, state)
    fetch(pin, layout, request.source)
    dropped = _names(request.drop, series)
    names = {layer.patch for file in state.files for layer in file.layers}
    gone = [patch.name for patch in series.patches if patch.name not in names]
    if not names:
        raise NothingToDo(f"nothing is left of pin {old.name} at {state.tip[:12]}: upstream deleted every patched file")
    wanted = [patch for patch in series.patches if patch.name in names]
    new = Series(pin, layout.series(pin), layout.shown(layout.series(pin)), ())
    with scratch_repository(Mirror(pin, git)) as scratch:
        layers = [Layer(patch, _changes(scratch, pin.commit, patch, state.files)) for patch in wanted]
        patches, applied = commit_layers(scratch, new, layers, request.drop)
    for patch in patches:
        if patch.name in dropped:
            raise UsageError(f"--drop {patch.title}: other patches change its files, too; undo its edits by hand")
    gone += [patch.name for patch in wanted if patch.name not in {made.name for made in patches}]
    _write(mirror, layout, series, replace(new, patches=tuple(patches)), applied)
    notes = (*state.notes, *(f"{name}: left out, upstream deleted its files or --drop names it" for name in gone))
    return Rebased(pin, applied, len(patches), notes)


def _changes(git: Git, commit: str, patch: Patch, files: Iterable[PatchedFile]) -> dict[str, Change]:
    """What a patch makes of the files at the new commit."""
    changes = {}
    for file in files:
        for layer in file.layers:
            if layer.patch == patch.name:
                mode = git.records("ls-tree", "-z", "--full-tree", commit, "--", file.path)[0].split()[0]
                blob = git.text("hash-object", "-w", "--stdin", stdin=layer.content)
                changes[file.path] = Change(file.path, mode, None, blob)
    return changes


def _new_pin(git: Git, old: Pin, state: State) -> Pin:
    """The pin as pins.toml will have it: paths that upstream renamed follow, those it deleted go."""
    moved = {file.origin: file.path for file in state.files}
    tip = state.tip

    def exists(path: str) -> bool:
        return bool(git.records("ls-tree", "-z", "--name-only", "--full-tree", tip, "--", path))

    scripts = {name: moved.get(path, path) for name, path in old.scripts.items()}
    scripts = {name: path for name, path in scripts.items() if exists(path)}
    checkout = [path for path in old.checkout if exists(path)]
    for path in [*moved.values(), *scripts.values()]:
        folder = str(PurePosixPath(path).parent)
        if old.checkout and not any(path == top or path.startswith(f"{top}/") for top in checkout):
            checkout.append(path if folder == "." else folder)
    date = datetime.date.fromisoformat(git.text("show", "-s", "--format=%cs", tip))
    return Pin(
        name=state.request.name,
        commit=tip,
        date=date,
        library=state.request.library or old.library,
        patches=_series_folder(old, state.request.name),
        checkout=tuple(sorted(set(checkout))),
        scripts=scripts,
        upstream=old.upstream,
    )


def _write(mirror: Mirror, layout: Layout, old: Series, new: Series, applied: str) -> None:
    """Writes the folder of the series under a temporary name, renames it, and names it in pins.toml last."""
    with open_objects(mirror.git.git_dir) as objects:
        lock = make_lock(new.pin, new.patches, applied, objects)
    comment = [line for line in (old.folder / SERIES_FILE).read_text().splitlines() if line.startswith("#")]
    partial = new.folder.with_name(f".{new.folder.name}.partial")
    discard(partial)
    partial.mkdir(parents=True)
    for patch in new.patches:
        (partial / patch.name).write_bytes(patch.raw)
    listed = "".join(f"{line}\n" for line in [*comment, *(patch.name for patch in new.patches)])
    (partial / SERIES_FILE).write_text(listed)
    (partial / LOCK_FILE).write_bytes(lock.to_json())
    # No pin has this folder, so what is there comes from a run that was killed between the two steps.
    discard(new.folder)
    partial.rename(new.folder)
    pins_file = layout.project / "pins.toml"
    write_atomically(pins_file, f"{pins_file.read_text().rstrip()}\n\n{_toml(new.pin)}".encode())


def _toml(pin: Pin) -> str:
    """The pin's tables in pins.toml."""
    key = pin.name if re.fullmatch(r"[A-Za-z0-9_-]+", pin.name) else json.dumps(pin.name)
    lines = [f"[pins.{key}]", f"upstream = {json.dumps(pin.upstream)}", f"commit = {json.dumps(pin.commit)}"]
    lines += [f"date = {pin.date}", f"library = {json.dumps(pin.library)}", f"patches = {json.dumps(pin.patches)}"]
    if pin.checkout:
        lines += ["checkout = [", *(f"    {json.dumps(path)}," for path in pin.checkout), "]"]
    lines += ["", f"[pins.{key}.scripts]", *(f"{name} = {json.dumps(path)}" for name, path in pin.scripts.items())]
    return "\n".join(lines) + "\n"
