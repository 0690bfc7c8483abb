"""Compare an exported model with the model in memory, and refuse an export that is another model.

INT8 runtimes round differently at the boundaries of a quantizer's levels, so logits never agree to the last digit
(a nudge of 1e-6 inside torch alone moves some by more than 0.02). What must agree: the decisions, the bulk of the
logits, and the number of quantizers. A dropped quantizer makes the outputs *closer* to FP32 and shows only there.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx

from nncf_transformers.errors import IntegrityError
from nncf_transformers.runtimes import Inputs, Runtime

# Mean difference of the logits, as a share of their standard deviation. Rounding alone gave up to 4 % on a MiniLM of
# six layers, where a relative nudge of 1e-6 inside torch moved the logits by 1.6 %; a wrong graph gives over 50 %.
MAX_MEAN_DIFFERENCE = 0.20
# Share of decisions (argmax over classes, or over token positions) that must be the same, among those where the model
# in memory prefers its choice by more than CLOSE_CALL standard deviations; the others are a coin toss in any runtime.
MIN_AGREEMENT = 0.90
CLOSE_CALL = 0.25
# So many tokens of a batch say enough, and a token of a language model has as many logits as the vocabulary has words.
MAX_TOKENS = 256


@dataclass(frozen=True)
class Parity:
    """How one runtime compares with torch.

    Attributes:
        runtime: its name, followed by that of the part where a model is exported in parts.
        max_difference: largest absolute difference of a logit.
        mean_difference: mean absolute difference of the logits.
        relative_difference: ``mean_difference`` divided by the standard deviation of torch's logits.
        agreement: share of equal argmaxes among all decisions.
        clear_agreement: share of equal argmaxes among the decisions that are not close calls.
        decisions: number of decisions compared; 0 for embeddings and hidden states, which decide nothing.
    """

    runtime: str
    max_difference: float
    mean_difference: float
    relative_difference: float
    agreement: float
    clear_agreement: float
    decisions: int

    def __str__(self) -> str:
        what = "logits" if self.decisions else "hidden states" if self.runtime.endswith("encoder") else "embeddings"
        text = (
            f"parity torch - {self.runtime}: max {self.max_difference:.2g}, mean {self.mean_difference:.2g} "
            f"({100 * self.relative_difference:.2g} % of the {what}' deviation)"
        )
        if self.decisions:
            text += f", argmax equal in {100 * self.agreement:.1f} % of {self.decisions} decisions"
        return text

    def to_dict(self) -> dict[str, object]:
        return asdict(self)

    def check(self) -> None:
        """Raise IntegrityError when the exported model is not the same model."""
        # Put so that NaN, which a diverged model gives, does not pass.
        if not (self.relative_difference <= MAX_MEAN_DIFFERENCE and self.clear_agreement >= MIN_AGREEMENT):
            raise IntegrityError(
                f"export refused, {self}; allowed: mean {100 * MAX_MEAN_DIFFERENCE:.0f} %, equal "
                f"{100 * MIN_AGREEMENT:.0f} % of the clear decisions ({100 * self.clear_agreement:.1f} % were)"
            )


def compare(
    name: str, reference: Runtime, other: Runtime, batches: Sequence[Inputs], *, decides: bool = True
) -> Parity:
    """Run both on ``batches``; positions that are padding do not count.

    Logits of shape (batch, sequence) decide over positions (a question-answering head), those of shape
    (batch, classes) over classes, those of shape (batch, sequence, classes) over classes at each position, of at most
    some :data:`MAX_TOKENS` positions a batch. Outputs that decide nothing are embeddings, (batch, size), or hidden
    states: there, what the rows have in common is no part of the deviation.
    """
    if not decides:
        return _compare_states(name, reference, other, batches)
    sums, equal, clear = _Sums(), [], []
    for inputs in batches:
        real = np.asarray(inputs["attention_mask"], bool) if "attention_mask" in inputs else None
        for expected, actual in zip(reference(inputs), other(inputs), strict=True):
            _check_shapes(name, expected, actual)
            kept = np.ones(expected.shape, bool)
            if expected.ndim == 3:
                expected, actual = (_some_tokens(x, real) for x in (expected, actual))
                kept = np.ones(expected.shape, bool)
            elif real is not None and expected.shape == real.shape:
                kept = real
            sums.add(expected[kept], actual[kept])
            low = np.where(kept, expected, -np.inf)
            equal.append((low.argmax(-1) == np.where(kept, actual, -np.inf).argmax(-1)).ravel())
            clear.append(_margin(low).ravel())
    same, margin = np.concatenate(equal), np.concatenate(clear)
    decisive = same[margin > CLOSE_CALL * sums.deviation]
    return Parity(
        runtime=name,
        max_difference=sums.max_difference,
        mean_difference=sums.mean_difference,
        relative_difference=sums.mean_difference / max(sums.deviation, 1e-12),
        agreement=float(same.mean()),
        clear_agreement=float(decisive.mean()) if decisive.size else 1.0,
        decisions=int(same.size),
    )


class _Sums:
    """What the statistics need of all logits, added up batch by batch: a vocabulary's do not fit in memory."""

    def __init__(self) -> None:
        self.count = 0
        self.total = self.squares = self.differences = 0.0
        self.max_difference = 0.0

    def add(self, expected: np.ndarray, actual: np.ndarray) -> None:
        difference = np.abs(expected - actual)
        self.count += expected.size
        self.total += float(expected.sum(dtype=np.float64))
        self.squares += float(np.square(expected, dtype=np.float64).sum())
        self.differences += float(difference.sum(dtype=np.float64))
        # Put so that NaN stays.
        self.max_difference = float(np.maximum(self.max_difference, difference.max(initial=0.0)))

    @property
    def mean_difference(self) -> float:
        return self.differences / self.count

    @property
    def deviation(self) -> float:
        mean = self.total / self.count
        return float(np.sqrt(np.maximum(self.squares / self.count - mean * mean, 0.0)))


