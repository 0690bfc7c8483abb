"""Recipes through the Trainer: what happens in which step, what is saved, and what a further training makes of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset
from tiny import tiny_batches, tiny_model

from nncf_transformers.algorithms.masks import expand, masks
from nncf_transformers.algorithms.quantization import quantizers
from nncf_transformers.compression import Compression
from nncf_transformers.config.errors import ConfigError
from nncf_transformers.errors import UsageError
from nncf_transformers.hf import Trainer, TrainingArguments
from nncf_transformers.loading import load_model
from nncf_transformers.recipe import parse_recipe

# 32 samples in batches of 4.
STEPS = 8
LAYERS = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
PRUNED = [f"bert.encoder.layer.{i}.{name}.weight" for i in range(2) for name in LAYERS]
PARAMS = "[" + ", ".join(f"'re:bert.encoder.layer.*.{name}.weight'" for name in LAYERS) + "]"

PRUNING = f"""
num_epochs: 4
modifiers:
  - !EpochRangeModifier {{start_epoch: 0.0, end_epoch: eval(num_epochs)}}
  - !GMPruningModifier
    params: {PARAMS}
    init_sparsity: 0.05
    final_sparsity: 0.8
    start_epoch: 0.5
    end_epoch: eval(num_epochs - 1)
    update_frequency: -1
"""
RESET = """
modifiers:
  - !EpochRangeModifier {start_epoch: 0.0, end_epoch: 4.0}
  - !LearningRateFunctionModifier {lr_func: linear, init_lr: 5e-5, final_lr: 0.0, start_epoch: 0.0, end_epoch: 3.0}
  - !LearningRateFunctionModifier {lr_func: linear, init_lr: 5e-5, final_lr: 0.0, start_epoch: 3.0, end_epoch: 4.0}
"""
LATE = """
modifiers:
  - !EpochRangeModifier {start_epoch: 0.0, end_epoch: 3.0}
  - !QuantizationModifier {start_epoch: 1.5, disable_quantization_observer_epoch: 2.5, num_calibration_steps: 4}
"""


class Watch(transformers.TrainerCallback):
    """Notes what is true after each epoch, and with which learning rate each step was made."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.masked: list[dict[str, int]] = []

    def on_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        counts = {}
        for name, mask in masks(model):
            shape = model.get_parameter(name).shape
            counts[name] = int((~expand(mask.mask, shape)).sum())
        self.masked.append(counts)


