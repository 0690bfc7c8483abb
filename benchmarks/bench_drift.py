#!/usr/bin/env python
"""How long a thin patch lives on upstream's history: exact apply, three-way merge, and our carrying, side by side.

    python benchmarks/bench_drift.py --json benchmarks/measured/bench-drift.json
    UPSTREAM_URL=/mirrors/transformers.git python benchmarks/bench_drift.py --years 1

The seam of our patches, one import after ``logger =`` that shadows the Trainer's names, is put into every Trainer-based
example script of upstream as it was at some earlier dates. From there it is carried over every commit that touches the
script. ``git apply`` and the three-way merge start from the original each time, as a patch in a folder does; ours is
carried from commit to commit. Needs upstream's history: python apply_patch.py fetch --history.
"""

import argparse
import datetime
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from overlay.carry import CarriedEdit, Layer, PatchedFile, carry  # noqa: E402
from overlay.commands import resolve_layout  # noqa: E402
from overlay.drift import Carried, needing, walk  # noqa: E402
from overlay.errors import OverlayError  # noqa: E402
from overlay.git import Git  # noqa: E402
from overlay.history import Commit, Step, count_commits, read_blobs, touching  # noqa: E402
from overlay.hunks import Edit, Place, apply_places, join_lines, split_lines  # noqa: E402
from overlay.merge import merge  # noqa: E402
from overlay.mirror import HISTORY_REF, Mirror, require_mirror  # noqa: E402
from overlay.pins import load_pins  # noqa: E402

STARTS = ("2021-07-01", "2022-10-01", "2024-02-01", "2025-02-01")
METHODS = ("git apply", "3-way", "ours")
FOLDER = "examples/pytorch"
LOGGER = re.compile(r"^logger = (logging\.|get_logger).*$", re.MULTILINE)
NAMES = ("Trainer", "Seq2SeqTrainer", "TrainingArguments", "Seq2SeqTrainingArguments")


@dataclass
class Tally:
    """Counts of one start: states (a script at a commit that touches it) and scripts still alive, by method."""

    scripts: int = 0
    states: int = 0
    good: dict[str, int] = field(default_factory=lambda: dict.fromkeys(METHODS, 0))
    alive: dict[str, int] = field(default_factory=lambda: dict.fromkeys(METHODS, 0))
    deleted: int = 0
    losses: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def main() -> int:
    """Run the benchmark and print the table."""
    args = _parse()
    try:
        pin = load_pins(ROOT / "pins.toml").get(args.pin)
        layout = resolve_layout(ROOT, None, os.environ)
        mirror = require_mirror(pin, layout)
        if not mirror.git.succeeds("rev-parse", "--verify", "--quiet", HISTORY_REF):
            raise OverlayError("upstream's history is not there; run 'python apply_patch.py fetch --history'")
        record = {start: run(mirror, start, args.years, args.source) for start in STARTS}
    except OverlayError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    tip = mirror.git.text("rev-parse", HISTORY_REF)
    ends = mirror.git.text("show", "-s", "--format=%cs", tip)
    record = {"tip": tip, "ends": ends, "starts": record, "speed": speed(mirror, args.source)}
    print(table(record))
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


def run(mirror: Mirror, start: str, years: int, source: str | None) -> dict[str, Any]:
    """Carry the seam from the last commit before a date over some years; returns the counts, per year and in all."""
    git = mirror.git
    begin = datetime.date.fromisoformat(start)
    # A year that history does not cover is no row of the table.
    ends = datetime.date.fromisoformat(git.text("show", "-s", "--format=%cs", HISTORY_REF))
    years = max(year for year in range(years + 1) if begin.replace(year=begin.year + year) <= ends)
    base, tip = _commit_before(git, start, 0), _commit_before(git, start, years)
    need = needing(mirror, source, lambda note: print(note, file=sys.stderr))
    files = seamed(git, base, need)
    steps = touching(git, base, tip, sorted(files), need)
    blobs = [change.blob for step in steps for change in step.changes if change.blob]
    need(blobs)
    contents = read_blobs(git, blobs)
    result: dict[str, Any] = {
        "commit": base,
        "to": tip,
        "years": years,
        "commits": count_commits(git, base, tip),
        "touching": len(steps),
    }
    for year in range(1, years + 1):
        until = begin.replace(year=begin.year + year).isoformat()
        result[f"year {year}"] = follow(git, files, [s for s in steps if s.commit.date < until], contents).to_dict()
    return result


def seamed(git: Git, commit: str, need: Any) -> dict[str, PatchedFile]:
    """Returns the Trainer-based scripts of a commit, each with the seam in it."""
    listed = git.records("ls-tree", "-r", "-z", "--full-tree", commit, "--", FOLDER)
    blobs = {r.split("\t", 1)[1]: r.split()[2] for r in listed if re.search(r"/run_[^/]*\.py$", r.split("\t", 1)[1])}
    need(list(blobs.values()))
    contents = read_blobs(git, list(blobs.values()))
    return {path: file for path, blob in blobs.items() if (file := put_seam(path, contents[blob])) is not None}


