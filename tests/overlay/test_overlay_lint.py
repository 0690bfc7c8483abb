"""lint: thin, described patches in good places."""

import pytest
from fake_upstream import IMPORT, RUN_ONE, Project

PATCH = "patches/v1/01-one.patch"


def lint_edit(project: Project, added: str, anchor: str = "    trainer.train()\n") -> list[str]:
    """Exports an edit and returns what lint says, the summary last."""
    project.edit(RUN_ONE, anchor=anchor, added=added)
    assert project.run("export").code == 0
    return project.run("lint").out.splitlines()


def test_a_clean_series(project: Project) -> None:
    done = project.cli("lint")
    assert (done.code, done.out) == (0, "0 errors, 0 warnings\n")


@pytest.mark.parametrize(
    "added",
    [
        "    export(trainer)\n",
        "    import runtime\n",
        "    result: int = call(a, b=[1, 2], **{'c': other(3)})\n",
        "    # a comment\n    call(\n        trainer,\n    )\n",
    ],
)
def test_imports_and_calls_are_no_logic(applied: Project, added: str) -> None:
    assert lint_edit(applied, added) == ["0 errors, 0 warnings"]


@pytest.mark.parametrize(
    ("added", "fault"),
    [
        ("    if x:\n        call()\n", "the added line 'if x:' is no import, call or assigned call"),
        (
            "    for x in y:\n        call()\n",
            "the added line 'for x in y:' is no import, call or assigned call",
        ),
        ("    while x:\n        call()\n", "the added line 'while x:' is no import, call or assigned call"),
        ("    def f():\n        call()\n", "the added line 'def f():' is no import, call or assigned call"),
        (
            "    class A:\n        x = call()\n",
            "the added line 'class A:' is no import, call or assigned call",
        ),
        (
            "    try:\n        call()\n    finally:\n        call()\n",
            "the added line 'try:' is no import, call or assigned call",
        ),
        ("    x = 1\n", "the added line 'x = 1' is no import, call or assigned call"),
        ("    call(lambda: 1)\n", "the added line 'call(lambda: 1)' contains a Lambda"),
        ("    call(1 if x else 2)\n", "the added line 'call(1 if x else 2)' contains a IfExp"),
        ("    call([y for y in x])\n", "the added line 'call([y for y in x])' contains a ListComp"),
        ("    call(\n", "the added lines are no whole statements"),
    ],
)
def test_logic(applied: Project, added: str, fault: str) -> None:
    finding, summary = lint_edit(applied, added)
    assert finding.startswith(f"{PATCH}:")
    assert finding.endswith(f": error: {fault}; keep logic in nncf_transformers, a patch only imports and calls")
    assert summary == "1 error, 0 warnings"


def test_trailing_whitespace_and_carriage_returns(applied: Project) -> None:
    first, second, summary = lint_edit(applied, "    one() \n    two()\r\n")
    assert first == f"{PATCH}:24: error: the added line has trailing whitespace"
    assert second == f"{PATCH}:25: error: the added line ends in CRLF; upstream uses LF"
    assert summary == "2 errors, 0 warnings"


def test_beside_check_min_version(applied: Project) -> None:
    finding, summary = lint_edit(applied, "call()\n", anchor='check_min_version("4.0.0")\n')
    assert finding.endswith("warning: check_min_version is in this hunk and changes at every release; move the hunk")
    assert summary == "0 errors, 1 warning"
    assert applied.run("lint").code == 0


def test_number_of_hunks(applied: Project) -> None:
    script = applied.tree / RUN_ONE
    lines = "".join(f"line_{number} = 0\n" for number in range(100))
    script.write_text(script.read_text() + lines)
    applied.git("add", "--update")
    # A base with many lines to insert between is simplest made by patching them in first.
    assert applied.run("export").code == 0
    for number in range(0, 60, 20):
        text = script.read_text()
        script.write_text(text.replace(f"line_{number} = 0\n", f"line_{number} = 0\ncall()\n"))
    message = ("--subject", "Calls", "--description", "Everywhere.")
    assert applied.run("export", "--patch", "03-calls", *message, RUN_ONE).code == 0
    assert "has 3 hunks" not in applied.run("lint").out
    script.write_text(script.read_text().replace("line_80 = 0\n", f"line_80 = 0\n{IMPORT}"))
    assert applied.run("export").code == 0
    expected = f"patches/v1/03-calls.patch: error: {RUN_ONE} has 4 hunks; a Trainer-based script may have 3"
    assert expected in applied.run("lint").out.splitlines()


def test_message(applied: Project) -> None:
    patch = applied.series / "01-one.patch"
    patch.write_text(
        patch.read_text()
        .replace("After logger, which upstream leaves alone.\n\n", "")
        .replace("Subject: Patch 01-one", "Subject: ")
    )
    assert applied.run("lock").code == 0
    assert applied.run("lint").out.splitlines() == [
        f"{PATCH}: error: has no subject; say what the patch does",
        f"{PATCH}: error: has no description; say why each hunk sits where it sits",
        "2 errors, 0 warnings",
    ]


def test_unlisted_patch(project: Project) -> None:
    (project.series / "09-lost.patch").write_text("")
    done = project.run("lint")
    assert (done.code, done.out.splitlines()[0]) == (
        1,
        "patches/v1/09-lost.patch: error: is not listed in the series; list it or delete it",
    )


def test_file_that_is_not_checked_out(project: Project) -> None:
    pins = project.root / "pins.toml"
    narrowed = pins.read_text().replace(', "examples/two"]', "]").replace('two = "examples/two/run_two.py"\n', "")
    pins.write_text(narrowed)
    assert project.run("lint").out.splitlines()[0] == (
        "patches/v1: error: patches/v1/02-two.patch: examples/two/run_two.py is not under any 'checkout' "
        "path of pin v1; add it to pins.toml"
    )


def test_lint_sees_a_lock_that_does_not_hold(project: Project) -> None:
    (project.series / "series.lock.json").unlink()
    done = project.run("lint", "--pin", "v1")
    assert (done.code, "series.lock.json does not exist" in done.out) == (1, True)
