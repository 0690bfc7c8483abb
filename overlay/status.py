"""Says what state a pin is in, and verifies that patches, lock, upstream and work tree fit each other."""

import enum
from dataclasses import asdict, dataclass

from overlay.apply import checked_series, edits_in_the_way, locked_stack
from overlay.errors import IntegrityError, OverlayError
from overlay.layout import Layout
from overlay.mirror import find_mirror, require_mirror
from overlay.pins import Pin
from overlay.series import Lock, read_series
from overlay.stack import scratch_repository
from overlay.worktree import WorkTree, find_work_tree


class State(enum.StrEnum):
    """What a pin can be; the first that holds, from the bottom up, is reported."""

    NOT_FETCHED = "not fetched"
    FETCHED = "fetched"
    APPLIED = "applied"
    STALE = "stale"
    DIRTY = "dirty"
    BROKEN = "broken"


@dataclass(frozen=True)
class Report:
    """State of a pin.

    Attributes:
        pin: Its name.
        state: Its state.
        reason: Why it is in that state.
        commit: The pin's upstream commit.
        current: Commit of the work tree, if there is one.
        expected: Commit that applying the series gives, if the lock can be read.
        files: Edited files.
        untracked: Files in the work tree that git does not know.
    """

    pin: str
    state: State
    reason: str
    commit: str
    current: str | None = None
    expected: str | None = None
    files: tuple[str, ...] = ()
    untracked: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Returns the report for JSON."""
        return asdict(self)


def status(pin: Pin, layout: Layout) -> Report:
    """Reports the state of a pin; changes nothing, and raises nothing that it can report.

    Args:
        pin: The pin.
        layout: Where things lie.
    """
    tree = find_work_tree(pin, layout)
    broken = _broken(tree) if tree.exists else None
    if broken:
        return Report(pin.name, State.BROKEN, broken, pin.commit)
    lock, stale = _offline_lock(pin, layout)
    expected = lock.applied if lock else None
    if not tree.exists:
        state, reason = (State.STALE, stale) if stale else _fetch_state(pin, layout)
        return Report(pin.name, state, reason, pin.commit, expected=expected)
    files, current = tuple(tree.edited()), tree.current
    if files:
        state, reason = State.DIRTY, f"{len(files)} edited {'files' if len(files) > 1 else 'file'}"
    elif stale:
        state, reason = State.STALE, stale
    else:
        state, reason = _clean_state(tree, current, expected)
    return Report(pin.name, state, reason, pin.commit, current, expected, files, tuple(tree.untracked()))


@dataclass(frozen=True)
class Verified:
    """Result of `verify`: number of patches and of locked files, the SHA they give, and if it is applied."""

    patches: int
    files: int
    commit: str
    applied: bool


def verify(pin: Pin, layout: Layout) -> Verified:
    """Checks patches against the lock, the lock against upstream, and the work tree against applying anew.

    Args:
        pin: The pin.
        layout: Where things lie.

    Returns:
        What was checked.

    Raises:
        OverlayError: The pin is not fetched, or the work tree cannot be used.
        IntegrityError: Something differs.
        ConflictError: The work tree has edits, or a patch does not apply.
    """
    mirror = require_mirror(pin, layout)
    series, lock = checked_series(pin, layout, mirror)
    with scratch_repository(mirror) as git:
        locked_stack(git, series, lock)
    files = sum(len(patch.blobs) for patch in lock.patches.values())
    applied = _verify_work_tree(find_work_tree(pin, layout), lock)
    return Verified(len(series.patches), files, lock.applied, applied)


def script_path(pin: Pin, layout: Layout, name: str) -> str:
    """Returns the absolute path of a patched script.

    Raises:
        UsageError: The pin has no such script.
        OverlayError: The series is not applied.
    """
    script = pin.script(name)
    report = status(pin, layout)
    if report.state not in (State.APPLIED, State.DIRTY):
        raise OverlayError(
            f"pin {pin.name} is {report.state} ({report.reason}); run 'python apply_patch.py apply --pin {pin.name}'"
        )
    return str(layout.work_tree(pin).resolve() / script)


def _verify_work_tree(tree: WorkTree, lock: Lock) -> bool:
    if not tree.exists:
        return False
    if broken := _broken(tree):
        raise OverlayError(broken)
    if tree.edited():
        raise edits_in_the_way(tree)
    if tree.current == lock.applied:
        return True
    if tree.current == tree.base and tree.matches_pin():
        return False
    raise IntegrityError(
        f"{tree.shown} is at {tree.current} but the series gives {lock.applied}; "
        f"run 'python apply_patch.py apply --pin {tree.pin.name}'"
    )


def _broken(tree: WorkTree) -> str | None:
    if problem := tree.problem():
        return problem
    if tree.interrupted:
        return f"a change was left half-way; 'python apply_patch.py apply --pin {tree.pin.name}' completes it"
    return None


def _offline_lock(pin: Pin, layout: Layout) -> tuple[Lock | None, str | None]:
    """Returns the lock, and why it does not hold for the series, as far as that shows without upstream."""
    folder = layout.series(pin)
    lock = None
    try:
        series = read_series(pin, folder, layout.shown(folder))
        lock = series.read_lock()
        series.check(lock)
    except OverlayError as error:
        return lock, str(error)
    return lock, None


def _fetch_state(pin: Pin, layout: Layout) -> tuple[State, str]:
    if pin.tree is not None:
        return State.FETCHED, f"built from folder {pin.tree}; not applied"
    mirror = find_mirror(pin, layout)
    if mirror.is_ready:
        return State.FETCHED, "not applied"
    return (
        State.NOT_FETCHED,
        f"{mirror.git.git_dir} {'lacks the commit or files' if mirror.exists else 'does not exist'}",
    )


def _clean_state(tree: WorkTree, current: str, expected: str | None) -> tuple[State, str]:
    if not tree.matches_pin():
        return State.STALE, f"the work tree was made for another commit or other paths ({tree.base})"
    if current == expected:
        return State.APPLIED, "the work tree is what the series gives"
    if current == tree.base:
        return State.FETCHED, "the work tree is plain upstream"
    return State.STALE, "the series has changed since it was applied"
