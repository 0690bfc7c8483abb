"""The series of the real pins on the real upstream, where its mirror is in the user's cache."""

import ast
import json
import os
import shutil
from pathlib import Path

import pytest
from fake_upstream import REPOSITORY

from overlay.apply import apply, checked_series, locked_stack, revert
from overlay.commands import resolve_layout
from overlay.drift import drift
from overlay.errors import IntegrityError, UpstreamUnreachable
from overlay.layout import Layout
from overlay.lint import lint
from overlay.mirror import HISTORY_REF, find_mirror
from overlay.pins import Pin, load_pins
from overlay.rebase import Request, rebase
from overlay.stack import scratch_repository
from overlay.status import State, status

PINS = load_pins(REPOSITORY / "pins.toml")
LAYOUT = resolve_layout(REPOSITORY, None, os.environ)
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


def with_history(name: str) -> Pin:
    pin = PINS.get(name)
    mirror = find_mirror(pin, LAYOUT)
    if not mirror.is_ready or not mirror.git.succeeds("rev-parse", "--verify", "--quiet", HISTORY_REF):
        pytest.skip(f"upstream's history is not in {LAYOUT.cache}; run 'python apply_patch.py fetch --history'")
    return pin


@pytest.mark.upstream
def test_trainer_based_scripts_are_carried_to_february_2026() -> None:
    pin = with_history("v4.57")
    try:
        report = drift(pin, LAYOUT, to="ae05b2ae619a")
    except (IntegrityError, UpstreamUnreachable) as error:
        pytest.skip(f"the mirror lacks what drift needs: {error}")
    assert report.commits == 1415
    broken = {(hunk.path.rsplit("/", 1)[1], commit.sha[:12]) for hunk, (commit, _) in report.carried.broken.items()}
    assert broken == {("run_squad.py", "1a0ae4bb81ca")}
    assert all(step.outcomes for step in report.carried.steps)


@pytest.mark.upstream
def test_rebase_gives_the_series_of_the_newer_pin(tmp_path: Path) -> None:
    pin, newer = with_history("v4.57"), PINS.get("v5.2")
    shutil.copytree(REPOSITORY / "patches", tmp_path / "patches")
    shutil.rmtree(tmp_path / newer.patches)
    text = (REPOSITORY / "pins.toml").read_text()
    begin = text.index('[pins."v5.2"]')
    entry = text[begin : text.index("\n\n[pins", text.index('[pins."v5.2".scripts]')) + 1]
    (tmp_path / "pins.toml").write_text(text.replace(f"{entry}\n", ""))
    layout = Layout(tmp_path, LAYOUT.cache)
    request = Request(newer.commit, "v5.2", newer.library)
    try:
        rebase(pin, load_pins(tmp_path / "pins.toml"), layout, request)
    except (IntegrityError, UpstreamUnreachable) as error:
        pytest.skip(f"the mirror lacks what rebase needs: {error}")
    made = {path.name: path.read_bytes() for path in (tmp_path / newer.patches).iterdir()}
    assert made == {path.name: path.read_bytes() for path in (REPOSITORY / newer.patches).iterdir()}
    assert (tmp_path / "pins.toml").read_text().endswith(f"\n{entry}")
