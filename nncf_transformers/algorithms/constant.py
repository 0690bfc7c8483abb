"""Constant sparsity: the zeros that a sparse model came with stay zero while it is trained on another task."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from nncf_transformers.algorithms.base import Algorithm, Batch, Clock
from nncf_transformers.algorithms.masks import (
    Mask,
    add_mask,
    lift,
    masked_fraction,
    masks,
    refuse_masked,
    settled_masks,
    target_layers,
)
from nncf_transformers.config import ConstantSparsityConfig
from nncf_transformers.errors import UsageError

logger = logging.getLogger(__name__)


class ConstantSparsity(Algorithm):
    """Mask the weights that are zero, for good (``ConstantPruningModifier`` of inventory 5.4)."""

    def __init__(self, config: ConstantSparsityConfig) -> None:
        self.config = config
        self._masked: tuple[str, ...] = ()

    @property
    def samples(self) -> int:
        return 1

    def attach(self, model: nn.Module, batches: Sequence[Batch]) -> None:
        weights = [f"{layer}.weight" for layer in target_layers(self.config, model, batches[0])]
        if self.config.inherited:
            present = {name for name, _ in masks(model)}
        else:
            # What a pruning has masked by then stays masked.
            present = set(settled_masks(model, self.config.start_epoch))
        if present.issuperset(weights):
            return
        weights = [name for name in weights if name not in present]
        if self.config.start_epoch > 0:
            refuse_masked(self.config, model, weights)
            for name in weights:
                add_mask(model, name, model.get_parameter(name).shape)
            self._masked = tuple(weights)
            return
        with torch.no_grad():
            kept = {name: model.get_parameter(name) != 0 for name in weights}
        # A layer without zeros has nothing to keep, and a mask would cost time in every step.
        kept = {name: mask for name, mask in kept.items() if not bool(mask.all())}
        if not kept and not self.config.inherited:
            raise UsageError(
                f"{self.config.place or self.config.algorithm}: the model is dense: none of the {len(weights)} linear "
                "layers that the scopes mean has a zero; start from a sparse model, or take magnitude_sparsity"
            )
        refuse_masked(self.config, model, kept)
        for name, mask in kept.items():
            added = add_mask(model, name, mask.shape)
            added.mask = mask
            added.freeze()
        self._masked = tuple(kept)

    def begin(self, model: nn.Module, clock: Clock) -> None:
        self.on_step(model, clock)

    def on_step(self, model: nn.Module, clock: Clock) -> None:
        """Look for the zeros at the start; at the end, mask nothing any more."""
        config, end = self.config, None if self.config.end_epoch is None else clock.step_of(self.config.end_epoch)
        if clock.within(config.start_epoch, config.end_epoch):
            waiting = {name: mask for name, mask in self._own_masks(model).items() if not mask.frozen}
            for name, mask in waiting.items():
                mask.mask = model.get_parameter(name) != 0
                mask.freeze()
            if waiting and all(bool(mask.mask.all()) for mask in waiting.values()):
                logger.warning("%s: nothing is masked: the model has no zeros at the start", config.place)
        elif self._masked and end is not None and clock.step >= end:
            for name, mask in self._own_masks(model).items():
                lift(model, name, mask)
            self._masked = ()

    def _own_masks(self, model: nn.Module) -> dict[str, Mask]:
        return {name: mask for name, mask in masks(model) if name in self._masked}

    def statistics(self, model: nn.Module) -> dict[str, float]:
        """The masked part of the weights that have masks."""
        sparsity = masked_fraction(model, self._masked)
        return {} if sparsity is None else {"constant_sparsity": sparsity}

    def state(self) -> dict[str, Any]:
        return {"masked": list(self._masked)}

    def load_state(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        self._masked = tuple(state["masked"])
