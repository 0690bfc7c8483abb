"""What benchmarks/peers computes itself: its table and sentences, ONNX Runtime's methods, timing, and its mistakes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from tiny import tiny_batches, tiny_model

from benchmarks.peers import __main__ as peers
from benchmarks.peers import make_onnx, runners
from benchmarks.peers.artefacts import Workshop
from benchmarks.peers.methods import FILES, METHODS, OWN_PRECISION, trained_by
from benchmarks.peers.samples import calibration_samples
from benchmarks.peers.score import Recorder, compare, keep_question_f1, paired, score_file
from benchmarks.peers.table import sentences, table
from nncf_transformers.data import sha256_of
from nncf_transformers.errors import IntegrityError, UsageError


def row(kind: str, title: str, f1: float, latency: float | None, **changes: Any) -> dict[str, Any]:
    timing = None
    if latency is not None:
        timing = {"latency_ms": latency, "rows_per_second": 1e3 / latency, "peak_mb": 321.4}
    figures = {"metrics": {"f1": f1, "exact_match": f1 - 10}, "same_as_fp32": 91.25, "kl_to_fp32": 0.00613}
    figures |= {"f1_to_fp32": [0.0, 0.0] if kind == "fp32" else [1.149, 0.617]}
    base = {"key": title, "kind": kind, "title": title, "runtime": "OpenVINO", "reason": None, "size_mb": 23.2}
    base |= {"version": "1.2" if kind == "peer" else None, "what": f"by {title}"}
    return base | figures | {"timing": timing} | changes


def record(*rows: dict[str, Any]) -> dict[str, Any]:
    for one in rows:
        if one["kind"] == "ours":
            # An error of 0.3 on each difference.
            peers = [other for other in rows if other["kind"] == "peer"]
            differences = [one["metrics"]["f1"] - other["metrics"]["f1"] for other in peers]
            names = [f"{other['key']}/OpenVINO" for other in peers]
            one["f1_to_peers"] = {name: [round(d, 3), 0.3] for name, d in zip(names, differences, strict=True)}
    described = {"model": "a-model", "model_shape": "bert, 6 layers of width 384", "questions": 1752, "what": "a slice"}
    return {"batch": 16, "length": 384, **described, "rows": list(rows)}


def test_table_with_a_failure() -> None:
    failed = row("peer", "C", 0, None, reason="error: a | b\nsecond line")
    text = table(record(row("fp32", "FP32", 65.3, 30.04), row("ours", "O", 66.0, None), failed))
    lines = text.splitlines()
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|") == 12
    assert "| latency ms (1 × 384) | rows/s (16 × 384) | peak MB |" in lines[0]
    assert lines[2] == "| FP32 | OpenVINO, float32 | 65.30 | 0 | 55.30 | 91.2 | 0.0061 | 23.2 | 30.0 | 33.3 | 321 |"
    assert "| 66.00 | +1.15 ± 0.62 | 56.00 |" in lines[3] and lines[3].endswith("| 23.2 | – | – | – |")
    assert lines[4].startswith("| C (1.2) | OpenVINO | error: a \\| b second line |")
    assert lines[4].replace("\\|", "").count("|") == 12
    assert "no peer was measured" in text and "Without figures: C in OpenVINO." in text
    assert lines[-1] == "How they were made: FP32: by FP32; O: by O."


def test_sentences_say_who_is_ahead() -> None:
    ours = [row("ours", "O1", 66.0, 15.0), row("ours", "O2", 65.2, 14.0)]
    others = [row("peer", "A", 65.0, 14.5), row("peer", "B", 66.0, 20.0), row("peer", "C", 65.5, 14.2)]
    found = sentences(record(row("fp32", "FP32", 99.0, 1.0), *ours, *others))
    assert found == [
        "O1 in OpenVINO: F1 66.00, not distinguishable from 2, of which the highest is B in OpenVINO (66.00, "
        "+0.00 ± 0.30); above A in OpenVINO (65.00, +1.00 ± 0.30).",
        "O2 in OpenVINO: F1 65.20, **behind** B in OpenVINO (66.00, -0.80 ± 0.30); not distinguishable from 2, "
        "of which the highest is C in OpenVINO (65.50, -0.30 ± 0.30).",
        "O1 in OpenVINO: latency 15.0 ms, **behind** C in OpenVINO (14.2 ms), A in OpenVINO (14.5 ms).",
        "O2 in OpenVINO: latency 14.0 ms, at or below every peer's; the best is C in OpenVINO (14.2 ms).",
    ]
    old = row("ours", "O", 66.0, 15.0)
    assert sentences({"rows": [old, others[0]]})[0].endswith("which peers differ by more than chance was not recorded.")
    assert "Latencies were not measured." in sentences(record(row("ours", "O", 1, None), *others))
    assert sentences(record(*others))[0] == "There is nothing to compare: nothing of ours was measured."


def test_the_table_says_what_was_judged() -> None:
    text = table(record(row("fp32", "FP32", 65.3, 30.04), row("fp32", "FP32", 65.2, 20.0, runtime=OWN_PRECISION)))
    assert "The model is a-model (bert, 6 layers of width 384), judged on 1,752 questions: a slice." in text
    assert "| FP32 | OpenVINO, float32 |" in text and "| FP32 | OpenVINO, own precision |" in text
    assert "bfloat16" in text and "`make bench-latency`" in text
    before = {"batch": 16, "length": 384, "model": "m", "rows": [row("fp32", "FP32", 65.3, None)]}
    assert "The model is m, judged on a number of questions not recorded" in table(before)


def test_fp32_is_exact_where_it_says_so(words: list[str]) -> None:
    workshop = workshop_of(words)
    exact = {name: "--exact" in workshop.worker_command("fp32", name) for name in METHODS[0].runtimes}
    assert exact == {"torch": True, "ONNX Runtime": True, "OpenVINO": True, OWN_PRECISION: False}
    assert "--exact" not in workshop.worker_command("ours-ptq", "OpenVINO")


def test_f1_of_each_question_is_added_to_a_score(tmp_path: Path) -> None:
    """Those of before have none; their answers do."""
    dev, file = squad(tmp_path / "data", 4) / "dev-v1.1.json", tmp_path / "score-x.json"
    answers = ["Ann", "Ann was", "nobody", "the Ann"]
    file.write_text(json.dumps({"metrics": {"f1": 100 * (1 + 2 / 3 + 0 + 1) / 4}, "answers": answers}))
    assert keep_question_f1(file, dev)["question_f1"] == pytest.approx([100, 66.6667, 0, 100])
    assert json.loads(file.read_text())["question_f1"] == pytest.approx([100, 66.6667, 0, 100])
    file.write_text(json.dumps({"metrics": {"f1": 50.0}, "answers": answers}))
    with pytest.raises(IntegrityError, match="have F1 66.67 on dev-v1.1.json, it says 50.00; delete it"):
        keep_question_f1(file, dev)


def test_paired_error_is_that_of_the_differences() -> None:
    random = np.random.default_rng(0)
    hard = random.uniform(0, 100, 50)
    ours, theirs = hard + random.normal(1, 2, 50), hard + random.normal(0, 2, 50)
    difference, error = paired(list(ours), list(theirs))
    assert difference == pytest.approx((ours - theirs).mean(), abs=1e-3)
    assert error == pytest.approx((ours - theirs).std(ddof=1) / 50**0.5, abs=1e-3)
    assert error < 0.2 * ours.std() / 50**0.5, "what both find hard is not counted"


def test_divergence_is_that_of_the_formula(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    masks = [np.array([[1, 1, 1, 0], [1, 1, 1, 1]]), np.array([[1, 1, 0]])]
    logits = {n: [[random.normal(size=m.shape) for _ in range(2)] for m in masks] for n in ("p", "q")}
    for name in ("p", "q"):
        batches = iter(logits[name])
        recorder = Recorder(lambda _, batches=batches: tuple(next(batches)))
        for mask in masks:
            recorder({"attention_mask": mask})
        file = tmp_path / f"{name}.json"
        np.savez(file.with_suffix(".npz"), *recorder.logarithms)
        f1 = [0, 0, 100 * (name == "q"), 0]
        file.write_text(json.dumps({"answers": ["a", "b", name, "d"], "question_f1": f1}))
    divergences = []
    for mask, ps, qs in zip(masks, logits["p"], logits["q"], strict=True):
        for p, q in zip(ps, qs, strict=True):
            for real, a, b in zip(mask.astype(bool), p, q, strict=True):
                a, b = (np.exp(x[real]) / np.exp(x[real]).sum() for x in (a, b))
                divergences.append((a * np.log(a / b)).sum())
    found = compare(tmp_path / "q.json", tmp_path / "p.json")
    assert found["kl_to_fp32"] == pytest.approx(np.mean(divergences), abs=1e-5)
    assert found["same_as_fp32"] == 75.0
    assert found["f1_to_fp32"] == [25.0, 25.0]
    itself = {"same_as_fp32": 100.0, "kl_to_fp32": 0.0, "f1_to_fp32": [0.0, 0.0]}
    assert compare(tmp_path / "p.json", tmp_path / "p.json") == itself


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artefact of FP32 of a tiny model, in every runtime, and the checkpoint ``model`` beside it."""
    from benchmarks.peers.make import _export

    folder = tmp_path_factory.mktemp("out") / "fp32"
    folder.mkdir()
    model = tiny_model()
    model.save_pretrained(folder.parent / "model")
    _export(model, folder)
    torch.save(model.state_dict(), folder / "model.pt")
    return folder


