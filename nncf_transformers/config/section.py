"""Typed access to one JSON object, so that every mistake is named with its place."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from nncf_transformers.config.errors import ConfigError, nearest
from nncf_transformers.config.jsonc import type_name


@dataclass(frozen=True)
class Bounds:
    """Which numbers a setting may be: ``low`` and ``high`` are allowed themselves, ``above`` and ``below`` are not."""

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            return f"from {self.low:g} to {self.high:g}"
        if self.low is not None and self.below is not None:
            return f"from {self.low:g} to below {self.below:g}"
        if self.low is not None:
            return f"of at least {self.low:g}"
        return "that is finite" if self.above is None else f"above {self.above:g}"


class Section:
    """A JSON object on its way into a dataclass.

    Each ``take…`` method reads one key and marks it as known; a key nobody took is an error at the end. Use
    it as a context manager, which makes that check when the block is left without another error.

    Attributes:
        source: File name for messages.
        path: Where the object is in the file, for example ``algorithms[0].weights``.
        warnings: One line each for whatever is approximated or has no effect; a whole file shares one list.
    """

    def __init__(self, data: Any, source: str, path: str = "", warnings: list[str] | None = None) -> None:
        self.source = source
        self.path = path
        self.warnings: list[str] = [] if warnings is None else warnings
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

    def missing(self, key: str, what: str) -> ConfigError:
        """An error about a key that has to be there; ``what`` says what to write."""
        return self.error(key, f"is missing; give {what}")

    def warn(self, key: str, message: str) -> None:
        """Note something about ``key`` that the user should know."""
        self.warnings.append(f"{self.place_of(key)}: {message}")

    def refuse_idle(self, keys: Iterable[str], when: str) -> None:
        """Refuse settings that have no effect under the other ones; ``when`` is the rest of that sentence."""
        for key in keys:
            if self.take(key) is not None:
                raise self.error(key, f"has no effect {when}; remove it")

    def warn_idle(self, keys: Iterable[str], when: str) -> None:
        """Warn about settings that have no effect under the other ones."""
        for key in keys:
            if self.take(key) is not None:
                self.warn(key, f"has no effect {when}")

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

    def take_number(
        self,
        key: str,
        low: float | None = None,
        high: float | None = None,
        above: float | None = None,
        below: float | None = None,
    ) -> float | None:
        """A finite number within the :class:`Bounds` given, or ``None``."""
        value = self.take(key)
        if value is None:
            return None
        number = _as_float(value)
        if number is None:
            raise self._wrong_type(key, value, "a number")
        bounds = Bounds(low, high, above, below)
        if number not in bounds:
            raise self.error(key, f"is {number:g}, must be a number {bounds}")
        return number

    def take_numbers(self, key: str, low: float, below: float | None = None) -> tuple[float, ...] | None:
        """A list of numbers within the bounds, or ``None``."""
        value = self.take(key)
        if value is None:
            return None
        numbers = [_as_float(item) for item in value] if isinstance(value, list) else [None]
        bounds = Bounds(low, below=below)
        if any(number is None or number not in bounds for number in numbers):
            raise self._wrong_type(key, value, f"a list of numbers {bounds}")
        return tuple(number for number in numbers if number is not None)

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
        return None if value is None else Section(value, self.source, self._join(key), self.warnings)

    def take_section_or_empty(self, key: str) -> "Section":
        """The object under ``key``; where there is none, an empty one in its place."""
        value = self.take(key)
        return Section({} if value is None else value, self.source, self._join(key), self.warnings)

    def take_sections(self, key: str) -> list["Section"]:
        """The objects under ``key``: a list of them, or a single one as a list of one."""
        value = self.take(key)
        if isinstance(value, list):
            place = self._join(key)
            return [Section(item, self.source, f"{place}[{index}]", self.warnings) for index, item in enumerate(value)]
        return [] if value is None else [Section(value, self.source, self._join(key), self.warnings)]

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


def given(**settings: Any) -> dict[str, Any]:
    """The settings that the file gives; for the others the defaults of the dataclass stand."""
    return {key: value for key, value in settings.items() if value is not None}


def take_scopes(section: Section) -> dict[str, Any]:
    """The two lists of scopes that most algorithms have."""
    return {key: section.take_strings(key) for key in ("target_scopes", "ignored_scopes")}


def _as_float(value: Any) -> float | None:
    """A JSON number as a float (infinite where it is too large for one), or ``None`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
