#!/usr/bin/env python
"""Fine-tune a model for natural language inference on XNLI, with the Trainer.

    python run_xnli.py --model_name_or_path MODEL --language en --do_train --do_eval --output_dir OUT

The command line is that of run_xnli.py in the PyTorch examples of 🤗 Transformers.
"""

import logging
import os
import sys
from dataclasses import dataclass, field

import evaluate
import numpy as np
from datasets import load_dataset
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging as library_logging

logger = logging.getLogger(__name__)


class InputError(Exception):
    """A mistake in the flags or the data: reported as one line, without a traceback."""


def flag(default, text: str):
    """Return a dataclass field with a help text, for HfArgumentParser."""
    return field(default=default, metadata={"help": text})


@dataclass
class DataTrainingArguments:
    """What data the model is trained and evaluated on."""

    max_seq_length: int = flag(128, "tokens kept of an input")
    overwrite_cache: bool = flag(False, "tokenize again even if the data library has it cached")
    pad_to_max_length: bool = flag(True, "pad to --max_seq_length, not to the longest of the batch")
    max_train_samples: int | None = flag(None, "use only so many training examples")
    max_eval_samples: int | None = flag(None, "use only so many evaluation examples")
    max_predict_samples: int | None = flag(None, "use only so many test examples")


@dataclass
class ModelArguments:
    """Which model is fine-tuned, and in which language."""

    model_name_or_path: str = field(metadata={"help": "folder or hub name of the model to start from"})
    language: str = flag(None, "language of the evaluation, and of the training unless given below")
    train_language: str | None = flag(None, "language of the training, if another one")
    config_name: str | None = flag(None, "config, if not the model's own")
    tokenizer_name: str | None = flag(None, "tokenizer, if not the model's own")
    cache_dir: str | None = flag(None, "where models and data from the hub are kept")
    do_lower_case: bool | None = flag(False, "for uncased models")
    use_fast_tokenizer: bool = flag(True, "use a tokenizer of the tokenizers library")
    model_revision: str = flag("main", "branch, tag or commit of the model on the hub")
    token: str | None = flag(None, "access token for the hub")
    trust_remote_code: bool = flag(False, "run code that comes with the model")
    ignore_mismatched_sizes: bool = flag(False, "start a head of another size afresh")


def find_last_checkpoint(training_args: TrainingArguments) -> str | None:
    """Return the newest checkpoint-N of the output folder.

    Raises:
        InputError: The folder holds something else, which training would overwrite.
    """
    out = training_args.output_dir
    overwrite = getattr(training_args, "overwrite_output_dir", False)  # transformers 5 has no such flag
    if not training_args.do_train or overwrite or not os.path.isdir(out):
        return None
    checkpoint = get_last_checkpoint(out)
    if checkpoint is None and os.listdir(out):
        raise InputError(f"--output_dir {out} is not empty; empty it, or pass --overwrite_output_dir")
    if checkpoint is not None and training_args.resume_from_checkpoint is None:
        logger.info(f"Resuming training at {checkpoint}; choose another --output_dir to start afresh.")
    return checkpoint


def load_splits(data_args: DataTrainingArguments, model_args: ModelArguments, training_args: TrainingArguments) -> dict:
    """Return the data of what is to be done, by "train", "eval" and "predict"."""
    language = model_args.language
    wanted = {
        "train": (training_args.do_train, "train", model_args.train_language or language),
        "eval": (training_args.do_eval, "validation", language),
        "predict": (training_args.do_predict, "test", language),
    }
    datasets = {}
    for part, (needed, split, split_language) in wanted.items():
        if needed:
            dataset = load_dataset(
                "xnli", split_language, split=split, cache_dir=model_args.cache_dir, token=model_args.token
            )
            limit = getattr(data_args, f"max_{part}_samples")
            datasets[part] = dataset if limit is None else dataset.select(range(min(limit, len(dataset))))
    return datasets


def write_predictions(path: str, predictions, label_list: list[str]) -> None:
    """Write one line for each example: its index and class."""
    with open(path, "w", encoding="utf-8") as file:
        file.write("index\tprediction\n")
        file.writelines(f"{index}\t{label_list[item]}\n" for index, item in enumerate(predictions))


