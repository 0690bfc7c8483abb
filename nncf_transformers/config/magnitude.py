"""Magnitude sparsity and constant sparsity, in our own schema and in that of NNCF 1 and 2 (inventory 2.4 and 5.5)."""

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from nncf_transformers.config.errors import nearest
from nncf_transformers.config.legacy import LegacyFile, read_batchnorm_adaptation, take_legacy_scopes
from nncf_transformers.config.model import (
    IMPORTANCES,
    RANKINGS,
    SCHEDULES,
    ConstantSparsityConfig,
    MagnitudeSparsityConfig,
)
from nncf_transformers.config.section import Section, given, take_scopes

STRUCTURES = ("unstructured", "head", "channel")
BLOCK = re.compile(r"[1-9][0-9]*x[1-9][0-9]*")
PATTERN = re.compile(r"([1-9][0-9]*):([1-9][0-9]*)")

LEGACY_SCHEDULES = ("polynomial", "exponential", "adaptive", "multistep")
LEGACY_INITIAL = 0.0
LEGACY_TARGET = 0.5
LEGACY_TARGET_EPOCH = 90.0
LEGACY_FREEZE_EPOCH = 100.0
LEGACY_STEPS = (90.0,)
LEGACY_LEVELS = (0.1, 0.5)
LEGACY_POWER = 0.9


def read_magnitude(section: Section) -> MagnitudeSparsityConfig:
    """Read one ``{"algorithm": "magnitude_sparsity", …}`` object.

    Raises:
        ConfigError: an unknown key, a wrong type, a bad value, values that contradict each other, or a setting that
            the schedule does not use.
    """
    with section:
        section.take("algorithm")
        settings = given(
            schedule=section.take_choice("schedule", SCHEDULES),
            initial_sparsity=section.take_number("initial_sparsity", low=0, below=1),
            final_sparsity=section.take_number("final_sparsity", low=0, below=1),
            start_epoch=section.take_number("start_epoch", low=0),
            end_epoch=section.take_number("end_epoch", low=0),
            freeze_epoch=section.take_number("freeze_epoch", low=0),
            power=section.take_number("power", above=0),
            concave=section.take_bool("concave"),
            multistep_epochs=section.take_numbers("multistep_epochs", low=0),
            multistep_sparsities=section.take_numbers("multistep_sparsities", low=0, below=1),
            update_frequency=section.take_number("update_frequency", above=0),
            steps_per_epoch=section.take_int("steps_per_epoch"),
            importance=section.take_choice("importance", IMPORTANCES),
            ranking=section.take_choice("ranking", RANKINGS),
            structure=section.take_string("structure"),
        )
        scopes = take_scopes(section)
    schedule = settings.get("schedule", MagnitudeSparsityConfig.schedule)
    if schedule != "polynomial":
        section.refuse_idle(["power", "concave"], 'unless "schedule" is "polynomial"')
    if schedule == "multistep":
        section.refuse_idle(
            ["initial_sparsity", "final_sparsity", "start_epoch", "end_epoch"], 'where "schedule" is "multistep"'
        )
        _check_steps(section, settings)
        settings |= _ends_of_steps(settings["multistep_epochs"], settings["multistep_sparsities"])
    else:
        section.refuse_idle(["multistep_epochs", "multistep_sparsities"], 'unless "schedule" is "multistep"')
    _fit_to_structure(section, settings)
    config = MagnitudeSparsityConfig(place=section.place, **settings, **scopes)
    _check_order(section, config)
    return config


def read_legacy_magnitude(section: Section, file: LegacyFile) -> MagnitudeSparsityConfig:
    """Read one legacy ``{"algorithm": "magnitude_sparsity", …}`` object.

    Raises:
        ConfigError: an unknown key, a wrong type, a bad value, values that contradict each other, or the schedule
            "adaptive".
    """
    with section:
        section.take("algorithm")
        initial = section.take_number("sparsity_init", low=0, below=1)
        with section.take_section_or_empty("initializer") as initializer:
            read_batchnorm_adaptation(initializer)
        scopes = take_legacy_scopes(section)
        with section.take_section_or_empty("params") as params:
            schedule = _take_legacy_schedule(params)
            settings = {
                "importance": params.take_choice("weight_importance", IMPORTANCES) or "normed_abs",
                "ranking": params.take_choice("sparsity_level_setting_mode", RANKINGS) or "global",
                **_take_legacy_levels(params, schedule, LEGACY_INITIAL if initial is None else initial),
                **_take_legacy_updates(params, schedule),
            }
            if params.take_number("sparsity_init") is not None:
                params.warn(
                    "sparsity_init", 'has no effect here, and never had: it belongs beside "params", which decides'
                )
    if schedule == "multistep":
        section.warn_idle(["sparsity_init"], 'where the schedule is "multistep"')
    _check_legacy_order(params, settings)
    return MagnitudeSparsityConfig(place=section.place, legacy_scopes=True, schedule=schedule, **settings, **scopes)


