"""Renders a drift report as one HTML page that needs nothing else: a timeline, one row per hunk."""

import html

from overlay.carry import Outcome, Verdict
from overlay.drift import Report

_COLOURS = {
    Verdict.CLEAN: "#2e7d32",
    Verdict.MOVED: "#7cb342",
    Verdict.CONTEXT: "#c0ca33",
    Verdict.SYNTAX: "#f9a825",
    Verdict.MEANINGLESS: "#8e24aa",
    Verdict.CONFLICT: "#c62828",
    Verdict.DELETED: "#424242",
}
_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem; color: #222; }
h1 { font-size: 1.3rem; } code { font-size: .9em; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .15rem .5rem; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd; }
.timeline td { padding: 0 1px; border: 0; } .timeline th { font-weight: normal; white-space: nowrap; }
.cell { display: block; width: 1.1rem; height: 1.1rem; border-radius: 2px; background: #eee; }
.key span { display: inline-block; margin-right: 1rem; } .key i { display: inline-block; width: .8rem; height: .8rem; }
"""


def page(report: Report) -> str:
    """Returns the page.

    Args:
        report: What `drift` found.
    """
    title = f"Drift of {report.pin}: {report.base[:12]} to {report.tip[:12]}"
    summary = (
        f"{report.commits} upstream commits, {len(report.carried.steps)} of which touch patched files; "
        f"{len(report.survivors)} of {len(report.hunks)} hunks work at the end."
    )
    key = "".join(f'<span><i style="background:{c}"></i> {html.escape(v)}</span>' for v, c in _COLOURS.items())
    return "\n".join(
        (
            "<!DOCTYPE html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>',
            f"<style>{_STYLE}</style></head><body>",
            f"<h1>{html.escape(title)}</h1><p>{summary}</p>",
            f'<p class="key">{key}</p>',
            _timeline(report),
            _breaks(report),
            _commits(report),
            "</body></html>\n",
        )
    )


def _timeline(report: Report) -> str:
    rows = []
    for hunk in report.hunks:
        cells = []
        for step in report.carried.steps:
            outcome = next((outcome for outcome in step.outcomes if outcome.hunk == hunk), None)
            tip = html.escape(f"{step.commit}: {outcome or 'not touched'}", quote=True)
            cells.append(f'<td><span class="cell"{_background(outcome)} title="{tip}"></span></td>')
        rows.append(f"<tr><th>{html.escape(str(hunk))}</th>{''.join(cells)}</tr>")
    return f'<h2>Timeline</h2><table class="timeline">{"".join(rows)}</table>'


def _background(outcome: Outcome | None) -> str:
    return f' style="background:{_COLOURS[outcome.verdict]}"' if outcome else ""


def _breaks(report: Report) -> str:
    if not report.carried.broken:
        return "<h2>First breaking commit of each hunk</h2><p>None broke.</p>"
    rows = "".join(
        f"<tr><td>{html.escape(str(hunk))}</td><td>{html.escape(str(outcome))}</td>"
        f"<td>{html.escape(str(commit))}</td></tr>"
        for hunk, (commit, outcome) in report.carried.broken.items()
    )
    return f"<h2>First breaking commit of each hunk</h2><table>{rows}</table>"


def _commits(report: Report) -> str:
    rows = []
    for step in report.carried.steps:
        what = "<br>".join(html.escape(f"{outcome.hunk}: {outcome}") for outcome in step.outcomes)
        commit = step.commit
        rows.append(
            f"<tr><td>{commit.date}</td><td><code>{commit.sha[:12]}</code></td>"
            f"<td>{html.escape(commit.subject)}</td><td>{what}</td></tr>"
        )
    return f"<h2>Commits that touch patched files</h2><table>{''.join(rows)}</table>"
