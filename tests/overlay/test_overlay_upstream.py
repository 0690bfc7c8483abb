"""The series of the real pins on the real upstream, where its mirror is in the user's cache."""

import ast
import json
from pathlib import Path

import pytest
from fake_upstream import REPOSITORY

from overlay.apply import apply, checked_series, locked_stack, revert
from overlay.layout import Layout, default_cache
from overlay.lint import lint
from overlay.mirror import find_mirror
from overlay.pins import Pin, load_pins
from overlay.stack import scratch_repository
from overlay.status import State, status

PINS = load_pins(REPOSITORY / "pins.toml")
LAYOUT = Layout(REPOSITORY, default_cache())
FETCHED_PINS = [pin for pin in PINS.by_name.values() if pin.upstream]


@pytest.fixture(params=FETCHED_PINS, ids=lambda pin: pin.name)
def pin(request: pytest.FixtureRequest) -> Pin:
    if not find_mirror(request.param, LAYOUT).is_ready:
        pytest.skip(
            f"upstream of {request.param.name} is not in {LAYOUT.cache}; "
            f"run 'python apply_patch.py fetch --pin {request.param.name}'"
        )
    return request.param


@pytest.mark.parametrize("name", PINS.by_name)
def test_every_series_is_clean(name: str) -> None:
    assert [str(finding) for finding in lint(PINS.get(name), LAYOUT)] == []


@pytest.mark.upstream
def test_the_series_gives_the_locked_commit(pin: Pin) -> None:
    mirror = find_mirror(pin, LAYOUT)
    series, lock = checked_series(pin, LAYOUT, mirror)
    with scratch_repository(mirror) as git:
        commits = locked_stack(git, series, lock)
        assert len(commits) == len(series.patches) > 0


@pytest.mark.upstream
def test_patched_scripts_parse_and_the_pin_is_of_its_day(pin: Pin) -> None:
    mirror = find_mirror(pin, LAYOUT)
    series, lock = checked_series(pin, LAYOUT, mirror)
    with scratch_repository(mirror) as git:
        applied = [pin.commit, *locked_stack(git, series, lock)][-1]
        touched = {path for patch in series.patches for path in patch.paths}
        for path in touched | set(pin.scripts.values()):
            ast.parse(git.run("cat-file", "blob", f"{applied}:{path}"))
        assert git.text("show", "--no-patch", "--format=%cs", pin.commit) == pin.date.isoformat()


@pytest.mark.upstream
def test_apply_in_a_project_of_its_own(pin: Pin, tmp_path: Path) -> None:
    (tmp_path / "patches").symlink_to(REPOSITORY / "patches")
    layout = Layout(tmp_path, LAYOUT.cache)
    expected = json.loads((LAYOUT.series(pin) / "series.lock.json").read_text())["applied"]
    assert apply(pin, layout).commit == expected
    assert status(pin, layout).state is State.APPLIED
    assert revert(pin, layout) == pin.commit
    assert apply(pin, layout).commit == expected
