"""Movement sparsity: weights stay if training moves them away from zero (Lagunas et al., 2021, arXiv 2109.04838).

Every weight, block, row or column has a trainable score; what scores below a rising threshold is masked. At the end of
the warm-up whole heads and channels are kept or dropped: the mask of a head that stays is lifted, so that it is whole.
Formulas: inventory 2.1.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from nncf_transformers.algorithms.base import Algorithm, Batch, Clock
from nncf_transformers.algorithms.masks import Mask, add_mask, expand, masks, refuse_masked, target_layers
from nncf_transformers.algorithms.removal import remove_masked_units
from nncf_transformers.algorithms.schedules import polynomial_progress
from nncf_transformers.checkpoint import HOOK_PREFIX
from nncf_transformers.config import MovementSparsityConfig
from nncf_transformers.config.model import SparseStructure
from nncf_transformers.config.scopes import resolve_structures
from nncf_transformers.config.trace import trace_operations
from nncf_transformers.errors import UsageError
from nncf_transformers.inputs import synthetic_inputs
from nncf_transformers.structure import Group, find_groups, unit_masks

logger = logging.getLogger(__name__)

# At most this share of a tensor's weights is masked before heads and channels are decided on.
_QUANTILE = 0.98
# Where no first threshold is given, the warm-up starts with this share of all weights masked.
_FIRST_SHARE = 0.001


class MovementSparsity(Algorithm):
    """Movement sparsity of linear layers.

    Attributes:
        threshold: scores up to it are masked; minus infinity before the warm-up.
        factor: of the penalty on the scores.
        resolved: whether the warm-up is over and the masks are final.
        table: one row a layer that has lost heads or channels, for ``structured_sparsity.csv``.
    """

    def __init__(self, config: MovementSparsityConfig) -> None:
        self.config = config
        self.threshold = -math.inf
        self.factor = 0.0
        self.initial = config.init_importance_threshold
        self.resolved = False
        self.table: list[dict[str, Any]] = []
        self._shapes: dict[str, tuple[int, int]] = {}

    def prepare(self, model: nn.Module, sample: Batch, name: str) -> None:
        layers = target_layers(self.config, model, sample)
        structures = resolve_structures(self.config, model, sample)
        if self.config.enable_structured_masking:
            find_groups(model)  # refuses a family without known groups
        for layer in layers:
            self._shapes[layer] = _score_shape(layer, model.get_submodule(layer), structures.get(layer))

    def attach(self, model: nn.Module, batches: Sequence[Batch]) -> None:
        refuse_masked(self.config, model, [f"{layer}.weight" for layer in self._shapes])
        for layer, shape in self._shapes.items():
            add_mask(model, f"{layer}.weight", shape, scored=True)
            if model.get_submodule(layer).bias is not None:
                add_mask(model, f"{layer}.bias", shape[:1], scored=True)

    def parameters(self, model: nn.Module) -> list[nn.Parameter]:
        return [mask.importance for _, mask in _scored(model) if mask.importance is not None]

    def learning_rate(self, model_rate: float) -> float:
        return model_rate * self.config.score_lr_multiplier

    def begin(self, model: nn.Module, clock: Clock) -> None:
        if self.resolved:
            return
        config = self.config
        if clock.steps_per_epoch and config.steps_per_epoch not in (None, clock.steps_per_epoch):
            raise UsageError(
                f"{config.place}.steps_per_epoch: is {config.steps_per_epoch}, but an epoch of this training has "
                f"{clock.steps_per_epoch} optimizer steps; correct it, or leave it out to have them counted"
            )
        epoch = self._epoch(clock)
        if epoch is None:
            logger.info("movement sparsity: steps in an epoch unknown; counting them in the first one")
            return
        end = int(config.warmup_end_epoch * epoch)
        if clock.total_steps is not None and end > clock.total_steps:
            raise UsageError(
                f"{config.place}.warmup_end_epoch: {config.warmup_end_epoch:g} is step {end}, but the training ends "
                f"at step {clock.total_steps}; train longer or end the warm-up earlier"
            )
        self.on_step(model, clock)

    def on_step(self, model: nn.Module, clock: Clock) -> None:
        epoch, config = self._epoch(clock), self.config
        if self.resolved or epoch is None or clock.step < int(config.warmup_start_epoch * epoch):
            return
        if self.initial is None:
            self.initial = _first_threshold(model, _FIRST_SHARE)
            logger.info(
                "movement sparsity: the threshold starts at %g, which masks 0.1 %% of the weights", self.initial
            )
            if self.initial >= config.final_importance_threshold:
                logger.warning(
                    "movement sparsity: the first threshold, %g, is not below the final one, %g: the masks will shrink "
                    "during the warm-up",
                    self.initial,
                    config.final_importance_threshold,
                )
        done = clock.step - int(config.warmup_start_epoch * epoch)
        share = min(1.0, done / (epoch * (config.warmup_end_epoch - config.warmup_start_epoch)))
        over = clock.step >= int(config.warmup_end_epoch * epoch)
        progress = 1.0 if over else polynomial_progress(share, config.power)
        self.threshold = self.initial + progress * (config.final_importance_threshold - self.initial)
        self.factor = progress * config.importance_regularization_factor
        _mask_below(model, self.threshold)
        if over:
            self._resolve(model)

    def penalty(self, model: nn.Module) -> torch.Tensor | None:
        """Half the expected number of weights a block keeps, were the scores logits; times the factor."""
        device = next(model.parameters()).device
        if self.resolved or self.factor == 0:
            return torch.zeros((), device=device)
        losses: dict[str, torch.Tensor] = {}
        for name, mask in _scored(model):
            assert mask.importance is not None
            layer = name.rpartition(".")[0]
            rows, columns = model.get_parameter(f"{layer}.weight").shape
            # The block of a bias is a column of its weight's block.
            size = rows / mask.mask.shape[0] * (columns / mask.mask.shape[1] if mask.mask.ndim == 2 else 1)
            losses[layer] = losses.get(layer, 0) + mask.importance.sigmoid().mean() * size
        return self.factor * 0.5 * torch.stack(list(losses.values())).mean()

    def statistics(self, model: nn.Module) -> dict[str, float]:
        """Threshold, factor of the penalty, and the share of masked weights in the sparse layers and in the model."""
        found = dict(_scored(model))
        masked = sum(_zeros(model, name, mask) for name, mask in found.items())
        sparse = sum(model.get_parameter(name).numel() for name in found)
        whole = sum(p.numel() for n, p in model.named_parameters() if not n.startswith(HOOK_PREFIX))
        scalars = {
            "importance_regularization_factor": self.factor,
            "layer_sparsity": masked / max(1, sparse),
            "model_sparsity": masked / whole,
        }
        return scalars | ({"importance_threshold": self.threshold} if math.isfinite(self.threshold) else {})

    def state(self) -> dict[str, Any]:
        return {
            "threshold": self.threshold if math.isfinite(self.threshold) else None,
            "factor": self.factor,
            "initial": self.initial,
            "resolved": self.resolved,
            "table": self.table,
        }

    def load_state(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        self.threshold = -math.inf if state["threshold"] is None else state["threshold"]
        self.factor, self.initial = state["factor"], state["initial"]
        self.resolved, self.table = state["resolved"], state["table"]

    def finalize(self, model: nn.Module) -> None:
        if not self.resolved:
            logger.warning("movement sparsity: the warm-up is not over, so no head or channel is removed")
        elif self.config.enable_structured_masking:
            remove_masked_units(model)

    def _epoch(self, clock: Clock) -> int | None:
        return self.config.steps_per_epoch or clock.steps_per_epoch

    def _resolve(self, model: nn.Module) -> None:
        """End of the warm-up: decide on whole heads and channels, and make all masks final."""
        found = dict(_scored(model))
        if self.config.enable_structured_masking:
            nodes = {op.module_path: op.node_name for op in trace_operations(model, synthetic_inputs(model, 1, 8))}
            for number, group in enumerate(find_groups(model)):
                if kept := _kept_units(model, group, found):
                    self._lift(model, group, kept[0], found)
                    self.table += _rows(model, number, group, kept[0], nodes)
        for mask in found.values():
            mask.freeze()
        self.resolved = True
        masked = sum(_zeros(model, name, mask) for name, mask in found.items())
        total = sum(model.get_parameter(name).numel() for name in found)
        logger.info(
            "movement sparsity: the masks are final, %.1f %% of the sparse layers' weights go", 100 * masked / total
        )

    @staticmethod
    def _lift(model: nn.Module, group: Group, kept: torch.Tensor, found: Mapping[str, Mask]) -> None:
        """Replace the masks of a group by ones that keep or drop whole units."""
        units = unit_masks(model, group, kept)
        for layer in group.members:
            for name in (f"{layer}.weight", f"{layer}.bias"):
                if name in found:
                    found[name].mask = units.get(name, torch.ones_like(found[name].mask))


def _scored(model: nn.Module) -> Iterator[tuple[str, Mask]]:
    return ((name, mask) for name, mask in masks(model) if mask.importance is not None)


def _score_shape(layer: str, module: Any, structure: SparseStructure | None) -> tuple[int, int]:
    """Shape of the scores of a layer's weight."""
    rows, columns = module.weight.shape
    if structure is None or structure.mode == "fine":
        return rows, columns
    if structure.mode == "per_dim":
        return (rows, 1) if structure.axis == 0 else (1, columns)
    high, wide = structure.block
    if rows % high or columns % wide:
        raise UsageError(
            f"{structure.place}.sparse_factors: blocks of {high} x {wide} do not divide the weight of {layer}, "
            f"which is {rows} x {columns}; choose divisors"
        )
    return rows // high, columns // wide


