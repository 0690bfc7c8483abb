"""Writes series and lock: from edits in the work tree, or anew for patches or a commit that have changed."""

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from overlay.apply import checked_series, locked_stack, open_for_changes
from overlay.errors import ConflictError, IntegrityError, NothingToDo, UsageError
from overlay.files import write_atomically
from overlay.folder import commit_folder
from overlay.git import COMMITTER, COMMITTER_EMAIL, Git
from overlay.layout import Layout
from overlay.mirror import Mirror, find_mirror, require_mirror
from overlay.objects import open_objects
from overlay.patchfile import Patch, parse_patch
from overlay.pins import Pin
from overlay.runlock import run_lock
from overlay.series import Lock, Series, make_lock, read_series, recover_series, write_series
from overlay.stack import build_stack, commit_tree, scratch_repository
from overlay.worktree import Change, WorkTree, find_work_tree

_NAME = re.compile(r"\d\d-[A-Za-z0-9_-]+")
# Everything that a user's or a version's default could change is said here: the same commit must give the
# same bytes everywhere. The index lines stay, because 3-way merging needs them.
_FORMAT = (
    "format-patch",
    "-1",
    "--stdout",
    "--keep-subject",
    "--zero-commit",
    "--full-index",
    "--no-signature",
    "--no-stat",
    "--no-renames",
    "--no-color",
    "--no-ext-diff",
    "--diff-algorithm=myers",
    "--unified=3",
    "--src-prefix=a/",
    "--dst-prefix=b/",
)


@dataclass(frozen=True)
class Request:
    """What the user asked `export` for.

    Attributes:
        patch: Name of the patch for edits that no patch owns, with or without `.patch`.
        subject: Its subject; needed for a new patch.
        description: Its description; needed for a new patch.
        drop: Names of patches that may become empty and are then removed.
        paths: Export the edits under these paths only, into `patch` if that is given.
    """

    patch: str | None = None
    subject: str | None = None
    description: str | None = None
    drop: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exported:
    """Result of an export: SHA of the new series, and the files of the patch folder that changed."""

    commit: str
    changed: list[str]
    series: Series


@dataclass(frozen=True)
class Layer:
    """A patch to be written: its message and author, and the files it shall change."""

    patch: Patch
    changes: dict[str, Change]


def export(pin: Pin, layout: Layout, request: Request, say: Callable[[str], None] = lambda note: None) -> Exported:
    """Turns the edits in the work tree into patches, and writes series and lock.

    Edits of a file go to the last patch that touches it; those of any other file to the patch that the
    request names. The patches come from file contents alone, so it does not matter whether the user has
    committed. Files that git does not track are left out: `git add` says that one is meant.

    Args:
        pin: The pin.
        layout: Where things lie.
        request: What the user asked for.
        say: Takes notes for the user.

    Returns:
        What was written. The work tree is then the one that applying the new series gives.

    Raises:
        NothingToDo: There is nothing to export.
        UsageError: A file is in no patch and the request names none, or names an unsuitable one.
        ConflictError: The work tree was not made by the present series, or a patch would become empty.
    """
    tree = find_work_tree(pin, layout)
    with run_lock(layout.run_lock(pin), tree.shown):
        recover_series(layout.series(pin))
        mirror = require_mirror(pin, layout)
        series, lock = checked_series(pin, layout, mirror)
        _require_applied(tree, mirror, lock, say)
        layers = _layers(tree, series, locked_stack(tree.git, series, lock))
        layers = _with_edits(layers, series, _selected(tree, request), request)
        exported = _write(tree.git, mirror, series, layers, drop=request.drop)
        tree.adopt(exported.commit)
        return exported


def relock(pin: Pin, layout: Layout) -> Exported:
    """Writes the lock anew for patches that were changed by hand.

    Raises:
        ConflictError: A patch does not apply.
    """
    with run_lock(layout.run_lock(pin), f"pin {pin.name}"):
        folder = layout.series(pin)
        recover_series(folder)
        mirror = require_mirror(pin, layout)
        series = read_series(pin, folder, layout.shown(folder))
        with scratch_repository(mirror) as git:
            commits = build_stack(git, pin.commit, series)
        return _store(mirror, series, series.patches, commits[-1] if commits else pin.commit)


