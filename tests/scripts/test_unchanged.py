"""Without our flags a patched script computes and writes what the unpatched one does, bit for bit."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, Result

# The scripts that every pin with a Trainer has.
SCRIPTS = ("run_qa", "run_glue", "run_xnli", "run_seq2seq_qa", "run_mlm", "run_clm")

# What differs between any two runs of one and the same script: clocks and folder names.
NOISE = ("runtime", "per_second", "time", "total_flos")


TRAINER = ("--max_steps", 3, "--save_steps", 2, "--logging_steps", 1, "--do_train", "--do_eval", "--use_cpu")
TRAINER += ("--per_device_train_batch_size", 4, "--max_seq_length", 64, "--report_to", "none")
LOOP = ("--model_type", "bert", "--do_train", "--do_eval", "--max_steps", 3, "--save_steps", 2, "--no_cuda")
LOOP += ("--per_gpu_train_batch_size", 4, "--max_seq_length", 64, "--doc_stride", 16, "--max_query_length", 24)


def flags(script: str, data: Path, offline: Path) -> list[Any]:
    """The command line of a script, without any of ours."""
    squad = data / "squad"
    model = ["--model_name_or_path", data / "model"]
    if script == "run_squad":
        return [*LOOP, *model, "--train_file", squad / "train-v1.1.json", "--predict_file", squad / "dev-v1.1.json"]
    if script == "run_qa":
        file = offline / "squad.json"
        return [*TRAINER, *model, "--train_file", file, "--validation_file", file, "--doc_stride", 16]
    if script == "run_glue":
        return [*TRAINER, *model, "--train_file", offline / "train.json", "--validation_file", offline / "dev.json"]
    if script == "run_seq2seq_qa":
        file, model = offline / "squad.json", ["--model_name_or_path", data / "t5"]
        words = [*TRAINER, *model, "--train_file", file, "--validation_file", file, "--predict_with_generate"]
        return [*words, "--max_answer_length", 8, "--generation_max_length", 8, "--max_eval_samples", 16]
    if script in ("run_mlm", "run_clm"):
        words, size = list(TRAINER), "--max_seq_length"
        if script == "run_clm":
            words[words.index(size)], model = "--block_size", ["--model_name_or_path", data / "gpt2"]
        files = ["--train_file", offline / "train.txt", "--validation_file", offline / "valid.txt"]
        return [*words, *model, *files]
    return [*TRAINER, *model, "--language", "en"]


def snapshot(folder: Path) -> dict[str, Any]:
    """Every file that a run wrote, reduced to what must not differ."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".json":
            files[name] = _without_noise(json.loads(path.read_text(encoding="utf-8")))
        elif path.suffix in (".safetensors", ".txt", ".md"):
            files[name] = path.read_bytes() if path.suffix != ".md" else ""
        elif path.name in ("optimizer.pt", "scheduler.pt"):
            files[name] = _digest(torch.load(path, weights_only=True))
        elif path.is_file() and "tfevents" not in path.name:
            files[name] = "there"
    return files


def _digest(value: Any) -> Any:
    """A saved state with its tensors as bytes, so that == compares every number."""
    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes()
    if isinstance(value, dict):
        return {k: _digest(v) for k, v in value.items()}
    return [_digest(v) for v in value] if isinstance(value, list | tuple) else value


def _without_noise(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_noise(v) for k, v in value.items() if not any(noise in k for noise in NOISE)}
    return [_without_noise(v) for v in value] if isinstance(value, list) else value


def compare(
    run: Callable[..., Result], plain: Path, patched: Path, words: list[Any], offline: Path, folder: Path
) -> None:
    snapshots = []
    for i, script in enumerate((plain, patched)):
        # Not a path that differs: some scripts write it into the files that are compared.
        out = folder / "out"
        # A cache each: a run that finds its data tokenized never tells the tokenizer how, and saves it differently.
        caches = {"HF_DATASETS_CACHE": str(folder / f"cache{i}"), "HF_MODULES_CACHE": str(offline / "modules")}
        run(script, *words, "--output_dir", out, cwd=offline, **caches)
        for cache in words[words.index("--model_name_or_path") + 1].parent.rglob("cached_*"):
            cache.unlink()
        for cache in offline.glob("cached_*"):
            cache.unlink()
        snapshots.append(snapshot(out))
        shutil.rmtree(out)
    assert snapshots[0], "the run wrote nothing"
    assert any(name.endswith(".safetensors") for name in snapshots[0])
    assert snapshots[0].keys() == snapshots[1].keys()
    assert not [name for name in snapshots[0] if snapshots[0][name] != snapshots[1][name]]


@pytest.mark.slow
@pytest.mark.parametrize("script", ["run_squad", "run_glue", "run_xnli"])
def test_embedded(
    run: Callable[..., Result], data: Path, offline: Path, embedded: Path, tmp_path: Path, script: str
) -> None:
    plain = ROOT / "embedded" / f"{script}.py"
    patched = embedded / f"{script}.py"
    assert plain.read_bytes() != patched.read_bytes()
    compare(run, plain, patched, flags(script, data, offline), offline, tmp_path)


@pytest.mark.upstream
@pytest.mark.slow
@pytest.mark.parametrize("script", [*SCRIPTS, "run_squad"])
def test_upstream(
    run: Callable[..., Result], language: Path, offline: Path, upstream: Path, tmp_path: Path, script: str
) -> None:
    patched = Path(run("apply_patch.py", "script", script, "--pin", "v4.57").out.strip())
    plain = tmp_path / "plain" / patched.relative_to(upstream)
    shutil.copytree(patched.parent, plain.parent)
    for file in plain.parent.glob("*.py"):
        path = (patched.parent / file.name).relative_to(upstream)
        file.write_text(unpatched(upstream, path), encoding="utf-8")
    assert plain.read_bytes() != patched.read_bytes()
    compare(run, plain, patched, flags(script, language, offline), offline, tmp_path)


def unpatched(tree: Path, path: Path) -> str:
    """A file of a work tree as upstream has it."""
    show = ["git", "-C", str(tree), "show", f"refs/overlay/base:{path}"]
    return subprocess.run(show, check=True, capture_output=True, text=True).stdout