def _mask_below(model: nn.Module, threshold: float) -> None:
    """Mask every score up to the threshold, but leave the largest ones of each tensor.

    The original took a quantile of each layer's expanded scores in every forward. Whether the quantile matters at all
    takes one count, and the scores change only once a step.
    """
    found = [(name, mask, mask.importance.detach()) for name, mask in _scored(model) if mask.importance is not None]
    if not found:
        return
    # One transfer from the device for all tensors.
    sums = [torch.stack([(scores >= threshold).sum(), (scores > threshold).sum()]) for _, _, scores in found]
    for (name, mask, scores), (count, above) in zip(found, torch.stack(sums).tolist(), strict=True):
        block = model.get_parameter(name).numel() // scores.numel()
        position = _QUANTILE * (scores.numel() * block - 1)
        limit: float | torch.Tensor = threshold
        if count < scores.numel() - int(position) // block:
            limit = _quantile(scores, block, position).clamp(max=threshold)
            above = int((scores > limit).sum())
        kept = scores > limit
        if scores.numel() > 1 and above == 0:
            # Few or equal scores: the quantile is the largest of them. A tensor never goes whole.
            kept = scores == scores.max()
        mask.mask = kept


def _quantile(scores: torch.Tensor, block: int, position: float) -> torch.Tensor:
    """The quantile of scores that stand for ``block`` equal elements each, between the elements around ``position``."""
    lower, upper = int(position) // block, min(int(position) + 1, scores.numel() * block - 1) // block
    largest = scores.flatten().topk(scores.numel() - lower).values
    low, high = largest[scores.numel() - 1 - lower], largest[scores.numel() - 1 - upper]
    return torch.lerp(low, high, position - int(position))


