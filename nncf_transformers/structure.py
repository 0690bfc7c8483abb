"""Heads and channels of an encoder: which weights belong to one, and how to remove it for good.

A unit is an attention head or a channel of a feed-forward layer. It owns rows of some linear layers (query, key and
value; the first feed-forward layer) and columns of the one behind them (the attention's output; the second
feed-forward layer). Without its columns a unit adds nothing to the result, so it can go, rows and all.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nncf_transformers.errors import IntegrityError, UsageError
from nncf_transformers.families import family_of

# The key in config.json under which a smaller model says how many units each group has left.
CONFIG_KEY = "structured_pruning"
# The key under which a packed model says what it is like, see :mod:`nncf_transformers.packing`.
PACK_KEY = "pack_cfg"


@dataclass(frozen=True)
class Group:
    """Units of one kind in one place.

    Attributes:
        name: dotted name of the module that counts the units (attention), or of the first layer (feed-forward).
        kind: ``head`` or ``channel``.
        rows: dotted names of the linear layers whose rows (outputs) belong to units.
        columns: dotted names of those whose columns (inputs) do.
        unit: rows, or columns, of a unit: the size of a head, or 1.
        count: number of units.
    """

    name: str
    kind: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    unit: int
    count: int

    @property
    def members(self) -> tuple[str, ...]:
        """All layers of the group."""
        return self.rows + self.columns


@dataclass(frozen=True)
class _Family:
    """Where a family keeps its units; names are relative to a layer of the encoder.

    Attributes:
        layer: pattern of a layer's name.
        attention: the module that counts heads, its row layers and its column layer.
        counters: that module's attributes for the number of heads, and for the width of all heads.
        feed_forward: pairs of first and second layer; ``*`` stands for a number.
    """

    layer: str
    attention: tuple[str, tuple[str, ...], str]
    counters: tuple[str, str]
    feed_forward: tuple[tuple[str, str], ...]


_BERT = _Family(
    layer=r"encoder\.layer\.\d+",
    attention=(
        "attention.self",
        ("attention.self.query", "attention.self.key", "attention.self.value"),
        "attention.output.dense",
    ),
    counters=("num_attention_heads", "all_head_size"),
    feed_forward=(("intermediate.dense", "output.dense"), (r"ffn.*.intermediate.dense", r"ffn.*.output.dense")),
)
_DISTILBERT = _Family(
    layer=r"transformer\.layer\.\d+",
    attention=("attention", ("attention.q_lin", "attention.k_lin", "attention.v_lin"), "attention.out_lin"),
    counters=("n_heads", "dim"),
    feed_forward=(("ffn.lin1", "ffn.lin2"),),
)
_FAMILIES = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "electra": _BERT,
    "mobilebert": _BERT,
    "distilbert": _DISTILBERT,
}


def find_groups(model: nn.Module) -> list[Group]:
    """Find the heads and channels of an encoder, in the order of its layers.

    Args:
        model: a Transformers model, with or without a task's head.

    Raises:
        UsageError: a family whose heads and channels cannot be told apart, by name.
    """
    family, base, prefix = _family(model), _base(model), _prefix(model)
    modules = dict(base.named_modules())
    groups = []
    for layer in (name for name in modules if re.fullmatch(family.layer, name)):
        counter, rows, column = family.attention
        heads = getattr(modules[f"{layer}.{counter}"], family.counters[0])
        query = modules[f"{layer}.{rows[0]}"]
        groups.append(
            Group(
                name=f"{prefix}{layer}.{counter}",
                kind="head",
                rows=tuple(f"{prefix}{layer}.{row}" for row in rows),
                columns=(f"{prefix}{layer}.{column}",),
                unit=query.out_features // heads,
                count=heads,
            )
        )
        for first, second in _feed_forward(family, layer, modules):
            groups.append(
                Group(
                    name=f"{prefix}{first}",
                    kind="channel",
                    rows=(f"{prefix}{first}",),
                    columns=(f"{prefix}{second}",),
                    unit=1,
                    count=modules[first].out_features,
                )
            )
    return groups


def blocks_of(model: nn.Module) -> list[str]:
    """Dotted names of the linear layers inside the transformer blocks of a model, of any family."""
    pattern = re.compile(r"\.(layer|albert_layers)\.\d+\.")
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and pattern.search(name)]


def unit_masks(model: nn.Module, group: Group, kept: torch.Tensor) -> dict[str, torch.Tensor]:
    """Masks that leave some units of a group and nothing of the others.

    Args:
        model: for its parameters.
        group: one of :func:`find_groups`.
        kept: boolean, shape (units,).

    Returns:
        By parameter: (units, 1) for the weights of row layers, (units,) for their biases, (1, units) for the weights of
        column layers. A bias of a column layer belongs to no unit.
    """
    found = {}
    for name in group.rows:
        found[f"{name}.weight"] = kept[:, None]
        if model.get_submodule(name).bias is not None:
            found[f"{name}.bias"] = kept
    return found | {f"{name}.weight": kept[None, :] for name in group.columns}


def remove_units(model: nn.Module, kept: Mapping[str, torch.Tensor]) -> None:
    """Make a model smaller, and let its configuration say so.

    Args:
        model: its linear layers and head counts are changed in place; quantizers must be resized by the caller.
        kept: by name of a group, a boolean tensor of shape (units,).

    Raises:
        UsageError: nothing would be left of a group.
    """
    family, prefix = _family(model), _prefix(model)
    for group in find_groups(model):
        keep = kept.get(group.name)
        if keep is None or bool(keep.all()):
            continue
        if not keep.any():
            raise UsageError(f"{group.name}: every {group.kind} would be removed; prune less")
        index = keep.nonzero().flatten().tolist()
        parts = torch.tensor([unit * group.unit + i for unit in index for i in range(group.unit)], device="cpu")
        for name in group.rows:
            _resize(model.get_submodule(name), rows=parts)
        for name in group.columns:
            _resize(model.get_submodule(name), columns=parts)
        if group.kind == "head":
            counter: Any = model.get_submodule(group.name)
            setattr(counter, family.counters[0], len(index))
            setattr(counter, family.counters[1], len(parts))
        config: Any = model.config
        left = {**(getattr(config, CONFIG_KEY, None) or {}), group.name.removeprefix(prefix): len(index)}
        setattr(config, CONFIG_KEY, left)


def shrink_to_config(model: nn.Module) -> None:
    """Give a freshly made base model the sizes that its configuration names.

    Raises:
        IntegrityError: the configuration does not fit the model.
    """
    left: Mapping[str, int] = getattr(model.config, CONFIG_KEY, None) or {}
    groups = {group.name: group for group in find_groups(model)} if left else {}
    kept = {}
    for name, count in left.items():
        group = groups.get(name)
        if group is None or not isinstance(count, int) or not 0 < count <= group.count:
            has = f"it has {group.count}" if group else "it has no such part"
            raise IntegrityError(f"config.json: {CONFIG_KEY} leaves {count} units of {name} in this model, but {has}")
        # Named, for some libraries make models where tensors have no values.
        kept[name] = torch.arange(group.count, device="cpu") < count
    remove_units(model, kept)


def load_smaller_models() -> None:
    """Let ``from_pretrained`` of the installed library load models that :func:`remove_units` or packing made smaller.

    Every model calls ``init_weights`` when its parts are there and its weights are not yet. Nothing changes for a model
    whose configuration has neither :data:`CONFIG_KEY` nor :data:`PACK_KEY`.
    """
    from transformers import PreTrainedModel

    original: Callable[..., Any] = PreTrainedModel.init_weights
    if getattr(original, "shrinks", False):
        return

    def init_weights(self: Any) -> Any:
        if getattr(self.config, PACK_KEY, None):
            # Packing needs more than a library of 2019 has.
            from nncf_transformers.packing import build

            build(self)
        if getattr(self.config, CONFIG_KEY, None) and _base(self) is self:
            shrink_to_config(self)
        return original(self)

    init_weights.shrinks = True  # type: ignore[attr-defined]
    PreTrainedModel.init_weights = init_weights  # type: ignore[method-assign]


def _family(model: nn.Module) -> _Family:
    name = family_of(model)
    if name not in _FAMILIES:
        raise UsageError(
            f"model family {name!r}: its heads and channels are not known, so none can be removed; "
            f"known: {', '.join(_FAMILIES)}"
        )
    return _FAMILIES[name]


def _base(model: Any) -> nn.Module:
    """The encoder inside a model with a task's head, or the model itself."""
    base: nn.Module = getattr(model, model.base_model_prefix, model)
    return base


def _prefix(model: Any) -> str:
    return "" if _base(model) is model else f"{model.base_model_prefix}."


def _feed_forward(family: _Family, layer: str, modules: Mapping[str, nn.Module]) -> Iterable[tuple[str, str]]:
    for first, second in family.feed_forward:
        pattern = re.compile(re.escape(f"{layer}.{first}").replace(r"\*", r"(\d+)"))
        for name in modules:
            if match := pattern.fullmatch(name):
                yield name, f"{layer}.{second}".replace("*", match[match.lastindex or 0])


def _resize(linear: Any, rows: torch.Tensor | None = None, columns: torch.Tensor | None = None) -> None:
    """Keep some rows, or some columns, of a linear layer."""
    weight, bias = linear.weight, linear.bias
    dimension, index = (0, rows) if rows is not None else (1, columns)
    assert index is not None
    linear.weight = _like(weight, weight.detach().index_select(dimension, index.to(weight.device)))
    if rows is not None and bias is not None:
        linear.bias = _like(bias, bias.detach().index_select(0, index.to(bias.device)))
    linear.out_features, linear.in_features = linear.weight.shape


def _like(parameter: nn.Parameter, tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=parameter.requires_grad)
