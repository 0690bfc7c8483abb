"""Every pin in its own environment: the scripts go through, and checkpoints of one pin work in another."""

import functools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, Result, smaller
from safetensors.torch import load_file
from test_recipe_scripts import RECIPE, zeros
from test_unchanged import SCRIPTS, compare, flags, unpatched
from tiny import tiny_batches, tiny_model
from torch import nn
from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification

from nncf_transformers.compression import Compression
from nncf_transformers.config import parse_config
from nncf_transformers.export import rows_of
from nncf_transformers.inputs import call_model, synthetic_inputs
from nncf_transformers.loading import load_model
from nncf_transformers.runtimes import openvino_runtime, torch_runtime
from overlay.pins import load_pins
from scripts import matrix

Require = Callable[[str], None]
PINS = load_pins(ROOT / "pins.toml")
SETTINGS = {"algorithms": [{"algorithm": "quantization", "calibration_samples": 8, "smooth_quant": 0.95}]}
FAMILIES = {
    "bert": AutoModelForQuestionAnswering,
    "roberta": AutoModelForSequenceClassification,
    "distilbert": AutoModelForQuestionAnswering,
}
# Of the logits' deviation. The two libraries compute the same numbers in the same order, except for DistilBERT, where
# one divides the query before it is quantized and the other after it.
TOLERANCE = {"bert": 1e-5, "roberta": 1e-5, "distilbert": 0.1}
# How byte-level BPE writes the printable characters.
BYTES = [chr(i) for i in range(33, 127)] + ["Ġ"]


@pytest.fixture(scope="session")
def require(apply_pin: Callable[[str], Path]) -> Require:
    """Apply a pin, or skip the test where it cannot be tried."""
    left_out = functools.cache(lambda pin: matrix.left_out(PINS.get(pin)))

    def require(pin: str) -> None:
        if reason := left_out(pin):
            pytest.skip(f"pin {pin}: {reason}")
        apply_pin(pin)

    return require


