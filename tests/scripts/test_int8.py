"""Quantization-aware training through the patched scripts, from the first step to the export."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Result
from safetensors.torch import load_file

from scripts import matrix

QA = ("--model_type", "bert", "--no_cuda", "--max_seq_length", 64, "--doc_stride", 16, "--max_query_length", 24)
QA += ("--per_gpu_train_batch_size", 4, "--save_steps", 0)
CLASSES = ("--per_device_train_batch_size", 4, "--max_seq_length", 48, "--use_cpu", "--report_to", "none")

# What the scripts for language start from, and the weights that they export.
LANGUAGE = {
    "run_mlm": ("model", ["openvino_model.bin"]),
    "run_clm": ("gpt2", ["openvino_model.bin"]),
    "run_seq2seq_qa": ("t5", ["openvino_encoder_model.bin", "openvino_decoder_model.bin"]),
}


def squad(data: Path) -> list[Any]:
    return ["--train_file", data / "squad/train-v1.1.json", "--predict_file", data / "squad/dev-v1.1.json"]


@pytest.mark.slow
def test_squad_trains_reloads_and_exports(
    run: Callable[..., Result],
    run_warm: Callable[..., Result],
    data: Path,
    embedded: Path,
    config: Path,
    tmp_path: Path,
) -> None:
    script, out = embedded / "run_squad.py", tmp_path / "out"
    words = [*QA, *squad(data), "--do_eval", "--nncf-config", config]
    exports = ["--to-onnx", tmp_path / "m.onnx", "--to-openvino", tmp_path / "ir"]
    trained = run(
        script,
        *words,
        "--model_name_or_path",
        data / "model",
        "--output_dir",
        out,
        "--do_train",
        "--max_steps",
        3,
        "--logging_steps",
        1,
        *exports,
    )
    assert "quantizers" in trained.err and "parity torch - OpenVINO" in trained.err
    assert (out / "nncf_config.json").is_file() and list((out / "compression").glob("events*"))
    first = json.loads((out / "predictions_.json").read_text())

    again = tmp_path / "again"
    words += ["--model_name_or_path", out, "--output_dir", again, "--to_onnx", tmp_path / "2.onnx"]
    evaluated = run_warm(script, *words)
    assert "restored" in evaluated.err
    assert json.loads((again / "predictions_.json").read_text()) == first
    assert (tmp_path / "2.onnx").read_bytes() == (tmp_path / "m.onnx").read_bytes()
    files = {p.name for p in (tmp_path / "ir").iterdir()}
    assert {"config.json", "openvino_model.bin", "openvino_model.xml", "tokenizer.json", "parity.json"} <= files


@pytest.mark.slow
def test_squad_resumes_bit_for_bit(
    run: Callable[..., Result],
    run_warm: Callable[..., Result],
    data: Path,
    embedded: Path,
    config: Path,
    tmp_path: Path,
) -> None:
    words = [embedded / "run_squad.py", *QA, "--save_steps", 2, "--train_file", data / "squad/train-v1.1.json"]
    words += ["--nncf-config", config, "--do_train", "--max_steps", 4, "--weight_decay", 0.1]
    run(*words, "--model_name_or_path", data / "model", "--output_dir", tmp_path / "whole")
    part = tmp_path / "whole" / "checkpoint-2"
    run_warm(*words, "--model_name_or_path", part, "--output_dir", tmp_path / "part")
    whole, part = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "part"))
    assert not [name for name in whole if not torch.equal(whole[name], part[name])]


@pytest.mark.slow
def test_glue_trains_and_reloads(
    run: Callable[..., Result],
    run_warm: Callable[..., Result],
    data: Path,
    embedded: Path,
    config: Path,
    tmp_path: Path,
) -> None:
    script, out = embedded / "run_glue.py", tmp_path / "out"
    words = [*CLASSES, "--task_name", "sst2", "--data_dir", data / "glue/SST-2", "--do_eval"]
    train = ["--model_name_or_path", data / "model", "--output_dir", out, "--do_train", "--max_steps", 3]
    run(script, *words, *train, "--nncf-config", config)
    first = json.loads((out / "eval_results.json").read_text())
    # The other spelling of the flag.
    again = ["--model_name_or_path", out, "--output_dir", tmp_path / "again", "--nncf_config", config]
    evaluated = run_warm(script, *words, *again)
    assert "restored" in evaluated.err + evaluated.out
    second = json.loads((tmp_path / "again" / "eval_results.json").read_text())
    assert second["eval_loss"] == first["eval_loss"] and second["eval_accuracy"] == first["eval_accuracy"]


@pytest.mark.slow
def test_two_processes_train_like_one(
    run: Callable[..., Result],
    run_warm: Callable[..., Result],
    data: Path,
    embedded: Path,
    config: Path,
    tmp_path: Path,
) -> None:
    # Twice four rows must be the same steps as once eight: the gradients are averaged over both processes. The
    # demo's model has no dropout, and plain SGD keeps small differences small.
    words = [embedded / "run_xnli.py", *CLASSES, "--language", "en", "--data_dir", data / "xnli/en", "--do_train"]
    words += ["--model_name_or_path", data / "model", "--nncf-config", config, "--max_steps", 3, "--optim", "sgd"]
    words += ["--learning_rate", "1e-2", "--max_grad_norm", "0", "--save_steps", 3]
    one, two = tmp_path / "one", tmp_path / "two"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2]
    distributed = run(*torchrun, *words, "--ddp_backend", "gloo", "--output_dir", two, "--to-onnx", tmp_path / "m.onnx")
    run_warm(*words, "--output_dir", one, "--per_device_train_batch_size", 8)
    expected, actual = (load_file(folder / "model.safetensors") for folder in (one, two))
    start = load_file(data / "model" / "model.safetensors")
    assert any(not torch.equal(expected[f"bert.{name}"], tensor) for name, tensor in start.items())
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert (tmp_path / "m.onnx").is_file()
    assert distributed.err.count("wrote ") == 1 or distributed.out.count("wrote ") == 1, "one writer"


@pytest.mark.slow
def test_squad_in_two_processes(
    run: Callable[..., Result], data: Path, embedded: Path, config: Path, tmp_path: Path
) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2]
    words = [embedded / "run_squad.py", *QA, *squad(data), "--model_name_or_path", data / "model", "--do_train"]
    run(*torchrun, *words, "--nncf-config", config, "--max_steps", 2, "--output_dir", tmp_path / "out")
    assert (tmp_path / "out" / "nncf_config.json").is_file()


@pytest.mark.upstream
@pytest.mark.slow
@pytest.mark.parametrize("name", ["run_qa", "run_squad"])
def test_upstream_squad(
    run: Callable[..., Result],
    run_warm: Callable[..., Result],
    data: Path,
    upstream: Path,
    config: Path,
    tmp_path: Path,
    name: str,
) -> None:
    script = Path(run("apply_patch.py", "script", name, "--pin", "v4.57").out.strip())
    out = tmp_path / "out"
    if name == "run_squad":
        words = [*QA, *squad(data), "--overwrite_cache"]
    else:
        words = [*CLASSES, "--doc_stride", 16, "--dataset_name", "squad", "--data_dir", data / "squad"]
    words += ["--do_eval", "--nncf-config", config, "--to-onnx", tmp_path / "m.onnx"]
    run(
        script,
        *words,
        "--model_name_or_path",
        data / "model",
        "--output_dir",
        out,
        "--do_train",
        "--max_steps",
        2,
        cwd=tmp_path,
    )
    assert (out / "nncf_config.json").is_file() and (tmp_path / "m.onnx").is_file()
    prediction = "predictions_.json" if name == "run_squad" else "eval_predictions.json"
    first = json.loads((out / prediction).read_text())
    run_warm(script, *words, "--model_name_or_path", out, "--output_dir", tmp_path / "again", cwd=tmp_path)
    assert json.loads((tmp_path / "again" / prediction).read_text()) == first


@pytest.mark.upstream
@pytest.mark.slow
@pytest.mark.parametrize("name", ["run_mlm", "run_clm", "run_seq2seq_qa"])
def test_language_models(
    run: Callable[..., Result],
    run_warm: Callable[..., Result],
    language: Path,
    upstream: Path,
    config: Path,
    tmp_path: Path,
    name: str,
) -> None:
    """Train, export, then evaluate the checkpoint: the same figures, to the bit, and the same exported model."""
    script = Path(run("apply_patch.py", "script", name, "--pin", "v4.57").out.strip())
    model, files = LANGUAGE[name]
    shared = [word.format(data=language) for word in matrix.WORDS[name]]
    shared += ["--do_eval", "--nncf-config", config, "--to-openvino", tmp_path / "ir"]
    start = ["--model_name_or_path", language / model, "--output_dir", tmp_path / "out"]
    trained = run(script, *shared, *start, "--do_train", "--max_steps", 2, "--to-onnx", tmp_path / "m.onnx")
    assert "quantizers" in trained.err + trained.out and (tmp_path / "out/nncf_config.json").is_file()
    assert {path.name for path in (tmp_path / "ir").iterdir()} >= {*files, "config.json"}
    assert list(tmp_path.glob("m*.onnx"))
    first = json.loads((tmp_path / "out/eval_results.json").read_text())

    exported = {file: (tmp_path / "ir" / file).read_bytes() for file in files}
    start = ["--model_name_or_path", tmp_path / "out", "--output_dir", tmp_path / "again"]
    again = run_warm(script, *shared, *start)
    assert "restored" in again.err + again.out
    second = json.loads((tmp_path / "again/eval_results.json").read_text())
    figures = {key for key in first if key.startswith(("eval_", "perplexity")) and "_per_second" not in key}
    # Which tokens are masked is drawn anew in each run.
    figures -= {"eval_runtime", *(("eval_loss", "eval_accuracy", "perplexity") if name == "run_mlm" else ())}
    assert figures and {key: second[key] for key in figures} == {key: first[key] for key in figures}
    # The .xml beside them has the names that tracing gave.
    assert {file: (tmp_path / "ir" / file).read_bytes() for file in files} == exported
