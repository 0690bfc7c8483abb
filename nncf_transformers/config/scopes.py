"""Finds the parts of a model that a configuration's scopes mean.

``nncf.IgnoredScope(names=…)`` takes exact node names; this module produces them, and refuses a scope that
means nothing. Scopes are plain or start with ``{re}``:

* our schema, plain: a module's dotted path (``bert.encoder.layer.0.attention``, with everything in it), one
  operation in a module (``bert.encoder.layer.0.attention.self/matmul/0``) or a node name of NNCF 3;
* legacy schema, plain: an operation's full legacy name, or that of a module above it;
* ``{re}…``: a regular expression that is searched for anywhere in these names.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nncf_transformers.config.errors import ConfigError
from nncf_transformers.config.model import (
    MovementSparsityConfig,
    QuantizationConfig,
    SparseStructure,
    SparsityConfig,
)
from nncf_transformers.config.parameters import resolve_weights

if TYPE_CHECKING:
    import torch
    from torch import nn

    from nncf_transformers.config.scope_names import ScopeTarget

REGEX_PREFIX = "{re}"


@dataclass(frozen=True)
class ResolvedScopes:
    """The nodes that scopes mean in one particular model.

    Attributes:
        node_names: For ``nncf.IgnoredScope(names=…)``, in the order of execution.
        warnings: One line for each scope that has no effect, or another effect than it says.
    """

    node_names: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def resolve_scopes(
    scopes: Sequence[str],
    model: "nn.Module",
    example_input: "Mapping[str, torch.Tensor]",
    *,
    legacy: bool,
    place: str = "ignored_scopes",
) -> ResolvedScopes:
    """Translate scopes to the names of NNCF 3's graph of a model.

    Args:
        scopes: Plain names or ``{re}`` regular expressions, see the module's text.
        model: The model, not yet quantized. It is run once.
        example_input: Keyword arguments of its ``forward``, as in calibration.
        legacy: Whether the scopes are spelled as in NNCF 1 and 2.
        place: File and key path for messages.

    Raises:
        ConfigError: a scope matches nothing (the nearest name is given), or is not a regular expression.
    """
    if not scopes:
        return ResolvedScopes(())
    targets = _targets(model, example_input, legacy)
    nodes: set[str] = set()
    warnings = []
    for scope in scopes:
        found = _match(scope, targets, place)
        nodes.update(target.node_name for target in found if target.node_name is not None)
        if not any(target.quantized for target in found):
            warnings.append(_no_effect(scope, found, place))
    return ResolvedScopes(_in_order(nodes, targets), tuple(warnings))


def resolve_ignored_scopes(
    config: QuantizationConfig, model: "nn.Module", example_input: "Mapping[str, torch.Tensor]"
) -> ResolvedScopes:
    """Translate all scopes of a quantization config to the nodes that stay in floating point.

    NNCF 3 leaves out operations as a whole. So a weighted operation whose *weights* the legacy config ignores
    is left out with its input (an INT8 input alone would save nothing), and one whose *activations* it
    ignores is quantized nevertheless; both give a warning.

    Raises:
        ConfigError: see :func:`resolve_scopes`; also if nothing would be left to quantize.
    """
    every_scope = (
        config.ignored_scopes,
        config.target_scopes,
        config.weight_ignored_scopes,
        config.activation_ignored_scopes,
    )
    if not any(every_scope):
        return ResolvedScopes(())
    targets = _targets(model, example_input, config.legacy_scopes)
    quantized = {target.node_name for target in targets if target.quantized and target.node_name is not None}
    nodes: set[str] = set()
    warnings: list[str] = []

    def collect(scopes: Iterable[str], key: str, side: str | None = None) -> None:
        place = f"{config.place}.{key}" if config.place else key
        for scope in scopes:
            found = _match(scope, targets, place)
            if not any(target.quantized for target in found):
                warnings.append(_no_effect(scope, found, place))
            elif side is not None and (warning := _one_sided(scope, found, side, place)):
                warnings.append(warning)
            # What one side cannot be left out of, stays in; everything else is left out whole.
            kept = [target for target in found if side is None or target.weighted == (side == "weights")]
            nodes.update(target.node_name for target in kept if target.node_name is not None)

    collect(config.ignored_scopes, "ignored_scopes")
    collect(config.weight_ignored_scopes, "weights.ignored_scopes", side="weights")
    collect(config.activation_ignored_scopes, "activations.ignored_scopes", side="activations")
    if config.target_scopes:
        place = f"{config.place}.target_scopes" if config.place else "target_scopes"
        wanted = {target.node_name for scope in config.target_scopes for target in _match(scope, targets, place)}
        nodes |= quantized - wanted
    if quantized <= nodes:
        raise ConfigError(
            f"{config.place or 'scopes'}: the scopes leave nothing to quantize in {type(model).__name__}; narrow them"
        )
    return ResolvedScopes(_in_order(nodes, targets), tuple(warnings))


def resolve_layers(
    config: SparsityConfig, model: "nn.Module", example_input: "Mapping[str, torch.Tensor]"
) -> tuple[list[str], list[str]]:
    """Find the linear layers that a sparsity method is to work on.

    Returns:
        Their dotted names in the order of execution, each once; and a warning for each scope that means no such layer.
        Where the configuration names parameters, the layers of these, in the model's order.

    Raises:
        ConfigError: see :func:`resolve_scopes` and :func:`resolve_weights`; also if no layer is left, or
            for a family that writes text.
    """
    _check_family(config, model)
    if config.parameters:
        # What a model came with may be of a layer that it has no more.
        return resolve_weights(config, model, missing=[] if getattr(config, "inherited", False) else None), []
    targets = _targets(model, example_input, config.legacy_scopes)
    linear = list(dict.fromkeys(target.module_path for target in targets if _is_linear(target)))
    warnings: list[str] = []
    # Of a tensor that two modules share, NNCF knows one name; under the other a mask would never act.
    named = {name for name, _ in model.named_parameters()}
    shared = [name for name in linear if f"{name}.weight" not in named]
    linear = [name for name in linear if name not in shared]
    ignored = _layers(config.ignored_scopes, targets, _place(config, "ignored_scopes"), warnings)
    wanted = _layers(config.target_scopes, targets, _place(config, "target_scopes"), warnings)
    layers = [name for name in linear if name not in ignored and (name in wanted or not config.target_scopes)]
    for name in shared:
        if name not in ignored and (name in wanted or not config.target_scopes):
            warnings.append(f"{config.place}: {name} stays dense: it shares its weight with another module")
    if not layers:
        raise ConfigError(
            f"{config.place or config.algorithm}: the scopes leave no linear layer of {type(model).__name__} to make "
            "sparse; widen target_scopes or ignore less"
        )
    return layers, warnings


def resolve_structures(
    config: MovementSparsityConfig, model: "nn.Module", example_input: "Mapping[str, torch.Tensor]"
) -> dict[str, SparseStructure]:
    """Find the layers that each entry of ``sparse_structure_by_scopes`` means.

    Returns:
        The entry by dotted name of the layer.

    Raises:
        ConfigError: an entry matches nothing, or a layer is matched by two of them.
    """
    if not config.sparse_structure_by_scopes:
        return {}
    targets = _targets(model, example_input, config.legacy_scopes)
    found: dict[str, SparseStructure] = {}
    for structure in config.sparse_structure_by_scopes:
        for name in _layers(structure.target_scopes, targets, f"{structure.place}.target_scopes", []):
            if name in found:
                raise ConfigError(
                    f"{structure.place}: {name} is matched by another entry of sparse_structure_by_scopes, too "
                    f"({found[name].place}); let one entry match each layer"
                )
            found[name] = structure
    return found


def _check_family(config: SparsityConfig, model: "nn.Module") -> None:
    from nncf_transformers.families import GENERATING, family_of

    family = family_of(model)
    if family in GENERATING:
        # GPT-2 has hardly a linear layer in the sense of torch, and nothing has been proven of T5's.
        raise ConfigError(
            f"{config.place or config.algorithm}: sparsity has not been proven for the family {family!r}; only "
            "quantization and, of causal models, distillation have: drop this method"
        )


def _layers(scopes: Sequence[str], targets: "Sequence[ScopeTarget]", place: str, warnings: list[str]) -> set[str]:
    """The linear layers that some scopes mean; a scope that means none is noted in ``warnings``."""
    layers: set[str] = set()
    for scope in scopes:
        names = {target.module_path for target in _match(scope, targets, place) if _is_linear(target)}
        if not names:
            warnings.append(f'{place}: "{scope}" has no effect: what it names has no linear layer')
        layers |= names
    return layers


def _is_linear(target: "ScopeTarget") -> bool:
    return target.function == "linear" and target.node_name is not None


def _place(config: SparsityConfig, key: str) -> str:
    return f"{config.place}.{key}" if config.place else key


def _targets(model: "nn.Module", example_input: "Mapping[str, torch.Tensor]", legacy: bool) -> "list[ScopeTarget]":
    # torch and NNCF are needed from here on, and only from here on.
    from nncf_transformers.config.scope_names import legacy_targets, own_targets
    from nncf_transformers.config.trace import trace_operations

    operations = trace_operations(model, example_input)
    return legacy_targets(operations) if legacy else own_targets(operations)


def _match(scope: str, targets: "Sequence[ScopeTarget]", place: str) -> "list[ScopeTarget]":
    """The targets that a scope means, at least one."""
    if scope.startswith(REGEX_PREFIX):
        try:
            pattern = re.compile(scope.removeprefix(REGEX_PREFIX))
        except re.error as error:
            raise ConfigError(f'{place}: "{scope}" is not a regular expression ({error}); correct it') from None
        found = [target for target in targets if any(map(pattern.search, target.names))]
    else:
        found = [target for target in targets if scope in target.names or scope in target.prefixes]
    if not found:
        raise ConfigError(
            f'{place}: "{scope}" matches nothing in the model; the nearest valid scope is "{_nearest(scope, targets)}"'
        )
    return found


def _nearest(scope: str, targets: "Sequence[ScopeTarget]") -> str:
    """The name most like a scope; a regular expression is compared as the text that it mostly is."""
    text = re.sub(r"\\(.)", r"\1", scope.removeprefix(REGEX_PREFIX)).replace(".*", "")
    names = {target.names[0] for target in targets}.union(*(target.prefixes for target in targets))
    levels = text.count("/") + 1

    def likeness(name: str) -> tuple[float, float]:
        # A regular expression rarely spells a name from its beginning, so its end counts, too.
        tail = "/".join(name.split("/")[-levels:])
        whole = difflib.SequenceMatcher(None, text, name).ratio()
        return (max(whole, difflib.SequenceMatcher(None, text, tail).ratio()), whole)

    return max(sorted(names), key=likeness)


def _in_order(nodes: set[str], targets: "Sequence[ScopeTarget]") -> tuple[str, ...]:
    ordered = (target.node_name for target in targets)
    return tuple(dict.fromkeys(name for name in ordered if name is not None and name in nodes))


def _no_effect(scope: str, found: "Sequence[ScopeTarget]", place: str) -> str:
    functions = ", ".join(sorted({target.function for target in found}))
    reason = f"NNCF 3 leaves what it names ({functions}) in floating point anyway"
    return f'{place}: "{scope}" has no effect: {reason}'


def _one_sided(scope: str, found: "Sequence[ScopeTarget]", side: str, place: str) -> str | None:
    """The warning for a scope that concerns only the weights, or only the activations, of what it names."""
    if not any(target.weighted for target in found):
        return None
    if side == "weights":
        return f'{place}: "{scope}" is approximated: NNCF 3 then leaves the inputs in floating point, too'
    return (
        f'{place}: "{scope}" has no effect on layers with weights: NNCF 3 quantizes input and weight '
        f"together; put it under ignored_scopes to leave them in floating point"
    )
