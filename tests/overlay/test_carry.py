"""Carrying one file's patches over one upstream change: every verdict, and where the edits land."""

import difflib
from pathlib import Path

import pytest

from overlay.carry import HunkId, Outcome, Verdict, carry, deleted, patch_file
from overlay.drift import Carried
from overlay.git import Git, init_repository
from overlay.history import Commit
from overlay.hunks import Place
from overlay.meaning import problems
from overlay.patchfile import Patch, parse_patch

PATH = "examples/run.py"
BEFORE = """\
import logging
from library import Arguments, Trainer, check_version

check_version("1.0")

logger = logging.getLogger(__name__)


def train(args, model, data):
    optimizer = make_optimizer(
        model.parameters(),
        lr=args.rate,
    )
    schedule = make_schedule(optimizer)
    for batch in data:
        model(batch).backward()
        optimizer.step()


def main():
    parser = make_parser(Arguments)
    args = parser.parse_args()
    model = load(args.model)
    trainer = Trainer(
        model=model,
        args=args,
    )
    train(args, model, read(args.data))


main()
"""
PREPARE = """\
    optimizer = make_optimizer(model.parameters(), lr=args.rate)
    schedule = make_schedule(optimizer)
"""
BODY = BEFORE[BEFORE.index("    optimizer =") : BEFORE.index("    for batch")]
IMPORT = "from ours import Trainer, start\n"
LOGGER = "logger = logging.getLogger(__name__)\n"
OPTIMIZER = "        lr=args.rate,\n    )\n"
START = "    start(args, model, optimizer)\n"


@pytest.fixture(scope="module")
def git(tmp_path_factory: pytest.TempPathFactory) -> Git:
    return init_repository(tmp_path_factory.mktemp("git"), bare=True)


def insert(text: str, anchor: str, added: str) -> str:
    assert text.count(anchor) == 1
    return text.replace(anchor, anchor + added)


AFTER = insert(insert(BEFORE, LOGGER, IMPORT), OPTIMIZER, START)


def make_patch(before: str, after: str, name: str = "01-run.patch", path: str = PATH) -> Patch:
    lines = difflib.unified_diff(before.splitlines(True), after.splitlines(True), f"a/{path}", f"b/{path}")
    diff = f"diff --git a/{path} b/{path}\n" + "".join(lines)
    head = "From: Ann <ann@example.org>\nDate: Thu, 18 Sep 2025 00:00:00 +0000\nSubject: s\n\nd\n\n"
    return parse_patch(name, (head + diff).encode(), name)


def carried(
    git: Git, new: str, path: str = PATH, before: str = BEFORE, after: str = AFTER
) -> tuple[str, list[Outcome]]:
    file = patch_file(PATH, before.encode(), [make_patch(before, after)])
    assert file.patched == after.encode()
    moved, outcomes = carry(git, file, new.encode(), path, "abc")
    return moved.patched.decode(), outcomes


def test_far_change_leaves_hunks_clean(git: Git) -> None:
    text, outcomes = carried(git, BEFORE.replace("main()\n", "main()\n# end\n"))
    assert [outcome.verdict for outcome in outcomes] == [Verdict.CLEAN, Verdict.CLEAN]
    assert text == AFTER.replace("main()\n", "main()\n# end\n")


def test_lines_above_move_a_hunk(git: Git) -> None:
    text, outcomes = carried(git, BEFORE.replace("import logging\n", "import logging\nimport os\nimport sys\n"))
    assert [(o.verdict, o.moved) for o in outcomes] == [(Verdict.MOVED, 2), (Verdict.MOVED, 2)]
    assert str(outcomes[0]) == "moved by +2 lines"
    assert IMPORT in text and START in text


def test_version_beside_a_hunk_changes_its_context(git: Git) -> None:
    text, outcomes = carried(git, BEFORE.replace('"1.0"', '"1.1"'))
    assert [outcome.verdict for outcome in outcomes] == [Verdict.CONTEXT, Verdict.CLEAN]
    assert text == AFTER.replace('"1.0"', '"1.1"')


def test_reformatted_neighbours_are_found_by_syntax(git: Git) -> None:
    new = BEFORE.replace(
        "    optimizer = make_optimizer(\n        model.parameters(),\n        lr=args.rate,\n    )\n    schedule =",
        "    optimizer = make_optimizer(model.parameters(), lr=args.rate)\n\n    schedule =",
    )
    text, outcomes = carried(git, new)
    assert [outcome.verdict for outcome in outcomes] == [Verdict.CLEAN, Verdict.SYNTAX]
    assert "lr=args.rate)\n    start(args, model, optimizer)\n\n    schedule" in text
    assert "upstream no longer has" in outcomes[1].reason


