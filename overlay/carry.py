"""Carries the patches of one file from one version of it to the next."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace

from overlay.anchors import find_place
from overlay.git import Git
from overlay.hunks import Edit, Lines, Place, apply_places, edits_of, find_edits, join_lines, split_lines
from overlay.meaning import problems
from overlay.merge import merge
from overlay.patchfile import Patch

CONTEXT = 3


class Verdict(enum.StrEnum):
    """What an upstream commit did to a hunk, from harmless to lost."""

    CLEAN = "clean"
    MOVED = "moved"
    CONTEXT = "context changed"
    SYNTAX = "conflict, carried by syntax"
    MEANINGLESS = "applies but means nothing any more"
    CONFLICT = "conflict"
    DELETED = "file deleted"

    @property
    def survives(self) -> bool:
        """Whether the hunk is still there, and still does its work."""
        return self not in (Verdict.MEANINGLESS, Verdict.CONFLICT, Verdict.DELETED)


@dataclass(frozen=True)
class HunkId:
    """Names a hunk: patch file, path of the file at the pin, number of the hunk in that file."""

    patch: str
    path: str
    number: int

    def __str__(self) -> str:
        return f"{self.patch} {self.path} hunk {self.number}"


@dataclass(frozen=True)
class Outcome:
    """What became of a hunk.

    Attributes:
        hunk: Which.
        verdict: What happened.
        moved: By how many lines.
        renamed_to: The file's new path, if the commit renamed it.
        reason: Details, in words.
    """

    hunk: HunkId
    verdict: Verdict
    moved: int = 0
    renamed_to: str | None = None
    reason: str = ""

    def __str__(self) -> str:
        words = [f"moved by {self.moved:+d} lines" if self.verdict is Verdict.MOVED else str(self.verdict)]
        if self.moved and self.verdict is not Verdict.MOVED:
            words.append(f"moved by {self.moved:+d} lines")
        if self.renamed_to:
            words.append(f"file renamed to {self.renamed_to}")
        if self.reason:
            words.append(self.reason)
        return "; ".join(words)


@dataclass(frozen=True)
class CarriedEdit:
    """An edit and its place in the layer below it, with what was wrong with it from the beginning."""

    edit: Edit
    place: Place
    known: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Lost:
    """Edits that found no place: the last version they had one in, without and with them."""

    base: bytes
    ours: bytes


@dataclass(frozen=True)
class Layer:
    """What one patch does to the file.

    Attributes:
        patch: Name of the patch.
        content: The file with this patch and those before it.
        edits: Its edits that are still carried.
        lost: Those that are not, in the order they were lost.
    """

    patch: str
    content: bytes
    edits: tuple[CarriedEdit, ...]
    lost: tuple[Lost, ...] = ()


@dataclass(frozen=True)
class PatchedFile:
    """A file of upstream, and the layers that the patches put on it.

    Attributes:
        origin: Its path at the pin.
        path: Its path now.
        upstream: Its content now, unpatched.
        layers: One per patch that touches it, in order.
    """

    origin: str
    path: str
    upstream: bytes
    layers: tuple[Layer, ...]

    @property
    def patched(self) -> bytes:
        """Its content with all patches."""
        return self.layers[-1].content if self.layers else self.upstream


def patch_file(path: str, content: bytes, patches: Sequence[Patch]) -> PatchedFile:
    """Applies the patches that touch a file to its content at the pin."""
    layers: list[Layer] = []
    below = content
    for patch in patches:
        for diff in patch.files:
            if diff.path != path:
                continue
            lines = split_lines(below)
            found = edits_of(diff.hunks)
            places = [place for _, place in found]
            after = apply_places(lines, places)
            known = problems(after, places) if path.endswith(".py") else [[] for _ in places]
            edits = tuple(
                CarriedEdit(edit, place, _reasons(reasons)) for (edit, place), reasons in zip(found, known, strict=True)
            )
            below = join_lines(after)
            layers.append(Layer(patch.name, below, edits))
    return PatchedFile(path, path, content, tuple(layers))


def carry(git: Git, file: PatchedFile, content: bytes, path: str, label: str) -> tuple[PatchedFile, list[Outcome]]:
    """Carries a file's patches over one upstream change of it.

    What git merges is kept; what it does not, is put where the syntax says. An edit that has no place any more is left
    out of the new version.

    Args:
        git: Any repository, for merging.
        file: The file before.
        content: Upstream's content after.
        path: Its path after.
        label: Names the upstream commit in conflict markers.

    Returns:
        The file after, and what became of each hunk that was still carried.
    """
    outcomes: list[Outcome] = []
    layers: list[Layer] = []
    old_below, new_below = file.upstream, content
    renamed = path if path != file.path else None
    for layer in file.layers:
        placed, conflicts = _place(git, layer, old_below, new_below, label)
        lines = split_lines(new_below)
        kept = [edit for edit in placed if edit is not None]
        after = apply_places(lines, [edit.place for edit in kept])
        reasons = problems(after, [edit.place for edit in kept]) if path.endswith(".py") else [[] for _ in kept]
        found = iter(zip(kept, reasons, strict=True))
        verdicts: dict[int, list[Outcome]] = {}
        old_lines = split_lines(old_below)
        for before, edit, conflict in zip(layer.edits, placed, conflicts, strict=True):
            hunk = HunkId(layer.patch, file.origin, before.edit.hunk)
            if edit is None:
                outcome = Outcome(hunk, Verdict.CONFLICT, 0, renamed, _what_changed(old_lines, before, lines))
            else:
                _, wrong = next(found)
                outcome = _judge(hunk, before, edit, old_lines, lines, conflict, wrong, renamed)
            verdicts.setdefault(before.edit.hunk, []).append(outcome)
        outcomes += [_worst(several) for several in verdicts.values()]
        gone = [before.place for before, edit in zip(layer.edits, placed, strict=True) if edit is None]
        lost = (Lost(old_below, join_lines(apply_places(old_lines, gone))),) if gone else ()
        layers.append(Layer(layer.patch, join_lines(after), tuple(kept), (*layer.lost, *lost)))
        old_below, new_below = layer.content, join_lines(after)
    return replace(file, path=path, upstream=content, layers=tuple(layers)), outcomes


def deleted(file: PatchedFile) -> list[Outcome]:
    """Returns the outcomes of a file's hunks when upstream deletes it."""
    hunks = dict.fromkeys(HunkId(layer.patch, file.origin, e.edit.hunk) for layer in file.layers for e in layer.edits)
    return [Outcome(hunk, Verdict.DELETED) for hunk in hunks]


