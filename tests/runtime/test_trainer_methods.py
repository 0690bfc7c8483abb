"""Every compression method through the Trainer: resume, accumulate, evaluate, export, report."""

import json
import logging
import shutil
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from test_hf import assert_equal, dataset, trainer, weights
from test_movement import STRUCTURES
from tiny import tiny_batches, tiny_model

from nncf_transformers.algorithms.masks import masks
from nncf_transformers.checkpoint import STATE_FILE
from nncf_transformers.compression import Compression
from nncf_transformers.config import parse_config
from nncf_transformers.errors import IntegrityError, UsageError
from nncf_transformers.hf import Trainer
from nncf_transformers.loading import load_model
from nncf_transformers.structure import CONFIG_KEY, load_smaller_models

# 32 samples in batches of 4: an epoch is 8 steps, and the tests train for 12.
QUANTIZATION = {"algorithm": "quantization", "calibration_samples": 4}
MOVEMENT = {
    "algorithm": "movement_sparsity",
    "warmup_start_epoch": 0.25,
    "warmup_end_epoch": 1.0,
    "importance_regularization_factor": 0.5,
    "ignored_scopes": ["classifier", "bert.pooler"],
    "sparse_structure_by_scopes": STRUCTURES,
    "score_lr_multiplier": 10,
}
MAGNITUDE = {
    "algorithm": "magnitude_sparsity",
    "final_sparsity": 0.5,
    "end_epoch": 1.0,
    "target_scopes": [r"{re}\.layer\."],
}
DISTILLATION = {"algorithm": "distillation", "teacher": "self", "weight": 0.9}
METHODS: dict[str, list[dict[str, Any]]] = {
    "distillation": [DISTILLATION],
    "movement": [MOVEMENT],
    "jpqd": [MOVEMENT, QUANTIZATION, DISTILLATION],
    "magnitude": [MAGNITUDE],
    "magnitude-int8": [MAGNITUDE, QUANTIZATION],
    "heads": [{**MAGNITUDE, "structure": "head"}, QUANTIZATION],
    "channels": [{**MAGNITUDE, "structure": "channel"}],
    "2:4": [{**{k: v for k, v in MAGNITUDE.items() if k != "final_sparsity"}, "structure": "2:4"}],
    "4x4": [{**MAGNITUDE, "structure": "4x4", "ranking": "global", "importance": "normed_abs"}],
}
SMALLER = ("jpqd", "movement", "heads", "channels")


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """The model that everything starts from, in a folder, for a teacher must be found again."""
    folder = tmp_path / "start"
    tiny_model(head="classes").save_pretrained(folder)
    return folder


def config(folder: Path, algorithms: list[dict[str, Any]]) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps({"algorithms": algorithms}))
    return str(path)


def run_of(out: Path, start: Path, algorithms: list[dict[str, Any]] | None, **arguments: Any) -> Any:
    load_smaller_models()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(start)
    settings: dict[str, Any] = {"max_steps": 12, "save_steps": 6, "learning_rate": 1e-2} | arguments
    if algorithms is not None:
        out.mkdir(parents=True, exist_ok=True)
        settings["nncf_config"] = config(out, algorithms)
    return trainer(out, model=model, **settings)


def logits(model: Any) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        batch = {k: v for k, v in tiny_batches(model)[0].items() if k != "labels"}
        return model(**batch).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", METHODS)
def test_whole_way(name: str, tmp_path: Path, start: Path) -> None:
    """Train; resume in the middle of the schedule; load, evaluate and export what was saved."""
    algorithms = METHODS[name]
    whole = run_of(
        tmp_path / "whole", start, algorithms, to_onnx=str(tmp_path / "m.onnx"), to_openvino=str(tmp_path / "ir")
    )
    whole.train()
    whole.save_model()
    whole.create_model_card()
    part = run_of(tmp_path / "part", start, algorithms)
    part.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-6"))
    part.save_model()
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "part"))
    states = [json.loads((tmp_path / n / STATE_FILE).read_text()) for n in ("whole", "part")]
    assert states[0] == states[1] and states[0]["finished"]

    # No mask is left; heads and channels are gone where whole ones were decided on.
    assert not list(masks(whole.model)) and not [k for k in weights(tmp_path / "whole") if "binary_mask" in k]
    statistics = json.loads((tmp_path / "whole" / "statistics.json").read_text())
    assert (statistics["parameters"] < statistics["before"]["parameters"]) == (name in SMALLER)
    assert hasattr(whole.model.config, CONFIG_KEY) == (name in SMALLER)
    gone = 1 - (statistics["block_weights"] - statistics["block_zeros"]) / statistics["before"]["block_weights"]
    if name.startswith(("magnitude", "2:4", "4x4")):
        assert gone == pytest.approx(0.5, abs=0.001)
    elif name != "distillation":
        assert 0.05 < gone < 0.98
    assert statistics["bytes"]["model.safetensors"] == (tmp_path / "whole" / "model.safetensors").stat().st_size
    assert statistics["exports"][str(tmp_path / "m.onnx")] == (tmp_path / "m.onnx").stat().st_size
    card = (tmp_path / "whole" / "README.md").read_text()
    assert "## Compression" in card and f"| parameters | {statistics['parameters']:,} |" in card

    loaded = load_model(transformers.AutoModelForSequenceClassification, tmp_path / "whole")
    assert torch.equal(logits(loaded), logits(whole.model))
    expected = whole.evaluate()["eval_loss"]
    again = run_of(tmp_path / "again", tmp_path / "whole", algorithms, do_train=False)
    assert again.evaluate()["eval_loss"] == expected
    for report in (tmp_path / "m.parity.json", tmp_path / "ir" / "parity.json"):
        runtimes = json.loads(report.read_text())["runtimes"]
        assert len(runtimes) == 2


