"""The commands of `apply_patch.py`: each calls one function of the package and prints what it did."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from overlay.errors import ExitCode, OverlayError, UsageError
from overlay.layout import Layout, default_cache
from overlay.pins import Pin, Pins, load_pins


def run(args: argparse.Namespace, environment: Mapping[str, str]) -> int:
    """Runs the command that was parsed; a user error becomes one line on standard error.

    Args:
        args: What `build_parser` of `apply_patch.py` parsed.
        environment: For `OVERLAY_CACHE` and `UPSTREAM_URL`, which stand in for flags that were not given.

    Returns:
        The exit code, see `errors.ExitCode`.
    """
    try:
        pins = load_pins(args.project / "pins.toml")
        layout = resolve_layout(args.project, args.cache, environment)
        if "source" in args:
            args.source = args.source or environment.get("UPSTREAM_URL")
        return _COMMANDS[args.command](args, pins, layout)
    except OverlayError as error:
        return _fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        return _fail(f"package {error.name!r} is not installed; run 'make setup' and use its Python", ExitCode.FAILURE)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(
            f"{where}{error.strerror or error}; free the disk or correct permissions, then run this again: "
            "nothing was left half done",
            ExitCode.FAILURE,
        )
    except KeyboardInterrupt:
        return _fail("interrupted; run this again to continue", ExitCode.FAILURE)


def resolve_layout(project: Path, cache: Path | None, environment: Mapping[str, str]) -> Layout:
    """Returns where things lie.

    Args:
        project: Folder with `pins.toml`.
        cache: Cache folder, if one was given.
        environment: For `OVERLAY_CACHE`.
    """
    folder = cache or environment.get("OVERLAY_CACHE") or default_cache()
    return Layout(project.resolve(), Path(folder).expanduser().resolve())


def _fail(message: str, code: ExitCode) -> int:
    print(f"apply_patch.py: error: {' '.join(message.split())}", file=sys.stderr)
    return int(code)


def _say(note: str) -> None:
    print(note, file=sys.stderr)


def _fetch(args: argparse.Namespace, pins: Pins, layout: Layout) -> int:
    from overlay.fetch import fetch

    pin = pins.get(args.pin)
    progress = sys.stderr.isatty()
    done = fetch(pin, layout, args.source, history=args.history, progress=progress, say=_say)
    print(f"{pin.name}: {done} {pin.commit}{', with history' if args.history and pin.upstream else ''}")
    return ExitCode.DONE


def _apply(args: argparse.Namespace, pins: Pins, layout: Layout) -> int:
    from overlay.apply import apply

    pin = pins.get(args.pin)
    done = apply(pin, layout, say=_say)
    print(f"{pin.name}: {done.did} {_count(done.patches, 'patch')}: {done.commit}")
    return ExitCode.DONE


def _revert(args: argparse.Namespace, pins: Pins, layout: Layout) -> int:
    from overlay.apply import revert

    pin = pins.get(args.pin)
    print(f"{pin.name}: reverted to plain upstream: {revert(pin, layout, force=args.force, say=_say)}")
    return ExitCode.DONE


def _status(args: argparse.Namespace, pins: Pins, layout: Layout) -> int:
    from overlay.status import status

    reports = [status(pin, layout) for pin in _selected(args, pins)]
    if args.json:
        print(json.dumps({"default": pins.default, "pins": [report.to_dict() for report in reports]}, indent=2))
        return ExitCode.DONE
    for report in reports:
        default = " (default)" if report.pin == pins.default else ""
        print(f"{report.pin}{default}: {report.state}: {report.reason}")
        for path in report.files:
            print(f"  edited: {path}")
        for path in report.untracked:
            print(f"  untracked: {path}")
    return ExitCode.DONE


def _verify(args: argparse.Namespace, pins: Pins, layout: Layout) -> int:
    from overlay.status import verify

    pin = pins.get(args.pin)
    done = verify(pin, layout)
    print(
        f"{pin.name}: {_count(done.patches, 'patch')} and {_count(done.files, 'locked file')} verified, "
        f"{'applied' if done.applied else 'not applied'}: {done.commit}"
    )
    return ExitCode.DONE


def _export(args: argparse.Namespace, pins: Pins, layout: Layout) -> int:
    from overlay.export import Request, export
    from overlay.lint import lint_patches

    pin = pins.get(args.pin)
    request = Request(args.patch, args.subject, args.description, tuple(args.drop), tuple(args.paths))
    done = export(pin, layout, request, say=_say)
    _print_export(pin, "exported", done.series.patches, done.commit, done.changed)
    for finding in lint_patches(done.series):
        _say(str(finding))
    return ExitCode.DONE


def _lock(args: argparse.Namespace, pins: Pins, layout: Layout) -> int:
    from overlay.export import relock

    pin = pins.get(args.pin)
    done = relock(pin, layout)
    _print_export(pin, "locked", done.series.patches, done.commit, done.changed)
    return ExitCode.DONE


def _repin(args: argparse.Namespace, pins: Pins, layout: Layout) -> int:
    from overlay.export import repin

    pin = pins.get(args.pin)
    done = repin(pin, layout, args.project / "pins.toml")
    _print_export(pin, f"pinned {done.series.pin.commit},", done.series.patches, done.commit, done.changed)
    return ExitCode.DONE


def _lint(args: argparse.Namespace, pins: Pins, layout: Layout) -> int:
    from overlay.lint import lint

    findings = [finding for pin in _selected(args, pins) for finding in lint(pin, layout)]
    for finding in findings:
        print(finding)
    errors = sum(finding.is_error for finding in findings)
    print(f"{_count(errors, 'error')}, {_count(len(findings) - errors, 'warning')}")
    return ExitCode.FAILURE if errors else ExitCode.DONE


def _drift(args: argparse.Namespace, pins: Pins, layout: Layout) -> int:
    from overlay.drift import drift, text

    pin = pins.get(args.pin)
    report = drift(pin, layout, to=args.to, since=args.since, source=args.source, say=_say)
    if args.html:
        from overlay.drift_page import page
        from overlay.files import write_atomically

        args.html.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(args.html, page(report).encode())
        _say(f"wrote {args.html}")
    print(json.dumps(report.to_dict(), indent=2) if args.json else text(report))
    return ExitCode.CONFLICT if report.carried.broken else ExitCode.DONE


def _rebase(args: argparse.Namespace, pins: Pins, layout: Layout) -> int:
    from overlay.rebase import Rebased, Request, abort_rebase, continue_rebase, rebase

    if args.abort:
        print(f"{abort_rebase(layout)}: rebase aborted, nothing was changed")
        return ExitCode.DONE
    done: Rebased
    if args.resume:
        done = continue_rebase(pins, layout, args.drop)
    else:
        if not (args.to and args.name):
            raise UsageError("rebase needs --to REF and --as NAME, or --continue, or --abort")
        request = Request(args.to, args.name, args.library, args.source, tuple(args.drop))
        done = rebase(pins.get(args.pin), pins, layout, request, say=_say)
    for note in done.notes:
        print(f"  {note}")
    print(f"{done.pin.name}: {_count(done.patches, 'patch')} at {done.pin.commit}: {done.applied}")
    print(f"  wrote {done.pin.patches}/ and pins.toml; now: python apply_patch.py apply --pin {done.pin.name}")
    return ExitCode.DONE


def _script(args: argparse.Namespace, pins: Pins, layout: Layout) -> int:
    from overlay.status import script_path

    print(script_path(pins.get(args.pin), layout, args.name))
    return ExitCode.DONE


def _selected(args: argparse.Namespace, pins: Pins) -> list[Pin]:
    return [pins.get(args.pin)] if args.pin else list(pins.by_name.values())


def _print_export(pin: Pin, did: str, patches: tuple[object, ...], commit: str, changed: list[str]) -> None:
    print(f"{pin.name}: {did} {_count(len(patches), 'patch')}: {commit}")
    for name in changed or ["nothing, all files were up to date"]:
        print(f"  wrote {pin.patches + '/' if changed else ''}{name}")


def _count(number: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("ch") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


_COMMANDS: dict[str, Callable[[argparse.Namespace, Pins, Layout], int]] = {
    "fetch": _fetch,
    "apply": _apply,
    "revert": _revert,
    "status": _status,
    "verify": _verify,
    "export": _export,
    "lock": _lock,
    "repin": _repin,
    "lint": _lint,
    "drift": _drift,
    "rebase": _rebase,
    "script": _script,
}
