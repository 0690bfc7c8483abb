"""The ordered patches of a pin, and the lock that says what they were made for.

A series is a folder: `series` lists the patch files in order, `series.lock.json` holds the sha256 of each
patch, the pin's commit, the blob ids of the touched files at that commit, and the SHA that applying gives.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from overlay.errors import IntegrityError, OverlayError
from overlay.files import finish_replacement, replace_files, replacement_pending
from overlay.objects import Objects
from overlay.patchfile import Patch, parse_patch
from overlay.pins import Pin

SERIES_FILE = "series"
LOCK_FILE = "series.lock.json"
LOCK_VERSION = 1


@dataclass(frozen=True)
class LockedPatch:
    """What the lock says of one patch: its sha256, and path -> blob id (None: the patch adds the file)."""

    sha256: str
    blobs: Mapping[str, str | None]


@dataclass(frozen=True)
class Lock:
    """The content of `series.lock.json`.

    Attributes:
        commit: Upstream commit the series is for.
        applied: SHA of the last commit after applying the series.
        patches: Patch name -> what is locked of it.
    """

    commit: str
    applied: str
    patches: Mapping[str, LockedPatch]

    def to_json(self) -> bytes:
        """Returns the file's content; the same lock gives the same bytes."""
        data = {
            "version": LOCK_VERSION,
            "commit": self.commit,
            "applied": self.applied,
            "patches": {
                name: {"sha256": patch.sha256, "blobs": dict(sorted(patch.blobs.items()))}
                for name, patch in self.patches.items()
            },
        }
        return (json.dumps(data, indent=2) + "\n").encode()


