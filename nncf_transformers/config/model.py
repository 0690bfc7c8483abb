"""What a configuration says, as plain frozen dataclasses.

They hold no NNCF object: :mod:`nncf_transformers.config.nncf_arguments` makes those, late.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

PRESETS = ("performance", "mixed")
MODES = ("symmetric", "asymmetric")
TARGET_DEVICES = ("ANY", "CPU", "GPU", "NPU")
OVERFLOW_FIXES = ("enable", "disable", "first_layer_only")
# A weight is one fixed tensor: averaging over samples, or a histogram over them, has no meaning for it.
WEIGHT_RANGE_TYPES = ("min_max", "mean_percentile")
ACTIVATION_RANGE_TYPES = ("min_max", "mean_min_max", "median_min_max", "mean_percentile", "histogram")


@dataclass(frozen=True)
class RangeSettings:
    """How calibration picks the range of a quantizer.

    Attributes:
        type: One of :data:`WEIGHT_RANGE_TYPES` or :data:`ACTIVATION_RANGE_TYPES`. ``None`` is NNCF's own
            choice: ``min_max`` for weights, ``mean_min_max`` for activations.
        min_percentile: Lower end in percent, for ``mean_percentile`` only.
        max_percentile: Upper end in percent, for ``mean_percentile`` only.
    """

    type: str | None = None
    min_percentile: float = 0.01
    max_percentile: float = 99.99


@dataclass(frozen=True)
class QuantizerSettings:
    """What all quantizers of one kind (of weights, or of activations) have in common.

    Attributes:
        mode: ``symmetric`` or ``asymmetric``; ``None`` leaves it to the preset.
        bits: Always 8.
        per_channel: One scale per output channel, or one per tensor. ``None`` is NNCF's choice: weights per
            channel. Activations are always per tensor (NNCF 3 refuses anything else for linear layers).
        range: How the range is calibrated.
    """

    mode: str | None = None
    bits: int = 8
    per_channel: bool | None = None
    range: RangeSettings = field(default_factory=RangeSettings)


@dataclass(frozen=True)
class AlgorithmConfig:
    """Base of every algorithm's settings.

    Attributes:
        algorithm: Its name in a configuration.
        place: File and key path that it was read from, for messages.
    """

    algorithm: ClassVar[str]
    place: str = ""


@dataclass(frozen=True)
class QuantizationConfig(AlgorithmConfig):
    """INT8 quantization-aware training with NNCF 3.

    Attributes:
        preset: ``performance`` (all symmetric) or ``mixed`` (activations asymmetric). ``None`` is NNCF's
            choice for transformers, ``mixed``.
        weights: Settings of the weight quantizers.
        activations: Settings of the activation quantizers.
        calibration_samples: How many training samples set the initial ranges. They go through the model one
            by one: NNCF takes the statistics of a transformer per batch.
        target_scopes: If not empty, only these parts are quantized.
        ignored_scopes: Parts that stay in floating point.
        weight_ignored_scopes: Legacy only: parts whose weights stay in floating point.
        activation_ignored_scopes: Legacy only: parts whose activations stay in floating point.
        legacy_scopes: Whether the scopes are written in the names of NNCF 1 and 2.
        target_device: Where the model will run.
        overflow_fix: Use half the range of the weights against saturation on CPUs without VNNI. ``None`` is
            NNCF's choice, ``first_layer_only``, which concerns convolutions only.
        smooth_quant: Alpha of SmoothQuant from 0 to 1, or ``None`` for off. Off by default: it rescales the weights
            before training, and its scales cost time in every step.
        bias_correction: Whether calibration may change biases. Off by default: training corrects them anyway,
            and the weights stay the user's until it does.
        quantizer_learning_rate: Learning rate of the quantizers' parameters; ``None`` is the model's own.
        quantizer_lr_multiplier: Factor on the model's learning rate, where ``quantizer_learning_rate`` is
            None.
    """

    algorithm: ClassVar[str] = "quantization"

    preset: str | None = None
    weights: QuantizerSettings = field(default_factory=QuantizerSettings)
    activations: QuantizerSettings = field(default_factory=QuantizerSettings)
    calibration_samples: int = 300
    target_scopes: tuple[str, ...] = ()
    ignored_scopes: tuple[str, ...] = ()
    weight_ignored_scopes: tuple[str, ...] = ()
    activation_ignored_scopes: tuple[str, ...] = ()
    legacy_scopes: bool = False
    target_device: str = "ANY"
    overflow_fix: str | None = None
    smooth_quant: float | None = None
    bias_correction: bool = False
    quantizer_learning_rate: float | None = None
    quantizer_lr_multiplier: float = 1.0

    def quantizer_lr(self, model_lr: float) -> float:
        """The learning rate of the quantizers' parameter group when the model trains with ``model_lr``."""
        if self.quantizer_learning_rate is not None:
            return self.quantizer_learning_rate
        return model_lr * self.quantizer_lr_multiplier


@dataclass(frozen=True)
class InputInfo:
    """One model input of a legacy ``input_info``; kept for reference, nothing is traced from it."""

    sample_size: tuple[int, ...] = ()
    type: str = "float"
    filler: str = "ones"
    keyword: str | None = None


@dataclass(frozen=True)
class CompressionConfig:
    """A whole configuration file.

    Attributes:
        algorithms: What to do to the model, in order.
        source: Name of the file.
        warnings: One line each for whatever is approximated or has no effect. The caller logs them.
        raw: The file's content, before any interpretation.
        input_info: The model inputs that a legacy file describes.
    """

    algorithms: tuple[AlgorithmConfig, ...]
    source: str
    warnings: tuple[str, ...] = ()
    raw: dict[str, Any] = field(default_factory=dict)
    input_info: tuple[InputInfo, ...] = ()

    @property
    def quantization(self) -> QuantizationConfig | None:
        """The quantization settings, if the file has any."""
        return next((item for item in self.algorithms if isinstance(item, QuantizationConfig)), None)
