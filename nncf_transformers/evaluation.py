"""Task metrics, latency and size of a model in any runtime, measured the same way for all of them."""

import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nncf_transformers.errors import UsageError
from nncf_transformers.runtimes import Inputs, Outputs, Runtime

Example = Mapping[str, Any]

# The label of a token that does not count, as in Transformers.
IGNORED = -100
_TOKENS_AT_ONCE = 512


def squad_predictions(
    runtime: Runtime,
    tokenizer: Any,
    examples: Sequence[Example],
    *,
    max_seq_length: int = 384,
    doc_stride: int = 128,
    n_best: int = 20,
    max_answer_length: int = 30,
    batch_size: int = 16,
) -> dict[str, str]:
    """Answer the questions of a SQuAD 1.1 file.

    A context that is too long is read through windows that overlap by ``doc_stride`` tokens. The answer is the span
    with the largest sum of start and end logit over all windows, among the ``n_best`` starts and ends of each.

    Args:
        runtime: a question-answering model.
        tokenizer: a fast tokenizer.
        examples: with id, question, context.
        max_seq_length: tokens of a window, question and special tokens included.
        doc_stride: overlap of two windows, in tokens.
        n_best: candidates for a start and for an end.
        max_answer_length: in tokens.
        batch_size: windows a call; they are sorted by length and padded to the longest of the batch.

    Returns:
        The answer's text by id; empty where no span is valid.
    """
    windows = tokenizer(
        [example["question"].lstrip() for example in examples],
        [example["context"] for example in examples],
        truncation="only_second",
        max_length=max_seq_length,
        stride=doc_stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    owners = windows["overflow_to_sample_mapping"]
    best: dict[int, tuple[float, str]] = {}
    for rows, outputs in in_batches(runtime, tokenizer, windows, batch_size):
        for row, start, end in zip(rows, *outputs, strict=True):
            context = examples[owners[row]]["context"]
            offsets = [
                offset if part == 1 else None
                for offset, part in zip(windows["offset_mapping"][row], windows.sequence_ids(row), strict=True)
            ]
            candidate = _best_span(start, end, offsets, n_best, max_answer_length)
            if candidate is not None and candidate[0] > best.get(owners[row], (-np.inf, ""))[0]:
                best[owners[row]] = (candidate[0], context[candidate[1] : candidate[2]])
    return {example["id"]: best.get(i, (0.0, ""))[1] for i, example in enumerate(examples)}


def cut_questions(tokenizer: Any, questions: Sequence[str], max_tokens: int) -> list[str]:
    """Cut questions after ``max_tokens`` tokens, as text."""
    encoded = tokenizer(list(questions), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [
        question if len(offsets) <= max_tokens else question[: offsets[max_tokens - 1][1]]
        for question, offsets in zip(questions, encoded["offset_mapping"], strict=True)
    ]


def class_predictions(
    runtime: Runtime, tokenizer: Any, texts: Sequence[Sequence[str]], *, max_seq_length: int = 128, batch_size: int = 32
) -> list[int]:
    """Classify texts, or pairs of texts.

    Args:
        runtime: a sequence-classification model.
        tokenizer: any tokenizer.
        texts: one tuple of one or two strings for each sample.
        max_seq_length: longer samples are cut.
        batch_size: samples a call.

    Returns:
        The index of the largest logit for each sample.
    """
    encoded = tokenizer(*map(list, zip(*texts, strict=True)), truncation=True, max_length=max_seq_length)
    classes = [0] * len(texts)
    for rows, (logits, *_) in in_batches(runtime, tokenizer, encoded, batch_size):
        for row, index in zip(rows, logits.argmax(-1), strict=True):
            classes[row] = int(index)
    return classes


def perplexity(runtime: Runtime, batches: Iterable[Mapping[str, np.ndarray]], *, causal: bool) -> float:
    """Measure how well a language model foretells tokens: exp(sum of their losses / number of them).

    The loss of a token is -ln of the probability that the model gives to it, summed in float64. Every token weighs the
    same. Upstream's run_clm divides by the first token of each block, too, which nothing foretells: its loss is smaller
    by that share.

    Args:
        runtime: a language model, its first output the logits, (batch, sequence, vocabulary).
        batches: the model's inputs, and ``labels`` of shape (batch, sequence) with -100 for what does not count:
            padding, and all but the masked tokens of a masked model. A mask that is missing is all ones.
        causal: whether logits speak of the next position's label (GPT-2), and not of their own (masked models, and
            decoders, which read the labels shifted already).

    Returns:
        The perplexity, from 1 up; infinite where the mean loss is too large for a float.

    Raises:
        UsageError: no label counts.
    """
    total, count = 0.0, 0
    for batch in batches:
        labels = np.asarray(batch["labels"])
        inputs = {name: array for name, array in batch.items() if name != "labels"}
        if "attention_mask" not in inputs:
            inputs["attention_mask"] = np.ones_like(np.asarray(inputs["input_ids"]))
        logits = runtime(inputs)[0]
        if causal:
            logits, labels = logits[:, :-1], labels[:, 1:]
        rows, tokens = np.nonzero(labels != IGNORED)
        # A few at a time: a vocabulary in float64 is large.
        for first in range(0, len(rows), _TOKENS_AT_ONCE):
            part = slice(first, first + _TOKENS_AT_ONCE)
            chosen = logits[rows[part], tokens[part]].astype(np.float64)
            total += _cross_entropy(chosen, labels[rows[part], tokens[part]])
        count += len(rows)
    if not count:
        raise UsageError("perplexity: there is no token to foretell in the data; give longer texts")
    with np.errstate(over="ignore"):
        return float(np.exp(total / count))


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Sum of -ln softmax(logits)[label]; (tokens, vocabulary) and (tokens,)."""
    largest = logits.max(-1, keepdims=True)
    norms = np.log(np.exp(logits - largest).sum(-1)) + largest[:, 0]
    return float((norms - logits[np.arange(len(labels)), labels]).sum())


def latency_ms(
    runtimes: Mapping[str, Runtime], inputs: Inputs, repeats: int = 30, warm_up: int = 3
) -> dict[str, float]:
    """Median milliseconds of one call, the runtimes taking turns so that noise hits all of them alike.

    Args:
        runtimes: by name.
        inputs: one batch, the same for all.
        repeats: measured calls of each.
        warm_up: calls of each that are not measured.
    """
    times: dict[str, list[float]] = {name: [] for name in runtimes}
    for turn in range(warm_up + repeats):
        for name, runtime in runtimes.items():
            start = time.perf_counter()
            runtime(inputs)
            if turn >= warm_up:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def in_batches(runtime: Runtime, tokenizer: Any, encoded: Any, batch_size: int) -> Iterator[tuple[list[int], Outputs]]:
    """Run all rows of ``encoded``, those of like length together; yields row numbers and their outputs."""
    order = sorted(range(len(encoded["input_ids"])), key=lambda row: len(encoded["input_ids"][row]))
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in encoded]
        width = max(len(encoded["input_ids"][row]) for row in rows)
        padding = {"input_ids": tokenizer.pad_token_id or 0, "attention_mask": 0, "token_type_ids": 0}
        batch = {name: np.full((len(rows), width), padding[name], np.int64) for name in names}
        for name in names:
            for i, row in enumerate(rows):
                batch[name][i, : len(encoded[name][row])] = encoded[name][row]
        yield rows, runtime(batch)


def _best_span(
    start: np.ndarray, end: np.ndarray, offsets: Sequence[tuple[int, int] | None], n_best: int, max_length: int
) -> tuple[float, int, int] | None:
    """The best valid span of one window as (score, first character, end character)."""
    best: tuple[float, int, int] | None = None
    starts = np.argsort(start[: len(offsets)])[::-1][:n_best]
    ends = np.argsort(end[: len(offsets)])[::-1][:n_best]
    for i in starts:
        for j in ends:
            first, last = offsets[i], offsets[j]
            if first is None or last is None or not i <= j < i + max_length:
                continue
            score = float(start[i] + end[j])
            if best is None or score > best[0]:
                best = (score, first[0], last[1])
    return best
