"""The report of the tables: all of the results are in it, and nothing from anywhere else."""

import copy
import json
import math
import random
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import main, render_report
from benchmarks.report_svg import Box, Scale, place_labels, smooth, spread, symmetric_log, text_width, thin, ticks
from nncf_transformers.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent
EVIL = "<script>alert('x')</script> & \"<b>\""
VOID = {"br", "meta", "link", "wbr"}


def quantizers(layers: int, seed: int) -> list[dict[str, Any]]:
    """Made-up ranges of a BERT of so many layers; one activation is far wider than the others, as in real models."""
    number = random.Random(seed).uniform
    rows = [("bert.embeddings.word_embeddings.weight", "weight", 0.4)]
    for layer in range(layers):
        start = f"bert.encoder.layer.{layer}"
        weights = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
        rows += [(f"{start}.{name}.weight", "weight", number(0.3, 0.9)) for name in (*weights, "intermediate.dense")]
        rows += [(f"{start}.output.dense.weight", "weight", number(0.3, 4))]
        rows += [(f"{start}.attention.self.query: {end}", "activation", number(2, 8)) for end in ("input", "output")]
        rows += [(f"{start}.attention.self: scaled_dot_product_attention output", "activation", number(1, 4))]
        rows += [
            (f"{start}.intermediate.intermediate_act_fn: output", "activation", number(5, 60) * (1 + 5 * (layer == 3)))
        ]
    rows += [
        ("qa_outputs.weight", "weight", 0.05),
        ("bert.encoder.layer.11.output.LayerNorm: output", "activation", 9.0),
    ]
    return [
        {"name": name, "kind": kind, "low": -0.17 if "act_fn" in name else -size, "high": round(size, 4)}
        for name, kind, size in rows
    ]


def sparsity(layers: int) -> list[dict[str, Any]]:
    """Made-up zeros: more in the later layers."""
    shapes = {
        "attention.self.query": [192, 768],
        "attention.output.dense": [768, 192],
        "intermediate.dense": [900, 768],
    }
    shapes["output.dense"] = [768, 900]
    return [
        {
            "name": f"bert.encoder.layer.{n}.{name}",
            "shape": shape,
            "sparsity": round(min(0.97, 0.08 * n + 0.02 * place), 4),
        }
        for n in range(layers)
        for place, (name, shape) in enumerate(shapes.items())
    ]


def curve(steps: int, end: float, seed: int) -> list[list[float]]:
    noise = random.Random(seed).gauss
    return [[s, round(end + 4 * math.exp(-s / steps * 5) + abs(noise(0, 0.25)), 4)] for s in range(10, steps, 10)]


def row(key: str, label: str, **values: Any) -> dict[str, Any]:
    names = "published published_note model measured latency_ms throughput size_mb parameters zeros curve load"
    empty = dict.fromkeys(f"{names} quantizers sparsity run_command seconds reason".split())
    base = {"command": f"make squad-{key} EXAMPLE=1", "wants": "an example GPU with 24 GB", "status": "done"}
    return {"key": key, "label": label, **empty, **base, **values}


