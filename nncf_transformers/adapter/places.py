"""Find the places of a base's quantizers in the same base with an adapter in it.

A quantizer's place is an operation, and its name counts calls. An adapter calls some operations once more (the layer
norm behind a feed-forward layer, say), and adds others, so that the tensor that was quantized is another operation's
result. What tells it is who takes it: the layer that took the quantized tensor is there with the adapter, too.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Mapping
from typing import Any, NoReturn

import torch
from torch import nn

from nncf_transformers.adapter.keys import head_keys
from nncf_transformers.checkpoint import HOOK_PREFIX
from nncf_transformers.config.trace import Operation
from nncf_transformers.errors import UsageError


def move_quantizers(
    model: nn.Module,
    without: Collection[Operation],
    with_adapter: Collection[Operation],
    state: list[dict[str, Any]],
    parameters: Mapping[str, Any],
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rename a base's quantizers to their places in ``model``, where an adapter is active.

    Those of the head are left out: it is trained with the adapter, for another task than the one that its quantizers
    were made for.

    Args:
        model: the base with its adapter.
        without: all operations of the base.
        with_adapter: those of the base with the adapter in it.
        state: NNCF's description of the quantizers of the base.
        parameters: their tensors, by names that begin with :data:`HOOK_PREFIX`.

    Returns:
        Both with the names of this model. A quantizer whose tensor is now several keeps one set of parameters.

    Raises:
        UsageError: an adapter that changes the base so much that a quantizer has no place any more.
    """
    hooks = [name for module in state for name in module["hook_names_in_model"]]
    of_head = _hooks_of_head(model, without, hooks)
    _undo_smoothing(model, of_head, parameters)
    graphs = Graphs(without, with_adapter)
    names = {hook: graphs.move(hook) for hook in hooks if hook not in of_head}
    renamed = []
    for module in state:
        new_names = [new for hook in module["hook_names_in_model"] for new in names.get(hook, ())]
        if new_names:
            renamed.append(module | {"hook_names_in_model": new_names})
    tensors = {}
    for key, tensor in parameters.items():
        hook = next((h for h in hooks if key.startswith(f"{HOOK_PREFIX}{h}.")), None)
        if hook is None:
            tensors[key] = tensor
            continue
        ending = key[len(HOOK_PREFIX) + len(hook) :]
        tensors |= {f"{HOOK_PREFIX}{new}{ending}": tensor for new in names.get(hook, ())}
    return renamed, tensors


