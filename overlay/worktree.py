"""The patched checkout in `build/<pin>/`: a small repository of its own that borrows upstream's objects.

Its state is kept in git's own terms:

    refs/overlay/base       the pin's commit
    refs/overlay/current    the commit this tool last moved to; equal to base when nothing is applied
    refs/heads/overlay      the branch that is checked out
    refs/overlay/discarded  what the last `revert --force` threw away

What the user has changed is found by content: the tracked files against `current`, whether or not the
difference was committed.

Files change in two ways only. A new work tree is made under a temporary name and renamed when it is
complete. An existing one is moved from one tree to another under a journal; since each file is replaced by
renaming, a killed move leaves files that hold either their old or their new content, and the next run
completes it.
"""

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from overlay.errors import ConflictError
from overlay.files import discard, write_atomically
from overlay.git import COMMITTER, COMMITTER_EMAIL, Git, clear_stale_locks, init_repository
from overlay.layout import Layout
from overlay.mirror import Mirror
from overlay.pins import Pin
from overlay.stack import borrow_objects, write_commit

BASE = "refs/overlay/base"
CURRENT = "refs/overlay/current"
BRANCH = "refs/heads/overlay"
DISCARDED = "refs/overlay/discarded"
_JOURNAL = "overlay-move.json"
_NULL = "0" * 40


@dataclass(frozen=True)
class Change:
    """A file that differs between two trees.

    Attributes:
        path: Its path.
        mode: Its new mode, e.g. `100644`.
        old_blob: Its blob in the first tree, or None.
        blob: Its blob in the second tree, or None.
    """

    path: str
    mode: str
    old_blob: str | None
    blob: str | None