def results() -> dict[str, Any]:
    """Results in the runner's form. Every value is made up: round, or with 11, 22, 33 in it."""

    def measured(f1: float, ms: float, mb: float) -> dict[str, Any]:
        return {
            "measured": {r: {"f1": f1 - d, "exact_match": f1 - 11 - d} for r, d in (("torch", 0), ("OpenVINO", 0.11))},
            "latency_ms": {"torch": 2 * ms, "OpenVINO": ms},
            "throughput": {"torch": 500 / ms, "OpenVINO": 1000 / ms},
            "size_mb": {"torch": 4 * mb, "ONNX": 1.1 * mb, "IR": mb},
        }

    done = {
        "commit": "abcdef1",
        "date": "2000-01-02",
        "seconds": 3333.3,
        "run_command": "python example.py --steps 1000",
        "parameters": 111_000_000,
        "zeros": 0,
    }
    rows = [
        row("fp32", "FP32", published={"f1": 93.21, "exact_match": 87.2}, model="example encoder, 1,000 steps")
        | measured(77.11, 44.0, 400.0)
        | done
        | {"curve": curve(1000, 1.1, 1)},
        row("int8", "INT8", published={"f1": 92.48, "exact_match": 85.95}, published_note="on 4 example GPUs")
        | measured(76.22, 22.0, 101.1)
        | done
        | {"curve": curve(1000, 1.2, 2), "quantizers": quantizers(12, 3), "published_label": "INT8, with 4 GPUs"}
        | {"latency_spread_ms": {"OpenVINO": [21.33, 23.44]}, "load": {"average": 3.31, "cores": 2}},
        row("jpqd", "JPQD: pruned, quantized and distilled", model="the same, 1,000 steps")
        | measured(74.33, 11.0, 55.5)
        | done
        | {"curve": curve(1000, 1.6, 4), "sparsity": sparsity(12), "zeros": 22_222_222},
        row("magnitude-int8", "INT8, 80 % magnitude") | measured(75.55, 21.0, 101.0) | done,
        row("adapter-fp32", "Adapter", published={"f1": None, "exact_match": 84.0}, status="not run here")
        | {"reason": "wants more memory than this machine has"},
        row("broken", "Broken row", status="failed", reason="exit code 1: no such file"),
    ]
    glue = [
        row("fp32", "FP32", published={"accuracy": 77.68}, status="not run here", reason="no data"),
        row("int8", EVIL, published={"accuracy": 77.02}, status="not run here", reason=EVIL, wants=EVIL, command=EVIL),
    ]
    data = [{"file": "example-dev.json", "sha256": "0123456789abcdef" * 4, "what": "111 made-up questions"}]
    return {
        "format": 1,
        "benchmark": "tables",
        "name": "tables-example",
        "title": "Example of the tables, made-up values",
        "scale": "cpu",
        "tasks": {
            "squad": {
                "title": "SQuAD 1.1, example model",
                "published_title": "SQuAD 1.1, a larger example",
                "source": "an example",
                "metrics": ["f1", "exact_match"],
                "data": data,
                "rows": rows,
            },
            "glue": {"title": f"Classes {EVIL}", "source": EVIL, "metrics": ["accuracy"], "data": [], "rows": glue},
        },
        "pin": "v0.0",
        "upstream_commit": "0" * 40,
        "overlay_commit": "abcdef0",
        "versions": {"torch": "0.0.0", "openvino": "0.0.0"},
        "seed": 42,
        "data": {"dev": {"file": "example-dev.json", "sha256": "0123456789abcdef" * 4}},
        "machine": {"processor": "Example processor", "cores": 2, "system": "Linux"},
        "date": "2000-01-01",
    }