class Graphs:
    """A model's operations before and after it got an adapter, and which is which.

    Args:
        without: all operations of the base.
        with_adapter: those of the base with the adapter in it.
    """

    def __init__(self, without: Collection[Operation], with_adapter: Collection[Operation]) -> None:
        self.before = {operation.node_name: operation for operation in without}
        self.now = {operation.node_name: operation for operation in with_adapter}
        # By where its arguments come from, too, where that tells: two versions of a module may view query, key and
        # value in another order.
        self.exact = _pairs(_keys(without, True), _keys(with_adapter, True))
        self.same = _pairs(_keys(without, False), _keys(with_adapter, False)) | self.exact
        self.calls = [Counter((op.module_path, op.function) for op in ops) for ops in (without, with_adapter)]
        self.takers: dict[str, list[tuple[Operation, int]]] = defaultdict(list)
        for operation in without:
            for port, source, _ in operation.inputs:
                self.takers[source].append((operation, port))

    def move(self, hook: str) -> list[str]:
        """The names of a hook of the base in the model with the adapter; mostly one.

        Raises:
            UsageError: there is no place for it any more.
        """
        kind, _, rest = hook.partition(".")
        node, _, port = rest.rpartition("__")
        if nested := re.search(r"_hook__(.+?)__\d", hook):
            # A hook on the operation of another hook, SmoothQuant's.
            inner = self.same.get(nested[1].replace("-", "/"))
            if inner is None:
                self.refuse(node)
            return [hook.replace(nested[1], inner.replace("/", "-"))]
        if "/" not in node:
            # A mask, which is on a parameter and not on an operation.
            return [hook]
        if kind == "post_hooks":
            return [f"{kind}.{new}__{port}" for new in self.results(node)]
        number, dot, index = port.partition(".")
        new, place = self.argument(node, int(number))
        return [f"{kind}.{new}__{place}{dot}{index}"]

    def results(self, node: str) -> list[str]:
        """The operations whose results go where the result of ``node`` went."""
        if self.is_inside(node):
            return [self.same[node]]
        found: dict[str, None] = {}
        for taker, port in self.takers[node]:
            # A module may be computed in another way, or be given another tensor, but it is given one.
            given = {*self.given_to(taker.module_path)} if taker.node_name not in self.exact else set()
            if len(given) == 1 and taker.module_path != self.before[node].module_path:
                found.update(dict.fromkeys(given))
            elif (now := self.now.get(self.same.get(taker.node_name, ""))) is not None:
                found.update(dict.fromkeys(name for at, name, _ in now.inputs if at == port))
        if not found:
            self.refuse(node)
        return [*found]

    def is_inside(self, node: str) -> bool:
        """Whether a result stays within a module that computes such results as often as it did.

        What takes it there may have another number now (the library's DeBERTa reshapes more often), but no adapter
        comes in between.
        """
        operation = self.before[node]
        place = (operation.module_path, operation.function)
        within = all(taker.module_path == operation.module_path for taker, _ in self.takers[node])
        return node in self.same and within and self.calls[0][place] == self.calls[1][place]

    def given_to(self, module: str) -> list[str]:
        """The operations outside a module, and outside the modules in it, whose results its own operations take."""
        own = [operation for operation in self.now.values() if operation.module_path == module]
        sources = [name for operation in own for _, name, _ in operation.inputs]
        return [name for name in sources if not f"{self.now[name].module_path}.".startswith(f"{module}.")]

    def argument(self, node: str, port: int) -> tuple[str, int]:
        """The operation, and the number of its argument, that takes what argument ``port`` of ``node`` took."""
        operation = self.before[node]
        weight = dict(operation.parameters).get(port)
        if weight is None:
            if node not in self.same:
                self.refuse(node)
            return self.same[node], port
        # The library multiplies by some weights in another way, but it is the same weight.
        likely = [self.now[name] for name in (self.same.get(node),) if name is not None]
        for now in (*likely, *self.now.values()):
            for number, name in now.parameters:
                if name == weight and now.module_path == operation.module_path:
                    return now.node_name, number
        self.refuse(node)

    def refuse(self, node: str) -> NoReturn:
        """Refuse an adapter with which a quantized tensor is not there any more."""
        raise UsageError(
            f"--train_adapter: the adapter takes {node}, which is quantized, out of the model; quantize the model with "
            "the adapter in it (--nncf-config with --train_adapter, on the model of before)"
        )


def _keys(operations: Collection[Operation], with_sources: bool) -> dict[str, Hashable]:
    """What tells an operation, whatever the count of calls in the whole model: module, function, and count in there."""
    paths = {operation.node_name: operation.module_path for operation in operations}
    calls: dict[Hashable, int] = defaultdict(int)
    keys: dict[str, Hashable] = {}
    for operation in operations:
        sources = tuple((port, paths[name], number) for port, name, number in operation.inputs)
        place = (operation.module_path, operation.function, sources if with_sources else ())
        keys[operation.node_name] = (place, calls[place])
        calls[place] += 1
    return keys


def _pairs(before: Mapping[str, Hashable], now: Mapping[str, Hashable]) -> dict[str, str]:
    names = {key: name for name, key in now.items()}
    return {name: names[key] for name, key in before.items() if key in names}


def _hooks_of_head(model: nn.Module, operations: Collection[Operation], hooks: list[str]) -> dict[str, str]:
    """The hooks on what enters the layers of the head, with the name of that layer's weight."""
    own = head_keys(model)
    found: dict[str, str] = {}
    for operation in operations:
        weight = next((name for _, name in operation.parameters if name in own and name.endswith("weight")), None)
        if weight is None:
            continue
        node = operation.node_name
        inside = f"pre_hook__{node.replace('/', '-')}__"
        found |= {hook: weight for hook in hooks if hook.startswith(f"pre_hooks.{node}__") or inside in hook}
    return found


def _undo_smoothing(model: nn.Module, of_head: Mapping[str, str], parameters: Mapping[str, Any]) -> None:
    """Take SmoothQuant's factors, which the head's own weights were divided by, back into these weights.

    A head that was loaded with its adapter has its own weights and nothing to do with them.
    """
    if getattr(model, "nncf_head_loaded", False):
        return
    for hook, weight in of_head.items():
        scale = parameters.get(f"{HOOK_PREFIX}{hook}._scale_value")
        if scale is not None:
            parameter = model.get_parameter(weight)
            with torch.no_grad():
                parameter.mul_(scale.flatten().to(parameter))
