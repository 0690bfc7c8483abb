"""A user's mistake ends a patched script with one line and its exit code, and loses nothing."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Result

from nncf_transformers.excepthook import as_user_error

CLASSES = ("--per_device_train_batch_size", 4, "--max_seq_length", 48, "--use_cpu", "--report_to", "none")
QA = ("--model_type", "bert", "--no_cuda", "--max_seq_length", 64, "--doc_stride", 16, "--max_query_length", 24)


@pytest.fixture
def glue(run_warm: Callable[..., Result], data: Path, embedded: Path, tmp_path: Path) -> Callable[..., Result]:
    """Run run_glue on the tiny data; later flags win."""

    def glue(*words: Any, code: int) -> Result:
        given = [*CLASSES, "--task_name", "sst2", "--data_dir", data / "glue/SST-2", "--do_train", "--max_steps", 1]
        given += ["--model_name_or_path", data / "model", "--output_dir", tmp_path / "out"]
        return run_warm(embedded / "run_glue.py", *given, *words, code=code)

    return glue


@pytest.fixture(scope="module")
def checkpoint(
    run: Callable[..., Result], data: Path, embedded: Path, config: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A compressed checkpoint of the classification task."""
    out = tmp_path_factory.mktemp("checkpoint")
    words = [*CLASSES, "--task_name", "sst2", "--data_dir", data / "glue/SST-2", "--do_train", "--max_steps", 1]
    words += ["--model_name_or_path", data / "model", "--output_dir", out, "--nncf-config", config]
    run(embedded / "run_glue.py", *words)
    return out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("", "empty"),
        ("{", "JSON"),
        ("[]", "object"),
        ('{"algorithms": [{"algorithm": "quantization", "presett": "mixed"}]}', '"preset"'),
        ('{"algorithms": [{"algorithm": "quantization", "calibration_samples": "many"}]}', "calibration_samples"),
    ],
)
def test_configuration(
    run_warm: Callable[..., Result], data: Path, embedded: Path, tmp_path: Path, content: str | None, message: str
) -> None:
    # Through the argparse script, which fails in a second; the reader's own tests have every other mistake.
    path = tmp_path / "c.json"
    if content is not None:
        path.write_text(content)
    out = tmp_path / "out"
    words = ["--train_file", data / "squad/train-v1.1.json", "--predict_file", data / "squad/dev-v1.1.json"]
    words += ["--model_name_or_path", data / "model", "--output_dir", out, "--do_train"]
    result = run_warm(embedded / "run_squad.py", *QA, *words, "--nncf-config", path, code=2)
    assert message in result.error and "c.json" in result.error
    assert not out.exists()


@pytest.mark.slow
def test_scope_that_matches_nothing(glue: Callable[..., Result], tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    algorithm = {"algorithm": "quantization", "ignored_scopes": ["bert.encoder.layer.0.attension"]}
    path.write_text(json.dumps({"algorithms": [algorithm]}))
    error = glue("--nncf-config", path, code=2).error
    assert "bert.encoder.layer.0.attension" in error and "bert.encoder.layer.0.attention" in error


@pytest.mark.slow
def test_export_into_a_missing_folder(glue: Callable[..., Result], tmp_path: Path) -> None:
    assert "does not exist; create it first" in glue("--to-onnx", tmp_path / "no" / "m.onnx", code=2).error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_output_folder_of_another_run(glue: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    assert "is not empty" in glue(code=2).error
    assert (tmp_path / "out" / "precious").read_text() == "x"


@pytest.mark.slow
def test_model_that_only_the_hub_has(glue: Callable[..., Result], config: Path) -> None:
    error = glue("--model_name_or_path", "bert-base-uncased", "--nncf-config", config, code=5).error
    assert "make demo" in error and "MODEL=DIR" in error and "DATA=DIR" in error


@pytest.mark.slow
def test_data_that_only_the_hub_has(
    run_warm: Callable[..., Result], data: Path, embedded: Path, tmp_path: Path
) -> None:
    words = [*CLASSES, "--task_name", "mnli", "--do_train", "--max_steps", 1, "--output_dir", tmp_path / "out"]
    error = run_warm(embedded / "run_glue.py", *words, "--model_name_or_path", data / "model", code=5).error
    assert "DATA=DIR" in error and "make demo" in error


@pytest.mark.slow
def test_compressed_without_training_data(
    glue: Callable[..., Result], data: Path, config: Path, run: Any, embedded: Path, tmp_path: Path
) -> None:
    words = [*CLASSES, "--task_name", "sst2", "--data_dir", data / "glue/SST-2", "--do_eval"]
    words += ["--model_name_or_path", data / "model", "--output_dir", tmp_path / "out", "--nncf-config", config]
    assert "add --do_train" in run(embedded / "run_glue.py", *words, code=2).error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("truncated", "model.safetensors: damaged or truncated"),
        ("no state", "nncf_config.json is missing"),
        ("bad state", "nncf_config.json: cannot be read"),
    ],
)
def test_damaged_checkpoint(
    glue: Callable[..., Result], checkpoint: Path, tmp_path: Path, damage: str, message: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint, copy)
    if damage == "truncated":
        (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:-5000])
    elif damage == "no state":
        (copy / "nncf_config.json").unlink()
    else:
        (copy / "nncf_config.json").write_text("{")
    assert message in glue("--model_name_or_path", copy, code=6).error


