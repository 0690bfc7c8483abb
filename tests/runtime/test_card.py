"""The model card: what it says, that the Hub can read it, and that a later run brings it up to date."""

import hashlib
import json
import os
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from test_hf import trainer
from tiny import tiny_batches, tiny_model

from nncf_transformers import card_facts
from nncf_transformers.card import CARD_FILE, CardFacts, read_card, write_card
from nncf_transformers.compression import Compression
from nncf_transformers.config import parse_config
from nncf_transformers.errors import UsageError
from nncf_transformers.recipe.recipe import compose, parse_recipe
from nncf_transformers.recipe.translate import read_raw, recipe_config
from nncf_transformers.summary import add_exports

SQUAD = [
    "examples/run_qa.py",
    "--model_name_or_path",
    "bert-base",
    "--dataset_name",
    "squad",
    "--do_train",
    "--do_eval",
]


def front_matter(folder: Path) -> dict[str, Any]:
    """The front matter, which the Hub's own library must read, too."""
    text = (folder / CARD_FILE).read_text(encoding="utf-8")
    data = yaml.safe_load(text.split("---\n")[1])
    read = ModelCard(text).data
    assert read.to_dict().keys() <= {*data, "model_name", "eval_results"} and read.tags == data.get("tags")
    for result in read.eval_results or []:
        assert result.task_type and result.dataset_type and result.dataset_name and result.metric_type
    assert data["model-index"][0].keys() == {"name", "results"}
    return data  # type: ignore[no-any-return]


def text_of(folder: Path) -> str:
    text = read_card(folder)
    assert text is not None and text.endswith("-->\n") and text.count("<!-- nncf_transformers: begin -->") == 1
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert len(headings) == len(set(headings))
    return text


