"""apply, revert, status, verify and script on a fake upstream."""

import json
import shutil
from pathlib import Path

import pytest
from fake_upstream import IMPORT, RUN_ONE, RUN_TWO, Project, copy_project


def state(project: Project, pin: str = "v1") -> str:
    return next(p for p in json.loads(project.run("status", "--json").out)["pins"] if p["pin"] == pin)["state"]


def test_apply_gives_the_locked_commit_and_only_the_checkout_paths(project: Project) -> None:
    expected = json.loads((project.series / "series.lock.json").read_text())["applied"]
    assert project.cli("apply").out == f"v1: applied 2 patches: {expected}\n"
    assert project.git("rev-parse", "HEAD") == expected
    assert project.git("log", "--format=%s") == "Patch 02-two\nPatch 01-one\nVersion 4.1.0"
    assert project.git("status", "--short") == ""
    assert sorted(p.name for p in project.tree.iterdir()) == [".git", "examples"]
    assert IMPORT in (project.tree / RUN_ONE).read_text()


def test_apply_twice_says_nothing_to_do(applied: Project) -> None:
    again = applied.cli("apply")
    assert (again.code, again.err) == (0, "")
    assert again.out.startswith("v1: nothing to do, already applied 2 patches: ")


def test_two_clones_give_the_same_commit_and_share_a_cache(tmp_path: Path, applied: Project) -> None:
    other = Project(copy_project(applied, tmp_path / "other").root, applied.cache, applied.upstream)
    shutil.rmtree(other.root / "build")
    assert other.run("apply").out == applied.run("apply").out.replace("nothing to do, already applied", "applied")


def test_the_users_git_works_in_the_work_tree(applied: Project) -> None:
    applied.edit(RUN_ONE, added="x = call()\n")
    applied.git("commit", "--quiet", "--all", "--message", "Mine")
    assert applied.git("diff", "--stat", "HEAD~1").endswith("1 insertion(+)")
    assert applied.git("fsck") == ""


def test_configuration_and_environment_of_the_user_change_nothing(project: Project, tmp_path: Path) -> None:
    (tmp_path / ".gitconfig").write_text(
        "[core]\nautocrlf = true\n[diff]\nnoprefix = true\n[format]\nsignature = me\n[commit]\ngpgSign = true\n"
    )
    env = {
        "HOME": str(tmp_path),
        "GIT_DIR": "/nonexistent",
        "GIT_INDEX_FILE": "/nonexistent",
        "TZ": "Asia/Tokyo",
    }
    assert project.cli("apply", **env).code == 0
    project.edit(RUN_ONE, added="x = call()\n")
    exported = project.cli("export", **env)
    assert exported.code == 0
    assert "diff --git a/examples" in (project.series / "01-one.patch").read_text()
    assert project.cli("verify").code == 0


def test_apply_follows_a_changed_series(applied: Project) -> None:
    with_two = (applied.tree / RUN_TWO).read_text()
    (applied.series / "02-two.patch").unlink()
    (applied.series / "series").write_text("01-one.patch\n")
    assert state(applied) == "stale"
    assert applied.run("lock").code == 0
    assert state(applied) == "stale"
    assert applied.run("apply").out.startswith("v1: applied 1 patch: ")
    assert IMPORT in with_two and IMPORT not in (applied.tree / RUN_TWO).read_text()
    assert applied.git("status", "--short") == ""


def test_apply_makes_the_work_tree_anew_for_another_commit(applied: Project) -> None:
    pins = applied.root / "pins.toml"
    pins.write_text(pins.read_text().replace(applied.upstream.pinned, applied.upstream.commits[2]))
    assert applied.run("fetch").code == 0
    assert applied.run("lock").code == 0
    (applied.tree / "notes.txt").write_text("mine")
    refused = applied.run("apply")
    assert (refused.code, "notes.txt; move them away" in refused.err) == (3, True)
    (applied.tree / "notes.txt").unlink()
    assert applied.run("apply").code == 0
    assert "# version 4.2.0" in (applied.tree / RUN_ONE).read_text()


def test_revert_and_apply_again(applied: Project) -> None:
    assert applied.cli("revert").out == f"v1: reverted to plain upstream: {applied.upstream.pinned}\n"
    assert IMPORT not in (applied.tree / RUN_ONE).read_text()
    assert state(applied) == "fetched"
    again = applied.cli("revert")
    assert again.code == 4
    assert again.err == (
        f"apply_patch.py: error: nothing to revert: build/v1 is plain upstream at {applied.upstream.pinned}\n"
    )
    assert applied.run("apply").code == 0
    assert state(applied) == "applied"


def test_revert_force_keeps_what_it_discards(applied: Project) -> None:
    applied.edit(RUN_ONE, added="precious = call()\n")
    assert applied.run("revert").code == 3
    forced = applied.run("revert", "--force")
    assert (forced.code, "refs/overlay/discarded" in forced.err) == (0, True)
    assert "precious" in applied.git("show", f"refs/overlay/discarded:{RUN_ONE}")
    assert applied.git("status", "--short") == ""


@pytest.mark.parametrize("committed", [False, True])
def test_apply_refuses_edits_and_names_the_ways_out(applied: Project, committed: bool) -> None:
    applied.edit(RUN_ONE, added="mine = call()\n")
    if committed:
        applied.git("commit", "--quiet", "--all", "--message", "Mine")
    refused = applied.cli("apply")
    assert refused.code == 3
    assert refused.err == (
        f"apply_patch.py: error: build/v1 has edits in {RUN_ONE}; keep them with 'python "
        f"apply_patch.py export "
        "--pin v1', or discard them with 'python apply_patch.py revert --force --pin v1'\n"
    )
    assert "mine" in (applied.tree / RUN_ONE).read_text()
    assert state(applied) == "dirty"


