"""Which weights are the least important: pure functions on tensors."""

import math
import re
from collections.abc import Mapping, Sequence

import torch


def importance(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """How much each weight of a layer counts.

    Args:
        weight: of any shape.
        kind: ``abs``: |w|; ``normed_abs``: |w| / ||w||_2, which makes layers comparable (inventory 2.4).
    """
    magnitude = weight.detach().float().abs()
    if kind == "normed_abs":
        # A layer of zeros stays one.
        magnitude = magnitude / magnitude.norm().clamp_min(torch.finfo(torch.float32).tiny)
    return magnitude


def keep_largest(
    scores: Mapping[str, torch.Tensor], level: float, together: bool = False, spare_one: bool = False
) -> dict[str, torch.Tensor]:
    """Leave out exactly round(n * level) elements of least score (inventory 5.5).

    Args:
        scores: tensors by name, of any shape.
        level: the part to leave out.
        together: whether n counts the elements of all tensors, ranked together, or those of each.
        spare_one: whether the largest element of each tensor stays whatever ``level`` says.

    Returns:
        By name, a boolean tensor of the same shape, False for what is left out.
    """
    if not together:
        return {name: _keep([score], level, spare_one)[0] for name, score in scores.items()}
    return dict(zip(scores, _keep(list(scores.values()), level, spare_one), strict=True))


def _keep(scores: Sequence[torch.Tensor], level: float, spare_one: bool) -> list[torch.Tensor]:
    # A copy, even of a single tensor.
    every = torch.cat([score.flatten() for score in scores])
    sizes = [score.numel() for score in scores]
    count = round(len(every) * level)
    if spare_one:
        for part in every.split(sizes):
            part[part.argmax()] = math.inf
        count = min(count, len(every) - len(scores))
    kept = torch.ones_like(every, dtype=torch.bool)
    # Selected by index, not by a threshold: among equal scores just as many go as the number asks for.
    kept[every.topk(count, largest=False, sorted=False).indices] = False
    return [part.view(score.shape) for part, score in zip(kept.split(sizes), scores, strict=True)]


def keep_in_groups(scores: torch.Tensor, size: int, count: int) -> torch.Tensor:
    """Leave out the ``count`` elements of least score in every ``size`` neighbours of a row.

    Args:
        scores: shape (rows, columns); ``size`` divides the number of columns.
        size: M of N:M.
        count: M - N.

    Returns:
        A boolean tensor of the same shape, False for what is left out.
    """
    groups = scores.reshape(-1, size)
    smallest = groups.topk(count, dim=-1, largest=False, sorted=False).indices
    kept = torch.ones_like(groups, dtype=torch.bool).scatter_(-1, smallest, False)
    return kept.view(scores.shape)


def read_structure(structure: str) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """Read rows and columns of a block, and N and M of N:M."""
    if match := re.fullmatch(r"(\d+)x(\d+)", structure):
        return (int(match[1]), int(match[2])), None
    if match := re.fullmatch(r"(\d+):(\d+)", structure):
        return (1, 1), (int(match[1]), int(match[2]))
    return (1, 1), None


def zero_part(weight: torch.Tensor) -> float:
    """The part of a weight that is zero."""
    return int((weight == 0).sum()) / weight.numel()
