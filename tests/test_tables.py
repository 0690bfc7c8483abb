"""`make tables`: its steps go on after anything, and repeat only what has changed; failures stay where they are."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import adapter_rows, harness, render, tables
from benchmarks.report_check import check_results
from benchmarks.reproduce import jobs, judging, results
from benchmarks.reproduce.figures import Row, Task
from benchmarks.reproduce.steps import Step, StepError, finished, last_checkpoint, perform
from nncf_transformers.errors import UsageError
from overlay.errors import OverlayError

ROOT = Path(__file__).resolve().parent.parent

SCALE = """
[cpu]
title = "a test"
arguments = { seed = 1 }

[cpu.tasks.words]
title = "words"
what = "a few words"
script = "run_words"
files = { "train.tsv" = "w/train.tsv", "dev.tsv" = "w/dev.tsv" }
arguments = { use_cpu = "" }
judging = { kind = "class", dataset = ["glue", "sst2"], columns = ["sentence"], max_seq_length = 8, latency_length = 8 }

[[cpu.tasks.words.rows]]
key = "fp32"
what = "small, 4 steps"
arguments = { max_steps = 4 }

[[cpu.tasks.words.rows]]
key = "int8"
start = "words/fp32"
what = "2 further steps"
nncf_config = "nncf_configs/nncf_config.json"
arguments = { max_steps = 2 }

[[cpu.tasks.words.rows]]
key = "extra"
label = "something of our own"
start = "words/fp32"
teacher = "words/int8"
what = "with a teacher"

[cpu.tasks.texts]
title = "texts"
what = "texts"
script = "run_texts"
files = { "train.tsv" = "t/train.tsv" }
judging = { kind = "class", dataset = ["glue", "sst2"], columns = ["sentence"], max_seq_length = 8, latency_length = 8 }

[[cpu.tasks.texts.rows]]
key = "fp32"
given = "QA_MODEL"
what = "trained"
what_given = "as it is"
arguments = { max_steps = 4 }

[full.judging]
"""


def row(key: str, **published: float) -> Row:
    return Row(key, key.upper(), published or None, None, "a paper", f"python scripts/train.py sst2 -- {key}", "a GPU")


TASKS = {
    name: Task(name, "a system", f"the task {name}", "a paper", ("accuracy",), rows)
    for name, rows in {
        "words": (row("fp32", accuracy=90.0), row("int8", accuracy=89.0), row("never")),
        "texts": (row("fp32", accuracy=80.0),),
        "idle": (row("fp32", accuracy=70.0),),
    }.items()
}


class Lab:
    """A place with data and models, and scripts that are not run."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.out = folder, folder / "out"
        for name in ("w/train.tsv", "w/dev.tsv", "t/train.tsv", "model/config.json"):
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{{}} {name}")
        self.scales = folder / "scales.toml"
        self.scales.write_text(SCALE)
        self.ran: list[str] = []
        self.judged: list[str] = []
        self.timed: list[list[str]] = []
        # By the name of a row, what its command does instead of succeeding.
        self.breaks: dict[str, Callable[[list[str]], None]] = {}
        monkeypatch.setattr(jobs, "SCALES", self.scales)
        monkeypatch.setattr(jobs.train, "script_path", lambda pin, script: folder / f"{script}.py")
        monkeypatch.setattr(tables, "circumstances", lambda pin, files, seed: {"pin": pin, "seed": seed})

    def run(self, command: list[str], log: Path) -> float:
        name = f"{log.parent.parent.name}/{log.parent.name}"
        self.ran.append(name + (" resumed" if "--resume_from_checkpoint" in command else ""))
        self.command = command
        if name in self.breaks:
            self.breaks.pop(name)(command)
        model = Path(command[command.index("--output_dir") + 1])
        model.mkdir(parents=True, exist_ok=True)
        (model / "model.safetensors").write_text("weights")
        return 1.0

    def judge(self, job: jobs.Job) -> dict[str, Any]:
        assert (job.variant.checkpoint / "model.safetensors").is_file()
        self.judged.append(job.name)
        scores = {name: {"accuracy": 50.0} for name in harness.RUNTIMES}
        return {"measured": scores, "size_mb": {"torch": 1.0}, "parameters": 10, "zeros": 4, "curve": [[1, 0.5]]}

    def speeds(self, done: list[jobs.Job], quantized: dict[str, bool]) -> dict[str, Any]:
        self.timed.append([job.name for job in done])
        speed = {"latency_ms": {"torch": 1.0}, "throughput": {"torch": 2.0}}
        return {job.name: {**speed, "load": {"average": 1.5, "cores": 2}} for job in done}

    def make(self, *chosen: str, **given: Any) -> dict[str, Any]:
        """What one call of the command does; forgets what ran before."""
        self.ran, self.judged, self.timed = [], [], []
        jobs.sha256_of.cache_clear()
        jobs.model_digest.cache_clear()
        models = given.pop("models", {"MODEL": str(self.folder / "model")})
        setting = jobs.Setting("cpu", self.out, "embedded", given.pop("data", self.folder), models)
        scale = jobs.load_scale("cpu")
        names = list(chosen or TASKS)
        plans = tables.make_plans(TASKS, names, scale, setting)
        table = tables.Tables(TASKS, scale, setting, plans, self.run, self.judge, self.speeds)
        made = table.make(names)
        check_results(made)
        (self.out / "results.json").write_text(json.dumps(made))
        return made

    def statuses(self, made: dict[str, Any]) -> dict[str, str]:
        return {f"{name}/{one['key']}": one["status"] for name, task in made["tasks"].items() for one in task["rows"]}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(tmp_path, monkeypatch)


