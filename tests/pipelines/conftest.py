"""Deployed models: one that was trained, and random ones of the other tasks."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pipeline_models import new_model, quantize, save, train
from transformers import AutoModelForTokenClassification, AutoTokenizer

from nncf_transformers import export_model
from nncf_transformers.commands import export_onnx


@pytest.fixture(scope="session")
def qa_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An INT8 checkpoint that knows where names and places stand in a text, and its deployment folder beside it."""
    folder = tmp_path_factory.mktemp("qa") / "model"
    model = new_model("qa", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    tokenizer = AutoTokenizer.from_pretrained(save(model, folder))
    assert train(model, tokenizer, 100) < 0.05
    save(quantize(model, tokenizer), folder)
    assert export_onnx.main(["--model_path", str(folder), "--task", "qa", "--sequence_length", "64"]) == 0
    return folder


@pytest.fixture(scope="session")
def qa_folder(qa_checkpoint: Path) -> Path:
    return qa_checkpoint.parent / "deployment"


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """INT8 exports of random models, by the name of their head."""
    made: dict[str, Path] = {}

    def deployed(head: str) -> Path:
        if head not in made:
            folder = made[head] = tmp_path_factory.mktemp(head) / "ir"
            labels = {"id2label": {0: "O", 1: "PER", 2: "LOC"}, "label2id": {"O": 0, "PER": 1, "LOC": 2}}
            if head == "tokens":
                config = new_model("masked").config
                config.update(labels)
                model = AutoModelForTokenClassification.from_config(config).eval()
            else:
                model = new_model(head, **(labels if head == "classes" else {}))
            tokenizer = AutoTokenizer.from_pretrained(save(model, folder.with_name("plain")))
            model = quantize(model, tokenizer)
            export_model(model, to_openvino=str(folder), tokenizer=tokenizer, onnx_beside_ir="model.onnx")
        return made[head]

    return deployed


@pytest.fixture
def broken(qa_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the question-answering model with another content in some files; None leaves one out."""

    def broken(**files: bytes | None) -> Path:
        copy = tmp_path / "broken"
        shutil.copytree(qa_folder, copy)
        for name, content in files.items():
            path = copy / name.replace("__", ".")
            path.unlink(missing_ok=True) if content is None else path.write_bytes(content)
        return copy

    return broken