def test_apply_adopts_edits_that_equal_the_series(applied: Project) -> None:
    applied.run("revert")
    for path in (RUN_ONE, "examples/one/trainer_one.py", RUN_TWO):
        applied.edit(path)
    adopted = applied.run("apply")
    assert "the work tree already holds what the series gives" in adopted.out
    assert state(applied) == "applied"
    assert applied.git("status", "--short") == ""


def test_an_untracked_file_in_the_way_of_a_patch_is_kept(applied: Project) -> None:
    new = applied.tree / "examples/one/new.py"
    new.write_text("from runtime import x\n")
    applied.git("add", str(new))
    assert applied.run("export", "--patch", "01-one").code == 0
    applied.run("revert")
    new.write_text("mine\n")
    refused = applied.run("apply")
    assert (refused.code, "new.py is in the way" in refused.err) == (3, True)
    assert new.read_text() == "mine\n"


def test_states(project: Project) -> None:
    assert (state(project), state(project, "local")) == ("fetched", "fetched")
    mirrors = project.cache / "mirrors"
    mirrors.rename(project.cache / "away")
    assert state(project) == "not fetched"
    (project.cache / "away").rename(mirrors)
    project.run("apply")
    assert state(project) == "applied"
    mirrors.rename(project.cache / "away")
    assert state(project) == "broken"
    (project.cache / "away").rename(mirrors)
    shutil.rmtree(project.tree / ".git")
    assert state(project) == "broken"


def test_status_as_text(applied: Project) -> None:
    applied.edit(RUN_ONE, added="mine = call()\n")
    (applied.tree / "notes.txt").write_text("mine")
    assert applied.cli("status").out == (
        "v1 (default): dirty: 1 edited file\n"
        f"  edited: {RUN_ONE}\n"
        "  untracked: notes.txt\n"
        "local: fetched: built from folder local; not applied\n"
    )


def test_a_moved_cache_is_followed(applied: Project, tmp_path: Path) -> None:
    moved = Project(applied.root, tmp_path / "moved", applied.upstream)
    applied.cache.rename(moved.cache)
    assert moved.run("apply").code == 0
    assert moved.git("fsck") == ""


def test_verify(project: Project) -> None:
    expected = json.loads((project.series / "series.lock.json").read_text())["applied"]
    assert project.cli("verify").out == f"v1: 2 patches and 3 locked files verified, not applied: {expected}\n"
    project.run("apply")
    assert project.run("verify").out == f"v1: 2 patches and 3 locked files verified, applied: {expected}\n"
    project.edit(RUN_ONE, added="mine = call()\n")
    assert project.run("verify").code == 3


def test_script(project: Project) -> None:
    refused = project.cli("script", "one")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err == (
        "apply_patch.py: error: pin v1 is fetched (not applied); run 'python apply_patch.py apply --pin v1'\n"
    )
    project.run("apply")
    assert project.cli("script", "one").out == f"{project.tree / RUN_ONE}\n"
    unknown = project.cli("script", "tow")
    assert unknown.code == 2
    assert unknown.err == (
        "apply_patch.py: error: unknown script 'tow' for pin v1; did you mean 'two'? known: one, two\n"
    )


class TestLocalTree:
    """A pin that is built from a folder of the project."""

    def test_apply_needs_no_fetch(self, project: Project) -> None:
        shutil.rmtree(project.cache)
        assert project.run("apply", "--pin", "local").code == 0
        assert (project.root / "build/local/run_one.py").read_text() == (project.root / "local/run_one.py").read_text()

    def test_junk_and_modes_do_not_change_the_commit(self, project: Project) -> None:
        (project.root / "local/__pycache__").mkdir()
        (project.root / "local/__pycache__/x.pyc").write_bytes(b"junk")
        (project.root / "local/run_one.py").chmod(0o755)
        assert project.run("fetch", "--pin", "local").code == 0

    def test_a_changed_folder_is_an_integrity_error_that_repin_resolves(self, project: Project) -> None:
        project.run("apply", "--pin", "local")
        script = project.root / "build/local/run_one.py"
        script.write_text(script.read_text().replace("logger =", "call()\nlogger ="))
        message = ("--subject", "Call", "--description", "Before logger.")
        assert project.run("export", "--pin", "local", "--patch", "01-call", *message).code == 0
        source = project.root / "local/run_one.py"
        source.write_text("# a new first line\n" + source.read_text())
        changed = project.cli("apply", "--pin", "local")
        assert changed.code == 6
        assert "folder local gives commit " in changed.err
        assert changed.err.endswith("if it is meant run 'python apply_patch.py repin --pin local'\n")
        assert project.run("repin", "--pin", "local").code == 0
        assert project.run("apply", "--pin", "local").code == 0
        assert script.read_text().startswith("# a new first line\n") and "call()\n" in script.read_text()
        assert project.run("verify", "--pin", "local").code == 0

    def test_repin_that_meets_a_conflict_changes_nothing(self, project: Project) -> None:
        self.test_a_changed_folder_is_an_integrity_error_that_repin_resolves(project)
        before = (project.root / "pins.toml").read_text()
        source = project.root / "local/run_one.py"
        source.write_text(source.read_text().replace("logger =", "log ="))
        refused = project.run("repin", "--pin", "local")
        assert (refused.code, "run_one.py, hunk 1 of 1" in refused.err) == (3, True)
        assert (project.root / "pins.toml").read_text() == before

    def test_repin_is_for_folders_only(self, project: Project) -> None:
        assert project.run("repin", "--pin", "v1").code == 2
