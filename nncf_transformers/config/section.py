"""Typed access to one JSON object, so that every mistake is named with its place."""

import math
from collections.abc import Iterator
from typing import Any

from nncf_transformers.config.errors import ConfigError, nearest
from nncf_transformers.config.jsonc import type_name


class Section:
    """A JSON object on its way into a dataclass.

    Each ``take…`` method reads one key and marks it as known; a key nobody took is an error at the end. Use
    it as a context manager, which makes that check when the block is left without another error.

    Attributes:
        source: File name for messages.
        path: Where the object is in the file, for example ``algorithms[0].weights``.
    """

    def __init__(self, data: Any, source: str, path: str = "") -> None:
        self.source = source
        self.path = path
        if not isinstance(data, dict):
            raise ConfigError(f"{self.place}: is {type_name(data)}, must be an object {{…}}")
        self._data: dict[str, Any] = data
        self._known: set[str] = set()

    def __enter__(self) -> "Section":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.finish()

    def __contains__(self, key: str) -> bool:
        return key in self._data

    @property
    def data(self) -> dict[str, Any]:
        """The object itself, as it was in the file."""
        return self._data

    @property
    def place(self) -> str:
        """File and path of the object itself."""
        return f"{self.source}: {self.path}" if self.path else self.source

    def place_of(self, key: str) -> str:
        """File and path of one of its keys."""
        return f"{self.source}: {self._join(key)}"

    def error(self, key: str, message: str) -> ConfigError:
        """An error about ``key``: place, value as written in JSON terms, message."""
        return ConfigError(f"{self.place_of(key)}: {message}")

    def finish(self) -> None:
        """Refuse the keys that nobody took."""
        for key in self._data:
            if key not in self._known:
                hint = nearest(key, self._known)
                valid = f"; valid keys: {', '.join(sorted(self._known))}" if not hint else ""
                raise self.error(key, f'unknown key "{key}"{hint}{valid}')

    def keys(self) -> list[str]:
        """The keys that are present, in the order of the file."""
        return list(self._data)

    def take(self, key: str) -> Any:
        """The raw value, or ``None`` where the key is absent or null."""
        self._known.add(key)
        return self._data.get(key)

    def take_bool(self, key: str) -> bool | None:
        """A boolean, or ``None``."""
        value = self.take(key)
        if value is None or isinstance(value, bool):
            return value
        raise self._wrong_type(key, value, "true or false")

    def take_number(self, key: str, low: float | None = None, high: float | None = None) -> float | None:
        """A number from ``low`` to ``high`` (both included), or ``None``."""
        value = self.take(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong_type(key, value, "a number")
        if not math.isfinite(value) or (low is not None and value < low) or (high is not None and value > high):
            wanted = f"from {low:g} to {high:g}" if high is not None else f"of at least {low:g}"
            raise self.error(key, f"is {value:g}, must be a number {wanted}")
        return float(value)

    def take_int(self, key: str, low: int = 1) -> int | None:
        """A whole number of at least ``low``, or ``None``; ``8.0`` counts as whole."""
        value = self.take_number(key, low=low)
        if value is None:
            return None
        if value != int(value):
            raise self.error(key, f"is {value:g}, must be a whole number")
        return int(value)

    def take_string(self, key: str) -> str | None:
        """A string, or ``None``."""
        value = self.take(key)
        if value is None or isinstance(value, str):
            return value
        raise self._wrong_type(key, value, "a string")

    def take_choice(self, key: str, choices: tuple[str, ...]) -> str | None:
        """One of ``choices``, or ``None``."""
        value = self.take_string(key)
        if value is not None and value not in choices:
            raise self.error(key, f'is "{value}", must be one of {", ".join(choices)}{nearest(value, choices)}')
        return value

    def take_strings(self, key: str) -> tuple[str, ...]:
        """A list of strings; a lone string counts as a list of one, null or absence as an empty one."""
        value = self.take(key)
        if value is None:
            return ()
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise self._wrong_type(key, value, "a string or a list of strings")
        for item in items:
            if not item.removeprefix("{re}").strip():
                raise self.error(key, f'holds the empty entry "{item}"; remove it')
        return tuple(items)

    def take_section(self, key: str) -> "Section | None":
        """The object under ``key``, or ``None``."""
        value = self.take(key)
        return None if value is None else Section(value, self.source, self._join(key))

    def take_sections(self, key: str) -> list["Section"]:
        """The objects under ``key``: a list of them, or a single one as a list of one."""
        value = self.take(key)
        if isinstance(value, list):
            return [Section(item, self.source, f"{self._join(key)}[{index}]") for index, item in enumerate(value)]
        return [] if value is None else [Section(value, self.source, self._join(key))]

    def items(self) -> Iterator[tuple[str, "Section"]]:
        """Every key with the object under it, for objects whose keys are the user's own names."""
        for key in self.keys():
            section = self.take_section(key)
            if section is None:
                raise self._wrong_type(key, None, "an object {…}")
            yield key, section

    def _join(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def _wrong_type(self, key: str, value: Any, wanted: str) -> ConfigError:
        return self.error(key, f"is {type_name(value)} ({value!r}), must be {wanted}")
