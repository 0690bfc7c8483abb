"""drift and rebase through the command line, on a fake upstream whose history has everything in it."""

import json
from pathlib import Path

import pytest
from fake_upstream import IMPORT, RUN_ONE, RUN_TWO, TRAINER_ONE, Project, Upstream, copy_project, git, write

MOVED = "examples/one/sub/run_one.py"
CALL = "    trainer = Trainer(args)\n"
SEAM = "    trainer.seam()\n"


@pytest.fixture(scope="session")
def historic(tmp_path_factory: pytest.TempPathFactory, template: Project) -> Project:
    """A fetched project whose upstream goes on after the pin: harmless changes, a rename, a deletion, a conflict."""
    home = tmp_path_factory.mktemp("historic")
    project = copy_project(template, home)
    work = home / "work"
    git(home, "clone", "--quiet", str(project.upstream.path), str(work))
    git(work, "reset", "--quiet", "--hard", project.upstream.pinned)
    commits = [project.upstream.commits[0], project.upstream.pinned]

    def commit(subject: str, *edits: tuple[str, str, str]) -> None:
        for path, old, new in edits:
            text = (work / path).read_text()
            assert old in text
            write(work / path, text.replace(old, new))
        git(work, "add", "--all")
        git(work, "commit", "--quiet", "--allow-empty", "-m", subject)
        commits.append(git(work, "rev-parse", "HEAD"))

    commit("Touch the library only", ("src/library.py", "LIB = 1", "LIB = 2"))
    commit("Version 5", *((path, '"4.0.0"', '"5.0.0"') for path in (RUN_ONE, RUN_TWO)))
    commit("Import more", (RUN_ONE, "import logging\n", "import logging\nimport os\n"))
    (work / MOVED).parent.mkdir()
    git(work, "mv", RUN_ONE, MOVED)
    commit("Move run_one, with a change", (MOVED, "third = 3", "third = 33"))
    git(work, "rm", "--quiet", TRAINER_ONE)
    commit("Delete the trainer")
    commit("Work after the move", (MOVED, "fourth = 4", "fourth = 44"))
    old = "logger = logging.getLogger(__name__)\n\n\nclass Arguments:"
    commit("Rename the logger", (RUN_TWO, old, "LOG = None\n\n\nclass Options:"))
    bare = home / "upstream.git"
    git(work, "clone", "--quiet", "--bare", ".", str(bare))
    pins = project.root / "pins.toml"
    pins.write_text(pins.read_text().replace(str(project.upstream.path), str(bare)))
    project = Project(project.root, project.cache, Upstream(bare, tuple(commits)))
    assert project.run("fetch", "--history").code == 0
    return project


@pytest.fixture
def moved_on(tmp_path: Path, historic: Project) -> Project:
    return copy_project(historic, tmp_path)


def report(project: Project, *args: str) -> dict:
    result = project.run("drift", "--json", *args)
    assert result.code in (0, 3), result.err
    return json.loads(result.out)


def test_every_touching_commit_has_a_verdict_for_each_hunk(moved_on: Project) -> None:
    found = report(moved_on)
    assert found["commits"] == 7 and found["survived"] == 1 and found["hunks"] == 3
    verdicts = {
        step["commit"]["subject"]: [(h["path"], h["verdict"], h["moved"], h["renamed_to"]) for h in step["hunks"]]
        for step in found["steps"]
    }
    assert verdicts == {
        "Version 5": [(RUN_ONE, "clean", 0, None), (RUN_TWO, "clean", 0, None)],
        "Import more": [(RUN_ONE, "moved", 1, None)],
        "Move run_one, with a change": [(RUN_ONE, "clean", 0, MOVED)],
        "Delete the trainer": [(TRAINER_ONE, "file deleted", 0, None)],
        "Work after the move": [(RUN_ONE, "clean", 0, None)],
        "Rename the logger": [(RUN_TWO, "conflict", 0, None)],
    }
    broken = {b["path"]: b["commit"]["subject"] for b in found["broken"]}
    assert broken == {TRAINER_ONE: "Delete the trainer", RUN_TWO: "Rename the logger"}
    assert [b["commit"]["sha"] for b in found["broken"]] == [moved_on.upstream.commits[6], moved_on.upstream.commits[8]]


