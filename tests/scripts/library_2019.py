"""Run by the interpreter of pin v2.2, whose library is of 2019.

make OUT: quantize, train, save, reload and export a tiny model of each family; write its logits beside it.
read DIR...: load checkpoints of a newer library; write their logits.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from nncf_transformers.compression import Compression
from nncf_transformers.config import parse_config
from nncf_transformers.export import export_model
from nncf_transformers.inputs import call_model, synthetic_inputs
from nncf_transformers.seams_v2 import compressible

SIZES = {"vocab_size_or_config_json_file": 200, "initializer_range": 0.3, "max_position_embeddings": 128}
BERT = SIZES | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
DISTILBERT = SIZES | {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
FAMILIES = {
    "bert": ("BertForQuestionAnswering", BERT),
    "roberta": ("RobertaForSequenceClassification", BERT | {"type_vocab_size": 1}),
    "distilbert": ("DistilBertForQuestionAnswering", DISTILBERT),
}


def logits(model: Any) -> np.ndarray:
    """The outputs on made-up inputs, which depend on the sizes only."""
    with torch.no_grad():
        outputs = call_model(model.eval(), synthetic_inputs(model, 3, 20))
    return np.concatenate([output.numpy().ravel() for output in outputs])


def load(family: str, folder: Path) -> Any:
    """Load a checkpoint as the patched scripts do."""
    original = getattr(transformers, FAMILIES[family][0])
    return compressible({family: (None, original, None)})[family][1].from_pretrained(str(folder))


def make(out: Path) -> None:
    for family, (name, sizes) in FAMILIES.items():
        torch.manual_seed(0)
        cls = getattr(transformers, name)
        model = cls(cls.config_class(**sizes)).eval()
        batches = [synthetic_inputs(model, 4, 24, seed=seed) for seed in range(2)]
        compression = Compression(
            parse_config(
                {"algorithms": [{"algorithm": "quantization", "calibration_samples": 8, "smooth_quant": 0.95}]}, "-"
            )
        )
        compression.start(model, batches)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        compression.add_to(optimizer, model)
        model.train()
        sum(output.square().mean() for output in call_model(model, batches[0])).backward()
        optimizer.step()
        folder = out / family
        folder.mkdir(parents=True)
        model.save_pretrained(str(folder))
        expected = logits(model)
        assert np.array_equal(logits(load(family, folder)), expected), f"{family}: the reloaded model is another one"
        export_model(load(family, folder).eval(), to_onnx=f"{folder}.onnx", to_openvino=f"{folder}-ir")
        np.save(folder / "logits.npy", expected)


def read(folders: list[str]) -> None:
    for folder in map(Path, folders):
        np.save(folder / "logits-2019.npy", logits(load(folder.name, folder)))


if __name__ == "__main__":
    make(Path(sys.argv[2])) if sys.argv[1] == "make" else read(sys.argv[2:])
