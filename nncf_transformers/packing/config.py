"""What a packed model is like: ``--pack_cfg`` on the command line, ``pack_cfg`` in ``config.json``."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from transformers.activations import ACT2FN

from nncf_transformers.config.errors import nearest
from nncf_transformers.errors import IntegrityError, UsageError
from nncf_transformers.structure import PACK_KEY

# As an activation: the one that the model has.
ORIGINAL = "orig"
_FLAG = "--pack_cfg"
_BOOLEANS = {"0": False, "1": True, "false": False, "true": True}


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """Sizes of a packed model (inventory 3.3.1).

    Attributes:
        num_hidden_layers: layers that stay.
        ff_iter_num: linear layers of a feed-forward part, all of which are square.
        num_attention_heads: heads of a layer that stay, once :func:`~.importance.prune_heads` was called. A head keeps
            its size.
        hidden_size: of everything between the embedding tables and the head.
        pack_emb: whether each embedding table gets a linear layer of its own, which :func:`~.model.merge` folds into
            it; else one linear layer behind the embeddings stays for good. Where the hidden size stays, so do they.
        hidden_act: an activation of the library by name, or ``orig``.
    """

    num_hidden_layers: int
    ff_iter_num: int = 4
    num_attention_heads: int
    hidden_size: int
    pack_emb: bool = True
    hidden_act: str = ORIGINAL

    @classmethod
    def parse(cls, text: str, model_config: Any) -> "PackConfig":
        """Read a list of ``key:value``, such as ``num_hidden_layers:12,hidden_size:512,pack_emb:1``.

        Args:
            text: in any order. Where a size is not named, the model keeps its own.
            model_config: configuration of the model that will be packed.

        Raises:
            UsageError: naming key and value.
        """
        names = [field.name for field in fields(PackConfig)]
        values: dict[str, Any] = {
            name: getattr(model_config, name) for name in ("num_hidden_layers", "num_attention_heads", "hidden_size")
        }
        seen = set()
        for item in filter(None, (item.strip() for item in text.split(","))):
            key, colon, value = (part.strip() for part in item.partition(":"))
            if not colon or not value:
                raise UsageError(f"{_FLAG} {text!r}: {item!r} is no key:value; write for example hidden_size:512")
            if key not in names:
                raise UsageError(f"{_FLAG}: unknown key {key!r}{nearest(key, names)}; known: {', '.join(names)}")
            if key in seen:
                raise UsageError(f"{_FLAG}: {key} is given twice; drop one of the two")
            seen.add(key)
            values[key] = _value(key, value)
        found = cls(**values)
        found.check(model_config)
        return found

    def check(self, model_config: Any) -> None:
        """Compare with the model to be packed.

        Raises:
            UsageError: it cannot be made so.
        """
        for key in ("num_hidden_layers", "num_attention_heads", "hidden_size"):
            ours, theirs = getattr(self, key), getattr(model_config, key)
            if not 1 <= ours <= theirs:
                raise UsageError(
                    f"{_FLAG}: {key}:{ours} does not fit the model, which has {theirs}; give 1 to {theirs}"
                )
        if self.hidden_size % self.num_attention_heads:
            raise UsageError(
                f"{_FLAG}: hidden_size:{self.hidden_size} is no multiple of num_attention_heads:"
                f"{self.num_attention_heads} (the model has {model_config.hidden_size} and "
                f"{model_config.num_attention_heads}); change one of the two"
            )
        if self.ff_iter_num < 2:
            raise UsageError(f"{_FLAG}: ff_iter_num:{self.ff_iter_num} is too small: give 2 or more (the original: 4)")
        if self.hidden_act != ORIGINAL and self.hidden_act not in ACT2FN:
            raise UsageError(
                f"{_FLAG}: hidden_act:{self.hidden_act} is no activation of the library"
                f"{nearest(self.hidden_act, ACT2FN)}; write {ORIGINAL} for the model's own ({model_config.hidden_act})"
            )


@dataclass(frozen=True, kw_only=True)
class Packed(PackConfig):
    """What ``config.json`` says of a packed model: its sizes, and those of the large model it comes from.

    Attributes:
        base_class_name: class of the large model.
        merged: whether :func:`~.model.merge` was called.
        original_hidden_size: hidden size of the large model.
        original_embedding_size: width of its embedding tables, which for ELECTRA may be another.
        attention_head_size: of every head.
    """

    base_class_name: str
    merged: bool = False
    original_hidden_size: int
    original_embedding_size: int
    attention_head_size: int

    @classmethod
    def of(cls, model_config: Any) -> "Packed":
        """Read a model's configuration.

        Raises:
            IntegrityError: it says nothing sensible.
        """
        found = getattr(model_config, PACK_KEY, None)
        types = {field.name: field.type for field in fields(cls)}
        if not isinstance(found, Mapping) or found.keys() != types.keys():
            given = sorted(found) if isinstance(found, Mapping) else found
            raise IntegrityError(f"config.json: {PACK_KEY} must have the keys {', '.join(types)}, but has {given}")
        for key, value in found.items():
            if type(value) is not types[key] or (types[key] is int and value < 1):
                raise IntegrityError(f"config.json: {PACK_KEY}.{key} must not be {value!r}")
        return cls(**found)

    @property
    def narrower(self) -> bool:
        """Whether the hidden size is another than that of the large model."""
        return self.hidden_size != self.original_hidden_size

    @property
    def factorized(self) -> bool:
        """Whether each embedding table gets a linear layer of its own.

        Not in a small ELECTRA: its tables are narrow, and it has one linear layer behind them all.
        """
        return self.narrower and self.pack_emb and self.original_embedding_size == self.original_hidden_size

    def write(self, model_config: Any) -> None:
        """Let a model's configuration say so."""
        setattr(model_config, PACK_KEY, asdict(self))


def is_packed(model_config: Any) -> bool:
    """Whether a configuration is that of a packed model, merged or not."""
    return bool(getattr(model_config, PACK_KEY, None))


def is_merged(model_config: Any) -> bool:
    """Whether a configuration is that of a packed model that was merged."""
    return is_packed(model_config) and Packed.of(model_config).merged


def _value(key: str, text: str) -> Any:
    """Convert what the user wrote."""
    if key == "hidden_act":
        return text
    if key == "pack_emb":
        if text.lower() not in _BOOLEANS:
            raise UsageError(f"{_FLAG}: pack_emb:{text} is neither yes nor no; write pack_emb:1 or pack_emb:0")
        return _BOOLEANS[text.lower()]
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{_FLAG}: {key}:{text} is no whole number; write for example {key}:8") from None
