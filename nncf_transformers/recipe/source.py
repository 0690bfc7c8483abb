"""What ``--recipe`` and ``--recipe_args`` may be on the command line."""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nncf_transformers.config.errors import ConfigError
from nncf_transformers.recipe.document import MAX_CHARACTERS, front_matter, parse_scalar

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
            values = json.loads(text)
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
        found[name] = parse_scalar(value)
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
        return _read_input(), "standard input"
    if recipe.startswith("zoo:"):
        raise ConfigError(
            f"--recipe: {recipe[:80]}: the SparseZoo is gone; give the path of the recipe file, "
            "or of one in nncf_configs/recipes/"
        )
    if _is_text(recipe):
        return recipe, "--recipe"
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


def _read_input() -> str:
    try:
        text = sys.stdin.read(MAX_CHARACTERS + 1)
    except UnicodeDecodeError:
        raise ConfigError("--recipe: standard input is no UTF-8 text; save the recipe as UTF-8") from None
    if not text.strip():
        raise ConfigError("--recipe: standard input is empty; pipe a recipe into it")
    return text


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
        if path.stat().st_size > 4 * MAX_CHARACTERS:
            raise ConfigError(f"{path}: has {path.stat().st_size} bytes, which is too large for a recipe")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give the path of a recipe") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is no UTF-8 text (byte {error.start}); save the recipe as UTF-8") from None
    if "\0" in text:
        raise ConfigError(f"{path}: is a binary file; a recipe is text")
    if path.suffix.lower() == ".md" and text.strip() and front_matter(text.replace("\r\n", "\n")) is None:
        raise ConfigError(f'{path}: has no front matter; put the recipe between two lines "---"')
    return text
