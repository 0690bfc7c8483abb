"""Every name by which a scope may mean an operation, in our spelling and in that of NNCF 1 and 2.

A legacy name such as
``…/BertLayer[0]/BertAttention[attention]/BertSelfAttention[self]/NNCFLinear[query]/linear_0`` is made of the
classes and attribute names of the modules from the model down, then the operation's name and how often that
module ran it before. Today's models and today's torch differ from those of 2019 in three ways, and each is
bridged here: classes were renamed, operators have another spelling, and some operations are fused.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from nncf_transformers.config.trace import Operation

# Functions whose weight NNCF quantizes, and the others whose inputs it quantizes. The transformer mode of
# NNCF 3 leaves everything else (sums, products, normalization, softmax, activations) in floating point.
WEIGHTED_FUNCTIONS = frozenset({"linear", "embedding", "addmm", "conv1d", "conv2d"})
PRODUCT_FUNCTIONS = frozenset({"matmul", "__matmul__", "bmm", "baddbmm", "scaled_dot_product_attention"})

# Today's function → the names that it had in legacy graphs, each counted on its own.
LEGACY_SPELLINGS: dict[str, tuple[str, ...]] = {
    "add": ("__add__", "add"),
    "__radd__": ("__radd__", "__add__"),
    "add_": ("__add__", "__iadd__"),  # 2019 wrote a + b + c where today's embeddings use +=
    "sub": ("__sub__", "sub"),
    "mul": ("__mul__", "mul"),
    "__rmul__": ("__rmul__", "__mul__"),
    "mul_": ("__mul__", "__imul__"),
    "div": ("__truediv__", "div"),
    "div_": ("__truediv__", "__itruediv__"),
    "matmul": ("matmul", "__matmul__"),
    "pow": ("__pow__", "pow"),
    "relu": ("relu", "RELU"),
}

# Operations that torch fuses today, in the order in which the unfused code ran them. True marks the one whose
# inputs are what NNCF 3 quantizes at the fused operation; the rest happens inside it, in floating point.
FUSED_ATTENTION = (
    ("matmul", True),
    ("__truediv__", False),
    ("__add__", False),
    ("softmax", False),
    ("matmul", False),
)
# 2019: x * 0.5 * (1 + erf(x / sqrt(2))), written out in the module that calls the activation today.
FUSED_GELU = (
    ("__mul__", False),
    ("__truediv__", False),
    ("erf", False),
    ("__add__", False),
    ("__mul__", False),
)

# Classes that a faster attention implementation brought along, and what the same module was called before.
_ATTENTION_VARIANT = re.compile(r"(Sdpa|FlashAttention2?|Flash)(?=SelfAttention|Attention)")
_RENAMED_CLASSES = {
    "DistilBertSdpaAttention": "MultiHeadSelfAttention",
    "DistilBertFlashAttention2": "MultiHeadSelfAttention",
    "DistilBertSelfAttention": "MultiHeadSelfAttention",
}
# Below their embeddings these families were built from the very classes of BERT.
_BERT_FAMILIES = re.compile(r"^(XLMRoberta|Roberta|Electra|Camembert)(?!For)")
_WRAPPED_CLASSES = (frozenset({"Linear", "Embedding"}), frozenset({"Linear", "Embedding", "LayerNorm"}))


@dataclass(frozen=True)
class ScopeTarget:
    """Something that a scope can name.

    Attributes:
        names: All its spellings; the first is the one that messages show.
        prefixes: Names of the modules that contain it; a plain scope may also be one of these.
        node_name: NNCF 3's name, or ``None`` for an operation that no longer exists on its own.
        function: Name of the operation.
        quantized: Whether NNCF 3 would quantize its inputs or its weight.
        module_path: Dotted path of the module that runs it.
    """

    names: tuple[str, ...]
    prefixes: frozenset[str]
    node_name: str | None
    function: str
    quantized: bool
    module_path: str = ""

    @property
    def weighted(self) -> bool:
        """Whether the operation has a quantized weight."""
        return self.function in WEIGHTED_FUNCTIONS


def own_targets(operations: Sequence[Operation]) -> list[ScopeTarget]:
    """Targets under our names: ``module.path/function/count``, NNCF 3's node name, and the modules above."""
    counts: dict[tuple[str, str], int] = defaultdict(int)
    quantized = quantized_nodes(operations)
    targets = []
    for operation in operations:
        path, function = operation.module_path, operation.function
        count = counts[path, function]
        counts[path, function] += 1
        parts = path.split(".")
        targets.append(
            ScopeTarget(
                names=(f"{path}/{function}/{count}", operation.node_name),
                prefixes=frozenset(".".join(parts[: depth + 1]) for depth in range(len(parts))) - {""},
                node_name=operation.node_name,
                function=function,
                quantized=operation.node_name in quantized,
                module_path=path,
            )
        )
    return targets


