"""Applies the series of a pin to its work tree, and takes it back."""

import enum
from collections.abc import Callable
from dataclasses import dataclass

from overlay.errors import ConflictError, IntegrityError, NothingToDo, OverlayError
from overlay.git import Git
from overlay.layout import Layout
from overlay.mirror import Mirror, require_mirror
from overlay.objects import open_objects
from overlay.pins import Pin
from overlay.runlock import run_lock
from overlay.series import Lock, Series, read_series, recover_series
from overlay.stack import build_stack
from overlay.worktree import DISCARDED, WorkTree, find_work_tree


class Did(enum.StrEnum):
    """What `apply` did."""

    NOTHING = "nothing to do, already applied"
    APPLIED = "applied"
    ADOPTED = "the work tree already holds what the series gives"


@dataclass(frozen=True)
class Applied:
    """Result of `apply`: what was done, the number of patches, and the SHA they give."""

    did: Did
    patches: int
    commit: str


def apply(pin: Pin, layout: Layout, say: Callable[[str], None] = lambda note: None) -> Applied:
    """Brings the work tree of a pin to what its series gives, completely or not at all.

    Args:
        pin: The pin.
        layout: Where things lie.
        say: Takes notes for the user.

    Returns:
        What was done.

    Raises:
        OverlayError: The pin is not fetched, another run is under way, or something else is in the place of
            the work tree.
        IntegrityError: Patches, lock and upstream do not fit each other.
        ConflictError: A patch does not apply, or the work tree has edits.
    """
    tree = find_work_tree(pin, layout)
    with run_lock(layout.run_lock(pin), tree.shown):
        recover_series(layout.series(pin))
        mirror = require_mirror(pin, layout)
        series, lock = checked_series(pin, layout, mirror)
        if not tree.exists:
            return Applied(Did.APPLIED, len(series.patches), _make(tree, mirror, series, lock))
        open_for_changes(tree, mirror, say)
        did = _update(tree, mirror, series, lock)
        return Applied(did, len(series.patches), lock.applied)


def revert(pin: Pin, layout: Layout, *, force: bool = False, say: Callable[[str], None] = lambda note: None) -> str:
    """Takes the work tree back to plain upstream.

    Args:
        pin: The pin.
        layout: Where things lie.
        force: Discard edits; they stay reachable as `refs/overlay/discarded`.
        say: Takes notes for the user.

    Returns:
        SHA of the upstream commit.

    Raises:
        NothingToDo: Nothing is applied.
        ConflictError: The work tree has edits, and `force` was not given.
    """
    tree = find_work_tree(pin, layout)
    with run_lock(layout.run_lock(pin), tree.shown):
        if not tree.exists:
            raise NothingToDo(f"nothing to revert: {tree.shown} does not exist")
        open_for_changes(tree, None, say)
        if tree.edited():
            if not force:
                raise edits_in_the_way(tree)
            tree.keep_discarded()
            say(f"note: the discarded edits are kept: git -C {tree.shown} show {DISCARDED}")
        elif tree.current == tree.base:
            raise NothingToDo(f"nothing to revert: {tree.shown} is plain upstream at {tree.base}")
        tree.move(tree.base)
        return tree.base


def checked_series(pin: Pin, layout: Layout, mirror: Mirror) -> tuple[Series, Lock]:
    """Reads the series and its lock, and checks them against each other and against upstream.

    Raises:
        IntegrityError: They do not fit; names the patch or file.
    """
    folder = layout.series(pin)
    series = read_series(pin, folder, layout.shown(folder))
    lock = series.read_lock()
    series.check(lock)
    with open_objects(mirror.git.git_dir) as objects:
        series.check_upstream(lock, objects)
    return series, lock


def locked_stack(git: Git, series: Series, lock: Lock) -> list[str]:
    """Builds the commits of a series and compares the last one with the lock.

    Raises:
        ConflictError: A patch does not apply.
        IntegrityError: The result is not what the lock says.
    """
    commits = build_stack(git, series.pin.commit, series)
    result = commits[-1] if commits else series.pin.commit
    if result != lock.applied:
        raise IntegrityError(
            f"{series.shown}: applying gives {result}, the lock says {lock.applied}; restore the folder from "
            f"git, or if the change is meant run 'python apply_patch.py lock --pin {series.pin.name}'"
        )
    return commits


def open_for_changes(tree: WorkTree, mirror: Mirror | None, say: Callable[[str], None]) -> None:
    """Makes sure that an existing work tree can be used, and completes a killed move.

    Args:
        tree: The work tree.
        mirror: Where it shall borrow objects from; None leaves that as it is.
        say: Takes notes for the user.

    Raises:
        OverlayError: It cannot be used.
    """
    if mirror:
        tree.borrow_from(mirror)
    if problem := tree.problem():
        raise OverlayError(problem)
    if tree.recover():
        say(f"note: completed a change of {tree.shown} that an earlier run had left half-way")


def edits_in_the_way(tree: WorkTree) -> ConflictError:
    """Returns the error for a work tree with edits; names the files and the ways out."""
    name = tree.pin.name
    return ConflictError(
        f"{tree.shown} has edits in {', '.join(tree.edited())}; keep them with 'python apply_patch.py export "
        f"--pin {name}', or discard them with 'python apply_patch.py revert --force --pin {name}'"
    )


def _make(tree: WorkTree, mirror: Mirror, series: Series, lock: Lock) -> str:
    new = tree.partial
    new.create(mirror)
    locked_stack(new.git, series, lock)
    new.check_out(lock.applied)
    tree.replace_by(new)
    return lock.applied


def _update(tree: WorkTree, mirror: Mirror, series: Series, lock: Lock) -> Did:
    if not tree.matches_pin():
        _refuse_loss(tree)
        _make(tree, mirror, series, lock)
        return Did.APPLIED
    edited = tree.edited()
    if not edited and tree.current == lock.applied:
        return Did.NOTHING
    locked_stack(tree.git, series, lock)
    if not tree.changes(lock.applied, tree.snapshot()):
        tree.adopt(lock.applied)
        return Did.ADOPTED
    if edited:
        raise edits_in_the_way(tree)
    tree.move(lock.applied)
    return Did.APPLIED


def _refuse_loss(tree: WorkTree) -> None:
    """A work tree of another commit is made anew, so nothing in it may be the user's."""
    if tree.edited():
        raise edits_in_the_way(tree)
    if untracked := tree.untracked():
        raise ConflictError(
            f"{tree.shown} is for another upstream commit and must be made anew, but holds files of yours: "
            f"{', '.join(untracked)}; move them away, then run this again"
        )
