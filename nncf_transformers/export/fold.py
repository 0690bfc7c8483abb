"""Fold the quantized weights of an exported ONNX model into INT8 initializers.

PyTorch exports a fake-quantized weight as a float initializer followed by QuantizeLinear and DequantizeLinear, so the
file is as large as the FP32 model and every runtime quantizes the weights anew. Here QuantizeLinear is computed once,
with the arithmetic of ``torch.fake_quantize_per_channel_affine``, and only DequantizeLinear stays in the graph.
"""

from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper, numpy_helper


def fold_weights(model: onnx.ModelProto) -> int:
    """Replace every quantized float weight in ``model`` by an INT8 initializer, in place.

    ``Transpose`` of a folded weight is computed too, so that DequantizeLinear feeds MatMul directly, which is the
    pattern that ONNX Runtime turns into an integer product; a Gemm becomes one, too. An embedding is looked up before
    it is dequantized: otherwise each inference would dequantize the whole table. A table that a language model also
    multiplies with is stored once: there Transpose stays, behind DequantizeLinear, which both runtimes turn into an
    integer product, too.

    Returns:
        The number of folded weights; each has lost its QuantizeLinear, and an embedding also its DequantizeLinear,
        for which a multiplication by the looked-up scales stands in.
    """
    return _Folder(model.graph).run()


@dataclass(frozen=True)
class _Weight:
    """A quantized weight.

    Attributes:
        source: the float initializer that it comes from.
        integers: its values.
        scale: one, or one for each index of ``axis``.
        zero: of the type of ``integers``, as many as scales.
        axis: of the scales.
        looked_up: whether rows of it are looked up by number, too.
        turned: whether it is the transpose of ``source``.
    """

    source: str
    integers: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    axis: int
    looked_up: bool
    turned: bool = False

    def transposed(self) -> "_Weight":
        turned = np.ascontiguousarray(self.integers.T)
        return replace(self, integers=turned, axis=1 - self.axis, turned=not self.turned)


