"""Exported models whose results are known: made by hand, in OpenVINO, in a moment."""

import json
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino import opset13 as ops

from demo.model import build_vocabulary, write_tokenizer
from nncf_transformers.export.openvino import XML

SIZE = 16


def heed_ctrl_c() -> None:
    """In a child process: be ended by Ctrl-C, though what a shell started in the background ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def write_pointing_model(
    folder: Path, texts: Sequence[str], points: Mapping[str, tuple[float, float]], positions: int = 512
) -> Path:
    """Write a question-answering model that points at certain words, whatever the question.

    Args:
        folder: made if missing.
        texts: of which every word is one token.
        points: for a word its logits as a start and as an end; those of the others are 0.
        positions: what the configuration names as the longest sequence.
    """
    vocabulary = _write_rest(folder, texts, positions)
    table = np.zeros((len(vocabulary), 2), np.float32)
    for word, logits in points.items():
        table[vocabulary.index(word)] = logits

    def outputs(ids: Any) -> dict[str, Any]:
        columns = (ops.constant(table[:, i].copy()) for i in range(2))
        return dict(zip(("start_logits", "end_logits"), (_rows(column, ids) for column in columns), strict=True))

    return _save(folder, outputs)


def write_word_counting_model(folder: Path, texts: Sequence[str], seed: int = 0, positions: int = 512) -> Path:
    """Write an embedding model, the mean of one random vector a word: texts that share words are near each other."""
    vocabulary = _write_rest(folder, texts, positions)
    table = np.random.default_rng(seed).normal(size=(len(vocabulary), SIZE)).astype(np.float32)
    # Neither padding nor what every text has counts.
    first = vocabulary.index("[MASK]") + 1
    table[:first] = 0

    def outputs(ids: Any) -> dict[str, Any]:
        words = ops.convert(ops.greater_equal(ids, ops.constant(np.int64(first))), np.float32)
        count = ops.maximum(ops.reduce_sum(words, ops.constant([1]), keep_dims=True), ops.constant(np.float32(1)))
        return {"embedding": ops.divide(ops.reduce_sum(_rows(ops.constant(table), ids), ops.constant([1])), count)}

    return _save(folder, outputs)


def _write_rest(folder: Path, texts: Sequence[str], positions: int) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = build_vocabulary(texts)
    write_tokenizer(folder, vocabulary)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "max_position_embeddings": positions}))
    return vocabulary


def _rows(table: Any, ids: Any) -> Any:
    return ops.gather(table, ids, ops.constant(0))


def _save(folder: Path, outputs: Callable[[Any], dict[str, Any]]) -> Path:
    ids = ops.parameter([-1, -1], np.int64)
    ids.output(0).get_tensor().set_names({"input_ids"})
    nodes = outputs(ids)
    for name, node in nodes.items():
        node.output(0).get_tensor().set_names({name})
    openvino.save_model(openvino.Model(list(nodes.values()), [ids]), folder / XML, compress_to_fp16=False)
    return folder
