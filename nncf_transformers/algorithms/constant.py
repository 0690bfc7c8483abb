"""Constant sparsity: the zeros that a sparse model came with stay zero while it is trained on another task."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from nncf_transformers.algorithms.base import Algorithm, Batch
from nncf_transformers.algorithms.masks import add_mask, masked_fraction, refuse_masked, target_layers
from nncf_transformers.config import ConstantSparsityConfig
from nncf_transformers.errors import UsageError


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
        with torch.no_grad():
            kept = {name: model.get_parameter(name) != 0 for name in weights}
        # A layer without zeros has nothing to keep, and a mask would cost time in every step.
        kept = {name: mask for name, mask in kept.items() if not bool(mask.all())}
        if not kept:
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

    def statistics(self, model: nn.Module) -> dict[str, float]:
        """The masked part of the weights that have masks."""
        sparsity = masked_fraction(model, self._masked)
        return {} if sparsity is None else {"constant_sparsity": sparsity}

    def state(self) -> dict[str, Any]:
        return {"masked": list(self._masked)}

    def load_state(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        self._masked = tuple(state["masked"])
