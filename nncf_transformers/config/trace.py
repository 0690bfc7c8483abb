"""Traces a model once and says, for each operation of NNCF's graph, which module ran it.

NNCF 3 names operations by the called modules (``bert/encoder/attention/self/query/linear/1``). A list of
layers is not called, so the layer's number is lost and only the count of calls tells layers apart. Scopes
that people write do carry it; hence this record.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Operation:
    """One operation of the traced model.

    Attributes:
        node_name: NNCF 3's name, for ``nncf.IgnoredScope(names=…)``.
        function: Name of the torch function, for example ``linear`` or ``__getitem__``.
        module_path: Dotted path of the module that ran it, with layer numbers; empty for the model itself.
        class_names: Class of each module from the model down to that one.
        parameters: Names of the model's parameters that it takes as they are, by the number of the argument. A
            parameter that modules share has one name, the first.
        inputs: The results of other operations that it takes: number of the argument, the operation's name, and which
            of its results it is.
    """

    node_name: str
    function: str
    module_path: str
    class_names: tuple[str, ...]
    parameters: tuple[tuple[int, str], ...] = ()
    inputs: tuple[tuple[int, str, int], ...] = ()


def trace_operations(model: nn.Module, example_input: Mapping[str, torch.Tensor]) -> tuple[Operation, ...]:
    """Run the model once on an example and record its operations in the order of execution.

    Args:
        model: The model; it may be on any device and keeps its training mode.
        example_input: Keyword arguments of ``forward``, as in calibration.

    Returns:
        The operations under the very names that ``nncf.quantize`` sees for the same kind of input.
    """
    from nncf.torch.function_hook.graph.build_graph_mode import GraphBuilderMode
    from nncf.torch.function_hook.graph.graph_utils import NodeType
    from nncf.torch.function_hook.hook_executor_mode import OpMeta
    from nncf.torch.function_hook.hook_storage import HookStorage
    from nncf.torch.utils import training_mode_switcher

    class RecordingMode(GraphBuilderMode):
        """NNCF's own graph builder, which also keeps the stack of called modules of every node."""

        def __init__(self, model: nn.Module) -> None:
            super().__init__(model=model, hook_storage=HookStorage())
            self.module_of_node: dict[str, nn.Module] = {}
            self.parameters_of_node: dict[str, tuple[tuple[int, str], ...]] = {}

        def register_op_node(self, args: tuple[Any, ...], kwargs: dict[str, Any], op_meta: OpMeta) -> None:
            super().register_op_node(args, kwargs, op_meta)
            # The innermost module that the model knows by a name: a module created on the fly has none.
            known = (module for module in reversed(self.module_call_stack) if module in paths)
            self.module_of_node[op_meta.op_name] = next(known)
            self.parameters_of_node[op_meta.op_name] = tuple(
                (port, parameters[value])
                for port, value in enumerate((*args, *kwargs.values()))
                if isinstance(value, nn.Parameter) and value in parameters
            )

    parameters = {parameter: name for name, parameter in model.named_parameters()}
    paths = {module: path for path, module in model.named_modules()}
    classes = {path: type(module).__name__ for module, path in paths.items()}
    with training_mode_switcher(model, is_training=False), RecordingMode(model) as mode:
        arguments, keywords = mode.process_model_inputs((), dict(example_input))
        # The model's own forward: an instance may carry another, with hooks or mixed precision around it.
        mode.process_model_outputs(type(model).forward(model, *arguments, **keywords))

    # NNCF drops nodes again that turn out not to yield a tensor, so the finished graph decides.
    names = {
        key: data["meta"].op_name
        for key, data in sorted(mode.graph.nodes(data=True), key=lambda item: item[0])
        if data["type"] == NodeType.fn_call
    }
    inputs = {
        name: tuple(
            (edge["meta"].input_port, names[source], edge["meta"].output_port)
            for source, _, edge in mode.graph.in_edges(key, data=True)
            if source in names
        )
        for key, name in names.items()
    }
    return tuple(
        replace(
            _operation(name, paths[mode.module_of_node[name]], classes),
            parameters=mode.parameters_of_node[name],
            inputs=inputs[name],
        )
        for name in names.values()
    )


def _operation(name: str, path: str, classes: dict[str, str]) -> Operation:
    parts = path.split(".") if path else []
    above = [".".join(parts[:depth]) for depth in range(len(parts) + 1)]
    return Operation(
        node_name=name,
        function=name.split("/")[-2],
        module_path=path,
        class_names=tuple(classes[prefix] for prefix in above),
    )
