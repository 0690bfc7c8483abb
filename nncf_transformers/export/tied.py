"""Store a weight once that a language model looks up and multiplies with.

The exporter stores the transpose of each linear layer's weight. Where the layer is tied to an embedding, that is the
whole vocabulary a second time.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper
from torch import nn


def has_tied_weights(model: nn.Module) -> bool:
    """Say whether a model's output layer reads the table of its input embeddings."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return any(isinstance(module, nn.Linear) and id(module.weight) in embeddings for module in model.modules())


def share_transposed(model: onnx.ModelProto) -> int:
    """Replace initializers that are the transpose of a table of embeddings by a Transpose of it, in place.

    Both runtimes compute it once, while they load the model.

    Returns:
        The number of initializers that are gone.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    tables = {node.input[0] for node in graph.node if node.op_type == "Gather"} & constants.keys()
    gone = []
    for tensor in graph.initializer:
        table = next((name for name in sorted(tables) if _is_transpose(tensor, constants[name])), None)
        if table is not None and any(tensor.name in node.input for node in graph.node if node.op_type == "MatMul"):
            graph.node.insert(0, helper.make_node("Transpose", [table], [tensor.name], perm=[1, 0]))
            gone.append(tensor)
    for tensor in gone:
        graph.initializer.remove(tensor)
    return len(gone)


def _is_transpose(tensor: onnx.TensorProto, table: onnx.TensorProto) -> bool:
    if tensor.name == table.name or list(tensor.dims) != list(table.dims)[::-1] or len(tensor.dims) != 2:
        return False
    if tensor.data_type != table.data_type:
        return False
    return bool(np.array_equal(numpy_helper.to_array(tensor), numpy_helper.to_array(table).T))
