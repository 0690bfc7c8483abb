"""Bad input: one line, its own exit code, and nothing lost."""

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_upstream import REPOSITORY, RUN_ONE, RUN_TWO, Project

from overlay.runlock import run_lock

ONE = "patches/v1/01-one.patch"
LOCK = "patches/v1/series.lock.json"
RELOCK = "'python apply_patch.py lock --pin v1'"
PREFIX = "apply_patch.py: error: "


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def crlf(project: Project) -> None:
    patch = project.series / "01-one.patch"
    patch.write_bytes(patch.read_bytes().replace(b"\n", b"\r\n"))


def outside(path: str) -> Callable[[Project], None]:
    return lambda project: change(project.series / "02-two.patch", RUN_TWO, path)


def drop_lock(project: Project) -> None:
    (project.series / "series.lock.json").unlink()


BAD_SERIES: dict[str, tuple[Callable[[Project], None], int, str]] = {
    "tampered patch": (
        lambda p: change(p.series / "01-one.patch", "leaves alone", "left alone"),
        6,
        rf"{ONE} has sha256 \w{{64}} but {LOCK} says \w{{64}}; restore it with 'git checkout -- "
        rf"{ONE}', or if "
        f"that is meant, run {RELOCK}",
    ),
    "tampered sha256 in the lock": (
        lambda p: change(p.series / "series.lock.json", '"sha256": "', '"sha256": "0'),
        6,
        rf"{ONE} has sha256 \w{{64}} but {LOCK} says 0\w{{64}}; restore it with 'git checkout -- "
        rf"{ONE}', or if "
        f"that is meant, run {RELOCK}",
    ),
    "tampered blob id in the lock": (
        lambda p: change(p.series / "series.lock.json", f'{RUN_TWO}": "', f'{RUN_TWO}": "0'),
        6,
        f"{LOCK}: 02-two.patch expects blob 0[0-9a-f]{{40}} of {RUN_TWO} but commit [0-9a-f]{{40}} has "
        "[0-9a-f]{40}; the lock was changed: restore it from git",
    ),
    "tampered result in the lock": (
        lambda p: change(p.series / "series.lock.json", '"applied": "', '"applied": "0'),
        6,
        "patches/v1: applying gives [0-9a-f]{40}, the lock says 0[0-9a-f]{40}; restore the folder "
        "from git, or "
        f"if the change is meant run {RELOCK}",
    ),
    "lock of another commit": (
        lambda p: change(p.series / "series.lock.json", p.upstream.pinned, "2" * 40),
        6,
        f"{LOCK} is for commit 2{{40}} but pins.toml pins [0-9a-f]{{40}}; if that is meant, run {RELOCK}",
    ),
    "lock that is no JSON": (
        lambda p: change(p.series / "series.lock.json", '"version"', "version"),
        6,
        rf"{LOCK} cannot be read \(JSONDecodeError: .*\); restore it from git, or make it anew with {RELOCK}",
    ),
    "lock without a key": (
        lambda p: change(p.series / "series.lock.json", '"applied"', '"result"'),
        6,
        rf"{LOCK} cannot be read \(KeyError: 'applied'\); restore it from git, or make it anew with {RELOCK}",
    ),
    "lock of another version": (
        lambda p: change(p.series / "series.lock.json", '"version": 1', '"version": 2'),
        6,
        f"{LOCK} has version 2, not 1; restore it from git, or make it anew with {RELOCK}",
    ),
    "no lock": (
        drop_lock,
        6,
        f"{LOCK} does not exist; restore it from git, or make it anew with {RELOCK}",
    ),
    "CRLF patch": (
        crlf,
        6,
        r"patches/v1/01-one.patch has CRLF line ends \(an editor, or a checkout without our "
        r".gitattributes\); "
        "restore it with 'git checkout -- patches/v1/01-one.patch'",
    ),
    **{
        f"path {path}": (
            outside(path),
            6,
            rf"patches/v1/02-two.patch:8: path '{re.escape(path)}' lies outside the tree; no patch "
            rf"of ours does "
            "that, find out where it comes from before using it",
        )
        for path in (
            "../evil.py",
            "examples/../../evil.py",
            "/etc/evil.py",
            ".git/hooks/evil",
            "a/.git/config",
        )
    },
    "symbolic link": (
        lambda p: change(p.series / "02-two.patch", "index ", "new file mode 120000\nindex "),
        6,
        "patches/v1/02-two.patch:9: 'new file mode 120000': renames, links and binary files are not supported",
    ),
    "no series file": (
        lambda p: (p.series / "series").unlink(),
        1,
        "patches/v1/series does not exist; restore it from git, or begin a series with an empty file",
    ),
    "missing patch": (
        lambda p: (p.series / "02-two.patch").unlink(),
        6,
        "patches/v1/02-two.patch does not exist but patches/v1/series lists it; restore it from git",
    ),
    "patch listed twice": (
        lambda p: change(p.series / "series", "01-one.patch", "01-one.patch\n01-one.patch"),
        6,
        "patches/v1/series lists 01-one.patch twice; remove one",
    ),
    "no patch at all": (
        lambda p: (p.series / "01-one.patch").write_text("Hello\n"),
        6,
        r"patches/v1/01-one.patch is no patch in mail format \(header, message, diff\); export it anew",
    ),
    "hunk shorter than its header": (
        lambda p: change(p.series / "02-two.patch", ",6 +", ",9 +"),
        6,
        "patches/v1/02-two.patch:12: hunk 1 ends before its header says; export the patch anew",
    ),
    "hunk longer than its header": (
        lambda p: change(p.series / "02-two.patch", ",6 +", ",5 +"),
        6,
        "patches/v1/02-two.patch:12: hunk 1 is longer than its header says; export the patch anew",
    ),
}