def _some_tokens(values: np.ndarray, real: np.ndarray | None) -> np.ndarray:
    """Rows of (batch, sequence, classes) for the tokens that are no padding; of many, evenly chosen ones."""
    rows = values.reshape(-1, values.shape[-1]) if real is None else values[real]
    return rows[:: max(1, len(rows) // MAX_TOKENS)]


def _margin(values: np.ndarray) -> np.ndarray:
    """By how much the largest value of the last axis is larger than the second; infinite if there is no second."""
    if values.shape[-1] < 2:
        return np.full(values.shape[:-1], np.inf)
    top = np.partition(values, -2, axis=-1)[..., -2:]
    return np.asarray(top[..., 1] - top[..., 0])


def _check_shapes(name: str, expected: np.ndarray, actual: np.ndarray) -> None:
    if expected.shape != actual.shape:
        raise IntegrityError(f"export refused: {name} returns {actual.shape}, torch {expected.shape}")


def _compare_states(name: str, reference: Runtime, other: Runtime, batches: Sequence[Inputs]) -> Parity:
    """Compare embeddings, (batch, size), or the hidden states of real tokens, (batch, sequence, size)."""
    pairs = []
    for inputs in batches:
        expected, actual = reference(inputs)[0], other(inputs)[0]
        _check_shapes(name, expected, actual)
        if expected.ndim == 3:
            real = np.asarray(inputs["attention_mask"], bool)
            expected, actual = expected[real], actual[real]
        pairs.append((expected, actual))
    expected, actual = (np.concatenate(rows) for rows in zip(*pairs, strict=True))
    difference = np.abs(expected - actual)
    mean, deviation = float(difference.mean()), float((expected - expected.mean(0)).std())
    return Parity(name, float(difference.max()), mean, mean / max(deviation, 1e-12), 1.0, 1.0, decisions=0)


def check_quantizer_count(
    path: Path, weights: int, activations: int, *, integer_weights: bool = True
) -> dict[str, int]:
    """Compare an ONNX file's quantization nodes with the model's quantizers.

    An activation quantizer is a QuantizeLinear. A weight quantizer is an operation that reads an INT8 initializer: the
    QuantizeLinear is folded, and a weight that several operations share is stored once. Where it is not folded, it is
    an operation that reads what a QuantizeLinear makes of a float initializer.

    Args:
        path: the file.
        weights: operations that read a quantized weight.
        activations: quantized activations.
        integer_weights: whether the QuantizeLinear of weights is folded.

    Returns:
        The counts of QuantizeLinear, DequantizeLinear and INT8 initializers, and of operations that read these.

    Raises:
        IntegrityError: the exporter lost a quantizer.
    """
    graph = onnx.load(path).graph
    operations = Counter(node.op_type for node in graph.node)
    integers = {
        t.name
        for t in graph.initializer
        if t.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8) and len(t.dims) > 1
    }
    counts = {
        "QuantizeLinear": operations["QuantizeLinear"],
        "DequantizeLinear": operations["DequantizeLinear"],
        "int8_weights": len(integers),
        "int8_readers": sum(_readers(graph, integers).values()),
    }
    computed = set() if integer_weights else _quantized_constants(graph)
    readers = counts["int8_readers"] + sum(_readers(graph, computed).values())
    if operations["QuantizeLinear"] - len(computed) != activations or readers != weights:
        raise IntegrityError(
            f"export refused: the model has {activations} activation and {weights} weight quantizers, {path.name} has "
            f"{operations['QuantizeLinear'] - len(computed)} QuantizeLinear nodes of activations and {readers} "
            "operations that read quantized weights"
        )
    return counts


def _quantized_constants(graph: onnx.GraphProto) -> set[str]:
    """What QuantizeLinear makes of values that do not depend on the model's inputs."""
    constants = {tensor.name for tensor in graph.initializer}
    found = set()
    for node in graph.node:
        if constants.issuperset(node.input):
            constants.update(node.output)
            if node.op_type == "QuantizeLinear":
                found.add(node.output[0])
    return found


def _readers(graph: onnx.GraphProto, names: Collection[str]) -> Counter[str]:
    """Count the operations that read some initializers, directly or behind nodes that only turn them into numbers."""
    origin = {name: name for name in names}
    found: Counter[str] = Counter()
    for node in graph.node:
        source = origin.get(node.input[0]) if node.input else None
        if source is not None and node.op_type in ("DequantizeLinear", "Transpose"):
            origin[node.output[0]] = source
            continue
        found.update(origin[name] for name in node.input if name in origin)
    return found
