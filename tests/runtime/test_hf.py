"""The Trainer layer: compression on, compression off, and everything around a training run."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import tiny_batches, tiny_model

from nncf_transformers.checkpoint import STATE_FILE
from nncf_transformers.compression import Compression
from nncf_transformers.errors import IntegrityError, UsageError
from nncf_transformers.hf import Trainer, TrainingArguments


def dataset(rows: int = 32) -> Dataset:
    model = tiny_model(head="classes")
    batches = tiny_batches(model, count=rows // 4)
    return Dataset.from_list(
        [{name: tensor[i].tolist() for name, tensor in batch.items()} for batch in batches for i in range(4)]
    ).rename_column("labels", "label")


def trainer(out: Path, trainer_class: Any = Trainer, model: Any = None, **arguments: Any) -> Any:
    settings = {
        "output_dir": str(out),
        "do_train": True,
        "use_cpu": True,
        "report_to": "none",
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_steps": 2,
        "disable_tqdm": True,
        "seed": 3,
    }
    arguments_class = TrainingArguments if trainer_class is Trainer else transformers.TrainingArguments
    model = model if model is not None else tiny_model(head="classes")
    return trainer_class(
        model=model,
        args=arguments_class(**(settings | arguments)),
        train_dataset=dataset(),
        eval_dataset=dataset(8),
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert not [name for name in left if not torch.equal(left[name], right[name])]


def test_without_flags_it_is_upstreams_trainer(tmp_path: Path) -> None:
    histories = []
    for name, kind in (("ours", Trainer), ("theirs", transformers.Trainer)):
        run = trainer(tmp_path / name, kind)
        run.train()
        run.save_model()
        noise = ("train_runtime", "train_samples_per_second", "train_steps_per_second")
        histories.append([{k: v for k, v in e.items() if k not in noise} for e in run.state.log_history])
    assert histories[0] == histories[1]
    assert_equal(weights(tmp_path / "ours"), weights(tmp_path / "theirs"))
    files = [sorted(p.name for p in (tmp_path / n).rglob("*") if p.is_file()) for n in ("ours", "theirs")]
    assert files[0] == files[1]


def test_arguments_leave_no_trace_without_flags(tmp_path: Path) -> None:
    ours = TrainingArguments(output_dir=str(tmp_path), logging_dir="x")
    theirs = transformers.TrainingArguments(output_dir=str(tmp_path), logging_dir="x")
    loaded = pickle.loads(pickle.dumps(ours))
    assert type(loaded) is transformers.TrainingArguments
    states = [{k: v for k, v in vars(a).items() if k != "distributed_state"} for a in (loaded, theirs)]
    assert states[0] == states[1] and vars(loaded).keys() == vars(theirs).keys()
    assert ours.to_dict() == theirs.to_dict()


def test_arguments_load_without_this_package(tmp_path: Path, int8_config: Path) -> None:
    ours = TrainingArguments(output_dir=str(tmp_path), nncf_config=str(int8_config))
    loaded = pickle.loads(pickle.dumps(ours))
    assert type(loaded) is transformers.TrainingArguments
    assert loaded.nncf_config == str(int8_config)


def test_resume_is_bit_for_bit(tmp_path: Path, int8_config: Path) -> None:
    whole = trainer(tmp_path / "whole", nncf_config=str(int8_config))
    whole.train()
    whole.save_model()
    part = trainer(tmp_path / "part", nncf_config=str(int8_config))
    part.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    part.save_model()
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "part"))
    # The flag is not needed to resume: the checkpoint knows that it is compressed.
    again = trainer(tmp_path / "again")
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    again.save_model()
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "again"))


def test_resume_finds_the_last_checkpoint(tmp_path: Path, int8_config: Path) -> None:
    trainer(tmp_path, nncf_config=str(int8_config)).train()
    run = trainer(tmp_path, nncf_config=str(int8_config), max_steps=5)
    run.train(resume_from_checkpoint=True)
    assert run.state.global_step == 5 and Compression.of(run.model) is not None


def test_uncompressed_checkpoint_cannot_be_resumed_with_compression(tmp_path: Path, int8_config: Path) -> None:
    trainer(tmp_path).train()
    with pytest.raises(UsageError, match=r"checkpoint-2: was trained without compression"):
        trainer(tmp_path / "2", nncf_config=str(int8_config)).train(str(tmp_path / "checkpoint-2"))


def test_checkpoint_of_another_compression_cannot_be_resumed(tmp_path: Path, int8_config: Path) -> None:
    trainer(tmp_path / "a", nncf_config=str(int8_config)).train()
    fewer = tmp_path / "fewer.json"
    settings = {"algorithm": "quantization", "calibration_samples": 8, "ignored_scopes": ["classifier"]}
    fewer.write_text(json.dumps({"algorithms": [settings]}))
    trainer(tmp_path / "b", nncf_config=str(fewer)).train()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "a" / "checkpoint-4")
    with pytest.raises(UsageError, match="checkpoint-2: is compressed in another way"):
        trainer(tmp_path / "c", model=model).train(str(tmp_path / "b" / "checkpoint-2"))
    with pytest.raises(UsageError, match="no such folder"):
        trainer(tmp_path / "c").train(str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    "flag", [{"gradient_checkpointing": True}, {"save_safetensors": False}, {"torch_compile": True}]
)
def test_what_cannot_be_combined(tmp_path: Path, int8_config: Path, flag: dict[str, bool]) -> None:
    with pytest.raises(UsageError, match="drop "):
        trainer(tmp_path, nncf_config=str(int8_config), **flag)


def test_checkpoint_evaluates_as_in_memory(tmp_path: Path, int8_config: Path) -> None:
    run = trainer(tmp_path / "a", nncf_config=str(int8_config))
    run.train()
    run.save_model()
    expected = run.evaluate()["eval_loss"]
    assert (tmp_path / "a" / STATE_FILE).is_file()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "a")
    reloaded = trainer(tmp_path / "b", model=model, do_train=False, nncf_config=str(int8_config))
    assert reloaded.evaluate()["eval_loss"] == expected


def test_best_model_comes_back(tmp_path: Path, int8_config: Path) -> None:
    # The learning rate is absurd on purpose: the first checkpoint is the best.
    run = trainer(
        tmp_path,
        nncf_config=str(int8_config),
        learning_rate=0.5,
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
    )
    run.add_callback(transformers.EarlyStoppingCallback(early_stopping_patience=1))
    run.train()
    best = Path(run.state.best_model_checkpoint)
    run.save_model()
    assert_equal(weights(tmp_path), weights(best))


def test_scalars_reach_tensorboard(tmp_path: Path, int8_config: Path) -> None:
    run = trainer(tmp_path, nncf_config=str(int8_config), report_to="tensorboard", logging_dir=str(tmp_path / "tb"))
    run.train()
    events = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert [e.value for e in events.Scalars("train/compression/quantizers")] == [31.0] * 4
    ranges = [e.value for e in events.Scalars("train/compression/activation_range")]
    assert len(set(ranges)) == 4, "the ranges are trained"


def test_gradient_accumulation(tmp_path: Path, int8_config: Path) -> None:
    # Dropout off and no decay: four rows at once, or twice two, are the same step up to rounding.
    model = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    results = []
    for rows, accumulate in ((4, 1), (2, 2)):
        run = trainer(
            tmp_path / str(rows),
            model=tiny_model(head="classes", **model),
            nncf_config=str(int8_config),
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=accumulate,
            max_steps=1,
            optim="sgd",
        )
        run.train()
        results.append(dict(run.model.named_parameters()))
    for name, parameter in results[0].items():
        torch.testing.assert_close(parameter, results[1][name], rtol=1e-4, atol=1e-5)


def test_bfloat16_trains_and_exports(tmp_path: Path, int8_config: Path) -> None:
    run = trainer(tmp_path / "run", nncf_config=str(int8_config), bf16=True, to_onnx=str(tmp_path / "m.onnx"))
    run.train()
    run.save_model()
    assert all(torch.isfinite(p).all() for p in run.model.parameters())
    report = json.loads((tmp_path / "m.parity.json").read_text())
    assert report["nodes"]["QuantizeLinear"] == 14, "exported with its quantizers"
    # The model is still wrapped: training could go on.
    assert run.evaluate()["eval_loss"] > 0


def test_post_training_quantization_is_zero_epochs(tmp_path: Path, int8_config: Path) -> None:
    run = trainer(tmp_path / "run", nncf_config=str(int8_config), max_steps=-1, num_train_epochs=0)
    run.train()
    run.save_model()
    before = tiny_model(head="classes").state_dict()
    after = weights(tmp_path / "run")
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert json.loads((tmp_path / "run" / STATE_FILE).read_text())["compression_state"]


def test_training_data_is_needed(tmp_path: Path, int8_config: Path) -> None:
    with pytest.raises(UsageError, match="is not a compressed checkpoint; add --do_train"):
        trainer(tmp_path, nncf_config=str(int8_config), do_train=False)
    with pytest.raises(UsageError, match="the training set is empty"):
        Trainer(
            model=tiny_model(),
            args=TrainingArguments(str(tmp_path), do_train=True, nncf_config=str(int8_config)),
            train_dataset=dataset().select([]),
        )


def test_compressed_weights_without_state_are_refused(tmp_path: Path, int8_config: Path) -> None:
    run = trainer(tmp_path / "a", nncf_config=str(int8_config))
    run.train()
    run.save_model()
    (tmp_path / "a" / STATE_FILE).unlink()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "a")
    with pytest.raises(IntegrityError, match="is missing"):
        trainer(tmp_path / "b", model=model, do_train=False)


def test_flags_are_checked_first(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing.json"):
        TrainingArguments(str(tmp_path), nncf_config=str(tmp_path / "nothing.json"))
    with pytest.raises(UsageError, match="does not exist; create it first"):
        TrainingArguments(str(tmp_path), to_onnx=str(tmp_path / "missing" / "m.onnx"))
    with pytest.raises(UsageError, match="--data-dir .*: no such folder"):
        TrainingArguments(str(tmp_path), data_dir=str(tmp_path / "missing"))
