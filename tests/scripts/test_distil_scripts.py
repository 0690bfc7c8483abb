"""train_qa, pack_and_distill and train_qcemb on a tiny model: the whole way, interruptions, processes, mistakes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from scripts.conftest import ROOT, Result
from transformers import AutoModel

from nncf_transformers.training import embeddings, pack, qa
from nncf_transformers.training.run import Run

pytestmark = pytest.mark.slow

PACK = "num_hidden_layers:1,ff_iter_num:3,num_attention_heads:2,hidden_size:32,pack_emb:1,hidden_act:orig"
MAINS = {"train_qa": qa.main, "pack_and_distill": pack.main, "train_qcemb": embeddings.main}
# Seed command lines, but for folders and budgets.
QA = ["--freeze_list=embedding", "--supervision_weight=0", "--max_seq_length_q=16", "--doc_stride=16"]
INT8 = ["--freeze_list=none", "--supervision_weight=0.02", "--max_seq_length_q=16"]
MINING = ["--hnm_batch_size=8", "--hnm_hist_num=4", "--hnm_num=8"]


def command(data: Path, student: Path, out: Path, *more: Any, epochs: float = 1) -> list[str]:
    """The flags that all three scripts need."""
    squad = data / "squad"
    return [
        f"--squad_train_data={squad / 'train-v1.1.json'}",
        f"--squad_dev_data={squad / 'dev-v1.1.json'}",
        f"--model_student={student}",
        f"--output_dir={out}",
        f"--num_train_epochs={epochs}",
        "--max_seq_length_c=96",
        "--per_gpu_train_batch_size=8",
        "--total_train_batch_size=16",
        "--no_cuda",
        *map(str, more),
    ]


@pytest.fixture(scope="module")
def int8(config: Path) -> str:
    return f"--nncf_config={config}"


@pytest.fixture(scope="module")
def answers(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers questions, from the seed's first command line."""
    out = tmp_path_factory.mktemp("qa") / "large"
    assert qa.main("", command(data, data / "model", out, *QA)) == 0
    return out