@pytest.mark.parametrize("name", ["movement", "jpqd", "magnitude"])
def test_a_checkpoint_in_the_middle_evaluates_and_exports(name: str, tmp_path: Path, start: Path) -> None:
    whole = run_of(tmp_path / "whole", start, METHODS[name], max_steps=8, save_steps=5)
    whole.train()
    middle = tmp_path / "whole" / "checkpoint-5"
    assert any(key.endswith("_binary_mask") for key in load_file(middle / "model.safetensors"))
    run = run_of(tmp_path / "again", middle, None, do_train=False, to_onnx=str(tmp_path / "m.onnx"))
    assert any(True for _ in masks(run.model)), "the export has not touched the model"
    assert run.evaluate()["eval_loss"] > 0
    assert (tmp_path / "m.onnx").is_file()


def test_gradient_accumulation_counts_optimizer_steps(tmp_path: Path, start: Path) -> None:
    results = []
    for rows, accumulate in ((4, 1), (2, 2)):
        run = run_of(
            tmp_path / str(rows),
            start,
            METHODS["jpqd"],
            max_steps=8,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=accumulate,
        )
        run.train()
        compression = Compression.of(run.model)
        assert compression is not None
        results.append((compression.clock.step, compression.clock.steps_per_epoch))
    assert results == [(8, 8), (8, 8)]


def test_parts_of_the_loss_are_logged(tmp_path: Path, start: Path) -> None:
    """The names of the original: with a teacher all three, without one the penalty alone."""
    parts = {"task_loss", "distillation_loss", "compression_loss"}
    for name, expected in (
        ("jpqd", parts),
        ("movement", {"compression_loss"}),
        ("distillation", parts - {"compression_loss"}),
    ):
        run = run_of(tmp_path / name, start, METHODS[name], max_steps=8)
        run.train()
        logged = [entry for entry in run.state.log_history if "loss" in entry]
        assert all(parts & entry.keys() == expected for entry in logged)
        if name == "jpqd":
            # The rate of logging is one step, so that the logged loss is that of its parts.
            for entry in logged:
                total = 0.1 * entry["task_loss"] + 0.9 * entry["distillation_loss"] + entry["compression_loss"]
                assert entry["loss"] == pytest.approx(total, abs=2e-4)
            thresholds = [
                e["compression/importance_threshold"] for e in logged if "compression/importance_threshold" in e
            ]
            assert len(thresholds) == 7 and thresholds[-1] == 0, "none before the warm-up"


