"""The changes of a patch as lines of a file, and where they lie in another version of it."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from overlay.patchfile import Hunk

Lines = list[str]


@dataclass(frozen=True)
class Edit:
    """One run of lines that a hunk replaces.

    Attributes:
        hunk: Number of the hunk in its file, from 1; a hunk may have several edits.
        removed: The lines it takes away; none for an insertion.
        added: The lines it puts in their place.
    """

    hunk: int
    removed: tuple[str, ...]
    added: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """Where an edit lies in a file without it: index of the line, how many lines it replaces, and by which."""

    line: int
    count: int
    added: tuple[str, ...]


def split_lines(text: bytes) -> Lines:
    """Returns the lines of a file without their ends; the last is empty if the file ends as it should."""
    return text.decode("utf-8", "surrogateescape").split("\n")


def join_lines(lines: Sequence[str]) -> bytes:
    """The inverse of `split_lines`."""
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def edits_of(hunks: Sequence[Hunk]) -> list[tuple[Edit, Place]]:
    """Returns the edits of a file's hunks, and where they lie in the file that the patch was made for."""
    found = []
    for hunk in hunks:
        # A hunk that only adds a file covers no line, and git counts it from 0.
        line = max(hunk.old_start - 1, 0)
        removed: Lines = []
        added: Lines = []
        for text in (*hunk.lines, " "):
            kind, content = text[:1], text[1:]
            if kind == "-":
                removed.append(content)
            elif kind == "+":
                added.append(content)
            elif kind == " ":
                if removed or added:
                    edit = Edit(hunk.number, tuple(removed), tuple(added))
                    found.append((edit, Place(line, len(removed), edit.added)))
                line += len(removed) + 1
                removed, added = [], []
    return found


def apply_places(lines: Sequence[str], places: Sequence[Place]) -> Lines:
    """Returns the file with the edits made; they must not overlap."""
    result = list(lines)
    for place in sorted(places, key=lambda place: place.line, reverse=True):
        result[place.line : place.line + place.count] = place.added
    return result


def find_edits(before: Sequence[str], after: Sequence[str], edits: Sequence[Edit]) -> list[Place] | None:
    """Finds where a file that has been merged holds the edits.

    Args:
        before: The file without them.
        after: The file with them, and with no other difference.
        edits: The edits, in their order.

    Returns:
        One place per edit, or None if the difference is not made of these edits.
    """
    places: list[Place] = []
    i = j = 0
    for edit in edits:
        removed, added = list(edit.removed), list(edit.added)
        while i < len(before) and j < len(after) and before[i] == after[j]:
            i, j = i + 1, j + 1
        # A block that begins as the lines after it do can lie as far above the first difference as it is long.
        for up in range(min(i, j, len(added)) + 1):
            fits = list(before[i - up : i - up + len(removed)]) == removed
            if fits and list(after[j - up : j - up + len(added)]) == added:
                i, j = i - up, j - up
                break
        else:
            return None
        places.append(Place(i, len(removed), edit.added))
        i, j = i + len(removed), j + len(added)
    ordered = all(a.line + a.count <= b.line for a, b in itertools.pairwise(places))
    return places if ordered and apply_places(before, places) == list(after) else None
