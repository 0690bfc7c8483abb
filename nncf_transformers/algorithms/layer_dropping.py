"""Do without whole layers of an encoder (``LayerPruningModifier``, inventory 5.4).

A layer that is left out hands its input on. Once that is for good, the layer leaves the model, which then is as
any model with fewer layers: ``config.json`` says how many, and which ones they were.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from nncf_transformers.algorithms.base import Algorithm, Batch, Clock
from nncf_transformers.config.errors import ConfigError, nearest
from nncf_transformers.config.model import LayerDroppingConfig
from nncf_transformers.config.parameters import KEPT_LAYERS, former_name, match_name
from nncf_transformers.errors import UsageError
from nncf_transformers.families import family_of
from nncf_transformers.inputs import call_model
from nncf_transformers.structure import CONFIG_KEY, PACK_KEY

logger = logging.getLogger(__name__)

# Where families keep their layers, below the base model, and what their configuration calls the number of them.
_STACKS = {
    "bert": ("encoder.layer", "num_hidden_layers"),
    "roberta": ("encoder.layer", "num_hidden_layers"),
    "xlm-roberta": ("encoder.layer", "num_hidden_layers"),
    "electra": ("encoder.layer", "num_hidden_layers"),
    "deberta-v2": ("encoder.layer", "num_hidden_layers"),
    "distilbert": ("transformer.layer", "n_layers"),
}


class LayerDropping(Algorithm):
    """Leaves layers out; those that never come back are removed.

    Attributes:
        names: present names of the layers, empty once they are removed.
    """

    def __init__(self, config: LayerDroppingConfig) -> None:
        self.config = config
        self.names: tuple[str, ...] = ()
        self._returns_tuple: dict[str, bool] = {}
        self._left_out = False

    @property
    def late(self) -> bool:
        """Whether the layers are in the model at first."""
        return self.config.start_epoch > 0 or self.config.end_epoch is not None

    @property
    def samples(self) -> int:
        return 1

    def attach(self, model: nn.Module, batches: Sequence[Batch]) -> None:
        if not self.late:
            drop_layers(model, self.config)
            return
        self.names = _find(model, self.config)
        self._returns_tuple = _outputs(model, self.names, batches[0])

    def begin(self, model: nn.Module, clock: Clock) -> None:
        self.on_step(model, clock)

    def on_step(self, model: nn.Module, clock: Clock) -> None:
        self._switch(model, clock.within(self.config.start_epoch, self.config.end_epoch))

    def _switch(self, model: nn.Module, left_out: bool) -> None:
        """Let the layers hand their input on, or take part."""
        for name in self.names:
            layer = model.get_submodule(name)
            # Perhaps by the compression of an earlier checkpoint.
            hands_on = layer.__dict__.get("forward") in (_hand_on, _hand_on_tuple)
            if left_out and not hands_on:
                layer.forward = _hand_on_tuple if self._returns_tuple[name] else _hand_on
            elif hands_on and not left_out:
                del layer.forward
        self._left_out = left_out

    def state(self) -> dict[str, Any]:
        return {"names": list(self.names), "returns_tuple": self._returns_tuple, "left_out": self._left_out}

    def load_state(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        self.names, self._returns_tuple = tuple(state["names"]), dict(state["returns_tuple"])
        # At once: the model may only be evaluated.
        self._switch(model, state["left_out"])

    def finalize(self, model: nn.Module) -> None:
        """Remove what is left out for good; what was to come back comes back, as in SparseML."""
        dropped = self.names if self._left_out else ()
        self._switch(model, False)
        if dropped and self.config.end_epoch is None:
            from nncf_transformers.algorithms.masks import bake

            # Masks are found by the names of their weights, which are about to change.
            bake(model)
            _remove(model, dropped)
        self.names = ()


def drop_layers(model: nn.Module, config: LayerDroppingConfig) -> None:
    """Remove layers from a model for good.

    Raises:
        ConfigError: a name matches nothing, or nothing would be left.
        UsageError: a family whose layers are not known.
    """
    _remove(model, _find(model, config))


def keep_layers(model: Any, kept: Mapping[str, Sequence[int]] | None) -> None:
    """Make a model as small as a checkpoint of it that has lost layers already.

    Args:
        model: with all its layers, or as small as that already.
        kept: what the checkpoint's configuration says under :data:`KEPT_LAYERS`.
    """
    now = getattr(model.config, KEPT_LAYERS, None) or {}
    for stack, numbers in (kept or {}).items():
        present = now.get(stack, list(range(len(model.get_submodule(stack)))))
        if present != list(numbers):
            _remove(model, [f"{stack}.{i}" for i, number in enumerate(present) if number not in numbers])


def _stack(model: Any, place: str) -> tuple[str, str]:
    """Dotted name of the list of layers, and the configuration's name for their number."""
    family = family_of(model)
    if family not in _STACKS:
        raise UsageError(f"{place}: layers of the family {family!r} cannot be removed; known: {', '.join(_STACKS)}")
    path, key = _STACKS[family]
    prefix = model.base_model_prefix
    return (f"{prefix}.{path}" if hasattr(model, prefix) else path), key