def test_best_model_of_before_the_removal(tmp_path: Path, start: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The best checkpoint is one with masks that no longer fit the model in memory."""
    run = run_of(
        tmp_path / "out",
        start,
        METHODS["jpqd"],
        eval_strategy="steps",
        eval_steps=4,
        save_steps=4,
        load_best_model_at_end=True,
        metric_for_best_model="score",
        greater_is_better=True,
    )
    scores = iter((3.0, 2.0, 1.0))
    run.compute_metrics = lambda _: {"score": next(scores)}
    run.train()
    best = Path(run.state.best_model_checkpoint)
    assert best.name == "checkpoint-4"
    run.save_model()
    saved, expected = weights(tmp_path / "out"), weights(best)
    name = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(saved[name], expected[name])
    assert "the warm-up is not over" in caplog.text


def test_resuming_a_later_step_than_the_model_is_of(tmp_path: Path, start: Path) -> None:
    """The model comes from before the masks were resolved, the training state from after it."""
    whole = run_of(tmp_path / "whole", start, METHODS["jpqd"], save_steps=2)
    whole.train()
    whole.save_model()
    early, late = (tmp_path / "whole" / f"checkpoint-{step}" for step in (4, 10))
    part = run_of(tmp_path / "part", early, None)
    part.train(resume_from_checkpoint=str(late))
    part.save_model()
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "part"))


def test_an_unfinished_model_goes_on_with_its_schedule(tmp_path: Path, start: Path) -> None:
    """As a start, not as a training to resume: a new optimizer and new data order, but the step of the schedules."""
    run_of(tmp_path / "whole", start, METHODS["jpqd"], max_steps=8, save_steps=5).train()
    run = run_of(tmp_path / "on", tmp_path / "whole" / "checkpoint-5", METHODS["jpqd"], max_steps=4)
    run.train()
    compression = Compression.of(run.model)
    assert compression is not None and compression.clock.step == 9 and hasattr(run.model.config, CONFIG_KEY)
    with pytest.raises(UsageError, match="other settings than those of"):
        run_of(tmp_path / "other", tmp_path / "whole" / "checkpoint-5", METHODS["movement"])


def test_resuming_with_other_settings_is_refused(tmp_path: Path, start: Path) -> None:
    run_of(tmp_path / "a", start, METHODS["jpqd"], max_steps=8).train()
    changed = [{**MOVEMENT, "power": 2}, QUANTIZATION, DISTILLATION]
    with pytest.raises(
        UsageError, match="was begun with other settings than those of .*config.json; go on with"
    ) as caught:
        run_of(tmp_path / "b", start, changed).train(str(tmp_path / "a" / "checkpoint-6"))
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="other settings than those of the flags"):
        run_of(tmp_path / "c", start, METHODS["jpqd"], distillation_weight=0.4).train(
            str(tmp_path / "a" / "checkpoint-6")
        )


def test_the_teacher_by_flags(tmp_path: Path, start: Path) -> None:
    run = run_of(
        tmp_path / "a",
        start,
        [QUANTIZATION],
        teacher_model_or_path=str(start),
        distillation_weight=0.25,
        distillation_temperature=3.0,
        distillation_cache=str(tmp_path / "cache"),
        max_steps=3,
        save_steps=2,
    )
    run.train()
    compression = Compression.of(run.model)
    assert compression is not None
    distillation = compression.config.algorithms[-1]
    assert (distillation.teacher, distillation.weight, distillation.temperature) == (str(start), 0.25, 3.0)  # type: ignore[attr-defined]
    assert {"task_loss", "distillation_loss"} <= run.state.log_history[0].keys()
    # Without a configuration: distillation alone. And out of a configuration that has it.
    run = run_of(tmp_path / "b", start, None, teacher_model_or_path="self", max_steps=2)
    run.train()
    assert "distillation_loss" in run.state.log_history[0]
    run = run_of(tmp_path / "c", start, [QUANTIZATION, DISTILLATION], teacher_model_or_path="disable", max_steps=2)
    run.train()
    assert "distillation_loss" not in run.state.log_history[0]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            {"distillation_weight": 1.5, "teacher_model_or_path": "self"},
            r"--distillation_weight 1.5: must be .* 0 to 1",
        ),
        ({"distillation_temperature": 0.5, "teacher_model_or_path": "self"}, "--distillation_temperature 0.5: must be"),
        ({"distillation_weight": 0.5}, "--distillation_weight: has no effect without a teacher"),
        ({"teacher_model_or_path": "no/such/teacher"}, "no/such/teacher"),
        (
            {"teacher_model_or_path": "self", "label_smoothing_factor": 0.1},
            "--label_smoothing_factor bypasses the loss",
        ),
        ({"teacher_model_or_path": "self", "distillation_cache": "x", "distillation_hidden_weight": 1.0}, "no hidden"),
        ({"teacher_model_or_path": "self", "distillation_teacher_dtype": "int8"}, "float32 or bfloat16"),
    ],
)
def test_flags_that_cannot_be(tmp_path: Path, start: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        run_of(tmp_path / "a", start, None, **arguments).train()
    assert "\n" not in str(caught.value)


def test_a_sparse_model_keeps_its_zeros_in_transfer(tmp_path: Path, start: Path) -> None:
    run = run_of(tmp_path / "sparse", start, METHODS["magnitude"], max_steps=8)
    run.train()
    run.save_model()
    zeros = {name: tensor == 0 for name, tensor in weights(tmp_path / "sparse").items() if ".layer." in name}
    constant = {"algorithm": "constant_sparsity", "target_scopes": [r"{re}\.layer\."]}
    run = run_of(tmp_path / "transfer", tmp_path / "sparse", [constant, QUANTIZATION], max_steps=8)
    run.train()
    run.save_model()
    after = weights(tmp_path / "transfer")
    for name, zero in zeros.items():
        if name.endswith("weight") and "LayerNorm" not in name:
            assert zero.float().mean() == pytest.approx(0.5, abs=0.01) and torch.equal(after[name] == 0, zero)


def test_a_smaller_model_is_quantized_afterwards(tmp_path: Path, start: Path) -> None:
    run = run_of(tmp_path / "small", start, METHODS["channels"], max_steps=8)
    run.train()
    run.save_model()
    size = run.model.num_parameters()
    run = run_of(tmp_path / "int8", tmp_path / "small", [QUANTIZATION], max_steps=2, to_openvino=str(tmp_path / "ir"))
    run.train()
    run.save_model()
    again = load_model(transformers.AutoModelForSequenceClassification, tmp_path / "int8")
    assert torch.equal(logits(again), logits(run.model))
    named = [p for n, p in again.named_parameters() if not n.startswith("__nncf")]
    assert sum(p.numel() for p in named) == size
    assert (tmp_path / "ir" / "openvino_model.xml").is_file()


def test_schedule_longer_than_the_training(tmp_path: Path, start: Path) -> None:
    for name, message in (("jpqd", "is step 8, but the training ends at step 7"), ("magnitude", "step 7")):
        with pytest.raises(UsageError, match=message):
            run_of(tmp_path / name, start, METHODS[name], max_steps=7).train()


def test_bfloat16_prunes(tmp_path: Path, start: Path) -> None:
    run = run_of(tmp_path / "a", start, METHODS["jpqd"], bf16=True, to_openvino=str(tmp_path / "ir"))
    run.train()
    run.save_model()
    assert hasattr(run.model.config, CONFIG_KEY)
    again = load_model(transformers.AutoModelForSequenceClassification, tmp_path / "a")
    assert again.num_parameters() < tiny_model(head="classes").num_parameters()


def test_a_given_optimizer_moves_the_schedules(tmp_path: Path, start: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(start)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    (tmp_path / "out").mkdir()
    arguments = trainer(tmp_path / "out", nncf_config=config(tmp_path / "out", METHODS["magnitude"]), max_steps=8).args
    run = Trainer(model=model, args=arguments, train_dataset=dataset(), optimizers=(optimizer, None))
    run.train()
    assert "the optimizer was given" in caplog.text
    compression = Compression.of(model)
    assert compression is not None and compression.clock.step == 8


def test_a_teacher_that_is_added_on_resuming_is_refused(tmp_path: Path, start: Path) -> None:
    run_of(tmp_path / "a", start, [QUANTIZATION], max_steps=6, save_steps=3).train()
    with pytest.raises(UsageError, match="other settings than those of the flags"):
        run_of(tmp_path / "b", start, [QUANTIZATION], teacher_model_or_path=str(start)).train(
            str(tmp_path / "a" / "checkpoint-3")
        )


def test_a_finished_model_goes_on_with_its_quantizers_only(
    tmp_path: Path, start: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_of(tmp_path / "a", start, METHODS["jpqd"], max_steps=8)
    run.train()
    run.save_model()
    size = run.model.num_parameters()
    for again in (run, run_of(tmp_path / "b", tmp_path / "a", METHODS["jpqd"], max_steps=3)):
        caplog.clear()
        again.train()
        assert "it goes on without movement_sparsity and distillation" in caplog.text
        logged = [entry for entry in again.state.log_history if "loss" in entry][-1]
        assert not {"task_loss", "distillation_loss", "compression_loss", "compression/layer_sparsity"} & logged.keys()
        assert logged["compression/quantizers"] > 0 and again.model.num_parameters() == size


@pytest.mark.parametrize("precision", [{}, {"bf16": True}])
def test_training_twice(tmp_path: Path, start: Path, precision: dict[str, bool]) -> None:
    """The first training leaves a plain model, which the second compresses anew: its masks must act."""
    run = run_of(tmp_path / "a", start, METHODS["channels"], max_steps=8, **precision)
    run.train()
    run.evaluate()
    once = run.model.num_parameters()
    run.train()
    assert run.model.num_parameters() < once
    expected = run.evaluate()["eval_loss"]
    run.save_model()
    assert run_of(tmp_path / "b", tmp_path / "a", None, do_train=False, **precision).evaluate()["eval_loss"] == expected


def test_skipped_steps_count(tmp_path: Path, start: Path) -> None:
    """Mixed precision skips a step whose gradients overflow; the training ends at the same step all the same."""
    run = run_of(tmp_path / "a", start, METHODS["magnitude"], max_steps=8)
    create, skipped = run.create_optimizer, []

    def flaky(*args: Any, **kwargs: Any) -> Any:
        optimizer = create(*args, **kwargs)
        step = optimizer.step

        def sometimes(_: Any, *a: Any, **k: Any) -> Any:
            skipped.append(len(skipped) in (0, 3))
            return None if skipped[-1] else step(*a, **k)

        optimizer.step = MethodType(sometimes, optimizer)
        return optimizer

    run.create_optimizer = flaky
    run.train()
    assert sum(skipped) == 2
    zeros = [float((p == 0).float().mean()) for n, p in run.model.named_parameters() if n.endswith("query.weight")]
    assert zeros == [0.5, 0.5]


def test_a_moved_teacher_is_remembered(tmp_path: Path, start: Path) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(start, teacher)
    run = run_of(tmp_path / "a", start, [QUANTIZATION], teacher_model_or_path=str(teacher), max_steps=4, save_steps=2)
    run.train()
    moved = teacher.rename(tmp_path / "moved")
    flags: dict[str, Any] = {"teacher_model_or_path": str(moved), "max_steps": 6, "save_steps": 4}
    run_of(tmp_path / "b", start, [QUANTIZATION], **flags).train(str(tmp_path / "a" / "checkpoint-2"))
    again = run_of(tmp_path / "c", start, None, max_steps=6)
    again.train(str(tmp_path / "b" / "checkpoint-4"))
    assert "distillation_loss" in again.state.log_history[-2]


def test_another_model_saved_over_a_smaller_one(tmp_path: Path, start: Path) -> None:
    run = run_of(tmp_path / "out", start, METHODS["channels"], max_steps=8)
    run.train()
    run.save_model()
    tiny_model(head="classes").save_pretrained(tmp_path / "out")  # by a library that knows nothing of us
    with pytest.raises(IntegrityError, match="was another run saved over it"):
        load_model(transformers.AutoModelForSequenceClassification, tmp_path / "out")
    run = run_of(tmp_path / "out", start, None, max_steps=1)
    run.train()
    run.save_model()
    assert not (tmp_path / "out" / STATE_FILE).exists() and not (tmp_path / "out" / "statistics.json").exists()
    assert Compression.of(load_model(transformers.AutoModelForSequenceClassification, tmp_path / "out")) is None


def test_a_resolved_checkpoint_may_go_on_with_longer_epochs(tmp_path: Path, start: Path) -> None:
    run_of(tmp_path / "a", start, METHODS["jpqd"], max_steps=12, save_steps=10).train()
    run = run_of(
        tmp_path / "b",
        tmp_path / "a" / "checkpoint-10",
        METHODS["jpqd"],
        max_steps=2,
        per_device_train_batch_size=2,
    )
    run.train()
    assert hasattr(run.model.config, CONFIG_KEY)


def test_a_distilled_model_is_plain_again(tmp_path: Path, start: Path) -> None:
    run = run_of(tmp_path / "a", start, METHODS["distillation"], max_steps=2)
    run.train()
    run.save_model()
    again = run_of(tmp_path / "b", tmp_path / "a", None, max_steps=1, label_smoothing_factor=0.1)
    again.train()
    assert again.state.global_step == 1


def test_what_training_cannot_have(tmp_path: Path, start: Path) -> None:
    arguments = trainer(tmp_path, nncf_config=config(tmp_path, METHODS["jpqd"])).args
    with pytest.raises(UsageError, match="model_init"):
        Trainer(model_init=lambda: tiny_model(head="classes"), args=arguments, train_dataset=dataset())
    with pytest.raises(UsageError, match="do not stream it"):
        Trainer(model=tiny_model(head="classes"), args=arguments, train_dataset=dataset().to_iterable_dataset())
    arguments._n_gpu = 2
    with pytest.raises(UsageError, match="torchrun"):
        Trainer(model=tiny_model(head="classes"), args=arguments, train_dataset=dataset())


def test_a_shared_weight_stays_dense(caplog: pytest.LogCaptureFixture) -> None:
    from transformers import AutoConfig, AutoModelForMaskedLM

    settings = {"vocab_size": 200, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model("bert", intermediate_size=64, **settings)).eval()
    compression = Compression(parse_config({"algorithms": [{"algorithm": "magnitude_sparsity"}]}, "test"))
    compression.start(model, tiny_batches(tiny_model()))
    assert "cls.predictions.decoder stays dense: it shares its weight" in caplog.text
    assert not [name for name, _ in masks(model) if "decoder" in name]
