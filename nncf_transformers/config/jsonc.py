"""Reads JSON the way the original configurations were written: with comments and trailing commas."""

import json
from pathlib import Path
from typing import Any

from nncf_transformers.config.errors import ConfigError


def read_json(path: Path) -> dict[str, Any] | list[Any]:
    """Read one JSON object, or list, from ``path``.

    Raises:
        ConfigError: the file is missing or unreadable, is not JSON (with line and column), is empty, holds
            something else than an object or a list, or names a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give the path of a JSON configuration") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give the path of a JSON configuration") from None
    return parse_json(text, str(path))


def parse_json(text: str, source: str) -> dict[str, Any] | list[Any]:
    """Parse the text of a configuration; ``source`` is the name that errors mention.

    Raises:
        ConfigError: see :func:`read_json`.
    """
    plain = strip_comments(text, source)
    if not plain.strip():
        raise ConfigError(f'{source}: the file is empty; start from {{"algorithms": [...]}}')
    try:
        data = json.loads(
            plain,
            object_pairs_hook=lambda pairs: _object_without_duplicates(pairs, source),
            parse_constant=lambda name: _refuse_constant(name, source),
        )
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ConfigError(f"{source}: not JSON at {place}: {error.msg}; correct the file there") from None
    if isinstance(data, list):
        return data
    if not isinstance(data, dict):
        raise ConfigError(f"{source}: holds {type_name(data)}, not an object; put everything between {{ and }}")
    if not data:
        raise ConfigError(f'{source}: the object is empty; it needs "algorithms" (or legacy "compression")')
    return data


def strip_comments(text: str, source: str) -> str:
    """Blank out ``//``, ``#`` and ``/* */`` comments and trailing commas; strings stay as they are.

    Every removed character becomes a space and newlines stay, so that the line and column in an error of the
    JSON parser are those of the file.
    """
    out = list(text)
    trailing_comma: int | None = None
    before = ""  # The last character that counts; a comma is trailing only behind a value.
    position = 0
    while position < len(text):
        character = text[position]
        if character == '"':
            position = _string_end(text, position)
            trailing_comma, before = None, '"'
            continue
        end = _comment_end(text, position, source)
        if end > position:
            for index in range(position, end):
                if out[index] != "\n":
                    out[index] = " "
            position = end
            continue
        if character in "]}" and trailing_comma is not None:
            out[trailing_comma] = " "
        if character == ",":
            trailing_comma = None if before in ("", ",", ":", "[", "{") else position
        elif not character.isspace():
            trailing_comma = None
        if not character.isspace():
            before = character
        position += 1
    return "".join(out)


def type_name(value: Any) -> str:
    """The JSON name of a value's type, with an article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "a list" if isinstance(value, list) else "an object"


def _string_end(text: str, start: int) -> int:
    """Index just behind the string that opens at ``start`` (behind the line if nothing closes it)."""
    position = start + 1
    while position < len(text) and text[position] not in '"\n':
        position += 2 if text[position] == "\\" else 1
    return min(position + 1, len(text))


def _comment_end(text: str, start: int, source: str) -> int:
    """Index just behind the comment that opens at ``start``, or ``start`` if none does."""
    if text[start] == "#" or text.startswith("//", start):
        end = text.find("\n", start)
        return len(text) if end < 0 else end
    if text.startswith("/*", start):
        end = text.find("*/", start + 2)
        if end < 0:
            line = text.count("\n", 0, start) + 1
            raise ConfigError(f"{source}: the comment opened with /* in line {line} is never closed; add */")
        return end + 2
    return start


def _object_without_duplicates(pairs: list[tuple[str, Any]], source: str) -> dict[str, Any]:
    """Refuse a key given twice: JSON would silently keep the last one."""
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ConfigError(f'{source}: the key "{key}" is given twice in one object; remove one of them')
        result[key] = value
    return result


def _refuse_constant(name: str, source: str) -> None:
    raise ConfigError(f"{source}: {name} is not a JSON number; write a finite number")