class _Folder:
    """One pass over one graph, with the indices it needs."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.producer = {output: node for node in graph.node for output in node.output}
        self.consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.consumers[name].append(node)
        self.looked_up = self.find_looked_up()
        # Weights are named after the initializer that they come from, by that and by how they are quantized.
        self.tables: dict[tuple[str, bytes, bytes, int, bool], str] = {}
        self.removed: list[onnx.NodeProto] = []
        self.added: dict[int, list[onnx.NodeProto]] = defaultdict(list)  # by id of the node they stand before

    def find_looked_up(self) -> set[str]:
        """Names of the initializers whose rows are looked up by number, quantized or not."""
        found = set()
        for node in self.graph.node:
            name = node.input[0] if _looks_up(node, *node.input[:1]) else ""
            while name in self.producer:
                name = self.producer[name].input[0] if self.producer[name].input else ""
            found.add(name)
        return found & self.constants.keys()

    def run(self) -> int:
        folded = 0
        for node in list(self.graph.node):
            if node.op_type == "QuantizeLinear" and self.value(node.input[0]) is not None:
                self.fold(node)
                folded += 1
        self.rebuild()
        return folded

    def value(self, name: str) -> np.ndarray | None:
        """The constant behind ``name``, seen through Constant, Identity and clamping nodes, or None."""
        if name in self.constants:
            return numpy_helper.to_array(self.constants[name])
        node = self.producer.get(name)
        if node is None:
            return None
        if node.op_type == "Identity":
            return self.value(node.input[0])
        if node.op_type == "Constant":
            return numpy_helper.to_array(node.attribute[0].t)
        if node.op_type in ("Max", "Min"):
            left, right = (self.value(name) for name in node.input)
            if left is not None and right is not None:
                return np.maximum(left, right) if node.op_type == "Max" else np.minimum(left, right)
        return None

    def source(self, name: str) -> str:
        """The initializer behind ``name``, which :meth:`value` found to be a constant."""
        node = self.producer.get(name)
        return name if node is None or node.op_type == "Constant" else self.source(node.input[0])

    def constant_value(self, name: str) -> np.ndarray:
        value = self.value(name)
        if value is None:
            raise ValueError(f"{name} is not a constant: the exporter wrote a quantizer in an unknown form")
        return value

    def fold(self, quantize: onnx.NodeProto) -> None:
        values, scale, zero = (self.constant_value(name) for name in quantize.input)
        axis = next((a.i for a in quantize.attribute if a.name == "axis"), 1)
        source = self.source(quantize.input[0])
        weight = _Weight(source, _quantize(values, scale, zero, axis), scale, zero, axis, source in self.looked_up)
        self.removed.append(quantize)
        for dequantize in self.consumers[quantize.output[0]]:
            self.removed.append(dequantize)
            for consumer in self.consumers[dequantize.output[0]]:
                self.connect(consumer, dequantize.output[0], weight)

    def connect(self, consumer: onnx.NodeProto, name: str, weight: "_Weight") -> None:
        """Let ``consumer`` read the folded weight where it read ``name``."""
        if consumer.op_type == "Transpose" and weight.integers.ndim == 2 and not weight.looked_up:
            self.removed.append(consumer)
            for user in self.consumers[consumer.output[0]]:
                self.connect(user, consumer.output[0], weight.transposed())
            return
        if (
            consumer.op_type == "Gemm"
            and consumer.input[1] == name
            and self.is_linear(consumer)
            and self.is_quantized(consumer.input[0])
        ):
            self.connect_linear(consumer, name, weight)
            return
        if _looks_up(consumer, name) and not weight.zero.any():
            self.connect_embedding(consumer, weight)
            return
        table = self.table(weight)
        output = f"{table}_dequantized"
        if output not in self.producer:
            inputs = [
                table,
                self.constant(f"{table}_scale", weight.scale),
                self.constant(f"{table}_zero", weight.zero),
            ]
            node = helper.make_node("DequantizeLinear", inputs, [output], name=output, axis=weight.axis)
            self.insert_before(consumer, node)
        for i, used in enumerate(consumer.input):
            if used == name:
                consumer.input[i] = output

    def is_quantized(self, name: str) -> bool:
        """Whether a tensor was quantized. If not, ONNX Runtime would quantize it on its own for an INT8 product."""
        node = self.producer.get(name)
        while node is not None and node.op_type in ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity"):
            node = self.producer.get(node.input[0])
        return node is not None and node.op_type == "DequantizeLinear"

    def is_linear(self, gemm: onnx.NodeProto) -> bool:
        """Say whether a Gemm is x · W + b, or x · transposed W + b, and no more."""
        plain = _attribute(gemm, "alpha", 1) == _attribute(gemm, "beta", 1) == 1 and not _attribute(gemm, "transA", 0)
        return plain and (len(gemm.input) < 3 or self.value(gemm.input[2]) is not None)

    def connect_linear(self, gemm: onnx.NodeProto, name: str, weight: "_Weight") -> None:
        """Write a Gemm as a product and what is added to it, for ONNX Runtime has no integers for a float Gemm.

        The bias is negated and subtracted, which gives the very same numbers: a sum would be made a Gemm again.
        """
        if _attribute(gemm, "transB", 0):
            weight = weight.transposed()
        self.removed.append(gemm)
        output, bias = gemm.output[0], gemm.input[2] if len(gemm.input) > 2 else ""
        product = helper.make_node("MatMul", [gemm.input[0], name], [f"{output}_product" if bias else output])
        self.connect(product, name, weight)
        # The nodes of the weight were put before the product, which is no node of the graph yet.
        for node in (*self.added.pop(id(product), []), product):
            self.insert_before(gemm, node)
        if bias:
            negative = self.constant(f"{bias}_negative", -self.constant_value(bias))
            self.insert_before(gemm, helper.make_node("Sub", [product.output[0], negative], [output]))

    def connect_embedding(self, gather: onnx.NodeProto, weight: "_Weight") -> None:
        """Look up INT8 rows, and scale the looked-up rows: equal to dequantizing the table first, but cheaper."""
        rows, scale = self.table(weight), weight.scale
        base = gather.output[0]
        nodes = [
            helper.make_node("Gather", [rows, gather.input[1]], [f"{base}_int8"], axis=0),
            helper.make_node("Cast", [f"{base}_int8"], [f"{base}_float"], to=onnx.TensorProto.FLOAT),
        ]
        if scale.size == 1 or weight.axis != 0:
            factor = self.constant(f"{rows}_scale", scale)
        else:
            column = self.constant(f"{rows}_scale_column", scale.reshape(-1, 1))
            factor = f"{base}_scale"
            nodes.append(helper.make_node("Gather", [column, gather.input[1]], [factor], axis=0))
        nodes.append(helper.make_node("Mul", [f"{base}_float", factor], [base]))
        for node in nodes:
            self.insert_before(gather, node)
        self.removed.append(gather)

    def table(self, weight: "_Weight") -> str:
        """The initializer that holds a weight's integers: one, however often the weight is quantized and read."""
        key = (weight.source, weight.scale.tobytes(), weight.zero.tobytes(), weight.axis, weight.turned)
        if key not in self.tables:
            count = sum(other[0] == weight.source for other in self.tables)
            self.tables[key] = f"{weight.source}_int8" + (f"_{count}" if count else "")
        return self.constant(self.tables[key], weight.integers)

    def constant(self, name: str, value: np.ndarray) -> str:
        """Store ``value`` as an initializer once; a layer that is called twice shares its weight."""
        if name not in self.constants:
            tensor = numpy_helper.from_array(value, name)
            self.constants[name] = tensor
            self.graph.initializer.append(tensor)
        return name

    def insert_before(self, anchor: onnx.NodeProto, node: onnx.NodeProto) -> None:
        self.added[id(anchor)].append(node)
        for output in node.output:
            self.producer[output] = node

    def rebuild(self) -> None:
        removed = {id(node) for node in self.removed}
        nodes: list[onnx.NodeProto] = []
        for node in self.graph.node:
            nodes.extend(self.added[id(node)])
            if id(node) not in removed:
                nodes.append(node)
        kept = _reachable(nodes, {output.name for output in self.graph.output})
        used = {name for node in kept for name in _names_read(node)} | {o.name for o in self.graph.output}
        initializers = [tensor for tensor in self.graph.initializer if tensor.name in used]
        del self.graph.node[:], self.graph.initializer[:]
        self.graph.node.extend(kept)
        self.graph.initializer.extend(initializers)