@dataclass(frozen=True)
class Series:
    """The patches of a pin in the order they are applied.

    Attributes:
        pin: The pin.
        folder: Where the files are.
        shown: The folder as error texts show it.
        patches: The patches.
    """

    pin: Pin
    folder: Path
    shown: str
    patches: tuple[Patch, ...]

    def patch_path(self, patch: Patch) -> str:
        """Returns the path of a patch as error texts show it."""
        return f"{self.shown}/{patch.name}"

    def read_lock(self) -> Lock:
        """Reads the lock.

        Raises:
            IntegrityError: It is missing or is not what the tool writes.
        """
        where = f"{self.shown}/{LOCK_FILE}"
        remake = f"restore it from git, or make it anew with 'python apply_patch.py lock --pin {self.pin.name}'"
        try:
            data = json.loads((self.folder / LOCK_FILE).read_bytes())
            if data["version"] != LOCK_VERSION:
                raise IntegrityError(f"{where} has version {data['version']!r}, not {LOCK_VERSION}; {remake}")
            patches = {name: LockedPatch(p["sha256"], dict(p["blobs"])) for name, p in data["patches"].items()}
            return Lock(data["commit"], data["applied"], patches)
        except FileNotFoundError:
            raise IntegrityError(f"{where} does not exist; {remake}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(f"{where} cannot be read ({type(error).__name__}: {error}); {remake}") from None

    def check(self, lock: Lock) -> None:
        """Checks pin and patches against the lock, without looking at upstream.

        Raises:
            IntegrityError: They differ; names the patch.
        """
        relock = f"if that is meant, run 'python apply_patch.py lock --pin {self.pin.name}'"
        where = f"{self.shown}/{LOCK_FILE}"
        if lock.commit != self.pin.commit:
            raise IntegrityError(f"{where} is for commit {lock.commit} but pins.toml pins {self.pin.commit}; {relock}")
        names = [patch.name for patch in self.patches]
        if names != list(lock.patches):
            raise IntegrityError(f"{where} locks the patches {list(lock.patches)} but the series has {names}; {relock}")
        for patch in self.patches:
            locked = lock.patches[patch.name]
            if patch.sha256 != locked.sha256:
                raise IntegrityError(
                    f"{self.patch_path(patch)} has sha256 {patch.sha256} but {where} says {locked.sha256}; "
                    f"restore it with 'git checkout -- {self.patch_path(patch)}', or {relock}"
                )
            if set(locked.blobs) != set(patch.paths):
                raise IntegrityError(f"{where} lists other files for {patch.name} than it touches; {relock}")

    def check_upstream(self, lock: Lock, objects: Objects) -> None:
        """Checks the locked blob ids against the pin's commit.

        Raises:
            IntegrityError: One differs; names the file.
        """
        for name, locked in lock.patches.items():
            for path, blob in locked.blobs.items():
                actual = objects.blob_id(self.pin.commit, path)
                if actual != blob:
                    raise IntegrityError(
                        f"{self.shown}/{LOCK_FILE}: {name} expects blob {blob} of {path} but commit "
                        f"{self.pin.commit} has {actual}; the lock was changed: restore it from git"
                    )


def read_series(pin: Pin, folder: Path, shown: str) -> Series:
    """Reads the series of a pin.

    Args:
        pin: The pin.
        folder: Its patch folder.
        shown: The folder as error texts show it.

    Returns:
        The series; a comment or blank line in the `series` file counts for nothing.

    Raises:
        OverlayError: The `series` file is missing.
        IntegrityError: A patch is missing, is listed twice or is malformed, or a killed export left the
            folder half replaced.
    """
    if replacement_pending(folder):
        raise IntegrityError(
            f"{shown} is half replaced by a run that was killed; "
            f"'python apply_patch.py apply --pin {pin.name}' completes it"
        )
    patches: list[Patch] = []
    for name in series_names(folder, shown):
        if name in {patch.name for patch in patches}:
            raise IntegrityError(f"{shown}/{SERIES_FILE} lists {name} twice; remove one")
        patches.append(_read_patch(pin, folder, name, shown))
    return Series(pin, folder, shown, tuple(patches))


def series_names(folder: Path, shown: str) -> list[str]:
    """Returns the patch names that the `series` file lists, in order.

    Raises:
        OverlayError: The file is missing.
    """
    try:
        lines = (folder / SERIES_FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise OverlayError(
            f"{shown}/{SERIES_FILE} does not exist; restore it from git, or begin a series with an empty file"
        ) from None
    return [name for line in lines if (name := line.partition("#")[0].strip())]


def make_lock(pin: Pin, patches: Sequence[Patch], applied: str, objects: Objects) -> Lock:
    """Returns the lock for patches that have just been applied.

    Args:
        pin: The pin.
        patches: The patches in order.
        applied: SHA that applying them gave.
        objects: Upstream, for the blob ids.
    """
    locked = {
        patch.name: LockedPatch(patch.sha256, {path: objects.blob_id(pin.commit, path) for path in patch.paths})
        for patch in patches
    }
    return Lock(pin.commit, applied, locked)


def write_series(series: Series, patches: Sequence[Patch], lock: Lock) -> list[str]:
    """Writes patches, `series` and lock as one step; patches that are no longer listed are deleted.

    Args:
        series: The series as it was.
        patches: The new patches.
        lock: Their lock.

    Returns:
        Names of the files that changed.
    """
    content: dict[str, bytes | None] = {patch.name: None for patch in series.patches}
    content |= {patch.name: patch.raw for patch in patches}
    content[SERIES_FILE] = _series_text(series, patches)
    content[LOCK_FILE] = lock.to_json()
    changed = {name: data for name, data in content.items() if _current(series.folder / name) != data}
    if changed:
        replace_files(series.folder, changed)
    return sorted(changed)


def recover_series(folder: Path) -> None:
    """Completes what a killed `write_series` left."""
    if folder.is_dir():
        finish_replacement(folder)


def _series_text(series: Series, patches: Sequence[Patch]) -> bytes:
    """Keeps the leading comment of the `series` file."""
    lines = (series.folder / SERIES_FILE).read_text(encoding="utf-8").splitlines()
    comment = [line for line in lines if line.startswith("#")]
    return "".join(f"{line}\n" for line in [*comment, *(patch.name for patch in patches)]).encode()


def _current(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _read_patch(pin: Pin, folder: Path, name: str, shown: str) -> Patch:
    if "/" in name or not name.endswith(".patch"):
        raise IntegrityError(f"{shown}/{SERIES_FILE} lists {name!r}, which is no '*.patch' file of that folder")
    try:
        raw = (folder / name).read_bytes()
    except FileNotFoundError:
        raise IntegrityError(
            f"{shown}/{name} does not exist but {shown}/{SERIES_FILE} lists it; restore it from git"
        ) from None
    patch = parse_patch(name, raw, f"{shown}/{name}")
    for path in patch.paths:
        if not pin.covers(path):
            raise IntegrityError(
                f"{shown}/{name}: {path} is not under any 'checkout' path of pin {pin.name}; add it to pins.toml"
            )
    return patch
