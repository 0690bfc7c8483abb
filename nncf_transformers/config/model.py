"""What a configuration says, as plain frozen dataclasses.

They hold no NNCF object: :mod:`nncf_transformers.config.nncf_arguments` makes those, late.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar

PRESETS = ("performance", "mixed")
MODES = ("symmetric", "asymmetric")
TARGET_DEVICES = ("ANY", "CPU", "GPU", "NPU")
OVERFLOW_FIXES = ("enable", "disable", "first_layer_only")
# A weight is one fixed tensor: averaging over samples, or a histogram over them, has no meaning for it.
WEIGHT_RANGE_TYPES = ("min_max", "mean_percentile")
ACTIVATION_RANGE_TYPES = ("min_max", "mean_min_max", "median_min_max", "mean_percentile", "histogram")
# Marks a field that only a recipe sets; a configuration file has no key for it.
RECIPE_ONLY = MappingProxyType({"recipe_only": True})


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
        compresses: Whether it belongs to the compression; otherwise it only steers the training.
        place: File and key path that it was read from, for messages.
    """

    algorithm: ClassVar[str]
    compresses: ClassVar[bool] = True
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
        ignored_types: Class names of modules that stay in floating point with all in them, such as ``LayerNorm``.
        start_epoch: Where the quantizers are calibrated anew and switched on. They are in the model from the
            beginning, but have no effect before. 0: on from the beginning.
        freeze_epoch: From where on the quantizers' ranges stay as they are; ``None``: they are trained to the end.
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
    ignored_types: tuple[str, ...] = field(default=(), metadata=RECIPE_ONLY)
    start_epoch: float = field(default=0.0, metadata=RECIPE_ONLY)
    freeze_epoch: float | None = field(default=None, metadata=RECIPE_ONLY)

    def quantizer_lr(self, model_lr: float) -> float:
        """The learning rate of the quantizers' parameter group when the model trains with ``model_lr``."""
        if self.quantizer_learning_rate is not None:
            return self.quantizer_learning_rate
        return model_lr * self.quantizer_lr_multiplier


DISTILLATION_LOSSES = ("kl", "mse", "softmax")
TEACHER_DTYPES = ("float32", "bfloat16")
STRUCTURE_MODES = ("fine", "block", "per_dim")
SCHEDULES = ("polynomial", "exponential", "multistep", "linear", "cubic", "inverse_cubic")
# Those of a file. A recipe knows "movement", too.
IMPORTANCES = ("abs", "normed_abs")
RANKINGS = ("local", "global")


@dataclass(frozen=True)
class DistillationConfig(AlgorithmConfig):
    """Learning from a teacher model.

    Attributes:
        teacher: Folder or hub name of the teacher; ``self`` is a copy of the model as it was before compression.
            ``None``: a flag names it.
        loss: ``kl``: loss = (1 - weight) * task + weight * T^2 * KL(teacher, student), the mean over the model's
            outputs. ``mse`` and ``softmax`` are those of NNCF 2: loss = task + scale * (sum over the outputs).
        weight: From 0 to 1, for ``kl``.
        temperature: T, at least 1 for ``kl``; also used by ``softmax``.
        scale: Factor of ``mse`` and ``softmax``.
        hidden_weight: Factor of the mean squared error between hidden states, 0 for none.
        teacher_dtype: Data type in which the teacher runs.
        cache: Folder in which the teacher's logits are kept, so that it runs once a sample; ``None`` for none.
        start_epoch: Before it, the loss is the task's alone.
        end_epoch: From here on, the loss is the task's alone again; ``None``: never.
        outputs: Names of the outputs that are compared, such as ``start_logits``; empty for all logits.
    """

    algorithm: ClassVar[str] = "distillation"

    teacher: str | None = None
    loss: str = "kl"
    weight: float = 0.5
    temperature: float = 2.0
    scale: float = 1.0
    hidden_weight: float = 0.0
    teacher_dtype: str = "float32"
    cache: str | None = None
    start_epoch: float = field(default=0.0, metadata=RECIPE_ONLY)
    end_epoch: float | None = field(default=None, metadata=RECIPE_ONLY)
    outputs: tuple[str, ...] = field(default=(), metadata=RECIPE_ONLY)


