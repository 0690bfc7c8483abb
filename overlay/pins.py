"""Reads `pins.toml`: every supported upstream, by name."""

import datetime
import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from overlay.errors import UsageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SHA = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Pin:
    """One upstream commit that the project keeps patches for.

    Attributes:
        name: Key of the pin in `pins.toml`, e.g. `v4.57`.
        commit: Full SHA of the upstream commit.
        date: Day of that commit; also dates the commits and patches that the tool makes.
        library: Requirement to install beside the checkout, e.g. `transformers==4.57.6`, or `name @ folder` if the
            checkout itself holds the library.
        patches: Folder of the series, relative to the project.
        checkout: Upstream paths in the sparse work tree; empty means the whole tree.
        scripts: Short name -> path of a script in the work tree.
        upstream: URL of the upstream repository, or None for a pin built from a folder.
        tree: Project folder that the commit is built from, or None for a pin that is fetched.
    """

    name: str
    commit: str
    date: datetime.date
    library: str
    patches: str
    checkout: tuple[str, ...]
    scripts: Mapping[str, str]
    upstream: str | None = None
    tree: str | None = None

    @property
    def timestamp(self) -> str:
        """Midnight UTC of the pin's day, in git's `<seconds> <zone>` form."""
        midnight = datetime.datetime.combine(self.date, datetime.time(), tzinfo=datetime.UTC)
        return f"{int(midnight.timestamp())} +0000"

    def covers(self, path: str) -> bool:
        """Says whether `path` lies in the part of upstream that is checked out."""
        return not self.checkout or any(path == top or path.startswith(f"{top}/") for top in self.checkout)

    def script(self, name: str) -> str:
        """Returns the path of a script by its short name.

        Raises:
            UsageError: The pin has no script of that name.
        """
        if name not in self.scripts:
            raise UsageError(f"unknown script {name!r} for pin {self.name}{_suggest(name, self.scripts)}")
        return self.scripts[name]


@dataclass(frozen=True)
class Pins:
    """All pins of the project, and the name of the default one."""

    default: str
    by_name: Mapping[str, Pin]

    def get(self, name: str | None) -> Pin:
        """Returns a pin by name, or the default pin for None.

        Raises:
            UsageError: There is no pin of that name.
        """
        name = name or self.default
        if name not in self.by_name:
            raise UsageError(f"unknown pin {name!r}{_suggest(name, self.by_name)}")
        return self.by_name[name]


def load_pins(path: Path) -> Pins:
    """Reads and checks a `pins.toml`.

    Args:
        path: The file.

    Returns:
        Its pins.

    Raises:
        UsageError: The file is missing, is not TOML, has an unknown or missing key, or a value of the
            wrong type; the message names the file, the key and the value.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; give the project folder with --project") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None
    _check_keys(str(path), data, required={"default", "pins"})
    pins = {name: _parse_pin(f"{path}: pins.{name}", name, table) for name, table in data["pins"].items()}
    if data["default"] not in pins:
        raise UsageError(f"{path}: default = {data['default']!r} is no pin{_suggest(data['default'], pins)}")
    return Pins(data["default"], pins)


def check_new_name(name: str, pins: Pins) -> None:
    """Checks the name of a pin to be made.

    Raises:
        UsageError: It is taken, or is none.
    """
    if not _NAME.fullmatch(name) or name == "rebase":
        raise UsageError(f"--as {name!r}: a pin's name has only letters, digits, '.', '_' and '-', and is not 'rebase'")
    if name in pins.by_name:
        raise UsageError(f"--as {name}: there is a pin of that name; choose another, or remove it from pins.toml first")


def is_inside(path: str) -> bool:
    """Says whether a repository path stays inside its tree and out of `.git`."""
    parts = PurePosixPath(path).parts
    return bool(parts) and "\\" not in path and not path.startswith("/") and not {"..", ".git"} & set(parts)


_TYPES: dict[str, type] = {
    "commit": str,
    "date": datetime.date,
    "library": str,
    "patches": str,
    "checkout": list,
    "scripts": dict,
    "upstream": str,
    "tree": str,
}
_OPTIONAL = {"checkout", "upstream", "tree"}


def _parse_pin(where: str, name: str, table: Any) -> Pin:
    if not isinstance(table, dict):
        raise UsageError(f"{where} must be a table")
    if not _NAME.fullmatch(name):
        raise UsageError(f"{where}: a pin's name has only letters, digits, '.', '_' and '-'")
    _check_keys(where, table, required=_TYPES.keys() - _OPTIONAL, optional=_OPTIONAL)
    for key, value in table.items():
        if not isinstance(value, _TYPES[key]):
            raise UsageError(f"{where}.{key} = {value!r} must be of type {_TYPES[key].__name__}")
    if not _SHA.fullmatch(table["commit"]):
        raise UsageError(f"{where}.commit = {table['commit']!r} must be a full SHA of 40 hex digits")
    if ("upstream" in table) == ("tree" in table):
        raise UsageError(f"{where} needs exactly one of 'upstream' (a URL) and 'tree' (a folder)")
    checkout = tuple(table.get("checkout", ()))
    folders = [table["patches"], *([table["tree"]] if "tree" in table else [])]
    for path in (*checkout, *table["scripts"].values(), *folders):
        if not isinstance(path, str) or not is_inside(path):
            raise UsageError(f"{where}: {path!r} must be a relative path that stays inside the tree")
    pin = Pin(name=name, **{**table, "checkout": checkout})
    for script, path in pin.scripts.items():
        if not pin.covers(path):
            raise UsageError(f"{where}.scripts.{script} = {path!r} is not under any 'checkout' path")
    return pin


def _check_keys(where: str, table: Mapping[str, Any], required: set[str], optional: set[str] | None = None) -> None:
    known = required | (optional or set())
    for key in table:
        if key not in known:
            raise UsageError(f"{where}: unknown key {key!r}{_suggest(key, known)}")
    for key in sorted(required - table.keys()):
        raise UsageError(f"{where}: key {key!r} is missing")


def _suggest(name: str, known: Mapping[str, Any] | set[str]) -> str:
    """Returns '; did you mean …? known: …' for an error text."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"; {f'did you mean {near[0]!r}? ' if near else ''}known: {', '.join(sorted(known))}"