def _place(
    git: Git, layer: Layer, old: bytes, new: bytes, label: str
) -> tuple[list[CarriedEdit | None], Sequence[bool]]:
    """Finds the new place of each edit of a layer; says for each whether git's merge failed on it."""
    edits = [carried.edit for carried in layer.edits]
    whole = merge(git, old, layer.content, new, ("ours", "base", label))
    if not whole.conflicts:
        places = find_edits(split_lines(new), split_lines(whole.content), edits)
        if places is not None:
            return [replace(carried, place=place) for carried, place in zip(layer.edits, places, strict=True)], [
                False
            ] * len(edits)
    placed: list[CarriedEdit | None] = []
    conflicts = []
    for carried in layer.edits:
        edit, clean = _place_one(git, carried, old, new, label)
        placed.append(edit)
        conflicts.append(not clean)
    return _without_overlap(placed), conflicts


def _place_one(git: Git, carried: CarriedEdit, old: bytes, new: bytes, label: str) -> tuple[CarriedEdit | None, bool]:
    old_lines, new_lines = split_lines(old), split_lines(new)
    alone = join_lines(apply_places(old_lines, [carried.place]))
    merged = merge(git, old, alone, new, ("ours", "base", label))
    if not merged.conflicts:
        places = find_edits(new_lines, split_lines(merged.content), [carried.edit])
        if places is not None:
            return replace(carried, place=places[0]), True
    place = find_place(old_lines, carried.place, carried.edit, new_lines)
    if place is None:
        return None, False
    removed = tuple(new_lines[place.line : place.line + place.count])
    return CarriedEdit(Edit(carried.edit.hunk, removed, place.added), place, carried.known), False


def _without_overlap(placed: Sequence[CarriedEdit | None]) -> list[CarriedEdit | None]:
    """Gives up on edits that would change the order or overlap an earlier one."""
    result: list[CarriedEdit | None] = []
    end = 0
    for edit in placed:
        if edit is not None and edit.place.line < end:
            edit = None
        if edit is not None:
            end = edit.place.line + edit.place.count
        result.append(edit)
    return result


def _judge(
    hunk: HunkId,
    before: CarriedEdit,
    after: CarriedEdit,
    old: Lines,
    new: Lines,
    conflict: bool,
    wrong: Sequence[str],
    renamed: str | None,
) -> Outcome:
    moved = after.place.line - before.place.line
    if fresh := _reasons(wrong) - before.known:
        reason = "; ".join(text for text in wrong if _reason(text) in fresh)
        return Outcome(hunk, Verdict.MEANINGLESS, moved, renamed, reason)
    if conflict:
        return Outcome(hunk, Verdict.SYNTAX, moved, renamed, _what_changed(old, before, new))
    if _context(old, before.place) != _context(new, after.place):
        return Outcome(hunk, Verdict.CONTEXT, moved, renamed)
    return Outcome(hunk, Verdict.MOVED if moved else Verdict.CLEAN, moved, renamed)


def _context(lines: Lines, place: Place) -> tuple[Lines, Lines]:
    end = place.line + place.count
    return lines[max(place.line - CONTEXT, 0) : place.line], lines[end : end + CONTEXT]


def _what_changed(old: Lines, before: CarriedEdit, new: Lines) -> str:
    """Names the lines around the edit that upstream no longer has."""
    above, below = _context(old, before.place)
    around = [*above, *old[before.place.line : before.place.line + before.place.count], *below]
    have = {line.strip() for line in new}
    lost = [line.strip() for line in around if line.strip() and line.strip() not in have]
    return f"upstream no longer has {lost[0]!r}" if lost else "the lines around it were changed or moved"


def _reasons(texts: Sequence[str]) -> frozenset[str]:
    return frozenset(_reason(text) for text in texts)


def _reason(text: str) -> str:
    """A reason without its line numbers, which change from version to version."""
    return " ".join(word for word in text.split() if not word.rstrip(",.)").isdigit())


def _worst(outcomes: Sequence[Outcome]) -> Outcome:
    order = list(Verdict)
    return max(outcomes, key=lambda outcome: order.index(outcome.verdict))
