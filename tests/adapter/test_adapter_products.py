"""What is made of adapters: one base for several tasks in the runtimes, and merged models."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from adapter_runs import base, int8_json, load, logits, reload, train, trainer
from safetensors.torch import load_file
from test_adapter_int8 import quantize
from tiny import tiny_model

from nncf_transformers.adapter.config import read_config
from nncf_transformers.adapter.merge import merge_adapter
from nncf_transformers.adapter.share import REPORT_FILE, WEIGHTS_FILE, export_adapters
from nncf_transformers.compression import Compression
from nncf_transformers.errors import UsageError
from nncf_transformers.inputs import call_model, synthetic_inputs
from nncf_transformers.runtimes import onnx_runtime, openvino_runtime

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("of_int8", [True, False])
def test_two_adapters_on_one_base(of_int8: bool, tmp_path: Path) -> None:
    folder, tasks = quantize(tmp_path) if of_int8 else base(tmp_path / "fp32"), tmp_path / "tasks"
    for name, config in (("one", "seq_bn"), ("two", "lora")):
        train(tmp_path / name, load(folder), adapter_config=config, max_steps=2, save_strategy="no")
    export_adapters(str(folder), [str(tmp_path / "one")], str(tasks))
    first = {name: (tasks / name).read_bytes() for name in (WEIGHTS_FILE, "one.onnx")}
    (added,) = export_adapters(str(folder), [str(tmp_path / "two")], str(tasks))
    # A task that comes later changes nothing of what is there.
    assert {name: (tasks / name).read_bytes() for name in first} == first
    names = {WEIGHTS_FILE, REPORT_FILE, "one.onnx", "two.onnx"}
    assert {path.name for path in tasks.iterdir()} == names, "nothing else is left behind"
    report = json.loads((tasks / REPORT_FILE).read_text())
    assert report.keys() == {"one", "two"} and report["two"]["bytes"] == added.bytes
    for task in report.values():
        own = (tasks / f"{task['name']}.onnx").stat().st_size
        assert task["bytes"] == own and 0 < task["base"] < (tasks / WEIGHTS_FILE).stat().st_size
        # What is shared is not in the task's own file; there are the names of where it is instead.
        assert own < task["whole"] - 0.6 * task["base"]
        assert [one["runtime"] for one in task["runtimes"]] == ["ONNX Runtime", "OpenVINO"]
    for name in ("one", "two"):
        model = reload(tmp_path, load(folder), tmp_path / name)
        inputs = synthetic_inputs(model, 3, 20)
        with torch.no_grad():
            expected = [tensor.numpy() for tensor in call_model(model.eval(), inputs)]
        arrays = {key: tensor.numpy() for key, tensor in inputs.items()}
        file = tasks / f"{name}.onnx"
        for runtime in (onnx_runtime(file), openvino_runtime(file, exact=True)):
            for ours, theirs in zip(expected, runtime(arrays), strict=True):
                assert np.abs(ours - theirs).mean() < (0.02 if of_int8 else 1e-4) * ours.std()


def test_a_folder_of_tasks_belongs_to_one_base(tmp_path: Path) -> None:
    folders = [base(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        train(tmp_path / f"out{seed}", load(folder), max_steps=1, save_strategy="no")
    export_adapters(str(folders[0]), [str(tmp_path / "out0")], str(tmp_path / "tasks"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "tasks").iterdir()}
    with pytest.raises(
        UsageError, match=r"^--output .*tasks: its tasks are of another base than .*1; name another folder"
    ):
        export_adapters(str(folders[1]), [str(tmp_path / "out1")], str(tmp_path / "tasks"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "tasks").iterdir()} == before
    for content, message in (("{", "is no valid JSON"), ("[]", "is no report of tasks")):
        (tmp_path / "tasks" / REPORT_FILE).write_text(content)
        with pytest.raises(UsageError, match=rf"{REPORT_FILE}: {message}.*delete it"):
            export_adapters(str(folders[0]), [str(tmp_path / "out0")], str(tmp_path / "tasks"))


def test_encoder_and_decoder_cannot_share(tmp_path: Path) -> None:
    folder = base(tmp_path / "t5", "t5", "seq2seq")
    train(tmp_path / "out", load(folder, "seq2seq"), max_steps=1, save_strategy="no")
    with pytest.raises(UsageError, match="has an encoder and a decoder"):
        export_adapters(str(folder), [str(tmp_path / "out")], str(tmp_path / "tasks"))


MERGEABLE = ["lora", "ia3", "dora", "vera", "dvora", "lora[r=2,alpha=32]", "lora[attn_matrices=['k'],output_lora=True]"]


@pytest.mark.parametrize("config", MERGEABLE)
def test_merged(config: str, tmp_path: Path) -> None:
    folder, out, merged = base(tmp_path / "base"), tmp_path / "out", tmp_path / "merged"
    expected = logits(train(out, load(folder), adapter_config=config, save_strategy="no"))
    merge_adapter(str(folder), str(out), str(merged))
    assert torch.allclose(logits(load(merged)), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(load(folder)), expected, rtol=1e-2, atol=1e-2)
    # A plain model: the same weights by name, and nothing of the library.
    assert load_file(merged / "model.safetensors").keys() == load_file(folder / "model.safetensors").keys()
    ours, theirs = (json.loads((path / "config.json").read_text()) for path in (merged, folder))
    assert ours == theirs


def test_merged_union(tmp_path: Path) -> None:
    lora = read_config("--adapter_config", "lora").to_dict()
    folder, out, path = base(tmp_path / "base"), tmp_path / "out", tmp_path / "union.json"
    path.write_text(json.dumps({"architecture": "union", "configs": [lora]}))
    expected = logits(train(out, load(folder), adapter_config=path, save_strategy="no"))
    assert torch.equal(logits(reload(tmp_path, load(folder), out)), expected)
    merge_adapter(str(folder), str(out), str(tmp_path / "merged"))
    assert torch.allclose(logits(load(tmp_path / "merged")), expected, rtol=1e-4, atol=1e-4)
    # Of two the library does not know which is meant, even where each leaves out the layers of the other.
    ia3 = read_config("--adapter_config", "ia3").to_dict() | {"leave_out": [0]}
    path.write_text(json.dumps({"architecture": "union", "configs": [lora | {"leave_out": [1]}, ia3]}))
    with pytest.raises(UsageError, match="^--adapter_config: does not fit .*definitions conflict"):
        trainer(out, load(folder), adapter_config=path)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_merged_language_models(family: str, tmp_path: Path) -> None:
    head = {"gpt2": "causal", "t5": "seq2seq"}[family]
    folder, out = base(tmp_path / "base", family, head), tmp_path / "out"
    expected = logits(train(out, load(folder, head), adapter_config="lora", save_strategy="no"))
    merge_adapter(str(folder), str(out), str(tmp_path / "merged"))
    assert torch.allclose(logits(load(tmp_path / "merged", head)), expected, rtol=1e-4, atol=1e-4)


def test_a_merged_model_is_quantized_as_any_other(tmp_path: Path) -> None:
    folder, out, merged = base(tmp_path / "base"), tmp_path / "out", tmp_path / "merged"
    train(out, load(folder), adapter_config="lora", save_strategy="no")
    merge_adapter(str(folder), str(out), str(merged))
    int8 = tmp_path / "int8"
    model = train(int8, load(merged), train_adapter=False, nncf_config=int8_json(tmp_path), to_onnx=tmp_path / "m.onnx")
    again = trainer(tmp_path / "x", load(int8), train_adapter=False, do_train=False).model
    assert Compression.of(again) is not None and torch.equal(logits(again), logits(model))


@pytest.mark.parametrize(
    "config", ["seq_bn", "prefix_tuning", "loreft", "lora[use_gating=True]", "lora|seq_bn", "unipelt"]
)
def test_what_cannot_be_merged(config: str, tmp_path: Path) -> None:
    folder = base(tmp_path / "base")
    train(tmp_path / "out", load(folder), adapter_config=config, max_steps=1, save_strategy="no")
    with pytest.raises(UsageError, match=r"^--adapter .*out: .* cannot be merged"):
        merge_adapter(str(folder), str(tmp_path / "out"), str(tmp_path / "merged"))
    assert not (tmp_path / "merged").exists()


def test_neither_a_stack_nor_an_int8_base_can_be_merged(tmp_path: Path) -> None:
    int8, lang, out = quantize(tmp_path), tmp_path / "lang", tmp_path / "out"
    folder = tmp_path / "fp32"
    train(lang, load(folder), adapter_config="lora", adapter_name="en", max_steps=1, save_strategy="no")
    train(out, load(folder), adapter_config="lora", load_lang_adapter=lang, max_steps=1, save_strategy="no")
    with pytest.raises(UsageError, match="a stack of adapters cannot be merged"):
        merge_adapter(str(folder), str(out), str(tmp_path / "merged"))
    with pytest.raises(UsageError, match=r"^--model .*int8: is quantized.*quantize the result"):
        merge_adapter(str(int8), str(lang), str(tmp_path / "merged"))


RANK = """
import sys, torch, transformers
from pathlib import Path
from adapter_runs import load, trainer
import nncf_transformers.adapter.saving as saving
out, base = Path(sys.argv[1]), Path(sys.argv[2])
run = trainer(out, load(base), adapter_config="mam", ddp_backend="gloo", save_steps=2, per_device_train_batch_size=2)
rank, real = run.args.process_index, saving.save
def save(model, folder):
    (out / f"{rank}.wrote").touch()
    real(model, folder)
saving.save = save
run.train()
run.save_model()
learned = {name: p.detach().clone() for name, p in run.model.named_parameters() if p.requires_grad}
torch.save(learned, out / f"{rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_have_one_adapter(tmp_path: Path) -> None:
    script, out = tmp_path / "rank.py", tmp_path / "out"
    script.write_text(RANK)
    out.mkdir()
    folder = base(tmp_path / "base")
    paths = f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tests' / 'adapter'}"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        script,
        out,
        folder,
    ]
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(out / f"{rank}.pt") for rank in (0, 1))
    assert first and all(torch.equal(first[name], second[name]) for name in first), "both learn the same"
    assert [path.name for path in out.glob("*.wrote")] == ["0.wrote"], "one writes"
    model = reload(tmp_path, load(folder), out)
    assert all(torch.equal(p, first[name]) for name, p in model.named_parameters() if name in first)
    assert any(not torch.equal(p, first[name]) for name, p in tiny_model().named_parameters() if name in first)
