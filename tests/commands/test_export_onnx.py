"""export_onnx: what it writes beside a model, and how it ends on a mistake."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_batches, tiny_model

from demo.model import build_vocabulary, write_tokenizer
from nncf_transformers import Compression, excepthook, export_model
from nncf_transformers.algorithms.layer_dropping import drop_layers
from nncf_transformers.commands import export_onnx
from nncf_transformers.commands.export_onnx import main
from nncf_transformers.config import parse_config
from nncf_transformers.config.model import LayerDroppingConfig
from nncf_transformers.deployment import QUESTION_ANSWERING, load_checkpoint
from nncf_transformers.errors import CompressionError, IntegrityError, UsageError
from nncf_transformers.export.openvino import write_ir
from nncf_transformers.runtimes import onnx_runtime

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["where", "is", "the", "river", "that", "ends", "in", "sea", "it", "starts", "behind", "the", "hill"]
ANSWERS = ("river", "sea", "hill")
QAS = [
    {
        "id": word,
        "question": f"where is the {word}",
        "answers": [{"text": word, "answer_start": " ".join(WORDS).index(word)}],
    }
    for word in ANSWERS
]
QUESTIONS = {"data": [{"title": "", "paragraphs": [{"context": " ".join(WORDS), "qas": QAS}]}]}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An INT8 checkpoint and data for it."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    model = tiny_model()
    config = {"algorithms": [{"algorithm": "quantization", "calibration_samples": 4}]}
    Compression(parse_config(config, "int8.json")).start(model, tiny_batches(model))
    model.save_pretrained(folder)
    write_tokenizer(folder, build_vocabulary(WORDS))
    return folder


@pytest.fixture
def model(original: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "place" / "model"
    shutil.copytree(original, folder)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> str:
    file = tmp_path / "data.json"
    file.write_text(json.dumps(QUESTIONS))
    return json.dumps({"validation_file": str(file)})


def operations(file: Path) -> list[str]:
    return [node.op_type for node in onnx.load(file).graph.node]


def weights(file: Path, kind: int) -> int:
    return sum(t.data_type == kind and len(t.dims) == 2 for t in onnx.load(file).graph.initializer)


def test_files(model: Path, data: str, caplog: pytest.LogCaptureFixture) -> None:
    words = ["--model_path", str(model), "--task", "Question_Answering", "--sequence_length", "100"]
    assert main([*words, "--finetuning_task", "squad"]) == 0
    assert "no recipe.yaml is stored there" in caplog.text
    deployment = model.parent / "deployment"
    kept = {
        "model.onnx",
        "openvino_model.xml",
        "openvino_model.bin",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert kept < {path.name for path in deployment.iterdir()}
    assert (deployment / "model.onnx").read_bytes() == (model / "model.onnx").read_bytes()
    config = json.loads((deployment / "config.json").read_text())
    assert (config["sequence_length"], config["finetuning_task"]) == (100, "squad")
    assert weights(model / "model.onnx", onnx.TensorProto.INT8) > 10
    # Once more, into the same places, with another name and samples.
    before = {path.name for path in model.parent.iterdir()}
    assert main([*words[:4], "--onnx_file_name", "int8.onnx", "--data_args", data, "--num_export_samples", "2"]) == 0
    assert {path.name for path in model.parent.iterdir()} == before
    assert sorted(path.name for path in deployment.glob("*.onnx")) == ["int8.onnx"]
    assert "sequence_length" not in json.loads((deployment / "config.json").read_text())


def test_samples_hold_values(model: Path, data: str) -> None:
    main(["--model_path", str(model), "--task", "qa", "--data_args", data, "--num_export_samples", "3"])
    run = onnx_runtime(model / "model.onnx")
    for number in range(3):
        inputs = dict(np.load(model / "sample-inputs" / f"inp-{number:04d}.npz"))
        outputs = dict(np.load(model / "sample-outputs" / f"out-{number:04d}.npz"))
        assert list(inputs) == ["input_ids", "attention_mask", "token_type_ids"]
        assert list(outputs) == ["start_logits", "end_logits"]
        assert all(array.shape == inputs["input_ids"].shape for array in [*inputs.values(), *outputs.values()])
        for expected, actual in zip(outputs.values(), run(inputs), strict=True):
            # INT8: what torch and ONNX Runtime round differently moves a logit by some steps.
            assert np.abs(expected - actual).mean() < 0.2 * expected.std()
    assert sorted(path.name for path in model.iterdir() if path.name.startswith(".")) == []


@pytest.mark.parametrize("opset", [14, 20])
def test_opset_and_floating_weights(opset: int, model: Path) -> None:
    main(["--model_path", str(model), "--task", "qa", "--opset", str(opset), "--no_convert_qat"])
    file = model / "model.onnx"
    assert onnx.load(file).opset_import[0].version == opset
    assert weights(file, onnx.TensorProto.INT8) == 0 and weights(file, onnx.TensorProto.FLOAT) > 10
    kinds = operations(file)
    assert kinds.count("QuantizeLinear") == kinds.count("DequantizeLinear") > 20


RECIPE = """
pruning_modifiers:
  - !MagnitudePruningModifier
    start_epoch: 0.0
    end_epoch: 2.0
    update_frequency: 0.5
    init_sparsity: 0.0
    final_sparsity: 0.5
    params: ["re:.*intermediate.dense.weight"]
