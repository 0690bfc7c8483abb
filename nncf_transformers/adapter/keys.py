"""Which parameters of a model belong to its adapters, to its head, and to the frozen base."""

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from adapters.loading import AdapterLoader, PredictionHeadLoader
from torch import nn

from nncf_transformers.checkpoint import HOOK_PREFIX

# The library notes each step of its own at INFO, and a set-up that is not finished yet as a warning.
_LIBRARY_LOGGER = logging.getLogger("adapters")


def count(model: Any) -> dict[str, int]:
    """Number of trained parameters of adapters and of the head, and of frozen ones; quantizers are left out."""
    numbers = {"adapter": 0, "head": 0, "frozen": 0}
    belongs = adapter_keys(model)
    for name, parameter in model.named_parameters():
        if not name.startswith(HOOK_PREFIX):
            kind = "adapter" if belongs(name) else "head"
            numbers[kind if parameter.requires_grad else "frozen"] += parameter.numel()
    return numbers


def adapter_keys(model: Any) -> Callable[[str], bool]:
    """Tell the parameters of the model's adapters from others, by name."""
    tests = [AdapterLoader(model).filter_func(name) for name in model.adapters_config]
    return lambda key: any(test(key) for test in tests)


def head_keys(model: Any) -> set[str]:
    """Parameters of the head alone: one that it shares with the embeddings is the base's.

    What the base's checkpoint lacks counts to it, a pooler say: it is nowhere else.
    """
    belongs, of_head = adapter_keys(model), PredictionHeadLoader(model).filter_func(None)
    frozen = {id(p) for p in _output_parameters(model)}
    return {
        name
        for name, parameter in model.named_parameters()
        if of_head(name) and not belongs(name) and not name.startswith(HOOK_PREFIX) and id(parameter) not in frozen
    } | _new(model)


def without_copies(model: Any, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Leave every tensor in a model's ``state_dict`` once that adapters have under several names."""
    belongs, unique = adapter_keys(model), unique_names(model)
    return {key: value for key, value in state_dict.items() if not belongs(key) or key in unique}


def _new(model: Any) -> set[str]:
    names: set[str] = getattr(model, "nncf_new_parameters", set())
    return names


def checksum(model: Any) -> str:
    """SHA-256 of the parameters of the encoder (or decoder), without adapters, head and quantizers."""
    base, digest = model.base_model, hashlib.sha256()
    new = {id(model.get_parameter(name)) for name in _new(model)}
    belongs = adapter_keys(model) if hasattr(model, "adapters_config") else lambda key: False
    for name, parameter in sorted(base.named_parameters(prefix="base")):
        if not belongs(name) and HOOK_PREFIX not in name and id(parameter) not in new:
            digest.update(name.encode())
            # Bytes, for numpy knows no bfloat16.
            digest.update(parameter.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Hold the library's notes back while it is at work: they speak of states in between."""
    level = _LIBRARY_LOGGER.level
    _LIBRARY_LOGGER.setLevel(logging.ERROR)
    try:
        yield
    finally:
        _LIBRARY_LOGGER.setLevel(level)


def _output_parameters(model: Any) -> list[nn.Parameter]:
    """What maps hidden states to words, which the library keeps frozen, as it may be the embeddings themselves."""
    output = model.get_output_embeddings()
    return list(output.parameters()) if output is not None else []


def unique_names(model: nn.Module) -> set[str]:
    """One name for each parameter and buffer: all layers know the pool of prefixes by a name of their own."""
    return {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
