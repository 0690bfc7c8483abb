"""Reading files whose content nobody has checked yet."""

import hashlib
import json
from pathlib import Path
from typing import Any

from nncf_transformers.errors import IntegrityError, UsageError


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(path: Path) -> str:
    """The content of a UTF-8 file, with or without a byte order mark.

    Raises:
        UsageError: There is no such file, or it may not be read.
        IntegrityError: The file is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise IntegrityError(
            f"{path} is not UTF-8 text (byte {error.start}): convert it, for example with iconv -t UTF-8"
        ) from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; check the path and its permissions") from error


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        UsageError: There is no such file, or it is empty.
        IntegrityError: The file is not complete, valid JSON.
    """
    text = read_text(path)
    if not text.strip():
        raise UsageError(f"{path} is empty: give a file with at least one example")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise broken_json(path, error) from error


def broken_json(path: Path, error: json.JSONDecodeError, line: int | None = None) -> IntegrityError:
    """The error for a file that is not JSON; ``line`` overrides the parser's own count (JSON Lines)."""
    cut = error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string")
    guess = "the file looks truncated, fetch it again" if cut else "correct the file or fetch it again"
    what = error.msg.removesuffix(" at")  # some of the parser's messages end so, others do not
    return IntegrityError(
        f"{path} is not valid JSON: {what} at line {line or error.lineno}, column {error.colno}; {guess}"
    )
