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
from tiny import tiny_batches, tiny_model

from demo.model import build_vocabulary, write_tokenizer
from nncf_transformers import Compression, excepthook
from nncf_transformers.commands import export_onnx
from nncf_transformers.commands.export_onnx import main
from nncf_transformers.config import parse_config
from nncf_transformers.errors import CompressionError, IntegrityError, UsageError
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
    assert kinds.count("QuantizeLinear") == kinds.count("DequantizeLinear") > 30


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
        (lambda f: change_config(f, architectures=["BertForMaskedLM"]), UsageError, "its task is fill-mask"),
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


def test_foreign_folder_stays(model: Path) -> None:
    note = model.parent / "deployment" / "note.txt"
    note.parent.mkdir()
    note.write_text("mine")
    with pytest.raises(UsageError, match="exists and is no export"):
        main(["--model_path", str(model), "--task", "qa"])
    assert note.read_text() == "mine"


def test_the_command_itself(tmp_path: Path) -> None:
    """The installed script where there is one, the module elsewhere: one line, and the exit code."""
    script = Path(sys.executable).with_name("export_onnx")
    command = [str(script)] if script.exists() else [sys.executable, "-m", export_onnx.__name__]
    command += ["--model_path", "nowhere", "--task", "qa"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    line = "error: --model_path nowhere: no such folder; name one that a model was saved to\n"
    assert (done.returncode, done.stderr) == (2, line)
