"""Makes the commit of a pin that is built from a folder of the project."""

import os
import stat
import tempfile
from pathlib import Path

from overlay.errors import IntegrityError, OverlayError
from overlay.git import COMMITTER, COMMITTER_EMAIL, Git, clear_stale_locks, init_repository
from overlay.layout import Layout
from overlay.mirror import Mirror, find_mirror
from overlay.pins import Pin
from overlay.runlock import run_lock

_IGNORED = {"__pycache__"}


def build_folder(pin: Pin, layout: Layout) -> Mirror:
    """Brings the mirror of a folder pin up to date.

    Args:
        pin: A pin with `tree`.
        layout: Where things lie.

    Returns:
        The mirror, which has the pin's commit.

    Raises:
        IntegrityError: The folder gives another commit than the pin names.
    """
    commit = commit_folder(pin, layout)
    if commit != pin.commit:
        raise IntegrityError(
            f"folder {pin.tree} gives commit {commit} but pins.toml pins {pin.commit}; undo the change of "
            f"the folder, or if it is meant run 'python apply_patch.py repin --pin {pin.name}'"
        )
    return find_mirror(pin, layout)


def commit_folder(pin: Pin, layout: Layout) -> str:
    """Commits the folder as it is into the pin's mirror.

    Author, committer and date are fixed and the executable bit is left out, so the SHA depends on the names
    and contents of the files alone.

    Args:
        pin: A pin with `tree`.
        layout: Where things lie.

    Returns:
        The commit's SHA.

    Raises:
        OverlayError: The folder is missing, is empty, or holds something other than plain files.
    """
    assert pin.tree is not None
    files = _plain_files(layout.project / pin.tree, pin.tree)
    path = layout.mirror(pin)
    with run_lock(path.with_suffix(".lock"), str(path)):
        clear_stale_locks(path)
        # Initialising again is harmless, and mends what a killed run left unfinished.
        return _commit(init_repository(path, bare=True), pin, files)


def _plain_files(root: Path, shown: str) -> dict[str, Path]:
    if not root.is_dir():
        raise OverlayError(f"folder {shown} does not exist; restore it from git")
    files: dict[str, Path] = {}
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _IGNORED]
        for name in names:
            path = Path(folder, name)
            relative = path.relative_to(root).as_posix()
            if not stat.S_ISREG(path.lstat().st_mode):
                raise OverlayError(f"{shown}/{relative} is no plain file; an upstream folder holds only those")
            files[relative] = path
    if not files:
        raise OverlayError(f"folder {shown} is empty; restore it from git")
    return files


def _commit(git: Git, pin: Pin, files: dict[str, Path]) -> str:
    names = sorted(files)
    listed = "".join(f"{files[name]}\n" for name in names).encode()
    blobs = git.text("hash-object", "-w", "--no-filters", "--stdin-paths", stdin=listed).split()
    entries = "".join(f"100644 {blob}\t{name}\0" for blob, name in zip(blobs, names, strict=True))
    with tempfile.TemporaryDirectory() as scratch:
        staged = git.with_index(Path(scratch, "index"))
        staged.run("update-index", "--add", "-z", "--index-info", stdin=entries.encode())
        tree = staged.text("write-tree")
    identity = {
        "GIT_AUTHOR_NAME": COMMITTER,
        "GIT_AUTHOR_EMAIL": COMMITTER_EMAIL,
        "GIT_AUTHOR_DATE": pin.timestamp,
        "GIT_COMMITTER_DATE": pin.timestamp,
    }
    commit = git.text("commit-tree", tree, stdin=f"Stand-in upstream {pin.tree}\n".encode(), env=identity)
    git.run("update-ref", f"refs/pins/{pin.name}", commit)
    return commit
