"""Read an adapter's configuration, and refuse what the library would take without a word.

The library keeps keys that it does not know as attributes of the configuration, where they have no effect.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from adapters import ADAPTER_CONFIG_MAP, AdapterConfig, ConfigUnion, LoRAConfig
from adapters.configuration import ReftConfig
from adapters.utils import parse_adapter_config_string

from nncf_transformers.config.errors import nearest
from nncf_transformers.errors import UsageError

# What tells DiReFT from NoReFT, which the library neither takes as a key nor saves: a saved DiReFT came back as NoReFT.
_REFT_KEY = "subtract_projection"


def _with_reft_key(self: ReftConfig) -> dict[str, Any]:
    return AdapterConfig.to_dict(self) | {_REFT_KEY: getattr(self, _REFT_KEY)}


ReftConfig.to_dict = _with_reft_key


def read_config(flag: str, text: str) -> AdapterConfig:
    """Read what ``--adapter_config`` names.

    Args:
        flag: for errors.
        text: a name that the library knows, with or without changes (``double_seq_bn[reduction_factor=8]``), a union of
            several (``prefix_tuning|seq_bn``), or a JSON file: a configuration, or a saved ``adapter_config.json``.

    Raises:
        UsageError: an unknown name, key or file, or a value that the library refuses.
    """
    if text.endswith(".json") or Path(text).is_file():
        return _from_mapping(f"{flag} {text}", _read_json(flag, text))
    try:
        pairs = parse_adapter_config_string(text)
    except ValueError as error:
        raise UsageError(f"{flag} {text}: {error} Write name[key=value,...], or a|b for several") from error
    configs = [_from_name(flag, text, name, changes) for name, changes in pairs]
    for (name, _), config in zip(pairs, configs, strict=True):
        if len(configs) > 1 and isinstance(config, ConfigUnion):
            raise UsageError(f"{flag} {text}: {name} is a union already; write its parts, joined by |")
    return configs[0] if len(configs) == 1 else _made(f"{flag} {text}", lambda: ConfigUnion(*configs))


def describe_config(config: Any) -> str:
    """The name of a configuration, or what kind it is."""
    config = AdapterConfig.load(config)
    for name, known in ADAPTER_CONFIG_MAP.items():
        # By content: one that was saved comes back as a more general class. Old spellings of later names come first.
        old = any(word in name for word in ("pfeiffer", "houlsby", "parallel"))
        if known.to_dict() == config.to_dict() and not old:
            return name
    return type(config).__name__.removesuffix("Config") + " of its own settings"


def only_lora(model: Any) -> bool:
    """Whether all adapters of a model only change the results of its linear layers."""
    return all(is_lora(model.adapters_config.get(name)) for name in model.adapters_config)


def is_lora(config: Any) -> bool:
    """Whether a configuration is of the LoRA family, or a union of such."""
    return all(isinstance(part, LoRAConfig) for part in parts_of_config(config))


def parts_of_config(config: Any) -> list[AdapterConfig]:
    """The configurations that a union is of; a configuration alone is one."""
    config = AdapterConfig.load(config)
    return list(config.configs) if isinstance(config, ConfigUnion) else [config]


def _read_json(flag: str, text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(Path(text).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{flag} {text}: cannot be read ({error.strerror}); name an existing JSON file") from error
    except ValueError as error:
        raise UsageError(f"{flag} {text}: is no valid JSON ({error}); mend it") from error
    if isinstance(value, dict) and isinstance(value.get("config"), dict):
        value = value["config"]
    if not isinstance(value, dict):
        raise UsageError(f"{flag} {text}: must be a JSON object with the keys of an adapter's configuration")
    return value


def _from_name(flag: str, text: str, name: str, changes: Mapping[str, Any]) -> AdapterConfig:
    if name not in ADAPTER_CONFIG_MAP:
        raise UsageError(
            f"{flag} {text}: {name!r} is no adapter configuration{nearest(name, ADAPTER_CONFIG_MAP)}; known: "
            f"{', '.join(sorted(ADAPTER_CONFIG_MAP))}; or name a JSON file"
        )
    config = ADAPTER_CONFIG_MAP[name]
    if isinstance(config, ConfigUnion):
        if changes:
            raise UsageError(f"{flag} {text}: {name} is a union; write its parts, joined by |, and change those")
        return config
    _check_keys(f"{flag} {text}", changes, (f.name for f in fields(config) if f.init))
    return _made(f"{flag} {text}", lambda: config.replace(**changes))


def _from_mapping(place: str, values: Mapping[str, Any]) -> AdapterConfig:
    if values.get("architecture") == "union":
        parts = values.get("configs")
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise UsageError(f'{place}: a union needs a list of configurations as "configs"')
        return _made(place, lambda: ConfigUnion(*(_from_mapping(place, part) for part in parts)))
    try:
        kind = AdapterConfig._get_config_class(values)
    except (KeyError, TypeError):
        raise UsageError(
            f'{place}: "architecture" is {values["architecture"]!r}; null, "lora", "mtl_lora", "prefix_tuning", '
            '"prompt_tuning", "reft" and "union" are known'
        ) from None
    own = [_REFT_KEY] if kind is ReftConfig else []
    _check_keys(place, values, (*(f.name for f in fields(kind)), *own))
    return _made(place, lambda: kind.from_dict(dict(values)))


def _check_keys(place: str, given: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    for key in given:
        if key not in known:
            raise UsageError(f"{place}: unknown key {key!r}{nearest(key, known)}; known: {', '.join(sorted(known))}")


def _made(place: str, make: Any) -> AdapterConfig:
    """Make a configuration; the library checks some values, each in its own way."""
    try:
        config: AdapterConfig = make()
    except UsageError:
        raise
    except (TypeError, ValueError, AssertionError, AttributeError) as error:
        # It prints every key of a configuration.
        reason = re.sub(r"\(architecture=.*?\)", "", str(error))
        raise UsageError(f"{place}: the library refuses this configuration: {reason}") from error
    return config