def section(folder: Path, heading: str) -> str:
    parts = text_of(folder).split(f"\n## {heading}\n")
    return parts[1].split("\n## ")[0] if len(parts) == 2 else ""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with quantizers, saved, as a script with a loop of its own leaves it."""
    model = tiny_model()
    config = {"algorithms": [{"algorithm": "quantization", "calibration_samples": 4}]}
    compression = Compression(parse_config(config, "test"))
    compression.start(model, tiny_batches(model, count=1))
    compression.finish(model)
    folder = tmp_path_factory.mktemp("saved") / "int8"
    model.save_pretrained(folder)
    add_exports(folder, {"openvino/openvino_model.bin": 1_500_000, "model.onnx": 2_000_000})
    (folder / "openvino").mkdir()
    return folder


@pytest.fixture
def compressed(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "int8"))


def evaluated(folder: Path, **values: float) -> None:
    """What the scripts write of an evaluation."""
    times = {"eval_runtime": 1.5, "eval_samples_per_second": 3.0, "epoch": 2.0}
    (folder / "eval_results.json").write_text(json.dumps({f"eval_{k}": v for k, v in values.items()} | times))


def facts(command: list[str] = SQUAD, **known: Any) -> CardFacts:
    settings = {"learning_rate": 3e-5, "num_train_epochs": 2.0, "seed": 42, "model_name_or_path": "bert-base"}
    args = SimpleNamespace(**settings, do_train="--do_train" in command, weight_decay=None, fp16=False)
    return CardFacts.of(args, command, **known)


def test_whole_card(compressed: Path) -> None:
    evaluated(compressed, f1=88.5, exact_match=80.25, loss=1.25, samples=100)
    write_card(compressed, facts())
    data = front_matter(compressed)
    assert data["library_name"] == "transformers" and data["base_model"] == "bert-base"
    assert data["datasets"] == ["squad"] and data["pipeline_tag"] == "question-answering"
    assert data["tags"] == ["nncf", "int8", "openvino", "onnx"] and data["metrics"] == ["f1", "exact_match"]
    (result,) = data["model-index"][0]["results"]
    assert result["dataset"] == {"name": "squad", "type": "squad", "split": "validation"}
    assert {m["type"]: m["value"] for m in result["metrics"]} == {"f1": 88.5, "exact_match": 80.25}
    assert data["model-index"][0]["name"] == "int8"

    assert text_of(compressed).split("---\n")[2].startswith("\n# int8\n")
    evaluation = section(compressed, "Evaluation")
    assert (
        "`squad`, split `validation`" in evaluation
        and "| f1 | 88.5 |" in evaluation
        and "| samples | 100 |" in evaluation
    )
    assert "runtime" not in evaluation and "epoch" not in evaluation
    made = section(compressed, "How it was made")
    assert shlex.join(["python", *SQUAD]) in made and "seed: 42" in made and "nncf 3" in made and "torch 2" in made
    statistics = json.loads((compressed / "statistics.json").read_text())
    compression = section(compressed, "Compression")
    assert (
        f"| parameters | {statistics['parameters']:,} |" in compression and "| methods | quantization |" in compression
    )
    assert "| size of `openvino/openvino_model.bin` | 1.5 MB |" in compression
    assert section(compressed, "Training hyperparameters").split("\n")[1:4] == [
        "- learning_rate: 3e-05",
        "- num_train_epochs: 2",
        "- seed: 42",
    ]
    loading = section(compressed, "How to load it")
    assert "load_model(AutoModelForQuestionAnswering, 'int8')" in loading
    assert "OVModelForQuestionAnswering.from_pretrained('int8/openvino')" in loading
    assert not section(compressed, "Limits"), "nothing is known of any"


def test_the_same_again_changes_nothing(compressed: Path) -> None:
    evaluated(compressed, f1=88.5)
    for known in (facts(), facts(), None, None):
        write_card(compressed, known)
        text = text_of(compressed)
        assert text.count("88.5") == 2
    assert section(compressed, "How it was made") and section(compressed, "Training hyperparameters")


def test_an_evaluation_puts_its_figures_in_place(compressed: Path) -> None:
    evaluated(compressed, f1=88.5)
    write_card(compressed, facts([*SQUAD, "--max_train_samples", "500"]))
    before = {
        name: section(compressed, name) for name in ("How it was made", "Training hyperparameters", "Compression")
    }
    evaluated(compressed, f1=77.25)
    command = ["run_qa.py", "--model_name_or_path", str(compressed), "--dataset_name", "squad", "--do_eval"]
    write_card(compressed, facts(command, base_model=str(compressed)))
    text = text_of(compressed)
    assert "88.5" not in text and text.count("77.25") == 2
    assert before == {name: section(compressed, name) for name in before}
    assert shlex.join(["python", *command]) in section(compressed, "Evaluation")
    assert section(compressed, "Limits").splitlines()[1:2] == [
        "- Training: at most 500 samples of the data (`--max_train_samples`), not all of it."
    ]
    data = front_matter(compressed)
    assert data["base_model"] == "bert-base" and len(data["model-index"][0]["results"]) == 1

    # A slice is never the data set: its figures stand beside the others, under a name of their own.
    evaluated(compressed, f1=99.0)
    write_card(compressed, facts([*command, "--max_eval_samples=8"]))
    results = front_matter(compressed)["model-index"][0]["results"]
    assert [r["metrics"][0]["value"] for r in results] == [77.25, 99.0]
    assert results[1]["dataset"] == {"name": "squad, at most 8 samples", "type": "unknown"}
    assert "- Evaluation: at most 8 samples" in section(compressed, "Limits")


def test_another_training_leaves_nothing_of_the_first(compressed: Path) -> None:
    evaluated(compressed, f1=88.5)
    write_card(compressed, facts())
    later = (compressed / "eval_results.json").stat().st_mtime_ns + 10**9
    os.utime(compressed / "model.safetensors", ns=(later, later))
    write_card(compressed, facts(["train.py", "--train_file", "gone.json", "--do_train"], base_model="other/model"))
    data, text = front_matter(compressed), text_of(compressed)
    assert data["base_model"] == "other/model" and data["model-index"] == [{"name": "int8", "results": []}]
    assert "88.5" not in text and "squad" not in text and "datasets" not in data and "metrics" not in data
    assert not section(compressed, "Evaluation")


def test_data_files_have_checksums(compressed: Path, tmp_path: Path) -> None:
    train, dev = tmp_path / "train | v1.json", tmp_path / "dev.json"
    train.write_text("{}")
    dev.write_text("[]")
    data = tmp_path / "data" / "MRPC"
    data.mkdir(parents=True)
    (data / "dev.tsv").write_text("text\n")
    command = [
        "train_qa.py",
        f"--squad_train_data={train}",
        "--squad_dev_data",
        str(dev),
        "--data-dir",
        str(data.parent),
    ]
    write_card(compressed, facts([*command, "--do_train"], metrics={"f1": 12.5, "exact_match": float("nan")}))
    made = section(compressed, "How it was made")
    for name, what, content in (
        ("train \\| v1.json", "training", b"{}"),
        ("dev.json", "evaluation", b"[]"),
        ("MRPC/dev.tsv", "in the data folder", b"text\n"),
    ):
        assert f"| `{name}` | {what} | `{hashlib.sha256(content).hexdigest()}` |" in made
    (result,) = front_matter(compressed)["model-index"][0]["results"]
    assert result["dataset"]["type"] == "unknown" and result["dataset"]["name"].startswith("dev.json")
    assert [m["type"] for m in result["metrics"]] == ["f1"], "what is no number is no figure"
    assert "read from a local folder" in section(compressed, "Limits")
    assert "datasets" not in front_matter(compressed)


@pytest.mark.parametrize("name", ["a: b # c", "- {x}: [y]", "'quoted\" `ticks` | <b>", "🙂 naïve", "yes", "123"])
def test_names_that_mean_something_to_yaml(name: str, compressed: Path) -> None:
    folder = compressed.with_name(name)
    compressed.rename(folder)
    evaluated(folder, f1=88.5)
    write_card(folder, facts(base_model=f"/models/{name}"))
    data = front_matter(folder)
    assert data["model-index"][0]["name"] == name and "base_model" not in data, "the Hub takes its own names only"
    write_card(folder, facts(base_model=f"/models/{name}"))
    assert text_of(folder).count(f"\n# {name}\n") == 1


def test_secrets_stay_out(compressed: Path) -> None:
    words = [*SQUAD, "--hub_token", "hf_secret1", "--push-to-hub-token=hf_secret2", "--token", "hf_secret3"]
    words += ["--tokenizer_name", "kept-tokenizer"]
    write_card(compressed, facts(words))
    text = text_of(compressed)
    assert "hf_secret" not in text and text.count("***") == 3 and "kept-tokenizer" in text


def test_pin_of_the_script(compressed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "build" / "v9" / "examples" / "run_it.py"
    script.parent.mkdir(parents=True)
    script.touch()
    (tmp_path / "pins.toml").write_text('[pins.v9]\ncommit = "abc123"\n')
    monkeypatch.setattr(card_facts, "_PROJECT", tmp_path)
    write_card(compressed, facts([str(script), "--do_train"]))
    made = section(compressed, "How it was made")
    assert "- pin: v9, upstream commit abc123" in made and "- script: `examples/run_it.py`" in made
    assert facts(["/elsewhere/run_it.py"]).pin is None


def test_the_trainers_card_is_the_base(tmp_path: Path, int8_config: Path) -> None:
    """Its text and its front matter stay; an evaluation later leaves the card of the training as it is."""
    run = trainer(tmp_path / "out", nncf_config=str(int8_config), max_steps=2)
    out = Path(run.args.output_dir)
    run.train()
    run.save_model()
    evaluated(out, f1=50.5)
    run.create_model_card(finetuned_from="/a/folder", dataset_tags="squad", dataset="SQuAD", tags="mine")
    known = facts(base_model="/a/folder")
    write_card(out, known)
    data, text = front_matter(out), text_of(out)
    assert data["datasets"] == ["squad"] and {"mine", "generated_from_trainer", "nncf", "int8"} == set(data["tags"])
    assert "base_model" not in data and "fine-tuned version of `/a/folder` on the SQuAD dataset" in text
    assert text.count("### Training hyperparameters") == 1 and "## Training hyperparameters" not in text.splitlines()
    assert "huggingface.co//a" not in text and "### Framework versions" in text and "## Compression" in text
    assert text.index("### Framework versions") < text.index("## Compression")

    earlier = read_card(out)
    run.create_model_card(dataset_tags="squad", dataset="SQuAD")
    evaluated(out, f1=60.5)
    write_card(out, facts(["run_qa.py", "--dataset_name", "squad", "--do_eval"], base_model=str(out)), earlier=earlier)
    assert "fine-tuned version of `/a/folder`" in text_of(out) and text_of(out).count("60.5") == 2
    assert front_matter(out)["tags"] == data["tags"] and "50.5" not in text_of(out)


def test_what_others_wrote_stays(compressed: Path) -> None:
    write_card(compressed, facts())
    text = text_of(compressed)
    front, own = text.split("---\n", 2)[1], "Words of mine.\n\n## Evaluation of mine\n\nGood.\n"
    text = text.replace(front, f"{front}license: mit\nlanguage:\n- en\n").replace("# int8\n", f"# Title\n\n{own}")
    (compressed / CARD_FILE).write_text(f"{text}\n## At the end\n\nAlso mine.\n")
    write_card(compressed, facts())
    text = read_card(compressed) or ""
    assert own.strip() in text and text.endswith("## At the end\n\nAlso mine.\n") and "# Title" in text
    data = yaml.safe_load(text.split("---\n")[1])
    assert data["license"] == "mit" and data["language"] == ["en"]


def test_cards_of_earlier_versions(compressed: Path) -> None:
    table = "| | |\n| --- | --- |\n| methods | none |\n\nLayer by layer: `statistics.json`.\n"
    (compressed / CARD_FILE).write_text(f"# int8\n\nText.\n\n## Compression\n\n{table}")
    write_card(compressed)
    assert "| methods | none |" not in text_of(compressed) and "Text." in text_of(compressed)


def test_a_broken_card_is_left_alone(compressed: Path, caplog: pytest.LogCaptureFixture) -> None:
    for broken in ("---\na: [b\n---\ntext\n", "---\njust words\n---\n"):
        (compressed / CARD_FILE).write_text(broken)
        write_card(compressed, facts())
        assert read_card(compressed) == broken and "its front matter is not YAML" in caplog.text
        caplog.clear()


def test_no_card_without_a_model(tmp_path: Path) -> None:
    write_card(tmp_path, facts())
    assert list(tmp_path.iterdir()) == []


def test_an_uncompressed_model(tmp_path: Path) -> None:
    """What only learned from a teacher, or was packed: no section on compression, and Transformers loads it."""
    tiny_model(head="classes").save_pretrained(tmp_path / "plain")
    (tmp_path / "plain" / "ir").mkdir()
    (tmp_path / "plain" / "ir" / "openvino_model.bin").touch()
    write_card(tmp_path / "plain", facts(metrics={"accuracy": 90.0}))
    assert front_matter(tmp_path / "plain")["tags"] == ["openvino"]
    assert "OVModelForSequenceClassification.from_pretrained('plain/ir')" in section(
        tmp_path / "plain", "How to load it"
    )
    assert front_matter(tmp_path / "plain")["pipeline_tag"] == "text-classification"
    assert not section(tmp_path / "plain", "Compression")
    assert "AutoModelForSequenceClassification.from_pretrained('plain')" in section(
        tmp_path / "plain", "How to load it"
    )


RECIPE = """
modifiers:
  - !LearningRateFunctionModifier {start_epoch: 0, end_epoch: 2, lr_func: cosine, init_lr: 1e-3, final_lr: 0}
  - !ConstantPruningModifier {params: ["re:.*query.weight"]}
  - !MFACPruningModifier {params: ["re:.*key.weight"], final_sparsity: 0.5}