def _quantize(weight: np.ndarray, scale: np.ndarray, zero: np.ndarray, axis: int) -> np.ndarray:
    """round(w · (1 / s)) + z, clamped, as torch computes it in float32 (ties to even)."""
    if scale.size > 1:
        shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
        scale, offset = scale.reshape(shape), zero.reshape(shape)
    else:
        offset = zero
    limits = np.iinfo(zero.dtype)
    inverse = np.float32(1.0) / scale.astype(np.float32)
    levels = np.rint(weight.astype(np.float32) * inverse) + offset.astype(np.float32)
    return np.clip(levels, limits.min, limits.max).astype(zero.dtype)


def _attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    return next((float(a.f if a.type == a.FLOAT else a.i) for a in node.attribute if a.name == name), default)


def _looks_up(node: onnx.NodeProto, *table: str) -> bool:
    """Say whether a node looks up rows of ``table``."""
    return node.op_type == "Gather" and _attribute(node, "axis", 0) == 0 and node.input[0] in table


def _reachable(nodes: list[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """Drop the nodes on which no wanted output depends; order is kept."""
    kept: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(_names_read(node))
    return kept[::-1]


def _names_read(node: onnx.NodeProto) -> set[str]:
    """The names that a node reads, those read inside the branches of an If among them."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                names |= _names_read(inner)
            names.update(output.name for output in graph.output)
    return names
