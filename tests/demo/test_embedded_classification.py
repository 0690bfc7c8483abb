"""embedded/run_glue.py and run_xnli.py on the tiny data.

As upstream's, they fetch data sets and metrics from the hub; stand-ins for `load_dataset` and `evaluate` keep
these tests off the network. What the overlay puts in their place is tested with the patches.
"""

import csv
import json
from types import SimpleNamespace

import datasets
import numpy as np
import pytest

from demo.pairs import LABELS

SHORT = [
    "--max_steps",
    2,
    "--max_seq_length",
    32,
    "--per_device_train_batch_size",
    8,
    "--use_cpu",
    "--report_to",
    "none",
]


def accuracy(*, predictions, references):
    return {"accuracy": float(np.mean(np.asarray(predictions) == np.asarray(references)))}


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


@pytest.fixture
def no_hub(monkeypatch):
    """A function that replaces what a script would fetch; it records what was asked for."""

    def replace(module, load_dataset=None):
        asked = []
        metric = SimpleNamespace(compute=accuracy)
        fake = SimpleNamespace(load=lambda *names, **_: asked.append(names) or metric)
        monkeypatch.setattr(module, "evaluate", fake)
        if load_dataset:
            monkeypatch.setattr(module, "load_dataset", load_dataset)
        return asked

    return replace


def test_glue_task(load_script, no_hub, demo_dir, tmp_path):
    folder, out = demo_dir / "glue" / "SST-2", tmp_path / "out"
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["negative", "positive"])}
    )

    def load_dataset(name, task, **_):
        assert (name, task) == ("nyu-mll/glue", "sst2")
        tables = {"train": rows(folder / "train.tsv"), "validation": rows(folder / "dev.tsv")}
        tables["test"] = [{"sentence": row["sentence"], "label": -1} for row in rows(folder / "test.tsv")]
        splits = {}
        for split, table in tables.items():
            columns = {
                "sentence": [row["sentence"] for row in table],
                "label": [int(row["label"]) for row in table],
            }
            splits[split] = datasets.Dataset.from_dict(columns, features=features)
        return datasets.DatasetDict(splits)

    model = ["--model_name_or_path", demo_dir / "model", "--task_name", "SST2", "--output_dir", out]
    module = load_script("run_glue", *model, "--do_train", "--do_eval", "--do_predict", *SHORT)
    asked = no_hub(module, load_dataset)
    module.main()
    assert asked == [("glue", "sst2")]
    results = json.loads((out / "all_results.json").read_text())
    assert 0 <= results["eval_accuracy"] <= 1 and results["eval_samples"] == 16
    lines = (out / "predict_results_sst2.txt").read_text().splitlines()
    assert lines[0] == "index\tprediction" and len(lines) == 17
    assert {line.split("\t")[1] for line in lines[1:]} <= {"negative", "positive"}
    assert json.loads((out / "config.json").read_text())["label2id"] == {"negative": 0, "positive": 1}


def test_glue_files_then_resume_and_refuse(load_script, no_hub, demo_dir, tmp_path, caplog):
    out, files = tmp_path / "out", []
    for split, flag in (("train", "--train_file"), ("dev", "--validation_file")):
        path = tmp_path / f"{split}.json"
        table = rows(demo_dir / "xnli" / "en" / f"{split}.tsv")
        path.write_text("".join(json.dumps(row) + "\n" for row in table))
        files += [flag, path]
    cache = ["--cache_dir", tmp_path / "cache"]
    arguments = [
        "--model_name_or_path",
        demo_dir / "model",
        "--do_train",
        "--do_eval",
        *files,
        *cache,
        *SHORT,
    ]
    for steps in (2, 4):
        module = load_script("run_glue", *arguments, "--output_dir", out, "--max_steps", steps)
        asked = no_hub(module)
        module.main()
        assert asked == [("accuracy",)]
        assert json.loads((out / "trainer_state.json").read_text())["global_step"] == steps
    assert f"Resuming training at {out / 'checkpoint-2'}" in caplog.text
    assert sorted(json.loads((out / "config.json").read_text())["label2id"]) == sorted(LABELS)

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("precious")
    module = load_script("run_glue", *arguments, "--output_dir", tmp_path / "full")
    with pytest.raises(module.InputError, match="not empty"):
        module.main()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task_name", "sst3"], "sst3 is unknown"),
        ([], "no data"),
        (["--train_file", "a.csv", "--validation_file", "b.json"], "all csv or all json"),
        (["--train_file", "a.csv", "--validation_file", "b.csv"], "a.csv does not exist"),
    ],
)
def test_glue_names_wrong_data_flags(load_script, tmp_path, flags, message):
    module = load_script("run_glue", "--model_name_or_path", "m", "--output_dir", tmp_path / "out", *flags)
    with pytest.raises(module.InputError, match=message):
        module.main()


def test_xnli(load_script, no_hub, demo_dir, tmp_path):
    out = tmp_path / "out"
    names = {"train": "train", "validation": "dev", "test": "test"}

    def load_dataset(name, language, split, **_):
        assert name == "xnli"
        table = rows(demo_dir / "xnli" / language / f"{names[split]}.tsv")
        columns = {name: [row[name] for row in table] for name in ("premise", "hypothesis", "label")}
        return datasets.Dataset.from_dict(columns).cast_column("label", datasets.ClassLabel(names=list(LABELS)))

    model = ["--model_name_or_path", demo_dir / "model", "--language", "en", "--output_dir", out]
    module = load_script("run_xnli", *model, "--do_train", "--do_eval", "--do_predict", *SHORT)
    asked = no_hub(module, load_dataset)
    module.main()
    assert asked == [("xnli",)]
    results = json.loads((out / "all_results.json").read_text())
    assert results["train_samples"] == 48
    assert {"eval_accuracy", "predict_accuracy"} <= results.keys()
    lines = (out / "predictions.txt").read_text().splitlines()
    assert len(lines) == 17 and {line.split("\t")[1] for line in lines[1:]} <= set(LABELS)