def samples(rows: int) -> Dataset:
    batches = tiny_batches(tiny_model(head="classes"), count=rows // 4)
    return Dataset.from_list(
        [{name: tensor[i].tolist() for name, tensor in batch.items()} for batch in batches for i in range(4)]
    ).rename_column("labels", "label")


def trainer(out: Path, recipe: str | None, model: Any = None, **arguments: Any) -> Any:
    settings = {
        "do_train": True,
        "use_cpu": True,
        "report_to": "none",
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": 3,
    }
    if recipe is not None:
        settings["recipe"] = recipe
    watch = Watch()
    run = Trainer(
        model=model if model is not None else tiny_model(head="classes"),
        args=TrainingArguments(output_dir=str(out), **(settings | arguments)),
        train_dataset=samples(32),
        eval_dataset=samples(8),
        callbacks=[watch],
    )
    run.watch = watch
    return run


def start(folder: Path, **sizes: Any) -> Any:
    tiny_model(head="classes", **sizes).save_pretrained(folder)
    return loaded(folder)


def loaded(folder: Path) -> Any:
    return load_model(transformers.AutoModelForSequenceClassification, folder)


def logits(model: Any) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        batch = {k: v for k, v in tiny_batches(tiny_model(head="classes"))[0].items() if k != "labels"}
        return model(**batch).logits  # type: ignore[no-any-return]


def zeros(model: Any, names: list[str]) -> dict[str, int]:
    return {name: int((model.get_parameter(name) == 0).sum()) for name in names}


def cubic(epoch: float, start: float, end: float, low: float, high: float) -> float:
    x = min(1.0, max(0.0, (epoch - start) / (end - start)))
    return low + (high - low) * (1 - (1 - x) ** 3)


def test_sparsity_after_each_epoch_is_the_formulas(tmp_path: Path) -> None:
    run = trainer(tmp_path, PRUNING)
    assert run.args.num_train_epochs == 4
    run.train()
    assert len(run.watch.masked) == 4
    for epoch, counts in enumerate(run.watch.masked, start=1):
        assert sorted(counts) == sorted(PRUNED)
        for name, count in counts.items():
            size = run.model.get_parameter(name).numel()
            assert count == round(size * cubic(epoch, 0.5, 3.0, 0.05, 0.8)), (epoch, name)
    # Afterwards the zeros are in the weights, and nothing else has become zero.
    assert not list(masks(run.model))
    for name, count in zeros(run.model, PRUNED).items():
        assert count == round(run.model.get_parameter(name).numel() * 0.8)


def test_learning_rate_falls_to_zero_twice(tmp_path: Path) -> None:
    """Inventory, acceptance check 13, with 3 and 4 epochs for 30 and 40."""
    run = trainer(tmp_path, RESET)
    run.train()
    expected = [5e-5 * (1 - step / 24) for step in range(24)] + [5e-5 * (1 - step / 8) for step in range(8)]
    assert run.watch.rates == pytest.approx(expected, rel=1e-9, abs=1e-15)
    logged = [entry["learning_rate"] for entry in run.state.log_history if "learning_rate" in entry]
    assert logged == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_learning_rate_of_the_full_recipe() -> None:
    """The same check with its own numbers: 5e-5 to 0 over 0-30, and again over 30-40."""
    from nncf_transformers.recipe.translate import recipe_config

    text = RESET.replace("3.0", "30.0").replace("4.0", "40.0")
    compression = Compression(recipe_config(parse_recipe(text, "reset.yaml")))
    compression.clock.steps_per_epoch = 10
    for step in range(0, 400, 7):
        epoch = step / 10
        expected = 5e-5 * (1 - epoch / 30) if epoch < 30 else 5e-5 * (1 - (epoch - 30) / 10)
        assert compression.rate(step) == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_quantizers_begin_to_act_at_their_epoch(tmp_path: Path) -> None:
    dense = trainer(tmp_path / "dense", RESET.replace("4.0", "3.0").split("  - !LearningRate")[0])
    dense.train()
    late = trainer(tmp_path / "late", LATE)
    late.train()
    losses = [[e["loss"] for e in run.state.log_history if "loss" in e] for run in (dense, late)]
    # Bit for bit the same before, and other numbers afterwards.
    assert losses[0][:12] == losses[1][:12]
    assert losses[0][12:] != losses[1][12:]
    late.save_model()
    found = dict(quantizers(late.model))
    assert found and all(quantizer.is_enabled_quantization() for quantizer in found.values())
    assert torch.equal(logits(loaded(tmp_path / "late")), logits(late.model))


def test_ranges_are_fixed_after_the_observers_are_off(tmp_path: Path) -> None:
    run = trainer(tmp_path, LATE, save_strategy="steps", save_steps=1)
    run.train()
    states = [loaded(tmp_path / f"checkpoint-{step}") for step in (19, 20, 22, 24)]
    ranges = [{n: p.detach().clone() for h, q in quantizers(m) for n, p in q.named_parameters(h)} for m in states]
    assert any(not torch.equal(ranges[0][name], ranges[1][name]) for name in ranges[0])
    for later in ranges[2:]:
        assert all(torch.equal(ranges[1][name], later[name]) for name in later)


@pytest.mark.parametrize("step", [6, 14, 22])
def test_resuming_is_as_if_never_interrupted(step: int, tmp_path: Path) -> None:
    text = PRUNING.replace("num_epochs: 4", "num_epochs: 3") + LATE.partition("modifiers:")[2].split("\n", 2)[2]
    text += RESET.partition("modifiers:")[2].split("\n", 2)[2].replace("4.0}", "3.5}")
    model = start(tmp_path / "start")
    whole = trainer(tmp_path / "whole", text, model, save_strategy="steps", save_steps=step)
    whole.train()
    whole.save_model()
    part = trainer(tmp_path / "part", text, loaded(tmp_path / "start"))
    part.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
    part.save_model()
    ours, theirs = (dict(run.model.state_dict()) for run in (whole, part))
    assert ours.keys() == theirs.keys()
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]
    files = [(tmp_path / name / "recipe.yaml").read_text() for name in ("whole", "part")]
    assert files[0] == files[1]


