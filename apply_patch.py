#!/usr/bin/env python
"""Fetches pinned upstream checkouts and keeps our patches applied to them.

    python apply_patch.py fetch                    # fill the cached mirror of the default pin
    python apply_patch.py apply                    # patched checkout in build/<pin>/
    python apply_patch.py status
    python apply_patch.py export                   # after editing build/<pin>/: patches and lock

Exit codes: 0 done, 1 failure, 2 usage, 3 conflict, 4 nothing to do, 5 upstream unreachable, 6 integrity.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

APPLY_EXAMPLE = """\
example:
  $ python apply_patch.py apply --pin v4.57
  v4.57: applied 4 patches: fc0d2e…
  $ python apply_patch.py apply --pin v4.57
  v4.57: nothing to do, already applied 4 patches: fc0d2e…
"""
FETCH_EXAMPLE = """\
example:
  $ python apply_patch.py fetch --pin v4.57
  v4.57: fetched 10f6891fc51ee2d51b0b7fbf9c601f839c7b599b
  $ python apply_patch.py fetch --from /mirrors/transformers.git --history
  v4.57: fetched 10f6891fc51ee2d51b0b7fbf9c601f839c7b599b, with history
"""
REVERT_EXAMPLE = """\
example:
  $ python apply_patch.py revert
  v4.57: reverted to plain upstream: 10f6891fc51ee2d51b0b7fbf9c601f839c7b599b
"""
STATUS_EXAMPLE = """\
states: not fetched, fetched, applied, stale (patches or lock changed since applying), dirty (edited), broken

example:
  $ python apply_patch.py status
  v4.57 (default): applied: the work tree is what the series gives
  embedded: fetched: built from folder embedded; not applied
"""
VERIFY_EXAMPLE = """\
example:
  $ python apply_patch.py verify
  v4.57: 4 patches and 5 locked files verified, applied: fc0d2e…
"""
EXPORT_EXAMPLE = """\
Edits of a file go to the last patch that touches it. Edits of other files go to --patch; a new one needs
--subject and --description. New files count once they are added: git -C build/<pin> add FILE.

example:
  $ $EDITOR build/v4.57/examples/pytorch/language-modeling/run_mlm.py
  $ python apply_patch.py export --patch 08-run_ner --subject "run_ner: …" --description "After logger, …"
  v4.57: exported 5 patches: 7f31aa…
    wrote patches/v4.57/08-run_ner.patch
    …
"""
LINT_EXAMPLE = """\
example:
  $ python apply_patch.py lint
  patches/v4.57/01-run_qa.patch:23: error: the added line has trailing whitespace
"""
DRIFT_EXAMPLE = """\
Exit code 3 if a hunk does not survive. Needs upstream's history: fetch --history.

example:
  $ python apply_patch.py drift --to ecd0536d5fec --html drift.html
  v4.57: 10f6891fc51e to ecd0536d5fec: 1341 upstream commits, 8 touch patched files
  …
"""
REBASE_EXAMPLE = """\
What git cannot merge is placed by the syntax around it; what that cannot place either is left in build/rebase/ with
conflict markers, for you to edit. Needs upstream's history: fetch --history.

example:
  $ python apply_patch.py rebase --to ecd0536d5fec --as v5.2
  v5.2: 3 patches at ecd0536d5fec7904db4f35f67ac95227e440282e: cbe070…
    wrote patches/v5.2/ and pins.toml; now: python apply_patch.py apply --pin v5.2
"""
SCRIPT_EXAMPLE = """\
example:
  $ python "$(python apply_patch.py script run_glue)" --help
