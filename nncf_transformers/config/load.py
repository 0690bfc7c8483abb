"""The way in: a file or a dictionary becomes a :class:`CompressionConfig`."""

from pathlib import Path
from typing import Any

from nncf_transformers.config.errors import ConfigError, nearest
from nncf_transformers.config.jsonc import read_json
from nncf_transformers.config.legacy import TOP_LEVEL_KEYS as LEGACY_KEYS
from nncf_transformers.config.legacy import LegacyFile
from nncf_transformers.config.model import AlgorithmConfig, CompressionConfig
from nncf_transformers.config.registry import (
    ALGORITHMS,
    LEGACY_ALGORITHMS,
    LEGACY_NAMES,
    REMOVED,
    AlgorithmReader,
)
from nncf_transformers.config.section import Section

OWN_KEYS = ("algorithms", "$schema")


def load_config(path: str | Path, *, allow_empty: bool = False) -> CompressionConfig:
    """Read a configuration file in our own schema or in the legacy NNCF schema.

    Args:
        path: JSON file; comments (``//``, ``#``, ``/* */``) and trailing commas are allowed.
        allow_empty: Whether a list of no algorithms is a configuration, too.

    Returns:
        The configuration. Its ``warnings`` are for the caller to log.

    Raises:
        ConfigError: the file is missing, not JSON, empty, or says something that is unknown or impossible.
    """
    path = Path(path)
    return parse_config(read_json(path), str(path), allow_empty=allow_empty)


def parse_config(data: dict[str, Any] | list[Any], source: str, *, allow_empty: bool = False) -> CompressionConfig:
    """Interpret the content of a configuration file.

    The order of the algorithms in the file does not matter: the result has sparsity first, then quantization, then
    distillation.

    Args:
        data: The parsed JSON; it is kept as ``raw`` and not changed. A list, or an object with "algorithm", is what
            optimum-intel took for a configuration: the value of the legacy key "compression", under which ``raw``
            then has it.
        source: Name of the file for messages.
        allow_empty: Whether a list of no algorithms is a configuration, too. It was one for optimum-intel, where the
            command line could add distillation.

    Raises:
        ConfigError: see :func:`load_config`.
    """
    if isinstance(data, list) or _is_bare_algorithm(data):
        return _read_bare(data, source, allow_empty)
    top = Section(data, source)
    if not data:
        raise ConfigError(f'{source}: the object is empty; it needs "algorithms" (or legacy "compression")')
    own = [key for key in OWN_KEYS if key in top]
    legacy = [key for key in LEGACY_KEYS if key in top]
    if own and legacy:
        raise top.error(
            legacy[0], f'belongs to the legacy schema, "{own[0]}" to the present one; keep to one of the two'
        )
    if legacy:
        return _read_legacy_file(top, allow_empty)
    if "algorithm" in top:
        raise top.error("algorithm", 'belongs into an entry of "algorithms": {"algorithms": [{"algorithm": …}]}')
    if not own:
        hint = nearest(top.keys()[0], (*OWN_KEYS, *LEGACY_KEYS))
        raise ConfigError(
            f'{source}: unknown key "{top.keys()[0]}"{hint}; a configuration has "algorithms" (or legacy "compression")'
        )
    return _read_own_file(top, allow_empty)


def _is_bare_algorithm(data: dict[str, Any]) -> bool:
    return isinstance(data, dict) and "algorithm" in data and not {*OWN_KEYS, "compression"} & set(data)


def _read_bare(data: dict[str, Any] | list[Any], source: str, allow_empty: bool) -> CompressionConfig:
    """Read what stands for itself here and under "compression" in a whole legacy file."""
    try:
        return _read_legacy_file(Section({"compression": data}, source), allow_empty)
    except ConfigError as error:
        try:
            _read_own_file(Section({"algorithms": data}, source), allow_empty)
        except ConfigError:
            raise error from None
        raise ConfigError(
            f'{error}; without {{"algorithms": …}} around it the file is in the legacy schema, but it fits the present '
            "one: add that"
        ) from None


def _read_own_file(top: Section, allow_empty: bool) -> CompressionConfig:
    with top:
        top.take_string("$schema")
        sections = _algorithm_sections(top, "algorithms", allow_empty)
    algorithms = [_reader_of(section, legacy=False).read(section) for section in sections]
    return CompressionConfig(
        algorithms=_in_order(algorithms), source=top.source, warnings=tuple(top.warnings), raw=dict(top.data)
    )


def _read_legacy_file(top: Section, allow_empty: bool) -> CompressionConfig:
    file = LegacyFile(top)
    with top:
        file.read_top_level()
        sections = _algorithm_sections(top, "compression", allow_empty)
    algorithms = [_reader_of(section, legacy=True).read_legacy(section, file) for section in sections]
    file.warn_unused(algorithms)
    return CompressionConfig(
        algorithms=_in_order(algorithms),
        source=top.source,
        warnings=tuple(top.warnings),
        raw=dict(top.data),
        input_info=file.input_info,
    )


def _algorithm_sections(top: Section, key: str, allow_empty: bool) -> list[Section]:
    sections = top.take_sections(key)
    if not sections and not (allow_empty and top.take(key) == []):
        raise top.error(
            key,
            'names no algorithm; add one, e.g. {"algorithm": "quantization"}, or leave out the config',
        )
    return sections


def _reader_of(section: Section, *, legacy: bool) -> AlgorithmReader:
    """The reader for the algorithm that a section names."""
    readers = LEGACY_ALGORITHMS if legacy else ALGORITHMS
    name = section.take_string("algorithm")
    if name is None:
        raise ConfigError(f'{section.place}: has no "algorithm"; add one of {", ".join(readers)}')
    if name in REMOVED:
        raise section.error("algorithm", f'"{name}" is gone from NNCF 3 and not provided here; remove this entry')
    if name in readers:
        return readers[name]
    if legacy and name in LEGACY_NAMES:
        raise section.error("algorithm", f'"{name}" is called "{LEGACY_NAMES[name]}" in the legacy schema')
    if not legacy and name in LEGACY_ALGORITHMS:
        own = next(key for key, value in LEGACY_NAMES.items() if value == name)
        raise section.error("algorithm", f'"{name}" is a name of the legacy schema; write "{own}", with the keys of it')
    raise section.error("algorithm", f'unknown algorithm "{name}"{nearest(name, readers)}; known: {", ".join(readers)}')


def _in_order(algorithms: list[AlgorithmConfig]) -> tuple[AlgorithmConfig, ...]:
    """The algorithms in the order in which they are applied, each once."""
    seen: set[str] = set()
    for config in algorithms:
        if config.algorithm in seen:
            raise ConfigError(f'{config.place}: "{config.algorithm}" is given a second time; keep one entry')
        seen.add(config.algorithm)
    order = tuple(ALGORITHMS)
    return tuple(sorted(algorithms, key=lambda config: order.index(config.algorithm)))
