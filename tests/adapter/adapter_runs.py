"""Train, save and load adapters of tiny models."""

import gc
import json
from pathlib import Path
from typing import Any

import adapters  # noqa: F401
import nncf.torch  # noqa: F401
import torch
from datasets import Dataset
from tiny import HEADS, tiny_batches, tiny_model
from torch import nn

from nncf_transformers.hf import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments
from nncf_transformers.inputs import call_model, synthetic_inputs

# Every training collects garbage; it need not look through what the libraries made, which takes longer than the rest.
gc.freeze()

# What the library writes for an adapter and its head.
FILES = ["adapter.safetensors", "adapter_config.json", "head_config.json", "model_head.safetensors"]


def base(folder: Path, family: str = "bert", head: str = "qa", **sizes: Any) -> Path:
    """Save a random model."""
    tiny_model(family, head, **sizes).save_pretrained(folder)
    return folder


def load(folder: Path, head: str = "qa") -> Any:
    """Load a model as the scripts do."""
    return HEADS[head].from_pretrained(folder)


def dataset(model: nn.Module, rows: int = 16) -> Dataset:
    batches = tiny_batches(model, count=rows // 4)
    return Dataset.from_list(
        [{name: t[i].tolist() for name, t in batch.items()} for batch in batches for i in range(4)]
    )


def trainer(out: Path, model: Any, **arguments: Any) -> Any:
    """Make a Trainer that learns quickly; without ``train_adapter=False`` it trains an adapter."""
    settings = {
        "output_dir": str(out),
        "do_train": True,
        "use_cpu": True,
        "report_to": "none",
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_steps": 2,
        "disable_tqdm": True,
        "seed": 3,
        "train_adapter": True,
    }
    seq2seq = "decoder_start_token_id" in model.config.to_diff_dict()
    kinds: Any = (Seq2SeqTrainer, Seq2SeqTrainingArguments) if seq2seq else (Trainer, TrainingArguments)
    given = {name: str(value) if isinstance(value, Path) else value for name, value in (settings | arguments).items()}
    data = dataset(model)
    return kinds[0](model=model, args=kinds[1](**given), train_dataset=data, eval_dataset=data.select(range(8)))


def train(out: Path, model: Any, **arguments: Any) -> Any:
    """Train and save as a script does; gives the trained model in evaluation mode."""
    run = trainer(out, model, **arguments)
    run.train()
    run.save_model()
    return run.model.eval()


def reload(tmp_path: Path, model: Any, adapter: Path, **arguments: Any) -> Any:
    """Load an adapter for evaluation, as a script does."""
    return trainer(tmp_path / "reloaded", model, load_adapter=adapter, do_train=False, do_eval=True, **arguments).model


def logits(model: Any) -> torch.Tensor:
    """All results of a model for made-up inputs, one after the other."""
    with torch.no_grad():
        return torch.cat([t.flatten() for t in call_model(model.eval(), synthetic_inputs(model, 2, 16))])


def int8_json(folder: Path, **settings: Any) -> Path:
    path = folder / "int8.json"
    quantization = {"algorithm": "quantization", "calibration_samples": 8, **settings}
    path.write_text(json.dumps({"algorithms": [quantization]}))
    return path


def files(folder: Path) -> list[str]:
    """All files below a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
