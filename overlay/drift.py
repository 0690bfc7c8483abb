"""Carries a series over upstream's history, commit by commit, and says what each commit did to each hunk."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from overlay.apply import checked_series
from overlay.carry import HunkId, Outcome, PatchedFile, Verdict, carry, deleted, patch_file
from overlay.errors import ConflictError, UsageError
from overlay.fetch import fetch_blobs
from overlay.git import Git
from overlay.history import (
    Commit,
    Need,
    count_commits,
    read_blobs,
    require_descendant,
    resolve,
    touching,
)
from overlay.layout import Layout
from overlay.mirror import Mirror, require_mirror
from overlay.objects import missing_objects
from overlay.pins import Pin
from overlay.series import Series


@dataclass(frozen=True)
class StepReport:
    """An upstream commit that touches patched files, and what it did to each hunk in them."""

    commit: Commit
    outcomes: tuple[Outcome, ...]

    @property
    def worst(self) -> Verdict:
        """The worst verdict of its hunks."""
        order = list(Verdict)
        return max((outcome.verdict for outcome in self.outcomes), key=order.index, default=Verdict.CLEAN)


@dataclass
class Carried:
    """Where a walk over history has come to.

    Attributes:
        files: The files that still exist upstream, by their path at the pin.
        steps: What each commit did.
        broken: The commit that broke each hunk that is broken, and how.
    """

    files: dict[str, PatchedFile]
    steps: list[StepReport] = field(default_factory=list)
    broken: dict[HunkId, tuple[Commit, Outcome]] = field(default_factory=dict)

    def take(self, commit: Commit, outcomes: Sequence[Outcome]) -> None:
        """Notes what a commit did."""
        self.steps.append(StepReport(commit, tuple(outcomes)))
        for outcome in outcomes:
            earlier = self.broken.get(outcome.hunk)
            if not outcome.verdict.survives:
                self.broken.setdefault(outcome.hunk, (commit, outcome))
            elif earlier is not None and earlier[1].verdict is Verdict.MEANINGLESS:
                # Upstream has taken back what made it meaningless. An edit that was lost does not come back, though
                # another one of its hunk may still be carried.
                del self.broken[outcome.hunk]


@dataclass(frozen=True)
class Report:
    """What `drift` found.

    Attributes:
        pin: Name of the pin.
        base: Commit the walk began at.
        tip: Commit it ended at.
        commits: Number of upstream commits between them, on the main line.
        seconds: Time it took.
        hunks: All hunks of the series.
        carried: What happened.
    """

    pin: str
    base: str
    tip: str
    commits: int
    seconds: float
    hunks: tuple[HunkId, ...]
    carried: Carried

    @property
    def survivors(self) -> list[HunkId]:
        """The hunks that work at the end."""
        return [hunk for hunk in self.hunks if hunk not in self.carried.broken]

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as JSON holds it."""
        return {
            "pin": self.pin,
            "from": self.base,
            "to": self.tip,
            "commits": self.commits,
            "seconds": round(self.seconds, 3),
            "hunks": len(self.hunks),
            "survived": len(self.survivors),
            "steps": [
                {
                    "commit": vars(step.commit),
                    "verdict": step.worst.value,
                    "hunks": [_outcome_dict(outcome) for outcome in step.outcomes],
                }
                for step in self.carried.steps
            ],
            "broken": [
                {"commit": vars(commit), **_outcome_dict(outcome)} for commit, outcome in self.carried.broken.values()
            ],
        }


def drift(
    pin: Pin,
    layout: Layout,
    *,
    to: str = "main",
    since: str | None = None,
    source: str | None = None,
    say: Callable[[str], None] = lambda note: None,
) -> Report:
    """Carries a pin's series from its commit to a later one.

    Args:
        pin: The pin.
        layout: Where things lie.
        to: The later commit.
        since: Report on commits after this one only; the series is carried to it first.
        source: Where to get file contents from that the mirror lacks; the pin's upstream by default.
        say: Takes notes for the user.

    Raises:
        UsageError: A commit does not exist, or is not a descendant of the pin's.
        IntegrityError: The mirror lacks file contents and the source cannot give them.
    """
    start = time.perf_counter()
    if pin.upstream is None:
        raise UsageError(f"pin {pin.name} is built from a folder, which has no history to follow")
    mirror = require_mirror(pin, layout)
    series, _ = checked_series(pin, layout, mirror)
    git = mirror.git
    tip = resolve(git, to)
    base = resolve(git, since) if since else pin.commit
    for older, newer in ((pin.commit, base), (base, tip)):
        require_descendant(git, older, newer)
    files = patched_files(git, pin.commit, series)
    hunks = all_hunks(files.values())
    carried = Carried(files)
    need = needing(mirror, source, say)
    walk(git, carried, pin.commit, base, need)
    carried.steps.clear()
    walk(git, carried, base, tip, need)
    return Report(pin.name, base, tip, count_commits(git, base, tip), time.perf_counter() - start, hunks, carried)