def main():
    """Train, evaluate and predict as the flags ask."""
    parser = HfArgumentParser((ModelArguments, DataTrainingArguments, TrainingArguments))
    model_args, data_args, training_args = parser.parse_args_into_dataclasses()

    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stdout)
    if training_args.should_log:
        library_logging.set_verbosity_info()
    logger.setLevel(training_args.get_process_log_level())
    logger.info(f"Training/evaluation parameters {training_args}")
    if model_args.language is None:
        raise InputError("--language is missing, for example --language en")

    last_checkpoint = find_last_checkpoint(training_args)
    set_seed(training_args.seed)

    datasets = load_splits(data_args, model_args, training_args)
    if not datasets:
        raise InputError("nothing to do: give --do_train, --do_eval or --do_predict")
    label_list = next(iter(datasets.values())).features["label"].names

    hub = {
        "cache_dir": model_args.cache_dir,
        "revision": model_args.model_revision,
        "token": model_args.token,
        "trust_remote_code": model_args.trust_remote_code,
    }
    config = AutoConfig.from_pretrained(
        model_args.config_name or model_args.model_name_or_path,
        num_labels=len(label_list),
        id2label=dict(enumerate(label_list)),
        label2id={label: index for index, label in enumerate(label_list)},
        finetuning_task="xnli",
        **hub,
    )
    tokenizer = AutoTokenizer.from_pretrained(
        model_args.tokenizer_name or model_args.model_name_or_path,
        do_lower_case=model_args.do_lower_case,
        use_fast=model_args.use_fast_tokenizer,
        **hub,
    )
    model = AutoModelForSequenceClassification.from_pretrained(
        model_args.model_name_or_path,
        config=config,
        ignore_mismatched_sizes=model_args.ignore_mismatched_sizes,
        **hub,
    )

    # Preprocessing the datasets
    padding = "max_length" if data_args.pad_to_max_length else False

    def preprocess_function(examples):
        return tokenizer(
            examples["premise"],
            examples["hypothesis"],
            padding=padding,
            max_length=data_args.max_seq_length,
            truncation=True,
        )

    with training_args.main_process_first(desc="dataset map pre-processing"):
        datasets = {
            part: dataset.map(preprocess_function, batched=True, load_from_cache_file=not data_args.overwrite_cache)
            for part, dataset in datasets.items()
        }

    # Get the metric function
    metric = evaluate.load("xnli", cache_dir=model_args.cache_dir)

    def compute_metrics(p: EvalPrediction):
        logits = p.predictions[0] if isinstance(p.predictions, tuple) else p.predictions
        return metric.compute(predictions=np.argmax(logits, axis=1), references=p.label_ids)

    if data_args.pad_to_max_length:
        data_collator = default_data_collator
    else:
        data_collator = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8 if training_args.fp16 else None)

    # Initialize our Trainer
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=datasets.get("train"),
        eval_dataset=datasets.get("eval"),
        compute_metrics=compute_metrics,
        processing_class=tokenizer,
        data_collator=data_collator,
    )

    # Training
    if training_args.do_train:
        checkpoint = training_args.resume_from_checkpoint or last_checkpoint
        metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
        metrics["train_samples"] = len(datasets["train"])
        trainer.save_model()
        trainer.log_metrics("train", metrics)
        trainer.save_metrics("train", metrics)
        trainer.save_state()

    # Evaluation
    if training_args.do_eval:
        metrics = trainer.evaluate(eval_dataset=datasets["eval"])
        metrics["eval_samples"] = len(datasets["eval"])
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)

    # Prediction
    if training_args.do_predict:
        logits, _, metrics = trainer.predict(datasets["predict"], metric_key_prefix="predict")
        metrics["predict_samples"] = len(datasets["predict"])
        trainer.log_metrics("predict", metrics)
        trainer.save_metrics("predict", metrics)
        if trainer.is_world_process_zero():
            path = os.path.join(training_args.output_dir, "predictions.txt")
            write_predictions(path, np.argmax(logits, axis=1), label_list)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"run_xnli.py: error: {error}", file=sys.stderr)
        sys.exit(2)