@dataclass(frozen=True)
class SparsityConfig(AlgorithmConfig):
    """What all methods that put masks on weights have in common: which linear layers they mean.

    Attributes:
        target_scopes: If not empty, only these layers.
        ignored_scopes: Layers that stay dense.
        legacy_scopes: Whether scopes are written in the names of NNCF 1 and 2.
        parameters: Weights by name, as a recipe gives them (see :mod:`nncf_transformers.config.parameters`). If not
            empty, exactly these, and scopes are not used.
    """

    target_scopes: tuple[str, ...] = ()
    ignored_scopes: tuple[str, ...] = ()
    legacy_scopes: bool = False
    parameters: tuple[str, ...] = field(default=(), metadata=RECIPE_ONLY)


@dataclass(frozen=True)
class SparseStructure:
    """What one score of movement sparsity stands for, in some layers.

    Attributes:
        mode: ``fine``: one weight; ``block``: a block of weights; ``per_dim``: a whole row or column.
        block: Rows and columns of a block, for ``block``.
        axis: 0: one score a row (output); 1: one score a column (input), for ``per_dim``.
        target_scopes: The layers.
        place: File and key path, for messages.
    """

    mode: str
    target_scopes: tuple[str, ...]
    block: tuple[int, int] = (1, 1)
    axis: int = 0
    place: str = ""


@dataclass(frozen=True)
class MovementSparsityConfig(SparsityConfig):
    """Movement sparsity: trainable scores decide which weights stay. Inventory 2.1.

    Attributes:
        warmup_start_epoch: Where the threshold begins to rise; a fraction is allowed.
        warmup_end_epoch: Where it has risen; from here on the masks are fixed.
        importance_regularization_factor: Final factor of the penalty on the scores: the more, the sparser.
        enable_structured_masking: Whether whole heads and channels are removed at the end of the warm-up.
        init_importance_threshold: Threshold at the start; ``None`` finds the one that masks a thousandth of the scores.
        final_importance_threshold: Threshold at the end.
        power: Exponent of the schedule, 3 for cubic.
        steps_per_epoch: Optimizer steps in an epoch; ``None`` counts them.
        sparse_structure_by_scopes: Structure of some layers; the others are ``fine``.
        score_lr_multiplier: Learning rate of the scores, as a multiple of the model's.
    """

    algorithm: ClassVar[str] = "movement_sparsity"

    warmup_start_epoch: float = 1.0
    warmup_end_epoch: float = 2.0
    importance_regularization_factor: float = 0.0
    enable_structured_masking: bool = True
    init_importance_threshold: float | None = None
    final_importance_threshold: float = 0.0
    power: float = 3.0
    steps_per_epoch: int | None = None
    sparse_structure_by_scopes: tuple[SparseStructure, ...] = ()
    score_lr_multiplier: float = 1.0


@dataclass(frozen=True)
class MagnitudeSparsityConfig(SparsityConfig):
    """Magnitude pruning: the smallest weights are masked, more and more of them. Inventory 2.4 and 5.5.

    Attributes:
        schedule: One of :data:`SCHEDULES`.
        initial_sparsity: Fraction of weights masked at ``start_epoch``; ``None``: the zeros that each tensor has then.
        final_sparsity: Fraction of weights masked at ``end_epoch`` and after.
        start_epoch: Where pruning starts; fractions are allowed.
        end_epoch: Where the final sparsity is reached.
        freeze_epoch: Where the masks become final; ``None``: at ``end_epoch``.
        power: Exponent of ``polynomial``.
        concave: Form of ``polynomial``: fast first (True) or slow first.
        multistep_epochs: For ``multistep``: the epochs at which the sparsity changes.
        multistep_sparsities: For ``multistep``: the sparsities, one more than there are epochs.
        update_frequency: Epochs between two updates of the masks; ``None``: every optimizer step.
        steps_per_epoch: Optimizer steps in an epoch; ``None`` counts them.
        importance: ``abs``: |w|; ``normed_abs``: |w| / ||w||, the norm being the layer's; ``movement``: the sum of
            -gradient * w over all steps of the training so far (SparseML's MovementPruningModifier).
        ranking: ``local``: the same sparsity in every layer; ``global``: one ranking of all weights.
        structure: ``unstructured``, ``head`` or ``channel`` (of the feed-forward layers), ``RxC`` for blocks of R rows
            and C columns (importance: the mean), or ``N:M``: of every M weights along the input, N stay.
        regrow: Whether a masked weight may come back. False: what is masked once stays masked, as in SparseML.
        leave_enabled: Whether the masks stay after ``end_epoch``. False: there the masked weights are set to zero, and
            from there on they are trained like all others.
    """

    algorithm: ClassVar[str] = "magnitude_sparsity"

    schedule: str = "cubic"
    initial_sparsity: float | None = 0.0
    final_sparsity: float = 0.5
    start_epoch: float = 0.0
    end_epoch: float = 1.0
    freeze_epoch: float | None = None
    power: float = 3.0
    concave: bool = True
    multistep_epochs: tuple[float, ...] = ()
    multistep_sparsities: tuple[float, ...] = ()
    update_frequency: float | None = None
    steps_per_epoch: int | None = None
    importance: str = "abs"
    ranking: str = "local"
    structure: str = "unstructured"
    regrow: bool = field(default=True, metadata=RECIPE_ONLY)
    leave_enabled: bool = field(default=True, metadata=RECIPE_ONLY)