"""


def test_what_a_recipe_has_set(tmp_path: Path) -> None:
    """The script's learning rate is not what the model was trained with, and no method of compression."""
    model = tiny_model()
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            layer.attention.self.query.weight[0] = 0
    compression = Compression(recipe_config(parse_recipe(RECIPE, "-", lenient=True)))
    compression.start(model, tiny_batches(model, count=1))
    compression.finish(model)
    model.save_pretrained(tmp_path)
    write_card(tmp_path, facts([*SQUAD, "--recipe", "-"]))
    statistics = json.loads((tmp_path / "statistics.json").read_text())
    assert statistics["algorithms"] == ["constant_sparsity"] and statistics["training"] == ["learning_rate"]
    assert "compressed by constant sparsity." in text_of(tmp_path)
    settings = section(tmp_path, "Training hyperparameters")
    assert "- where the recipe, `recipe.yaml`, says another, its own holds: learning_rate, lr_sch" in settings
    made = section(tmp_path, "How it was made")
    assert "- recipe: `recipe.yaml` in the model's folder" in made
    assert "- left out of the recipe: MFACPruningModifier: second-order" in made
    write_card(tmp_path, facts(SQUAD))
    trained_again = text_of(tmp_path)
    assert "left out of the recipe" not in trained_again and "its own holds" not in trained_again
    # The saved recipe says it, too, and is the same when it is read and saved again.
    saved = parse_recipe((tmp_path / "recipe.yaml").read_text(), "recipe.yaml")
    assert saved.to_yaml() == (tmp_path / "recipe.yaml").read_text()
    assert [entry.split(":")[0] for entry in saved.metadata["left_out"]] == ["MFACPruningModifier"]


def test_what_is_left_out_does_not_make_another_recipe() -> None:
    """A training goes on by the same text from elsewhere, and by what an earlier version has begun."""
    here, there = (recipe_config(parse_recipe(RECIPE, source, lenient=True)) for source in ("a.md", "/b/c.md"))
    compression = Compression(here)
    compression.check_same(there)
    compression.check_same(replace(there, raw={"recipe": there.raw["recipe"]}))
    assert read_raw(here.raw, "nncf_config.json").raw == here.raw
    with pytest.raises(UsageError, match="other settings"):
        compression.check_same(recipe_config(parse_recipe(RECIPE.replace("1e-3", "2e-3"), "a.md", lenient=True)))


def test_what_was_left_out_of_both_recipes_stays() -> None:
    staged = "a:\n  x_modifiers:\n    - !EpochRangeModifier {start_epoch: 0, end_epoch: 1}\n"
    texts = [f"__metadata__: {{left_out: [{name}]}}\n{staged}" for name in ("M", "N")]
    assert compose(*(parse_recipe(text, "r") for text in texts)).metadata["left_out"] == ["M", "N"]
