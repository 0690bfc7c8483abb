"""Finds the parameters of a model that a recipe names.

Recipes name parameters, not operations: in full (``bert.pooler.dense.weight``), by ``re:`` and a regular expression
that matches the beginning of a full name, or all at once by :data:`EVERY` or :data:`PRUNABLE` (inventory 5.4). Names
are always those of the model before any layer was dropped from it.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nncf_transformers.config.errors import ConfigError
from nncf_transformers.config.model import SparsityConfig

if TYPE_CHECKING:
    from torch import nn

EVERY = "__ALL__"
# The weights of all linear layers and convolutions.
PRUNABLE = "__ALL_PRUNABLE__"
REGEX = "re:"
# The key in config.json of a model without some of its layers: by the name of a list of layers, the former numbers of
# those that are left.
KEPT_LAYERS = "nncf_kept_layers"
# What compression adds to a model, see nncf_transformers.checkpoint, which loads torch.
_HOOKS = "__nncf_hooks."


def original_names(model: "nn.Module") -> dict[str, str]:
    """The names that a model's parameters had before layers were dropped, by their present names.

    A parameter of several names has all of them here.
    """
    kept = getattr(model.config, KEPT_LAYERS, None) or {}
    names = (name for name, _ in model.named_parameters(remove_duplicate=False))
    return {name: former_name(name, kept) for name in names if not name.startswith(_HOOKS)}


def former_name(name: str, kept: Mapping[str, Sequence[int]]) -> str:
    """The name that a parameter or a module had, if layers with the numbers ``kept`` are left of each list."""
    for number in re.finditer(r"\.(\d+)(?=\.|$)", name):
        path = name[: number.start()]
        for layers, numbers in kept.items():
            # With or without the prefix that a task's head brings along.
            if f".{path}".endswith(f".{layers}") or f".{layers}".endswith(f".{path}"):
                return f"{path}.{numbers[int(number[1])]}{name[number.end() :]}"
    return name


def match_name(pattern: str, name: str, place: str) -> bool:
    """Whether a full name, or ``re:`` and an expression for its beginning, means ``name``.

    Raises:
        ConfigError: the expression is none.
    """
    if not pattern.startswith(REGEX):
        return pattern == name
    try:
        return re.match(pattern.removeprefix(REGEX), name) is not None
    except re.error as error:
        raise ConfigError(f'{place}: "{pattern}" is not a regular expression ({error}); correct it') from None


def resolve_parameters(
    patterns: Sequence[str], model: "nn.Module", place: str, *, missing: list[str] | None = None
) -> list[str]:
    """Find the parameters that some patterns mean.

    Args:
        patterns: see the module's text.
        model: perhaps without some of its layers.
        place: file and key path for messages.
        missing: takes the patterns that match nothing; if None, such a one is an error.

    Returns:
        Present names, each parameter once, in the model's order.

    Raises:
        ConfigError: a pattern matches nothing, or is no regular expression.
    """
    names = original_names(model)
    found: set[int] = set()
    for pattern in patterns:
        some = _matching(pattern, model, names, place)
        if not some and missing is not None:
            missing.append(pattern)
        elif not some:
            text = re.sub(r"\\(.)", r"\1", pattern.removeprefix(REGEX)).replace(".*", "")
            close = difflib.get_close_matches(text, sorted(set(names.values())), n=3, cutoff=0.0)
            raise ConfigError(
                f'{place}: "{pattern}" matches no parameter of {type(model).__name__}; the nearest: {", ".join(close)}'
            )
        found.update(id(model.get_parameter(name)) for name in some)
    return [name for name, parameter in model.named_parameters() if id(parameter) in found]


def _matching(pattern: str, model: "nn.Module", names: Mapping[str, str], place: str) -> list[str]:
    """The present names among ``names`` that one pattern means."""
    if pattern == EVERY:
        return list(names)
    if pattern == PRUNABLE:
        from torch import nn

        kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
        weights = {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, kinds)}
        # Without one that is the words' embedding at the same time: its first name is another.
        return [name for name, _ in model.named_parameters() if name in weights]
    return [name for name, former in names.items() if match_name(pattern, former, place)]


def resolve_weights(config: SparsityConfig, model: "nn.Module", *, missing: list[str] | None = None) -> list[str]:
    """Find the linear layers whose weights ``config.parameters`` mean.

    Args:
        config: names parameters.
        model: of a family whose weights may be masked.
        missing: see :func:`resolve_parameters`.

    Raises:
        ConfigError: see :func:`resolve_parameters`; also if something else is meant, such as a bias.
    """
    from torch import nn

    place = f"{config.place}.params" if config.place else "params"
    names = original_names(model)
    layers = []
    for name in resolve_parameters(config.parameters, model, place, missing=missing):
        layer, _, kind = name.rpartition(".")
        if kind != "weight" or not isinstance(model.get_submodule(layer), nn.Linear):
            raise ConfigError(
                f"{place}: means {names[name]}, which is not the weight of a linear layer, so it cannot "
                "be pruned; narrow the names, as with re:.*query.weight"
            )
        layers.append(layer)
    return layers