ALL = ["words/fp32", "words/int8", "words/extra", "texts/fp32"]


def test_what_is_done_is_not_repeated(lab: Lab) -> None:
    made = lab.make()
    assert lab.ran == lab.judged == ALL
    assert lab.timed == [ALL[:3], ALL[3:]]
    assert lab.statuses(made) == {
        **dict.fromkeys(ALL, "done"),
        "words/never": "not run here",
        "idle/fp32": "not run here",
    }
    again = lab.make()
    assert not (lab.ran or lab.judged or lab.timed)
    assert again == made


def test_what_a_row_says(lab: Lab) -> None:
    task = lab.make()["tasks"]["words"]
    first, second, never, extra = task["rows"]
    assert (first["published"], first["measured"]["torch"]) == ({"accuracy": 90.0}, {"accuracy": 50.0})
    assert (second["latency_ms"], second["throughput"]) == ({"torch": 1.0}, {"torch": 2.0})
    assert first["run_command"].startswith("python DATA/run_words.py --seed 1 --use_cpu --max_steps 4")
    assert "--model_name_or_path MODEL --output_dir runs/tables/cpu/words/fp32/model" in first["run_command"]
    assert "--teacher_model_or_path runs/tables/cpu/words/int8/model" in extra["run_command"]
    assert first["commit"] and first["seconds"] >= 0 and first["model"] == "small, 4 steps"
    assert (extra["published_label"], first["published_label"]) == (None, None)
    assert (never["reason"], never["command"]) == (
        "SCALE=cpu has no smaller form of it",
        "python scripts/train.py sst2 -- never",
    )
    assert (extra["label"], extra["published"]) == ("something of our own", None)
    assert [one["file"] for one in task["data"]] == ["train.tsv", "dev.tsv"]
    assert task["title"] == "words" and task["published_title"] == "the task words"


def test_a_label_of_the_scale_wins(lab: Lab) -> None:
    """What stands for a published row on a small machine is not that row."""
    lab.scales.write_text(SCALE.replace('what = "2 further steps"', 'what = "2 further steps"\nlabel = "small INT8"'))
    for chosen in ("words", "texts"):
        made = lab.make(chosen)
        one = made["tasks"]["words"]["rows"][1]
        assert (one["label"], one["published_label"], one["published"]) == ("small INT8", "INT8", {"accuracy": 89.0})
    assert "| small INT8 (published: INT8) | 89.00 | 50.00 |" in results.table(made)


