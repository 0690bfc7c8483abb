"""What a compressed model is like inside: the ranges of its quantizers, and the zeros of its layers."""

from collections import Counter, defaultdict
from typing import Any

import torch
from torch import nn

from nncf_transformers.algorithms.quantization import is_weight_quantizer, quantizers
from nncf_transformers.config.trace import Operation, trace_operations
from nncf_transformers.inputs import synthetic_inputs
from nncf_transformers.summary import describe

# Tokens that the model is traced with: names of operations do not depend on it.
_SEQUENCE = 8


def quantizer_ranges(model: nn.Module) -> list[dict[str, Any]]:
    """The range of every fake quantizer, in the order in which the model computes.

    A symmetric quantizer with levels l..h and scale s represents s·l/h to s; an asymmetric one its ``input_low`` to
    ``input_low + input_range``, moved so that zero is a level. These are NNCF's own limits, those of the exported
    files, too.

    Args:
        model: with quantizers or without; it is traced once, and not changed.

    Returns:
        A dictionary a quantizer: ``name``, the parameter, or the module and what of it; ``kind``, ``weight`` or
        ``activation``; ``low`` and ``high``, in units of the tensor: over its channels the least and the greatest.
    """
    found = list(quantizers(model))
    if not found:
        return []
    operations = trace_operations(model, synthetic_inputs(model, batch=1, sequence=_SEQUENCE))
    order = {operation.node_name: number for number, operation in enumerate(operations)}
    names = _tensor_names(operations)
    rows = []
    for hook, quantizer in found:
        when, node, port = _split(hook)
        weight = is_weight_quantizer(hook)
        with torch.no_grad():
            low, high = quantizer.get_input_low_input_high()
        row = {
            "name": names.get((when, node, port), f"{node}: {'output' if when == 'post_hooks' else 'input'}"),
            "kind": "weight" if weight else "activation",
            "low": float(low.min()),
            "high": float(high.max()),
        }
        # Where an operation has several: its activations first, then its weight, then its output.
        rows.append(((order.get(node, len(order)), when == "post_hooks", port), row))
    return _numbered([row for _, row in sorted(rows, key=lambda item: item[0])])


def layer_sparsity(model: nn.Module) -> list[dict[str, Any]]:
    """The zeros among the weights of the linear layers in the transformer blocks, masked weights included.

    Returns:
        A dictionary a layer: ``name``, dotted; ``shape``, rows and columns of its weight; ``sparsity``, from 0 to 1.
    """
    return [{"name": name, **layer} for name, layer in describe(model)["layers"].items()]


def _split(hook: str) -> tuple[str, str, int]:
    """Take NNCF's name of a hook apart: ``pre_hooks.<node>__<port>.<number>``."""
    when, _, place = hook.partition(".")
    node, _, port = place.rpartition("__")
    return when, node, int(port.partition(".")[0])


def _tensor_names(operations: tuple[Operation, ...]) -> dict[tuple[str, str, int], str]:
    """What people call the tensors at each place of a quantizer.

    Weights have the name of their parameter. The others are the input or the output of a module, or of one of its
    functions where it has several.
    """
    functions: dict[str, set[str]] = defaultdict(set)
    for operation in operations:
        functions[operation.module_path].add(operation.function)
    names = {}
    for operation in operations:
        node, path = operation.node_name, operation.module_path or "model"
        alone = len(functions[operation.module_path]) == 1 and operation.module_path
        of = "" if alone else f"{operation.function} "
        parameters = dict(operation.parameters)
        names["post_hooks", node, 0] = f"{path}: {of}output"
        for port in {0, 1, 2, *(port for port, *_ in operation.inputs), *parameters}:
            names["pre_hooks", node, port] = parameters.get(port, f"{path}: {of}input{f' {port}' if port else ''}")
    return names


def _numbered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tell apart what has the same name, such as the calls of a module that stands for several layers."""
    total, seen = Counter(row["name"] for row in rows), Counter[str]()
    for row in rows:
        name = row["name"]
        if total[name] > 1:
            seen[name] += 1
            row["name"] = f"{name} ({seen[name]} of {total[name]})"
    return rows
