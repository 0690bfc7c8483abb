"""The top level of the schema of NNCF 1 and 2, and of the ``openvino_config.json`` built on it."""

from collections.abc import Sequence
from typing import Any

from nncf_transformers.config.model import AlgorithmConfig, InputInfo
from nncf_transformers.config.section import Section, take_scopes

TOP_LEVEL_KEYS = (
    "compression",
    "input_info",
    "target_device",
    "hw_config_type",
    "log_dir",
    "compression_lr_multiplier",
    "disable_shape_matching",
    "accuracy_aware_training",
    "save_onnx_model",
    "optimum_version",
)

INPUT_TYPES = ("float", "long")
INPUT_FILLERS = ("ones", "zeros", "random")

# Legacy target device → today's, and what the translation changes.
TARGET_DEVICES: dict[str, tuple[str, str | None]] = {
    "ANY": ("ANY", None),
    "CPU": ("CPU", None),
    "GPU": ("GPU", None),
    "NPU": ("NPU", None),
    "VPU": ("NPU", "VPU is called NPU today"),
    "TRIAL": (
        "ANY",
        "TRIAL lifted the hardware's restrictions on quantizers, ANY keeps to those of all devices",
    ),
    "NONE": (
        "ANY",
        "NONE lifted the hardware's restrictions on quantizers, ANY keeps to those of all devices",
    ),
    "CPU_SPR": ("CPU", "NNCF 3 has no CPU_SPR for torch; multiplications stay in floating point"),
}


class LegacyFile:
    """The top-level settings of a legacy file, which its algorithms share.

    Attributes:
        input_info: Validated, otherwise unused: NNCF 3 traces the model with real data.
        target_device: In today's spelling.
        lr_multiplier: ``compression_lr_multiplier`` of the top level.
    """

    def __init__(self, top: Section) -> None:
        self._top = top
        self.input_info: tuple[InputInfo, ...] = ()
        self.target_device = "ANY"
        self.lr_multiplier: float | None = None

    def read_top_level(self) -> None:
        """Read every top-level key except ``compression``.

        Raises:
            ConfigError: a wrong type or a bad value.
        """
        top = self._top
        self.input_info = tuple(_read_input(section) for section in top.take_sections("input_info"))
        self.target_device = self._read_target_device()
        self.lr_multiplier = top.take_number("compression_lr_multiplier", low=0)
        if top.take_string("log_dir") is not None:
            top.warn("log_dir", "has no effect; logs go to the script's output and logging folders")
        if top.take_bool("disable_shape_matching") is not None:
            top.warn("disable_shape_matching", "has no effect; NNCF 3 does not match tensor shapes")
        if top.take("accuracy_aware_training") is not None:
            raise top.error(
                "accuracy_aware_training",
                "not supported by this version; remove it and train with the script",
            )
        if top.take_bool("save_onnx_model"):
            top.warn("save_onnx_model", "has no effect; give --to-onnx PATH to the script")
        if top.take_string("optimum_version") is not None:
            top.warn("optimum_version", "has no effect; it only records what wrote the file")

    def warn_unused(self, algorithms: Sequence[AlgorithmConfig]) -> None:
        """Note the top-level settings that none of the file's algorithms uses."""
        names = {config.algorithm for config in algorithms}
        if "quantization" not in names:
            self._top.warn_idle(("target_device", "hw_config_type"), "without quantization")
        if not names & {"quantization", "movement_sparsity"}:
            self._top.warn_idle(
                ("compression_lr_multiplier",), "without quantization or movement sparsity: nothing else is trained"
            )

    def _read_target_device(self) -> str:
        top = self._top
        keys = [key for key in ("target_device", "hw_config_type") if top.take(key) is not None]
        if len(keys) == 2:
            raise top.error("hw_config_type", 'is the older spelling of "target_device"; keep one of the two')
        if not keys:
            return "ANY"
        name = (top.take_string(keys[0]) or "").upper()
        if name not in TARGET_DEVICES:
            raise top.error(keys[0], f'is "{name}", must be one of {", ".join(TARGET_DEVICES)}')
        device, change = TARGET_DEVICES[name]
        if change:
            top.warn(keys[0], f"read as {device}: {change}")
        return device


def _read_input(section: Section) -> InputInfo:
    with section:
        return InputInfo(
            sample_size=_read_shape(section),
            type=section.take_choice("type", INPUT_TYPES) or "float",
            filler=section.take_choice("filler", INPUT_FILLERS) or "ones",
            keyword=section.take_string("keyword"),
        )


def _read_shape(section: Section) -> tuple[int, ...]:
    value: Any = section.take("sample_size")
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(size, int) and size > 0 for size in value):
        raise section.error("sample_size", f"is {value!r}, must be a list of positive whole numbers")
    return tuple(value)


def read_batchnorm_adaptation(initializer: Section) -> None:
    """Read ``batchnorm_adaptation``, which any algorithm's ``initializer`` could hold."""
    adaptation = initializer.take_section("batchnorm_adaptation")
    if adaptation is None:
        return
    with adaptation:
        for key in ("num_bn_adaptation_samples", "num_bn_forget_samples", "num_bn_adaptation_steps"):
            if adaptation.take_int(key, low=0):
                adaptation.warn(key, "has no effect; these models have no batch normalization")


def take_legacy_scopes(section: Section) -> dict[str, Any]:
    """Read the scopes of an algorithm."""
    if section.take_bool("validate_scopes") is False:
        section.warn("validate_scopes", "has no effect; a scope that matches nothing is always an error")
    return take_scopes(section)