def read_constant(section: Section) -> ConstantSparsityConfig:
    """Read one ``{"algorithm": "constant_sparsity", …}`` object.

    Raises:
        ConfigError: an unknown key or a wrong type.
    """
    with section:
        section.take("algorithm")
        return ConstantSparsityConfig(place=section.place, **take_scopes(section))


def read_legacy_constant(section: Section, file: LegacyFile) -> ConstantSparsityConfig:
    """Read one legacy ``{"algorithm": "const_sparsity", …}`` object.

    Raises:
        ConfigError: an unknown key or a wrong type.
    """
    with section:
        section.take("algorithm")
        return ConstantSparsityConfig(place=section.place, legacy_scopes=True, **take_legacy_scopes(section))


def _check_steps(section: Section, settings: dict[str, Any]) -> None:
    """Refuse steps that are not a schedule: two lists, epochs rising, one more sparsity, none falling."""
    epochs, levels = settings.get("multistep_epochs"), settings.get("multistep_sparsities")
    if epochs is None:
        raise section.missing("multistep_epochs", "the epochs at which the sparsity changes, e.g. [2, 4]")
    if levels is None:
        raise section.missing(
            "multistep_sparsities", "the sparsities, the first of them from the start on, e.g. [0.2, 0.5, 0.8]"
        )
    _check_levels(section, "multistep_epochs", epochs, "multistep_sparsities", levels)


def _check_levels(
    section: Section, epochs_key: str, epochs: Sequence[float], levels_key: str, levels: Sequence[float]
) -> None:
    if not epochs:
        raise section.error(epochs_key, "is empty; give the epochs at which the sparsity changes, e.g. [2, 4]")
    if len(levels) != len(epochs) + 1:
        raise section.error(
            levels_key, f"has {len(levels)} numbers, must have one more than {epochs_key}, so {len(epochs) + 1}"
        )
    for before, after in pairwise(epochs):
        if after <= before:
            raise section.error(epochs_key, f"has {after:g} behind {before:g}, must rise from number to number")
    for before, after in pairwise(levels):
        if after < before:
            raise section.error(levels_key, f"has {after:g} behind {before:g}, must not fall")


def _ends_of_steps(epochs: Sequence[float], levels: Sequence[float]) -> dict[str, float]:
    """Fill in what the other schedules are given, so that it can be relied on whatever the schedule."""
    return {
        "initial_sparsity": levels[0],
        "final_sparsity": levels[-1],
        "start_epoch": 0.0,
        "end_epoch": epochs[-1],
    }


def _fit_to_structure(section: Section, settings: dict[str, Any]) -> None:
    """Check the structure, and take the final sparsity from it where it says so itself."""
    structure = settings.get("structure", MagnitudeSparsityConfig.structure)
    if structure in STRUCTURES or BLOCK.fullmatch(structure):
        return
    pattern = PATTERN.fullmatch(structure)
    if pattern is None:
        hint = nearest(structure, STRUCTURES)
        raise section.error(
            "structure", f'is "{structure}", must be {", ".join(STRUCTURES)}, RxC (e.g. 4x1) or N:M (e.g. 2:4){hint}'
        )
    kept, group = int(pattern[1]), int(pattern[2])
    if kept >= group:
        raise section.error("structure", f'is "{structure}", must keep fewer weights than it counts, e.g. 2:4')
    if settings.get("ranking") == "global":
        raise section.error(
            "ranking", f'is "global", but "{structure}" keeps the same number of weights everywhere; write "local"'
        )
    sparsity = (group - kept) / group
    if not math.isclose(settings.setdefault("final_sparsity", sparsity), sparsity, abs_tol=1e-6):
        steps = settings.get("schedule") == "multistep"
        raise section.error(
            "multistep_sparsities" if steps else "final_sparsity",
            f'{"ends at" if steps else "is"} {settings["final_sparsity"]:g}, but "{structure}" means {sparsity:g}; '
            + ("end there" if steps else "leave it out"),
        )


