"""Movement sparsity: what is read, and what every mistake is called."""

from typing import Any

import pytest

from nncf_transformers.config import ConfigError, MovementSparsityConfig, parse_config
from nncf_transformers.config.model import SparseStructure

SCHEDULE = {"warmup_start_epoch": 1, "warmup_end_epoch": 4, "importance_regularization_factor": 0.02}
STRUCTURES = [
    {"mode": "block", "sparse_factors": [32, 16], "target_scopes": "{re}attention"},
    {"mode": "per_dim", "axis": 1, "target_scopes": ["a", "b"]},
    {"mode": "fine", "target_scopes": "c"},
    {"mode": "fine", "sparse_factors": [1, 1], "target_scopes": "d"},
]


def read(data: dict[str, Any]) -> tuple[MovementSparsityConfig, tuple[str, ...]]:
    config = parse_config(data, "f.json")
    (algorithm,) = config.algorithms
    assert isinstance(algorithm, MovementSparsityConfig)
    return algorithm, config.warnings


def movement(**settings: Any) -> tuple[MovementSparsityConfig, tuple[str, ...]]:
    """Settings and warnings of a config with one algorithm, on top of a whole schedule."""
    return read({"algorithms": [{"algorithm": "movement_sparsity", **SCHEDULE, **settings}]})


def legacy(params: dict[str, Any], **settings: Any) -> tuple[MovementSparsityConfig, tuple[str, ...]]:
    """The same, from the legacy schema."""
    entry = {"algorithm": "movement_sparsity", "params": {**SCHEDULE, **params}, **settings}
    return read({"compression": [entry]})


def test_only_the_schedule_is_required() -> None:
    config, warnings = movement()
    assert warnings == ()
    assert config == MovementSparsityConfig(
        place="f.json: algorithms[0]",
        warmup_start_epoch=1.0,
        warmup_end_epoch=4.0,
        importance_regularization_factor=0.02,
    )


def test_every_key_arrives() -> None:
    config, warnings = movement(
        warmup_start_epoch=0,
        warmup_end_epoch=0.5,
        importance_regularization_factor=0,
        enable_structured_masking=False,
        init_importance_threshold=-2.5,
        final_importance_threshold=-1,
        power=1.5,
        steps_per_epoch=100,
        target_scopes="bert.encoder",
        ignored_scopes=["x", "{re}y"],
        score_lr_multiplier=10,
        sparse_structure_by_scopes=STRUCTURES,
    )
    assert warnings == ()
    place = "f.json: algorithms[0]"
    assert config == MovementSparsityConfig(
        place=place,
        target_scopes=("bert.encoder",),
        ignored_scopes=("x", "{re}y"),
        warmup_start_epoch=0.0,
        warmup_end_epoch=0.5,
        importance_regularization_factor=0.0,
        enable_structured_masking=False,
        init_importance_threshold=-2.5,
        final_importance_threshold=-1.0,
        power=1.5,
        steps_per_epoch=100,
        score_lr_multiplier=10.0,
        sparse_structure_by_scopes=(
            SparseStructure("block", ("{re}attention",), (32, 16), place=f"{place}.sparse_structure_by_scopes[0]"),
            SparseStructure("per_dim", ("a", "b"), axis=1, place=f"{place}.sparse_structure_by_scopes[1]"),
            SparseStructure("fine", ("c",), place=f"{place}.sparse_structure_by_scopes[2]"),
            SparseStructure("fine", ("d",), place=f"{place}.sparse_structure_by_scopes[3]"),
        ),
    )


def test_the_legacy_form_means_the_same() -> None:
    changed = {"power": 2, "enable_structured_masking": False, "final_importance_threshold": 0.5, "steps_per_epoch": 7}
    config, warnings = legacy(
        changed,
        sparse_structure_by_scopes=STRUCTURES,
        ignored_scopes="{re}x",
        target_scopes=["y"],
        compression_lr_multiplier=3,
    )
    assert warnings == ()
    assert config.legacy_scopes
    assert config.place == "f.json: compression[0]"
    assert (config.ignored_scopes, config.target_scopes) == (("{re}x",), ("y",))
    assert (config.power, config.final_importance_threshold, config.steps_per_epoch) == (2.0, 0.5, 7)
    assert not config.enable_structured_masking
    assert config.score_lr_multiplier == 3.0
    assert [entry.mode for entry in config.sparse_structure_by_scopes] == ["block", "per_dim", "fine", "fine"]