def _first_threshold(model: nn.Module, share: float) -> float:
    """The score up to which ``share`` of all masked weights lie, and one more."""
    scores, blocks = [], []
    for name, mask in _scored(model):
        assert mask.importance is not None
        flat = mask.importance.detach().flatten().float().cpu()
        scores.append(flat)
        blocks.append(torch.full(flat.shape, model.get_parameter(name).numel() // flat.numel()))
    order = torch.argsort(torch.cat(scores))
    counted = torch.cat(blocks)[order].cumsum(0)
    rank = int(int(counted[-1]) * share) + 1
    return float(torch.cat(scores)[order][int(torch.searchsorted(counted, rank))])


def _kept_units(model: nn.Module, group: Group, found: Mapping[str, Mask]) -> list[torch.Tensor]:
    """Which units of a group keep something in any of its layers, shape (units,); empty where that cannot be said."""
    if not any(f"{layer}.weight" in found for layer in group.members):
        return []
    device = next(model.parameters()).device
    kept = torch.zeros(group.count, dtype=torch.bool, device=device)
    for layer in group.members:
        weight = model.get_parameter(f"{layer}.weight")
        mask = found.get(f"{layer}.weight")
        if mask is None:
            return [torch.ones_like(kept)]
        by_row = layer in group.rows
        across = 1 if by_row else 0
        if mask.mask.shape[1 - across] == 1 and mask.mask.shape[across] > 1:
            logger.warning(
                "movement sparsity: %s stays as it is: the scores of %s are by %s, its %ss lie the other way",
                group.name,
                layer,
                "column" if by_row else "row",
                group.kind,
            )
            return []
        whole = expand(mask.mask, weight.shape)
        kept |= (whole if by_row else whole.T).reshape(group.count, -1).any(dim=1)
        if by_row and f"{layer}.bias" in found:
            bias = found[f"{layer}.bias"].mask
            kept |= expand(bias, (weight.shape[0],)).view(group.count, -1).any(dim=1)
    return [kept]


def _rows(
    model: nn.Module, number: int, group: Group, kept: torch.Tensor, nodes: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """What ``structured_sparsity.csv`` says of a group, one row a layer."""
    index = kept.nonzero().flatten().tolist()
    left = len(index) * group.unit
    for layer in group.members:
        linear: Any = model.get_submodule(layer)
        rows, columns = linear.weight.shape
        by_row = layer in group.rows
        yield {
            "group_id": number,
            "torch_module": layer,
            "weight_shape": [rows, columns],
            "pruned_weight_shape": [left, columns] if by_row else [rows, left],
            "bias_shape": [rows] if linear.bias is not None else None,
            "pruned_bias_shape": ([left] if by_row else [rows]) if linear.bias is not None else None,
            "head_or_channel_id_to_keep": index if len(index) <= 20 else f"[{len(index)} items]",
            "module_node_name": nodes.get(layer, ""),
        }


def _zeros(model: nn.Module, name: str, mask: Mask) -> float:
    """Number of masked elements of a parameter."""
    return float((~mask.mask).sum()) * (model.get_parameter(name).numel() // mask.mask.numel())
