"""The model families that this project has proven, and why others are refused.

"Proven" means: quantize, train, reload and export, with agreement between torch, ONNX Runtime and OpenVINO, is a
test (``tests/runtime/test_families.py``).
"""

from torch import nn

from nncf_transformers.errors import UsageError

SUPPORTED = (
    "bert",
    "roberta",
    "distilbert",
    "albert",
    "electra",
    "mobilebert",
    "xlm-roberta",
    "deberta-v2",
    "gpt2",
    "t5",
)
# Families that write text, and the one class of each that is proven; encoders are proven with any head.
GENERATING = {"gpt2": "GPT2LMHeadModel", "t5": "T5ForConditionalGeneration"}


def family_of(model: nn.Module) -> str:
    """Name the family of a model; a configuration of 2019 does not, but its model class has a prefix for it."""
    config: object = model.config
    return getattr(config, "model_type", None) or getattr(model, "base_model_prefix", None) or type(model).__name__


def has_class(model: nn.Module, *endings: str) -> bool:
    """Say whether a model's class, or one that it derives from, has a name with one of these endings.

    Adapters turn a model into one of a class derived from its own, which may have another name.
    """
    return any(parent.__name__.endswith(endings) for parent in type(model).__mro__)


def check_supported(model: nn.Module) -> None:
    """Refuse to compress a model family, or a model class of it, that no test has proven.

    Raises:
        UsageError: naming the family and the ones that work.
    """
    family = family_of(model)
    if family not in SUPPORTED:
        raise UsageError(
            f"model family {family!r} has not been proven with quantization-aware training; "
            f"supported: {', '.join(SUPPORTED)}"
        )
    proven = GENERATING.get(family)
    if proven is not None and not has_class(model, proven):
        raise UsageError(
            f"{type(model).__name__} has not been proven with quantization-aware training; supported of the family "
            f"{family!r}: {proven}"
        )


def is_adapted(model: nn.Module) -> bool:
    """Whether an adapter is active in a model; asked without the library for adapters, which may not be there."""
    return getattr(getattr(model, "adapters_config", None), "active_setup", None) is not None