class Page(HTMLParser):
    """Reads a page strictly: tags nest, names are used once."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.seen)


def test_everything_is_in_it() -> None:
    made = results()
    text = render_report(made)
    page = Page(text)
    words = " ".join(page.text)
    for task in made["tasks"].values():
        assert task["title"] in words
        for entry in task["rows"]:
            assert entry["label"] in words and entry["command"] in words and entry["wants"] in words
            assert entry["reason"] is None or entry["reason"] in words
            for value in (entry["published"] or {}).values():
                assert value is None or f"{value:.2f}" in words
            for values in (entry["measured"] or {}).values():
                assert all(f"{value:.2f}" in words for value in values.values())
            for part, decimals in (("latency_ms", 2), ("throughput", 1), ("size_mb", 1)):
                assert all(f"{value:,.{decimals}f}" in words for value in (entry[part] or {}).values())
    for fact in (
        "scale",
        "cpu",
        "a slice is never the data set",
        "not the budget: compressed rows train on from the FP32 row",
        "left to itself, it computes them in bfloat16",
        "The load was 3.3 on 2 cores",
        "published: INT8, with 4 GPUs; on 4 example GPUs",
        "21.33–23.44",
        "Example processor, 2 cores",
        "v0.0",
        "torch 0.0.0",
        "a larger example",
        "abcdef1",
    ):
        assert fact in words, fact
    assert "4 measured, 3 not run here, 1 failed" in words and "0123456789abcdef" * 4 in words
    # INT8 less FP32 in the same runtime; and what stands in the place of missing figures.
    assert "−0.89" in words and "no file" in words and "No charts" in words
    # Two scatters, the loss; ranges: 6 weights and 4 activations by layer, the others; zeros.
    assert page.count("svg") == 3 + (6 + 1) + (4 + 1) + 1


def test_page_is_sound() -> None:
    """Tags nest, names are unique, headers have a scope, drawings have a title, links lead somewhere."""
    text = render_report(results())
    page = Page(text)
    names = [attributes["id"] for _, attributes in page.seen if "id" in attributes]
    assert len(names) == len(set(names))
    assert all("scope" in attributes for tag, attributes in page.seen if tag == "th")
    for tag, attributes in page.seen:
        if tag == "svg":
            assert attributes["role"] == "img"
            assert set((attributes["aria-labelledby"] or "").split()) <= set(names)
        if tag == "a":
            assert (attributes["href"] or "").removeprefix("#") in names
    for drawing in re.findall("<svg.*?</svg>", text, re.DOTALL):
        root = ElementTree.fromstring(drawing)
        assert root[0].tag == "title" and root[0].text and root[1].tag == "desc" and root[1].text
        assert "nan" not in re.sub("<(title|desc).*?</", "", drawing) and "inf" not in drawing.split("<desc")[0]


def test_texts_are_escaped() -> None:
    made = results()
    made["title"] = EVIL
    made["tasks"]["squad"]["metrics"][0] = EVIL
    for part in ("torch", "OpenVINO"):
        made["tasks"]["squad"]["rows"][0]["measured"][part][EVIL] = 11.11
    made["tasks"]["squad"]["rows"][0]["label"] = EVIL
    made["tasks"]["squad"]["rows"][1]["quantizers"][0]["name"] = EVIL
    made["tasks"]["squad"]["rows"][2]["sparsity"][0]["name"] = EVIL
    made["versions"][EVIL] = EVIL
    text = render_report(made)
    assert "<script" not in text and "alert('x')" not in text
    page = Page(text)
    assert page.count("script") == 0 and '"<b>"' not in text and "&quot;&lt;b&gt;&quot;" in text


def test_nothing_comes_from_elsewhere() -> None:
    text = render_report(results())
    assert not re.search(r"(src|href|action|data)\s*=\s*[\"']?\s*(https?:|//)", text)
    assert "url(" not in text and "@import" not in text and "<script" not in text and "<iframe" not in text
    for tag, attributes in Page(text).seen:
        assert tag not in ("script", "img", "iframe", "object", "embed", "base", "form")
        assert tag != "link" or attributes == {"rel": "icon", "href": "data:,"}


def test_the_same_results_give_the_same_page(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results()))
    pages = []
    for seed in ("1", "2"):
        out = tmp_path / seed / "report.html"
        command = [sys.executable, "benchmarks/report.py", str(path), "--out", str(out)]
        done = subprocess.run(command, cwd=ROOT, env={"PYTHONHASHSEED": seed}, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout == f"wrote {out}\n", done.stderr
        pages.append(out.read_bytes())
        assert [file.name for file in out.parent.iterdir()] == ["report.html"]
    assert pages[0] == pages[1] == render_report(results()).encode()


def test_missing_parts_are_left_out() -> None:
    made = results()
    for task in made["tasks"].values():
        for entry in task["rows"]:
            entry.update({k: None for k in entry if k not in ("key", "label", "status", "command", "wants")})
    for key in ("pin", "versions", "seed", "machine", "data", "date"):
        del made[key]
    page = Page(render_report(made))
    words = " ".join(page.text)
    assert page.count("svg") == 0 and "nothing was measured" in words and "no reason was recorded" in words
    assert "Not drawn, for the results have no figures of it: latency, size, training curves" in words
    assert "The results do not say: seed, machine, versions" in words
    made["tasks"] = {}
    assert "hold no task" in render_report(made)


def test_figures_that_are_no_numbers() -> None:
    """A training that diverged: its loss is not drawn, and the page still is."""
    made = results()
    entry = made["tasks"]["squad"]["rows"][1]
    entry["curve"] = [[10, 1.0], [20, math.nan], [30, None], [40, math.inf]]
    entry["measured"]["torch"]["f1"] = math.nan
    entry["quantizers"][3]["high"] = math.inf
    entry["latency_ms"] = {"OpenVINO": 0.0}
    page = Page(render_report(made))
    assert "not finite" in page.text and "nan" in page.text
    assert not any(
        "nan" in str(value) or "inf" in str(value) for _, a in page.seen for k, value in a.items() if k[0] in "xycrwh"
    )


WRONG: list[tuple[str, Any, str]] = [
    ("format", 2, "format 2"),
    ("benchmark", "other", "holds no results of the tables"),
    ("scale", "huge", 'scale is "huge", but must be smoke or cpu or full'),
    ("tasks", [], "tasks is [], but must be an object"),
    ("tasks.squad.rows", None, "tasks.squad.rows is null, but must be a list"),
    ("tasks.squad.rows.0.status", "maybe", 'tasks.squad.rows[0].status is "maybe"'),
    ("tasks.squad.rows.0.label", None, "rows[0].label is null, but must be a text"),
    ("tasks.squad.rows.0.latency_ms", {"torch": "fast"}, "rows[0].latency_ms"),
    ("tasks.squad.rows.0.measured", {"torch": 93.2}, "rows[0].measured"),
    ("tasks.squad.rows.0.latency_spread_ms", {"torch": 1.0}, "rows[0].latency_spread_ms"),
    ("tasks.squad.rows.0.load", {"average": 1.0}, "rows[0].load"),
    ("tasks.squad.rows.0.curve", [[1, 2, 3]], "must be a list of [step, value]"),
    ("tasks.squad.rows.1.quantizers", [{"name": "x"}], "rows[1].quantizers"),
    ("tasks.squad.rows.2.sparsity", [{"name": "x", "shape": 3, "sparsity": 0}], "whose shape is a list"),
    ("tasks.squad", "none", "tasks is"),
]


@pytest.mark.parametrize(("place", "value", "said"), WRONG, ids=[place for place, *_ in WRONG])
def test_malformed_results(
    place: str, value: Any, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made: Any = copy.deepcopy(results())
    part = made
    *way, last = place.split(".")
    for key in way:
        part = part[int(key) if isinstance(part, list) else key]
    part[int(last) if isinstance(part, list) else last] = value
    with pytest.raises(UsageError, match=re.escape(said)):
        render_report(made)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(made))
    assert main([str(path), "--out", str(tmp_path / "out.html")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: ") and error.count("\n") == 1 and not (tmp_path / "out.html").exists()


def test_unreadable_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.json"
    for content, code in ((None, 2), (b"{", 6), (b"\xff\xfe", 6), (b"[]", 2)):
        if content is not None:
            path.write_bytes(content)
        assert main([str(path), "--out", str(tmp_path / "out.html")]) == code
        assert capsys.readouterr().err.count("\n") == 1
    path.write_text(json.dumps(results()))
    (tmp_path / "file").touch()
    assert main([str(path), "--out", str(tmp_path / "file" / "out.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_labels_do_not_overlap() -> None:
    """Even eight points in a heap get labels that cover neither each other nor a point."""
    points = [(150 + 3.0 * (i % 3), 100 + 4.0 * (i // 3)) for i in range(8)]
    texts = [f"a model, number {i}" for i in range(8)]
    frame = Box(40, 10, 350, 210)
    spots = place_labels(points, texts, frame, 11)
    boxes = [Box(x, y - 9, x + text_width(t, 11), y + 2) for (x, y, _), t in zip(spots, texts, strict=True)]
    for i, box in enumerate(boxes):
        assert (
            frame.left <= box.left and box.right <= frame.right and frame.top <= box.top and box.bottom <= frame.bottom
        )
        assert all(box.overlap(other) == 0 for other in boxes[:i])
        assert all(not (box.left < x < box.right and box.top < y < box.bottom) for x, y in points)


def test_arithmetic_of_drawing() -> None:
    assert ticks(0, 10) == [0, 2.5, 5, 7.5, 10] and ticks(-1, 1, 3) == [-1, 0, 1] and ticks(3, 3) == [3]
    assert spread([10, 11, 50], 14, 0, 100) == [10, 24, 50] and spread([98, 99], 14, 0, 100) == [86, 100]
    assert spread([1, 1, 1], 14, 0, 10) == [0, 5, 10]
    assert smooth([2.0, 2.0, 2.0], 5) == pytest.approx([2, 2, 2]) and smooth([0, 3], 2) == pytest.approx([0, 2])
    assert thin([(0, 0), (1, 2), (2, 4), (3, 6)], 2) == [(0.5, 1.0), (2.5, 5.0)]
    assert (
        symmetric_log([1, 6, -50]) is None
        and symmetric_log([5, 5, 60]) == pytest.approx(1)
        and symmetric_log([0.5, 900]) == pytest.approx(0.1)
    )
    scale = Scale(-100, 100, 0, 200, linear=1)
    assert scale(0) == 100 and scale(-9) == pytest.approx(200 - scale(9))
    assert scale(9) - 100 == pytest.approx(100 * math.log10(10) / math.log10(101))
    assert scale.ticks()[0] == -100 and 0 in scale.ticks()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright, which drives a browser, is not installed")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no browser is installed (chromium, chromium-browser or google-chrome)")
    # None of these changes what is tested; they keep a browser from calling home.
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=flags.split())
        yield browser
        browser.close()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_in_a_browser(width: int, scheme: str, browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(render_report(results()), encoding="utf-8")
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    said: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_timeout(300)
    assert said == [] and requests == [path.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "wider than the screen"
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 26)")
    # No label of a chart covers another one, as the browser has drawn them.
    overlaps = page.evaluate(
        """() => { const bad = []; for (const svg of document.querySelectorAll('.charts > figure > svg')) {
        const boxes = [...svg.querySelectorAll('text')].map(t => [t.firstChild.data, t.getBoundingClientRect()]);
        for (let i = 0; i < boxes.length; i++) for (let j = 0; j < i; j++) { const a = boxes[i][1], b = boxes[j][1];
        if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 && Math.min(a.bottom, b.bottom) -
        Math.max(a.top, b.top) > 4) bad.push([boxes[i][0], boxes[j][0]]); } } return bad; }"""
    )
    assert overlaps == []
    page.close()
