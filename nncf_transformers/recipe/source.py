"""What ``--recipe`` and ``--recipe_args`` may be on the command line."""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nncf_transformers.config.errors import ConfigError
from nncf_transformers.recipe.document import MAX_CHARACTERS, front_matter, parse_scalar

MAX_BYTES = 4 * MAX_CHARACTERS
SUFFIXES = (".yaml", ".yml", ".md")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|(?:https?|hf|s3|gs):", re.ASCII)


def parse_arguments(text: str | None) -> dict[str, Any]:
    """Read the value of ``--recipe_args``.

    Raises:
        ConfigError: it is neither a JSON object nor ``name=value,name=value``.
    """
    if text is None or not text.strip():
        return {}
    if text.lstrip().startswith(("{", "[")):
        try:
            values = json.loads(text, object_pairs_hook=_without_repeats)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"--recipe_args: is not JSON ({error})") from None
        if not isinstance(values, Mapping):
            raise ConfigError('--recipe_args: is a JSON list, must be an object, e.g. {"num_epochs": 3}')
        return dict(values)
    found: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not re.fullmatch(r"\w+", name) or not value or ("=" in value):
            raise ConfigError(
                f'--recipe_args: cannot read "{part.strip()[:40]}"; write name=value,name=value or a JSON object'
            )
        if name in found:
            raise ConfigError(f"--recipe_args: {name} is given twice; keep one of them")
        found[name] = parse_scalar(value, f"--recipe_args: {name}")
    return found


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ConfigError(f"--recipe_args: {name} is given twice; keep one of them")
        found[name] = value
    return found


def read_source(recipe: str) -> tuple[str, str]:
    """The text of a recipe, and its name for messages.

    Args:
        recipe: path of a .yaml, .yml or .md file, the YAML itself, or ``-`` for standard input.

    Raises:
        ConfigError: there is no text to read.
    """
    if not recipe.strip():
        raise ConfigError("--recipe: is empty; give the path of a recipe")
    if recipe == "-":
        return read_input(), "standard input"
    if _is_text(recipe):
        return recipe, "--recipe"
    if recipe.startswith("zoo:"):
        raise ConfigError(
            f"--recipe: {recipe[:80]}: the SparseZoo is gone; give the path of the recipe file, "
            "or of one in nncf_configs/recipes/"
        )
    if _URL.match(recipe):
        raise ConfigError(f"--recipe: {recipe[:80]}: is a URL, and nothing is downloaded; give the path of a file")
    return _read_file(Path(recipe)), recipe


def _is_text(recipe: str) -> bool:
    if "\n" in recipe or "\r" in recipe:
        return True
    shaped = ": " in recipe or recipe.lstrip().startswith(("{", "---"))
    try:
        return shaped and not Path(recipe).exists()
    except (OSError, ValueError):
        return shaped


def read_input() -> str:
    """The recipe on standard input, ending in a line break: it is a text then, and never the path of a file.

    It can be read only once; who needs it a second time has to keep it.

    Raises:
        ConfigError: there is no text to read.
    """
    if sys.stdin is None:
        raise ConfigError("--recipe: standard input is closed; pipe a recipe into it")
    # The bytes: with LANG=C, Python itself takes everything for text.
    stream = getattr(sys.stdin, "buffer", sys.stdin)
    try:
        data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--recipe: standard input cannot be read ({error}); pipe a recipe into it") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"--recipe: standard input has more than {MAX_BYTES} bytes, which is too large for a recipe")
    text = data if isinstance(data, str) else _decode(data, "--recipe: standard input")
    if not text.strip():
        raise ConfigError("--recipe: standard input is empty; pipe a recipe into it")
    return f"{text}\n"


def _read_file(path: Path) -> str:
    try:
        if path.is_dir():
            inside = path / "recipe.yaml"
            hint = f"take {inside}" if inside.is_file() else "give the path of a recipe file"
            raise ConfigError(f"{path}: is a folder; {hint}")
        if not path.exists():
            raise ConfigError(f"{path}: no such file; give the path of a recipe ({', '.join(SUFFIXES)})")
        if path.suffix.lower() not in SUFFIXES:
            raise ConfigError(f'{path}: ends in "{path.suffix}"; a recipe is a {", ".join(SUFFIXES)} file')
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path}: has {path.stat().st_size} bytes, which is too large for a recipe")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give the path of a recipe") from None
    text = _decode(data, f"{path}:")
    if path.suffix.lower() == ".md" and text.strip() and front_matter(text.replace("\r\n", "\n")) is None:
        raise ConfigError(f'{path}: has no front matter; put the recipe between two lines "---"')
    return text


def _decode(data: bytes, what: str) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{what} is no UTF-8 text (byte {error.start}); save the recipe as UTF-8") from None
    if "\0" in text:
        raise ConfigError(f"{what} is a binary file; a recipe is text")
    return text