def in_pin(
    pin: str, *words: object, code: int = 0, cwd: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run Python in a pin's environment."""
    command = [str(word) for word in (matrix.interpreter(PINS.get(pin)), *words)]
    settings = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run(command, cwd=cwd, env=settings, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done


@pytest.mark.slow
@pytest.mark.upstream
@pytest.mark.parametrize(
    ("pin", "scripts"),
    [("v5.2", SCRIPTS), ("v2.2", ("run_squad", "run_glue", "run_xnli"))],
)
def test_matrix_tries_every_script_of_a_pin(
    require: Require, run: Callable[..., Result], pin: str, scripts: tuple[str, ...]
) -> None:
    require(pin)
    out = run("scripts/matrix.py", "--pin", pin).out
    assert out.splitlines() == [f"{pin} {name}: trained, evaluated, exported" for name in scripts]


@pytest.mark.slow
@pytest.mark.upstream
@pytest.mark.parametrize(("trained", "evaluated"), [("v4.57", "v5.2"), ("v5.2", "v4.57")])
def test_checkpoint_has_the_same_metric_under_another_pin(
    require: Require, data: Path, config: Path, tmp_path: Path, trained: str, evaluated: str
) -> None:
    for pin in (trained, evaluated):
        require(pin)

    def squad(pin: str, *words: object) -> str:
        script = ROOT / "build" / pin / PINS.get(pin).script("run_qa")
        sizes = ("--max_seq_length", 64, "--doc_stride", 16, "--use_cpu", "--report_to", "none")
        done = in_pin(pin, script, *words, *sizes, "--dataset_name", "squad", "--data_dir", data / "squad", "--do_eval")
        figure = re.search(r"eval_f1\s+=\s+([\d.]+)", done.stdout)
        assert figure is not None
        return figure[1]

    out = tmp_path / "out"
    train = ["--do_train", "--max_steps", 3, "--learning_rate", "1e-3", "--nncf-config", config]
    own = squad(trained, "--model_name_or_path", data / "model", "--output_dir", out, *train)
    assert squad(evaluated, "--model_name_or_path", out, "--output_dir", tmp_path / "other") == own


@pytest.mark.slow
@pytest.mark.upstream
def test_models_of_2019_reload_exactly_and_load_today(require: Require, tmp_path: Path) -> None:
    require("v2.2")
    helper = Path(__file__).with_name("library_2019.py")
    in_pin("v2.2", helper, "make", tmp_path)
    for family, auto in FAMILIES.items():
        model = load_model(auto, tmp_path / family).eval()
        expected = np.load(tmp_path / family / "logits.npy")
        assert np.abs(logits(model) - expected).max() <= TOLERANCE[family] * expected.std(), family


@pytest.mark.slow
@pytest.mark.upstream
def test_models_of_today_load_in_2019(require: Require, tmp_path: Path) -> None:
    require("v2.2")
    expected = {}
    for family, auto in FAMILIES.items():
        head = "qa" if auto is AutoModelForQuestionAnswering else "classes"
        model = tiny_model(family, head)
        Compression(parse_config(SETTINGS, "test")).start(model, tiny_batches(model))
        model.save_pretrained(tmp_path / family)
        expected[family] = logits(model)
    in_pin("v2.2", Path(__file__).with_name("library_2019.py"), "read", *(tmp_path / family for family in FAMILIES))
    for family, wanted in expected.items():
        given = np.load(tmp_path / family / "logits-2019.npy")
        assert np.abs(given - wanted).max() <= TOLERANCE[family] * wanted.std(), family


@pytest.mark.slow
@pytest.mark.upstream
@pytest.mark.parametrize("script", ["run_squad", "run_glue", "run_xnli"])
def test_without_our_flags_2019_is_upstream_and_the_fixes_of_its_age(
    require: Require, run: Callable[..., Result], data: Path, tmp_path: Path, script: str
) -> None:
    require("v2.2")
    matrix.write_xnli_of_2019(data)
    tree = ROOT / "build" / "v2.2"
    age = tmp_path / "age"
    shutil.copytree(tree, age, ignore=shutil.ignore_patterns(".git", "__pycache__"))
    for path in ("run_squad", "run_glue", "run_xnli"):
        plain = subprocess.run(
            ["git", "-C", str(tree), "show", f"refs/overlay/base:examples/{path}.py"], capture_output=True, check=True
        ).stdout
        (age / "examples" / f"{path}.py").write_bytes(plain)
    patch = ROOT / "patches/v2.2/01-age.patch"
    subprocess.run(
        ["git", "apply", str(patch)], cwd=age, check=True, env=os.environ | {"GIT_CEILING_DIRECTORIES": str(tmp_path)}
    )
    words = [word.format(data=data) for word in matrix.OLD_WORDS[script]]
    # Upstream's script of that age reads this format only.
    model = tmp_path / "model"
    shutil.copytree(data / "model", model)
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    words += ["--model_name_or_path", str(model), "--do_train", "--do_eval", "--max_steps", "3"]
    words += ["--save_steps", "2", "--overwrite_cache", "--output_dir", "out"]
    files = []
    for folder in (age, tree):
        home = tmp_path / f"run-{folder.name}"
        home.mkdir()
        in_pin("v2.2", folder / "examples" / f"{script}.py", *words, cwd=home)
        files.append(
            {
                str(path.relative_to(home)): path.read_bytes()
                for path in sorted((home / "out").rglob("*"))
                # Settings have the flags of the parser in them.
                if path.is_file() and path.name != "training_args.bin"
            }
        )
    assert any(name.endswith("pytorch_model.bin") for name in files[0])
    assert files[0].keys() == files[1].keys()
    # torch.save keeps its archives' own names and nothing that differs from run to run.
    assert [name for name in files[0] if files[0][name] != files[1][name]] == []


@pytest.mark.slow
@pytest.mark.upstream
@pytest.mark.parametrize("script", SCRIPTS)
def test_without_our_flags_5_2_is_upstream(
    require: Require, language: Path, offline: Path, tmp_path: Path, script: str
) -> None:
    require("v5.2")
    tree = ROOT / "build" / "v5.2"
    patched = tree / PINS.get("v5.2").script(script)
    plain = tmp_path / "plain" / patched.relative_to(tree)
    shutil.copytree(patched.parent, plain.parent)
    for file in plain.parent.glob("*.py"):
        file.write_text(unpatched(tree, (patched.parent / file.name).relative_to(tree)), encoding="utf-8")

    def run(*words: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return in_pin("v5.2", *words, cwd=cwd, **environment)

    compare(run, plain, patched, flags(script, language, offline), offline, tmp_path)


@pytest.mark.slow
@pytest.mark.upstream
def test_two_processes_of_2019(require: Require, data: Path, config: Path, tmp_path: Path) -> None:
    require("v2.2")
    words = [word.format(data=data) for word in matrix.OLD_WORDS["run_squad"]]
    start = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    flags = ["--do_train", "--do_eval", "--max_steps", "3", "--nncf-config", config, "--to-onnx", tmp_path / "m.onnx"]
    script = ROOT / "build/v2.2/examples/run_squad.py"
    done = in_pin(
        "v2.2", *start, script, *words, *flags, "--model_name_or_path", data / "model", "--output_dir", tmp_path / "out"
    )
    assert done.stderr.count("export -   wrote ") == 1 and "Results: {'exact'" in done.stderr
    assert (tmp_path / "m.onnx").is_file()


@pytest.mark.slow
@pytest.mark.upstream
def test_features_of_another_version_are_named(require: Require, data: Path, tmp_path: Path) -> None:
    require("v2.2")
    for name in ("train", "dev"):
        shutil.copy(data / f"squad/{name}-v1.1.json", tmp_path)
    torch.save({"features": [Path("x")]}, tmp_path / "cached_train_model_64")
    words = [
        word.format(data=data).replace(str(data / "squad"), str(tmp_path)) for word in matrix.OLD_WORDS["run_squad"]
    ]
    words += ["--do_train", "--model_name_or_path", str(data / "model"), "--output_dir", str(tmp_path / "out")]
    done = in_pin("v2.2", ROOT / "build/v2.2/examples/run_squad.py", *words, code=6)
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: {tmp_path}/cached_train_model_64: ") and "--overwrite_cache" in last


@pytest.mark.slow
@pytest.mark.upstream
def test_saved_models_and_cached_features_of_2019(require: Require, data: Path, config: Path, tmp_path: Path) -> None:
    """All checkpoints are evaluated, MNLI's second set too; a run goes on from one of them with the cached features.

    The test has no "checkpoint" in its name, nor therefore in its folder's: the script looks for that word in paths.
    """
    require("v2.2")
    write_mnli(data)
    folder = shutil.copytree(data / "mnli", tmp_path / "mnli")
    words = ["--model_type", "bert", "--task_name", "mnli", "--data_dir", folder, "--max_seq_length", 48, "--no_cuda"]
    words += ["--do_train", "--max_steps", 2, "--save_steps", 2, "--nncf-config", config]
    script = ROOT / "build/v2.2/examples/run_glue.py"
    first = [
        "--model_name_or_path",
        data / "model",
        "--output_dir",
        tmp_path / "out",
        "--do_eval",
        "--eval_all_checkpoints",
    ]
    (count,) = re.findall(r"compressed .*\((\d+) quantizers\)", in_pin("v2.2", script, *words, *first).stderr)
    for place in ("out", "out/checkpoint-2", "out-MM", "out-MM/checkpoint-2"):
        assert (tmp_path / place / "eval_results.txt").is_file()
    # The features are kept under the name of the model's folder.
    for file in folder.glob("cached_train_model_*"):
        file.rename(str(file).replace("_model_", "_checkpoint-2_"))
    # Upstream saves no tokenizer with a checkpoint.
    second = ["--model_name_or_path", tmp_path / "out/checkpoint-2", "--tokenizer_name", data / "model"]
    second += ["--output_dir", tmp_path / "on"]
    done = in_pin("v2.2", script, *words, *second)
    assert "Loading features from cached file" in done.stderr
    assert f"restored quantization ({count} quantizers)" in done.stderr
    assert (tmp_path / "on/nncf_config.json").is_file() and (tmp_path / "on/pytorch_model.bin").is_file()


@pytest.mark.slow
@pytest.mark.upstream
def test_half_precision_of_2019_is_refused_in_one_line(require: Require, data: Path, tmp_path: Path) -> None:
    require("v2.2")
    words = [word.format(data=data) for word in matrix.OLD_WORDS["run_squad"]]
    words += [
        "--do_train",
        "--fp16",
        "--model_name_or_path",
        str(data / "model"),
        "--output_dir",
        str(tmp_path / "out"),
    ]
    done = in_pin("v2.2", ROOT / "build/v2.2/examples/run_squad.py", *words, code=2)
    assert done.stderr.splitlines()[-1].startswith("error: --fp16 of this script needs the package apex")


@pytest.mark.slow
@pytest.mark.upstream
@pytest.mark.parametrize(("pin", "script"), [("v5.2", "run_qa"), ("v2.2", "run_squad")])
def test_pruning_and_distillation(
    require: Require, data: Path, jpqd: Path, teachers: dict[str, Path], tmp_path: Path, pin: str, script: str
) -> None:
    """The same flags and configuration under every library; the smaller model loads under today's, with its figures."""
    require(pin)
    path, words = questions(pin, script, data)
    words += ["--nncf_compression_config", str(jpqd), "--distill_teacher", str(teachers["qa"]), "--do_eval"]
    words += ["--distillation_cache", str(tmp_path / "cache"), "--to-openvino", str(tmp_path / "ir")]
    start = ["--model_name_or_path", data / "model", "--do_train", "--num_train_epochs", 1, "--learning_rate", "1e-3"]
    out = tmp_path / "out"
    in_pin(pin, path, *words, *start, "--output_dir", out)
    smaller(out)
    prediction = "predictions_.json" if pin == "v2.2" else "eval_predictions.json"
    first = json.loads((out / prediction).read_text())
    (out / prediction).unlink()
    in_pin(pin, path, *words, "--model_name_or_path", out, "--output_dir", out)
    assert json.loads((out / prediction).read_text()) == first
    check_in_today(out, tmp_path / "ir")


@pytest.mark.slow
@pytest.mark.upstream
@pytest.mark.parametrize(("pin", "script"), [("v5.2", "run_qa"), ("v2.2", "run_squad")])
def test_a_recipe(
    require: Require, data: Path, teachers: dict[str, Path], tmp_path: Path, pin: str, script: str
) -> None:
    """SparseML's language under every library: pruned to the element, quantized from its second epoch on, exported."""
    require(pin)
    path, words = questions(pin, script, data)
    recipe = tmp_path / "recipe.md"
    recipe.write_text(RECIPE)
    out = tmp_path / "out"
    words += ["--recipe", recipe, "--distill_teacher", teachers["qa"], "--do_train", "--to-openvino", tmp_path / "ir"]
    done = in_pin(pin, path, *words, "--model_name_or_path", data / "model", "--output_dir", out)
    said = done.stdout + done.stderr
    assert "num_train_epochs is 2" in said and "the quantizers act from here on" in said
    assert not any(zeros(out, "query.weight").values())
    assert "!MagnitudePruningModifier" in (out / "recipe.yaml").read_text()
    check_in_today(out, tmp_path / "ir")


def questions(pin: str, script: str, data: Path) -> tuple[Path, list[object]]:
    """A pin's script for the demo's questions, and its flags."""
    path = ROOT / "build" / pin / PINS.get(pin).script(script)
    if pin == "v2.2":
        return path, [word.format(data=data) for word in matrix.OLD_WORDS[script]]
    words = ["--max_seq_length", 64, "--doc_stride", 16, "--use_cpu", "--report_to", "none"]
    return path, [*words, "--per_device_train_batch_size", 4, "--dataset_name", "squad", "--data_dir", data / "squad"]


def check_in_today(folder: Path, ir: Path) -> None:
    """Compare a checkpoint, loaded under the library of this environment, with the IR that its own pin wrote."""
    model = load_model(AutoModelForQuestionAnswering, folder).eval()
    inputs = synthetic_inputs(model, 2, 32)
    runtime = openvino_runtime(ir / "openvino_model.xml", exact=True)
    for ours, theirs in zip(torch_runtime(model)(rows_of(inputs)), runtime(rows_of(inputs)), strict=True):
        assert np.abs(ours - theirs).max() <= 0.1 * ours.std()


SEED = {
    "run_xnli": "--model_type bert --language en --train_language en --do_train --do_eval --data_dir {data}/xnli-2019 "
    "--per_gpu_train_batch_size 48 --learning_rate 5e-5 --num_train_epochs 4.0 --max_seq_length 128 "
    "--save_steps 200 --per_gpu_eval_batch_size 48 --nncf-config nncf_bert_config_xnli.json",
    "run_squad": "--model_type bert --do_train --do_eval --do_lower_case --train_file {data}/squad/train-v1.1.json "
    "--predict_file {data}/squad/dev-v1.1.json --learning_rate 3e-5 --num_train_epochs 2 --max_seq_length 384 "
    "--doc_stride 128 --per_gpu_eval_batch_size=6 --per_gpu_train_batch_size=6 --save_steps=400 "
    "--nncf-config nncf_bert_config_squad.json",
    "run_glue": "--model_type roberta --task_name mnli --do_train --do_eval --data_dir {data}/mnli "
    "--per_gpu_train_batch_size 24 --learning_rate 2e-5 --num_train_epochs 3.0 --max_seq_length 128 "
    "--save_steps 400 --nncf-config nncf_roberta_config_mnli.json",
}


@pytest.mark.slow
@pytest.mark.upstream
@pytest.mark.parametrize("script", SEED)
def test_command_lines_of_the_original(require: Require, data: Path, tmp_path: Path, script: str) -> None:
    """Local paths in place of its placeholders, and --no_cuda; then evaluation without --do_train, with an export."""
    require("v2.2")
    matrix.write_xnli_of_2019(data)
    write_mnli(data)
    words = SEED[script].format(data=data).split()
    model = write_roberta(tmp_path / "model") if "roberta" in words else write_bert(data, tmp_path / "model")
    for config in (ROOT / "nncf_configs").glob("nncf_*.json"):
        shutil.copy(config, tmp_path)
    path = ROOT / "build/v2.2/examples" / f"{script}.py"
    in_pin("v2.2", path, *words, "--no_cuda", "--model_name_or_path", model, "--output_dir", "out", cwd=tmp_path)
    words.remove("--do_train")
    words += ["--no_cuda", "--model_name_or_path", "out", "--output_dir", "out", "--to-onnx", "m.onnx"]
    done = in_pin("v2.2", path, *words, cwd=tmp_path)
    assert "restored" in done.stderr and (tmp_path / "m.onnx").is_file()


def write_bert(data: Path, folder: Path) -> Path:
    """A tiny BERT with room for 384 tokens, and the demo's vocabulary."""
    vocabulary = (data / "model/vocab.txt").read_text().splitlines()
    tiny_model("bert", "qa", vocab_size=len(vocabulary), max_position_embeddings=512).save_pretrained(folder)
    shutil.copy(data / "model/vocab.txt", folder)
    return folder


def write_roberta(folder: Path) -> Path:
    """A tiny RoBERTa with a vocabulary of single bytes."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *BYTES]
    model = tiny_model("roberta", "classes", vocab_size=len(tokens), max_position_embeddings=514, num_labels=3)
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


def write_mnli(data: Path) -> None:
    """The demo's pairs in the layout of GLUE's MNLI."""
    head = "\t".join(f"column{i}" for i in range(12))
    for split, name in (("train", "train"), ("dev", "dev_matched"), ("dev", "dev_mismatched")):
        pairs = [line.split("\t") for line in (data / "xnli/en" / f"{split}.tsv").read_text().splitlines()[1:33]]
        rows = ["\t".join([str(i), *["x"] * 7, a, b, "x", label]) for i, (a, b, label) in enumerate(pairs)]
        file = data / "mnli" / f"{name}.tsv"
        file.parent.mkdir(exist_ok=True)
        file.write_text("\n".join([head, *rows]) + "\n")


def logits(model: nn.Module) -> np.ndarray:
    with torch.no_grad():
        outputs = call_model(model.eval(), synthetic_inputs(model, 3, 20))
    return np.concatenate([output.numpy().ravel() for output in outputs])


def test_pin_of_another_library_is_refused_in_one_line(run: Callable[..., Result]) -> None:
    error = run("scripts/train.py", "squad", "--pin", "v5.2", code=1).error
    assert "pin v5.2 needs transformers==5.2.0" in error and "make setup PIN=v5.2" in error
