"""What the fields of modifiers may be: each function makes a reader, which checks one value and returns it."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

from nncf_transformers.config.errors import ConfigError, nearest
from nncf_transformers.config.section import Bounds

# (value as the recipe has it, place) -> value of the dataclass
Reader = Callable[[Any, str], Any]

ALL = "__ALL__"
ALL_PRUNABLE = "__ALL_PRUNABLE__"
FROM_PARAM = "__FROM_PARAM__"
_TOKENS = (ALL, ALL_PRUNABLE)
MAX_EPOCH = 1e6


def show(value: Any) -> str:
    """A value for a message, as YAML would have it and short."""
    names = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return names[value]
    text = ""
    for piece in [f'"{value[:60]}"'] if isinstance(value, str) else _pieces(value):
        text += piece
        if len(text) > 60:
            return f"{text[:57]}…"
    return text


def _pieces(value: Any) -> Iterator[str]:
    """The text of a value bit by bit: of a huge one, nobody needs more than the beginning."""
    if isinstance(value, Mapping):
        yield "{"
        for index, (key, item) in enumerate(value.items()):
            yield f"{', ' if index else ''}{key!r}: "
            yield from _pieces(item)
        yield "}"
    elif isinstance(value, (list, tuple)):
        yield "["
        for index, item in enumerate(value):
            yield ", " if index else ""
            yield from _pieces(item)
        yield "]"
    else:
        yield repr(value)


def wrong(place: str, value: Any, what: str) -> ConfigError:
    """The error for a value that is not ``what``."""
    return ConfigError(f"{place}: is {show(value)}, must be {what}")


def number(
    low: float | None = None, high: float | None = None, above: float | None = None, below: float | None = None
) -> Reader:
    """A float within bounds; texts such as ``5e-5`` count as numbers, as they did in SparseML."""
    bounds = Bounds(low, high, above, below)

    def read(value: Any, place: str) -> float:
        result = _to_float(value)
        if result is None:
            raise wrong(place, value, f"a number {bounds}")
        if result not in bounds:
            raise wrong(place, value, f"a number {bounds}")
        return result

    return read


def _to_float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def minus_one_or(reader: Reader, what: str) -> Reader:
    """-1 with a meaning of its own, or what another reader takes."""

    def read(value: Any, place: str) -> float:
        if _to_float(value) == -1:
            return -1.0
        try:
            return reader(value, place)
        except ConfigError:
            raise wrong(place, value, what) from None

    return read


def optional(reader: Reader) -> Reader:
    """``null``, also the texts that SparseML wrote for it, or what another reader takes."""
    return lambda value, place: None if value in (None, "null", "None", "none") else reader(value, place)


def whole(low: int) -> Reader:
    """An int; a float without a fraction, as an expression may give, counts as one."""

    def read(value: Any, place: str) -> int:
        result = _to_float(value)
        if result is None or not result.is_integer() or not low <= result <= 1e9:
            raise wrong(place, value, f"a whole number of at least {low}")
        return int(result)

    return read


def boolean(value: Any, place: str) -> bool:
    """True or false; 1 and 0 mean them, too."""
    if isinstance(value, (bool, int)) and value in (0, 1):
        return bool(value)
    raise wrong(place, value, "true or false")


def choice(*names: str) -> Reader:
    """One of some texts."""

    def read(value: Any, place: str) -> str:
        if isinstance(value, str) and value in names:
            return value
        hint = nearest(value, names) if isinstance(value, str) else ""
        raise wrong(place, value, f"one of {', '.join(names)}{hint}")

    return read


def text(value: Any, place: str) -> str:
    """A text that is not empty."""
    if isinstance(value, str) and value.strip():
        return value
    raise wrong(place, value, "a text")


def mapping(value: Any, place: str) -> dict[str, Any]:
    """A mapping of names to anything."""
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    raise wrong(place, value, "a mapping")


def texts(value: Any, place: str) -> tuple[str, ...]:
    """A list of texts; a single text is a list of one."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)):
        raise wrong(place, value, "a list of texts")
    return tuple(text(item, f"{place}[{index}]") for index, item in enumerate(items))


def wholes(value: Any, place: str) -> tuple[int, ...]:
    """A list of integers from 0."""
    if not isinstance(value, (list, tuple)):
        raise wrong(place, value, "a list of whole numbers")
    return tuple(whole(0)(item, f"{place}[{index}]") for index, item in enumerate(value))


def params(value: Any, place: str) -> tuple[str, ...]:
    """Names of parameters, patterns ``re:…``, ``__ALL__`` or ``__ALL_PRUNABLE__``; the tokens may stand alone."""
    if isinstance(value, str):
        if value.upper() not in _TOKENS:
            raise wrong(place, value, f'a list of names and "re:…" patterns, or one of {", ".join(_TOKENS)}')
        return (value.upper(),)
    names = texts(value, place)
    for index, name in enumerate(names):
        if name.startswith("re:"):
            try:
                re.compile(name[3:])
            except (re.error, RecursionError, OverflowError) as error:
                raise ConfigError(f"{place}[{index}]: {show(name)} is no regular expression ({error})") from None
        elif name.startswith("__") and name.upper() not in _TOKENS:
            raise wrong(f"{place}[{index}]", name, f"a name, a pattern or one of {', '.join(_TOKENS)}")
    return tuple(name.upper() if name.upper() in _TOKENS else name for name in names)


_epoch = number(low=0, high=MAX_EPOCH)
Start = Annotated[float, minus_one_or(_epoch, "an epoch from 0, or -1 for the beginning")]
End = Annotated[float, minus_one_or(_epoch, "an epoch from 0, or -1 for never")]
OptionalEpoch = Annotated[float | None, optional(minus_one_or(_epoch, "an epoch from 0, or -1 or null for never"))]
Frequency = Annotated[
    float, minus_one_or(number(above=0, high=MAX_EPOCH), "a number of epochs above 0, or -1 for every step")
]
Rate = Annotated[float, number(above=0, high=1)]
Flag = Annotated[bool, boolean]
Params = Annotated[tuple[str, ...], params]
Texts = Annotated[tuple[str, ...], texts]
OptionalTexts = Annotated[tuple[str, ...] | None, optional(texts)]
Groups = Annotated[tuple[int, ...] | None, optional(wholes)]
Interpolation = Annotated[str, choice("linear", "cubic", "inverse_cubic")]
Kwargs = Annotated[Mapping[str, Any] | None, optional(mapping)]