def repin(pin: Pin, layout: Layout, pins_file: Path) -> Exported:
    """Moves a pin that is built from a folder to the folder's present content.

    The patches are applied to the new commit and written anew, then the pin's commit in `pins.toml` changes.

    Args:
        pin: A pin with `tree`.
        layout: Where things lie.
        pins_file: The `pins.toml` to edit.

    Returns:
        What was written.

    Raises:
        UsageError: The pin is not built from a folder.
        ConflictError: A patch no longer applies; nothing was changed.
    """
    if pin.tree is None:
        raise UsageError(f"pin {pin.name} is fetched from {pin.upstream}; repin is for pins built from a folder")
    with run_lock(layout.run_lock(pin), f"pin {pin.name}"):
        folder = layout.series(pin)
        recover_series(folder)
        moved = replace(pin, commit=commit_folder(pin, layout))
        series = read_series(moved, folder, layout.shown(folder))
        mirror = find_mirror(moved, layout)
        with scratch_repository(mirror) as git:
            parents = [moved.commit, *build_stack(git, moved.commit, series)]
            patches = [
                _format(git, commit, series, patch) for commit, patch in zip(parents[1:], series.patches, strict=True)
            ]
        exported = _store(mirror, series, patches, parents[-1])
        if moved.commit != pin.commit:
            _replace_commit(pins_file, pin.commit, moved.commit, pin)
    return exported


def _require_applied(tree: WorkTree, mirror: Mirror, lock: Lock, say: Callable[[str], None]) -> None:
    name = tree.pin.name
    if not tree.exists:
        raise NothingToDo(f"{tree.shown} does not exist; run 'python apply_patch.py apply --pin {name}' and edit it")
    open_for_changes(tree, mirror, say)
    if not tree.matches_pin() or tree.current != lock.applied:
        raise ConflictError(
            f"{tree.shown} was not made by the present series of pin {name}; save any edits with "
            f"'git -C {tree.shown} diff > edits.diff', run 'revert --force' and 'apply', and apply them again"
        )


def _selected(tree: WorkTree, request: Request) -> dict[str, Change]:
    """Returns the edits that the request covers."""
    edits = {change.path: change for change in tree.changes(tree.current, tree.snapshot())}
    if request.paths:
        tops = [path.rstrip("/") for path in request.paths]
        edits = {
            path: change
            for path, change in edits.items()
            if any(path == top or path.startswith(f"{top}/") for top in tops)
        }
    if not edits and not (request.subject or request.description):
        hint = f"; new files count once they are added: git -C {tree.shown} add FILE" if tree.untracked() else ""
        raise NothingToDo(f"{tree.shown} has no edits to export{hint}")
    return edits


def _layers(tree: WorkTree, series: Series, commits: Sequence[str]) -> list[Layer]:
    parents = [series.pin.commit, *commits]
    return [
        Layer(patch, {change.path: change for change in tree.changes(parent, commit)})
        for patch, parent, commit in zip(series.patches, parents, commits, strict=False)
    ]


def _with_edits(layers: list[Layer], series: Series, edits: dict[str, Change], request: Request) -> list[Layer]:
    """Gives each edit to the layer it belongs to."""
    layers = _with_named(layers, series, request)
    titles = [layer.patch.title for layer in layers]
    named = titles.index(request.patch.removesuffix(".patch")) if request.patch else None
    for path, edit in edits.items():
        if not series.pin.covers(path):
            raise UsageError(f"{path} is not under any 'checkout' path of pin {series.pin.name} in pins.toml")
        owner = max((i for i, layer in enumerate(layers) if path in layer.changes), default=None)
        target = named if owner is None or (request.paths and named is not None) else owner
        if target is None:
            raise UsageError(
                f"{path} is in no patch of {series.shown}; name one with --patch NN-name, and give a new one "
                "a --subject and a --description"
            )
        if owner is not None and target < owner:
            raise UsageError(
                f"{path} is changed again by {titles[owner]}, so edits of it cannot go to {titles[target]}; "
                "leave out --patch"
            )
        layers[target].changes[path] = edit
    return layers


