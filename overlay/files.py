"""Files written whole or not at all."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

_STAGED = ".replacement"
_PARTIAL = ".replacement.partial"


def write_atomically(path: Path, data: bytes, scratch: Path | None = None) -> None:
    """Writes a file under a temporary name and renames it.

    Args:
        path: The file.
        data: Its content.
        scratch: Folder for the temporary file, on the same file system; the file's own by default.
    """
    partial = (scratch or path.parent) / f".{path.name}.partial"
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def replace_files(folder: Path, content: Mapping[str, bytes | None]) -> None:
    """Replaces several files of a folder as one step.

    The new files are first staged in a subfolder whose renaming is the point of no return: a run killed
    before it changes nothing, one killed after it is completed by `finish_replacement`.

    Args:
        folder: The folder; it is made if it is missing.
        content: File name -> new content, or None for a file to delete.
    """
    partial = folder / _PARTIAL
    discard(partial)
    partial.mkdir(parents=True)
    for name, data in content.items():
        (partial / (name if data is not None else f"{name}.deleted")).write_bytes(data or b"")
    partial.rename(folder / _STAGED)
    finish_replacement(folder)


def replacement_pending(folder: Path) -> bool:
    """Says whether a killed run left a replacement that is staged but not finished."""
    return (folder / _STAGED).is_dir()


def finish_replacement(folder: Path) -> None:
    """Completes a staged replacement, if there is one, and drops an incomplete one."""
    discard(folder / _PARTIAL)
    if not replacement_pending(folder):
        return
    for staged in sorted((folder / _STAGED).iterdir()):
        if staged.suffix == ".deleted":
            (folder / staged.stem).unlink(missing_ok=True)
            staged.unlink()
        else:
            os.replace(staged, folder / staged.name)
    (folder / _STAGED).rmdir()


def discard(folder: Path) -> None:
    """Deletes a folder with all it holds; a missing one is fine."""
    if folder.exists():
        shutil.rmtree(folder)
