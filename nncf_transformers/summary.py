"""How large and how sparse a model is: ``statistics.json``."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nncf_transformers.algorithms.base import hooks
from nncf_transformers.checkpoint import HOOK_PREFIX, write_text
from nncf_transformers.structure import blocks_of

STATISTICS_FILE = "statistics.json"


def describe(model: nn.Module) -> dict[str, Any]:
    """Count a model's parameters and its zeros, layer by layer in the transformer blocks.

    Masked weights count as zeros. Quantizers and masks are not counted as parameters.

    Returns:
        ``parameters`` and ``zeros`` of the whole model; ``block_weights`` and ``block_zeros`` of the weights of the
        linear layers in the transformer blocks; ``layers``, for each such layer its shape and sparsity.
    """
    masked = _masked(model)
    named = {n: p for n, p in model.named_parameters() if not n.startswith(HOOK_PREFIX)}
    zeros = {n: p.numel() - int(torch.count_nonzero(masked.get(n, p.detach()))) for n, p in named.items()}
    # A weight that is computed from others in every forward is no parameter.
    blocks = [f"{layer}.weight" for layer in blocks_of(model) if f"{layer}.weight" in named]
    return {
        "parameters": sum(p.numel() for p in named.values()),
        "zeros": sum(zeros.values()),
        "block_weights": sum(named[n].numel() for n in blocks),
        "block_zeros": sum(zeros[n] for n in blocks),
        "layers": {
            n.removesuffix(".weight"): {
                "shape": list(named[n].shape),
                "sparsity": round(zeros[n] / named[n].numel(), 6),
            }
            for n in blocks
        },
    }


def write_statistics(folder: Path, statistics: dict[str, Any]) -> None:
    """Write :data:`STATISTICS_FILE` whole or not at all, with the sizes of the files that hold the weights."""
    sizes = {p.name: p.stat().st_size for p in sorted(folder.glob("*")) if p.suffix in (".safetensors", ".bin")}
    sizes.pop("training_args.bin", None)
    write_text(folder / STATISTICS_FILE, json.dumps(statistics | {"bytes": sizes}, indent=1) + "\n")


def add_exports(folder: Path, exports: dict[str, int]) -> None:
    """Note the sizes of exported files, in bytes by path, in the statistics of the model in ``folder``."""
    path = folder / STATISTICS_FILE
    if path.is_file():
        statistics = json.loads(path.read_text(encoding="utf-8"))
        write_text(path, json.dumps(statistics | {"exports": statistics.get("exports", {}) | exports}, indent=1) + "\n")


def removed_share(statistics: dict[str, Any]) -> float | None:
    """The share of the transformer blocks' weights that are gone or zero, compared with the model before."""
    before = statistics["before"].get("block_weights")
    if not before:
        return None
    return 1 - (statistics["block_weights"] - statistics["block_zeros"]) / before


def _masked(model: nn.Module) -> dict[str, torch.Tensor]:
    """Masked parameters as the model uses them, by name."""
    if next(hooks(model), None) is None:
        return {}
    from nncf_transformers.algorithms.masks import apply_magnitude_binary_mask, masks

    with torch.no_grad():
        return {n: apply_magnitude_binary_mask(model.get_parameter(n), mask.mask) for n, mask in masks(model)}