def test_a_range_and_the_exit_code(moved_on: Project) -> None:
    commits = moved_on.upstream.commits
    found = report(moved_on, "--since", commits[3], "--to", commits[5])
    assert [step["commit"]["subject"] for step in found["steps"]] == ["Import more", "Move run_one, with a change"]
    assert moved_on.run("drift", "--to", commits[5]).code == 0
    done = moved_on.run("drift")
    assert done.code == 3
    assert f"01-one.patch {TRAINER_ONE} hunk 1: file deleted, by {commits[6][:12]}" in done.out
    assert "1 of 3 hunks work" in done.out and "upstream commits a second" in done.out


def test_the_page_stands_alone_and_has_every_commit(moved_on: Project, tmp_path: Path) -> None:
    page = tmp_path / "drift.html"
    assert moved_on.run("drift", "--html", str(page)).code == 3
    text = page.read_text()
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    for subject in ("Version 5", "Move run_one, with a change", "Rename the logger"):
        assert subject in text
    assert text.count('class="cell') >= 6


def test_nothing_is_written_by_drift(moved_on: Project) -> None:
    before = sorted(path for path in moved_on.root.rglob("*"))
    moved_on.run("drift")
    assert sorted(path for path in moved_on.root.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("drift", "--to", "nowhere"), "'nowhere' is no commit of"),
        (("drift", "--to", "{0}"), "does not descend from"),
        (("drift", "--since", "{0}"), "does not descend from"),
        (("rebase", "--to", "nowhere", "--as", "v2"), "'nowhere' is no commit of"),
        (("rebase", "--to", "{0}", "--as", "v2"), "does not descend from"),
        (("rebase", "--to", "{3}", "--as", "v1"), "there is a pin of that name"),
        (("rebase", "--to", "{3}", "--as", "a/b"), "a pin's name has only"),
        (("rebase", "--to", "{3}"), "rebase needs --to REF and --as NAME"),
        (("rebase", "--to", "{3}", "--as", "v2"), "give the library with --library"),
        (("rebase", "--pin", "local", "--to", "{3}", "--as", "v2"), "is built from a folder"),
    ],
)
def test_bad_words(moved_on: Project, words: tuple[str, ...], message: str) -> None:
    command, *rest = (word.format(*moved_on.upstream.commits) for word in words)
    before = (moved_on.root / "pins.toml").read_text()
    done = moved_on.run(command, *rest)
    assert done.code == 2 and message in done.err and done.err.count("error: ") == 1
    assert (moved_on.root / "pins.toml").read_text() == before


def test_history_that_was_not_fetched(project: Project) -> None:
    done = project.run("drift")
    assert done.code == 2 and "fetch --history" in done.err


def test_contents_that_nobody_has(moved_on: Project) -> None:
    moved_on.upstream.path.rename(moved_on.root / "gone.git")
    try:
        done = moved_on.cli("drift")
    finally:
        (moved_on.root / "gone.git").rename(moved_on.upstream.path)
    assert done.code == 5
    assert "file contents of upstream's history" in done.err and done.err.splitlines()[-1].startswith(
        "apply_patch.py: "
    )


