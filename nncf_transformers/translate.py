"""Find the places of a checkpoint's quantizers in a model that another version of the library runs differently.

NNCF names a place by the modules and functions that ran. Between 2019 and today two parts of these models were written
anew: attention, now one function, and GELU, now a module of its own. What a quantizer of such a place quantizes is the
same tensor under another name; one, DistilBERT's query, is the same but for a constant factor.
"""

import logging
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from nncf_transformers.errors import IntegrityError

logger = logging.getLogger(__name__)

_NODE = re.compile(r"(?P<module>.*)/(?P<function>[^/]+)/(?P<call>\d+)")
_NESTED = re.compile(r".*/(pre|post)_hook__(?P<node>[^/]+)__\d+\[\d+\]/[^/]+/\d+")


@dataclass(frozen=True)
class Place:
    """A place in this model.

    Attributes:
        hook: its name.
        factor: what the quantizer's range is to be multiplied by.
    """

    hook: str
    factor: float = 1.0


@dataclass(frozen=True)
class _Twin:
    """Two names of one tensor: a module's end and a function, then and now, counted in calls of that function.

    Then, a module called the function ``calls`` times, and the last result is the tensor.
    """

    then: tuple[str, str]
    now: tuple[str, str]
    calls: int = 1
    by_head: bool = False


_TWINS = (
    _Twin(("/self", "matmul"), ("/self", "scaled_dot_product_attention"), 2),
    _Twin(("/transformer/attention", "matmul"), ("/transformer/attention", "scaled_dot_product_attention"), 2),
    _Twin(("/transformer/attention", "div"), ("/transformer/attention/q_lin", "linear"), by_head=True),
    _Twin(("/intermediate", "mul"), ("/intermediate/intermediate_act_fn", "gelu"), 2),
    _Twin(("/ffn", "mul"), ("/ffn/activation", "gelu"), 2),
)


def find_places(hooks: Collection[str], nodes: Collection[str], config: Any) -> dict[str, Place | None]:
    """Find the place of each quantizer of a checkpoint in a model.

    Args:
        hooks: names of the quantizers' places in the checkpoint.
        nodes: names of the operations that the model runs.
        config: the model's configuration.

    Returns:
        The place by the name in the checkpoint; None for one of a module that this model does not run.

    Raises:
        IntegrityError: the model does not compute a tensor that was quantized.
    """
    known, places = set(nodes), {}
    for hook in hooks:
        kind, _, rest = hook.partition(".")
        node, _, port = rest.rpartition("__")
        if nested := _NESTED.fullmatch(node):
            # A quantizer behind SmoothQuant's scale, which is itself a hook of the operation that counts.
            node = nested["node"].replace("-", "/")
        place = None
        # The other names are of results; what enters an operation is another tensor in each version.
        for candidate, factor in _names(node, config) if kind == "post_hooks" and not nested else [(node, 1.0)]:
            if candidate in known:
                place = Place(hook if nested else f"{kind}.{candidate}__{port}", factor)
                break
        match = _NODE.fullmatch(node)
        if place is None and (match is None or match["function"] not in ("linear", "embedding")):
            raise IntegrityError(
                f"the checkpoint quantizes {node}, which this model does not compute; use the version of transformers "
                "and the attention implementation that it was trained with"
            )
        if place is None:
            # An operation with a weight has one name in all versions: this model has no use for the module at all.
            logger.warning("the quantizer of %s is left out: this model does not run it", node)
        places[hook] = place
    return places


def translate_state(state: list[dict[str, Any]], places: Mapping[str, Place | None]) -> list[dict[str, Any]]:
    """Give NNCF's description of the quantizers the names of this model."""
    translated = []
    for module in state:
        names = [place.hook for name in module["hook_names_in_model"] if (place := places.get(name, Place(name)))]
        if names:
            translated.append(module | {"hook_names_in_model": names})
    return translated


def translate_parameters(
    parameters: Mapping[str, Any], prefix: str, places: Mapping[str, Place | None]
) -> dict[str, Any]:
    """Give the quantizers' tensors the names of this model, and scale their ranges where the tensor is scaled.

    Args:
        parameters: tensors by name, each name being ``prefix``, a place, a dot and the parameter.
        prefix: what all names begin with.
        places: from :func:`find_places`.
    """
    translated = {}
    for name, tensor in parameters.items():
        hook = next((h for h in places if name.startswith(f"{prefix}{h}.")), None)
        place = places[hook] if hook is not None else None
        if hook is not None and place is None:
            continue
        if hook is not None and place is not None:
            ending = name[len(prefix) + len(hook) :]
            if place.factor != 1.0 and ending.rsplit(".", 1)[-1] in ("scale", "input_low", "input_range"):
                tensor = tensor * place.factor
            name = f"{prefix}{place.hook}{ending}"
        translated[name] = tensor
    return translated


def _names(node: str, config: Any) -> list[tuple[str, float]]:
    """The node itself, and its twins in the other version, with the factor of the range."""
    names = [(node, 1.0)]
    match = _NODE.fullmatch(node)
    if match is None:
        return names
    module, function, call = match["module"], match["function"], int(match["call"])
    for twin in _TWINS:
        root = math.sqrt(config.dim // config.n_heads) if twin.by_head and hasattr(config, "n_heads") else 1.0
        (end, old), (new_end, new) = twin.then, twin.now
        if function == old and module.endswith(end) and call % twin.calls == twin.calls - 1:
            names.append((f"{module[: -len(end)]}{new_end}/{new}/{call // twin.calls}", root))
        if function == new and module.endswith(new_end):
            names.append((f"{module[: -len(new_end)]}{end}/{old}/{call * twin.calls + twin.calls - 1}", 1 / root))
    return names