def _find(model: Any, config: LayerDroppingConfig) -> tuple[str, ...]:
    """The present names of the layers that a recipe means."""
    place = f"{config.place}.layers" if config.place else "layers"
    stack, _ = _stack(model, place)
    if getattr(model.config, PACK_KEY, None):
        raise UsageError(f"{place}: layers of a packed model cannot be removed; remove them before it is packed")
    present = [f"{stack}.{index}" for index in range(len(model.get_submodule(stack)))]
    kept = getattr(model.config, KEPT_LAYERS, None) or {}
    originals = {name: former_name(name, kept) for name in present}
    found: set[str] = set()
    for pattern in config.layers:
        matched = {name for name, old in originals.items() if match_name(pattern, old, place)}
        if not matched:
            raise ConfigError(
                f'{place}: "{pattern}" matches nothing{nearest(pattern, originals.values())}; the layers are '
                f"{originals[present[0]]} to {originals[present[-1]]}"
            )
        found |= matched
    if len(found) == len(present):
        raise ConfigError(f"{place}: names all {len(present)} layers; leave at least one")
    return tuple(name for name in present if name in found)


def _remove(model: Any, names: Sequence[str]) -> None:
    stack, key = _stack(model, "layers")
    layers = model.get_submodule(stack)
    gone = {int(name.rpartition(".")[2]) for name in names}
    kept = [index for index in range(len(layers)) if index not in gone]
    before = getattr(model.config, KEPT_LAYERS, None) or {}
    originals = before.get(stack, list(range(len(layers))))
    for index in sorted(gone, reverse=True):
        del layers[index]
    setattr(model.config, key, len(kept))
    # What heads and channels are left is counted by layer, too, below the base model.
    below, sizes = stack.removeprefix(f"{model.base_model_prefix}."), getattr(model.config, CONFIG_KEY, None) or {}
    numbers = {str(index): str(number) for number, index in enumerate(kept)}
    moved = {}
    for name, count in sizes.items():
        match = re.fullmatch(rf"{re.escape(below)}\.(\d+)(\..*)", name)
        if match is None or match[1] in numbers:
            moved[name if match is None else f"{below}.{numbers[match[1]]}{match[2]}"] = count
    if sizes:
        setattr(model.config, CONFIG_KEY, moved)
    setattr(model.config, KEPT_LAYERS, {**before, stack: [originals[index] for index in kept]})
    logger.info("removed %d of %d layers; %s are left", len(gone), len(gone) + len(kept), [originals[i] for i in kept])


def _outputs(model: nn.Module, names: Sequence[str], sample: Batch) -> dict[str, bool]:
    """Whether each layer returns a tuple: that differs between versions of the library."""
    found: dict[str, bool] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: found.__setitem__(name, isinstance(output, tuple))
        )
        for name in names
    ]
    with torch.no_grad():
        call_model(model, sample)
    for handle in handles:
        handle.remove()
    return found


def _hand_on(hidden_states: Any = None, *args: Any, **kwargs: Any) -> Any:
    return kwargs["x"] if hidden_states is None else hidden_states


def _hand_on_tuple(hidden_states: Any = None, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    return (_hand_on(hidden_states, *args, **kwargs),)