def test_recipe_is_saved_composed_and_lasts(tmp_path: Path) -> None:
    first = trainer(tmp_path / "first", PRUNING, start(tmp_path / "start"))
    first.train()
    first.save_model()
    saved = parse_recipe((tmp_path / "first" / "recipe.yaml").read_text(), "recipe.yaml")
    assert [m.type for m in saved.modifiers] == ["EpochRangeModifier", "GMPruningModifier"]

    # A second recipe says nothing of zeros: those of the first stay.
    second = trainer(tmp_path / "second", LATE, loaded(tmp_path / "first"))
    second.train()
    second.save_model()
    assert zeros(second.model, PRUNED) == zeros(first.model, PRUNED)
    both = parse_recipe((tmp_path / "second" / "recipe.yaml").read_text(), "recipe.yaml")
    assert len(both.stages) == 2 and both.max_epochs == 7
    assert [m.type for m in both.stages[1].modifiers] == ["EpochRangeModifier", "QuantizationModifier"]

    # And so they do without any recipe; the quantizers come back, too.
    third = trainer(tmp_path / "third", None, loaded(tmp_path / "second"), max_steps=3)
    third.train()
    third.save_model()
    assert zeros(third.model, PRUNED) == zeros(first.model, PRUNED)
    assert all(q.is_enabled_quantization() for _, q in quantizers(third.model)) and list(quantizers(third.model))
    changed = [n for n in PRUNED if not torch.equal(third.model.get_parameter(n), second.model.get_parameter(n))]
    assert changed == PRUNED
    assert (tmp_path / "third" / "recipe.yaml").read_text() == (tmp_path / "second" / "recipe.yaml").read_text()


def test_evaluating_a_model_with_a_recipe(tmp_path: Path) -> None:
    run = trainer(tmp_path / "out", LATE)
    run.train()
    run.save_model()
    again = trainer(tmp_path / "eval", None, loaded(tmp_path / "out"), do_train=False)
    assert again.evaluate()["eval_loss"] == run.evaluate()["eval_loss"]


def test_layers_are_dropped_and_names_count_as_before(tmp_path: Path) -> None:
    text = """
modifiers:
  - !EpochRangeModifier {start_epoch: 0.0, end_epoch: 1.0}
  - !LayerPruningModifier {layers: [bert.encoder.layer.0, bert.encoder.layer.2]}
  - !MagnitudePruningModifier
    params: ['re:bert.encoder.layer.[0-3].output.dense.weight']
    init_sparsity: 0.0
    final_sparsity:
      0.5: ['bert.encoder.layer.1.output.dense.weight']
      0.25: ['bert.encoder.layer.3.output.dense.weight']
    start_epoch: 0.0
    end_epoch: 0.5
    update_frequency: -1
""".replace("    params: ['re:bert.encoder.layer.[0-3].output.dense.weight']\n", "    params: []\n")
    run = trainer(tmp_path / "out", text, start(tmp_path / "start", num_hidden_layers=4))
    run.train()
    run.save_model()
    model = loaded(tmp_path / "out")
    assert model.config.num_hidden_layers == 2 and len(model.bert.encoder.layer) == 2
    names = [f"bert.encoder.layer.{i}.output.dense.weight" for i in range(2)]
    sizes = [model.get_parameter(name).numel() for name in names]
    assert list(zeros(model, names).values()) == [round(sizes[0] * 0.5), round(sizes[1] * 0.25)]
    assert torch.equal(logits(model), logits(run.model))
    # A further training knows the layers by their first names, too.
    again = trainer(tmp_path / "again", None, model, max_steps=2)
    again.train()
    assert list(zeros(again.model, names).values()) == [round(sizes[0] * 0.5), round(sizes[1] * 0.25)]


