"""Run the patched scripts, and the unpatched ones beside them, on tiny generated data."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from safetensors.torch import load_file
from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification

from demo.data import generate
from demo.language import generate as add_language

ROOT = Path(__file__).resolve().parents[2]
# What every command finds in its environment.
SETTINGS = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

# The demo's model has four heads of 16 and 256 channels; 12 steps are an epoch and a half of 8 (run_squad).
MOVEMENT = {
    "algorithm": "movement_sparsity",
    "warmup_start_epoch": 0.1,
    "warmup_end_epoch": 0.5,
    "importance_regularization_factor": 1.0,
    "ignored_scopes": ["{re}qa_outputs|classifier|pooler"],
    "score_lr_multiplier": 100,
    "sparse_structure_by_scopes": [
        {"mode": "block", "sparse_factors": [8, 8], "target_scopes": ["{re}attention"]},
        {"mode": "per_dim", "axis": 0, "target_scopes": ["{re}intermediate"]},
        {"mode": "per_dim", "axis": 1, "target_scopes": [r"{re}layer\.\d+\.output"]},
    ],
}
JPQD = [MOVEMENT, {"algorithm": "quantization", "calibration_samples": 8}]


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    def of(self, code: int) -> "Result":
        """This result, if the command ended with ``code``."""
        assert self.code == code, f"exit code {self.code}\n{self.out[-2000:]}\n{self.err[-4000:]}"
        return self

    @property
    def error(self) -> str:
        """The one line that a user's mistake ends with."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ") or ".py: error: " in line]
        assert len(lines) == 1 and "Traceback" not in self.err, self.err[-3000:]
        return lines[0]


@pytest.fixture(scope="session")
def run() -> Callable[..., Result]:
    """Run Python with the project importable, without a network; fails the test unless the exit code is ``code``."""

    def run(*words: Any, code: int = 0, cwd: Path = ROOT, **environment: str) -> Result:
        command = [sys.executable, *map(str, words)]
        settings = os.environ | SETTINGS | environment
        done = subprocess.run(command, cwd=cwd, env=settings, capture_output=True, text=True, timeout=600)
        return Result(done.returncode, done.stdout, done.stderr).of(code)

    return run


@pytest.fixture(scope="session")
def run_warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Result]]:
    """As ``run``, in an environment that is always the same, and without the time that the libraries take to load.

    For what a script says, and for going on with what it wrote; what it writes is tested in a process of its own.
    """
    folder = tmp_path_factory.mktemp("warm")
    command = [sys.executable, Path(__file__).with_name("warm.py")]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=os.environ | SETTINGS, **pipes) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "ready\n"

        def run_warm(script: Path, *words: Any, code: int = 0, cwd: Path = ROOT) -> Result:
            said = {name: tempfile.mkstemp(prefix=name, dir=folder)[1] for name in ("out", "err")}
            job = {"words": [str(word) for word in (script, *words)], "cwd": str(cwd), **said}
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            ended = int(process.stdout.readline())
            return Result(ended, *(Path(said[name]).read_text() for name in ("out", "err"))).of(code)

        yield run_warm
        process.stdin.close()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's data and model, tiny."""
    folder = tmp_path_factory.mktemp("data")
    generate(folder, seed=0, size="tiny")
    return folder


@pytest.fixture(scope="session")
def language(data: Path) -> Path:
    """The demo's data with running text, a GPT-2 and a T5 added."""
    add_language(data)
    return data


@pytest.fixture(scope="session")
def embedded(apply_pin: Callable[[str], Path]) -> Path:
    """The work tree of the embedded pin, patched."""
    return apply_pin("embedded")


