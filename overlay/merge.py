"""Three-way merging of one file's contents, by git and without a work tree."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from overlay.git import Git


@dataclass(frozen=True)
class Merged:
    """The result of a merge: the content, with markers where it conflicts, and the number of conflicts."""

    content: bytes
    conflicts: int


def merge(git: Git, base: bytes, ours: bytes, theirs: bytes, labels: tuple[str, str, str]) -> Merged:
    """Merges as git's own strategies do.

    Args:
        git: Any repository; nothing is written to it.
        base: What both sides began with.
        ours: One side.
        theirs: The other side.
        labels: Names of ours, base and theirs for conflict markers.
    """
    if base == theirs:
        return Merged(ours, 0)
    with tempfile.TemporaryDirectory() as folder:
        names = [Path(folder, name) for name in ("ours", "base", "theirs")]
        for path, content in zip(names, (ours, base, theirs), strict=True):
            path.write_bytes(content)
        words = [word for label in labels for word in ("-L", label)]
        code, merged = git.answer("merge-file", "-p", "--quiet", "--diff3", *words, *map(str, names))
    return Merged(merged, code)
