"""Movement sparsity, in our own schema and in that of NNCF 2 (inventory 2.1)."""

from typing import Any

from nncf_transformers.config.legacy import LegacyFile, take_legacy_scopes
from nncf_transformers.config.model import STRUCTURE_MODES, MovementSparsityConfig, SparseStructure
from nncf_transformers.config.section import Section, given, take_scopes

REQUIRED = {
    "warmup_start_epoch": "the epoch at which masks begin to grow, e.g. 1",
    "warmup_end_epoch": "the epoch from which masks are fixed, e.g. 4",
    "importance_regularization_factor": "the final factor of the penalty on scores, e.g. 0.02",
}


def read_movement(section: Section) -> MovementSparsityConfig:
    """Read one ``{"algorithm": "movement_sparsity", …}`` object.

    Raises:
        ConfigError: an unknown key, a wrong type, a bad value, or no schedule.
    """
    with section:
        section.take("algorithm")
        schedule = _take_schedule(section)
        scopes = take_scopes(section)
        structures = _take_structures(section)
        multiplier = section.take_number("score_lr_multiplier", low=0)
    _check_schedule(section, schedule)
    return MovementSparsityConfig(
        place=section.place,
        sparse_structure_by_scopes=structures,
        **schedule,
        **scopes,
        **given(score_lr_multiplier=multiplier),
    )


def read_legacy_movement(section: Section, file: LegacyFile) -> MovementSparsityConfig:
    """Read one legacy ``{"algorithm": "movement_sparsity", …}`` object.

    ``steps_per_epoch`` was required for a warm-up that starts in the first epoch. It is not here, where training
    knows its steps beforehand.

    Raises:
        ConfigError: see :func:`read_movement`.
    """
    with section:
        section.take("algorithm")
        params = section.take_section_or_empty("params")
        with params:
            schedule = _take_schedule(params)
            _take_documented_threshold(params, schedule)
        scopes = take_legacy_scopes(section)
        structures = _take_structures(section)
        multiplier = section.take_number("compression_lr_multiplier", low=0)
    _check_schedule(params, schedule)
    return MovementSparsityConfig(
        place=section.place,
        legacy_scopes=True,
        sparse_structure_by_scopes=structures,
        **schedule,
        **scopes,
        **given(score_lr_multiplier=file.lr_multiplier if multiplier is None else multiplier),
    )


def _take_schedule(section: Section) -> dict[str, Any]:
    """The settings that have one name in both schemas."""
    return given(
        warmup_start_epoch=section.take_number("warmup_start_epoch", low=0),
        warmup_end_epoch=section.take_number("warmup_end_epoch", low=0),
        importance_regularization_factor=section.take_number("importance_regularization_factor", low=0),
        enable_structured_masking=section.take_bool("enable_structured_masking"),
        init_importance_threshold=section.take_number("init_importance_threshold"),
        final_importance_threshold=section.take_number("final_importance_threshold"),
        power=section.take_number("power", above=0),
        steps_per_epoch=section.take_int("steps_per_epoch"),
    )


def _take_documented_threshold(params: Section, schedule: dict[str, Any]) -> None:
    """Accept the name that NNCF's documentation gave to ``init_importance_threshold`` by mistake."""
    key, real = "initial_importance_threshold", "init_importance_threshold"
    value = params.take_number(key)
    if value is None:
        return
    if real in schedule:
        raise params.error(key, f"is the documentation's wrong name of {real}; keep one of the two")
    params.warn(key, f"read as {real}, the setting's real name; NNCF's documentation had it wrong")
    schedule[real] = value


def _check_schedule(section: Section, schedule: dict[str, Any]) -> None:
    for key, what in REQUIRED.items():
        if key not in schedule:
            raise section.missing(key, what)
    start, end = schedule["warmup_start_epoch"], schedule["warmup_end_epoch"]
    if end <= start:
        raise section.error("warmup_end_epoch", f"is {end:g}, must be greater than warmup_start_epoch, {start:g}")
    initial = schedule.get("init_importance_threshold")
    final = schedule.get("final_importance_threshold", MovementSparsityConfig.final_importance_threshold)
    if initial is not None and initial >= final:
        section.warn(
            "init_importance_threshold",
            f"is {initial:g}, not below final_importance_threshold, {final:g}: the threshold does not rise, so that "
            "it makes no mask grow; lower it, or leave it out",
        )


def _take_structures(section: Section) -> tuple[SparseStructure, ...]:
    return tuple(_read_structure(entry) for entry in section.take_sections("sparse_structure_by_scopes"))


def _read_structure(entry: Section) -> SparseStructure:
    with entry:
        mode = entry.take_choice("mode", STRUCTURE_MODES)
        block = _take_factors(entry)
        axis = entry.take_int("axis", low=0)
        scopes = entry.take_strings("target_scopes")
    if mode is None:
        raise entry.missing("mode", f"one of {', '.join(STRUCTURE_MODES)}")
    if not scopes:
        raise entry.missing("target_scopes", "the layers that have this structure")
    if mode == "block" and block is None:
        raise entry.missing("sparse_factors", "the rows and columns of a block, e.g. [32, 32]")
    # A fine structure is one of 1 x 1 blocks, and could be written so.
    if mode == "per_dim" or (mode == "fine" and block != (1, 1)):
        entry.refuse_idle(["sparse_factors"], 'unless "mode" is "block"')
    if mode != "per_dim":
        entry.refuse_idle(["axis"], 'unless "mode" is "per_dim"')
    elif axis is None:
        raise entry.missing("axis", "0 for one score a row (output), or 1 for one a column (input)")
    elif axis > 1:
        raise entry.error("axis", f"is {axis}, must be 0 (rows) or 1 (columns)")
    return SparseStructure(mode, scopes, place=entry.place, **given(block=block, axis=axis))


def _take_factors(entry: Section) -> tuple[int, int] | None:
    value = entry.take("sparse_factors")
    if value is None:
        return None
    numbers = entry.take_numbers("sparse_factors", low=1)
    if numbers is None or len(numbers) != 2 or any(number != int(number) for number in numbers):
        raise entry.error(
            "sparse_factors", f"is {value!r}, must be the rows and columns of a block: two whole numbers, e.g. [32, 32]"
        )
    return int(numbers[0]), int(numbers[1])
