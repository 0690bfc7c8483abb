"""The way in: a file or a dictionary becomes a :class:`CompressionConfig`."""

from pathlib import Path
from typing import Any

from nncf_transformers.config.errors import ConfigError, nearest
from nncf_transformers.config.jsonc import read_json
from nncf_transformers.config.legacy import TOP_LEVEL_KEYS as LEGACY_KEYS
from nncf_transformers.config.legacy import LegacyFile
from nncf_transformers.config.model import AlgorithmConfig, CompressionConfig
from nncf_transformers.config.registry import ALGORITHMS, NOT_YET, REMOVED, AlgorithmReader
from nncf_transformers.config.section import Section

OWN_KEYS = ("algorithms", "$schema")


def load_config(path: str | Path) -> CompressionConfig:
    """Read a configuration file in our own schema or in the legacy NNCF schema.

    Args:
        path: JSON file; comments (``//``, ``#``, ``/* */``) and trailing commas are allowed.

    Returns:
        The configuration. Its ``warnings`` are for the caller to log.

    Raises:
        ConfigError: the file is missing, not JSON, empty, or says something that is unknown or impossible.
    """
    path = Path(path)
    return parse_config(read_json(path), str(path))


def parse_config(data: dict[str, Any], source: str) -> CompressionConfig:
    """Interpret the content of a configuration file.

    Args:
        data: The parsed JSON object; it is kept as ``raw`` and not changed.
        source: Name of the file for messages.

    Raises:
        ConfigError: see :func:`load_config`.
    """
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
        return _read_legacy_file(top)
    if "algorithm" in top:
        raise top.error("algorithm", 'is a single algorithm; wrap the object: {"algorithms": [{…}]}')
    if not own:
        hint = nearest(top.keys()[0], (*OWN_KEYS, *LEGACY_KEYS))
        raise ConfigError(
            f'{source}: unknown key "{top.keys()[0]}"{hint}; a configuration has "algorithms" (or legacy "compression")'
        )
    return _read_own_file(top)


def _read_own_file(top: Section) -> CompressionConfig:
    with top:
        top.take_string("$schema")
        sections = _algorithm_sections(top, "algorithms")
    algorithms = tuple(_reader_of(section).read(section) for section in sections)
    _refuse_repetition(algorithms)
    return CompressionConfig(algorithms=algorithms, source=top.source, raw=dict(top.data))


def _read_legacy_file(top: Section) -> CompressionConfig:
    file = LegacyFile(top)
    with top:
        file.read_top_level()
        sections = _algorithm_sections(top, "compression")
    algorithms = tuple(_reader_of(section).read_legacy(section, file) for section in sections)
    _refuse_repetition(algorithms)
    return CompressionConfig(
        algorithms=algorithms,
        source=top.source,
        warnings=tuple(file.warnings),
        raw=dict(top.data),
        input_info=file.input_info,
    )


def _algorithm_sections(top: Section, key: str) -> list[Section]:
    sections = top.take_sections(key)
    if not sections:
        raise top.error(
            key,
            'names no algorithm; add one, e.g. {"algorithm": "quantization"}, or leave out the config',
        )
    return sections


def _reader_of(section: Section) -> AlgorithmReader:
    """The reader for the algorithm that a section names."""
    name = section.take_string("algorithm")
    if name is None:
        raise ConfigError(f'{section.place}: has no "algorithm"; add one of {", ".join(ALGORITHMS)}')
    if name in NOT_YET:
        raise section.error("algorithm", f'not supported yet by this version: "{name}"; remove this entry')
    if name in REMOVED:
        raise section.error("algorithm", f'"{name}" is gone from NNCF 3 and not provided here; remove this entry')
    if name not in ALGORITHMS:
        known = ", ".join(ALGORITHMS)
        raise section.error("algorithm", f'unknown algorithm "{name}"{nearest(name, ALGORITHMS)}; known: {known}')
    return ALGORITHMS[name]


def _refuse_repetition(algorithms: tuple[AlgorithmConfig, ...]) -> None:
    seen: dict[str, str] = {}
    for config in algorithms:
        if config.algorithm in seen:
            raise ConfigError(f'{config.place}: "{config.algorithm}" is given a second time; keep one entry')
        seen[config.algorithm] = config.place
