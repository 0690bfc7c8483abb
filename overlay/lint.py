"""Checks what a patch may look like: thin, described, and placed where it survives upstream's changes."""

import ast
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from overlay.errors import OverlayError
from overlay.layout import Layout
from overlay.patchfile import FileDiff, Hunk, Patch
from overlay.pins import Pin
from overlay.series import Series, read_series, series_names

MAX_HUNKS = 6
MAX_HUNKS_TRAINER = 3
_TRAINER_NAMES = {"Trainer", "Seq2SeqTrainer", "TrainingArguments", "Seq2SeqTrainingArguments"}
_LOGIC = (
    ast.Lambda,
    ast.IfExp,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
    ast.NamedExpr,
    ast.Await,
)


@dataclass(frozen=True)
class Finding:
    """One thing that lint has to say.

    Attributes:
        where: File, with the line where there is one.
        message: What is wrong, and what would be right.
        is_error: Whether it fails the lint; a warning does not.
    """

    where: str
    message: str
    is_error: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {'error' if self.is_error else 'warning'}: {self.message}"


def lint(pin: Pin, layout: Layout) -> list[Finding]:
    """Checks the series of a pin; needs no upstream.

    Args:
        pin: The pin.
        layout: Where things lie.

    Returns:
        What was found, in the order of the series; empty for a clean one.
    """
    folder = layout.series(pin)
    shown = layout.shown(folder)
    try:
        listed = set(series_names(folder, shown))
        series = read_series(pin, folder, shown)
        series.check(series.read_lock())
    except OverlayError as error:
        return [Finding(shown, str(error))]
    findings = [
        Finding(f"{shown}/{path.name}", "is not listed in the series; list it or delete it")
        for path in sorted(folder.glob("*.patch"))
        if path.name not in listed
    ]
    return findings + lint_patches(series)


def lint_patches(series: Series) -> list[Finding]:
    """Checks the patches of a series; see `lint`."""
    return [finding for patch in series.patches for finding in _lint_patch(series, patch)]


def _lint_patch(series: Series, patch: Patch) -> Iterator[Finding]:
    where = series.patch_path(patch)
    if not patch.subject:
        yield Finding(where, "has no subject; say what the patch does")
    if not patch.description:
        yield Finding(where, "has no description; say why each hunk sits where it sits")
    for diff in patch.files:
        yield from _lint_size(where, diff)
        for hunk in diff.hunks:
            yield from _lint_hunk(where, diff, hunk)


def _lint_size(where: str, diff: FileDiff) -> Iterator[Finding]:
    on_trainer = any(_TRAINER_NAMES & set(_imported_names(hunk)) for hunk in diff.hunks)
    limit = MAX_HUNKS_TRAINER if on_trainer else MAX_HUNKS
    if len(diff.hunks) > limit:
        kind = "a Trainer-based script" if on_trainer else "a file"
        yield Finding(where, f"{diff.path} has {len(diff.hunks)} hunks; {kind} may have {limit}")


def _lint_hunk(where: str, diff: FileDiff, hunk: Hunk) -> Iterator[Finding]:
    for offset, line in enumerate(hunk.lines, start=1):
        if not line.startswith("+"):
            continue
        at = f"{where}:{hunk.header_line + offset}"
        if line.endswith("\r"):
            yield Finding(at, "the added line ends in CRLF; upstream uses LF")
        elif line != line.rstrip():
            yield Finding(at, "the added line has trailing whitespace")
    at = f"{where}:{hunk.header_line}"
    if any("check_min_version" in line for line in hunk.lines):
        yield Finding(
            at,
            "check_min_version is in this hunk and changes at every release; move the hunk",
            is_error=False,
        )
    if diff.path.endswith(".py"):
        for block in _added_blocks(hunk):
            if fault := _logic_in(block):
                yield Finding(at, f"{fault}; keep logic in nncf_transformers, a patch only imports and calls")


def _added_blocks(hunk: Hunk) -> Iterator[str]:
    """Yields the runs of added lines of a hunk, without their common indentation."""
    block: list[str] = []
    for line in (*hunk.lines, " "):
        if line.startswith("+"):
            block.append(line[1:])
        elif block:
            yield textwrap.dedent("\n".join(block))
            block = []


def _logic_in(block: str) -> str | None:
    """Says what in a block of added lines is more than an import or a call."""
    try:
        statements = ast.parse(block).body
    except SyntaxError:
        return "the added lines are no whole statements"
    for statement in statements:
        added = f"the added line {ast.unparse(statement).splitlines()[0]!r}"
        if not _is_plain(statement):
            return f"{added} is no import, call or assigned call"
        if logic := next((node for node in ast.walk(statement) if isinstance(node, _LOGIC)), None):
            return f"{added} contains a {type(logic).__name__}"
    return None


def _is_plain(statement: ast.stmt) -> bool:
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return True
    return isinstance(statement, (ast.Expr, ast.Assign, ast.AnnAssign)) and isinstance(statement.value, ast.Call)


def _imported_names(hunk: Hunk) -> Iterator[str]:
    for block in _added_blocks(hunk):
        try:
            statements = ast.parse(block).body
        except SyntaxError:
            continue
        for statement in statements:
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                yield from (alias.asname or alias.name for alias in statement.names)
