"""A run killed at any point leaves a state that the next run repairs.

Each test forks, kills the child before its n-th step, and lets the parent run the command again; n counts
up until the child is no longer killed. A step is a git command that changes a repository, or a change that
the tool itself makes to the file system; what lies between two steps only reads or adds unused objects.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_upstream import RUN_ONE, RUN_TWO, Project, Result, copy_project

FILE_STEPS = ((os, "replace"), (pathlib.Path, "rename"), (pathlib.Path, "unlink"))
GIT_STEPS = {"init", "fetch", "read-tree", "update-index", "update-ref", "symbolic-ref"}


def run_and_die(project: Project, step: int, *command: str) -> bool:
    """Runs a command in a child that dies before the given step; returns whether it got that far."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            _die_at(step)
            project.run(*command)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def _die_at(step: int) -> None:
    steps = iter(range(step))

    def counted(function: Callable[..., Any], counts: Callable[..., bool]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if counts(*args, **kwargs) and next(steps, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return wrapper

    def changes_something(process: object, args: list[str], **kwargs: Any) -> bool:
        in_scratch = "GIT_INDEX_FILE" in kwargs.get("env", {})
        return bool(GIT_STEPS & set(args)) and not in_scratch

    for owner, name in FILE_STEPS:
        setattr(owner, name, counted(getattr(owner, name), lambda *args, **kwargs: True))
    subprocess.Popen.__init__ = counted(subprocess.Popen.__init__, changes_something)  # type: ignore[method-assign]


def kill_everywhere(
    project: Project, folder: Path, command: str, *flags: str, check: Callable[[Project, Result], None]
) -> None:
    """Kills a command before each of its steps, runs it again, and checks what comes out."""
    for step in range(100):
        copy = copy_project(project, folder / str(step))
        if not run_and_die(copy, step, command, *flags):
            assert step >= 5
            return
        check(copy, copy.run(command, *flags))
    pytest.fail("the command has no end")


def is_applied(project: Project, again: Result) -> None:
    assert again.code == 0, again
    assert project.run("status", "--pin", "v1").out.startswith("v1 (default): applied: ")
    assert project.git("status", "--short") == ""


def test_fetch(unfetched: Project, tmp_path: Path) -> None:
    unfetched.cache.mkdir()

    def check(project: Project, again: Result) -> None:
        assert again.code == 0
        assert project.run("apply").code == 0

    kill_everywhere(unfetched, tmp_path, "fetch", check=check)


def test_first_apply(project: Project, tmp_path: Path) -> None:
    kill_everywhere(project, tmp_path, "apply", check=is_applied)


def test_apply_of_a_changed_series(applied: Project, tmp_path: Path) -> None:
    (applied.series / "series").write_text("01-one.patch\n")
    assert applied.run("lock").code == 0
    kill_everywhere(applied, tmp_path, "apply", check=is_applied)


def test_apply_at_another_commit(applied: Project, tmp_path: Path) -> None:
    pins = applied.root / "pins.toml"
    pins.write_text(pins.read_text().replace(applied.upstream.pinned, applied.upstream.commits[2]))
    for command in ("fetch", "lock"):
        assert applied.run(command).code == 0
    kill_everywhere(applied, tmp_path, "apply", check=is_applied)


def test_revert_of_edits(applied: Project, tmp_path: Path) -> None:
    applied.edit(RUN_ONE, added="precious = call()\n")

    def check(copy: Project, again: Result) -> None:
        assert again.code in (0, 4), again
        assert copy.run("status").out.startswith("v1 (default): fetched: ")
        assert "precious" in copy.git("show", f"refs/overlay/discarded:{RUN_ONE}")

    kill_everywhere(applied, tmp_path, "revert", "--force", check=check)


def test_export(applied: Project, tmp_path: Path) -> None:
    applied.edit(RUN_ONE, added="call()\n")
    applied.edit(RUN_TWO, added="call()\n")

    def check(copy: Project, again: Result) -> None:
        if again.code == 3:
            # The patches were complete, the work tree not yet declared theirs: applying does that.
            assert "was not made by the present series" in again.err
        is_applied(copy, copy.run("apply"))
        for path in (RUN_ONE, RUN_TWO):
            assert "call()" in (copy.tree / path).read_text()
        for name in ("01-one.patch", "02-two.patch"):
            assert "+call()" in (copy.series / name).read_text()

    kill_everywhere(applied, tmp_path, "export", check=check)


def test_git_killed_within_a_move(applied: Project) -> None:
    """What a power failure can leave: git's own lock files, under our journal."""
    die_within_a_move(applied)
    for name in ("index.lock", "HEAD.lock", "refs/heads/overlay.lock"):
        (applied.tree / ".git" / name).touch()
    status = applied.run("status", "--pin", "v1")
    assert status.out == (
        "v1 (default): broken: a change was left half-way; 'python apply_patch.py apply --pin v1' completes it\n"
    )
    again = applied.run("apply")
    assert again.err == "note: completed a change of build/v1 that an earlier run had left half-way\n"
    is_applied(applied, again)


def die_within_a_move(project: Project) -> None:
    for step in range(100):
        assert run_and_die(project, step, "revert")
        if (project.tree / ".git/overlay-move.json").exists():
            return


def test_a_file_edited_after_a_killed_move_is_kept(applied: Project) -> None:
    die_within_a_move(applied)
    (applied.tree / RUN_ONE).write_text("mine\n")
    refused = applied.run("apply")
    assert refused.code == 3
    assert refused.err == (
        f"apply_patch.py: error: build/v1/{RUN_ONE} is in the way: its content is neither the old nor the "
        "new; move it away, then run this again\n"
    )
    assert (applied.tree / RUN_ONE).read_text() == "mine\n"


def test_a_half_finished_replacement_is_named_by_readers(applied: Project) -> None:
    (applied.series / ".replacement").mkdir()
    (applied.series / ".replacement/series").write_text("01-one.patch\n")
    verify = applied.run("verify")
    assert verify.code == 6
    assert verify.err == (
        "apply_patch.py: error: patches/v1 is half replaced by a run that was killed; "
        "'python apply_patch.py apply --pin v1' completes it\n"
    )