@dataclass(frozen=True)
class ConstantSparsityConfig(SparsityConfig):
    """Keep the zeros that a sparse model has, while it is trained on.

    Attributes:
        start_epoch: Where the zeros are looked at, and kept from then on.
        end_epoch: From here on they are trained like all other weights; ``None``: never.
        inherited: Whether it only keeps what the model came with: weights with another mask are left out, and a model
            without zeros is no error.
    """

    algorithm: ClassVar[str] = "constant_sparsity"

    start_epoch: float = field(default=0.0, metadata=RECIPE_ONLY)
    end_epoch: float | None = field(default=None, metadata=RECIPE_ONLY)
    inherited: bool = field(default=False, metadata=RECIPE_ONLY)


@dataclass(frozen=True)
class RatePiece:
    """The learning rate over some part of the training.

    Attributes:
        start_epoch: Where it begins; the piece holds until the next one begins.
        end_epoch: Where ``final_lr`` is reached and kept; ``None`` where a form has no end.
        form: ``constant``, ``linear``, ``cosine`` or ``cyclic_linear``; or ``step``, ``multistep``, ``exponential`` or
            ``cosine_restarts``, which are torch's StepLR, MultiStepLR, ExponentialLR and CosineAnnealingWarmRestarts,
            with the epoch as their unit.
        init_lr: Learning rate at the start.
        final_lr: At the end, for ``linear``, ``cosine`` and ``cyclic_linear``.
        cycle_epochs: Length of a cycle, for ``cyclic_linear``.
        settings: Arguments of torch's schedulers: ``gamma``, ``step_size``, ``milestones`` (epochs of the training),
            ``T_0``, ``T_mult``, ``eta_min``.
    """

    start_epoch: float
    end_epoch: float | None
    form: str
    init_lr: float
    final_lr: float | None = None
    cycle_epochs: float = 1.0
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LearningRateConfig(AlgorithmConfig):
    """The learning rate of the whole training, instead of the optimizer's own schedule.

    Attributes:
        pieces: In any order. Where two overlap, the one that begins later holds.
    """

    algorithm: ClassVar[str] = "learning_rate"
    compresses: ClassVar[bool] = False

    pieces: tuple[RatePiece, ...] = ()


@dataclass(frozen=True)
class WeightDecayConfig(AlgorithmConfig):
    """Another weight decay for the model's parameters.

    Attributes:
        value: The weight decay.
        start_epoch: From where on.
    """

    algorithm: ClassVar[str] = "weight_decay"
    compresses: ClassVar[bool] = False

    value: float = 0.0
    start_epoch: float = 0.0


@dataclass(frozen=True)
class TrainableConfig(AlgorithmConfig):
    """Freeze parameters, or train what is frozen, for some part of the training.

    Attributes:
        parameters: Names, see :mod:`nncf_transformers.config.parameters`.
        trainable: Whether they are trained.
        strict: Whether it is an error that one of ``parameters`` matches nothing.
        start_epoch: From where on.
        end_epoch: From here on they are again as they were before; ``None``: never.
    """

    algorithm: ClassVar[str] = "trainable"
    compresses: ClassVar[bool] = False

    parameters: tuple[str, ...] = ()
    trainable: bool = True
    strict: bool = True
    start_epoch: float = 0.0
    end_epoch: float | None = None


