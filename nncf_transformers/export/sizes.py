"""Write known sizes into an exported graph as constants.

The tracing exporter computes the scale of attention, one over the root of a head's size, from the shape of a tensor at
run time. The size of a head is known, and a runtime that finds it as a constant computes the scale once.
"""

import numpy as np
import onnx
from onnx import numpy_helper


def fix_known_sizes(graph: onnx.ModelProto) -> int:
    """Replace slices of shapes whose sizes are known by constants; dynamic sizes stay as they are.

    Args:
        graph: changed in place.

    Returns:
        How many slices were replaced.
    """
    inferred = onnx.shape_inference.infer_shapes(graph, data_prop=True).graph
    sizes = {value.name: _sizes(value) for value in (*inferred.value_info, *inferred.input)}
    constants = {item.name: numpy_helper.to_array(item) for item in graph.graph.initializer}
    shapes: dict[str, list[int | None]] = {}
    replaced = 0
    for node in graph.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type == "Shape" and not node.attribute and sizes.get(node.input[0]):
            shapes[node.output[0]] = sizes[node.input[0]]
        elif node.op_type == "Slice" and node.input[0] in shapes and all(name in constants for name in node.input[1:]):
            # A shape has one axis, so that the optional inputs for axes say nothing.
            start, end, *rest = (int(constants[name].reshape(-1)[0]) for name in node.input[1:])
            part = shapes[node.input[0]][slice(start, end, rest[1] if len(rest) > 1 else 1)]
            if part and None not in part:
                tensor = numpy_helper.from_array(np.array(part, np.int64))
                constant = onnx.helper.make_node("Constant", [], list(node.output), name=node.name, value=tensor)
                node.CopyFrom(constant)
                replaced += 1
    return replaced


def _sizes(value: onnx.ValueInfoProto) -> list[int | None]:
    """Size of each dimension, None where it is dynamic."""
    return [dim.dim_value or None for dim in value.type.tensor_type.shape.dim]
