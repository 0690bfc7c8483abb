"""What run_mlm, run_clm and run_seq2seq_qa need of the library: data, models made on the fly, errors in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Result

pytestmark = [pytest.mark.slow, pytest.mark.upstream]

QUIET = ("--use_cpu", "--report_to", "none")
STEPS = (*QUIET, "--do_train", "--do_eval", "--max_steps", 2, "--per_device_train_batch_size", 2)
# The command of the original, its stray back-slashes taken out, in small numbers: n_positions is no power of two, and
# less than what the tokenizer takes.
OVERRIDES = "n_embd=32,n_head=2,n_layer=2,n_positions=102"


@pytest.fixture
def scripts(upstream: Path) -> dict[str, Path]:
    examples = upstream / "examples/pytorch"
    return {
        "run_qa": examples / "question-answering/run_qa.py",
        "run_seq2seq_qa": examples / "question-answering/run_seq2seq_qa.py",
        "run_mlm": examples / "language-modeling/run_mlm.py",
        "run_clm": examples / "language-modeling/run_clm.py",
    }


@pytest.fixture
def tokenizer(language: Path, tmp_path: Path) -> Path:
    """A GPT-2 tokenizer that takes 1024 tokens, as the original's does."""
    folder = tmp_path / "tokenizer"
    shutil.copytree(language / "gpt2", folder, ignore=shutil.ignore_patterns("*.safetensors", "*config.json"))
    settings = json.loads((language / "gpt2/tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 1024}))
    return folder


def wikitext(folder: Path) -> list[Any]:
    return ["--dataset_name", "wikitext", "--dataset_config_name", "wikitext-2-raw-v1", "--data-dir", folder]


def on_the_fly(tokenizer: Path, *overrides: str) -> list[Any]:
    words = ["--model_type", "gpt2", "--tokenizer_name", tokenizer]
    return [*words, "--config_overrides", *overrides] if overrides else words


def test_a_gpt2_made_on_the_fly(
    run: Callable[..., Result], scripts: dict[str, Path], language: Path, tokenizer: Path, tmp_path: Path
) -> None:
    words = [*STEPS, *wikitext(language / "wikitext"), *on_the_fly(tokenizer, OVERRIDES)]
    done = run(scripts["run_clm"], *words, "--output_dir", tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    wanted = {"n_embd": 32, "n_head": 2, "n_layer": 2, "n_positions": 102}
    assert {name: config[name] for name in wanted} == wanted
    assert "Using block_size=102 instead" in done.out, "the blocks fit into the model"
    results = json.loads((tmp_path / "out/eval_results.json").read_text())
    assert results["perplexity"] > 1 and "eval_accuracy" in results


def test_an_adapter_on_a_gpt2_made_on_the_fly(
    run: Callable[..., Result], scripts: dict[str, Path], language: Path, tokenizer: Path, tmp_path: Path
) -> None:
    words = [*STEPS, *wikitext(language / "wikitext"), *on_the_fly(tokenizer, OVERRIDES), "--train_adapter"]
    run(scripts["run_clm"], *words, "--adapter_config", "seq_bn", "--output_dir", tmp_path / "out")
    assert (tmp_path / "out/wikitext/adapter_config.json").is_file()
    assert json.loads((tmp_path / "out/eval_results.json").read_text())["perplexity"] > 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("n_embed=32", "--config_overrides: key n_embed isn't in the original config dict; write KEY=VALUE"),
        ("n_embd", "--config_overrides: "),
        ("n_embd=x", "--config_overrides: invalid literal for int"),
        ("n_embd=33,n_head=2", "no model can be made of --model_type and --config_overrides: `embed_dim` must be"),
    ],
)
def test_overrides_that_are_wrong(
    run_warm: Callable[..., Result],
    scripts: dict[str, Path],
    language: Path,
    tokenizer: Path,
    tmp_path: Path,
    overrides: str,
    message: str,
) -> None:
    words = [*STEPS, *wikitext(language / "wikitext"), *on_the_fly(tokenizer, overrides)]
    assert message in run_warm(scripts["run_clm"], *words, "--output_dir", tmp_path / "out", code=2).error


@pytest.mark.parametrize("script", ["run_mlm", "run_clm"])
@pytest.mark.parametrize("flag", ["--model_name_or_path", "--config_name"])
def test_overrides_are_for_models_made_on_the_fly(
    run_warm: Callable[..., Result], scripts: dict[str, Path], language: Path, tmp_path: Path, script: str, flag: str
) -> None:
    words = [*STEPS, *wikitext(language / "wikitext"), flag, language / "gpt2", "--config_overrides", "n_embd=32"]
    error = run_warm(scripts[script], *words, "--output_dir", tmp_path / "out", code=2).error
    assert "--config_overrides can't be used in combination with --config_name or --model_name_or_path" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model_type", "gtp2"], "--model_type gtp2: no such model type"),
        ([], "no model: pass --model_name_or_path, or --model_type and --tokenizer_name"),
        (["--model_type", "gpt2"], "--tokenizer_name"),
    ],
)
def test_models_that_cannot_be_made(
    run_warm: Callable[..., Result],
    scripts: dict[str, Path],
    language: Path,
    tmp_path: Path,
    words: list[str],
    message: str,
) -> None:
    shared = [*STEPS, *wikitext(language / "wikitext"), "--output_dir", tmp_path / "out"]
    assert message in run_warm(scripts["run_clm"], *shared, *words, code=2).error


