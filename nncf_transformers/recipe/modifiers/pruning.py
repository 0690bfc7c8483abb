"""Modifiers that set weights to zero or take layers out (inventory 5.4 and 5.5)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from nncf_transformers.config.errors import ConfigError, nearest
from nncf_transformers.recipe.modifiers.base import Modifier
from nncf_transformers.recipe.modifiers.fields import (
    FROM_PARAM,
    End,
    Flag,
    Frequency,
    Interpolation,
    Params,
    Start,
    Texts,
    number,
    params,
    whole,
    wrong,
)

_sparsity = number(low=0, below=1)
_MASK_TYPES = ("unstructured", "block4", "tensorrt")


def _init_sparsity(value: Any, place: str) -> float | str:
    if value == FROM_PARAM:
        return FROM_PARAM
    try:
        return _sparsity(value, place)
    except ConfigError:
        raise wrong(place, value, f"a number from 0 to below 1, or {FROM_PARAM} for what each has") from None


def _final_sparsity(value: Any, place: str) -> float | dict[float, tuple[str, ...]]:
    if not isinstance(value, Mapping):
        return _sparsity(value, place)
    if not value:
        raise ConfigError(f"{place}: is empty; write a number, or {{sparsity: [params]}}")
    targets: dict[float, tuple[str, ...]] = {}
    seen: set[str] = set()
    for key, names in value.items():
        sparsity = _sparsity(key, f"{place} (a key)")
        if sparsity in targets:
            raise ConfigError(f"{place}: has {sparsity:g} twice; put their parameters together")
        targets[sparsity] = params(names, f"{place}.{key}")
        if not targets[sparsity]:
            raise ConfigError(f"{place}.{key}: is empty; name parameters, or remove it")
        for name in targets[sparsity]:
            if name in seen:
                raise ConfigError(f'{place}: names "{name}" for two sparsities; keep one of them')
            seen.add(name)
    return targets


def _mask_type(value: Any, place: str) -> str | tuple[int, int]:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        rows, columns = (whole(1)(item, f"{place}[{index}]") for index, item in enumerate(value))
        return rows, columns
    if isinstance(value, str):
        if value in _MASK_TYPES:
            return value
        found = re.fullmatch(r"\s*(\d{1,4})\s*:\s*(\d{1,4})\s*", value)
        if found:
            kept, group = int(found.group(1)), int(found.group(2))
            if 0 < kept < group:
                return f"{kept}:{group}"
            raise wrong(place, value, 'N:M with N from 1 to below M, e.g. "2:4"')
    hint = nearest(value, _MASK_TYPES) if isinstance(value, str) else ""
    raise wrong(place, value, f'one of {", ".join(_MASK_TYPES)}, [rows, columns] or "N:M"{hint}')


@dataclass(frozen=True, kw_only=True)
class _GradualPruning(Modifier):
    """Weights that are set to zero step by step.

    Attributes:
        init_sparsity: at the start, or ``__FROM_PARAM__``: what each parameter has.
        final_sparsity: at the end; or one for each of several lists of parameters, and ``params`` is empty then.
        update_frequency: epochs between two updates of the masks; -1 for every step.
        leave_enabled: whether zeros are kept after the end.
        mask_type: what is set to zero together.
    """

    init_sparsity: Annotated[float | str, _init_sparsity]
    final_sparsity: Annotated[float | Mapping[float, tuple[str, ...]], _final_sparsity]
    start_epoch: Start
    end_epoch: End
    update_frequency: Frequency
    params: Params = ()
    leave_enabled: Flag = True
    inter_func: Interpolation = "cubic"
    mask_type: Annotated[str | tuple[int, int], _mask_type] = "unstructured"

    old_fields: ClassVar[Mapping[str, tuple[tuple[Any, ...], str]]] = {
        "phased": ((False, None), "phased pruning (AC/DC) is not available; prune gradually instead"),
        "score_type": (
            ("magnitude", None),
            "scores have modifiers of their own: MagnitudePruningModifier or MovementPruningModifier",
        ),
    }

    def check(self, given: Mapping[str, Any]) -> None:
        """It needs an end, parameters once, and does not go down."""
        super().check(given)
        if self.end_epoch < 0:
            raise self.wrong("end_epoch", "an epoch: pruning has to know when it arrives at final_sparsity")
        several = isinstance(self.final_sparsity, Mapping)
        if several and self.params:
            raise ConfigError(f"{self.place}.params: must be [], because final_sparsity names the parameters")
        if not several and not self.params:
            raise ConfigError(
                f"{self.place}.params: {'is empty' if 'params' in given else 'is missing'}; "
                'name parameters, e.g. ["re:.*dense.weight"], or write __ALL_PRUNABLE__'
            )
        lowest = min(self.final_sparsity) if isinstance(self.final_sparsity, Mapping) else self.final_sparsity
        if not isinstance(self.init_sparsity, str) and self.init_sparsity > lowest:
            raise self.wrong("init_sparsity", f"at most final_sparsity ({lowest:g})")

    def targets(self) -> dict[float, tuple[str, ...]]:
        """Parameters by their final sparsity."""
        if isinstance(self.final_sparsity, Mapping):
            return dict(self.final_sparsity)
        return {self.final_sparsity: self.params}


@dataclass(frozen=True, kw_only=True)
class GMPruningModifier(_GradualPruning):
    """Gradual magnitude pruning."""

    global_sparsity: Flag = False


@dataclass(frozen=True, kw_only=True)
class MagnitudePruningModifier(_GradualPruning):
    """Gradual magnitude pruning, each parameter for itself."""


@dataclass(frozen=True, kw_only=True)
class GlobalMagnitudePruningModifier(_GradualPruning):
    """Gradual magnitude pruning with one ranking of all parameters."""


@dataclass(frozen=True, kw_only=True)
class MovementPruningModifier(_GradualPruning):
    """Gradual pruning by how weights move: the sum of -gradient times weight."""


@dataclass(frozen=True, kw_only=True)
class ConstantPruningModifier(Modifier):
    """Zeros that are there are kept."""

    params: Params
    start_epoch: Start = -1.0
    end_epoch: End = -1.0
    update_frequency: Frequency = -1.0

    idle_fields: ClassVar[Mapping[str, Any]] = {"update_frequency": -1.0}

    def check(self, given: Mapping[str, Any]) -> None:
        """Like all, and some parameter is named."""
        super().check(given)
        if not self.params:
            raise ConfigError(f"{self.place}.params: is empty; name parameters, or write __ALL_PRUNABLE__")


@dataclass(frozen=True, kw_only=True)
class LayerPruningModifier(Modifier):
    """Layers that are taken out, and put back at an end that is not -1."""

    layers: Texts
    start_epoch: Start = -1.0
    end_epoch: End = -1.0
    update_frequency: Frequency = -1.0

    idle_fields: ClassVar[Mapping[str, Any]] = {"update_frequency": -1.0}

    def check(self, given: Mapping[str, Any]) -> None:
        """Like all, and some layer is named, by its name."""
        super().check(given)
        if not self.layers:
            raise ConfigError(f'{self.place}.layers: is empty; name layers, e.g. ["bert.encoder.layer.1"]')
        for index, name in enumerate(self.layers):
            if name.startswith("__"):
                raise wrong(f"{self.place}.layers[{index}]", name, "the name of a layer: nothing would be left")
