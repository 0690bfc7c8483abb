"""Magnitude and constant sparsity: what is read, and what every mistake is called."""

from typing import Any

import pytest

from nncf_transformers.config import ConfigError, ConstantSparsityConfig, MagnitudeSparsityConfig, parse_config

PLACE = "f.json: algorithms[0]"


def magnitude(**settings: Any) -> MagnitudeSparsityConfig:
    """The settings of a config with one algorithm."""
    config = parse_config({"algorithms": [{"algorithm": "magnitude_sparsity", **settings}]}, "f.json")
    (algorithm,) = config.algorithms
    assert isinstance(algorithm, MagnitudeSparsityConfig)
    assert config.warnings == ()
    return algorithm


def legacy(params: dict[str, Any], **settings: Any) -> tuple[MagnitudeSparsityConfig, tuple[str, ...]]:
    """Settings and warnings of a legacy config."""
    entry = {"algorithm": "magnitude_sparsity", "params": params, **settings}
    config = parse_config({"compression": entry}, "f.json")
    (algorithm,) = config.algorithms
    assert isinstance(algorithm, MagnitudeSparsityConfig)
    return algorithm, config.warnings


def test_the_smallest_config_is_all_defaults() -> None:
    assert magnitude() == MagnitudeSparsityConfig(place=PLACE)


def test_every_key_arrives() -> None:
    assert magnitude(
        schedule="polynomial",
        initial_sparsity=0.1,
        final_sparsity=0.9,
        start_epoch=0.5,
        end_epoch=3,
        freeze_epoch=4,
        power=2,
        concave=False,
        update_frequency=0.25,
        steps_per_epoch=12,
        importance="normed_abs",
        ranking="global",
        structure="4x1",
        target_scopes="bert.encoder",
        ignored_scopes=["x"],
    ) == MagnitudeSparsityConfig(
        place=PLACE,
        target_scopes=("bert.encoder",),
        ignored_scopes=("x",),
        schedule="polynomial",
        initial_sparsity=0.1,
        final_sparsity=0.9,
        start_epoch=0.5,
        end_epoch=3.0,
        freeze_epoch=4.0,
        power=2.0,
        concave=False,
        update_frequency=0.25,
        steps_per_epoch=12,
        importance="normed_abs",
        ranking="global",
        structure="4x1",
    )


def test_steps_fill_in_their_ends() -> None:
    config = magnitude(schedule="multistep", multistep_epochs=[2, 4.5], multistep_sparsities=[0, 0.5, 0.5])
    assert (config.multistep_epochs, config.multistep_sparsities) == ((2.0, 4.5), (0.0, 0.5, 0.5))
    assert (config.start_epoch, config.end_epoch) == (0.0, 4.5)
    assert (config.initial_sparsity, config.final_sparsity) == (0.0, 0.5)


@pytest.mark.parametrize("structure", ["unstructured", "head", "channel", "4x1", "32x32", "1x4"])
def test_structures(structure: str) -> None:
    assert magnitude(structure=structure, ranking="global").structure == structure


@pytest.mark.parametrize("structure, sparsity", [("2:4", 0.5), ("1:4", 0.75), ("4:16", 0.75), ("1:3", 2 / 3)])
def test_a_pattern_says_the_sparsity_itself(structure: str, sparsity: float) -> None:
    assert magnitude(structure=structure).final_sparsity == sparsity
    assert magnitude(structure=structure, final_sparsity=sparsity).final_sparsity == sparsity
    steps = {"schedule": "multistep", "multistep_epochs": [1], "multistep_sparsities": [0, sparsity]}
    assert magnitude(structure=structure, **steps).final_sparsity == sparsity