def test_moved_and_reformatted_code_is_found_in_another_function(git: Git) -> None:
    new = BEFORE.replace(BODY, "    optimizer, schedule = prepare(args, model)\n")
    new = new.replace(
        "def main():", f"def prepare(args, model):\n{PREPARE}    return optimizer, schedule\n\n\ndef main():"
    )
    text, outcomes = carried(git, new)
    assert outcomes[1].verdict is Verdict.SYNTAX
    assert f"lr=args.rate)\n{START}    schedule = make_schedule(optimizer)\n    return" in text


def test_nested_deeper_is_indented_deeper(git: Git) -> None:
    deeper = "".join(f"    {line}" for line in BODY.splitlines(True))
    text, outcomes = carried(git, BEFORE.replace(BODY, f"    if args.rate:\n{deeper}"))
    assert outcomes[1].verdict is Verdict.SYNTAX
    assert f"        )\n    {START}        schedule" in text


def test_place_that_is_gone_is_a_conflict(git: Git) -> None:
    text, outcomes = carried(git, BEFORE.replace(BODY, "    go()\n"))
    # What the import was for is gone with it.
    assert [outcome.verdict for outcome in outcomes] == [Verdict.MEANINGLESS, Verdict.CONFLICT]
    assert IMPORT in text and START not in text
    assert outcomes[1].reason == "upstream no longer has 'model.parameters(),'"


def test_two_places_that_fit_are_no_place(git: Git) -> None:
    new = BEFORE.replace(BODY, "    optimizer, schedule = a() or b()\n")
    for name in ("a", "b"):
        new = new.replace("def main():", f"def {name}(args, model):\n{PREPARE}    return optimizer\n\n\ndef main():")
    assert carried(git, new)[1][1].verdict is Verdict.CONFLICT


def test_upstream_that_adds_the_same_line_is_a_conflict(git: Git) -> None:
    assert carried(git, AFTER)[1][0].verdict in (Verdict.CONFLICT, Verdict.MEANINGLESS)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("    trainer = Trainer(\n", "    trainer = OtherTrainer(\n", "Trainer is imported in line 7, but nothing"),
        ("def train(args,", "from library import Trainer\n\n\ndef train(args,", "Trainer is bound again in line 10"),
        ("def train(args, model, data):\n", "def train(arguments, model, data):\n", "args, which line 15 uses, is not"),
        (
            "    train(args, model, read",
            "    fit(args, model, read",
            "train(), which line 15 lies in, is no longer called",
        ),
        ("main()\n", "main(\n", "the file is no valid Python any more"),
    ],
)
def test_what_applies_but_means_nothing(git: Git, old: str, new: str, reason: str) -> None:
    head, sep, tail = BEFORE.rpartition(old)
    outcomes = carried(git, head + new + tail)[1]
    wrong = [outcome for outcome in outcomes if outcome.verdict is Verdict.MEANINGLESS]
    assert sep and wrong and reason in wrong[0].reason, outcomes


def test_what_was_wrong_at_the_pin_is_not_upstreams_doing(git: Git) -> None:
    after = AFTER.replace("from ours import Trainer, start", "from ours import Trainer, start, unused")
    outcomes = carried(git, BEFORE.replace("import logging\n", "import logging\nimport os\n"), after=after)[1]
    assert [outcome.verdict for outcome in outcomes] == [Verdict.MOVED, Verdict.MOVED]


def test_rename_is_told_and_the_patch_follows(git: Git) -> None:
    text, outcomes = carried(git, BEFORE, path="examples/new/run.py")
    assert text == AFTER
    assert str(outcomes[0]) == "clean; file renamed to examples/new/run.py"


def test_deleted_file_takes_all_hunks_with_it() -> None:
    file = patch_file(PATH, BEFORE.encode(), [make_patch(BEFORE, AFTER)])
    assert [(o.hunk.number, o.verdict) for o in deleted(file)] == [(1, Verdict.DELETED), (2, Verdict.DELETED)]


def test_replaced_line_follows_reformatting(git: Git) -> None:
    after = BEFORE.replace("    model = load(args.model)\n", "    model = load(args.model, ours=True)\n")
    new = BEFORE.replace("    model = load(args.model)\n", "    model = load(\n        args.model\n    )\n")
    text, outcomes = carried(git, new, after=after)
    assert outcomes[0].verdict is Verdict.SYNTAX
    assert text == after


def test_inserted_argument_follows_its_call(git: Git) -> None:
    after = insert(BEFORE, "        model=model,\n", "        ours=args,\n")
    new = BEFORE.replace(
        "        model=model,\n        args=args,\n",
        "        data=args,\n        model=model,\n        arguments=args,\n",
    )
    text, outcomes = carried(git, new, after=after)
    assert outcomes[0].verdict is Verdict.SYNTAX
    assert "        model=model,\n        ours=args,\n        arguments=args,\n" in text