"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the command line's parser."""
    formatter = argparse.RawDescriptionHelpFormatter
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--pin", metavar="NAME", help="a pin of pins.toml (default: the default pin)")
    shared.add_argument(
        "--cache",
        metavar="DIR",
        type=Path,
        help="cache folder (default: $OVERLAY_CACHE, then the user's cache)",
    )
    here = Path(__file__).resolve().parent
    shared.add_argument(
        "--project", metavar="DIR", type=Path, default=here, help="folder with pins.toml (default: this one)"
    )
    parser = argparse.ArgumentParser(prog="apply_patch.py", description=__doc__, formatter_class=formatter)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, summary: str, example: str | None = None) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=example,
            parents=[shared],
            formatter_class=formatter,
        )

    fetch = add("fetch", "fill the cached mirror with what a pin needs", FETCH_EXAMPLE)
    fetch.add_argument(
        "--from",
        dest="source",
        metavar="URL|PATH",
        help="source (default: $UPSTREAM_URL, then the pin's upstream)",
    )
    fetch.add_argument("--history", action="store_true", help="fetch all commits of upstream's main, too")
    add("apply", "apply the patches of a pin in build/<pin>/", APPLY_EXAMPLE)
    revert = add("revert", "take build/<pin>/ back to plain upstream", REVERT_EXAMPLE)
    revert.add_argument("--force", action="store_true", help="discard edits (they stay reachable in git)")
    status = add("status", "say what state each pin is in", STATUS_EXAMPLE)
    status.add_argument("--json", action="store_true", help="print JSON")
    add("verify", "check patches, lock, upstream and work tree against each other", VERIFY_EXAMPLE)
    export = add("export", "turn edits in build/<pin>/ into patches and lock", EXPORT_EXAMPLE)
    export.add_argument("paths", nargs="*", metavar="PATH", help="export edits under these paths only")
    export.add_argument("--patch", metavar="NN-name", help="patch for edits that no patch owns yet")
    export.add_argument("--subject", help="subject of --patch")
    export.add_argument("--description", help="description of --patch: why its hunks sit where they sit")
    export.add_argument(
        "--drop", metavar="NN-name", action="append", default=[], help="remove this patch if it became empty"
    )
    add("lock", "write the lock anew after a patch was changed by hand")
    add("repin", "move a pin that is built from a folder to the folder's present content")
    add("lint", "check what the patches look like (all pins, or --pin)", LINT_EXAMPLE)
    _add_history_commands(add)
    script = add("script", "print the path of a patched script", SCRIPT_EXAMPLE)
    script.add_argument("name", help="a script's name in pins.toml, e.g. run_glue")
    return parser


def _add_history_commands(add: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    """Adds the commands that follow upstream."""
    drift = add("drift", "carry the patches over upstream's history and say what each commit did", DRIFT_EXAMPLE)
    drift.add_argument("--to", metavar="REF", default="main", help="last upstream commit (default: %(default)s)")
    drift.add_argument("--since", metavar="REF", help="report on commits after this one (default: the pin's)")
    drift.add_argument(
        "--from", dest="source", metavar="URL|PATH", help="source of file contents (default: $UPSTREAM_URL)"
    )
    drift.add_argument("--json", action="store_true", help="print JSON")
    drift.add_argument("--html", metavar="FILE", type=Path, help="write a page with a timeline, too")
    rebase = add("rebase", "carry the patches to a later upstream commit, as a new pin", REBASE_EXAMPLE)
    rebase.add_argument("--to", metavar="REF", help="upstream commit of the new pin")
    rebase.add_argument("--as", dest="name", metavar="NAME", help="name of the new pin")
    rebase.add_argument("--library", help="what to install beside its checkout (default: what upstream's source says)")
    rebase.add_argument(
        "--from", dest="source", metavar="URL|PATH", help="source of file contents (default: $UPSTREAM_URL)"
    )
    rebase.add_argument(
        "--drop", metavar="NN-name", action="append", default=[], help="leave this patch out of the new series"
    )
    rebase.add_argument("--continue", dest="resume", action="store_true", help="go on with the files as edited")
    rebase.add_argument("--abort", action="store_true", help="forget the rebase that waits")


def main(argv: list[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    args = build_parser().parse_args(argv)
    # Imported late, so that --help and usage errors answer at once.
    from overlay.commands import run

    return run(args, os.environ)


if __name__ == "__main__":
    sys.exit(main())
