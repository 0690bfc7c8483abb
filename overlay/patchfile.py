"""Reads one patch file: the header of a mail, a message, and a diff in git's format."""

import email
import email.policy
import hashlib
import re
from dataclasses import dataclass
from email.utils import parseaddr, parsedate_to_datetime
from functools import cached_property

from overlay.errors import IntegrityError
from overlay.pins import is_inside

_FILE = re.compile(r"diff --git a/(?P<old>.+) b/(?P<new>.+)")
_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_SUBJECT_TAG = re.compile(r"^\[PATCH[^\]]*\]\s*")
_UNSUPPORTED = ("rename ", "copy ", "similarity ", "GIT binary patch", "Binary files ")
# Symbolic links and submodules lead out of the tree.
_LINK = re.compile(r"(new file|new) mode (120|160)000")


@dataclass(frozen=True)
class Hunk:
    """One hunk of a diff.

    Attributes:
        number: Position among the hunks of its file, from 1.
        header_line: Line of its `@@` header in the patch file, from 1.
        old_start: First line it covers in the file before the patch.
        lines: Its lines, each with the leading ' ', '+' or '-'.
    """

    number: int
    header_line: int
    old_start: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class FileDiff:
    """What a patch does to one file: its path and its hunks."""

    path: str
    hunks: tuple[Hunk, ...]


@dataclass(frozen=True)
class Patch:
    """One patch of a series.

    Attributes:
        name: File name, e.g. `01-run_qa.patch`.
        raw: The file's bytes.
        subject: First line of the commit message, without a `[PATCH]` tag.
        description: Rest of the message; may be empty.
        author: Name of the author.
        author_email: Address of the author.
        date: Author date in git's `<seconds> <zone>` form.
        files: The files it touches, in order.
    """

    name: str
    raw: bytes
    subject: str
    description: str
    author: str
    author_email: str
    date: str
    files: tuple[FileDiff, ...]

    @cached_property
    def sha256(self) -> str:
        """Checksum of the file."""
        return hashlib.sha256(self.raw).hexdigest()

    @property
    def message(self) -> str:
        """The commit message."""
        return f"{self.subject}\n\n{self.description}\n" if self.description else f"{self.subject}\n"

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of the files it touches."""
        return tuple(diff.path for diff in self.files)

    @property
    def title(self) -> str:
        """The file name without its suffix, as `export --patch` takes it."""
        return self.name.removesuffix(".patch")


def parse_patch(name: str, raw: bytes, where: str) -> Patch:
    """Parses a patch file.

    Args:
        name: Its file name.
        raw: Its bytes.
        where: Its path, for error texts.

    Returns:
        The patch.

    Raises:
        IntegrityError: It has CRLF line ends, is no mail with a diff, has a corrupt hunk, touches a path
            outside the tree, or uses what a series must not (renames, binary files); names the line.
    """
    if b"\r\n" in raw.split(b"\n\n", 1)[0]:
        raise IntegrityError(
            f"{where} has CRLF line ends (an editor, or a checkout without our .gitattributes); "
            f"restore it with 'git checkout -- {where}'"
        )
    try:
        lines = raw.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise IntegrityError(f"{where} is not UTF-8 (byte {error.start}); export it anew") from None
    diff_start = next((i for i, line in enumerate(lines) if line.startswith("diff --git ")), None)
    if diff_start is None or "" not in lines[:diff_start]:
        raise IntegrityError(f"{where} is no patch in mail format (header, message, diff); export it anew")
    header_end = lines.index("")
    header = email.message_from_string("\n".join(lines[:header_end]), policy=email.policy.default)
    author, address = parseaddr(str(header.get("From", "")))
    return Patch(
        name=name,
        raw=raw,
        subject=_SUBJECT_TAG.sub("", str(header.get("Subject", "")).strip()),
        description=_description(lines[header_end + 1 : diff_start]),
        author=author,
        author_email=address,
        date=_git_date(str(header.get("Date", "")), where),
        files=_parse_diff(lines, diff_start, where),
    )


def _description(lines: list[str]) -> str:
    if "---" in lines:
        lines = lines[: lines.index("---")]
    return "\n".join(lines).strip("\n")


def _git_date(value: str, where: str) -> str:
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        raise IntegrityError(f"{where}: 'Date: {value}' is no date; export the patch anew") from None
    return f"{int(date.timestamp())} {date.strftime('%z') or '+0000'}"


def _parse_diff(lines: list[str], start: int, where: str) -> tuple[FileDiff, ...]:
    files: list[FileDiff] = []
    hunks: list[Hunk] = []
    path = ""
    at = start
    while at < len(lines):
        line = lines[at]
        if line.startswith("diff --git "):
            if path:
                files.append(FileDiff(path, tuple(hunks)))
            path, hunks = _path(line, f"{where}:{at + 1}"), []
        elif line.startswith("@@ "):
            hunk = _parse_hunk(lines, at, len(hunks) + 1, f"{where}:{at + 1}")
            hunks.append(hunk)
            at += len(hunk.lines)
        elif line.startswith(_UNSUPPORTED) or _LINK.match(line):
            raise IntegrityError(f"{where}:{at + 1}: {line!r}: renames, links and binary files are not supported")
        elif line.startswith(("--- ", "+++ ")) and line[4:] not in (
            "/dev/null",
            f"{'ab'[line[0] == '+']}/{path}",
        ):
            raise IntegrityError(f"{where}:{at + 1}: {line!r} does not agree with its 'diff --git' line")
        at += 1
    return (*files, FileDiff(path, tuple(hunks)))


def _path(line: str, where: str) -> str:
    match = _FILE.fullmatch(line)
    if not match or match["old"] != match["new"]:
        raise IntegrityError(f"{where}: {line!r}: renames and quoted paths are not supported")
    if not is_inside(match["new"]):
        raise IntegrityError(
            f"{where}: path {match['new']!r} lies outside the tree; no patch of ours does that, "
            "find out where it comes from before using it"
        )
    return match["new"]


def _parse_hunk(lines: list[str], at: int, number: int, where: str) -> Hunk:
    match = _HUNK.match(lines[at])
    if not match:
        raise IntegrityError(f"{where}: {lines[at]!r} is no hunk header")
    old_left, new_left = int(match[2] or 1), int(match[4] or 1)
    end = at + 1
    while old_left > 0 or new_left > 0 or lines[end : end + 1] == ["\\ No newline at end of file"]:
        kind = lines[end][:1] if end < len(lines) else ""
        if kind not in (" ", "+", "-", "\\"):
            raise IntegrityError(f"{where}: hunk {number} ends before its header says; export the patch anew")
        old_left -= kind in " -"
        new_left -= kind in " +"
        end += 1
    if old_left or new_left or (end < len(lines) and lines[end][:1] in (" ", "+")):
        raise IntegrityError(f"{where}: hunk {number} is longer than its header says; export the patch anew")
    return Hunk(number, at + 1, int(match[1]), tuple(lines[at + 1 : end]))