@pytest.fixture(scope="session")
def upstream(run: Callable[..., Result], apply_pin: Callable[[str], Path]) -> Path:
    """The work tree of the pin v4.57, patched; skips where the cache does not have the pin."""
    status = json.loads(run("apply_patch.py", "status", "--pin", "v4.57", "--json").out)
    state = next(iter(status["pins"].values()) if isinstance(status["pins"], dict) else iter(status["pins"]))
    if state["state"] == "not fetched":
        pytest.skip("the pin v4.57 is not in the cache; python apply_patch.py fetch --from URL-or-path")
    return apply_pin("v4.57")


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration that calibrates on a handful of samples."""
    path = tmp_path_factory.mktemp("config") / "int8.json"
    path.write_text(json.dumps({"algorithms": [{"algorithm": "quantization", "calibration_samples": 8}]}))
    return path


@pytest.fixture(scope="session")
def offline(language: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to run in: with its data sets and cached metrics even unpatched scripts need no network."""
    data, folder = language, tmp_path_factory.mktemp("offline")
    for split in ("train", "valid"):
        shutil.copy(data / f"wikitext/wiki.{split}.raw", folder / f"{split}.txt")
    # Where evaluate keeps the metrics that it has downloaded once.
    metrics = folder / "modules" / "evaluate_modules" / "metrics"
    for name in ("squad", "glue", "accuracy", "xnli"):
        cached = metrics / f"evaluate-metric--{name}" / ("0" * 64)
        shutil.copytree(ROOT / "nncf_transformers" / "metrics" / name, cached)
        for package in (cached, cached.parent):
            (package / "__init__.py").touch()
    for package in (metrics, metrics.parent):
        (package / "__init__.py").touch()
    names = ClassLabel(names=["entailment", "neutral", "contradiction"])
    features = Features({"premise": Value("string"), "hypothesis": Value("string"), "label": names})
    for split, file in (("train", "train"), ("validation", "dev")):
        lines = (data / "xnli" / "en" / f"{file}.tsv").read_text(encoding="utf-8").splitlines()[1:]
        rows = [dict(zip(features, line.split("\t"), strict=True)) for line in lines]
        Dataset.from_list(rows, features=features).to_parquet(folder / "xnli" / "en" / f"{split}.parquet")
    (folder / "xnli" / "README.md").write_text(
        "---\nconfigs:\n- config_name: en\n  data_files:\n  - split: train\n    path: en/train.parquet\n"
        "  - split: validation\n    path: en/validation.parquet\n---\n"
    )
    for split in ("train", "dev"):
        rows = (data / "glue" / "SST-2" / f"{split}.tsv").read_text(encoding="utf-8").splitlines()[1:]
        cells = (row.rsplit("\t", 1) for row in rows)
        (folder / f"{split}.json").write_text(
            "".join(json.dumps({"sentence": text, "label": int(label)}) + "\n" for text, label in cells)
        )
    flat = json.loads((data / "squad" / "train-v1.1.json").read_text(encoding="utf-8"))["data"]
    questions = [
        {
            "id": qa["id"],
            "context": paragraph["context"],
            "question": qa["question"],
            "answers": {
                "text": [a["text"] for a in qa["answers"]],
                "answer_start": [a["answer_start"] for a in qa["answers"]],
            },
        }
        for article in flat
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]
    (folder / "squad.json").write_text(json.dumps({"data": questions}))
    return folder


@pytest.fixture(scope="session")
def jpqd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "jpqd.json"
    path.write_text(json.dumps({"algorithms": JPQD}))
    return path


@pytest.fixture(scope="session")
def teachers(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The demo's encoder with a head for each task: a teacher that knows nothing, but has the right shape."""
    folders = {}
    heads = {"qa": AutoModelForQuestionAnswering, "nli": AutoModelForSequenceClassification}
    for name, head in heads.items():
        folders[name] = tmp_path_factory.mktemp("teachers") / name
        shutil.copytree(data / "model", folders[name])
        torch.manual_seed(0)
        model = head.from_pretrained(data / "model", **({"num_labels": 3} if name == "nli" else {}))
        model.save_pretrained(folders[name])
    return folders


def smaller(folder: Path) -> dict[str, Any]:
    """Check that a folder holds a model that lost channels; return its statistics."""
    config = json.loads((folder / "config.json").read_text())
    assert config["structured_pruning"]
    statistics: dict[str, Any] = json.loads((folder / "statistics.json").read_text())
    assert statistics["finished"] and statistics["parameters"] < statistics["before"]["parameters"]
    assert not [key for key in load_file(folder / "model.safetensors") if key.endswith("_binary_mask")]
    assert (folder / "structured_sparsity.csv").is_file()
    assert "## Compression" in (folder / "README.md").read_text()
    return statistics