def test_rebase_that_needs_nobody(moved_on: Project) -> None:
    tip = moved_on.upstream.commits[7]
    done = moved_on.run("rebase", "--to", tip, "--as", "v2", "--library", "library==2.0")
    assert done.code == 0, done.err
    assert f"file renamed to {MOVED}" in done.out and "Delete the trainer" in done.out
    pins = (moved_on.root / "pins.toml").read_text()
    assert f'commit = "{tip}"' in pins and f'one = "{MOVED}"' in pins and 'library = "library==2.0"' in pins
    assert moved_on.run("apply", "--pin", "v2").code == 0
    patched = (moved_on.root / "build/v2" / MOVED).read_text()
    assert IMPORT in patched and "third = 33" in patched
    assert moved_on.run("verify", "--pin", "v2").code == 0
    assert moved_on.run("verify").code == 0
    again = moved_on.run("rebase", "--to", tip, "--as", "v2")
    assert again.code == 2 and "there is a pin of that name" in again.err


def test_same_rebase_gives_the_same_bytes(tmp_path: Path, historic: Project) -> None:
    written = []
    for name in ("a", "b"):
        project = copy_project(historic, tmp_path / name)
        assert project.run("rebase", "--to", historic.upstream.commits[7], "--as", "v2", "--library", "l==1").code == 0
        folder = project.root / "patches/v2"
        written.append(
            {path.name: path.read_bytes() for path in folder.iterdir()}
            | {"": (project.root / "pins.toml").read_bytes()}
        )
    assert written[0] == written[1]


@pytest.fixture
def waiting(moved_on: Project) -> Project:
    """A rebase that left a conflict to the user."""
    done = moved_on.run("rebase", "--to", "main", "--as", "v2", "--library", "library==2.0")
    assert done.code == 3 and RUN_TWO in done.err and "Rename the logger" in done.err and "--continue" in done.err
    return moved_on


def test_rebase_leaves_markers_and_goes_on(waiting: Project) -> None:
    file = waiting.root / "build/rebase" / RUN_TWO
    text = file.read_text()
    assert "<<<<<<< upstream" in text and ">>>>>>> 02-two.patch" in text and IMPORT in text
    assert not (waiting.root / "patches/v2").exists() and "v2" not in (waiting.root / "pins.toml").read_text()
    early = waiting.run("rebase", "--continue")
    assert early.code == 3 and f"build/rebase/{RUN_TWO}:" in early.err and "is still there" in early.err
    second = waiting.run("rebase", "--to", "main", "--as", "v3", "--library", "l==1")
    assert second.code == 3 and "a rebase waits in build/rebase" in second.err
    assert waiting.run("apply").code == 0
    upstream = git(waiting.upstream.path, "show", f"main:{RUN_TWO}") + "\n"
    file.write_text(upstream.replace("LOG = None\n", "LOG = None\n" + IMPORT))
    done = waiting.run("rebase", "--continue")
    assert done.code == 0, done.err
    assert not (waiting.root / "build/rebase").exists()
    assert waiting.run("apply", "--pin", "v2").code == 0
    assert IMPORT in (waiting.root / "build/v2" / RUN_TWO).read_text()


def test_continue_refuses_what_is_broken_or_empty(waiting: Project) -> None:
    file = waiting.root / "build/rebase" / RUN_TWO
    upstream = git(waiting.upstream.path, "show", f"main:{RUN_TWO}") + "\n"
    typo = waiting.run("rebase", "--continue", "--drop", "02-tow")
    assert typo.code == 2 and "--drop 02-tow: patches/v1 has 01-one.patch, 02-two.patch" in typo.err
    file.write_text(upstream + "def broken(:\n")
    assert "is no valid Python" in waiting.run("rebase", "--continue").err
    file.write_text(upstream)
    empty = waiting.run("rebase", "--continue")
    assert empty.code == 3 and "02-two.patch would become empty" in empty.err and "--drop 02-two" in empty.err
    file.unlink()
    assert "is gone" in waiting.run("rebase", "--continue").err
    done = waiting.run("rebase", "--continue", "--drop", "02-two")
    assert done.code == 0 and "02-two.patch: left out" in done.out
    assert (waiting.root / "patches/v2/series").read_text().split() == ["01-one.patch"]