@pytest.mark.parametrize("name", BAD_SERIES)
def test_bad_series(project: Project, name: str) -> None:
    spoil, code, message = BAD_SERIES[name]
    spoil(project)
    done = project.run("apply")
    assert re.fullmatch(f"{PREFIX}{message}\n", done.err), done.err
    assert (done.code, done.out) == (code, "")
    assert not project.tree.exists()


def test_bad_series_through_the_real_entry_point(project: Project) -> None:
    crlf(project)
    done = project.cli("apply")
    assert (done.code, done.err.count("\n")) == (6, 1)
    assert done.err.startswith(f"{PREFIX}patches/v1/01-one.patch has CRLF line ends")


def test_a_patch_that_no_longer_applies_is_named_by_file_and_hunk(applied: Project) -> None:
    applied.edit(RUN_ONE, anchor="    trainer.train()\n", added="    export(trainer)\n")
    assert applied.run("export").code == 0
    content = (applied.tree / RUN_ONE).read_text()
    change(applied.series / "01-one.patch", "     trainer.train()\n", "     trainer.fit()\n")
    expected = (
        f"{PREFIX}patches/v1/01-one.patch no longer applies at {applied.upstream.pinned[:12]}: {RUN_ONE}, "
        "hunk 2 of 2 (line 21): its context has changed; make the patch anew, see patches/README.md\n"
    )
    done = applied.cli("lock")
    assert (done.code, done.err) == (3, expected)
    fake_lock(applied, "01-one.patch")
    done = applied.cli("apply")
    assert (done.code, done.err) == (3, expected)
    assert (applied.tree / RUN_ONE).read_text() == content


def test_a_patch_for_a_file_that_is_gone(project: Project) -> None:
    change(project.series / "02-two.patch", RUN_TWO, "examples/two/gone.py")
    done = project.run("lock")
    assert done.code == 3
    assert "examples/two/gone.py, hunk 1: the file does not exist there; make the patch anew" in done.err


def fake_lock(project: Project, name: str) -> None:
    """Makes the lock agree with a patch without asking whether the patch applies."""
    path = project.series / "series.lock.json"
    lock = json.loads(path.read_text())
    lock["patches"][name]["sha256"] = hashlib.sha256((project.series / name).read_bytes()).hexdigest()
    lock["applied"] = "3" * 40
    path.write_text(json.dumps(lock))


BAD_PINS = {
    "unknown key": (
        "library =",
        "libary =",
        "{}: pins.v1: unknown key 'libary'; did you mean 'library'? known: ",
    ),
    "missing key": ('library = "library==1.0"\n', "", "{}: pins.v1: key 'library' is missing"),
    "wrong type": (
        '["examples/one", "examples/two"]',
        '"examples"',
        "{}: pins.v1.checkout = 'examples' must be of ",
    ),
    "short commit": (
        'commit = "',
        'commit = "abc" # ',
        "{}: pins.v1.commit = 'abc' must be a full SHA of 40 hex",
    ),
    "both sources": (
        "date = ",
        'tree = "x"\ndate = ',
        "{}: pins.v1 needs exactly one of 'upstream' (a URL) and",
    ),
    "path outside": (
        '"examples/one"',
        '"../one"',
        "{}: pins.v1: '../one' must be a relative path that stays ",
    ),
    "script outside": (
        '"examples/two"]',
        "]",
        "{}: pins.v1.scripts.two = 'examples/two/run_two.py' is not under",
    ),
    "no TOML": ("[pins.v1]", "[pins.v1", "{} is not valid TOML: "),
    "default is no pin": (
        'default = "v1"',
        'default = "v2"',
        "{}: default = 'v2' is no pin; did you mean 'v1'?",
    ),
    "unknown top key": (
        'default = "v1"',
        'default = "v1"\nx = 1',
        "{}: unknown key 'x'; known: default, pins",
    ),
}


@pytest.mark.parametrize("name", BAD_PINS)
def test_bad_pins_file(project: Project, name: str) -> None:
    old, new, message = BAD_PINS[name]
    pins = project.root / "pins.toml"
    pins.write_text(pins.read_text().replace(old, new, 1))
    done = project.run("status")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert done.err.startswith(f"{PREFIX}{message.format(pins)}"), done.err


