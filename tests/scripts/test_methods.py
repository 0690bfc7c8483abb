"""Pruning and distillation through the patched scripts, by flags and configurations alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import JPQD, MOVEMENT, ROOT, Result, smaller
from safetensors.torch import load_file, save_file
from test_int8 import CLASSES, QA, squad
from tiny import tiny_model


@pytest.mark.slow
def test_squad_with_a_loop_of_its_own(
    run: Callable[..., Result],
    run_warm: Callable[..., Result],
    data: Path,
    embedded: Path,
    jpqd: Path,
    teachers: dict[str, Path],
    tmp_path: Path,
) -> None:
    """Train, resume in the middle of the warm-up bit for bit, evaluate what was saved, export."""
    script = embedded / "run_squad.py"
    words = [*QA, "--train_file", data / "squad/train-v1.1.json", "--predict_file", data / "squad/dev-v1.1.json"]
    words += ["--save_steps", 2, "--nncf-config", jpqd, "--teacher_model_or_path", teachers["qa"], "--do_eval"]
    words += ["--distillation_weight", 0.9, "--distillation_cache", tmp_path / "cache"]
    train = ["--do_train", "--num_train_epochs", 1, "--logging_steps", 1]
    exports = ["--to-onnx", tmp_path / "m.onnx", "--to-openvino", tmp_path / "ir"]
    whole = tmp_path / "whole"
    run(script, *words, *train, *exports, "--model_name_or_path", data / "model", "--output_dir", whole)
    statistics = smaller(whole)
    assert statistics["exports"][str(tmp_path / "m.onnx")] == (tmp_path / "m.onnx").stat().st_size
    part = tmp_path / "part"
    run_warm(script, *words, *train, "--model_name_or_path", whole / "checkpoint-2", "--output_dir", part)
    left, right = (load_file(folder / "model.safetensors") for folder in (whole, part))
    assert left.keys() == right.keys() and not [name for name in left if not torch.equal(left[name], right[name])]
    first = json.loads((whole / "predictions_.json").read_text())
    run_warm(script, *words, "--model_name_or_path", whole, "--output_dir", tmp_path / "again")
    assert json.loads((tmp_path / "again" / "predictions_.json").read_text()) == first
    # Another configuration, another teacher, another task's data: each in one line.
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"algorithms": [{**MOVEMENT, "power": 2}, JPQD[1]]}))
    resume = [*words, *train, "--model_name_or_path", whole / "checkpoint-2", "--output_dir"]
    assert "other settings than" in run_warm(script, *resume, tmp_path / "1", "--nncf-config", other, code=2).error
    teacher = shutil.copytree(teachers["qa"], tmp_path / "teacher")
    weights = load_file(teacher / "model.safetensors")
    save_file({name: tensor * 1.5 for name, tensor in weights.items()}, teacher / "model.safetensors", {"format": "pt"})
    error = run_warm(script, *resume, tmp_path / "2", "--teacher_model_or_path", teacher, code=2).error
    assert "was trained with another one" in error


@pytest.mark.slow
@pytest.mark.parametrize("script", ["run_xnli", "run_squad"])
def test_two_processes(
    run: Callable[..., Result],
    data: Path,
    embedded: Path,
    jpqd: Path,
    teachers: dict[str, Path],
    tmp_path: Path,
    script: str,
) -> None:
    teacher = teachers["nli" if script == "run_xnli" else "qa"]
    words: list[Any] = [embedded / f"{script}.py", "--nncf-config", jpqd, "--teacher_model_or_path", teacher]
    words += ["--model_name_or_path", data / "model", "--do_train", "--num_train_epochs", 2]
    words += ["--output_dir", tmp_path / "out", "--to-openvino", tmp_path / "ir"]
    if script == "run_xnli":
        words += [*CLASSES, "--language", "en", "--data_dir", data / "xnli/en", "--ddp_backend", "gloo"]
    else:
        words += [*QA, *squad(data)]
    run("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2, *words)
    smaller(tmp_path / "out")
    assert (tmp_path / "ir" / "openvino_model.xml").is_file()


@pytest.mark.slow
def test_magnitude_in_two_processes_is_that_of_one(
    run: Callable[..., Result], run_warm: Callable[..., Result], data: Path, embedded: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    magnitude = {"algorithm": "magnitude_sparsity", "final_sparsity": 0.5, "target_scopes": [r"{re}\.layer\."]}
    config.write_text(json.dumps({"algorithms": [magnitude]}))
    words = [embedded / "run_xnli.py", *CLASSES, "--language", "en", "--data_dir", data / "xnli/en", "--do_train"]
    words += ["--model_name_or_path", data / "model", "--nncf-config", config, "--optim", "sgd"]
    words += ["--learning_rate", "1e-2", "--max_grad_norm", "0", "--num_train_epochs", 1]
    run("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2, *words, "--ddp_backend", "gloo",
        "--output_dir", tmp_path / "two")  # fmt: skip
    run_warm(*words, "--output_dir", tmp_path / "one", "--per_device_train_batch_size", 8)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        if ".layer." in name and tensor.ndim == 2:
            assert (tensor == 0).float().mean() == pytest.approx(0.5, abs=1e-3)
            # Sums in another order may decide between two weights that are nearly equal.
            assert ((tensor == 0) != (two[name] == 0)).float().mean() < 1e-3


@pytest.mark.slow
def test_mistakes(
    run_warm: Callable[..., Result], data: Path, embedded: Path, jpqd: Path, teachers: dict[str, Path], tmp_path: Path
) -> None:
    """One line each, before any training, and nothing is left in the output folder."""
    words = [embedded / "run_glue.py", *CLASSES, "--task_name", "sst2", "--data_dir", data / "glue/SST-2", "--do_train"]
    words += ["--model_name_or_path", data / "model", "--max_steps", 2]

    def fails(message: str, *flags: Any) -> None:
        out = tmp_path / message.replace("/", "").replace(" ", "")
        error = run_warm(*words, "--output_dir", out, *flags, code=2).error
        assert message in error, error
        assert not (out / "model.safetensors").exists()

    fails("/nowhere", "--teacher_model_or_path", "/nowhere")
    fails("ends at step 2", "--nncf-config", jpqd)
    fails("is a BertForQuestionAnswering, the student a Bert", "--teacher_model_or_path", teachers["qa"])


# The command line of optimum-intel's README, its names of models and data replaced by local folders, and short.
ORIGINAL = """--teacher_model_or_path {model} --distillation_weight 0.9 --do_eval --do_train --learning_rate 3e-5
--num_train_epochs 6 --per_device_eval_batch_size 128 --per_device_train_batch_size 16 --max_seq_length 64
--doc_stride 16 --logging_steps 1 --eval_strategy steps --eval_steps 5 --save_steps 5 --save_total_limit 2
--overwrite_output_dir"""


@pytest.mark.upstream
@pytest.mark.slow
def test_the_originals_command_line(run: Callable[..., Result], data: Path, upstream: Path, tmp_path: Path) -> None:
    """Its configuration file unchanged, trailing commas included, on a BERT whose layers its blocks divide."""
    model = tmp_path / "model"
    shutil.copytree(data / "model", model)
    words = len((model / "vocab.txt").read_text().splitlines())
    big = tiny_model(vocab_size=words, hidden_size=64, num_attention_heads=2, intermediate_size=128)
    big.save_pretrained(model)
    script = Path(run("apply_patch.py", "script", "run_qa", "--pin", "v4.57").out.strip())
    flags = ORIGINAL.format(model=model).split() + ["--use_cpu", "--report_to", "none", "--dataset_name", "squad"]
    done = run(
        script,
        *flags,
        *("--model_name_or_path", model, "--data_dir", data / "squad", "--output_dir", tmp_path / "out"),
        *("--nncf_compression_config", ROOT / "nncf_configs" / "bert-base-jpqd.json", "--to-openvino", tmp_path / "ir"),
        cwd=tmp_path,
    )
    assert "the masks are final" in done.out + done.err
    statistics = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert statistics["algorithms"] == ["movement_sparsity", "quantization", "distillation"]
    assert (tmp_path / "ir" / "openvino_model.xml").is_file()