def test_one_shot(tmp_path: Path) -> None:
    run = trainer(tmp_path, PRUNING + LATE.partition("modifiers:")[2].split("\n", 2)[2], one_shot=True)
    before = {name: run.model.get_parameter(name).detach().clone() for name in PRUNED}
    run.train()
    run.save_model()
    assert run.state.global_step == 0
    for name, count in zeros(run.model, PRUNED).items():
        weight = run.model.get_parameter(name)
        assert count == round(weight.numel() * 0.8)
        assert torch.equal(weight[weight != 0], before[name][weight != 0])
    assert all(q.is_enabled_quantization() for _, q in quantizers(run.model))
    assert torch.equal(logits(loaded(tmp_path)), logits(run.model))


def test_distillation_needs_a_teacher_unless_disabled(tmp_path: Path) -> None:
    text = RESET.split("  - !LearningRate")[0] + "  - !DistillationModifier {hardness: 1.0, temperature: 2.0}\n"
    with pytest.raises(UsageError, match="names no teacher"):
        trainer(tmp_path, text).train()
    run = trainer(tmp_path, text, teacher_model_or_path="disable")
    run.train()
    assert not any("distillation_loss" in entry for entry in run.state.log_history)
    run = trainer(tmp_path, text, teacher_model_or_path="self")
    run.train()
    assert any("distillation_loss" in entry for entry in run.state.log_history)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"recipe": PRUNING, "nncf_config": "x.json"}, "keep one of the two"),
        ({"recipe_args": "a=1"}, "no effect without --recipe"),
        ({"one_shot": True}, "no effect without --recipe"),
        ({"recipe": PRUNING, "recipe_args": "num_epoch=3"}, "num_epochs"),
        ({"recipe": "missing.yaml"}, "missing.yaml"),
        ({"recipe": PRUNING.replace("0.8", "1.8")}, "final_sparsity"),
        ({"recipe": PRUNING.replace("final_sparsity", "final_sparsty")}, "final_sparsity"),
        ({"recipe": PRUNING.replace("eval(num_epochs)", "eval(__import__('os'))")}, "eval"),
        ({"recipe": "a: eval(b)\nb: eval(a)\n" + PRUNING}, "a -> b -> a|b -> a -> b"),
        ({"recipe": PRUNING.replace("GMPruning", "MFACPruning")}, "MFACPruningModifier"),
    ],
)
def test_bad_flags_end_before_any_work(flags: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((UsageError, ConfigError), match=message):
        TrainingArguments(output_dir=str(tmp_path / "out"), **flags)
    assert not (tmp_path / "out").exists()


def test_parameters_that_match_nothing(tmp_path: Path) -> None:
    run = trainer(tmp_path, PRUNING.replace("self.query", "self.quary"))
    with pytest.raises(UsageError, match=r"quary.*matches no parameter"):
        run.train()


def test_training_shorter_than_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="longer than the training"):
        trainer(tmp_path, PRUNING, max_steps=10).train()


def test_foreign_quantized_model_is_refused(tmp_path: Path) -> None:
    model = start(tmp_path / "model")
    (tmp_path / "model" / "recipe.yaml").write_text(LATE)
    with pytest.raises(UsageError, match="quantizers of SparseML"):
        trainer(tmp_path / "out", None, model, do_train=False)
