"""The house rules, the front door, and the figures in the README."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from benchmarks.reproduce.figures import load_figures

ROOT = Path(__file__).resolve().parent.parent
TASKS = tomllib.loads((ROOT / "benchmarks" / "published.toml").read_text(encoding="utf-8"))


def run(*words: str, code: int = 0) -> str:
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


def make(*words: str) -> str:
    """Run make as a user would, not as a part of the `make test` that may have started the tests."""
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    done = subprocess.run(["make", *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def imports(folder: str) -> set[str]:
    found = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return found


def test_the_two_packages_do_not_know_each_other() -> None:
    assert not imports("overlay") & {"torch", "transformers", "nncf", "nncf_transformers"}
    assert not imports("nncf_transformers") & {"git", "overlay", "benchmarks", "scripts"}


def test_no_unsafe_load() -> None:
    files = [p for folder in ("nncf_transformers", "scripts", "benchmarks") for p in (ROOT / folder).rglob("*.py")]
    assert files
    unsafe = re.compile(r"torch\.load\((?!.*weights_only=True)|pickle\.load")
    assert not [p for p in files if unsafe.search(p.read_text(encoding="utf-8"))]


def test_readme_has_the_recorded_figures() -> None:
    run("benchmarks/render.py", "--check")


def test_help_names_every_target() -> None:
    listed = make("help")
    tasks = [f"{name}-int8" for name in TASKS if name != "squad-jpqd"]
    tasks += [task["fp32_target"] for task in TASKS.values() if "fp32_target" in task]
    tasks += ["squad-fp32", "squad-jpqd", "xnli-fp32"]
    for target in (
        "help",
        "setup",
        "fetch",
        "apply",
        "revert",
        "status",
        *tasks,
        "demo",
        "test",
        "lint",
        "clean",
        "drift",
        "rebase",
        "matrix",
    ):
        assert re.search(rf"^  {target} ", listed, re.MULTILINE), target


def applied_pin(script: str) -> str:
    """A pin that has the script: the embedded one, which can always be applied, or else the default one."""
    pins = tomllib.loads((ROOT / "pins.toml").read_text(encoding="utf-8"))
    if script in pins["pins"]["embedded"]["scripts"]:
        run("apply_patch.py", "apply", "--pin", "embedded")
        return "embedded"
    pin: str = pins["default"]
    if json.loads(run("apply_patch.py", "status", "--pin", pin, "--json"))["pins"][0]["state"] == "not fetched":
        pytest.skip(f"the pin {pin} is not in the cache; python apply_patch.py fetch --from URL-or-path")
    run("apply_patch.py", "apply", "--pin", pin)
    return pin


@pytest.mark.parametrize("task", TASKS)
def test_published_command_lines(task: str) -> None:
    published = TASKS[task]
    pin = applied_pin(published["script"])
    line = run("scripts/train.py", task, "--int8", "--pin", pin, "--dry-run", "--out", "runs/x/y")
    words = shlex.split(line.removeprefix("+ "))
    assert words[words.index("--num_train_epochs") + 1] == str(published["epochs"])
    for name, value in published["arguments"].items():
        place = words.index(f"--{name}")
        assert words[place + 1] == value if value else words[place + 1].startswith("--")
    batch = next(w for w in words if w.endswith("_train_batch_size"))
    assert words[words.index(batch) + 1] == str(published["batch"])
    if "config" in published:
        config = Path(words[words.index("--nncf_config") + 1])
        assert config == ROOT / published["config"] and config.is_file()
    else:
        # What trains on an INT8 base has nothing left to quantize.
        assert "--nncf_config" not in words
        assert words[words.index("--model_name_or_path") + 1] == f"runs/{pin}/{published['int8_base']}-int8"
    assert words[words.index("--to_onnx") + 1] == "runs/x/y.onnx"


def test_variables_reach_the_command() -> None:
    run("apply_patch.py", "apply", "--pin", "embedded")
    words = ["squad", "--pin", "embedded", "--model", "M", "--data", "D", "--epochs", "1", "--batch", "3", "--dry-run"]
    line = run("scripts/train.py", *words, "--nproc", "2", "--", "--learning_rate", "1", "--fp16")
    for expected in (
        "--model_name_or_path M",
        "--data_dir D",
        "--num_train_epochs 1",
        "train_batch_size 3",
        "--nproc_per_node=2",
        "--learning_rate 1 --fp16",
    ):
        assert expected in line
    assert "3e-5" not in line, "what the user gives replaces what was published"
    variables = ["PIN=embedded", "MODEL=M", "DATA=D", "EPOCHS=1", "BATCH=3", "NPROC=2"]
    recipe = make("-n", "squad-int8", *variables, "EXTRA=--fp16")
    expected = "squad --int8 --pin embedded --nproc 2 --model M --data D --epochs 1 --batch 3 -- --fp16"
    assert expected in " ".join(recipe.split())


def test_each_library_has_its_environment() -> None:
    assert ".venv/bin/python scripts/train.py" in make("-n", "squad-int8", "PIN=v4.57")
    for pin in ("v5.2", "v2.2"):
        assert f".venv-{pin}/bin/python scripts/train.py squad --int8 --pin {pin}" in make(
            "-n", "squad-int8", f"PIN={pin}"
        )
        locked = (ROOT / f"requirements-{pin}.lock").read_text().splitlines()
        common = (ROOT / "requirements-common.txt").read_text().splitlines()
        for line in common:
            if not line.startswith("#"):
                assert line.lower() in map(str.lower, locked), f"{line} is not locked for {pin}"


def test_following_upstream_reaches_the_commands() -> None:
    recipe = make("-n", "rebase", "TO=main", "AS=next", "UPSTREAM=/m")
    assert "fetch --history --pin v4.57 --from /m" in recipe
    assert "rebase --pin v4.57 --to main --as next --from /m" in recipe
    assert "drift --pin v4.57 --from /m --html build/drift-v4.57.html" in " ".join(
        make("-n", "drift", "UPSTREAM=/m").split()
    )


def test_mistakes_in_the_front_door() -> None:
    assert "unknown pin 'v4.75'" in run("scripts/train.py", "squad", "--pin", "v4.75", code=2)
    words = ["--pin", "embedded", "--script", "run_qa"]
    assert "unknown script 'run_qa'" in run("scripts/train.py", "squad", *words, code=2)
    error = run("scripts/train.py", "xnli", "--int8", "--pin", "embedded", code=1)
    assert "run `make xnli-fp32` first, or give MODEL=DIR" in error


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("clm", "runs/v4.57/clm-fp32: no FP32 model to start from; run `make clm` first, or give MODEL=DIR"),
        ("squad-adapter", "runs/v4.57/squad-int8: no INT8 model to start from; run `make squad-int8` first, or give"),
    ],
)
def test_what_an_int8_run_starts_from(task: str, message: str) -> None:
    assert applied_pin("run_clm") == "v4.57"
    if (ROOT / message.partition(":")[0]).exists():
        pytest.skip("somebody has trained it here")
    assert message in run("scripts/train.py", task, "--int8", code=1)


def test_no_result_of_full_fine_tuning_is_shown_as_an_adapters() -> None:
    # Upstream's example gives Hugging Face's own figures, of full fine-tuning, beside the command for an adapter.
    adapters = [task for task in TASKS.values() if "train_adapter" in task["arguments"]]
    assert len(adapters) == 2
    for name in (name for name, task in TASKS.items() if task in adapters):
        rows = load_figures()[name].rows
        assert rows and all(row.published is None for row in rows)


def test_measure_gets_what_the_recipe_passes() -> None:
    recipe = make("-n", "measure", "TASK=squad", "NAME=n", "MODEL=M", "DATA=D", "EXTRA=--max_steps 3")
    words = shlex.split(recipe)
    sys_argv, sys.argv = sys.argv, words[words.index("benchmarks/measure.py") :]
    try:
        from benchmarks.measure import _parse

        args, extra = _parse()
    finally:
        sys.argv = sys_argv
    assert (args.task, args.name, args.model, args.data, extra) == ("squad", "n", "M", "D", ["--max_steps", "3"])


@pytest.mark.slow
def test_demo_runs(tmp_path: Path) -> None:
    # Tiny: nothing is learnt, but every step is taken and every cell of the tables is filled.
    out = run("scripts/demo.py", "--out", str(tmp_path / "demo"), "--size", "tiny")
    rows = [line for line in out.splitlines() if line.startswith("| ")]
    assert len([row for row in rows if row.startswith(("| FP32", "| INT8"))]) == 9 + 6 + 6
    assert not [row for row in rows if "nan" in row]


def test_demo_does_not_delete_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "precious").write_text("x")
    assert "holds something else than a demo" in run("scripts/demo.py", "--out", str(tmp_path), code=2)
    assert (tmp_path / "precious").read_text() == "x"
