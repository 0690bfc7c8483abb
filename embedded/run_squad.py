#!/usr/bin/env python
"""Fine-tune an encoder for extractive question answering on SQuAD-format JSON, with a hand-written loop.

    python run_squad.py --model_type bert --model_name_or_path MODEL --do_train --do_eval \
        --train_file train-v1.1.json --predict_file dev-v1.1.json --output_dir OUT
    torchrun --nproc_per_node 2 run_squad.py ...    # gloo without a GPU, nccl with one

The command line is that of the legacy run_squad.py of 🤗 Transformers, without fp16 through apex, the beam
heads of XLNet and XLM, tensorflow_datasets and remote debugging. Several GPUs are used through torchrun only.
"""

import argparse
import collections
import functools
import json
import logging
import math
import multiprocessing
import os
import re
import string
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    get_linear_schedule_with_warmup,
    set_seed,
)

logger = logging.getLogger(__name__)

MODELS_WITHOUT_TOKEN_TYPES = {"bart", "camembert", "distilbert", "longformer", "mpnet", "roberta", "xlm"}


class InputError(Exception):
    """A mistake in the flags or the data: reported as one line, without a traceback."""


class Example(NamedTuple):
    """One question; `answers` holds (text, first character) pairs, none if it is unanswerable."""

    qid: str
    question: str
    context: str
    answers: list[tuple[str, int]]


class Window(NamedTuple):
    """One model input; `offsets` has the characters of each context token, None for any other token."""

    input_ids: list[int]
    attention_mask: list[int]
    token_type_ids: list[int]
    offsets: list[tuple[int, int] | None]


def read_examples(args: argparse.Namespace, evaluate: bool) -> list[Example]:
    """Read the train or the dev file.

    Raises:
        InputError: The file is missing, not JSON, not in SQuAD's layout, or lacks the answers it should have.
    """
    split, given = ("dev", args.predict_file) if evaluate else ("train", args.train_file)
    if not given and not args.data_dir:
        raise InputError(f"no {split} data: give --train_file and --predict_file, or --data_dir")
    version = "v2.0" if args.version_2_with_negative else "v1.1"
    path = Path(args.data_dir or "", given or f"{split}-{version}.json")
    examples = []
    try:
        paragraphs = [p for article in json.loads(path.read_bytes())["data"] for p in article["paragraphs"]]
        for paragraph in paragraphs:
            for item in paragraph["qas"]:
                answers = [(answer["text"], answer["answer_start"]) for answer in item.get("answers", [])]
                examples.append(Example(str(item["id"]), item["question"], paragraph["context"], answers))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON, perhaps truncated: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not in SQuAD's layout (data, paragraphs, qas): {error!r}") from error
    if not examples:
        raise InputError(f"{path} holds no questions")
    unanswered = [example.qid for example in examples if not example.answers]
    if unanswered and not args.version_2_with_negative:
        count = f"{len(unanswered)} of {len(examples)} questions have no answers (first: {unanswered[0]})"
        raise InputError(f"{path}: {count}; add them, or pass --version_2_with_negative if that is meant")
    return examples


def make_windows(args: argparse.Namespace, tokenizer, example: Example) -> list[Window]:
    """Tokenize one question and its context into windows that advance by doc_stride tokens."""
    question = tokenizer(
        example.question,
        add_special_tokens=False,
        truncation=True,
        max_length=args.max_query_length,
        return_offsets_mapping=True,
    )
    kept_characters = question["offset_mapping"][-1][1] if question["input_ids"] else 0
    special_tokens = tokenizer.num_special_tokens_to_add(pair=True)
    room = args.max_seq_length - len(question["input_ids"]) - special_tokens
    if room < 1:
        raise InputError(f"--max_seq_length {args.max_seq_length} leaves no room beside question {example.qid}")
    rows = tokenizer(
        example.question[:kept_characters],
        example.context,
        truncation="only_second",
        padding="max_length",
        max_length=args.max_seq_length,
        stride=max(0, room - args.doc_stride),  # the overlap, where doc_stride is the advance
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
    )
    windows = []
    for row, spans in enumerate(rows["offset_mapping"]):
        offsets = [span if part == 1 else None for span, part in zip(spans, rows.sequence_ids(row), strict=True)]
        inputs = (rows[name][row] for name in ("input_ids", "attention_mask", "token_type_ids"))
        windows.append(Window(*inputs, offsets))
    return windows