def patched_files(git: Git, commit: str, series: Series) -> dict[str, PatchedFile]:
    """Applies a series to the files of a commit; returns them by path.

    Raises:
        ConflictError: A patch adds a file; such a patch has no history to be carried over.
    """
    paths = sorted({path for patch in series.patches for path in patch.paths})
    listed = git.records("ls-tree", "-z", "--full-tree", commit, "--", *paths)
    blobs = {record.split("\t", 1)[1]: record.split()[2] for record in listed}
    for path in paths:
        if path not in blobs:
            raise ConflictError(
                f"{series.shown}: {path} is added by a patch, so upstream has no history of it to follow"
            )
    contents = read_blobs(git, list(blobs.values()))
    return {path: patch_file(path, contents[blobs[path]], series.patches) for path in paths}


def all_hunks(files: Iterable[PatchedFile]) -> tuple[HunkId, ...]:
    """Returns the hunks of files, in the order of the series."""
    hunks = {
        HunkId(layer.patch, file.origin, carried.edit.hunk)
        for file in files
        for layer in file.layers
        for carried in layer.edits
    }
    return tuple(sorted(hunks, key=lambda hunk: (hunk.patch, hunk.path, hunk.number)))


def needing(mirror: Mirror, source: str | None, say: Callable[[str], None]) -> Need:
    """Returns what brings missing file contents into a mirror."""

    def need(blobs: Sequence[str]) -> None:
        if missing := missing_objects(mirror.git.git_dir, blobs):
            fetch_blobs(mirror, missing, source, say)

    return need


def walk(git: Git, carried: Carried, base: str, tip: str, need: Need) -> None:
    """Carries files from one commit to another, in place.

    Args:
        git: A repository with the history.
        carried: The files, as they are at ``base``.
        base: Where to begin.
        tip: Where to end.
        need: Called with file contents before they are read.
    """
    steps = touching(git, base, tip, sorted(file.path for file in carried.files.values()), need)
    blobs = [change.blob for step in steps for change in step.changes if change.blob]
    need(blobs)
    contents = read_blobs(git, blobs)
    for step in steps:
        outcomes: list[Outcome] = []
        by_path = {file.path: file for file in carried.files.values()}
        for change in step.changes:
            file = by_path.get(change.path)
            if file is None:
                continue
            if change.blob is None:
                found = deleted(file)
                del carried.files[file.origin]
            else:
                moved, found = carry(git, file, contents[change.blob], change.new_path, step.commit.sha[:12])
                carried.files[file.origin] = moved
            outcomes += found
        carried.take(step.commit, outcomes)


def text(report: Report) -> str:
    """Renders a report for the terminal."""
    lines = [
        f"{report.pin}: {report.base[:12]} to {report.tip[:12]}: {report.commits} upstream commits, "
        f"{len(report.carried.steps)} touch patched files"
    ]
    for step in report.carried.steps:
        lines.append(f"\n{step.commit}")
        lines += [f"  {outcome.hunk}: {outcome}" for outcome in step.outcomes]
    lines.append("")
    for commit, outcome in report.carried.broken.values():
        lines.append(f"broken: {outcome.hunk}: {outcome}, by {commit}")
    counts = dict.fromkeys(Verdict, 0)
    for step in report.carried.steps:
        for outcome in step.outcomes:
            counts[outcome.verdict] += 1
    lines.append(", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count) or "no hunk was touched")
    lines.append(f"{len(report.survivors)} of {len(report.hunks)} hunks work at {report.tip[:12]}")
    rate = report.commits / max(report.seconds, 1e-9)
    lines.append(f"{report.seconds:.1f} s, {rate:.0f} upstream commits a second")
    return "\n".join(lines)


def _outcome_dict(outcome: Outcome) -> dict[str, Any]:
    return {
        **vars(outcome.hunk),
        "verdict": outcome.verdict.value,
        "moved": outcome.moved,
        "renamed_to": outcome.renamed_to,
        "reason": outcome.reason,
    }
