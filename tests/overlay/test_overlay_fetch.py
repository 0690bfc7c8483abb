"""fetch: what reaches the cache, from what kind of source, and what is refused."""

import subprocess
from pathlib import Path

import pytest
from fake_upstream import RUN_ONE, Project, git

from overlay.fetch import fetch
from overlay.layout import Layout
from overlay.pins import load_pins


def blob_count(mirror: Path) -> int:
    return git(mirror, "cat-file", "--batch-all-objects", "--batch-check=%(objecttype)").split().count("blob")


def test_fetch_brings_only_what_the_pin_needs(unfetched: Project) -> None:
    first = unfetched.cli("fetch")
    assert (first.code, first.out) == (0, f"v1: fetched {unfetched.upstream.pinned}\n")
    # Three scripts, of which two have the same content but for a name, .gitattributes and .gitignore.
    assert blob_count(unfetched.mirror) == 5
    assert git(unfetched.mirror, "rev-list", "--count", "--all") == "1"
    assert unfetched.run("fetch").out == f"v1: already there {unfetched.upstream.pinned}\n"
    assert unfetched.run("apply").code == 0


def test_history_follows_on_a_shallow_mirror(project: Project) -> None:
    done = project.run("fetch", "--history")
    assert done.out == f"v1: fetched {project.upstream.pinned}, with history\n"
    assert git(project.mirror, "rev-list", "--count", "refs/upstream/main") == "3"
    assert blob_count(project.mirror) == 5
    assert project.run("apply").code == 0


def test_history_at_once(unfetched: Project) -> None:
    assert unfetched.run("fetch", "--history").code == 0
    assert git(unfetched.mirror, "rev-list", "--count", "refs/upstream/main") == "3"
    assert unfetched.run("apply").code == 0


def test_source_is_the_flag_then_the_variable_then_the_pin(unfetched: Project, tmp_path: Path) -> None:
    source = tmp_path / "copy.git"
    unfetched.upstream.path.rename(source)
    try:
        absent = unfetched.cli("fetch")
        assert (absent.code, str(unfetched.upstream.path) in absent.err) == (5, True)
        assert unfetched.cli("fetch", "--from", str(tmp_path / "none"), UPSTREAM_URL=str(source)).code == 5
        assert unfetched.cli("fetch", UPSTREAM_URL=str(source)).code == 0
    finally:
        source.rename(unfetched.upstream.path)


def test_a_bare_set_of_files_is_enough(unfetched: Project, tmp_path: Path) -> None:
    """A source without config or loose refs, as a plain copy of HEAD, packed-refs and objects is."""
    source = tmp_path / "files"
    git(unfetched.upstream.path, "clone", "--quiet", "--bare", ".", str(source))
    git(source, "pack-refs", "--all")
    for name in ("config", "description", "hooks", "info"):
        subprocess.run(["rm", "-rf", str(source / name)], check=True)
    assert unfetched.run("fetch", "--from", str(source)).code == 0


def test_a_server_that_gives_no_single_commits(unfetched: Project, tmp_path: Path) -> None:
    (tmp_path / ".gitconfig").write_text("[protocol]\nversion = 0\n")
    done = unfetched.cli("fetch", "--from", f"file://{unfetched.upstream.path}", HOME=str(tmp_path))
    assert done.code == 0
    assert done.err == (
        f"note: file://{unfetched.upstream.path} gives no single commits; "
        "fetching its whole branch main, which is large\n"
    )
    assert unfetched.run("apply").code == 0


def test_a_server_that_ignores_filters(unfetched: Project) -> None:
    assert unfetched.run("fetch", "--from", f"file://{unfetched.upstream.path}").code == 0
    assert unfetched.run("apply").code == 0


@pytest.mark.parametrize("source", ["/nonexistent/upstream", "https://127.0.0.1:9/upstream.git"])
def test_unreachable_source(unfetched: Project, source: str) -> None:
    done = unfetched.cli("fetch", "--from", source)
    assert done.code == 5
    assert done.err.startswith(f"apply_patch.py: error: cannot fetch pin v1 from {source}: fatal: ")
    assert done.err.endswith(
        "; give a copy of upstream with --from URL|PATH or UPSTREAM_URL, or use the pin 'embedded' (make demo)\n"
    )
    assert done.err.count("\n") == 1


def lacks(project: Project, source: Path, why: str) -> str:
    return (
        f"apply_patch.py: error: {source} does not have all of commit {project.upstream.pinned} of pin v1: "
        f"{why}; give a full mirror of {project.upstream.path} with --from\n"
    )


ANOTHER = "it is another repository, older than the pin, or a mirror that lacks files"


