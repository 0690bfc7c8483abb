"""export: from edits in the work tree to patches and lock, and back."""

import hashlib
import json
from pathlib import Path

import pytest
from fake_upstream import IMPORT, LOGGER, RUN_ONE, RUN_TWO, TRAINER_ONE, Project

MESSAGE = ("--subject", "New", "--description", "Where it sits.")


def folder_content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_edits_of_a_patched_file_go_to_its_patch(applied: Project) -> None:
    before = folder_content(applied.series)
    applied.edit(RUN_ONE, anchor="    trainer.train()\n", added="    export(trainer)\n")
    done = applied.cli("export")
    assert done.code == 0
    commit = applied.git("rev-parse", "HEAD")
    assert done.out == (
        f"v1: exported 2 patches: {commit}\n  wrote patches/v1/01-one.patch\n  wrote patches/v1/series.lock.json\n"
    )
    after = folder_content(applied.series)
    assert b"+    export(trainer)" in after["01-one.patch"]
    assert after["02-two.patch"] == before["02-two.patch"]
    assert applied.run("apply").out == f"v1: nothing to do, already applied 2 patches: {commit}\n"
    assert applied.run("verify").code == 0


def test_committing_first_makes_no_difference(applied: Project) -> None:
    applied.edit(RUN_ONE, added="call()\n")
    applied.git("commit", "--quiet", "--all", "--message", "Mine")
    applied.edit(RUN_TWO, added="call()\n")
    assert applied.run("export").code == 0
    assert "+call()" in (applied.series / "01-one.patch").read_text()
    assert "+call()" in (applied.series / "02-two.patch").read_text()
    assert applied.git("log", "--format=%s") == "Patch 02-two\nPatch 01-one\nVersion 4.1.0"


def test_the_same_edits_give_the_same_bytes(applied: Project) -> None:
    applied.edit(RUN_ONE, added="call()\n")
    applied.run("export")
    first = folder_content(applied.series)
    applied.edit(RUN_ONE, added="more()\n")
    applied.run("export")
    file = applied.tree / RUN_ONE
    file.write_text(file.read_text().replace("more()\n", ""))
    applied.run("export")
    assert folder_content(applied.series) == first