def test_more_tokens_than_the_model_has_positions(
    run_warm: Callable[..., Result], scripts: dict[str, Path], language: Path, tokenizer: Path, tmp_path: Path
) -> None:
    shared = [*STEPS, *wikitext(language / "wikitext"), "--output_dir", tmp_path / "out"]
    gpt2 = [*on_the_fly(tokenizer, OVERRIDES), "--block_size", 110]
    bert = ["--model_type", "bert", "--tokenizer_name", language / "model", "--config_overrides"]
    bert += ["hidden_size=32,num_attention_heads=2,num_hidden_layers=1,max_position_embeddings=64"]
    for script, words in (("run_clm", gpt2), ("run_mlm", bert)):
        error = run_warm(scripts[script], *shared, *words, code=2).error
        assert "beyond the model's embeddings: lower --block_size or --max_seq_length" in error


@pytest.mark.parametrize(("script", "model"), [("run_mlm", "model"), ("run_clm", "gpt2")])
def test_a_folder_without_a_validation_set(
    run_warm: Callable[..., Result], scripts: dict[str, Path], language: Path, tmp_path: Path, script: str, model: str
) -> None:
    (tmp_path / "text").mkdir()
    shutil.copy(language / "wikitext/wiki.train.raw", tmp_path / "text/train.txt")
    words = [*STEPS, *wikitext(tmp_path / "text"), "--model_name_or_path", language / model]
    words += ["--block_size" if script == "run_clm" else "--max_seq_length", 8]
    words += ["--validation_split_percentage", 20]
    done = run_warm(scripts[script], *words, "--output_dir", tmp_path / "out")
    assert done.out.count("no file for the validation split of wikitext-2-raw-v1") == 1
    results = json.loads((tmp_path / "out/all_results.json").read_text())
    assert 0 < results["eval_samples"] < results["train_samples"] and results["perplexity"] > 1


@pytest.mark.parametrize("script", ["run_mlm", "run_clm"])
def test_files_that_cannot_be_used(
    run_warm: Callable[..., Result], scripts: dict[str, Path], language: Path, tmp_path: Path, script: str
) -> None:
    words = [*STEPS, "--model_name_or_path", language / "gpt2", "--output_dir", tmp_path / "out", "--train_file"]
    assert "should be a csv, a json or a txt file" in run_warm(scripts[script], *words, "x.md", code=2).error
    (tmp_path / "short.txt").write_text("one\ntwo\n")
    error = run_warm(scripts[script], *words, tmp_path / "short.txt", code=2).error
    assert "train[:5%] has no row" in error


@pytest.mark.parametrize("script", ["run_qa", "run_seq2seq_qa"])
def test_squad_2_without_its_flag(
    run_warm: Callable[..., Result], scripts: dict[str, Path], language: Path, tmp_path: Path, script: str
) -> None:
    write_squad_2(language / "squad", tmp_path / "data")
    words = [*STEPS, "--dataset_name", "squad_v2", "--data-dir", tmp_path / "data", "--max_seq_length", 64]
    if script == "run_qa":
        words += ["--model_name_or_path", language / "model", "--doc_stride", 16]
    else:
        words += ["--model_name_or_path", language / "t5", "--predict_with_generate", "--max_answer_length", 8]
        words += ["--generation_max_length", 8]
    warning = "questions have no answer: add --version_2_with_negative"
    results = []
    for name, flag in (("without", []), ("with", ["--version_2_with_negative"])):
        done = run_warm(scripts[script], *words, *flag, "--output_dir", tmp_path / name)
        assert done.out.count(warning) == (0 if flag else 1)
        results.append(json.loads((tmp_path / name / "eval_results.json").read_text()))
    without, with_flag = results
    assert without.keys() - with_flag.keys() == {"eval_exact_match"} and not with_flag.keys() - without.keys()
    for kind in ("HasAns", "NoAns"):
        assert without[f"eval_{kind}_total"] == with_flag[f"eval_{kind}_total"] == 12
    assert without["eval_f1"] == pytest.approx((without["eval_HasAns_f1"] + without["eval_NoAns_f1"]) / 2)
    if script == "run_seq2seq_qa":
        # The flag changes what run_qa predicts; what a model writes stays what it is.
        assert without["eval_f1"] == with_flag["eval_f1"] and without["eval_exact"] == with_flag["eval_exact"]


def write_squad_2(source: Path, target: Path) -> None:
    """The demo's questions, every other one without an answer."""
    target.mkdir()
    for split in ("train", "dev"):
        squad = json.loads((source / f"{split}-v1.1.json").read_text(encoding="utf-8"))
        questions = [qa for article in squad["data"] for paragraph in article["paragraphs"] for qa in paragraph["qas"]]
        for question in questions[::2]:
            question |= {"answers": [], "is_impossible": True}
        (target / f"{split}-v2.0.json").write_text(json.dumps(squad), encoding="utf-8")


def test_a_test_set_without_answers_is_named(
    run_warm: Callable[..., Result], scripts: dict[str, Path], language: Path, tmp_path: Path
) -> None:
    shutil.copytree(language / "squad", tmp_path / "data")
    squad = json.loads((language / "squad/dev-v1.1.json").read_text(encoding="utf-8"))
    for paragraph in squad["data"][0]["paragraphs"]:
        for question in paragraph["qas"]:
            del question["answers"]
    (tmp_path / "data/test-v1.1.json").write_text(json.dumps(squad), encoding="utf-8")
    words = [*QUIET, "--do_predict", "--dataset_name", "squad", "--data-dir", tmp_path / "data", "--max_seq_length", 64]
    words += ["--doc_stride", 16, "--model_name_or_path", language / "model", "--output_dir", tmp_path / "out"]
    error = run_warm(scripts["run_qa"], *words, code=2).error
    assert "has no answer, which SQuAD v1.1 does not know" in error and "give data with answers" in error
    assert (tmp_path / "out/predict_predictions.json").is_file(), "the answers are there all the same"
