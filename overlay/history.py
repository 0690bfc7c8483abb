"""Walks upstream's history: which commits touch the patched files, and what became of each file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from overlay.errors import UsageError
from overlay.git import Git

# Makes file contents available, by their ids, or raises.
Need = Callable[[Sequence[str]], None]
_GONE = "0" * 40
_FORMAT = "--format=%x01%H%x02%cs%x02%s"


@dataclass(frozen=True)
class Commit:
    """An upstream commit: SHA, day (ISO) and subject."""

    sha: str
    date: str
    subject: str

    def __str__(self) -> str:
        return f"{self.sha[:12]} {self.date} {self.subject}"


@dataclass(frozen=True)
class FileChange:
    """What a commit did to one file.

    Attributes:
        path: Its path before the commit.
        new_path: Its path after it; another one if the commit renamed the file.
        blob: Id of its content after the commit, or None if the commit deleted it.
    """

    path: str
    new_path: str
    blob: str | None


@dataclass(frozen=True)
class Step:
    """A commit that touches at least one of the files, and what it did to them."""

    commit: Commit
    changes: tuple[FileChange, ...]


def resolve(git: Git, ref: str) -> str:
    """Returns the SHA of a commit that the user named.

    Raises:
        UsageError: There is no such commit.
    """
    for name in (ref, f"refs/upstream/{ref}"):
        if git.succeeds("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"):
            return git.text("rev-parse", "--verify", f"{name}^{{commit}}")
    raise UsageError(
        f"{ref!r} is no commit of {git.git_dir}; give a SHA or 'main', or fetch more: "
        "'python apply_patch.py fetch --history'"
    )


def require_descendant(git: Git, base: str, tip: str) -> None:
    """Checks that history leads from one commit to another.

    Raises:
        UsageError: It does not.
    """
    if not git.succeeds("merge-base", "--is-ancestor", base, tip):
        raise UsageError(
            f"{tip[:12]} does not descend from {base[:12]}; give a later commit of the same branch, or, where history "
            "is cut off, run 'python apply_patch.py fetch --history'"
        )


def count_commits(git: Git, base: str, tip: str) -> int:
    """Returns how many commits of the main line lie after ``base``, up to ``tip``."""
    return int(git.text("rev-list", "--count", "--first-parent", f"{base}..{tip}"))


def touching(git: Git, base: str, tip: str, paths: Sequence[str], need: Need) -> list[Step]:
    """Returns the commits after ``base``, up to ``tip``, that touch the files, oldest first.

    A merge counts as one commit of the main line. A renamed file is followed to its new path.

    Args:
        git: A repository with the history.
        base: Where the files have the given paths.
        tip: A descendant of it.
        paths: The files.
        need: Called with file contents before they are read, which is only where a file is moved with changes.
    """
    steps: list[Step] = []
    alive = list(paths)
    start: str | None = base
    while start is not None and alive:
        found, start = _until_rename(git, start, tip, alive, need)
        steps += found
        for change in (change for step in found for change in step.changes):
            alive.remove(change.path)
            if change.blob is not None:
                alive.append(change.new_path)
    return steps


def _until_rename(git: Git, start: str, tip: str, paths: Sequence[str], need: Need) -> tuple[list[Step], str | None]:
    """Returns the steps up to the first one with a rename, and its SHA if there is one: the paths change there."""
    listed = git.text(
        *("log", "--first-parent", "--diff-merges=first-parent", "--reverse", "--raw", "--no-abbrev", "--no-renames"),
        *("-z", _FORMAT, f"{start}..{tip}", "--", *paths),
    )
    alive, steps = set(paths), []
    for record in listed.split("\x01")[1:]:
        head, *fields = record.split("\0")
        sha, date, subject = head.strip("\n").split("\x02", 2)
        entries = [field.strip("\n") for field in fields if field.strip("\n")]
        changed = {path: entry.split()[3] for entry, path in zip(entries[::2], entries[1::2], strict=True)}
        changed = {path: blob for path, blob in changed.items() if path in alive}
        deleted = [path for path, blob in changed.items() if blob == _GONE]
        renames = _renames(git, sha, deleted, need) if deleted else {}
        changes = []
        for path, blob in changed.items():
            new_path, new_blob = renames.get(path, (path, None if blob == _GONE else blob))
            changes.append(FileChange(path, new_path, new_blob))
            if new_blob is None:
                alive.discard(path)
        if changes:
            steps.append(Step(Commit(sha, date, subject), tuple(changes)))
        if renames:
            return steps, sha
    return steps, None


def _renames(git: Git, sha: str, deleted: Sequence[str], need: Need) -> dict[str, tuple[str, str]]:
    """Finds where a commit moved files to: new path and blob by old path."""
    command = ("diff-tree", "-r", "--raw", "--no-abbrev", "-z", "--diff-filter=R", f"{sha}^1", sha)
    # A pure move needs no file contents, and most moves are pure.
    found = _parse_renames(git.records(*command, "-M100%"))
    if any(path not in found for path in deleted):
        need(_blobs_for_renames(git, sha, [path for path in deleted if path not in found]))
        found |= _parse_renames(git.records(*command, "-M"))
    return {path: found[path] for path in deleted if path in found}


def _blobs_for_renames(git: Git, sha: str, deleted: Sequence[str]) -> list[str]:
    """The files of like suffix that the commit added, and the deleted ones."""
    records = git.records("diff-tree", "-r", "--raw", "--no-abbrev", "-z", "--no-renames", f"{sha}^1", sha)
    suffixes = {PurePosixPath(path).suffix for path in deleted}
    blobs = []
    for entry, path in zip(records[::2], records[1::2], strict=True):
        _, _, old, new, status = entry.split()
        if path in deleted:
            blobs.append(old)
        elif status == "A" and PurePosixPath(path).suffix in suffixes:
            blobs.append(new)
    return blobs


def _parse_renames(records: Sequence[str]) -> dict[str, tuple[str, str]]:
    triples = zip(records[::3], records[1::3], records[2::3], strict=True)
    return {old: (new, entry.split()[3]) for entry, old, new in triples}


def read_blobs(git: Git, blobs: Sequence[str]) -> dict[str, bytes]:
    """Reads file contents that are there, all in one go."""
    unique = list(dict.fromkeys(blobs))
    raw = git.run("cat-file", "--batch", stdin="".join(f"{blob}\n" for blob in unique).encode())
    contents, at = {}, 0
    for blob in unique:
        end = raw.index(b"\n", at)
        size = int(raw[at:end].split()[2])
        contents[blob] = raw[end + 1 : end + 1 + size]
        at = end + 1 + size + 1
    return contents