quantization_modifiers:
  - !QuantizationModifier
    start_epoch: 1.0
"""


def test_one_shot(tmp_path: Path, data: str) -> None:
    folder, recipe = tmp_path / "fp32", tmp_path / "recipe.yaml"
    tiny_model().save_pretrained(folder)
    write_tokenizer(folder, build_vocabulary(WORDS))
    recipe.write_text(RECIPE)
    main(["--model_path", str(folder), "--task", "qa", "--one_shot", str(recipe), "--data_args", data])
    graph = onnx.load(folder / "model.onnx").graph
    integers = [onnx.numpy_helper.to_array(t) for t in graph.initializer if t.data_type == onnx.TensorProto.INT8]
    zeros = [(array == 0).mean() for array in integers if sorted(array.shape) == [32, 64]]
    assert len(zeros) == 4 and sum(share >= 0.5 for share in zeros) == 2
    # The checkpoint stays what it was.
    assert not (folder / "nncf_config.json").exists()


def test_own_recipe(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    (model / "recipe.yaml").write_text(RECIPE)
    caplog.set_level("INFO")
    main(["--model_path", str(model), "--task", "qa"])
    assert "recipe.yaml: a recipe of 1 stage was applied to the model" in caplog.text


def test_other_data(tmp_path: Path) -> None:
    folder = tmp_path / "classes"
    tiny_model(head="classes").save_pretrained(folder)
    write_tokenizer(folder, build_vocabulary(WORDS))
    table = tmp_path / "dev.tsv"
    table.write_text("sentence\tlabel\nthe river\t0\nit ends in the sea\t1\n")
    words = ["--model_path", str(folder), "--task", "glue", "--num_export_samples", "2", "--data_args"]
    main([*words, json.dumps({"validation_file": str(table)})])
    inputs, outputs = (np.load(next((folder / f"sample-{k}").glob("*-0001.npz"))) for k in ("inputs", "outputs"))
    assert inputs["input_ids"].shape == (1, 7) and outputs["logits"].shape == (1, 2)
    table.write_text("words\tlabel\na\t0\n")
    with pytest.raises(UsageError, match="has the columns words, label; say which holds the text"):
        main([*words, json.dumps({"validation_file": str(table)})])
    main([*words[:4], "--data_args", json.dumps({"validation_file": str(table), "text_column": "words"})])


def change_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04N.")


def config_is_a_folder(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def without_tokenizer(folder: Path) -> None:
    for name in ("vocab.txt", "tokenizer.json"):
        (folder / name).unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda f: (f / "config.json").unlink(), UsageError, "config.json: no such file"),
        (lambda f: (f / "config.json").write_text("{"), IntegrityError, "not valid JSON"),
        (lambda f: change_config(f, model_type="foo"), IntegrityError, "no model can be made of it"),
        (
            lambda f: change_config(f, intermediate_size=48),
            IntegrityError,
            r"has the shape \(48,.* but in the weights another",
        ),
        (lambda f: change_config(f, num_hidden_layers=3), IntegrityError, "the weights have no bert.encoder.layer.2"),
        (
            lambda f: change_config(f, num_hidden_layers=1),
            IntegrityError,
            r"the weights have bert.encoder.layer.1.*, but",
        ),
        (lambda f: change_config(f, architectures=["BertForMaskedLM"]), UsageError, "its task is fill-mask"),
        (lambda f: change_config(f, architectures=3), IntegrityError, "config.json: architectures is 3, not a list"),
        (lambda f: change_config(f, architectures="Bert"), IntegrityError, "architectures is 'Bert', not a list"),
        (lambda f: change_config(f, num_attention_heads=0), IntegrityError, "no model can be made of it"),
        (lambda f: change_config(f, vocab_size=-1), IntegrityError, "no model can be made of it"),
        (lambda f: change_config(f, dtype="nope"), IntegrityError, "no model can be made of it"),
        (lambda f: change_config(f, max_position_embeddings="128"), IntegrityError, "is '128', not a number"),
        (config_is_a_folder, UsageError, "config.json: cannot be read"),
        (pickled, UsageError, "pytorch_model.bin, a pickle, which may run any code .* convert it first"),
        (lambda f: (f / "model.safetensors").unlink(), CompressionError, "model.safetensors"),
        (truncate, IntegrityError, "damaged or truncated"),
        (lambda f: (f / "nncf_config.json").unlink(), IntegrityError, "nncf_config.json is missing"),
        (
            lambda f: [(f / name).unlink(missing_ok=True) for name in ("vocab.txt", "tokenizer.json")],
            UsageError,
            "has no tokenizer",
        ),
    ],
)
def test_damaged_models(
    damage: Callable[[Path], Any], error: type[Exception], message: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(model)
    before = sorted(model.rglob("*"))
    with pytest.raises(error, match=message) as caught:
        main(["--model_path", str(model), "--task", "qa"])
    assert "\n" not in str(caught.value) and excepthook.as_user_error(caught.value, caught.tb) is caught.value
    assert sorted(model.rglob("*")) == before and not (model.parent / "deployment").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "question-answring"], 'did you mean "question-answering"'),
        (["--task", "glue"], "which is not for text-classification; its task is question-answering"),
        (["--task", "qa", "--sequence_length", "129"], "takes at most 128 tokens, sequence_length is 129"),
        (["--task", "qa", "--opset", "13"], "opset 13: give one from 14 to 20"),
        (["--task", "qa", "--trust_remote_code"], "code that comes with a model is never run"),
        (["--task", "qa", "--onnx_file_name", "a/b.onnx"], "must be a plain name"),
        (["--task", "qa", "--num_export_samples", "2"], "--num_export_samples: needs data"),
        (["--task", "qa", "--num_export_samples", "-1"], "must not be negative"),
        (["--task", "qa", "--one_shot", "r.yaml"], "--one_shot: needs data"),
        (["--task", "qa", "--data_args", "{"], "--data_args: not valid JSON"),
        (["--task", "qa", "--data_args", '{"dataset_name": "squad"}'], "dataset_name is not known here"),
        (["--task", "qa", "--data_args", '{"text_column": "a"}'], "names no file"),
        (["--task", "qa", "--data_args", '{"train_file": "nowhere.json"}'], "nowhere.json"),
        (["--task", "qa", "--num_export_samples", "4", "--data_args", "DATA"], "the data has 3; lower it"),
        (["--task", "qa", "--deployment_dir", "MODEL"], "would replace the model itself"),
        (["--task", "qa", "--deployment_dir", "MODEL/.."], "would replace the model itself"),
        (["--task", "qa", "--deployment_dir", "nowhere/there"], "no such folder"),
    ],
)
def test_mistakes(words: list[str], message: str, model: Path, data: str) -> None:
    before = sorted(model.parent.rglob("*"))
    words = [word.replace("MODEL", str(model)).replace("DATA", data) for word in words]
    with pytest.raises(UsageError, match=message):
        main(["--model_path", str(model), *words])
    assert sorted(model.parent.rglob("*")) == before


def plain_model(folder: Path, **settings: Any) -> Path:
    tiny_model(**settings).save_pretrained(folder)
    write_tokenizer(folder, build_vocabulary(WORDS))
    return folder


FAMILIES = ["bert", "roberta", "xlm-roberta", "distilbert", "albert", "electra", "mobilebert", "deberta-v2"]


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_that_would_be_left_out(family: str, tmp_path: Path) -> None:
    folder = plain_model(tmp_path / "model", family=family)
    key = "n_layers" if family == "distilbert" else "num_hidden_layers"
    if family == "albert":
        # Its layers share their weights; what it can lack is a part of the embedding.
        key = "num_hidden_groups"
        config = json.loads((folder / "config.json").read_text())
        assert config[key] == 1
        tiny_model(family=family, num_hidden_groups=2).save_pretrained(folder)
    assert load_checkpoint(folder, QUESTION_ANSWERING) is not None
    change_config(folder, **{key: 1})
    with pytest.raises(
        IntegrityError, match=r"the weights have \S*layer\S*\.1\..*, but the model of config.json has no"
    ):
        load_checkpoint(folder, QUESTION_ANSWERING)


@pytest.mark.parametrize("dropped", [False, True])
def test_heads_that_are_not_used(dropped: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = plain_model(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    other = {name: torch.ones(2) for name in ("cls.seq_relationship.bias", "bert.pooler.dense.bias")}
    save_file(weights | other | {"bert.embeddings.position_ids": torch.arange(128)[None]}, folder / "model.safetensors")
    if dropped:
        model = load_checkpoint(folder, QUESTION_ANSWERING)
        drop_layers(model, LayerDroppingConfig("r.yaml", ("bert.encoder.layer.0",)))
        model.save_pretrained(folder)
        caplog.clear()
    load_checkpoint(folder, QUESTION_ANSWERING)
    assert ("the weights have bert.pooler.dense.bias and 1 more, which is no part of a" in caplog.text) != dropped


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["NOTES.txt", "model.safetensors", "notes/more.txt"])
@pytest.mark.parametrize("exported", [False, True])
def test_what_no_export_wrote_stays(exported: bool, name: str, model: Path) -> None:
    words = ["--model_path", str(model), "--task", "qa"]
    deployment = model.parent / "deployment"
    if exported:
        main(words)
    note = deployment / name
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text("mine")
    before = snapshot(model.parent)
    with pytest.raises(
        UsageError, match=f"holds {name}, which is no part of an export; move it, or name another folder"
    ):
        main(words)
    with pytest.raises(UsageError, match=f"holds something else than an export, {name}; move it, or name another"):
        export_model(tiny_model(), to_openvino=str(deployment))
    assert snapshot(model.parent) == before
    note.unlink()
    main(words)


def test_what_is_put_there_meanwhile_stays(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = model.parent / "ir"
    target.mkdir()

    def write(*arguments: Any) -> None:
        write_ir(*arguments)
        (target / "NOTES.txt").write_text("mine")

    monkeypatch.setattr("nncf_transformers.export.write_ir", write)
    with pytest.raises(UsageError, match="NOTES.txt"):
        export_model(tiny_model(), to_onnx=str(model.parent / "m.onnx"), to_openvino=str(target))
    assert snapshot(target) == {"NOTES.txt": b"mine"} and {p.name for p in model.parent.iterdir()} == {"model", "ir"}


def test_an_ir_that_cannot_be_put_there_leaves_the_old_one(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--model_path", str(model), "--task", "qa"]
    main(words)
    deployment = model.parent / "deployment"
    before, rename = snapshot(deployment), Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.name == "ir":
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(CompressionError, match="cannot be written"):
        main(words)
    assert snapshot(deployment) == before


def test_one_deployment_a_model(model: Path) -> None:
    """It is replaced by the model that it is of, also after a training; by another only if it is none's, and named."""
    words, deployment = ["--task", "qa", "--model_path"], model.parent / "deployment"
    main([*words, str(model)])
    other = plain_model(model.parent / "other", seed=1)
    before = snapshot(model.parent)
    for flags in ([], ["--deployment_dir", str(deployment)]):
        with pytest.raises(UsageError, match=r"deployment: was made from another model, \.\./model.* --deployment_dir"):
            main([*words, str(other), *flags])
    assert snapshot(model.parent) == before
    main([*words, str(other), "--deployment_dir", str(model.parent / "second")])
    shutil.rmtree(model)
    plain_model(model, seed=2)
    main([*words, str(model)])
    assert snapshot(deployment)["openvino_model.bin"] != before["deployment/openvino_model.bin"]
    # Both are moved together.
    moved = model.parent.rename(model.parent.with_name("moved"))
    main([*words, str(moved / "model")])
    # One that a training wrote, by name only; and one from before the files were written down.
    export_model(tiny_model(), to_openvino=str(moved / "third"))
    for target in ("deployment", "third"):
        report = json.loads((moved / target / "parity.json").read_text())
        kept = {key: value for key, value in report.items() if key not in ("files", "source")}
        (moved / target / "parity.json").write_text(json.dumps(kept))
    with pytest.raises(UsageError, match="does not say which model it was made from"):
        main([*words, str(moved / "model")])
    main([*words, str(moved / "model"), "--deployment_dir", str(moved / "third")])