def test_a_legacy_warm_up_may_start_at_once() -> None:
    """NNCF then required steps_per_epoch, which it could not know in time."""
    config, warnings = legacy({"warmup_start_epoch": 0.5, "steps_per_epoch": None})
    assert (config.warmup_start_epoch, config.steps_per_epoch) == (0.5, None)
    assert warnings == ()


def test_multipliers_of_the_legacy_file_and_of_the_algorithm() -> None:
    entry: dict[str, Any] = {"algorithm": "movement_sparsity", "params": SCHEDULE}
    data: dict[str, Any] = {"compression_lr_multiplier": 7, "compression": entry}
    config, warnings = read(data)
    assert (config.score_lr_multiplier, warnings) == (7.0, ())
    entry["compression_lr_multiplier"] = 3
    assert read(data)[0].score_lr_multiplier == 3.0


def test_the_documented_name_of_the_threshold() -> None:
    config, warnings = legacy({"initial_importance_threshold": -1})
    assert config.init_importance_threshold == -1.0
    assert len(warnings) == 1
    assert warnings[0].startswith("f.json: compression[0].params.initial_importance_threshold: read as init_importance")
    with pytest.raises(ConfigError, match=r"params\.initial_importance_threshold: is the documentation's wrong name"):
        legacy({"initial_importance_threshold": -1, "init_importance_threshold": -1})
    with pytest.raises(ConfigError, match='did you mean "init_importance_threshold"'):
        movement(initial_importance_threshold=-1)


@pytest.mark.parametrize("initial", [0, 0.5])
def test_a_threshold_that_does_not_rise_is_a_warning(initial: float) -> None:
    config, warnings = movement(init_importance_threshold=initial)
    assert config.init_importance_threshold == initial
    assert len(warnings) == 1
    assert warnings[0].startswith(
        f"f.json: algorithms[0].init_importance_threshold: is {initial:g}, not below final_importance_threshold, 0"
    )
    _, warnings = legacy({"init_importance_threshold": initial, "final_importance_threshold": -1})
    assert len(warnings) == 1
    assert "compression[0].params.init_importance_threshold" in warnings[0]