@dataclass(frozen=True)
class WorkTree:
    """The work tree of one pin, which need not exist.

    Attributes:
        pin: The pin.
        path: Its folder.
        shown: The folder as error texts show it.
    """

    pin: Pin
    path: Path
    shown: str

    @property
    def git(self) -> Git:
        """Runner for its repository."""
        return Git(self.path / ".git", self.path)

    @property
    def exists(self) -> bool:
        """Whether there is anything at its place."""
        return self.path.exists()

    @property
    def base(self) -> str:
        """The upstream commit it was made from."""
        return self.git.text("rev-parse", BASE)

    @property
    def current(self) -> str:
        """The commit this tool last moved it to."""
        return self.git.text("rev-parse", CURRENT)

    @property
    def interrupted(self) -> bool:
        """Whether a move was killed and is not yet completed."""
        return self._journal.is_file()

    @property
    def partial(self) -> "WorkTree":
        """The temporary place where a new one is made."""
        return WorkTree(self.pin, self.path.with_name(f".{self.path.name}.partial"), self.shown)

    def problem(self) -> str | None:
        """Says why it cannot be used, or returns None."""
        again = f"run 'python apply_patch.py apply --pin {self.pin.name}'"
        git_dir = self.path / ".git"
        if not (git_dir / "HEAD").is_file() or not self.git.succeeds("rev-parse", "--quiet", "--verify", CURRENT):
            return f"{self.shown} is no work tree of this tool; move it away or delete it, then {again}"
        if not self._borrowed.is_dir():
            return f"{self.shown} needs the mirror {self._borrowed}, which is gone; fetch it, then {again}"
        if not self.git.succeeds("rev-parse", "--quiet", "--verify", f"{CURRENT}^{{tree}}"):
            return f"{self.shown} lacks objects; move it away or delete it, then {again}"
        return None

    def matches_pin(self) -> bool:
        """Says whether it was made for the commit and the paths that the pin has now."""
        return self.base == self.pin.commit and self._patterns.read_text() == _sparse_patterns(self.pin)

    def snapshot(self) -> str:
        """Writes the tracked files as they are on disk as a tree; returns its id."""
        return self._index_tree(update=True)

    def edited(self) -> list[str]:
        """Returns the tracked files that differ from what was applied."""
        return [change.path for change in self.changes(CURRENT, self.snapshot())]

    def untracked(self) -> list[str]:
        """Returns the files that git does not know and does not ignore."""
        return self.git.records("ls-files", "-z", "--others", "--exclude-standard")

    def changes(self, old: str, new: str) -> list[Change]:
        """Returns the files that differ between two commits or trees."""
        fields = self.git.records("diff-tree", "-r", "-z", "--raw", "--no-renames", "--no-abbrev", old, new)
        found: list[Change] = []
        for header, path in zip(fields[::2], fields[1::2], strict=True):
            _, mode, old_blob, blob, _ = header.split(" ")
            found.append(Change(path, mode, _blob_or_none(old_blob), _blob_or_none(blob)))
        return found

    def create(self, mirror: Mirror) -> None:
        """Makes its repository, with nothing checked out yet."""
        discard(self.path)
        git = init_repository(self.git.git_dir, bare=False)
        git.run("config", "core.sparseCheckout", "true" if self.pin.checkout else "false")
        git.run("config", "core.sparseCheckoutCone", "false")
        self._patterns.write_text(_sparse_patterns(self.pin))
        (git.git_dir / "info" / "exclude").write_text("__pycache__/\n")
        borrow_objects(git, mirror)

    def borrow_from(self, mirror: Mirror) -> None:
        """Points it to the mirror if its own is gone, as after a change of the cache folder."""
        if (self.git.git_dir / "objects").is_dir() and not self._borrowed.is_dir():
            borrow_objects(self.git, mirror)

    def check_out(self, commit: str) -> None:
        """Fills a work tree that has just been created."""
        self.git.run("symbolic-ref", "HEAD", BRANCH)
        self.git.run("read-tree", "-m", "-u", commit)
        self.git.run("update-ref", BASE, self.pin.commit)
        self._set_refs(commit)

    def replace_by(self, other: "WorkTree") -> None:
        """Puts a complete work tree in this one's place; what was here is deleted."""
        old = self.path.with_name(f".{self.path.name}.old")
        discard(old)
        if self.exists:
            self.path.rename(old)
        other.path.rename(self.path)
        discard(old)

    def move(self, commit: str) -> None:
        """Changes the files on disk from what they are to a commit; what they were stays in the repository.

        Raises:
            ConflictError: An untracked file is in the way.
        """
        journal = {"from": self.snapshot(), "to": commit}
        self._refuse_strangers(self.changes(journal["from"], commit))
        write_atomically(self._journal, json.dumps(journal).encode())
        self._follow_journal()

    def recover(self) -> bool:
        """Completes a move that was killed; returns whether there was one.

        Raises:
            ConflictError: A file was edited since.
        """
        if not self.interrupted:
            return False
        clear_stale_locks(self.git.git_dir)
        self._follow_journal()
        return True

    def adopt(self, commit: str) -> None:
        """Declares a commit to be the current one, and leaves the files as they are."""
        entries = "".join(
            f"{change.mode} {change.blob or _NULL}\t{change.path}\0"
            for change in self.changes(self._index_tree(update=False), commit)
        )
        self.git.run("update-index", "-z", "--index-info", stdin=entries.encode())
        self.git.run("update-index", "-q", "--refresh")
        self._set_refs(commit)

    def keep_discarded(self) -> None:
        """Saves the files as they are under `refs/overlay/discarded`."""
        kept = write_commit(
            self.git,
            self.snapshot(),
            CURRENT,
            "Edits discarded by 'revert --force'\n",
            COMMITTER,
            COMMITTER_EMAIL,
            self.pin.timestamp,
        )
        self.git.run("update-ref", DISCARDED, kept)

    @property
    def _journal(self) -> Path:
        return self.git.git_dir / _JOURNAL

    @property
    def _borrowed(self) -> Path:
        """The object folder of the mirror, as the repository knows it."""
        alternates = self.git.git_dir / "objects" / "info" / "alternates"
        return Path(alternates.read_text().rstrip("\n") if alternates.is_file() else "/nonexistent")

    @property
    def _patterns(self) -> Path:
        return self.git.git_dir / "info" / "sparse-checkout"

    def _index_tree(self, *, update: bool) -> str:
        """Writes the index as a tree, or what it would be with all changes on disk added."""
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch, "index")
            # With its timestamp, by which git knows which entries it must compare by content.
            shutil.copy2(self.git.git_dir / "index", copy)
            git = self.git.with_index(copy)
            if update:
                git.run("add", "--update", "--", ":/")
            return git.text("write-tree", "--missing-ok")

    def _follow_journal(self) -> None:
        journal = json.loads(self._journal.read_bytes())
        changes = self.changes(journal["from"], journal["to"])
        self._refuse_strangers(changes)
        for change in changes:
            if self.pin.covers(change.path) or (self.path / change.path).exists():
                self._write(change)
        self.adopt(journal["to"])
        self._journal.unlink()

    def _refuse_strangers(self, changes: list[Change]) -> None:
        for change in changes:
            if self._blob_on_disk(change.path) not in (change.old_blob, change.blob):
                raise ConflictError(
                    f"{self.shown}/{change.path} is in the way: its content is neither the old nor the new; "
                    "move it away, then run this again"
                )

    def _write(self, change: Change) -> None:
        target = self.path / change.path
        if change.blob is None:
            target.unlink(missing_ok=True)
        elif self._blob_on_disk(change.path) != change.blob:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, self.git.run("cat-file", "blob", change.blob), scratch=self.git.git_dir)
        if change.blob is not None:
            target.chmod(0o755 if change.mode == "100755" else 0o644)

    def _blob_on_disk(self, path: str) -> str | None:
        try:
            data = (self.path / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()

    def _set_refs(self, commit: str) -> None:
        self.git.run("symbolic-ref", "HEAD", BRANCH)
        updates = f"update {BRANCH} {commit}\nupdate {CURRENT} {commit}\n"
        self.git.run("update-ref", "--stdin", stdin=updates.encode())


def find_work_tree(pin: Pin, layout: Layout) -> WorkTree:
    """Returns the work tree of a pin, which need not exist."""
    path = layout.work_tree(pin)
    return WorkTree(pin, path, layout.shown(path))


def _sparse_patterns(pin: Pin) -> str:
    return "".join(f"/{path}\n" for path in pin.checkout)


def _blob_or_none(blob: str) -> str | None:
    return None if blob == _NULL else blob