def put_seam(path: str, content: bytes) -> PatchedFile | None:
    """Puts the import after ``logger =``; None where the script does not use the Trainer, or has no such line."""
    text = content.decode("utf-8", "surrogateescape")
    match = LOGGER.search(text)
    used = [name for name in NAMES if match and re.search(rf"\b{name}\(|\(.*\b{name}\b.*\)", text[match.end() :])]
    if match is None or not any("Trainer" in name for name in used):
        return None
    line = text.count("\n", 0, match.end()) + 1
    added = (f"from nncf_transformers.seams import {', '.join(used)}  # noqa: E402",)
    place = Place(line, 0, added)
    patched = join_lines(apply_places(split_lines(content), [place]))
    layer = Layer("seam", patched, (CarriedEdit(Edit(1, (), added), place),))
    return PatchedFile(path, path, content, (layer,))


def follow(git: Git, files: dict[str, PatchedFile], steps: Sequence[Step], contents: dict[str, bytes]) -> Tally:
    """Carries all files over the steps by each method."""
    tally = Tally(scripts=len(files))
    now, working = dict(files), {path: dict.fromkeys(METHODS, True) for path in files}
    for step in steps:
        by_path = {file.path: file for file in now.values()}
        for change in step.changes:
            file = by_path.get(change.path)
            if file is None:
                continue
            if change.blob is None:
                tally.deleted += 1
                del now[file.origin], working[file.origin]
                continue
            new, origin = contents[change.blob], files[file.origin]
            moved, outcomes = carry(git, file, new, change.new_path, step.commit.sha[:12])
            now[file.origin] = moved
            good = {
                # A patch in a folder knows the old path only.
                "git apply": change.new_path == file.origin and applies(origin, new),
                "3-way": merge(git, origin.upstream, origin.patched, new, ("", "", "")).conflicts == 0,
                "ours": bool(moved.layers[0].edits) and all(outcome.verdict.survives for outcome in outcomes),
            }
            _tell_losses(tally, step.commit, outcomes, working[file.origin]["ours"])
            tally.states += 1
            for method, works in good.items():
                tally.good[method] += works
            working[file.origin] = good
    for method in METHODS:
        tally.alive[method] = sum(works[method] for works in working.values())
    return tally


def _tell_losses(tally: Tally, commit: Commit, outcomes: Sequence[Any], worked: bool) -> None:
    if worked:
        tally.losses += [f"{o.hunk.path}: {o}, by {commit}" for o in outcomes if not o.verdict.survives]


def applies(origin: PatchedFile, content: bytes) -> bool:
    """Ask ``git apply`` whether the seam's patch, with three lines of context, fits a later version."""
    with tempfile.TemporaryDirectory() as folder:
        for side, text in (("a", origin.upstream), ("b", origin.patched)):
            (Path(folder, side)).mkdir()
            Path(folder, side, "f").write_bytes(text)
        environment = {**os.environ, "GIT_CEILING_DIRECTORIES": folder, "GIT_CONFIG_GLOBAL": os.devnull, "LC_ALL": "C"}
        diff = subprocess.run(
            ["git", "diff", "--no-index", "--no-color", "a/f", "b/f"], cwd=folder, env=environment, capture_output=True
        )
        Path(folder, "f").write_bytes(content)
        return not subprocess.run(
            ["git", "apply", "--check", "-p2", "-"], cwd=folder, env=environment, input=diff.stdout, capture_output=True
        ).returncode


def speed(mirror: Mirror, source: str | None) -> dict[str, Any]:
    """Time what ``drift`` does, for the seams of the last start over a year of history, in this process."""
    git, start = mirror.git, STARTS[-1]
    base, tip = _commit_before(git, start, 0), _commit_before(git, start, 1)
    need = needing(mirror, source, lambda note: None)
    walk(git, Carried(seamed(git, base, need)), base, tip, need)
    began = time.perf_counter()
    carried = Carried(seamed(git, base, need))
    scripts = len(carried.files)
    walk(git, carried, base, tip, need)
    seconds = time.perf_counter() - began
    commits = count_commits(git, base, tip)
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "from": start,
        "scripts": scripts,
        "commits": commits,
        "touching": len(carried.steps),
        "seconds": round(seconds, 3),
        "commits_per_second": round(commits / seconds),
        "peak_mb": round(peak / 1024),
    }


def _commit_before(git: Git, start: str, years: int) -> str:
    """The last commit of the main line before a day, some years later."""
    day = datetime.date.fromisoformat(start)
    day = day.replace(year=day.year + years)
    return git.text("rev-list", "-1", "--first-parent", f"--before={day}T00:00:00Z", HISTORY_REF)


def table(record: dict[str, Any]) -> str:
    """Render the record as a Markdown table."""
    head = [
        "seams of",
        "scripts",
        "years",
        "states",
        *(f"{m}: states" for m in METHODS),
        *(f"{m}: alive" for m in METHODS),
    ]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for start, result in record["starts"].items():
        for year in range(1, result["years"] + 1):
            tally = result[f"year {year}"]
            left = tally["scripts"] - tally["deleted"]
            states = [f"{100 * tally['good'][m] / max(tally['states'], 1):.0f} %" for m in METHODS]
            alive = [f"{tally['alive'][m]} of {left}" for m in METHODS]
            lines.append([start, str(tally["scripts"]), str(year), str(tally["states"]), *states, *alive])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pin", default="v4.57")
    parser.add_argument("--years", type=int, default=2)
    parser.add_argument("--from", dest="source", default=os.environ.get("UPSTREAM_URL"), metavar="URL|PATH")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