def legacy_targets(operations: Sequence[Operation]) -> list[ScopeTarget]:
    """Targets under the names of NNCF 1 and 2, fused operations included."""
    counter = _LegacyCounter()
    quantized = quantized_nodes(operations)
    targets = []
    for operation in operations:
        node = operation.node_name
        modules = _legacy_module_names(operation.module_path, operation.class_names)
        spellings = LEGACY_SPELLINGS.get(operation.function, (operation.function,))
        if operation.function == "gelu" and operation.module_path:
            parent_path = operation.module_path.rpartition(".")[0]
            parents = _legacy_module_names(parent_path, operation.class_names[:-1])
            for name, _ in FUSED_GELU:
                label = counter.next(parent_path, name)
                targets.append(_legacy_target(parents, [label], None, name, False))
        labels = [counter.next(operation.module_path, spelling) for spelling in spellings]
        target = _legacy_target(modules, labels, node, operation.function, node in quantized)
        targets.append(replace(target, module_path=operation.module_path))
        if operation.function == "scaled_dot_product_attention":
            for name, stands_for_node in FUSED_ATTENTION:
                label = counter.next(operation.module_path, name)
                targets.append(
                    _legacy_target(modules, [label], node if stands_for_node else None, name, stands_for_node)
                )
    return targets


def quantized_nodes(operations: Sequence[Operation]) -> set[str]:
    """Names of the nodes that NNCF 3 quantizes.

    These are weighted functions and products of two activations, but not the product of attention
    probabilities and values: NNCF keeps that one in floating point, as it does inside the fused attention.
    """
    weighing = {operation.node_name for operation in _weighing_products(operations)}
    candidates = (op.node_name for op in operations if op.function in WEIGHTED_FUNCTIONS | PRODUCT_FUNCTIONS)
    return {name for name in candidates if name not in weighing}


def cast_probabilities(operations: Sequence[Operation]) -> list[str]:
    """Name the products of attention probabilities and values that NNCF 3 does not recognize as such.

    T5 casts the probabilities between softmax and product, and NNCF then quantizes them. Eight bits for one number a
    token round the small ones of a long text to nothing, so they are to be left out by name, as in other families.
    """
    casts = {op.module_path for op in operations if op.function == "type_as"}
    return [op.node_name for op in _weighing_products(operations) if op.module_path in casts]


def _weighing_products(operations: Sequence[Operation]) -> list[Operation]:
    """The products of attention probabilities and values: in each module the first one behind a softmax."""
    found = []
    behind_softmax: set[str] = set()
    for operation in operations:
        path = operation.module_path
        if operation.function == "softmax":
            behind_softmax.add(path)
        elif operation.function in PRODUCT_FUNCTIONS and path in behind_softmax:
            behind_softmax.discard(path)
            found.append(operation)
    return found


class _LegacyCounter:
    """Counts the calls of each function by each module, as legacy names do."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = defaultdict(int)

    def next(self, module_path: str, function: str) -> str:
        count = self._counts[module_path, function]
        self._counts[module_path, function] += 1
        return f"{function}_{count}"


def _legacy_target(
    modules: Sequence[str], labels: Sequence[str], node_name: str | None, function: str, quantized: bool
) -> ScopeTarget:
    prefixes: set[str] = set()
    for module in modules:
        parts = module.split("/")
        prefixes.update("/".join(parts[: depth + 1]) for depth in range(len(parts)))
    return ScopeTarget(
        names=tuple(f"{module}/{label}" for label in labels for module in modules),
        prefixes=frozenset(prefixes),
        node_name=node_name,
        function=function,
        quantized=quantized,
    )


def _legacy_module_names(path: str, class_names: Sequence[str]) -> tuple[str, ...]:
    """All legacy spellings of a module: with today's and former classes, with and without NNCF's wrappers."""
    former = [former_class(name) for name in class_names]
    attributes = path.split(".") if path else []
    as_bert = [
        _BERT_FAMILIES.sub("Bert", name) if {"encoder", "pooler"} & set(attributes[:depth]) else name
        for depth, name in enumerate(former)
    ]
    spellings = []
    for classes in (former, as_bert, list(class_names)):
        for wrapped in (*_WRAPPED_CLASSES, frozenset[str]()):
            names = [f"NNCF{name}" if name in wrapped else name for name in classes]
            spellings.append("/".join(_with_attributes(names, attributes)))
    return tuple(dict.fromkeys(spellings))


def _with_attributes(names: Sequence[str], attributes: Sequence[str]) -> Iterator[str]:
    yield names[0]
    for name, attribute in zip(names[1:], attributes, strict=True):
        yield f"{name}[{attribute}]"


def former_class(name: str) -> str:
    """What a class was called before faster implementations of attention brought classes of their own."""
    return _RENAMED_CLASSES.get(name) or _ATTENTION_VARIANT.sub("", name)