@pytest.fixture(scope="module")
def vectors(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that embeds texts."""
    out = tmp_path_factory.mktemp("emb") / "large"
    flags = [*MINING, "--model_teacher", data / "model", "--supervision_weight=0.02", "--max_seq_length_q=32"]
    loss = "--loss_cfg=triplet_num:2,emb_loss:none"
    assert embeddings.main("", command(data, data / "model", out, "--freeze_list=embedding", loss, *flags)) == 0
    return out


def check_folder(folder: Path, architecture: str, outputs: list[str]) -> None:
    """A finished training: a model, its tokenizer, its exports, its parameters, and no state to go on from."""
    import onnx

    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == [architecture]
    graph = onnx.load(folder / "model.onnx").graph
    assert [value.name for value in graph.input] == ["input_ids", "attention_mask", "token_type_ids"]
    assert [value.name for value in graph.output] == outputs
    # Any length: neither that of a question nor that of a context.
    assert [d.dim_param for d in graph.input[0].type.tensor_type.shape.dim] == ["batch", "sequence"]
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "tokenizer.json", "openvino", "training_args.txt", "tensorboard"} <= names
    assert not [name for name in names if "resume-" in name]


def test_answers_from_large_to_packed_to_int8(
    data: Path, answers: Path, int8: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check_folder(answers, "BertForQuestionAnswering", ["start_logits", "end_logits"])
    before, after = (load_file(folder / "model.safetensors") for folder in (data / "model", answers))
    # --freeze_list=embedding
    assert before["embeddings.word_embeddings.weight"].equal(after["bert.embeddings.word_embeddings.weight"])
    assert not before["encoder.layer.0.output.dense.weight"].equal(after["bert.encoder.layer.0.output.dense.weight"])

    small = tmp_path / "small"
    flags = [
        "--model_teacher",
        answers,
        f"--pack_cfg={PACK}",
        "--loss_weight_alpha=1.5",
        "--learning_rate_for_tune=1e-3",
    ]
    assert pack.main("", command(data, answers, small, "--max_seq_length_q=16", "--doc_stride=16", *flags)) == 0
    check_folder(small, "BertForQuestionAnswering", ["start_logits", "end_logits"])
    config = json.loads((small / "config.json").read_text())
    assert (config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"]) == (32, 1, 2)
    assert (small / "hidden_transforms.safetensors").is_file() and (small / "unmerged" / "config.json").is_file()
    assert {path.name for path in small.glob("checkpoint-*")} == {"checkpoint-02", "checkpoint-03", "checkpoint-04"}
    assert "layer 0 heads_to_prune" in caplog.text

    # The last stage alone, on the weights that were not merged.
    again = tmp_path / "again"
    assert (
        pack.main("", command(data, small / "unmerged", again, "--max_seq_length_q=16", "--doc_stride=16", *flags)) == 0
    )
    assert "model already packed" in caplog.text
    assert [path.name for path in again.glob("checkpoint-*")] == ["checkpoint-04"]

    quantized = tmp_path / "int8"
    flags = ["--model_teacher", answers, "--kd_weight=1", int8, "--doc_stride=16"]
    assert qa.main("", command(data, small, quantized, *INT8, *flags)) == 0
    check_folder(quantized, "BertForQuestionAnswering", ["start_logits", "end_logits"])
    sizes = [(folder / "openvino" / "openvino_model.bin").stat().st_size for folder in (answers, small, quantized)]
    assert sizes[0] > sizes[1] > 2 * sizes[2]
    for text in ("original f1", "quantized f1", "checkpoint-00-01 f1", "checkpoint-01-01 f1", "final result f1"):
        assert text in caplog.text
    assert "hidden" in caplog.text


def test_embeddings_from_large_to_packed_to_int8(
    data: Path, vectors: Path, int8: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check_folder(vectors, "BertModelEMB", ["embedding"])
    small, quantized = tmp_path / "small", tmp_path / "int8"
    flags = ["--model_teacher", vectors, f"--pack_cfg={PACK}", "--max_seq_length_q=32"]
    assert pack.main("", command(data, vectors, small, *flags)) == 0
    check_folder(small, "BertModelEMB", ["embedding"])
    # The embedding stays as long as the large model's, so that one index serves both sizes of vectors.
    assert json.loads((small / "config.json").read_text())["embedding_dim"] == 128
    flags = ["--model_teacher", vectors, *INT8, *MINING, "--loss_cfg=triplet_num:1,emb_loss:L2", int8]
    assert embeddings.main("", command(data, small, quantized, *flags)) == 0
    check_folder(quantized, "BertModelEMB", ["embedding"])
    assert "mining: 3 contexts a step" in caplog.text and "top1_neg5" in caplog.text


class Interrupted(Exception):
    """What stops a training in the middle."""


@pytest.mark.parametrize(("script", "after"), [("pack", 1), ("pack", 4), ("pack", 6), ("qa", 1), ("qa", 9), ("emb", 7)])
def test_what_was_interrupted_goes_on_as_if_it_had_not_been(
    script: str, after: int, data: Path, answers: Path, int8: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def words(out: Path) -> list[str]:
        if script == "pack":
            flags = ["--model_teacher", answers, f"--pack_cfg={PACK}", "--max_seq_length_q=16", "--doc_stride=16"]
            return command(data, answers, out, "--save_steps=2", *flags)
        if script == "qa":
            return command(data, answers, out, *QA, int8, "--save_steps=1")
        return command(data, data / "model", out, *MINING, int8, "--save_steps=1", "--max_seq_length_q=32")

    main = {"pack": pack.main, "qa": qa.main, "emb": embeddings.main}[script]
    module = {"pack": pack, "qa": qa, "emb": embeddings}[script]
    # The result is compared as it is saved; exporting it takes most of the time.
    monkeypatch.setattr(module, "write_result", lambda model, tokenizer, out, *_: model.save_pretrained(out))
    assert main("", words(tmp_path / "whole")) == 0

    save, saved = Run.save, []

    def interrupt(self: Run, *args: Any) -> None:
        save(self, *args)
        saved.append(1)
        if len(saved) == after:
            raise Interrupted

    monkeypatch.setattr(Run, "save", interrupt)
    with pytest.raises(Interrupted):
        main("", words(tmp_path / "parts"))
    assert len([*(tmp_path / "parts").glob("resume-*")]) == 1
    assert main("", words(tmp_path / "parts")) == 0
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert [name for name in whole if not whole[name].equal(parts[name])] == []


def test_a_killed_process_leaves_a_state_to_go_on_from(data: Path, answers: Path, tmp_path: Path) -> None:
    flags = ["--model_teacher", answers, f"--pack_cfg={PACK}", "--max_seq_length_q=16", "--doc_stride=16"]
    words = command(data, answers, tmp_path / "out", "--save_steps=1", *flags, epochs=200)
    settings = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    script = str(ROOT / "scripts" / "pack_and_distill.py")
    process = subprocess.Popen([sys.executable, script, *words], stderr=subprocess.DEVNULL, env=settings)
    deadline = time.monotonic() + 120
    while not [*(tmp_path / "out").glob("resume-02-*")]:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run = Run.of(pack._parse("", words))
    assert run.resumed_stage == 2 and run.resumed_model is not None
    AutoModel.from_pretrained(run.resumed_model)


def test_processes_share_the_work(
    data: Path, vectors: Path, int8: str, run: Callable[..., Result], tmp_path: Path
) -> None:
    flags = [*MINING, "--max_seq_length_q=32", "--model_teacher", vectors, "--supervision_weight=0.02", int8]
    words = command(data, vectors, tmp_path / "out", *flags)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = run(*launcher, ROOT / "scripts" / "train_qcemb.py", *words)
    check_folder(tmp_path / "out", "BertModelEMB", ["embedding"])
    # Each says nothing twice.
    assert done.err.count("checkpoint final result") == 1


MISTAKES = [
    ("train_qa", ["--loss_cfg=x", "--squad_dev_data=none.json"], "--squad_dev_data none.json: no such file"),
    ("train_qa", ["--total_train_batch_size=4"], "--total_train_batch_size 4: is less than"),
    ("train_qa", ["--mixed_precision=fp16"], "--mixed_precision fp16: needs a GPU"),
    (
        "pack_and_distill",
        [f"--pack_cfg={PACK}", "--total_train_batch_size_for_tune=4"],
        "--total_train_batch_size_for_tune 4: is less than",
    ),
    ("train_qa", ["--max_seq_length_c=4000"], "has 128 positions only"),
    ("train_qa", ["--max_seq_length_q=94"], "leave no token for the context"),
    ("train_qa", ["--doc_stride=90"], "--doc_stride 90"),
    ("train_qa", ["--learning_rate=0"], "--learning_rate 0.0: must be greater than 0"),
    ("train_qa", ["--nncf_config=nowhere.json"], "nowhere.json"),
    ("train_qa", ["--freeze_list=bert,qa_outputs"], "freezes every parameter"),
    ("train_qa", ["--model_student=nowhere/at/all"], "--model_student nowhere/at/all"),
    ("train_qcemb", ["--loss_cfg=triplet_num:3"], "--loss_cfg triplet_num:3"),
    ("train_qcemb", ["--loss_cfg=margin:3"], "known are triplet_num, emb_loss"),
    ("pack_and_distill", ["--pack_cfg=layers:3"], "layers"),
    ("pack_and_distill", ["--pack_cfg=hidden_size:4096"], "4096"),
    ("pack_and_distill", ["--pack_cfg=num_hidden_layers:9"], "9"),
    ("pack_and_distill", ["--model_student=MODEL"], "train it by train_qa or train_qcemb first"),
]


@pytest.mark.parametrize(("script", "words", "message"), MISTAKES, ids=lambda value: str(value)[:30])
def test_a_mistake_is_named_before_anything_is_trained(
    script: str, words: list[str], message: str, data: Path, answers: Path, tmp_path: Path
) -> None:
    from nncf_transformers.excepthook import as_user_error

    student = data / "model" if script == "train_qcemb" else answers
    short = {"train_qa": ["--doc_stride=16", "--supervision_weight=0"], "pack_and_distill": ["--doc_stride=16"]}
    more = [word.replace("MODEL", str(data / "model")) for word in words]
    teacher = ["--model_teacher", answers] if script == "pack_and_distill" else []
    with pytest.raises(Exception) as caught:
        MAINS[script](
            "",
            command(data, student, tmp_path / "out", "--max_seq_length_q=16", *short.get(script, []), *teacher, *more),
        )
    error = as_user_error(caught.value, caught.tb)
    assert error is not None and message in str(error), repr(caught.value)
    assert not [*tmp_path.glob("out/resume-*")] and not (tmp_path / "out" / "config.json").exists()


def test_a_finished_folder_is_not_trained_again(data: Path, answers: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = (answers / "model.safetensors").read_bytes()
    assert qa.main("", command(data, data / "model", answers, *QA)) == 0
    assert "holds the result of this command already" in caplog.text
    with pytest.raises(Exception, match="other parameters"):
        qa.main("", command(data, data / "model", answers, *QA, "--learning_rate=1"))
    assert (answers / "model.safetensors").read_bytes() == weights
