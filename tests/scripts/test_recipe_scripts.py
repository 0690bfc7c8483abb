"""SparseML's recipes through the patched scripts, as their users bring them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT, Result
from safetensors.torch import load_file
from test_int8 import CLASSES, QA, squad

# As SparseML's files were: Markdown, variables, eval(), old keys, and quantization behind the pruning.
RECIPE = """<!-- a comment in front -->
---
num_epochs: 2
init_lr: 1e-3
quantization_start: eval(num_epochs - 1)

training_modifiers:
  - !EpochRangeModifier
      start_epoch: 0.0
      end_epoch: eval(num_epochs)
  - !LearningRateFunctionModifier
      lr_func: linear
      init_lr: eval(init_lr)
      final_lr: 0.0
      start_epoch: 0.0
      end_epoch: eval(num_epochs)
pruning_modifiers:
  - !MagnitudePruningModifier
      params:
        - re:bert.encoder.layer.*.attention.self.query.weight
        - re:bert.encoder.layer.*.output.dense.weight
      init_sparsity: 0.0
      final_sparsity: 0.8
      start_epoch: 0.2
      end_epoch: 0.9
      update_frequency: 0.01
      inter_func: cubic
      mask_type: unstructured
      leave_enabled: True
      log_types: __ALL__
quantization_modifiers:
  - !QuantizationModifier
      start_epoch: eval(quantization_start)
      disable_quantization_observer_epoch: eval(quantization_start + 0.5)
      freeze_bn_stats_epoch: eval(quantization_start + 0.5)
      submodules: [bert.embeddings, bert.encoder, qa_outputs]
distillation_modifiers:
  - !DistillationModifier
      hardness: 0.5
      temperature: 2.0
      distill_output_keys: [start_logits, end_logits]
---
# What it does
"""


def zeros(folder: Path, part: str) -> dict[str, float]:
    weights = load_file(folder / "model.safetensors")
    found = {k: w for k, w in weights.items() if k.startswith("bert.encoder") and k.endswith(part)}
    assert found
    return {name: int((weight == 0).sum()) - round(weight.numel() * 0.8) for name, weight in found.items()}


@pytest.mark.slow
def test_recipe_in_a_loop_of_its_own(
    run: Callable[..., Result],
    run_warm: Callable[..., Result],
    data: Path,
    embedded: Path,
    teachers: dict[str, Path],
    tmp_path: Path,
) -> None:
    recipe = tmp_path / "recipe.md"
    recipe.write_text(RECIPE)
    script = embedded / "run_squad.py"
    words = [
        *QA,
        *squad(data),
        "--do_train",
        "--recipe",
        recipe,
        "--distill_teacher",
        teachers["qa"],
        "--save_steps",
        2,
    ]
    whole, part = tmp_path / "whole", tmp_path / "part"
    export = ["--to-onnx", tmp_path / "m.onnx"]
    done = run(script, *words, *export, "--model_name_or_path", data / "model", "--output_dir", whole)
    assert "num_train_epochs is 2" in done.err and "the quantizers act from here on" in done.err
    assert not any(zeros(whole, "query.weight").values())
    assert "!MagnitudePruningModifier" in (whole / "recipe.yaml").read_text()
    # Between the quantization's start and its end, and before both, as if never interrupted.
    run_warm(script, *words, "--model_name_or_path", whole / "checkpoint-2", "--output_dir", part)
    left, right = (load_file(folder / "model.safetensors") for folder in (whole, part))
    assert left.keys() == right.keys() and not [name for name in left if not torch.equal(left[name], right[name])]
    # The file, the text and standard input are the same recipe; other variables are another one.
    error = run_warm(script, *words, "--recipe_args", "final=0.9", "--model_name_or_path", data / "model",
                     "--output_dir", tmp_path / "x", code=2).error  # fmt: skip
    assert "final" in error and not (tmp_path / "x").exists()
    # What only the model shows to be wrong leaves no file either, on which the corrected command would stumble.
    recipe.write_text(RECIPE.replace("attention.self.query", "attention.self.qwery"))
    folders = ["--model_name_or_path", data / "model", "--output_dir", tmp_path / "x"]
    assert "qwery" in run_warm(script, *words, *folders, code=2).error
    assert not [path for path in (tmp_path / "x").rglob("*") if path.is_file()]


@pytest.mark.slow
def test_shipped_recipe_by_the_trainer(
    run: Callable[..., Result],
    run_warm: Callable[..., Result],
    data: Path,
    embedded: Path,
    teachers: dict[str, Path],
    tmp_path: Path,
) -> None:
    recipe = ROOT / "nncf_configs/recipes/bert-base-12layers_prune80.md"
    words = [embedded / "run_xnli.py", *CLASSES, "--language", "en", "--data_dir", data / "xnli/en", "--do_train"]
    words += ["--model_name_or_path", data / "model", "--recipe", recipe, "--output_dir", tmp_path / "out"]
    arguments = json.dumps(
        {"num_epochs": 1, "pruning_start_epoch": 0.1, "pruning_end_epoch": 0.8, "update_frequency": 0.05}
    )
    error = run_warm(*words, "--recipe_args", arguments, "--distill_teacher", teachers["nli"], code=2).error
    assert "start_logits" in error and "logits" in error
    run(*words, "--recipe_args", arguments, "--distill_teacher", "disable")
    assert not any(zeros(tmp_path / "out", "dense.weight").values())