@dataclass(frozen=True)
class SetParameterConfig(AlgorithmConfig):
    """Fill parameters with a value that may change during the training.

    Attributes:
        parameters: Names, see :mod:`nncf_transformers.config.parameters`.
        init_value: Value at ``start_epoch``.
        final_value: Value at ``end_epoch``.
        start_epoch: Where it begins.
        end_epoch: Where it ends; from here on the parameters are trained as usual. ``None``: they are filled once, at
            ``start_epoch``.
        form: ``linear``, ``cubic`` or ``inverse_cubic``.
        strict: Whether it is an error that one of ``parameters`` matches nothing.
        update_frequency: Epochs after which the value changes; it holds between, and changes at ``end_epoch``, too.
            ``None``: it changes before every step.
    """

    algorithm: ClassVar[str] = "set_parameter"

    parameters: tuple[str, ...] = ()
    init_value: float = 0.0
    final_value: float = 0.0
    start_epoch: float = 0.0
    end_epoch: float | None = None
    form: str = "linear"
    strict: bool = True
    update_frequency: float | None = None


@dataclass(frozen=True)
class LayerDroppingConfig(AlgorithmConfig):
    """Do without whole encoder layers.

    Attributes:
        layers: Names such as ``bert.encoder.layer.1``, or ``re:`` and a regular expression.
        start_epoch: From where on they are left out. At 0 or before, without an end, they are removed at once.
        end_epoch: From here on they take part again; ``None``: never.
    """

    algorithm: ClassVar[str] = "layer_dropping"

    layers: tuple[str, ...] = ()
    start_epoch: float = 0.0
    end_epoch: float | None = None


@dataclass(frozen=True)
class InputInfo:
    """One model input of a legacy ``input_info``; kept for reference, nothing is traced from it."""

    sample_size: tuple[int, ...] = ()
    type: str = "float"
    filler: str = "ones"
    keyword: str | None = None


# Under these ``raw`` has a recipe, and the one that the model came with.
RECIPE_KEYS = frozenset(("recipe", "previous_recipe"))
# Beside them, and in a recipe that is saved: which modifiers of the original were left out.
LEFT_OUT = "left_out"


@dataclass(frozen=True)
class CompressionConfig:
    """A whole configuration file, or a recipe.

    Attributes:
        algorithms: What to do to the model: sparsity first, then quantization, then distillation, in whatever order the
            file has them.
        source: Name of the file.
        warnings: One line each for whatever is approximated or has no effect. The caller logs them.
        raw: The file's content, before any interpretation; what optimum-intel took is under "compression".
        input_info: The model inputs that a legacy file describes.
        flags: What flags have changed in the settings of the distillation.
        epochs: How long the training is to be; None: as the script is told.
    """

    algorithms: tuple[AlgorithmConfig, ...]
    source: str
    warnings: tuple[str, ...] = ()
    raw: dict[str, Any] = field(default_factory=dict)
    input_info: tuple[InputInfo, ...] = ()
    flags: dict[str, Any] = field(default_factory=dict)
    epochs: float | None = None

    def with_flags(self, flags: Mapping[str, Any]) -> "CompressionConfig":
        """Let flags overrule the settings of the distillation, or add one to what is no recipe.

        Args:
            flags: values by name of a field of :class:`DistillationConfig`; a ``teacher`` of ``disable`` takes the
                distillation away.
        """
        if not flags:
            return self
        if flags.get("teacher") == "disable":
            others = tuple(item for item in self.algorithms if not isinstance(item, DistillationConfig))
            return replace(self, algorithms=others, flags=dict(flags))
        algorithms = self.algorithms
        if self.distillation is None and not self.from_recipe:
            algorithms = (*algorithms, DistillationConfig())
        changed = tuple(replace(item, **flags) if isinstance(item, DistillationConfig) else item for item in algorithms)
        return replace(self, algorithms=changed, flags=dict(flags))

    @property
    def from_recipe(self) -> bool:
        """Whether the settings come from a recipe, which says itself when what acts."""
        return bool(RECIPE_KEYS & set(self.raw))

    @property
    def distillation(self) -> DistillationConfig | None:
        """The distillation settings, if there are any; of a recipe with several, the first."""
        return next((item for item in self.algorithms if isinstance(item, DistillationConfig)), None)

    @property
    def quantization(self) -> QuantizationConfig | None:
        """The quantization settings, if the file has any."""
        return next((item for item in self.algorithms if isinstance(item, QuantizationConfig)), None)
