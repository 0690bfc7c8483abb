"""What belongs to an adapter because it is nowhere else, and checkpoints that do not belong together."""

import shutil
from pathlib import Path

import pytest
import torch
from adapter_runs import base, int8_json, load, logits, reload, train, trainer
from tiny import HEADS
from transformers import AutoConfig

from nncf_transformers.adapter.folder import find_adapter
from nncf_transformers.adapter.merge import merge_adapter
from nncf_transformers.adapter.share import export_adapters
from nncf_transformers.errors import UsageError


def test_a_pooler_that_the_base_lacks_goes_with_the_head(tmp_path: Path) -> None:
    folder = base(tmp_path / "base")
    torch.manual_seed(1)
    trained = train(tmp_path / "out", load(folder, "classes"), save_strategy="no")
    torch.manual_seed(2)
    again = reload(tmp_path, load(folder, "classes"), tmp_path / "out")
    assert torch.equal(logits(again), logits(trained))


def test_a_model_made_from_another_ones_configuration_is_saved(tmp_path: Path) -> None:
    folder = base(tmp_path / "base")
    torch.manual_seed(1)
    made = HEADS["qa"].from_config(AutoConfig.from_pretrained(folder))
    assert made.config._name_or_path == str(folder)
    trained = train(tmp_path / "out", made)
    again = reload(tmp_path, load(tmp_path / "out" / "base_model"), tmp_path / "out")
    assert torch.equal(logits(again), logits(trained))
    train(tmp_path / "loaded", load(folder), max_steps=1)
    assert not (tmp_path / "loaded" / "base_model").exists()


def test_tasks_of_any_name_on_a_base_without_a_head(tmp_path: Path) -> None:
    folder = base(tmp_path / "base", head="masked")
    outs = [tmp_path / "whole", tmp_path / "zeta"]
    for out in outs:
        train(out, load(folder), max_steps=1, save_strategy="no")
    for seed, out in enumerate(outs):
        # The base has no head of this class: it is another one with every load.
        torch.manual_seed(seed)
        export_adapters(str(folder), [str(out)], str(tmp_path / "tasks"))
    assert {"whole.onnx", "zeta.onnx", "base.weights"} <= {path.name for path in (tmp_path / "tasks").iterdir()}


def test_a_stack_is_known_by_the_adapters_own_folder(tmp_path: Path) -> None:
    folder = base(tmp_path / "base")
    train(tmp_path / "en", load(folder), adapter_config="lora", adapter_name="en", max_steps=1)
    out = tmp_path / "out"
    train(out, load(folder), adapter_config="lora", adapter_name="task", load_lang_adapter=tmp_path / "en", max_steps=1)
    below = find_adapter("--adapter", str(out / "task")).language
    assert below is not None and below.name == "en"
    with pytest.raises(UsageError, match="a stack of adapters cannot be merged"):
        merge_adapter(str(folder), str(out / "task"), str(tmp_path / "merged"))


def test_resuming_what_is_another_run(tmp_path: Path) -> None:
    folder, out = base(tmp_path / "base"), tmp_path / "out"
    train(out, load(folder), adapter_config="lora[alpha=8]")
    other = trainer(out, load(folder), adapter_config="lora[alpha=16]")
    with pytest.raises(UsageError, match="another configuration"):
        other.train(resume_from_checkpoint=str(out / "checkpoint-2"))
    shutil.copytree(out / "checkpoint-2", tmp_path / "copy")
    (tmp_path / "copy" / "optimizer.pt").unlink()
    same = trainer(out, load(folder), adapter_config="lora[alpha=8]")
    with pytest.raises(UsageError, match=r"no optimizer\.pt"):
        same.train(resume_from_checkpoint=str(tmp_path / "copy"))


def test_int8_checkpoints_with_and_without_an_adapter(tmp_path: Path) -> None:
    folder, config = base(tmp_path / "base"), int8_json(tmp_path)
    train(tmp_path / "plain", load(folder), train_adapter=False, nncf_config=config)
    train(tmp_path / "fp32", load(folder), max_steps=1)
    mixed = trainer(tmp_path / "x", load(folder), nncf_config=config)
    with pytest.raises(UsageError, match="compressed without one"):
        mixed.train(resume_from_checkpoint=str(tmp_path / "plain" / "checkpoint-2"))
    train(tmp_path / "qat", load(folder), load_adapter=tmp_path / "fp32", nncf_config=config, max_steps=1)
    with pytest.raises(UsageError, match="drop the flag"):
        reload(tmp_path, load(tmp_path / "qat"), tmp_path / "fp32")
