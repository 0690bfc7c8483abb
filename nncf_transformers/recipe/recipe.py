"""Recipes as objects: read, checked, composed and written (inventory 5.4)."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from nncf_transformers.config.errors import ConfigError
from nncf_transformers.config.model import LEFT_OUT
from nncf_transformers.recipe.document import FLOAT, STAGE_EPOCHS_KEY, RawStage, read_document
from nncf_transformers.recipe.modifiers import (
    LEARNING_RATES,
    PRUNING,
    UNSUPPORTED,
    DistillationModifier,
    Modifier,
    QuantizationModifier,
    overlapping,
    plain,
    read_modifier,
)
from nncf_transformers.recipe.source import parse_arguments, read_source


@dataclass(frozen=True)
class Stage:
    """A part of a recipe with a clock of its own.

    Attributes:
        name: empty for a recipe without stages.
        modifiers: with epochs that count from the start of the stage.
        start: epoch of the whole recipe at which it begins.
    """

    name: str
    modifiers: tuple[Modifier, ...]
    start: float = 0.0

    @property
    def length(self) -> float:
        """Its largest end, in epochs; 0 where nothing in it ends."""
        return _last_end(self.modifiers) or 0.0


@dataclass(frozen=True)
class Recipe:
    """What is to be done to a model in a training. Two are equal if they do the same.

    Attributes:
        source: file name, or what else to call it in messages.
        stages: one, or several that follow each other.
        metadata: of the whole; that of a stage stands under the stage's name.
        unsupported: modifiers that were left out, each with its place and the reason.
        warnings: a line for each field that has no effect, and for what was read in a way one should know.
    """

    source: str = field(compare=False)
    stages: tuple[Stage, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    unsupported: tuple[str, ...] = field(default=(), compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)

    @property
    def modifiers(self) -> tuple[Modifier, ...]:
        """Of all stages, with epochs on the clock of the whole recipe.

        An end of -1 stays, but a learning rate or a teacher lasts until the next stage at most.
        """
        found: list[Modifier] = []
        for index, stage in enumerate(self.stages):
            end = self.stages[index + 1].start if index + 1 < len(self.stages) else -1.0
            for modifier in stage.modifiers:
                moved = modifier.shifted(stage.start)
                if modifier.ends_with_stage and modifier.interval[1] < 0 <= modifier.interval[0] + stage.start < end:
                    moved = dataclasses.replace(moved, end_epoch=end)  # type: ignore[call-arg]
                found.append(moved)
        return tuple(found)

    @property
    def max_epochs(self) -> float | None:
        """Where the last modifier ends, or ``None`` if none says."""
        return _last_end(self.modifiers)

    def to_yaml(self) -> str:
        """Canonical YAML without variables; reading it gives an equal recipe."""
        root: dict[str, Any] = {}
        if not self.stages[0].name:
            if self.metadata:
                root["__metadata__"] = plain(self.metadata)
            root["modifiers"] = [_Entry(modifier) for modifier in self.stages[0].modifiers]
            return _dump(root)
        of_stages = {stage.name: self.metadata.get(stage.name) for stage in self.stages}
        common = {name: value for name, value in self.metadata.items() if not isinstance(of_stages.get(name), Mapping)}
        if common:
            root["__metadata__"] = plain(common)
        root[STAGE_EPOCHS_KEY] = "relative"
        for stage in self.stages:
            content: dict[str, Any] = {}
            if isinstance(of_stages[stage.name], Mapping):
                content["__metadata__"] = plain(of_stages[stage.name])
            content["modifiers"] = [_Entry(modifier) for modifier in stage.modifiers]
            root[stage.name] = content
        return _dump(root)


def load_recipe(recipe: str, arguments: str | None = None, *, lenient: bool = False, applied: bool = False) -> Recipe:
    """Read a recipe.

    Args:
        recipe: path of a .yaml, .yml or .md file, the YAML itself, or ``-`` for standard input.
        arguments: variables to override: a JSON object or ``name=value,name=value``.
        lenient: whether modifiers that SparseML has and we do not are left out, instead of an error.
        applied: whether it is of a training that is over; see :func:`parse_recipe`.

    Raises:
        ConfigError: the file cannot be read, or anything in it or in ``arguments`` is wrong.
    """
    text, source = read_source(recipe)
    return parse_recipe(text, source, parse_arguments(arguments), lenient=lenient, applied=applied)


def parse_recipe(
    text: str,
    source: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    lenient: bool = False,
    applied: bool = False,
) -> Recipe:
    """Read the text of a recipe.

    Args:
        text: YAML, or Markdown with YAML as front matter.
        source: name for messages.
        arguments: variables to override.
        lenient: whether modifiers that SparseML has and we do not are left out, instead of an error.
        applied: whether it is of a training that is over. Then these are left out, too, but of a pruning its zeros
            stay: it is read as a ``ConstantPruningModifier``.

    Raises:
        ConfigError: anything in it is wrong.
    """
    document = read_document(text, source, arguments)
    warnings: list[str] = []
    unsupported: list[str] = []
    stages: list[Stage] = []
    start = 0.0
    metadata = dict(document.metadata)
    for raw in document.stages:
        modifiers = _read_stage(raw, warnings, unsupported if lenient or applied else None, applied)
        if stages:
            modifiers = _on_own_clock(raw.name, modifiers, start, document.stage_epochs, source, warnings)
        _refuse_overlaps(modifiers)
        stages.append(Stage(raw.name, modifiers, start))
        start += stages[-1].length
        if raw.metadata:
            metadata[raw.name] = raw.metadata
    if not applied and not any(stage.modifiers for stage in stages):
        raise ConfigError(f"{source}: nothing is left of the recipe: {unsupported[0]}")
    return Recipe(source, tuple(stages), metadata, tuple(unsupported), tuple(warnings))


def compose(previous: Recipe | None, new: Recipe) -> Recipe:
    """Put a recipe behind another one: the stages of the first, then those of the second.

    A recipe without stages becomes ``stage_N``; a name that is taken gets a number.
    """
    if previous is None:
        return new
    stages: list[Stage] = []
    metadata: dict[str, Any] = {}
    for recipe in (previous, new):
        names: dict[str, str] = {}
        begin = stages[-1].start + stages[-1].length if stages else 0.0
        for stage in recipe.stages:
            taken = {item.name for item in stages} | {item.name for item in recipe.stages if item is not stage}
            names[stage.name] = _unused(stage.name or f"stage_{len(stages)}", taken)
            stages.append(dataclasses.replace(stage, name=names[stage.name], start=begin + stage.start))
        if "" not in names:
            own = {names.get(key, key): value for key, value in recipe.metadata.items()}
            if isinstance(own.get(LEFT_OUT), list) and isinstance(metadata.get(LEFT_OUT), list):
                own[LEFT_OUT] = metadata[LEFT_OUT] + own[LEFT_OUT]
            metadata |= own
        elif recipe.metadata:
            metadata[names[""]] = recipe.metadata
    return Recipe(
        new.source,
        tuple(stages),
        metadata,
        previous.unsupported + new.unsupported,
        previous.warnings + new.warnings,
    )


def _unused(name: str, taken: Iterable[str]) -> str:
    taken, number, candidate = set(taken), 2, name
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    return candidate


def _read_stage(
    raw: RawStage, warnings: list[str], unsupported: list[str] | None, applied: bool
) -> tuple[Modifier, ...]:
    found: list[Modifier] = []
    for entry in raw.modifiers:
        prunes = "Pruning" in entry.name and "params" in entry.fields
        if applied and entry.name in UNSUPPORTED and prunes and entry.fields.get("leave_enabled") is not False:
            end = entry.fields.get("end_epoch")
            constant = {"params": entry.fields["params"], "start_epoch": end if isinstance(end, int | float) else 0.0}
            found.append(read_modifier("ConstantPruningModifier", constant, entry.place, warnings))
        elif unsupported is not None and entry.name in UNSUPPORTED:
            unsupported.append(f"{entry.name} ({entry.place}): {UNSUPPORTED[entry.name]}")
        else:
            found.append(read_modifier(entry.name, entry.fields, entry.place, warnings))
    return tuple(found)


def _on_own_clock(
    name: str, modifiers: tuple[Modifier, ...], start: float, stage_epochs: str, source: str, warnings: list[str]
) -> tuple[Modifier, ...]:
    """Let the epochs of a later stage count from its own start.

    People write them that way; SparseML, composing recipes, wrote the epochs of the whole. Those are known by the
    fact that nothing starts before the stages before it are over.
    """
    earliest = min((modifier.interval[0] for modifier in modifiers), default=0.0)
    if stage_epochs == "relative" or start == 0 or (not stage_epochs and earliest < start):
        return modifiers
    if earliest < start:
        raise ConfigError(
            f"{source}: {name}: starts at epoch {earliest:g}, but the stages before it end at {start:g}; with "
            f"{STAGE_EPOCHS_KEY}: absolute, its epochs are those of the whole recipe"
        )
    if not stage_epochs:
        warnings.append(
            f"{source}: {name}: its epochs are read as those of the whole recipe, because none is before {start:g}, "
            f"where the stages before it end; write {STAGE_EPOCHS_KEY}: relative at the root if they are not"
        )
    return tuple(modifier.shifted(-start) for modifier in modifiers)


def _last_end(modifiers: Iterable[Modifier]) -> float | None:
    # By the field, not the interval: a learning rate that is set once has no end that counts.
    ends = [getattr(modifier, "end_epoch", -1.0) for modifier in modifiers]
    return max((end for end in ends if end >= 0), default=None)


def _refuse_overlaps(modifiers: Sequence[Modifier]) -> None:
    """Refuse modifiers of one stage that want different things at one time."""

    def check(found: Iterable[Modifier], what: str) -> None:
        pair = overlapping(found)
        if pair is not None:
            first, second = (f"{item.type} ({_interval(item)})" for item in pair)
            there = pair[0].place.partition(": ")[2] or pair[0].place
            raise ConfigError(
                f"{pair[1].place}: {second} overlaps with {first} at {there}: {what}; change start_epoch or end_epoch"
            )

    # Each of the optimizer's groups of parameters has a rate; without groups, a modifier is for all.
    rates = [(item, getattr(item, "param_groups", None)) for item in modifiers if isinstance(item, LEARNING_RATES)]
    for group in sorted({group for _, groups in rates for group in groups or ()}) or [0]:
        here = (item for item, groups in rates if groups is None or group in groups)
        check(here, "there is one learning rate at a time")
    for kind, what in ((DistillationModifier, "one teacher"), (QuantizationModifier, "one quantization")):
        check((item for item in modifiers if isinstance(item, kind)), f"there is {what} at a time")
    by_name: dict[str, list[Modifier]] = {}
    for modifier in modifiers:
        if isinstance(modifier, PRUNING):
            for name in {name for names in modifier.targets().values() for name in names}:
                by_name.setdefault(name, []).append(modifier)
    for name, found in by_name.items():
        check(found, f'both prune "{name}"')


def _interval(modifier: Modifier) -> str:
    start, end = modifier.interval
    if end < 0:
        return f"from epoch {start:g} on"
    return f"at epoch {start:g}" if start == end else f"epochs {start:g} to {end:g}"


class _Entry:
    """A modifier on its way into YAML."""

    def __init__(self, modifier: Modifier) -> None:
        self.modifier = modifier


class _Dumper(yaml.SafeDumper):
    """Writes every value where it is used, and quotes texts that our reader would take for numbers."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789."))
_write_entry: Callable[[_Dumper, _Entry], yaml.Node] = lambda dumper, entry: dumper.represent_mapping(  # noqa: E731
    f"!{entry.modifier.type}", entry.modifier.written()
)
_Dumper.add_representer(_Entry, _write_entry)


def _dump(root: Mapping[str, Any]) -> str:
    return yaml.dump(root, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=False)