def test_second_patch_is_carried_on_top_of_the_first(git: Git) -> None:
    middle = insert(BEFORE, LOGGER, IMPORT)
    patches = [make_patch(BEFORE, middle), make_patch(middle, AFTER, "02-run.patch")]
    file = patch_file(PATH, BEFORE.encode(), patches)
    new = BEFORE.replace('"1.0"', '"2.0"').replace("import logging\n", "import logging\nimport os\n")
    moved, outcomes = carry(git, file, new.encode(), PATH, "abc")
    assert [o.hunk.patch for o in outcomes] == ["01-run.patch", "02-run.patch"]
    assert [o.verdict for o in outcomes] == [Verdict.CONTEXT, Verdict.MOVED]
    assert moved.patched.decode() == AFTER.replace('"1.0"', '"2.0"').replace(
        "import logging\n", "import logging\nimport os\n"
    )
    assert moved.layers[0].content.decode() == insert(new, LOGGER, IMPORT)


def test_lost_edit_keeps_the_versions_it_last_fitted(tmp_path: Path, git: Git) -> None:
    file = patch_file(PATH, BEFORE.encode(), [make_patch(BEFORE, AFTER)])
    new = BEFORE.replace(BODY, "    go()\n")
    moved, _ = carry(git, file, new.encode(), PATH, "abc")
    (lost,) = moved.layers[0].lost
    assert lost.base.decode() == BEFORE
    assert lost.ours.decode() == insert(BEFORE, OPTIMIZER, START)


def test_lost_edit_of_a_hunk_stays_lost(git: Git) -> None:
    """The other edit of the hunk is carried on, and must not make the hunk whole again."""
    before = "".join(f"v{i} = {i}\n" for i in range(9))
    after = before.replace("v3 = 3\n", "v3 = 3\nOURS1 = 1\n").replace("v5 = 5\n", "v5 = 5\nOURS2 = 2\n")
    file = patch_file(PATH, before.encode(), [make_patch(before, after)])
    second = before.replace("v3 = 3\nv4 = 4\n", "w3 = 3\nw4 = 4\n")
    moved, outcomes = carry(git, file, second.encode(), PATH, "abc")
    assert [outcome.verdict for outcome in outcomes] == [Verdict.CONFLICT] and moved.layers[0].lost


def test_hunk_is_whole_again_only_if_nothing_of_it_was_lost() -> None:
    one, two = HunkId("p", "f", 1), HunkId("p", "f", 2)
    commits = [Commit(c * 40, "2026-01-01", c) for c in "ab"]
    carried = Carried({})
    carried.take(commits[0], [Outcome(one, Verdict.CONFLICT), Outcome(two, Verdict.MEANINGLESS)])
    carried.take(commits[1], [Outcome(one, Verdict.CLEAN), Outcome(two, Verdict.CLEAN)])
    assert {hunk: commit.subject for hunk, (commit, _) in carried.broken.items()} == {one: "a"}


def test_block_that_begins_as_what_follows_it(git: Git) -> None:
    call = "    parser.add_argument(\n        '--{0}',\n    )\n"
    before = f"def main(parser):\n{call.format('a')}{call.format('b')}"
    after = f"def main(parser):\n{call.format('a')}{call.format('ours')}{call.format('b')}"
    text, outcomes = carried(git, f"import os\n{before}", before=before, after=after)
    assert text == f"import os\n{after}" and [o.verdict for o in outcomes] == [Verdict.MOVED]


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        # The last argument before ours is gone: after those that are left, and as deep as arguments are.
        ("t = T(\n    a=1,\n    c=5,\n)\n", "t = T(\n    a=1,\n    ours=3,\n    c=5,\n)\n"),
        # Upstream has the argument now.
        ("t = T(\n    a=1,\n    ours=3,\n    c=5,\n)\n", None),
        ("t = T(\n    0,\n    c=5,\n)\n", "t = T(\n    0,\n    ours=3,\n    c=5,\n)\n"),
    ],
)
def test_argument_finds_its_place_or_none(git: Git, new: str, expected: str | None) -> None:
    before = "t = T(\n    a=1,\n    b=2,\n)\n"
    text, outcomes = carried(git, new, before=before, after=before.replace("    b=2,\n", "    b=2,\n    ours=3,\n"))
    assert (text if outcomes[0].verdict.survives else None) == expected


def test_argument_that_is_given_twice_is_no_valid_python() -> None:
    lines = ["f(", "    a=1,", "    a=2,", ")"]
    assert "keyword argument repeated" in problems(lines, [Place(1, 0, ("    a=1,",))])[0][0]