@pytest.mark.slow
def test_checkpoint_of_another_task(
    run_warm: Callable[..., Result], data: Path, embedded: Path, checkpoint: Path, tmp_path: Path
) -> None:
    words = ["--train_file", data / "squad/train-v1.1.json", "--predict_file", data / "squad/dev-v1.1.json"]
    words += ["--model_name_or_path", checkpoint, "--output_dir", tmp_path / "out", "--do_eval"]
    error = run_warm(embedded / "run_squad.py", *QA, *words, code=6).error
    assert "holds a BertForSequenceClassification, the script loads a BertForQuestionAnswering" in error


@pytest.mark.slow
def test_no_compiler_works_and_says_so(
    run: Callable[..., Result], data: Path, embedded: Path, config: Path, tmp_path: Path
) -> None:
    words = [*CLASSES, "--task_name", "sst2", "--data_dir", data / "glue/SST-2", "--do_train", "--max_steps", 1]
    words += ["--model_name_or_path", data / "model", "--output_dir", tmp_path / "out", "--nncf-config", config]
    result = run(embedded / "run_glue.py", *words, PATH="/nowhere", XDG_CACHE_HOME=str(tmp_path / "cache"), CC="")
    assert "it works, but slower" in result.out + result.err
    assert (tmp_path / "out" / "nncf_config.json").is_file()


QA_FILES = {
    "truncated": ('{"data": [{"paragraphs": [{"con', 6, "truncated"),
    "no answers": (
        '{"data": [{"title": "t", "paragraphs": [{"context": "c d", "qas": [{"id": "q", "question": "?"}]}]}]}',
        2,
        "answer",
    ),
    "empty": ('{"data": []}', 2, "training set is empty|holds no examples"),
}


@pytest.mark.slow
@pytest.mark.upstream
@pytest.mark.parametrize("kind", QA_FILES)
@pytest.mark.parametrize("script", ["examples/legacy/question-answering/run_squad.py", "run_qa.py"])
def test_bad_squad_file_upstream(
    run_warm: Callable[..., Result], data: Path, upstream: Path, tmp_path: Path, script: str, kind: str
) -> None:
    content, code, message = QA_FILES[kind]
    (tmp_path / "train.json").write_text(content)
    words = ["--train_file", tmp_path / "train.json", "--do_train", "--max_steps", 1, "--output_dir", tmp_path / "out"]
    words += ["--model_name_or_path", data / "model", "--max_seq_length", 64, "--doc_stride", 16]
    if script == "run_qa.py":
        script = "examples/pytorch/question-answering/run_qa.py"
        words += ["--validation_file", data / "squad/dev-v1.1.json", "--use_cpu", "--report_to", "none"]
    else:
        words += [*QA, "--predict_file", data / "squad/dev-v1.1.json", "--data_dir", tmp_path]
    error = run_warm(upstream / script, *words, code=code).error
    assert re.search(message, error) and ("train.json" in error or "cache" in error), error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.upstream
def test_stride_as_long_as_the_window(
    run_warm: Callable[..., Result], data: Path, upstream: Path, tmp_path: Path
) -> None:
    words = ["--train_file", data / "squad/train-v1.1.json", "--do_train", "--output_dir", tmp_path / "out"]
    words += ["--model_name_or_path", data / "model", "--max_seq_length", 64, "--doc_stride", 64, "--use_cpu"]
    script = upstream / "examples/pytorch/question-answering/run_qa.py"
    assert "--doc_stride" in run_warm(script, *words, "--report_to", "none", code=2).error


@pytest.mark.slow
@pytest.mark.parametrize("kibibytes", [1000, 3000], ids=["the model", "the optimizer"])
def test_disk_that_is_full_while_training(
    embedded: Path, data: Path, config: Path, tmp_path: Path, kibibytes: int
) -> None:
    # A limit on the size of a file ends a write as a full disk does, and needs no disk of its own.
    words = [*CLASSES, "--task_name", "sst2", "--data_dir", data / "glue/SST-2", "--do_train", "--max_steps", 1]
    words += ["--model_name_or_path", data / "model", "--output_dir", tmp_path / "out", "--nncf-config", config]
    command = ["bash", "-c", f'ulimit -f {kibibytes}; exec "$0" "$@"', sys.executable, embedded / "run_glue.py"]
    done = subprocess.run(
        [str(word) for word in [*command, *words]],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "cannot be written" in Result(done.returncode, done.stdout, done.stderr).error


@pytest.mark.slow
def test_output_folder_that_cannot_be_made(glue: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "Not a directory; free space or choose" in glue("--output_dir", tmp_path / "file" / "out", code=1).error
    assert "/proc/nope: cannot be created" in glue("--output_dir", "/proc/nope", code=1).error


@pytest.mark.slow
def test_resuming_what_cannot_be_resumed(
    glue: Callable[..., Result], data: Path, config: Path, checkpoint: Path, tmp_path: Path
) -> None:
    words = ["--nncf-config", config, "--resume_from_checkpoint"]
    assert "no such folder" in glue(*words, tmp_path / "nowhere", code=2).error
    assert "was trained without compression" in glue(*words, data / "model", code=2).error
    # A finished run's folder has the model, but no state of a training.
    assert f"{checkpoint}: has no optimizer.pt" in glue(*words, checkpoint, code=2).error


def test_read_only_disk() -> None:
    error = as_user_error(OSError(errno.EROFS, os.strerror(errno.EROFS), "/out/config.json"), None)
    assert error is not None and "/out/config.json: Read-only file system; free space or choose" in str(error)