def test_samples_replace_samples_only(model: Path, data: str) -> None:
    words = ["--model_path", str(model), "--task", "qa", "--data_args", data, "--num_export_samples", "1"]
    (model / "sample-outputs").mkdir()
    (model / "sample-outputs" / "mine.npz").write_text("mine")
    before = snapshot(model.parent)
    with pytest.raises(UsageError, match=r"mine.npz: is no sample, and --num_export_samples replaces its folder"):
        main(words)
    assert snapshot(model.parent) == before


def test_an_onnx_file_in_the_folder_of_the_ir(tmp_path: Path) -> None:
    (tmp_path / "ir").mkdir()
    with pytest.raises(UsageError, match="which is replaced whole; move one out"):
        export_model(tiny_model(), to_onnx=str(tmp_path / "ir" / "m.onnx"), to_openvino=str(tmp_path / "ir"))


def test_the_command_itself(tmp_path: Path) -> None:
    """The installed script where there is one, the module elsewhere: one line, and the exit code."""
    script = Path(sys.executable).with_name("export_onnx")
    command = [str(script)] if script.exists() else [sys.executable, "-m", export_onnx.__name__]
    command += ["--model_path", "nowhere", "--task", "qa"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    line = "error: --model_path nowhere: no such folder; name one that a model was saved to\n"
    assert (done.returncode, done.stderr) == (2, line)