def batches_of(lengths: tuple[int, ...]) -> list[dict[str, np.ndarray]]:
    model = tiny_model()
    batches = [tiny_batches(model, 1, 1, length)[0] for length in lengths]
    return [{name: batch[name].numpy() for name in runners.NAMES} for batch in batches]


@pytest.mark.parametrize("runtime", ["torch", "ONNX Runtime", "OpenVINO", OWN_PRECISION])
def test_runners_agree(fp32: Path, runtime: str) -> None:
    (inputs,) = batches_of((20,))
    with torch.no_grad():
        expected = tiny_model()(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    run = runners.load(runtime, fp32, 1, model=fp32.parent / "model", exact=True)
    for output, logits in zip(run(inputs), (expected.start_logits, expected.end_logits), strict=True):
        np.testing.assert_allclose(output, logits.numpy(), atol=0.1 if runtime == OWN_PRECISION else 1e-4)
    assert all((fp32 / name).is_file() for name in FILES[runtime])


def test_exported_models_run_without_torch(fp32: Path) -> None:
    """The memory of a row is that of its runtime; and there is one way into ONNX Runtime."""
    program = "import sys; from pathlib import Path; from benchmarks.peers.runners import load\n"
    program += "for name in ('ONNX Runtime', 'OpenVINO'):\n    load(name, Path(sys.argv[1]), 1, model=Path())\n"
    program += "print('torch' in sys.modules, 'nncf_transformers.runtimes' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program, fp32], cwd=peers.ROOT, capture_output=True, text=True)
    assert done.stdout == "False True\n", done.stderr


@pytest.mark.parametrize("method", ["MinMax", "Percentile", "dynamic"])
def test_onnx_runtime_quantizes(fp32: Path, tmp_path: Path, method: str) -> None:
    # Real samples differ in length.
    samples = batches_of((16, 24, 20, 12))
    target = tmp_path / "model.onnx"
    if method == "dynamic":
        make_onnx.dynamic(fp32 / "model.onnx", target)
    else:
        what = make_onnx.static(fp32 / "model.onnx", target, samples, method, ("MatMul", "Gemm", "Gather"))
        assert what == f"QDQ, {method}, 4 samples, weights of MatMul, Gemm, Gather"
    graph = onnx.load(target).graph
    kinds = {node.op_type for node in graph.node}
    assert ("MatMulInteger" in kinds) if method == "dynamic" else ({"QuantizeLinear", "DequantizeLinear"} <= kinds)
    floats = sum(int(np.prod(t.dims)) for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT)
    whole = sum(p.numel() for p in tiny_model().parameters())
    assert floats < 0.5 * whole, "the weights are integers"
    before, after = (runners.load("ONNX Runtime", f, 1, model=f)(samples[0])[0] for f in (fp32, tmp_path))
    assert 0 < np.abs(before - after).max() < 0.5 * np.abs(before).max()


def squad(folder: Path, questions: int = 3) -> Path:
    qas = [
        {"id": str(i), "question": f"who {i} ?", "answers": [{"text": "Ann", "answer_start": 0}]}
        for i in range(questions)
    ]
    article = {"title": "t", "paragraphs": [{"context": "Ann was there . " * 9, "qas": qas}]}
    folder.mkdir(exist_ok=True)
    for split in ("train", "dev"):
        (folder / f"{split}-v1.1.json").write_text(json.dumps({"version": "1.1", "data": [article]}))
    return folder


def test_calibration_samples(tmp_path: Path) -> None:
    def tokenizer(question: str, context: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [int(question.split()[1])] + [9] * len(context.split()), "attention_mask": [1] * 37}

    file = squad(tmp_path) / "train-v1.1.json"
    chosen = [[int(s["input_ids"][0, 0]) for s in calibration_samples(tokenizer, file, 2, seed)] for seed in range(9)]
    assert chosen[0] == [int(s["input_ids"][0, 0]) for s in calibration_samples(tokenizer, file, 2, 0)]
    assert len(set(map(tuple, chosen))) > 1 and all(len(set(rows)) == 2 for rows in chosen)
    sample = calibration_samples(tokenizer, file, 1)[0]
    assert sample["input_ids"].shape == (1, 37) and sample["input_ids"].dtype == np.int64
    with pytest.raises(UsageError, match="has 3 questions, calibration wants 4; give --samples 3"):
        calibration_samples(tokenizer, file, 4)


@pytest.fixture
def words(fp32: Path, tmp_path: Path) -> list[str]:
    """A command line that is right; this environment stands for that of the peers."""
    data = squad(tmp_path / "data")
    flags = {"--model": fp32.parent / "model", "--data": data, "--peers": sys.prefix, "--out": tmp_path / "out"}
    flags |= {
        "--json": tmp_path / "bench-peers.json",
        "--threads": 1,
        "--rounds": 2,
        "--calls": 1,
        "--batches": 1,
        "--length": 64,
    }
    return [str(word) for pair in (flags | {"--batch": 2}).items() for word in pair]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--data", "nowhere"],
            "nowhere: has no train-v1.1.json; give a folder with SQuAD's two files (make: DATA=DIR)",
        ),
        (["--model", "nowhere"], "nowhere: has no model.safetensors; give the folder of a checkpoint"),
        (["--int8", "nowhere"], "nowhere: has no model.safetensors; give the folder of a checkpoint"),
        (["--peers", "nowhere"], "there is no environment of the peers; run `make .venv-peers/.ready`"),
        (["--only", "nccf"], "--only: no method nccf; there are fp32, nncf,"),
    ],
)
def test_mistakes(words: list[str], flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert peers.main([*words, *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {'' if flags[0] == '--only' else flags[0]}") and message in error
    assert error.count("\n") == 1


def test_flags_that_leave_nothing_to_do(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        peers.main([*words, "--only-timing", "--no-timing"])
    assert "leave nothing to do" in capsys.readouterr().err


def workshop_of(words: list[str]) -> Workshop:
    return peers._workshop(peers._parse(words))


def test_why_a_method_is_missing(words: list[str]) -> None:
    workshop = workshop_of(words)
    methods = {method.key: method for method in METHODS}
    workshop.versions.pop("torchao", None)
    assert workshop.make(methods["torchao"], again=True) == f"torchao is not installed in {Path(sys.prefix).name}"
    assert workshop.make(methods["ort-dynamic"], again=True).startswith("there is no FP32 ONNX file")
    reason = workshop.make(methods["ours-qat"], again=True)
    assert reason.startswith("not run: give --int8 DIR") and workshop.reason(methods["ours-qat"]) == reason
    assert workshop.reason(methods["nncf"]) == "not run"


def test_a_checkpoint_is_trained_once_for_the_same_flags(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def train(workshop: Workshop, command: list[str], log: Path, limited: bool = True) -> None:
        calls.append([str(word) for word in command])
        folder = Path(calls[-1][calls[-1].index("--output_dir") + 1])
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"")

    monkeypatch.setattr(Workshop, "_call", train)
    monkeypatch.setattr("scripts.train.script_path", lambda *_: Path("run_qa.py"))
    method = next(method for method in METHODS if method.key == "ours-qat")
    for steps in ("2", "2", "3"):
        workshop = workshop_of([*words, "--train-steps", steps, "--train-flags=--bf16"])
        assert workshop._missing(method) is None
        known = trained_by(workshop._int8())
        assert known["flags"].startswith(f"--max_steps {steps} ") and known["flags"].endswith(" --bf16")
        assert "seconds" in known
    assert [call[call.index("--max_steps") + 1] for call in calls] == ["2", "3"]


def test_a_process_that_fails_is_one_line(words: list[str], tmp_path: Path) -> None:
    workshop, log = workshop_of([*words, "--limit", "1"]), tmp_path / "log"
    command = [sys.executable, "-c"]
    assert workshop._call([*command, "pass"], log) is None
    assert workshop._call([*command, "raise ValueError('of no use')"], log) == "ValueError: of no use"
    assert workshop._call([*command, "import time; time.sleep(60)"], log) == "took more than 1 s (--limit)"
    killed = workshop._call([*command, "import os; os.kill(os.getpid(), 9)"], log)
    assert killed == "ended by signal 9 (SIGKILL)"


def test_timing_of_what_is_there(words: list[str], fp32: Path, tmp_path: Path) -> None:
    workshop = workshop_of(words)
    random = np.random.default_rng(0)
    rows = {"fp32": ("torch", "ONNX Runtime"), "ort-dynamic": ("ONNX Runtime",)}
    for key, runtimes in rows.items():
        folder = tmp_path / "out" / key
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes((fp32 / "model.onnx").read_bytes())
        made = {"what": "as it is", "seconds": 1.0, "identity": workshop.identity}
        (folder / "made.json").write_text(json.dumps(made))
        for runtime in runtimes:
            file = score_file(folder, runtime)
            dev = sha256_of(tmp_path / "data" / "dev-v1.1.json")
            score = {"metrics": {"f1": 200 / 3, "exact_match": 50.0}, "dev_sha256": dev}
            score["answers"] = ["Ann", "the Ann", "nobody"]
            file.write_text(json.dumps(score))
            np.savez(file.with_suffix(".npz"), np.log(random.dirichlet(np.ones(4), 2)))
    # The torch model has no file any more: a row that fails late.
    (tmp_path / "out" / "fp32" / "model.pt").write_bytes(b"")
    assert peers.main([*words, "--only-timing"]) == 0
    found = json.loads((tmp_path / "bench-peers.json").read_text())
    by_name = {(row["key"], row["runtime"]): row for row in found["rows"]}
    assert len(by_name) == sum(len(method.runtimes) for method in METHODS)
    timing = by_name["ort-dynamic", "ONNX Runtime"]["timing"]
    assert 0 < timing["latency_ms"] < 5e3 and timing["rows_per_second"] > 0 and 20 < timing["peak_mb"] < 2e3
    size = os.path.getsize(fp32 / "model.onnx") / 1e6
    assert by_name["ort-dynamic", "ONNX Runtime"]["size_mb"] == pytest.approx(size, abs=0.01)
    assert by_name["fp32", "torch"]["reason"].startswith("does not run: ")
    assert by_name["fp32", "OpenVINO"]["reason"] == "not judged"
    assert by_name["ours-ptq", "OpenVINO"]["reason"] == "not run"
    assert (found["questions"], found["model"]) == (3, "model")
    assert found["what"] == "dev-v1.1.json of a folder that was given: a split of that name, not necessarily SQuAD's"
    assert by_name["ort-dynamic", "ONNX Runtime"]["f1_to_fp32"] == [0.0, 0.0]
    assert found["kind"] == "peers" and found["data"]["dev"]["sha256"] and found["seed"] == 42
    assert "nothing of ours was measured" in table(found)