STRUCTURE = "sparse_structure_by_scopes"
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"warmup_start_epoch": None}, "warmup_start_epoch: is missing; give the epoch"),
    ({"warmup_end_epoch": None}, "warmup_end_epoch: is missing; give the epoch"),
    ({"importance_regularization_factor": None}, "importance_regularization_factor: is missing; give the final factor"),
    ({"warmup_start_epoch": -1}, "warmup_start_epoch: is -1, must be a number of at least 0"),
    ({"warmup_end_epoch": 1}, "warmup_end_epoch: is 1, must be greater than warmup_start_epoch, 1"),
    ({"importance_regularization_factor": -1}, "importance_regularization_factor: is -1, must be a number of at least"),
    ({"enable_structured_masking": 1}, "enable_structured_masking: is a number (1), must be true or false"),
    ({"init_importance_threshold": "low"}, "init_importance_threshold: is a string ('low'), must be a number"),
    ({"final_importance_threshold": float("inf")}, "final_importance_threshold: is inf, must be a number that is fini"),
    ({"power": 0}, "power: is 0, must be a number above 0"),
    ({"steps_per_epoch": 0}, "steps_per_epoch: is 0, must be a number of at least 1"),
    ({"steps_per_epoch": 1.5}, "steps_per_epoch: is 1.5, must be a whole number"),
    ({"warmup_strat_epoch": 1}, 'unknown key "warmup_strat_epoch" (did you mean "warmup_start_epoch"?)'),
]
STRUCTURE_MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"target_scopes": "x"}, ".mode: is missing; give one of fine, block, per_dim"),
    ({"mode": "blocks", "target_scopes": "x"}, '.mode: is "blocks", must be one of fine, block, per_dim (did you mean'),
    ({"mode": "fine"}, ".target_scopes: is missing; give the layers"),
    ({"mode": "fine", "target_scopes": []}, ".target_scopes: is missing; give the layers"),
    ({"mode": "fine", "target_scopes": "{re}"}, ".target_scopes: holds the empty entry"),
    ({"mode": "block", "target_scopes": "x"}, ".sparse_factors: is missing; give the rows and columns"),
    ({"mode": "block", "sparse_factors": [32], "target_scopes": "x"}, ".sparse_factors: is [32], must be the rows and"),
    ({"mode": "block", "sparse_factors": [1.5, 2], "target_scopes": "x"}, ".sparse_factors: is [1.5, 2], must be the "),
    ({"mode": "block", "sparse_factors": [0, 2], "target_scopes": "x"}, ".sparse_factors: is a list ([0, 2]), must be"),
    (
        {"mode": "block", "sparse_factors": 32, "target_scopes": "x"},
        ".sparse_factors: is a number (32), must be a list",
    ),
    ({"mode": "block", "sparse_factors": [2, True], "target_scopes": "x"}, ".sparse_factors: is a list ([2, True]), "),
    (
        {"mode": "fine", "sparse_factors": [2, 2], "target_scopes": "x"},
        '.sparse_factors: has no effect unless "mode" is "block"; remove it',
    ),
    (
        {"mode": "per_dim", "axis": 0, "sparse_factors": [1, 1], "target_scopes": "x"},
        '.sparse_factors: has no effect unless "mode" is "block"',
    ),
    ({"mode": "fine", "axis": 0, "target_scopes": "x"}, '.axis: has no effect unless "mode" is "per_dim"; remove it'),
    (
        {"mode": "block", "sparse_factors": [2, 2], "axis": 0, "target_scopes": "x"},
        '.axis: has no effect unless "mode" is "per_dim"',
    ),
    ({"mode": "per_dim", "target_scopes": "x"}, ".axis: is missing; give 0 for one score a row"),
    ({"mode": "per_dim", "axis": 2, "target_scopes": "x"}, ".axis: is 2, must be 0 (rows) or 1 (columns)"),
    ({"mode": "per_dim", "axis": -1, "target_scopes": "x"}, ".axis: is -1, must be a number of at least 0"),
    ({"mode": "fine", "scopes": "x"}, '.scopes: unknown key "scopes" (did you mean "target_scopes"?)'),
]


@pytest.mark.parametrize("settings, message", MISTAKES)
def test_mistakes_in_both_schemas(settings: dict[str, Any], message: str) -> None:
    for read_it, place in ((lambda: movement(**settings), "algorithms[0]."), (lambda: legacy(settings), ".params.")):
        with pytest.raises(ConfigError) as caught:
            read_it()
        assert message in str(caught.value)
        assert place in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("entry, message", STRUCTURE_MISTAKES)
def test_mistakes_in_structures(entry: dict[str, Any], message: str) -> None:
    structures = [STRUCTURES[0], entry]
    for read_it in (lambda: movement(**{STRUCTURE: structures}), lambda: legacy({}, **{STRUCTURE: structures})):
        with pytest.raises(ConfigError) as caught:
            read_it()
        assert f"[0].{STRUCTURE}[1]{message}" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_mistakes_beside_the_schedule() -> None:
    with pytest.raises(ConfigError, match=r"score_lr_multiplier: is -1, must be a number of at least 0"):
        movement(score_lr_multiplier=-1)
    with pytest.raises(ConfigError, match=r"compression\.params\.warmup_start_epoch: is missing"):
        parse_config({"compression": {"algorithm": "movement_sparsity"}}, "f.json")
    with pytest.raises(ConfigError, match=rf"algorithms\[0\]\.{STRUCTURE}: is a string, must be an object"):
        movement(**{STRUCTURE: "block"})