def _with_named(layers: list[Layer], series: Series, request: Request) -> list[Layer]:
    """Adds the patch that the request names, or changes its message."""
    if request.patch is None:
        if request.subject or request.description:
            raise UsageError("--subject and --description need --patch to say which patch they are for")
        return layers
    title = request.patch.removesuffix(".patch")
    message = {key: value for key in ("subject", "description") if (value := getattr(request, key))}
    if any(layer.patch.title == title for layer in layers):
        return [
            replace(layer, patch=replace(layer.patch, **message)) if layer.patch.title == title else layer
            for layer in layers
        ]
    if not _NAME.fullmatch(title):
        raise UsageError(f"--patch {request.patch!r}: a patch is named NN-name, e.g. 08-run_ner")
    if len(message) < 2:
        raise UsageError(f"--patch {title} is new to {series.shown}: give it a --subject and a --description")
    new = Patch(
        name=f"{title}.patch",
        raw=b"",
        author=COMMITTER,
        author_email=COMMITTER_EMAIL,
        date=series.pin.timestamp,
        files=(),
        **message,
    )
    return [*layers, Layer(new, {})]


def _write(git: Git, mirror: Mirror, series: Series, layers: list[Layer], drop: Sequence[str] = ()) -> Exported:
    """Commits the layers and writes the folder."""
    patches, commit = commit_layers(git, series, layers, drop)
    return _store(mirror, series, patches, commit)


def commit_layers(git: Git, series: Series, layers: Sequence[Layer], drop: Sequence[str]) -> tuple[list[Patch], str]:
    """Commits layers on the commit of a series' pin, and formats the commits.

    Args:
        git: Repository to write to.
        series: The series; its patches are not looked at.
        layers: The patches to be written, in order.
        drop: Names of patches that may be empty and are then left out.

    Returns:
        The patches, and the SHA that applying them gives.

    Raises:
        ConflictError: A patch is empty.
    """
    patches: list[Patch] = []
    parent = base = series.pin.commit
    droppable = {name.removesuffix(".patch") for name in drop}
    with tempfile.TemporaryDirectory() as scratch:
        staged = git.with_index(Path(scratch, "index"))
        staged.run("read-tree", parent)
        for layer in layers:
            tree = _stage(staged, layer)
            if tree == git.text("rev-parse", f"{parent}^{{tree}}"):
                if layer.patch.title not in droppable:
                    raise ConflictError(
                        f"{series.patch_path(layer.patch)} would become empty; if it shall go, add "
                        f"--drop {layer.patch.title}"
                    )
                continue
            parent = commit_tree(git, tree, parent, layer.patch)
            patches.append(_format(git, parent, series, layer.patch))
    again = build_stack(git, base, replace(series, patches=tuple(patches)))
    if (again[-1] if again else base) != parent:
        raise IntegrityError(
            f"{series.shown}: the patches do not give the commits they were made from; nothing was written"
        )
    return patches, parent


def _stage(staged: Git, layer: Layer) -> str:
    entries = "".join(f"{change.mode} {change.blob or '0' * 40}\t{path}\0" for path, change in layer.changes.items())
    staged.run("update-index", "--add", "-z", "--index-info", stdin=entries.encode())
    return staged.text("write-tree", "--missing-ok")


def _format(git: Git, commit: str, series: Series, patch: Patch) -> Patch:
    raw = git.run(*_FORMAT, commit)
    return parse_patch(patch.name, raw, series.patch_path(patch))


def _store(mirror: Mirror, series: Series, patches: Sequence[Patch], applied: str) -> Exported:
    with open_objects(mirror.git.git_dir) as objects:
        lock = make_lock(mirror.pin, patches, applied, objects)
    changed = write_series(series, patches, lock)
    return Exported(applied, changed, replace(series, patches=tuple(patches)))


def _replace_commit(pins_file: Path, old: str, new: str, pin: Pin) -> None:
    text = pins_file.read_text(encoding="utf-8")
    if text.count(old) != 1:
        raise UsageError(
            f"{pins_file} names commit {old} {text.count(old)} times; set pins.{pin.name} to {new} by hand"
        )
    write_atomically(pins_file, text.replace(old, new).encode())