def tokenize(args: argparse.Namespace, tokenizer, examples: list[Example]) -> list[list[Window]]:
    """Return the windows of each example, made by --threads processes."""
    work = functools.partial(make_windows, args, tokenizer)
    if args.threads <= 1:
        return [work(example) for example in examples]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # it warns when forked otherwise
    with multiprocessing.Pool(args.threads) as pool:
        return pool.map(work, examples, chunksize=64)


def model_tensors(windows: list[Window]) -> tuple[torch.Tensor, ...]:
    """Return input_ids, attention_mask and token_type_ids, each (windows, max_seq_length)."""
    return tuple(torch.tensor(rows) for rows in list(zip(*windows, strict=True))[:3])


def model_inputs(args: argparse.Namespace, batch: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Name a batch's tensors as the model's forward() does."""
    names = ("input_ids", "attention_mask", "token_type_ids", "start_positions", "end_positions")
    inputs = {name: tensor.to(args.device) for name, tensor in zip(names, batch, strict=False)}
    if args.model_type in MODELS_WITHOUT_TOKEN_TYPES:
        del inputs["token_type_ids"]
    return inputs


def answer_tokens(window: Window, example: Example, cls_token_id: int) -> tuple[int, int]:
    """Return the answer's first and last token, or the CLS token twice if the window lacks part of it."""
    if example.answers:
        text, first = example.answers[0]
        last = first + len(text) - 1
        tokens = [i for i, span in enumerate(window.offsets) if span and span[0] <= last and span[1] > first]
        if tokens and window.offsets[tokens[0]][0] <= first and window.offsets[tokens[-1]][1] > last:
            return tokens[0], tokens[-1]
    cls = window.input_ids.index(cls_token_id)
    return cls, cls


def make_train_dataset(args: argparse.Namespace, tokenizer) -> TensorDataset:
    """Return input_ids, attention_mask, token_type_ids, each (windows, length), and start, end positions."""
    examples = read_examples(args, evaluate=False)
    windows, positions = [], []
    for example, rows in zip(examples, tokenize(args, tokenizer, examples), strict=True):
        windows += rows
        positions += [answer_tokens(window, example, tokenizer.cls_token_id) for window in rows]
    return TensorDataset(*model_tensors(windows), *torch.tensor(positions).unbind(dim=1))


def is_main_process(args: argparse.Namespace) -> bool:
    """Tell whether this process writes the files and the log."""
    return args.local_rank == -1 or torch.distributed.get_rank() == 0


def save_checkpoint(args: argparse.Namespace, model, tokenizer, optimizer, scheduler, global_step: int) -> None:
    """Write checkpoint-N: the model and what is needed to continue."""
    folder = Path(args.output_dir, f"checkpoint-{global_step}")
    getattr(model, "module", model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.save(args, folder / "training_args.bin")
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    torch.save(scheduler.state_dict(), folder / "scheduler.pt")
    logger.info("Saved %s", folder)


def load_training_state(args: argparse.Namespace, optimizer, scheduler) -> int:
    """Restore optimizer and scheduler if the model is a checkpoint-N of ours; return the steps done."""
    folder = Path(args.model_name_or_path)
    name = re.fullmatch(r"checkpoint-(\d+)", folder.name)
    if not name or not (folder / "optimizer.pt").is_file() or not (folder / "scheduler.pt").is_file():
        return 0
    for state, file_name in (optimizer, "optimizer.pt"), (scheduler, "scheduler.pt"):
        state.load_state_dict(torch.load(folder / file_name, map_location=args.device, weights_only=True))
    logger.info("Continuing from step %s", name[1])
    return int(name[1])


def parameter_groups(model, weight_decay: float) -> list[dict]:
    """Exempt biases and LayerNorm from weight decay."""
    exempt = ("bias", "LayerNorm.weight")
    decayed = [p for name, p in model.named_parameters() if not name.endswith(exempt)]
    others = [p for name, p in model.named_parameters() if name.endswith(exempt)]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def train(args, train_dataset, model, tokenizer):
    """Train the model in place.

    Returns:
        The number of optimizer steps done in all, and the mean loss of those done by this call.
    """
    distributed = args.local_rank != -1
    world_size = torch.distributed.get_world_size() if distributed else 1
    rank = torch.distributed.get_rank() if distributed else 0

    sampler = DistributedSampler(train_dataset, num_replicas=world_size, rank=rank, seed=args.seed)
    loader = DataLoader(train_dataset, sampler=sampler, batch_size=args.per_gpu_train_batch_size)
    accumulate = args.gradient_accumulation_steps
    t_total = args.max_steps if args.max_steps > 0 else int(len(loader) * args.num_train_epochs) // accumulate

    # Optimizer and schedule
    optimizer_grouped_parameters = parameter_groups(model, args.weight_decay)
    optimizer = torch.optim.AdamW(optimizer_grouped_parameters, lr=args.learning_rate, eps=args.adam_epsilon)
    scheduler = get_linear_schedule_with_warmup(
        optimizer, num_warmup_steps=args.warmup_steps, num_training_steps=t_total
    )

    global_step = first_step = load_training_state(args, optimizer, scheduler)
    if distributed:
        devices = [args.device] if args.device.type == "cuda" else None
        model = torch.nn.parallel.DistributedDataParallel(model, devices, find_unused_parameters=True)

    # Not before everything is known to be right: a folder that is not empty is refused the next time.
    tb_writer = SummaryWriter(os.path.join(args.output_dir, "runs")) if is_main_process(args) else None
    logger.info("***** Running training *****")
    logger.info("  %d windows, %d processes, %d steps", len(train_dataset), world_size, t_total)
    loss_sum = logged_loss = 0.0
    batches_done, batches_total = global_step * accumulate, t_total * accumulate
    progress = tqdm(total=t_total, initial=global_step, desc="Training", disable=not sys.stderr.isatty())
    model.zero_grad()
    for epoch in range(batches_done // len(loader), math.ceil(batches_total / len(loader))):
        sampler.set_epoch(epoch)
        for step, batch in enumerate(loader, start=epoch * len(loader)):
            if not batches_done <= step < batches_total:
                continue
            # Seeded by step, a continued run draws the same dropout masks as an uninterrupted one.
            set_seed(args.seed + step)
            model.train()
            loss = model(**model_inputs(args, batch))[0] / accumulate
            loss.backward()
            loss_sum += loss.item()
            if (step + 1) % accumulate:
                continue

            torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
            optimizer.step()
            scheduler.step()  # Update learning rate schedule
            model.zero_grad()
            global_step += 1
            progress.update()

            # Log metrics
            if tb_writer and args.logging_steps > 0 and global_step % args.logging_steps == 0:
                mean_loss, logged_loss = (loss_sum - logged_loss) / args.logging_steps, loss_sum
                logger.info("step %d/%d loss %.4f", global_step, t_total, mean_loss)
                tb_writer.add_scalar("lr", scheduler.get_last_lr()[0], global_step)
                tb_writer.add_scalar("loss", mean_loss, global_step)
                if not distributed and args.evaluate_during_training:
                    for key, value in evaluate(args, model, tokenizer, prefix=global_step).items():
                        tb_writer.add_scalar(f"eval_{key}", value, global_step)

            # Save model checkpoint
            if tb_writer and args.save_steps > 0 and global_step % args.save_steps == 0:
                save_checkpoint(args, model, tokenizer, optimizer, scheduler, global_step)

    progress.close()
    if tb_writer:
        tb_writer.close()
    return global_step, loss_sum / max(1, global_step - first_step)


def n_best_spans(args: argparse.Namespace, start_logits, end_logits, offsets) -> list[tuple]:
    """Return one window's valid spans as (start logit, end logit, first character, last character + 1)."""
    size = min(args.n_best_size, len(offsets))
    (start_values, starts), (end_values, ends) = start_logits.topk(size), end_logits.topk(size)
    spans = []
    for start_logit, start in zip(start_values.tolist(), starts.tolist(), strict=True):
        for end_logit, end in zip(end_values.tolist(), ends.tolist(), strict=True):
            if start <= end < start + args.max_answer_length and offsets[start] and offsets[end]:
                spans.append((start_logit, end_logit, offsets[start][0], offsets[end][1]))
    return spans


def pick_answer(args: argparse.Namespace, example: Example, outputs: list[tuple]) -> tuple[str, list[dict], float]:
    """Choose among the spans of all windows of a question.

    Args:
        args: The flags.
        example: The question.
        outputs: One (start logits, end logits, token offsets, position of CLS) for each window.

    Returns:
        The answer ("" for none), the n best candidates, and the null score minus the best score.
    """
    spans = {span for window in outputs for span in n_best_spans(args, *window[:3])}
    candidates = {}
    for start_logit, end_logit, first, end in sorted(spans, key=lambda span: -(span[0] + span[1])):
        if len(candidates) < args.n_best_size:
            candidates.setdefault(example.context[first:end], (start_logit, end_logit))
    best = next(iter(candidates), "")
    null_logits = min(((start[cls].item(), end[cls].item()) for start, end, _, cls in outputs), key=sum)
    null_odds = sum(null_logits) - sum(candidates.get(best, null_logits))
    if args.version_2_with_negative or not candidates:
        candidates[""] = null_logits
        if null_odds > args.null_score_diff_threshold:
            best = ""

    ranked = sorted(candidates.items(), key=lambda item: -sum(item[1]))
    probabilities = torch.tensor([sum(logits) for _, logits in ranked]).softmax(dim=0).tolist()
    table = [
        {"text": text, "probability": probability, "start_logit": start_logit, "end_logit": end_logit}
        for (text, (start_logit, end_logit)), probability in zip(ranked, probabilities, strict=True)
    ]
    return best, table, null_odds


def normalize(text: str) -> list[str]:
    """Return the words that SQuAD's metrics compare: lower case, without punctuation and articles."""
    bare = "".join(char for char in text.lower() if char not in string.punctuation)
    return [word for word in bare.split() if word not in ("a", "an", "the")]


def f1_score(prediction: str, gold: str) -> float:
    """Return the word-overlap F1 of two answers, in 0..1."""
    predicted, expected = normalize(prediction), normalize(gold)
    common = sum((collections.Counter(predicted) & collections.Counter(expected)).values())
    if not common:
        return float(predicted == expected)
    return 2 * common / (len(predicted) + len(expected))


def score(examples: list[Example], predictions: dict[str, str]) -> dict[str, float]:
    """Return exact match and F1 in percent, of all questions and of those with and without an answer."""
    parts = collections.defaultdict(list)
    for example in examples:
        prediction, golds = predictions[example.qid], [text for text, _ in example.answers] or [""]
        exact = max(normalize(prediction) == normalize(gold) for gold in golds)
        f1 = max(f1_score(prediction, gold) for gold in golds)
        for part in "", "HasAns_" if example.answers else "NoAns_":
            parts[part].append((exact, f1))
    results = {}
    for part, scores in parts.items():
        results[f"{part}exact"] = 100.0 * sum(exact for exact, _ in scores) / len(scores)
        results[f"{part}f1"] = 100.0 * sum(f1 for _, f1 in scores) / len(scores)
        results[f"{part}total"] = len(scores)
    return results


def evaluate(args, model, tokenizer, prefix=""):
    """Predict the dev file, write predictions_*.json and nbest_predictions_*.json, and return the scores."""
    examples = read_examples(args, evaluate=True)
    windows = tokenize(args, tokenizer, examples)
    dataset = TensorDataset(*model_tensors([window for rows in windows for window in rows]))
    logger.info("***** Running evaluation %s *****", prefix)
    logger.info("  %d questions, %d windows", len(examples), len(dataset))

    model.eval()
    logits = []
    for batch in tqdm(
        DataLoader(dataset, batch_size=args.per_gpu_eval_batch_size),
        "Evaluating",
        disable=not sys.stderr.isatty(),
    ):
        with torch.no_grad():
            start, end = model(**model_inputs(args, batch))[:2]
        logits += zip(start.float().cpu(), end.float().cpu(), strict=True)

    predictions, n_best, null_odds = {}, {}, {}
    remaining = iter(logits)
    for example, rows in zip(examples, windows, strict=True):
        cls = [row.input_ids.index(tokenizer.cls_token_id) for row in rows]
        outputs = [(*next(remaining), row.offsets, at) for row, at in zip(rows, cls, strict=True)]
        qid = example.qid
        predictions[qid], n_best[qid], null_odds[qid] = pick_answer(args, example, outputs)

    write_json(Path(args.output_dir, f"predictions_{prefix}.json"), predictions)
    write_json(Path(args.output_dir, f"nbest_predictions_{prefix}.json"), n_best)
    if args.version_2_with_negative:
        write_json(Path(args.output_dir, f"null_odds_{prefix}.json"), null_odds)
    return score(examples, predictions)


def write_json(path: Path, content: dict) -> None:
    """Write indented JSON, creating the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of upstream's flags, with upstream's defaults."""
    parser = argparse.ArgumentParser(description="Fine-tune an encoder on SQuAD-format data.")
    add = parser.add_argument
    add("--model_type", required=True, help="bert, roberta, ...: decides which inputs the model gets")
    add("--model_name_or_path", required=True, help="folder or hub name of the model to start from")
    add("--output_dir", required=True, help="folder for the model, its checkpoints and the predictions")
    add("--data_dir", help="folder of train-v1.1.json and dev-v1.1.json, or of the files named below")
    add("--train_file", help="training data, SQuAD's nested JSON")
    add("--predict_file", help="evaluation data, SQuAD's nested JSON")
    add("--config_name", default="", help="config, if not the model's own")
    add("--tokenizer_name", default="", help="tokenizer, if not the model's own")
    add("--cache_dir", default="", help="where models from the hub are kept")
    add("--version_2_with_negative", action="store_true", help="some questions have no answer (SQuAD 2.0)")
    add("--null_score_diff_threshold", type=float, default=0.0, help="answer nothing above this null odds")
    add("--max_seq_length", type=int, default=384, help="tokens in a window, question included")
    add("--doc_stride", type=int, default=128, help="tokens from one window's start to the next one's")
    add("--max_query_length", type=int, default=64, help="tokens kept of a question")
    add("--do_train", action="store_true", help="train")
    add("--do_eval", action="store_true", help="evaluate on the dev set")
    add("--evaluate_during_training", action="store_true", help="evaluate at each logging step")
    add("--do_lower_case", action="store_true", help="for uncased models")
    add("--per_gpu_train_batch_size", type=int, default=8, help="training batch of one process")
    add("--per_gpu_eval_batch_size", type=int, default=8, help="evaluation batch")
    add("--learning_rate", type=float, default=5e-5, help="peak learning rate of AdamW")
    add("--gradient_accumulation_steps", type=int, default=1, help="batches to one optimizer step")
    add("--weight_decay", type=float, default=0.0, help="weight decay, not for biases and LayerNorm")
    add("--adam_epsilon", type=float, default=1e-8, help="epsilon of AdamW")
    add("--max_grad_norm", type=float, default=1.0, help="norm to which gradients are clipped")
    add("--num_train_epochs", type=float, default=3.0, help="epochs to train")
    add("--max_steps", type=int, default=-1, help="if > 0, optimizer steps to do; overrides num_train_epochs")
    add("--warmup_steps", type=int, default=0, help="steps over which the learning rate rises")
    add("--n_best_size", type=int, default=20, help="candidates kept for each question")
    add("--max_answer_length", type=int, default=30, help="tokens in an answer")
    add("--verbose_logging", action="store_true", help="log debug messages too")
    add("--logging_steps", type=int, default=500, help="steps between two log lines")
    add("--save_steps", type=int, default=500, help="steps between two checkpoints")
    add("--eval_all_checkpoints", action="store_true", help="evaluate each checkpoint-N of --output_dir too")
    add("--no_cuda", action="store_true", help="stay on the CPU")
    add("--overwrite_output_dir", action="store_true", help="train into a folder that is not empty")
    add("--overwrite_cache", action="store_true", help="accepted as upstream does, but nothing is cached here")
    add("--seed", type=int, default=42, help="seed of all random numbers")
    add("--local_rank", type=int, default=-1, help="set by the launcher of distributed training")
    add("--threads", type=int, default=1, help="processes that tokenize")
    return parser


def set_up(args: argparse.Namespace) -> None:
    """Check the output folder, choose the device, join the process group, start the log, and seed."""
    out = Path(args.output_dir)
    if args.do_train and not args.overwrite_output_dir and out.is_dir() and any(out.iterdir()):
        raise InputError(f"--output_dir {out} is not empty; pass --overwrite_output_dir to train into it")
    args.model_type = args.model_type.lower()
    args.local_rank = int(os.environ.get("LOCAL_RANK", args.local_rank))
    use_cuda = torch.cuda.is_available() and not args.no_cuda
    args.device = torch.device("cuda", max(0, args.local_rank)) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(args.device)
    if args.local_rank != -1:
        torch.distributed.init_process_group(backend="nccl" if use_cuda else "gloo")
    level = logging.DEBUG if args.verbose_logging else logging.INFO
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s",
        level=level if is_main_process(args) else logging.WARNING,
    )
    set_seed(args.seed)


def checkpoints_to_evaluate(args: argparse.Namespace) -> dict[str, str]:
    """Return folders by the suffix of their results: "" for the final model, else the step."""
    if not args.do_train:
        return {"": args.model_name_or_path}
    found = {}
    if args.eval_all_checkpoints:
        folders = [path.parent for path in Path(args.output_dir).glob("checkpoint-*/config.json")]
        found = {folder.name.split("-")[-1]: str(folder) for folder in folders}
    return {step: found[step] for step in sorted(found, key=int)} | {"": args.output_dir}


def main():
    """Train, save, evaluate; return the results by name."""
    parser = make_parser()
    args = parser.parse_args()
    set_up(args)

    # Load pretrained model and tokenizer
    cache_dir = args.cache_dir or None
    config = AutoConfig.from_pretrained(args.config_name or args.model_name_or_path, cache_dir=cache_dir)
    tokenizer = AutoTokenizer.from_pretrained(
        args.tokenizer_name or args.model_name_or_path, do_lower_case=args.do_lower_case, cache_dir=cache_dir
    )
    model = AutoModelForQuestionAnswering.from_pretrained(args.model_name_or_path, config=config, cache_dir=cache_dir)
    model.to(args.device)
    logger.info("Training/evaluation parameters %s", args)

    # Training
    if args.do_train:
        train_dataset = make_train_dataset(args, tokenizer)
        global_step, mean_loss = train(args, train_dataset, model, tokenizer)
        logger.info("global_step = %s, average loss = %s", global_step, mean_loss)

    # Save the trained model, and reload it, so that what is evaluated is what was saved
    if args.do_train and is_main_process(args):
        logger.info("Saving model to %s", args.output_dir)
        model.save_pretrained(args.output_dir)
        tokenizer.save_pretrained(args.output_dir)
        torch.save(args, os.path.join(args.output_dir, "training_args.bin"))
        model = AutoModelForQuestionAnswering.from_pretrained(args.output_dir)
        tokenizer = AutoTokenizer.from_pretrained(args.output_dir, do_lower_case=args.do_lower_case)
        model.to(args.device)

    # Evaluation
    results = {}
    if args.do_eval and is_main_process(args):
        for step, checkpoint in checkpoints_to_evaluate(args).items():
            logger.info("Evaluating %s", checkpoint)
            model = AutoModelForQuestionAnswering.from_pretrained(checkpoint)
            model.to(args.device)
            result = evaluate(args, model, tokenizer, prefix=step)
            results.update({f"{key}_{step}" if step else key: value for key, value in result.items()})
        write_json(Path(args.output_dir, "eval_results.json"), results)
        print(f"Results: {json.dumps(results)}", flush=True)

    if args.local_rank != -1:
        torch.distributed.destroy_process_group()
    return results


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"run_squad.py: error: {error}", file=sys.stderr)
        sys.exit(2)