def test_abort_forgets(waiting: Project) -> None:
    assert "v2: rebase aborted" in waiting.run("rebase", "--abort").out
    assert not (waiting.root / "build/rebase").exists()
    for word in ("--abort", "--continue"):
        done = waiting.run("rebase", word)
        assert done.code == 4 and "no rebase waits" in done.err


def test_state_that_cannot_be_read(waiting: Project) -> None:
    (waiting.root / "build/rebase/rebase.json").write_text("{")
    done = waiting.run("rebase", "--continue")
    assert done.code == 6 and "delete build/rebase and begin again" in done.err


def test_drop_at_once(moved_on: Project) -> None:
    done = moved_on.run("rebase", "--to", "main", "--as", "v2", "--library", "l==1", "--drop", "02-two")
    assert done.code == 0 and "02-two.patch: left out" in done.out


def test_folder_of_a_killed_rebase_is_replaced(moved_on: Project) -> None:
    write(moved_on.root / "patches/v2/old", "x")
    write(moved_on.root / "patches/.v2.partial/old", "x")
    tip = moved_on.upstream.commits[7]
    foreign = moved_on.run("rebase", "--to", tip, "--as", "v2", "--library", "l==1")
    assert foreign.code == 2 and "patches/v2 exists, and is no series" in foreign.err
    assert (moved_on.root / "patches/v2/old").exists()
    # What a run that was killed between its last two steps leaves is a series, with its lock.
    write(moved_on.root / "patches/v2/series.lock.json", "{}")
    assert moved_on.run("rebase", "--to", tip, "--as", "v2", "--library", "l==1").code == 0
    assert not (moved_on.root / "patches/v2/old").exists() and not (moved_on.root / "patches/.v2.partial").exists()


def test_series_of_another_pin_is_not_replaced(moved_on: Project) -> None:
    pins = moved_on.root / "pins.toml"
    pins.write_text(pins.read_text().replace('patches = "patches/local"', 'patches = "patches/v2"'))
    (moved_on.root / "patches/local").rename(moved_on.root / "patches/v2")
    done = moved_on.run("rebase", "--to", moved_on.upstream.commits[7], "--as", "v2", "--library", "l==1")
    assert done.code == 2 and "patches/v2 is the series of pin local" in done.err
    assert (moved_on.root / "patches/v2/series").is_file()


def test_continue_after_a_run_that_was_killed_at_its_end(waiting: Project) -> None:
    state = (waiting.root / "build/rebase/rebase.json").read_bytes()
    assert waiting.run("rebase", "--continue", "--drop", "02-two").code == 0
    write(waiting.root / "build/rebase/rebase.json", state.decode())
    again = waiting.run("rebase", "--continue")
    assert again.code == 0 and "v2: 1 patch at" in again.out
    assert not (waiting.root / "build/rebase").exists()


def test_meaningless_hunk_needs_the_user(moved_on: Project, tmp_path: Path) -> None:
    upstream = moved_on.upstream.path
    git(tmp_path, "clone", "--quiet", str(upstream), "work")
    work = tmp_path / "work"
    write(work / MOVED, (work / MOVED).read_text().replace("Trainer(args)", "Other(args)"))
    git(work, "commit", "--quiet", "-am", "Use another trainer")
    tip = git(work, "rev-parse", "HEAD")
    assert moved_on.run("fetch", "--history", "--from", str(work)).code == 0
    words = ("rebase", "--to", tip, "--as", "v2", "--library", "l==1", "--drop", "02-two", "--from", str(work))
    done = moved_on.run(*words)
    assert done.code == 3 and "Trainer is imported in line" in done.err and "Use another trainer" in done.err
    as_left = moved_on.run("rebase", "--continue")
    assert as_left.code == 3 and f"build/rebase/{MOVED} is as it was left to you" in as_left.err
    assert moved_on.run("rebase", "--continue", "--drop", "01-one").code == 4


def test_pin_without_history_is_told_so(moved_on: Project) -> None:
    done = moved_on.run("drift", "--pin", "local")
    assert done.code == 2 and "has no history to follow" in done.err