def _check_order(section: Section, config: MagnitudeSparsityConfig) -> None:
    if config.schedule != "multistep":
        if config.end_epoch <= config.start_epoch:
            raise section.error(
                "end_epoch", f"is {config.end_epoch:g}, must be greater than start_epoch, {config.start_epoch:g}"
            )
        if config.initial_sparsity is not None and config.final_sparsity < config.initial_sparsity:
            raise section.error(
                "final_sparsity",
                f"is {config.final_sparsity:g}, must be at least initial_sparsity, {config.initial_sparsity:g}",
            )
    if config.freeze_epoch is not None and config.freeze_epoch < config.end_epoch:
        end = "end_epoch" if config.schedule != "multistep" else "the last of multistep_epochs"
        raise section.error("freeze_epoch", f"is {config.freeze_epoch:g}, must be at least {end}, {config.end_epoch:g}")


def _take_legacy_schedule(params: Section) -> str:
    schedule = params.take_choice("schedule", LEGACY_SCHEDULES) or "polynomial"
    if schedule == "adaptive":
        raise params.error(
            "schedule",
            '"adaptive" watches a loss of sparsity, which magnitude sparsity does not have; write "polynomial", '
            '"exponential" or "multistep"',
        )
    if params.take_number("patience", low=0) is not None:
        params.warn("patience", 'has no effect; only the schedule "adaptive" had patience')
    return schedule


def _take_legacy_levels(params: Section, schedule: str, initial: float) -> dict[str, Any]:
    """How the sparsity rises, and when the masks freeze."""
    target = params.take_number("sparsity_target", low=0, below=1)
    epoch = params.take_number("sparsity_target_epoch", above=0)
    freeze = params.take_number("sparsity_freeze_epoch", low=0)
    power = params.take_number("power", above=0)
    concave = params.take_bool("concave")
    steps = params.take_numbers("multistep_steps", low=0)
    levels = params.take_numbers("multistep_sparsity_levels", low=0, below=1)
    settings: dict[str, Any] = {"freeze_epoch": LEGACY_FREEZE_EPOCH if freeze is None else freeze}
    if schedule == "multistep":
        params.warn_idle(["sparsity_target", "sparsity_target_epoch"], 'where the schedule is "multistep"')
        epochs = tuple(sorted(LEGACY_STEPS if steps is None else steps))
        levels = LEGACY_LEVELS if levels is None else levels
        _check_levels(params, "multistep_steps", epochs, "multistep_sparsity_levels", levels)
        settings |= {"multistep_epochs": epochs, "multistep_sparsities": levels, **_ends_of_steps(epochs, levels)}
    else:
        params.warn_idle(["multistep_steps", "multistep_sparsity_levels"], 'unless the schedule is "multistep"')
        settings |= {
            "initial_sparsity": initial,
            "final_sparsity": LEGACY_TARGET if target is None else target,
            "end_epoch": LEGACY_TARGET_EPOCH if epoch is None else epoch,
        }
    if schedule == "polynomial":
        settings |= {"power": LEGACY_POWER if power is None else power, "concave": concave is not False}
    else:
        params.warn_idle(["power", "concave"], 'unless the schedule is "polynomial"')
    return settings


def _take_legacy_updates(params: Section, schedule: str) -> dict[str, Any]:
    """How often the masks are computed: NNCF did it once an epoch, or with ``polynomial`` in every step if asked."""
    every_step = params.take_bool("update_per_optimizer_step")
    steps_per_epoch = params.take_int("steps_per_epoch")
    if every_step and schedule == "polynomial":
        return {"update_frequency": None, "steps_per_epoch": steps_per_epoch}
    if every_step:
        params.warn("update_per_optimizer_step", f'has no effect: "{schedule}" was updated once an epoch, and still is')
    params.warn_idle(["steps_per_epoch"], "unless masks are updated in every optimizer step")
    return {"update_frequency": 1.0, "steps_per_epoch": None}


def _check_legacy_order(params: Section, settings: dict[str, Any]) -> None:
    initial, final = settings["initial_sparsity"], settings["final_sparsity"]
    if final < initial:
        raise params.error("sparsity_target", f"is {final:g}, must be at least sparsity_init, {initial:g}")
    end, freeze = settings["end_epoch"], settings["freeze_epoch"]
    if freeze < end:
        end_key = "the last of multistep_steps" if "multistep_epochs" in settings else "sparsity_target_epoch"
        raise params.error(
            "sparsity_freeze_epoch",
            f"is {freeze:g}{'' if 'sparsity_freeze_epoch' in params else ' by default'}, must be at least {end_key}, "
            f"{end:g}",
        )