def test_wrong_repository(unfetched: Project, tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "wrong")
    git(tmp_path / "wrong", "commit", "--quiet", "--allow-empty", "-m", "Another project")
    done = unfetched.cli("fetch", "--from", str(tmp_path / "wrong"))
    assert (done.code, done.err) == (6, lacks(unfetched, tmp_path / "wrong", ANOTHER))
    assert not list((unfetched.cache / "mirrors").glob("*.git"))


def test_shallow_source_without_the_commit(unfetched: Project, tmp_path: Path) -> None:
    source = tmp_path / "shallow"
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{unfetched.upstream.path}", str(source))
    done = unfetched.cli("fetch", "--from", str(source))
    why = "it is a shallow clone, so the commit may lie beyond its cut-off"
    assert (done.code, done.err) == (6, lacks(unfetched, source, why))


def test_shallow_source_has_no_history(project: Project, tmp_path: Path) -> None:
    source = tmp_path / "shallow"
    git(tmp_path, "clone", "--quiet", "--depth=2", f"file://{project.upstream.path}", str(source))
    done = project.cli("fetch", "--history", "--from", str(source))
    assert done.code == 6
    assert done.err == (
        f"apply_patch.py: error: {source} is a shallow clone: it has no full history to fetch; "
        "give a full one with --from\n"
    )


def test_source_that_lacks_the_files(unfetched: Project, tmp_path: Path) -> None:
    source = tmp_path / "blobless.git"
    git(unfetched.upstream.path, "config", "uploadpack.allowFilter", "true")
    try:
        url = f"file://{unfetched.upstream.path}"
        git(tmp_path, "clone", "--quiet", "--bare", "--filter=blob:none", url, str(source))
    finally:
        git(unfetched.upstream.path, "config", "--unset", "uploadpack.allowFilter")
    git(source, "remote", "set-url", "origin", "/nonexistent")
    done = unfetched.cli("fetch", "--from", str(source))
    assert (done.code, done.err) == (6, lacks(unfetched, source, ANOTHER))


def test_commit_that_no_upstream_has(unfetched: Project) -> None:
    pins = unfetched.root / "pins.toml"
    pins.write_text(pins.read_text().replace(unfetched.upstream.pinned, "1" * 40))
    done = unfetched.cli("fetch")
    assert done.code == 6
    assert f"does not have all of commit {'1' * 40} of pin v1" in done.err


def test_checkout_path_that_the_commit_lacks(unfetched: Project) -> None:
    pins = unfetched.root / "pins.toml"
    pins.write_text(pins.read_text().replace('"examples/two"]', '"examples/two", "examples/three"]'))
    done = unfetched.cli("fetch")
    assert done.code == 6
    assert done.err == (
        f"apply_patch.py: error: pin v1: commit {unfetched.upstream.pinned} has no 'examples/three'; "
        "correct 'checkout' or 'commit' in pins.toml\n"
    )


def test_not_fetched(unfetched: Project) -> None:
    done = unfetched.cli("apply")
    assert done.code == 1
    assert done.err.startswith("apply_patch.py: error: pin v1 is not fetched: ")
    assert done.err.endswith("; run 'python apply_patch.py fetch --pin v1'\n")


def test_a_mirror_that_lost_files_is_named_and_refilled(project: Project) -> None:
    for pack in list((project.mirror / "objects/pack").glob("pack-*.pack")):
        if " blob " in git(project.mirror, "verify-pack", "-v", str(pack)):
            for part in pack.parent.glob(f"{pack.stem}.*"):
                part.unlink()
    done = project.run("apply")
    assert (done.code, "lacks 5 files of pin v1; run" in done.err) == (6, True)
    assert project.run("fetch").code == 0
    assert project.run("apply").code == 0


def test_left_overs_of_killed_fetches_do_no_harm(unfetched: Project) -> None:
    assert unfetched.run("fetch").code == 0
    mirror = unfetched.mirror
    partial = mirror.with_suffix(".partial")
    mirror.rename(partial)
    assert unfetched.run("apply").code == 1
    assert unfetched.run("fetch").code == 0
    assert not partial.exists()
    (mirror / "shallow.lock").touch()
    (mirror / "refs/pins/v1.lock").touch()
    assert unfetched.run("fetch", "--history").code == 0


def test_progress_is_shown(unfetched: Project, capfd: pytest.CaptureFixture[str]) -> None:
    pin = load_pins(unfetched.root / "pins.toml").get("v1")
    fetch(pin, Layout(unfetched.root, unfetched.cache), None, progress=True)
    assert "Receiving objects: 100%" in capfd.readouterr().err


def test_offline_after_fetching(project: Project, tmp_path: Path) -> None:
    away = tmp_path / "away.git"
    project.upstream.path.rename(away)
    try:
        assert project.run("apply").code == 0
        assert (project.tree / RUN_ONE).is_file()
    finally:
        away.rename(project.upstream.path)
