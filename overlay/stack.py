"""Turns patches into commits, without any work tree."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from overlay.errors import ConflictError, OverlayError
from overlay.files import write_atomically
from overlay.git import Git, GitError, init_repository
from overlay.mirror import Mirror
from overlay.patchfile import Patch
from overlay.series import Series

_FAILED = re.compile(r"^error: patch failed: (?P<path>.+):(?P<line>\d+)$", re.MULTILINE)
_ABSENT = re.compile(r"^error: (?P<path>.+): does not exist in index$", re.MULTILINE)
_PRESENT = re.compile(r"^error: (?P<path>.+): already exists in index$", re.MULTILINE)


def build_stack(git: Git, base: str, series: Series) -> list[str]:
    """Makes one commit per patch on top of a commit.

    The commits lie in the repository with nothing pointing to them, so a run that ends half-way has changed
    nothing. They depend only on `base` and the patches: the committer is fixed and commits on the author's
    date.

    Args:
        git: Repository to write to.
        base: Commit to begin at.
        series: The patches.

    Returns:
        The SHAs, one per patch.

    Raises:
        ConflictError: A patch does not apply; names it, the file and the hunk.
    """
    commits: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        staged = git.with_index(Path(scratch, "index"))
        staged.run("read-tree", base)
        for patch in series.patches:
            try:
                staged.run("apply", "--cached", "--whitespace=nowarn", "-", stdin=patch.raw)
            except GitError as error:
                raise _explain(series, patch, base, error) from None
            # Other files of upstream are missing from a partial clone, and do not matter here.
            tree = staged.text("write-tree", "--missing-ok")
            commits.append(commit_tree(git, tree, commits[-1] if commits else base, patch))
    return commits


@contextmanager
def scratch_repository(mirror: Mirror) -> Iterator[Git]:
    """Gives a temporary repository that can read the mirror's objects."""
    with tempfile.TemporaryDirectory() as folder:
        git = init_repository(Path(folder), bare=True)
        borrow_objects(git, mirror)
        yield git


def borrow_objects(git: Git, mirror: Mirror) -> None:
    """Lets a repository read the mirror's objects, with history cut off at the pin's commit.

    The mirror may have no history beyond that commit; cutting it off makes that no error.
    """
    (git.git_dir / "shallow").write_text(f"{mirror.pin.commit}\n")
    wanted = f"{mirror.git.git_dir.resolve() / 'objects'}\n"
    alternates = git.git_dir / "objects" / "info" / "alternates"
    alternates.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(alternates, wanted.encode())


def commit_tree(git: Git, tree: str, parent: str, patch: Patch) -> str:
    """Commits a tree with the message, author and date of a patch; returns the SHA."""
    return write_commit(git, tree, parent, patch.message, patch.author, patch.author_email, patch.date)


def write_commit(git: Git, tree: str, parent: str, message: str, author: str, address: str, date: str) -> str:
    """Commits a tree by the fixed committer on the author's date; returns the SHA."""
    env = {
        "GIT_AUTHOR_NAME": author,
        "GIT_AUTHOR_EMAIL": address,
        "GIT_AUTHOR_DATE": date,
        "GIT_COMMITTER_DATE": date,
    }
    return git.text("commit-tree", tree, "-p", parent, stdin=message.encode(), env=env)


def _explain(series: Series, patch: Patch, base: str, error: GitError) -> OverlayError:
    """Tells a patch that does not fit, which is a conflict, from everything else, such as a full disk."""
    where = f"{series.patch_path(patch)} no longer applies at {base[:12]}"
    redo = "make the patch anew, see patches/README.md"
    if match := _FAILED.search(error.stderr):
        path, line = match["path"], int(match["line"])
        hunks = next((diff.hunks for diff in patch.files if diff.path == path), ())
        number = next((hunk.number for hunk in hunks if hunk.old_start == line), "?")
        return ConflictError(
            f"{where}: {path}, hunk {number} of {len(hunks)} (line {line}): its context has changed; {redo}"
        )
    if match := _ABSENT.search(error.stderr):
        return ConflictError(f"{where}: {match['path']}, hunk 1: the file does not exist there; {redo}")
    if match := _PRESENT.search(error.stderr):
        return ConflictError(f"{where}: {match['path']}, hunk 1: the file to add exists already; {redo}")
    return OverlayError(f"{series.patch_path(patch)}: {error}")