def test_format_of_a_patch(applied: Project) -> None:
    text = (applied.series / "02-two.patch").read_text()
    assert text.startswith(
        "From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001\n"
        "From: NNCF Transformers overlay <overlay@nncf-transformers.invalid>\n"
        "Date: Wed, 1 May 2024 00:00:00 +0000\n"
        "Subject: Patch 02-two\n"
        "\n"
        "After logger, which upstream leaves alone.\n"
        "\n"
        f"diff --git a/{RUN_TWO} b/{RUN_TWO}\n"
        "index "
    )
    assert not text.endswith("\n\n")
    lock = json.loads((applied.series / "series.lock.json").read_text())
    locked = lock["patches"]["02-two.patch"]
    assert locked["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert text.split("index ")[1].startswith(locked["blobs"][RUN_TWO])


def test_new_patch_for_a_new_file_that_was_added(applied: Project) -> None:
    new = applied.tree / "examples/one/new.py"
    new.write_text("from runtime import x\n")
    nothing = applied.cli("export")
    assert nothing.code == 4
    assert nothing.err == (
        "apply_patch.py: error: build/v1 has no edits to export; "
        "new files count once they are added: git -C build/v1 add FILE\n"
    )
    applied.git("add", str(new))
    unnamed = applied.cli("export")
    assert unnamed.code == 2
    assert unnamed.err == (
        "apply_patch.py: error: examples/one/new.py is in no patch of patches/v1; name one with --patch "
        "NN-name, and give a new one a --subject and a --description\n"
    )
    assert applied.run("export", "--patch", "03-new").code == 2
    assert applied.run("export", "--patch", "new", *MESSAGE).code == 2
    assert applied.run("export", "--patch", "03-new", *MESSAGE).code == 0
    lock = json.loads((applied.series / "series.lock.json").read_text())
    assert lock["patches"]["03-new.patch"]["blobs"] == {"examples/one/new.py": None}
    assert applied.run("revert").code == 0
    assert not new.exists()
    assert applied.run("apply").code == 0
    assert new.is_file()


def test_only_the_named_paths(applied: Project) -> None:
    applied.edit(RUN_ONE, added="call()\n")
    applied.edit(RUN_TWO, added="call()\n")
    assert applied.run("export", RUN_TWO).code == 0
    assert applied.git("status", "--short") == f"M {RUN_ONE}"
    assert "+call()" not in (applied.series / "01-one.patch").read_text()
    assert applied.run("export").code == 0
    assert applied.git("status", "--short") == ""


def test_two_patches_on_one_file(applied: Project) -> None:
    applied.edit(RUN_ONE, anchor="    trainer.train()\n", added="    export(trainer)\n")
    assert applied.run("export", "--patch", "03-late", *MESSAGE, RUN_ONE).code == 0
    assert "export(trainer)" not in (applied.series / "01-one.patch").read_text()
    applied.edit(RUN_ONE, anchor="    export(trainer)\n", added="    more(trainer)\n")
    assert applied.run("export").code == 0
    assert "more(trainer)" in (applied.series / "03-late.patch").read_text()
    applied.edit(RUN_ONE, added="early()\n")
    refused = applied.run("export", "--patch", "01-one", RUN_ONE)
    assert (refused.code, "is changed again by 03-late" in refused.err) == (2, True)


def test_only_the_message(applied: Project) -> None:
    tree = applied.git("rev-parse", "HEAD^{tree}")
    assert applied.run("export", "--patch", "01-one", "--subject", "Ünlike before").code == 0
    assert applied.git("log", "--format=%s") == "Patch 02-two\nÜnlike before\nVersion 4.1.0"
    assert applied.git("rev-parse", "HEAD^{tree}") == tree
    assert applied.run("export", "--subject", "No patch named").code == 2


def test_a_patch_is_dropped_only_when_asked(applied: Project) -> None:
    file = applied.tree / RUN_TWO
    file.write_text(file.read_text().replace(IMPORT, ""))
    before = folder_content(applied.series)
    refused = applied.cli("export")
    assert refused.code == 3
    assert refused.err == (
        "apply_patch.py: error: patches/v1/02-two.patch would become empty; if it shall go, add --drop 02-two\n"
    )
    assert folder_content(applied.series) == before
    assert applied.run("export", "--drop", "02-two").code == 0
    assert sorted(folder_content(applied.series)) == ["01-one.patch", "series", "series.lock.json"]


def test_edits_on_an_older_series_are_refused(applied: Project) -> None:
    applied.edit(RUN_ONE, added="mine = call()\n")
    (applied.series / "series").write_text("01-one.patch\n")
    assert applied.run("lock").code == 0
    refused = applied.cli("export")
    assert refused.code == 3
    assert refused.err == (
        "apply_patch.py: error: build/v1 was not made by the present series of pin v1; save any "
        "edits with 'git "
        "-C build/v1 diff > edits.diff', run 'revert --force' and 'apply', and apply them again\n"
    )


def test_a_change_of_mode_alone(applied: Project) -> None:
    file = applied.tree / RUN_TWO
    file.write_text(file.read_text().replace(IMPORT, ""))
    file.chmod(0o755)
    assert applied.run("export").code == 0
    assert applied.run("revert").code == 0
    assert not file.stat().st_mode & 0o100
    assert applied.run("apply").code == 0
    assert file.stat().st_mode & 0o100
    assert applied.git("status", "--short") == ""


def test_a_file_outside_the_checkout(applied: Project) -> None:
    (applied.tree / "top.py").write_text("call()\n")
    applied.git("add", "--sparse", "top.py")
    refused = applied.run("export", "--patch", "03-new", *MESSAGE)
    assert (refused.code, "top.py is not under any 'checkout' path of pin v1" in refused.err) == (2, True)


@pytest.mark.parametrize("edit", ["executable", "deleted", "no newline at the end"])
def test_other_kinds_of_edits_survive_the_round_trip(applied: Project, edit: str) -> None:
    file = applied.tree / TRAINER_ONE
    if edit == "executable":
        file.chmod(0o755)
    elif edit == "deleted":
        file.unlink()
    else:
        file.write_text(file.read_text().rstrip("\n"))
    content, mode = file.exists() and file.read_bytes(), file.exists() and file.stat().st_mode & 0o100
    assert applied.run("export").code == 0
    assert applied.run("revert").code == 0
    assert file.read_text().count(LOGGER) == 1 and not file.stat().st_mode & 0o100
    assert applied.run("apply").code == 0
    assert (file.exists() and file.read_bytes(), file.exists() and file.stat().st_mode & 0o100) == (
        content,
        mode,
    )


def test_nothing_to_export(project: Project) -> None:
    absent = project.cli("export")
    assert absent.code == 4
    assert absent.err == (
        "apply_patch.py: error: build/v1 does not exist; run 'python apply_patch.py apply --pin v1' and edit it\n"
    )
    project.run("apply")
    assert project.run("export").code == 4