STEPS: dict[str, Any] = {"schedule": "multistep", "multistep_epochs": [1], "multistep_sparsities": [0, 0.5]}


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"final_sparsty": 0.5}, 'final_sparsty: unknown key "final_sparsty" (did you mean "final_sparsity"?)'),
        (
            {"schedule": "adaptive"},
            'schedule: is "adaptive", must be one of polynomial, exponential, multistep, linear',
        ),
        ({"initial_sparsity": 1}, "initial_sparsity: is 1, must be a number from 0 to below 1"),
        ({"final_sparsity": 1}, "final_sparsity: is 1, must be a number from 0 to below 1"),
        ({"final_sparsity": 80}, "final_sparsity: is 80, must be a number from 0 to below 1"),
        ({"initial_sparsity": -0.1}, "initial_sparsity: is -0.1, must be a number from 0 to below 1"),
        (
            {"initial_sparsity": 0.6, "final_sparsity": 0.5},
            "final_sparsity: is 0.5, must be at least initial_sparsity, 0.6",
        ),
        ({"start_epoch": -1}, "start_epoch: is -1, must be a number of at least 0"),
        ({"end_epoch": -1}, "end_epoch: is -1, must be a number of at least 0"),
        ({"end_epoch": 0}, "end_epoch: is 0, must be greater than start_epoch, 0"),
        ({"start_epoch": 2, "end_epoch": 2}, "end_epoch: is 2, must be greater than start_epoch, 2"),
        ({"end_epoch": 3, "freeze_epoch": 2}, "freeze_epoch: is 2, must be at least end_epoch, 3"),
        ({"freeze_epoch": -2}, "freeze_epoch: is -2, must be a number of at least 0"),
        ({"power": 2}, 'power: has no effect unless "schedule" is "polynomial"; remove it'),
        ({"schedule": "linear", "concave": True}, 'concave: has no effect unless "schedule" is "polynomial"'),
        ({"schedule": "polynomial", "power": 0}, "power: is 0, must be a number above 0"),
        ({"multistep_epochs": [1]}, 'multistep_epochs: has no effect unless "schedule" is "multistep"'),
        ({"multistep_sparsities": [0]}, 'multistep_sparsities: has no effect unless "schedule" is "multistep"'),
        ({"schedule": "multistep"}, "multistep_epochs: is missing; give the epochs"),
        ({"schedule": "multistep", "multistep_epochs": [1]}, "multistep_sparsities: is missing; give the sparsities"),
        ({"schedule": "multistep", "multistep_epochs": [], "multistep_sparsities": [0]}, "multistep_epochs: is empty"),
        ({**STEPS, "final_sparsity": 0.5}, 'final_sparsity: has no effect where "schedule" is "multistep"; remove it'),
        ({**STEPS, "initial_sparsity": 0.1}, 'initial_sparsity: has no effect where "schedule" is "multistep"'),
        ({**STEPS, "start_epoch": 1}, 'start_epoch: has no effect where "schedule" is "multistep"'),
        ({**STEPS, "end_epoch": 1}, 'end_epoch: has no effect where "schedule" is "multistep"'),
        ({**STEPS, "freeze_epoch": 0}, "freeze_epoch: is 0, must be at least the last of multistep_epochs, 1"),
        (
            {**STEPS, "multistep_sparsities": [0.5]},
            "multistep_sparsities: has 1 numbers, must have one more than multistep_epochs, so 2",
        ),
        (
            {**STEPS, "multistep_epochs": [2, 2], "multistep_sparsities": [0, 0, 0]},
            "multistep_epochs: has 2 behind 2, must rise from number to number",
        ),
        ({**STEPS, "multistep_sparsities": [0.5, 0.2]}, "multistep_sparsities: has 0.2 behind 0.5, must not fall"),
        (
            {**STEPS, "multistep_sparsities": [0.5, 1]},
            "multistep_sparsities: is a list ([0.5, 1]), must be a list of numbers from 0 to below 1",
        ),
        ({**STEPS, "multistep_epochs": [-1]}, "multistep_epochs: is a list ([-1]), must be a list of numbers of at"),
        ({**STEPS, "multistep_epochs": 3}, "multistep_epochs: is a number (3), must be a list of numbers"),
        ({"update_frequency": 0}, "update_frequency: is 0, must be a number above 0"),
        ({"steps_per_epoch": 0}, "steps_per_epoch: is 0, must be a number of at least 1"),
        ({"importance": "norm"}, 'importance: is "norm", must be one of abs, normed_abs'),
        ({"ranking": "globl"}, 'ranking: is "globl", must be one of local, global (did you mean "global"?)'),
        ({"structure": "heads"}, "2:4) (did you mean "),
        (
            {"structure": "0x4"},
            'structure: is "0x4", must be unstructured, head, channel, RxC (e.g. 4x1) or N:M (e.g. 2:4)',
        ),
        ({"structure": "4X1"}, 'structure: is "4X1", must be unstructured'),
        ({"structure": "4:4"}, 'structure: is "4:4", must keep fewer weights than it counts, e.g. 2:4'),
        ({"structure": "5:4"}, 'structure: is "5:4", must keep fewer'),
        ({"structure": "0:4"}, 'structure: is "0:4", must be unstructured'),
        ({"structure": "2:4", "final_sparsity": 0.8}, 'final_sparsity: is 0.8, but "2:4" means 0.5; leave it out'),
        (
            {"structure": "1:4", **STEPS},
            'multistep_sparsities: ends at 0.5, but "1:4" means 0.75; end there',
        ),
        (
            {"structure": "2:4", "initial_sparsity": 0.6},
            "final_sparsity: is 0.5, must be at least initial_sparsity, 0.6",
        ),
        ({"structure": "2:4", "ranking": "global"}, 'ranking: is "global", but "2:4" keeps the same number'),
        ({"target_scopes": [""]}, "target_scopes: holds the empty entry"),
    ],
)
def test_mistakes(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        magnitude(**settings)
    assert str(caught.value).startswith("f.json: algorithms[0].")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_old_defaults_are_those_of_the_old_schema() -> None:
    config, warnings = legacy({})
    assert warnings == ()
    assert config == MagnitudeSparsityConfig(
        place="f.json: compression",
        legacy_scopes=True,
        schedule="polynomial",
        initial_sparsity=0.0,
        final_sparsity=0.5,
        start_epoch=0.0,
        end_epoch=90.0,
        freeze_epoch=100.0,
        power=0.9,
        concave=True,
        update_frequency=1.0,
        importance="normed_abs",
        ranking="global",
    )
    without_params = parse_config({"compression": {"algorithm": "magnitude_sparsity"}}, "f.json")
    assert without_params.algorithms == (config,)
    steps, _ = legacy({"schedule": "multistep"})
    assert (steps.multistep_epochs, steps.multistep_sparsities) == ((90.0,), (0.1, 0.5))
    assert (steps.initial_sparsity, steps.final_sparsity, steps.end_epoch) == (0.1, 0.5, 90.0)


def test_old_steps_are_sorted_as_they_were() -> None:
    config, _ = legacy(
        {"schedule": "multistep", "multistep_steps": [9, 3], "multistep_sparsity_levels": [0.1, 0.2, 0.3]}
    )
    assert config.multistep_epochs == (3.0, 9.0)


def test_how_often_masks_were_updated() -> None:
    once, warnings = legacy({"update_per_optimizer_step": False, "steps_per_epoch": 8})
    assert (once.update_frequency, once.steps_per_epoch) == (1.0, None)
    assert "steps_per_epoch: has no effect unless masks are updated in every optimizer step" in warnings[0]
    always, warnings = legacy({"update_per_optimizer_step": True, "steps_per_epoch": 8})
    assert (always.update_frequency, always.steps_per_epoch, warnings) == (None, 8, ())
    for schedule in ("exponential", "multistep"):
        config, warnings = legacy({"update_per_optimizer_step": True, "schedule": schedule})
        assert config.update_frequency == 1.0
        assert "was updated once an epoch" in warnings[0]


@pytest.mark.parametrize(
    "params, beside, message",
    [
        ({"schedule": "adaptive"}, {}, '.params.schedule: "adaptive" watches a loss of sparsity'),
        ({"schedule": "cubic"}, {}, '.params.schedule: is "cubic", must be one of polynomial, exponential, adaptive, '),
        ({"sparsity_target": 1}, {}, ".params.sparsity_target: is 1, must be a number from 0 to below 1"),
        (
            {"sparsity_target": 0.1},
            {"sparsity_init": 0.2},
            ".params.sparsity_target: is 0.1, must be at least sparsity_",
        ),
        ({}, {"sparsity_init": 0.6}, ".params.sparsity_target: is 0.5, must be at least sparsity_init, 0.6"),
        ({}, {"sparsity_init": 1}, ".sparsity_init: is 1, must be a number from 0 to below 1"),
        ({"sparsity_target_epoch": 0}, {}, ".params.sparsity_target_epoch: is 0, must be a number above 0"),
        (
            {"sparsity_target_epoch": 9, "sparsity_freeze_epoch": 8},
            {},
            ".params.sparsity_freeze_epoch: is 8, must be at least sparsity_target_epoch, 9",
        ),
        ({"sparsity_target_epoch": 120}, {}, ".params.sparsity_freeze_epoch: is 100 by default, must be at least"),
        (
            {"schedule": "multistep", "multistep_steps": [101]},
            {},
            ".params.sparsity_freeze_epoch: is 100 by default, must be at least the last of multistep_steps, 101",
        ),
        (
            {"schedule": "multistep", "multistep_steps": [1, 2]},
            {},
            ".params.multistep_sparsity_levels: has 2 numbers, must have one more than multistep_steps, so 3",
        ),
        (
            {"schedule": "multistep", "multistep_sparsity_levels": [0.5, 0.1]},
            {},
            ".params.multistep_sparsity_levels: has 0.1 behind 0.5, must not fall",
        ),
        ({"schedule": "multistep", "multistep_steps": []}, {}, ".params.multistep_steps: is empty"),
    ],
)
def test_mistakes_in_the_legacy_form(params: dict[str, Any], beside: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        legacy(params, **beside)
    assert str(caught.value).startswith(f"f.json: compression{message}")
    assert "\n" not in str(caught.value)


def test_constant_sparsity_in_both_schemas() -> None:
    own = {"algorithm": "constant_sparsity", "target_scopes": "a", "ignored_scopes": ["b", "c"]}
    (config,) = parse_config({"algorithms": own}, "f.json").algorithms
    assert config == ConstantSparsityConfig("f.json: algorithms", ("a",), ("b", "c"))
    (config,) = parse_config({"compression": own | {"algorithm": "const_sparsity"}}, "f.json").algorithms
    assert config == ConstantSparsityConfig("f.json: compression", ("a",), ("b", "c"), legacy_scopes=True)
    with pytest.raises(ConfigError, match=r'sparsity: unknown key "sparsity"; valid keys: algorithm, ignored_scop'):
        parse_config({"algorithms": own | {"sparsity": 0.5}}, "f.json")
