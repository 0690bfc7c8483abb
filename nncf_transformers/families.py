"""The model families that this project has proven, and why others are refused.

"Proven" means: quantize, train, reload and export, with agreement between torch, ONNX Runtime and OpenVINO, is a
test (``tests/runtime/test_families.py``).
"""

from torch import nn

from nncf_transformers.errors import UsageError

SUPPORTED = ("bert", "roberta", "distilbert", "albert", "electra", "mobilebert", "xlm-roberta", "deberta-v2")


def family_of(model: nn.Module) -> str:
    """Name the family of a model; a configuration of 2019 does not, but its model class has a prefix for it."""
    config: object = model.config
    return getattr(config, "model_type", None) or getattr(model, "base_model_prefix", None) or type(model).__name__


def check_supported(model: nn.Module) -> None:
    """Refuse to compress a model family that no test has proven.

    Raises:
        UsageError: naming the family and the ones that work.
    """
    family = family_of(model)
    if family not in SUPPORTED:
        raise UsageError(
            f"model family {family!r} has not been proven with quantization-aware training; "
            f"supported: {', '.join(SUPPORTED)}"
        )