def test_steps_of_before_are_still_valid(lab: Lab) -> None:
    """What identifies a step must not change: trainings take hours."""
    lab.make()
    names = {"train": "words/int8/train", "judge": "words/int8/judge", "speed": "words/speed"}
    found = {kind: json.loads((lab.out / f"{name}.done.json").read_text()) for kind, name in names.items()}
    assert found["train"]["command"].startswith(
        "python DATA/run_words.py --seed 1 --use_cpu --max_steps 2 --nncf_config"
    )
    assert set(found["train"]["inputs"]) == {
        "train.tsv",
        "dev.tsv",
        "nncf_configs/nncf_config.json",
        "the result of words/fp32",
    }
    assert found["judge"]["command"] == "class glue sst2 sentence 8"
    assert set(found["judge"]["inputs"]) == {"the model", "dev.tsv"}
    assert found["speed"]["command"] == "latency and throughput, 8 tokens"
    assert set(found["speed"]["inputs"]) == set(ALL[:3])


def test_speeds_have_a_spread_and_a_load(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {"a": 0, "b": 0}

    def runtime(name: str) -> Callable[[Any], None]:
        def run(inputs: Any) -> None:
            calls[name] += 1

        return run

    def latency_ms(runtimes: Any, inputs: Any, repeats: int, warm_up: int) -> dict[str, float]:
        for run in runtimes.values():
            run(inputs)
        return {name: 1.0 + calls[name] for name in runtimes}

    model = type("Model", (), {"config": type("Config", (), {"vocab_size": 100})})
    plans = [_job(name) for name in calls]
    monkeypatch.setattr(judging, "_load", lambda job: model)
    monkeypatch.setattr(judging, "open_runtime", lambda name, variant, model, exact: runtime(variant.name))
    monkeypatch.setattr(judging, "RUNTIMES", ("OpenVINO",))
    monkeypatch.setattr("nncf_transformers.evaluation.latency_ms", latency_ms)
    monkeypatch.setattr("os.getloadavg", lambda: (3.456, 0.0, 0.0))
    found = judging.speeds(plans, dict.fromkeys(calls, True))["b"]
    # 20 calls after 3 that do not count, each a millisecond slower than the one before.
    assert found["latency_ms"] == {"OpenVINO": 14.5} and found["latency_spread_ms"] == {"OpenVINO": [9.25, 19.75]}
    assert found["load"] == {"average": 3.46, "cores": os.cpu_count()}
    assert found["throughput"]["OpenVINO"] == pytest.approx(1e3 * 16 / 27.5, abs=0.01)


def _job(name: str) -> jobs.Job:
    judged = jobs.Judging("class", None, ("glue", "sst2"), ("sentence",), 8, 8)
    return jobs.Job(name, "", Path(name), (), {}, {}, (), judged, "", {})


def test_a_busy_machine_is_said(lab: Lab) -> None:
    made = lab.make("words")
    task = made["tasks"]["words"]
    assert "The load was" not in results.table(made)
    for one in task["rows"]:
        one |= {"latency_ms": {"OpenVINO": 12.34}, "latency_spread_ms": {"OpenVINO": [11.94, 13.06]}}
    task["rows"][1]["load"] = {"average": 2.41, "cores": 2}
    text = results.table(made)
    assert "The load was 2.4 on 2 cores when speeds were measured: other work may have slowed them." in text
    assert "| 12.3 (11.9–13.1) |" in text and harness.FLOAT32 in text
    # Those of before have neither.
    for one in task["rows"]:
        del one["latency_spread_ms"], one["load"]
    check_results(made)
    assert "| 12.3 |" in results.table(made)


def test_a_score_of_unknown_kind_is_measured() -> None:
    published = Row("k", "K", {"score": 90.0}, "which metric was not said", "a paper", "c", "a GPU", score="accuracy")
    trained = dict.fromkeys(("command", "seconds", "commit", "date", "resumed_from"))
    value = {"measured": {"torch": {"accuracy": 88.0}}}
    one = results.measured_row(_job("t/k"), published, trained, {"value": value, "commit": "abc"})
    assert one["measured"] == {"torch": {"accuracy": 88.0, "score": 88.0}}
    assert value == {"measured": {"torch": {"accuracy": 88.0}}}


def test_work_that_was_not_committed_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    tables._say_commits({"tasks": {}, "overlay_commit": "abc"})
    assert capsys.readouterr().out == ""
    tables._say_commits({"tasks": {"t": {"rows": [{"commit": "abc-dirty"}]}}, "overlay_commit": "def"})
    assert "warning: files differed from the commit (abc-dirty)" in capsys.readouterr().out
    tables._say_commits({"tasks": {}, "overlay_commit": "abc-dirty"})
    assert "(abc-dirty)" in capsys.readouterr().out


def test_changed_data_repeats_its_task_only(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.make()
    (lab.folder / "t/train.tsv").write_text("other texts")
    lab.make()
    assert lab.ran == lab.judged == ["texts/fp32"] and lab.timed == [["texts/fp32"]]
    assert "texts/fp32: training: again, as train.tsv has changed" in capsys.readouterr().out


def test_a_changed_line_of_the_scale_repeats_what_follows_from_it(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.make()
    lab.scales.write_text(SCALE.replace("max_steps = 2", "max_steps = 3"))
    lab.make()
    assert lab.ran == ["words/int8", "words/extra"]
    said = capsys.readouterr().out
    assert "words/int8: training: again, as its command has changed" in said
    assert "words/extra: training: again, as the result of words/int8 has changed" in said


def test_a_failure_stays_where_it_is(lab: Lab) -> None:
    def fail(command: list[str]) -> None:
        raise harness.CommandError(1, "ValueError: no such thing")

    lab.breaks = {"words/int8": fail}
    made = lab.make()
    assert lab.ran == ALL[:2] + ALL[3:], "what needs the failed row is not tried"
    rows = {one["key"]: one for one in made["tasks"]["words"]["rows"]}
    assert (rows["fp32"]["status"], rows["int8"]["status"]) == ("done", "failed")
    assert rows["int8"]["reason"] == "ValueError: no such thing"
    assert rows["extra"]["reason"] == "words/int8, which it starts or learns from, failed"
    assert lab.statuses(lab.make()) == {
        **dict.fromkeys(ALL, "done"),
        "words/never": "not run here",
        "idle/fp32": "not run here",
    }
    assert lab.ran == ["words/int8", "words/extra"]


def _checkpoint(command: list[str], step: int, whole: bool = True) -> Path:
    folder = Path(command[command.index("--output_dir") + 1]) / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text("half")
    if whole:
        (folder / "trainer_state.json").write_text("{}")
    return folder


@pytest.mark.parametrize("killed", [KeyboardInterrupt(), harness.CommandError(-9, "ended by signal 9")])
def test_an_interrupted_training_resumes(lab: Lab, killed: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(command: list[str]) -> None:
        _checkpoint(command, 1)
        _checkpoint(command, 2)
        _checkpoint(command, 3, whole=False)
        raise killed

    lab.breaks = {"texts/fp32": interrupt}
    if isinstance(killed, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            lab.make("texts")
    else:
        assert lab.statuses(lab.make("texts"))["texts/fp32"] == "failed"
    made = lab.make("texts")
    assert lab.ran == ["texts/fp32 resumed"] and lab.command[-1].endswith("texts/fp32/model/checkpoint-2")
    assert "goes on from checkpoint-2" in capsys.readouterr().out
    (one,) = made["tasks"]["texts"]["rows"]
    assert (one["status"], one["resumed_from"]) == ("done", "checkpoint-2")
    assert "--resume_from_checkpoint" not in one["run_command"], "the command is that of the whole training"
    assert not list(lab.out.glob("**/checkpoint-*")), "a finished training needs none"


def test_a_training_without_checkpoint_begins_anew(lab: Lab) -> None:
    def interrupt(command: list[str]) -> None:
        (_checkpoint(command, 1, whole=False).parent / "rest").write_text("of a half training")
        raise KeyboardInterrupt

    lab.breaks = {"texts/fp32": interrupt}
    with pytest.raises(KeyboardInterrupt):
        lab.make("texts")
    lab.make("texts")
    assert lab.ran == ["texts/fp32"] and not list(lab.out.glob("**/rest"))


def test_a_training_of_something_else_is_not_resumed(lab: Lab) -> None:
    def interrupt(command: list[str]) -> None:
        _checkpoint(command, 2)
        raise KeyboardInterrupt

    lab.breaks = {"texts/fp32": interrupt}
    with pytest.raises(KeyboardInterrupt):
        lab.make("texts")
    (lab.folder / "t/train.tsv").write_text("other texts")
    lab.make("texts")
    assert lab.ran == ["texts/fp32"]


def test_a_killed_process_leaves_a_state_to_go_on_from(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from benchmarks.reproduce.steps import Step, perform
folder = Path(sys.argv[1])
def work(checkpoint):
    place = folder / "model" / "checkpoint-7"
    place.mkdir(parents=True)
    (place / "trainer_state.json").write_text("{}")
    os.kill(os.getpid(), signal.SIGKILL)
perform(Step("a", "train", folder, "run", {"data": "1"}, owns_folder=True), work)
"""
    step = Step("a", "train", tmp_path / "a", "run", {"data": "1"}, owns_folder=True)
    done = subprocess.run([sys.executable, "-c", code, str(step.folder)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL and finished(step) is None
    seen: list[Path | None] = []
    perform(step, seen.append)
    assert [path and path.name for path in seen] == ["checkpoint-7"]
    assert finished(step) is not None and not list(step.folder.glob("*.tmp"))


def test_a_damaged_marker_is_none(tmp_path: Path) -> None:
    step = Step("a", "judge", tmp_path, "judge")
    perform(step, lambda _: 1)
    step.marker.write_text(step.marker.read_text()[:20])
    assert finished(step) is None
    assert perform(step, lambda _: 2)["value"] == 2
    with pytest.raises(StepError, match="^ValueError: two lines$"):
        perform(Step("b", "judge", tmp_path, "b"), lambda _: int_error())
    assert last_checkpoint(tmp_path / "nowhere") is None


def int_error() -> None:
    raise ValueError("two\nlines")


def test_what_is_missing_is_said_in_the_row(lab: Lab) -> None:
    (lab.folder / "w/dev.tsv").unlink()
    made = lab.make(models={})
    reasons = {f"{n}/{r['key']}": r["reason"] for n, t in made["tasks"].items() for r in t["rows"]}
    assert reasons["words/fp32"] == "there is no w/dev.tsv in DATA"
    assert reasons["texts/fp32"] == "MODEL=DIR was not given"
    assert set(lab.statuses(made).values()) == {"not run here"}
    assert not lab.ran


def test_a_model_that_is_given_is_taken_as_it_is(lab: Lab) -> None:
    made = lab.make("texts", models={"QA_MODEL": str(lab.folder / "model")})
    (one,) = made["tasks"]["texts"]["rows"]
    assert one["model"] == "as it is"
    assert "--max_steps -1 --num_train_epochs 0 --model_name_or_path QA_MODEL" in one["run_command"]


def test_a_task_that_the_scale_does_not_have_is_said(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.make("idle")
    assert not lab.ran and "nothing is run of what SCALE=cpu has no form of: idle\n" in capsys.readouterr().out


def test_other_tasks_keep_their_results(lab: Lab) -> None:
    lab.make("words")
    made = lab.make("texts")
    assert lab.ran == ["texts/fp32"]
    assert lab.statuses(made) == {
        **dict.fromkeys(ALL, "done"),
        "words/never": "not run here",
        "idle/fp32": "not run here",
    }
    assert made["tasks"]["idle"]["rows"][0]["reason"] == "was not asked for"


def test_rows_measured_before(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    perplexity = dict.fromkeys(harness.RUNTIMES, 20.0)
    record = {
        "overlay_commit": "abc",
        "arguments": ["benchmarks/language.toml (sha256 0…)"],
        "date": "2026-01-01",
        "seconds": {"qat": 5},
        "results": {"qat": {"perplexity": perplexity, "size_mb": perplexity, "latency_ms": perplexity}},
    }
    (lab.folder / "lm.json").write_text(json.dumps(record))
    plan = jobs.Earlier("clm/int8", "INT8", lab.folder / "lm.json", "qat", "small", "make measure-lm")
    one = results.earlier_row(plan, None)
    assert (one["status"], one["commit"], one["run_command"]) == ("done", "abc", "make measure-lm")
    assert one["measured"]["OpenVINO"] == {"perplexity": 20.0} and one["size_mb"] == dict.fromkeys(
        ("torch", "ONNX", "IR"), 20.0
    )


def test_a_row_measured_before_says_its_budget() -> None:
    scale = jobs.load_scale("cpu")
    one = next(row for row in scale["tasks"]["squad-adapter"]["rows"] if row["key"] == "int8")
    file = ROOT / "benchmarks/measured" / f"{one['record']}.json"
    plan = jobs.Earlier("squad-adapter/int8", "", file, one["result"], one["what"], one["made_by"])
    words = shlex.split(str(results.earlier_row(plan, None)["run_command"]))
    assert words[:2] == ["make", "measure-adapters"]
    extra = next(word for word in words if word.startswith("EXTRA=")).removeprefix("EXTRA=")
    assert shlex.split(extra) == json.loads(file.read_text())["arguments"]
    assert adapter_rows._steps(shlex.split(extra)) > 0


def test_the_table(lab: Lab) -> None:
    def fail(command: list[str]) -> None:
        raise harness.CommandError(1, "error: a | b")

    lab.breaks = {"words/int8": fail}
    made = lab.make()
    text = results.table(made)
    assert "| non-zero parameters M |" in text
    assert "| FP32 | 90.00 | 50.00 | 50.00 | 50.00 | – | – | – | 0.00 | 0 |" in text
    assert "| INT8 | 89.00 | failed: error: a ¦ b |" in text
    assert text.endswith("`benchmarks/measured/tables-cpu.json`: words 1, idle 1.")
    assert "small, 4 steps" in text and "a few words; train.tsv (sha256" in text
    for line in text.splitlines():
        if line.startswith("| FP32"):
            assert line.count("|") == text.split("| row", 1)[1].split("\n", 1)[0].count("|") + 1
    assert results.commits_of(made) == [made["tasks"]["texts"]["rows"][0]["commit"]]
    assert render.render("a <!-- x -->old<!-- /x --> b", {"x": "new"}) == "a <!-- x -->\n\nnew\n\n<!-- /x --> b"
    with pytest.raises(SystemExit, match=r"README\.md: <!-- y -->"):
        render.render("a", {"y": "new"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "sst3"], "TASK=sst3: there is no such table; the nearest is sst2, all are squad, "),
        (["--scale", "cpo"], "SCALE=cpo: there is no such scale; choose one of smoke, cpu, full"),
        (["--scale", "cpu"], "SCALE=cpu: wants DATA=DIR and MODEL=DIR; what is in them: benchmarks/scales.toml"),
        (["--scale", "cpu", "--data", "nowhere"], "DATA=nowhere: there is no such folder"),
        (["--scale", "cpu", "--data", ".", "--model", "none"], "MODEL=none: holds no config.json"),
        (["--scale", "smoke", "--data", "."], "SCALE=smoke: makes its data and its model itself"),
        (["--scale", "smoke", "--pin", "embedded"], "PIN=embedded: has no run_qa, which the tables want"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tables.py", "--out", str(tmp_path / "out"), *words])
    assert tables.main() == UsageError.exit_code
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1
    assert not (tmp_path / "out" / "generated").exists()


@pytest.mark.parametrize("scale", ["smoke", "cpu", "full"])
def test_every_scale_runs_on_the_default_pin(scale: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = []
    monkeypatch.setattr(tables, "script_path", lambda pin, script: wanted.append(script))
    tables._check_pin("v4.57", jobs.load_scale(scale))
    assert "run_glue" in wanted or scale == "full"


def test_two_at_a_time_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["tables.py", "--out", str(tmp_path), "--scale", "full"])
    with tables.run_lock(tmp_path / ".lock", "it"):
        assert tables.main() == OverlayError.exit_code
    assert "works on" in capsys.readouterr().err


def test_make_passes_what_is_asked_for() -> None:
    words = ["make", "-n", "tables", "SCALE=cpu", "TASK=sst2", "DATA=D", "MODEL=M", "QA_MODEL=Q"]
    line = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "--scale cpu --pin v4.57 --task sst2 --data D --model M --qa-model Q" in " ".join(
        line.replace("\\", "").split()
    )
    plain = subprocess.run(words[:3], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "--scale smoke" in plain and "--task" not in plain.partition("tables.py")[2]


def test_scales_fit_the_figures() -> None:
    """Each task has a table; rows are published or labelled, start from earlier rows, and name real files."""
    from benchmarks.reproduce.figures import load_figures

    figures = load_figures()
    methods = tomllib.loads(jobs.METHODS.read_text())["methods"]
    for name, scale in tomllib.loads((ROOT / "benchmarks" / "scales.toml").read_text()).items():
        seen: set[str] = set(jobs.MODELS)
        for task, table in scale.get("tasks", {}).items():
            published = {one.key for one in figures[task].rows}
            labels = {one.key: one.label for one in figures[task].rows}
            for one in table["rows"]:
                place = f"{name}/{task}/{one['key']}"
                assert one["key"] in published or "label" in one, place
                # A year, a version or a number of layers is that of the publication.
                told = one.get("label", labels.get(one["key"], ""))
                assert not re.search(r"\d{4}|version|12 layers", told), place
                assert {one.get("start", "MODEL"), one.get("teacher", "MODEL")} <= seen, place
                assert one.get("methods", "jpqd-40") in methods, place
                for key in ("nncf_config", "recipe"):
                    assert key not in one or (ROOT / one[key]).is_file(), place
                if "record" in one:
                    record = json.loads((ROOT / "benchmarks/measured" / f"{one['record']}.json").read_text())
                    assert one["result"] in record["results"], place
                seen.add(f"{task}/{one['key']}")


def test_a_command_that_fails_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(code: str) -> harness.CommandError:
        with pytest.raises(harness.CommandError) as caught:
            harness.run([sys.executable, "-c", code], tmp_path / "log")
        return caught.value

    error = fail("print('error: no such file\\nsomething after it'); raise SystemExit(3)")
    assert (error.code, error.reason, error.signal) == (3, "error: no such file", 0)
    assert fail("raise KeyError('x')").reason == "KeyError: 'x'"
    assert fail("print('bye'); raise SystemExit(1)").reason == "bye"
    assert fail("import os; os.kill(os.getpid(), 9)").signal == 9
    assert "error: the command above failed" in capsys.readouterr().err


def test_f1_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    answers, labels = [1, 1, 0, 1, 0, 0, 1], [1, 0, 0, 1, 1, 0, 1]
    monkeypatch.setattr("nncf_transformers.evaluation.class_predictions", lambda *_, **__: answers)
    dataset = {"sentence": ["a"] * 7, "label": labels}
    scores, _ = harness.class_scorer(None, dataset, ("sentence",), 8, f1=True)(None)
    found, true = np.array(answers) == 1, np.array(labels) == 1
    precision, recall = (found & true).sum() / found.sum(), (found & true).sum() / true.sum()
    assert scores["f1"] == pytest.approx(100 * 2 * precision * recall / (precision + recall))
    assert scores["accuracy"] == pytest.approx(100 * (found == true).mean())


def test_curve_and_script_results(tmp_path: Path) -> None:
    assert judging._curve(tmp_path) is None
    history = [{"step": 2, "loss": 0.5}, {"step": 3, "eval_loss": 1.0}, {"step": 4, "loss": 0.25, "epoch": 1.0}]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    assert judging._curve(tmp_path) == [[2, 0.5], [4, 0.25]]
    (tmp_path / "eval_results.json").write_text(json.dumps({"eval_accuracy": 0.5, "perplexity": 3.0, "eval_loss": 1.0}))
    assert judging._by_script(tmp_path) == {"accuracy": 50.0, "perplexity": 3.0}