def test_no_pins_file(project: Project) -> None:
    (project.root / "pins.toml").unlink()
    done = project.cli("status")
    assert done.code == 2
    assert done.err == f"{PREFIX}{project.root}/pins.toml does not exist; give the project folder with --project\n"


@pytest.mark.parametrize("command", ["fetch", "apply", "revert", "status", "verify", "export", "lint", "lock"])
def test_unknown_pin(project: Project, command: str) -> None:
    done = project.run(command, "--pin", "v2")
    assert (done.code, done.out) == (2, "")
    assert done.err == f"{PREFIX}unknown pin 'v2'; did you mean 'v1'? known: local, v1\n"


def test_unknown_pin_through_the_real_entry_point(project: Project) -> None:
    done = project.cli("apply", "--pin", "lokal")
    assert (done.code, done.err) == (
        2,
        f"{PREFIX}unknown pin 'lokal'; did you mean 'local'? known: local, v1\n",
    )


def test_usage_error() -> None:
    done = subprocess.run([sys.executable, REPOSITORY / "apply_patch.py", "aply"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "invalid choice: 'aply'" in done.stderr


def test_something_else_in_the_place_of_the_work_tree(project: Project) -> None:
    project.tree.mkdir(parents=True)
    (project.tree / "mine").write_text("precious")
    done = project.cli("apply")
    assert done.code == 1
    assert done.err == (
        f"{PREFIX}build/v1 is no work tree of this tool; move it away or delete it, then run "
        "'python apply_patch.py apply --pin v1'\n"
    )
    assert (project.tree / "mine").read_text() == "precious"


def test_two_at_once(applied: Project) -> None:
    again = "wait until it ends, then run this again"
    expected = f"{PREFIX}another run (process {os.getpid()}) works on {{}}; {again}\n"
    with run_lock(applied.root / "build/.v1.lock", "build/v1"):
        for command in ("apply", "revert", "export"):
            done = applied.cli(command)
            assert (done.code, done.err) == (1, expected.format("build/v1"))
        assert applied.run("status").code == 0
    with run_lock(applied.mirror.with_suffix(".lock"), "the mirror"):
        assert applied.cli("fetch").err == expected.format(applied.mirror)
    assert applied.run("apply").code == 0


def test_a_child_of_a_killed_run_still_keeps_others_out(applied: Project) -> None:
    path = applied.root / "build/.v1.lock"
    with run_lock(path, "build/v1"):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        done = applied.cli("apply")
        assert done.code == 1
        assert f"but what it has left behind works on build/v1: process {child.pid};" in done.err
    finally:
        child.kill()
        child.wait()
    assert applied.run("apply").code == 0


def test_a_file_in_the_place_of_a_folder(project: Project) -> None:
    (project.root / "build").write_text("in the way")
    done = project.cli("apply")
    assert done.code == 1
    assert done.err == (
        f"{PREFIX}{project.root}/build: File exists; free the disk or correct permissions, then run "
        f"this again: "
        "nothing was left half done\n"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to a read-only folder")
def test_read_only_folder(project: Project) -> None:
    project.root.chmod(0o555)
    done = project.cli("apply")
    project.root.chmod(0o755)
    assert (done.code, "Permission denied" in done.err, done.err.count("\n")) == (1, True, 1)


def test_disk_full_for_git(applied: Project) -> None:
    """git may not write a single block to any file."""
    command = [sys.executable, REPOSITORY / "apply_patch.py", "apply", "--project", applied.root]
    applied.run("revert")
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 0; exec "$@"', "-", *command, "--cache", applied.cache],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr.count("\n"), "Traceback" in done.stderr) == (1, 1, False), done.stderr
    assert applied.run("status").out.startswith("v1 (default): fetched: ")
    assert applied.run("apply").code == 0


@pytest.mark.parametrize("command", ["apply", "revert", "export"])
def test_disk_full_for_us(applied: Project, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if command == "apply":
        applied.run("revert")
    if command == "export":
        applied.edit(RUN_ONE, added="call()\n")
    before = {path: path.read_bytes() for path in sorted(applied.series.iterdir())}

    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        done = applied.run(command)
    assert done.code == 1
    assert ": No space left on device; free the disk or correct permissions, then run this again" in done.err
    assert {path: path.read_bytes() for path in sorted(applied.series.iterdir()) if path.is_file()} == before
    assert applied.run(command).code == 0
    assert applied.run("verify").code == 0


def test_a_real_full_disk(project: Project, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "none", small], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        (project.root / "build").symlink_to(small)
        done = project.cli("apply")
        assert (done.code, done.out, done.err.count("\n")) == (1, "", 1), done.err
        assert "No space left on device" in done.err
        assert not project.tree.exists()
        subprocess.run(["mount", "-o", "remount,size=4m", small], check=True)
        assert project.cli("apply").code == 0
    finally:
        subprocess.run(["umount", small], check=True)


def test_git_is_missing(project: Project, tmp_path: Path) -> None:
    done = project.cli("apply", PATH=str(tmp_path))
    assert (done.code, done.err) == (1, f"{PREFIX}git was not found; install git 2.39 or newer\n")
