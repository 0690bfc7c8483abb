"""Compare an exported model with the model in memory, and refuse an export that is another model.

INT8 runtimes round differently at the boundaries of a quantizer's levels, so logits never agree to the last digit
(a nudge of 1e-6 inside torch alone moves some by more than 0.02). What must agree: the decisions, the bulk of the
logits, and the number of quantizers. A dropped quantizer makes the outputs *closer* to FP32 and shows only there.
"""

from collections import Counter
from collections.abc import Sequence
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


@dataclass(frozen=True)
class Parity:
    """How one runtime compares with torch.

    Attributes:
        runtime: its name.
        max_difference: largest absolute difference of a logit.
        mean_difference: mean absolute difference of the logits.
        relative_difference: ``mean_difference`` divided by the standard deviation of torch's logits.
        agreement: share of equal argmaxes among all decisions.
        clear_agreement: share of equal argmaxes among the decisions that are not close calls.
        decisions: number of decisions compared; 0 for embeddings, which decide nothing.
    """

    runtime: str
    max_difference: float
    mean_difference: float
    relative_difference: float
    agreement: float
    clear_agreement: float
    decisions: int

    def __str__(self) -> str:
        what = "logits" if self.decisions else "embeddings"
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
    (batch, classes) over classes, those of shape (batch, sequence, classes) over classes at each position. Outputs that
    decide nothing are embeddings, (batch, size): there, what the texts have in common is no part of the deviation.
    """
    if not decides:
        return _compare_embeddings(name, reference, other, batches)
    differences, logits, equal, clear = [], [], [], []
    for inputs in batches:
        real = np.asarray(inputs["attention_mask"], bool)
        for expected, actual in zip(reference(inputs), other(inputs), strict=True):
            if expected.shape != actual.shape:
                raise IntegrityError(f"export refused: {name} returns {actual.shape}, torch {expected.shape}")
            if expected.ndim == 3:
                expected, actual = expected[real], actual[real]
                kept = np.ones(expected.shape, bool)
            elif expected.shape == real.shape:
                kept = real
            else:
                kept = np.ones(expected.shape, bool)
            differences.append(np.abs(expected - actual)[kept])
            logits.append(expected[kept])
            low = np.where(kept, expected, -np.inf)
            equal.append(low.argmax(-1) == np.where(kept, actual, -np.inf).argmax(-1))
            top = np.sort(low, axis=-1)[..., -2:]
            clear.append(top[..., -1] - top[..., 0] if top.shape[-1] > 1 else np.full(top.shape[:-1], np.inf))
    difference = np.concatenate([d.ravel() for d in differences])
    deviation = float(np.concatenate([v.ravel() for v in logits]).std())
    same, margin = np.concatenate([e.ravel() for e in equal]), np.concatenate([c.ravel() for c in clear])
    mean = float(difference.mean())
    decisive = same[margin > CLOSE_CALL * deviation]
    return Parity(
        runtime=name,
        max_difference=float(difference.max()),
        mean_difference=mean,
        relative_difference=mean / max(deviation, 1e-12),
        agreement=float(same.mean()),
        clear_agreement=float(decisive.mean()) if decisive.size else 1.0,
        decisions=int(same.size),
    )


def _compare_embeddings(name: str, reference: Runtime, other: Runtime, batches: Sequence[Inputs]) -> Parity:
    expected, actual = (np.concatenate([run(inputs)[0] for inputs in batches]) for run in (reference, other))
    if expected.shape != actual.shape:
        raise IntegrityError(f"export refused: {name} returns {actual.shape}, torch {expected.shape}")
    difference = np.abs(expected - actual)
    mean, deviation = float(difference.mean()), float((expected - expected.mean(0)).std())
    return Parity(name, float(difference.max()), mean, mean / max(deviation, 1e-12), 1.0, 1.0, decisions=0)


def check_quantizer_count(path: Path, weights: int, activations: int) -> dict[str, int]:
    """Compare an ONNX file's quantization nodes with the model's quantizers.

    An activation quantizer is a QuantizeLinear. A weight quantizer is an INT8 initializer: its QuantizeLinear is
    folded, and a weight that several operations share may be quantized once for each of them.

    Returns:
        The counts of QuantizeLinear, DequantizeLinear and INT8 initializers.

    Raises:
        IntegrityError: the exporter lost a quantizer.
    """
    graph = onnx.load(path).graph
    operations = Counter(node.op_type for node in graph.node)
    integers = sum(
        t.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8) and len(t.dims) > 1 for t in graph.initializer
    )
    counts = {
        "QuantizeLinear": operations["QuantizeLinear"],
        "DequantizeLinear": operations["DequantizeLinear"],
        "int8_weights": integers,
    }
    if operations["QuantizeLinear"] != activations or integers != weights:
        raise IntegrityError(
            f"export refused: the model has {activations} activation and {weights} weight quantizers, {path.name} has "
            f"{operations['QuantizeLinear']} QuantizeLinear nodes and {integers} INT8 weights"
        )
    return counts
