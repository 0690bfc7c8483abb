"""Quantization-aware training, in the two forms that SparseML had (inventory 5.7)."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from nncf_transformers.config.errors import ConfigError, nearest
from nncf_transformers.recipe.modifiers.base import Modifier
from nncf_transformers.recipe.modifiers.fields import (
    End,
    Flag,
    Kwargs,
    OptionalEpoch,
    OptionalTexts,
    Start,
    boolean,
    choice,
    mapping,
    optional,
    text,
    whole,
)

SCHEMES = ("default", "deepsparse", "tensorrt")
_SCHEME_KEYS = ("input_activations", "weights", "output_activations")
_bits = Annotated[int, whole(1)]


def _arguments(value: Any, place: str) -> dict[str, Any]:
    readers = {"num_bits": whole(1), "symmetric": boolean, "kwargs": mapping}
    found: dict[str, Any] = {}
    for name, item in mapping(value, place).items():
        if name not in readers:
            raise ConfigError(
                f'{place}: unknown key "{name}"{nearest(name, readers) or "; known: num_bits, symmetric"}'
            )
        found[name] = readers[name](item, f"{place}.{name}")
    return found


def _scheme(value: Any, place: str) -> Any:
    """A name, or for inputs, weights and outputs: null, or {num_bits, symmetric}."""
    if not isinstance(value, Mapping):
        return choice(*SCHEMES)(value, place)
    found: dict[str, Any] = {}
    for name, item in mapping(value, place).items():
        if name == "target_hardware":
            # SparseML wrote it into files, as a note of which name the scheme came from.
            continue
        if name not in _SCHEME_KEYS:
            raise ConfigError(f'{place}: unknown key "{name}"{nearest(name, _SCHEME_KEYS) or _known_keys()}')
        found[name] = optional(_arguments)(item, f"{place}.{name}")
    return found


def _known_keys() -> str:
    return f"; known: {', '.join(_SCHEME_KEYS)}"


def _overrides(value: Any, place: str) -> dict[str, Any]:
    return {name: optional(_scheme)(item, f"{place}.{name}") for name, item in mapping(value, place).items()}


@dataclass(frozen=True, kw_only=True)
class QuantizationModifier(Modifier):
    """Quantizers in the whole model, or in parts of it, from ``start_epoch`` on; they never go.

    The first block of fields is for both forms, the second for the new one (SparseML 1.4), the third for the old one.
    """

    start_epoch: Start = -1.0
    end_epoch: End = -1.0
    disable_quantization_observer_epoch: OptionalEpoch = None
    freeze_bn_stats_epoch: OptionalEpoch = None
    model_fuse_fn_name: Annotated[str | None, optional(text)] = None
    model_fuse_fn_kwargs: Kwargs = None
    num_calibration_steps: Annotated[int | None, optional(whole(1))] = None

    scheme: Annotated[str | Mapping[str, Any] | None, optional(_scheme)] = None
    scheme_overrides: Annotated[Mapping[str, Any] | None, optional(_overrides)] = None
    ignore: OptionalTexts = None
    strict: Flag = True

    submodules: OptionalTexts = None
    quantize_embeddings: Flag = True
    reduce_range: Flag = False
    quantize_linear_activations: Flag = True
    quantize_conv_activations: Flag = True
    quantize_embedding_activations: Flag = True
    activation_bits: _bits = 8
    weight_bits: _bits = 8
    exclude_batchnorm: Flag = True
    exclude_module_types: OptionalTexts = None
    custom_quantizable_module_types: OptionalTexts = None
    activation_qconfig_kwargs: Kwargs = None
    weight_qconfig_kwargs: Kwargs = None
    tensorrt: Flag = False

    new_fields: ClassVar[tuple[str, ...]] = ("scheme", "scheme_overrides", "ignore", "strict")
    both_fields: ClassVar[tuple[str, ...]] = (
        "start_epoch",
        "end_epoch",
        "disable_quantization_observer_epoch",
        "freeze_bn_stats_epoch",
        "model_fuse_fn_name",
        "model_fuse_fn_kwargs",
        "num_calibration_steps",
    )
    epoch_fields: ClassVar[tuple[str, ...]] = ("disable_quantization_observer_epoch", "freeze_bn_stats_epoch")

    @classmethod
    def legacy_fields(cls) -> tuple[str, ...]:
        """The fields that only the old form has."""
        return tuple(name for name in cls.names() if name not in (*cls.both_fields, *cls.new_fields))

    @property
    def is_new_form(self) -> bool:
        """Whether it says nothing that only the old form can say. The defaults of both mean the same."""
        defaults = {item.name: item.default for item in dataclasses.fields(self)}
        return all(getattr(self, name) == defaults[name] for name in self.legacy_fields())

    def check(self, given: Mapping[str, Any]) -> None:
        """No end, no mixture of the forms, and nothing is frozen before it starts."""
        if self.end_epoch != -1:
            raise self.wrong("end_epoch", "-1: quantization does not end")
        new = [name for name in given if name in self.new_fields]
        old = [name for name in given if name in self.legacy_fields()]
        if new and old:
            raise ConfigError(
                f"{self.place}: {new[0]} belongs to the new form of QuantizationModifier, {old[0]} to the old one; "
                "keep to one of the two"
            )
        for name in self.epoch_fields:
            epoch = getattr(self, name)
            if epoch is not None and 0 <= epoch < self.interval[0]:
                raise self.wrong(name, f"at least start_epoch ({self.interval[0]:g})")
