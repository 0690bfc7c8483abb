"""Remove for good what masks have emptied, quantizers and all."""

import logging
from collections.abc import Mapping

import torch
from nncf.torch.function_hook.serialization import restore_module
from nncf.torch.function_hook.wrapper import get_hook_storage
from torch import nn

from nncf_transformers.algorithms.base import hooks
from nncf_transformers.algorithms.masks import bake, expand, masks
from nncf_transformers.config.trace import trace_operations
from nncf_transformers.inputs import synthetic_inputs
from nncf_transformers.structure import Group, find_groups, remove_units

logger = logging.getLogger(__name__)


def remove_masked_units(model: nn.Module) -> dict[str, torch.Tensor]:
    """Remove every head and channel whose columns are all masked: it adds nothing to the result.

    The model computes the same before and after, but for the order of sums. All masks are multiplied into the weights.

    Args:
        model: changed in place; optimizers that hold its parameters must not be used any more.

    Returns:
        By group that has become smaller, which units it keeps: boolean, shape (units,).
    """
    found = dict(masks(model))
    kept = {}
    for group in find_groups(model):
        if all(f"{layer}.weight" in found for layer in group.columns):
            units = _with_columns(model, group, {layer: found[f"{layer}.weight"].mask for layer in group.columns})
            if not units.all():
                kept[group.name] = units
    bake(model)
    if not kept:
        return {}
    nodes: dict[str, list[str]] = {}
    for operation in trace_operations(model, synthetic_inputs(model, batch=1, sequence=8)):
        nodes.setdefault(operation.module_path, []).append(operation.node_name)
    groups = [group for group in find_groups(model) if group.name in kept]
    remove_units(model, kept)
    for group in groups:
        index = kept[group.name].repeat_interleave(group.unit).nonzero().flatten()
        for layers, port, dimension in ((group.rows, 1, 0), (group.columns, 0, -1)):
            for node in (node for layer in layers for node in nodes.get(layer, ())):
                _resize_hooks(model, f"pre_hooks.{node}__{port}", dimension, index, group.count * group.unit)
    for kind in ("head", "channel"):
        parts = [kept[group.name] for group in groups if group.kind == kind]
        if parts:
            flat = torch.cat(parts)
            logger.info("removed %d of %d %ss in %d layers", int((~flat).sum()), flat.numel(), kind, len(parts))
    return kept


def _with_columns(model: nn.Module, group: Group, columns: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Which units of a group have a column that is not masked."""
    alive = torch.zeros(group.count, dtype=torch.bool, device=next(model.parameters()).device)
    for layer, mask in columns.items():
        whole = expand(mask, model.get_parameter(f"{layer}.weight").shape)
        alive |= whole.T.reshape(group.count, -1).any(dim=1)
    return alive


def _resize_hooks(model: nn.Module, place: str, dimension: int, index: torch.Tensor, size: int) -> None:
    """Let the quantizers and scales in a place keep some channels only.

    Args:
        model: carries the hooks.
        place: name of the hooks without their number.
        dimension: that of the channels: 0 in a weight's quantizer, -1 in a scale on activations.
        index: the channels that stay.
        size: the number of channels there were; a hook with another number (one scale for all) stays as it is.
    """
    for name, module in list(hooks(model)):
        if name.rpartition(".")[0] != place:
            continue
        tensors = {
            key: tensor.index_select(dimension, index.to(tensor.device))
            if tensor.ndim and tensor.shape[dimension] == size
            else tensor
            for key, tensor in module.state_dict().items()
        }
        config = module.get_config()  # type: ignore[operator]
        for key, shape in config.items():
            if key.endswith("shape") and shape and list(shape)[dimension] == size:
                shape = list(shape)
                shape[dimension] = len(index)
                config[key] = shape
        storage = get_hook_storage(model)
        storage.delete_hook(name)
        resized = restore_module(type(module).__module__, type(module).__name__, config)
        resized.load_state_dict(tensors)
        storage.insert_hook_by_name(name, resized.to(index.device))
