"""What all modifiers share: how their fields are read, how their epochs are shifted, and what they are called."""

import dataclasses
import math
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from nncf_transformers.config.errors import ConfigError, nearest
from nncf_transformers.recipe.modifiers.fields import wrong

# Keys of old recipes that say nothing any more: name -> what became of it.
OLD_KEYS: dict[str, str] = {
    "log_types": "has no effect any more; the training logs what it always logs",
    "constant_logging": "has no effect any more; the training logs what it always logs",
    "reapply_mask": "has no effect any more; masks are applied in every step",
}


@dataclass(frozen=True, kw_only=True)
class Modifier:
    """One entry of a recipe. Subclasses have SparseML's names of classes and fields, and its defaults.

    Attributes:
        place: file and path of the entry, for messages; no part of what it says.
    """

    place: str = field(default="", compare=False)

    # Keys that old recipes have beside OLD_KEYS: name -> (values that mean nothing any more, what to take for others).
    old_fields: ClassVar[Mapping[str, tuple[tuple[Any, ...], str]]] = {}
    # Fields that hold epochs, beside start_epoch and end_epoch.
    epoch_fields: ClassVar[tuple[str, ...]] = ()
    # Fields that SparseML has, but never used.
    idle_fields: ClassVar[Mapping[str, Any]] = {}
    # Whether "never ends" means the end of the stage where another stage follows.
    ends_with_stage: ClassVar[bool] = False

    @property
    def type(self) -> str:
        """The name of its class, as behind the ``!`` of the recipe."""
        return type(self).__name__

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of its fields as recipes know them."""
        return tuple(item.name for item in dataclasses.fields(cls) if item.name != "place")

    @classmethod
    def read(cls, values: Mapping[str, Any], place: str, warnings: list[str]) -> Self:
        """Make one from what stands in a recipe, with variables resolved.

        Raises:
            ConfigError: a field is unknown, missing or wrong.
        """
        readers = _readers(cls)
        given: dict[str, Any] = {}
        for name, value in values.items():
            where = f"{place}.{name}"
            if name in readers:
                given[name] = readers[name](value, where)
                if name in cls.idle_fields and given[name] != cls.idle_fields[name]:
                    warnings.append(f"{where}: has no effect in a {cls.__name__}")
            elif name in OLD_KEYS:
                warnings.append(f"{where}: {OLD_KEYS[name]}")
            elif name in cls.old_fields:
                harmless, instead = cls.old_fields[name]
                if value not in harmless:
                    raise ConfigError(f"{where}: {instead}")
                warnings.append(f"{where}: has no effect any more; remove it")
            else:
                hint = nearest(str(name), cls.names()) or f"; its fields: {', '.join(cls.names())}"
                raise ConfigError(f'{place}: {cls.__name__} has no field "{name}"{hint}')
        for item in dataclasses.fields(cls):
            required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
            if required and item.name not in given:
                raise ConfigError(f"{place}: {cls.__name__} needs the field {item.name}; add it")
        modifier = cls(place=place, **given)
        modifier.check(values)
        return modifier

    def check(self, given: Mapping[str, Any]) -> None:
        """Refuse fields that contradict each other; ``given`` are those that were written.

        Raises:
            ConfigError: they do.
        """
        start, end = self.interval
        if 0 <= end <= start:
            raise self.wrong("end_epoch", f"later than start_epoch ({start:g}), or -1 for never")

    @property
    def interval(self) -> tuple[float, float]:
        """Start and end in epochs of its stage, with the beginning as 0; -1 for no end."""
        return max(0.0, getattr(self, "start_epoch", 0.0)), getattr(self, "end_epoch", -1.0)

    def wrong(self, name: str, what: str) -> ConfigError:
        """The error for a field whose value is not ``what``."""
        return wrong(f"{self.place}.{name}", getattr(self, name), what)

    def shifted(self, epochs: float) -> Self:
        """The same, some epochs later. What starts at the beginning (-1) starts at ``epochs`` then; -1 stays never."""
        if epochs == 0:
            return self
        changes: dict[str, Any] = {}
        if hasattr(self, "start_epoch"):
            changes["start_epoch"] = max(0.0, self.start_epoch) + epochs
        for name in ("end_epoch", *self.epoch_fields):
            value = getattr(self, name, None)
            if value is not None and value >= 0:
                changes[name] = value + epochs
        return dataclasses.replace(self, **changes)

    def written(self) -> dict[str, Any]:
        """Its fields for YAML: those that have to be there, start and end, and those that differ from the default."""
        found: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            default = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
            if item.name != "place" and (item.name in ("start_epoch", "end_epoch") or value != default):
                found[item.name] = plain(value)
        return found


def plain(value: Any) -> Any:
    """A value made of what YAML has: mappings, lists, texts, numbers, booleans and null."""
    if isinstance(value, Mapping):
        return {key if isinstance(key, (int, float)) else str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)


def _readers(cls: type[Modifier]) -> dict[str, Any]:
    """The reader of each field: what its annotation carries."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {name: hints[name].__metadata__[0] for name in cls.names()}


def overlapping(modifiers: Iterable[Modifier]) -> tuple[Modifier, Modifier] | None:
    """The first two modifiers that are active at one time, if any; an interval has its start in it, but not its end."""
    seen: list[Modifier] = []
    for modifier in modifiers:
        start, end = _span(modifier)
        for other in seen:
            other_start, other_end = _span(other)
            if start == other_start or start < other_start < end or other_start < start < other_end:
                return other, modifier
        seen.append(modifier)
    return None


def _span(modifier: Modifier) -> tuple[float, float]:
    start, end = modifier.interval
    return start, float("inf") if end < 0 else end
