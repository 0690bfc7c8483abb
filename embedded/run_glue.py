#!/usr/bin/env python
"""Fine-tune a model for sequence classification on a GLUE task or on CSV/JSON files, with the Trainer.

    python run_glue.py --model_name_or_path MODEL --task_name sst2 --do_train --do_eval --output_dir OUT
    python run_glue.py --model_name_or_path MODEL --train_file a.csv --validation_file b.csv --do_train ...

The command line is that of run_glue.py in the PyTorch examples of 🤗 Transformers. A file has a column
`label` and the columns sentence1 and sentence2, or else one or two other columns of text.
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

task_to_keys = {
    "cola": ("sentence", None),
    "mnli": ("premise", "hypothesis"),
    "mrpc": ("sentence1", "sentence2"),
    "qnli": ("question", "sentence"),
    "qqp": ("question1", "question2"),
    "rte": ("sentence1", "sentence2"),
    "sst2": ("sentence", None),
    "stsb": ("sentence1", "sentence2"),
    "wnli": ("sentence1", "sentence2"),
}

logger = logging.getLogger(__name__)


class InputError(Exception):
    """A mistake in the flags or the data: reported as one line, without a traceback."""


def flag(default, text: str):
    """Return a dataclass field with a help text, for HfArgumentParser."""
    return field(default=default, metadata={"help": text})


@dataclass
class DataTrainingArguments:
    """What data the model is trained and evaluated on."""

    task_name: str | None = flag(None, f"GLUE task: {', '.join(task_to_keys)}")
    dataset_name: str | None = flag(None, "data set to load, if not GLUE")
    dataset_config_name: str | None = flag(None, "configuration of --dataset_name")
    max_seq_length: int = flag(128, "tokens kept of an input")
    overwrite_cache: bool = flag(False, "tokenize again even if the data library has it cached")
    pad_to_max_length: bool = flag(True, "pad to --max_seq_length, not to the longest of the batch")
    max_train_samples: int | None = flag(None, "use only so many training examples")
    max_eval_samples: int | None = flag(None, "use only so many evaluation examples")
    max_predict_samples: int | None = flag(None, "use only so many test examples")
    train_file: str | None = flag(None, "training data, csv or json")
    validation_file: str | None = flag(None, "evaluation data, csv or json")
    test_file: str | None = flag(None, "test data, csv or json")

    def __post_init__(self) -> None:
        """Check that the flags name some data.

        Raises:
            InputError: They do not, or name a task or file type that does not exist.
        """
        if self.task_name is not None:
            self.task_name = self.task_name.lower()
            if self.task_name not in task_to_keys:
                raise InputError(f"--task_name {self.task_name} is unknown; choose from {', '.join(task_to_keys)}")
        elif self.dataset_name is None:
            if self.train_file is None or self.validation_file is None:
                raise InputError("no data: give --task_name, --dataset_name, or --train_file and --validation_file")
            extensions = {name.rsplit(".", 1)[-1] for name in self.files().values()}
            if len(extensions) > 1 or not extensions <= {"csv", "json"}:
                raise InputError("--train_file, --validation_file and --test_file must be all csv or all json")

    def files(self) -> dict[str, str]:
        """Return the data files that were given, by split."""
        named = {"train": self.train_file, "validation": self.validation_file, "test": self.test_file}
        return {split: name for split, name in named.items() if name is not None}


@dataclass
class ModelArguments:
    """Which model is fine-tuned."""

    model_name_or_path: str = field(metadata={"help": "folder or hub name of the model to start from"})
    config_name: str | None = flag(None, "config, if not the model's own")
    tokenizer_name: str | None = flag(None, "tokenizer, if not the model's own")
    cache_dir: str | None = flag(None, "where models and data from the hub are kept")
    use_fast_tokenizer: bool = flag(True, "use a tokenizer of the tokenizers library")
    model_revision: str = flag("main", "branch, tag or commit of the model on the hub")
    token: str | None = flag(None, "access token for the hub")
    trust_remote_code: bool = flag(False, "run code that comes with the model or data set")
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


def load_raw_datasets(data_args: DataTrainingArguments, model_args: ModelArguments):
    """Return the splits of the task, the named data set or the files, by name."""
    hub = {"cache_dir": model_args.cache_dir, "token": model_args.token}
    if data_args.task_name is not None:
        return load_dataset("nyu-mll/glue", data_args.task_name, **hub)
    if data_args.dataset_name is not None:
        return load_dataset(data_args.dataset_name, data_args.dataset_config_name, **hub)
    files = data_args.files()
    for name in files.values():
        if not os.path.isfile(name):
            raise InputError(f"data file {name} does not exist")
    return load_dataset(data_args.train_file.rsplit(".", 1)[-1], data_files=files, **hub)


def find_labels(raw_datasets, data_args: DataTrainingArguments) -> list | None:
    """Return the classes in order, or None for a regression."""
    feature = raw_datasets["train"].features["label"]
    if data_args.task_name is None:
        is_regression = feature.dtype in ("float32", "float64")
        return None if is_regression else sorted(raw_datasets["train"].unique("label"))
    return None if data_args.task_name == "stsb" else feature.names


def set_label_names(model, label_list: list, data_args: DataTrainingArguments) -> dict | None:
    """Name the model's classes; return the mapping from a data set's label to a class, None if they agree."""
    if data_args.task_name is None:
        label_to_id = {label: index for index, label in enumerate(label_list)}
        names = label_to_id
    else:
        # A model that was trained on this task already may have its classes in another order.
        trained = {str(name).lower(): index for name, index in model.config.label2id.items()}
        names = trained if sorted(trained) == sorted(label_list) else {n: i for i, n in enumerate(label_list)}
        label_to_id = {index: names[name] for index, name in enumerate(label_list)}
    model.config.label2id = names
    model.config.id2label = {index: name for name, index in names.items()}
    return None if all(label == index for label, index in label_to_id.items()) else label_to_id


def find_sentence_keys(raw_datasets, data_args: DataTrainingArguments) -> tuple[str, str | None]:
    """Return the columns that hold the text; the second is None for single sentences."""
    if data_args.task_name is not None:
        return task_to_keys[data_args.task_name]
    columns = [name for name in raw_datasets["train"].column_names if name != "label"]
    if {"sentence1", "sentence2"} <= set(columns):
        return "sentence1", "sentence2"
    return columns[0], columns[1] if len(columns) > 1 else None


def take(raw_datasets, split: str, task_name: str | None, limit: int | None):
    """Return the first `limit` examples of a split; of MNLI's, the matched one."""
    split = f"{split}_matched" if task_name == "mnli" and split != "train" else split
    if split not in raw_datasets:
        raise InputError(f"the data has no split {split}; it has {', '.join(raw_datasets)}")
    dataset = raw_datasets[split]
    return dataset if limit is None else dataset.select(range(min(limit, len(dataset))))


def write_predictions(path: str, predictions, label_list: list | None) -> None:
    """Write one line for each example: its index, and the class or the value."""
    with open(path, "w", encoding="utf-8") as file:
        file.write("index\tprediction\n")
        for index, item in enumerate(predictions):
            file.write(f"{index}\t{f'{item:3.3f}' if label_list is None else label_list[item]}\n")


def main():
    """Train, evaluate and predict as the flags ask."""
    parser = HfArgumentParser((ModelArguments, DataTrainingArguments, TrainingArguments))
    if len(sys.argv) == 2 and sys.argv[1].endswith(".json"):
        model_args, data_args, training_args = parser.parse_json_file(json_file=os.path.abspath(sys.argv[1]))
    else:
        model_args, data_args, training_args = parser.parse_args_into_dataclasses()

    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stdout)
    if training_args.should_log:
        library_logging.set_verbosity_info()
    logger.setLevel(training_args.get_process_log_level())
    logger.info(f"Training/evaluation parameters {training_args}")

    last_checkpoint = find_last_checkpoint(training_args)
    set_seed(training_args.seed)

    raw_datasets = load_raw_datasets(data_args, model_args)
    label_list = find_labels(raw_datasets, data_args)
    is_regression = label_list is None

    hub = {
        "cache_dir": model_args.cache_dir,
        "revision": model_args.model_revision,
        "token": model_args.token,
        "trust_remote_code": model_args.trust_remote_code,
    }
    config = AutoConfig.from_pretrained(
        model_args.config_name or model_args.model_name_or_path,
        num_labels=1 if is_regression else len(label_list),
        finetuning_task=data_args.task_name,
        **hub,
    )
    tokenizer = AutoTokenizer.from_pretrained(
        model_args.tokenizer_name or model_args.model_name_or_path,
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
    label_to_id = None if is_regression else set_label_names(model, label_list, data_args)
    sentence1_key, sentence2_key = find_sentence_keys(raw_datasets, data_args)
    padding = "max_length" if data_args.pad_to_max_length else False
    max_seq_length = min(data_args.max_seq_length, tokenizer.model_max_length)

    def preprocess_function(examples):
        texts = [examples[key] for key in (sentence1_key, sentence2_key) if key is not None]
        result = tokenizer(*texts, padding=padding, max_length=max_seq_length, truncation=True)
        if label_to_id is not None and "label" in examples:
            result["label"] = [label_to_id.get(label, -1) for label in examples["label"]]  # tests have no labels
        return result

    with training_args.main_process_first(desc="dataset map pre-processing"):
        raw_datasets = raw_datasets.map(
            preprocess_function, batched=True, load_from_cache_file=not data_args.overwrite_cache
        )

    task = data_args.task_name
    train_dataset = eval_dataset = predict_dataset = None
    if training_args.do_train:
        train_dataset = take(raw_datasets, "train", task, data_args.max_train_samples)
    if training_args.do_eval:
        eval_dataset = take(raw_datasets, "validation", task, data_args.max_eval_samples)
    if training_args.do_predict:
        predict_dataset = take(raw_datasets, "test", task, data_args.max_predict_samples)

    # Get the metric function
    if task is not None:
        metric = evaluate.load("glue", task, cache_dir=model_args.cache_dir)
    else:
        metric = evaluate.load("mse" if is_regression else "accuracy", cache_dir=model_args.cache_dir)

    def compute_metrics(p: EvalPrediction):
        logits = p.predictions[0] if isinstance(p.predictions, tuple) else p.predictions
        predictions = np.squeeze(logits) if is_regression else np.argmax(logits, axis=1)
        result = metric.compute(predictions=predictions, references=p.label_ids)
        if len(result) > 1:
            result["combined_score"] = float(np.mean(list(result.values())))
        return result

    if data_args.pad_to_max_length:
        data_collator = default_data_collator
    else:
        data_collator = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8 if training_args.fp16 else None)

    # Initialize our Trainer
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        compute_metrics=compute_metrics,
        processing_class=tokenizer,
        data_collator=data_collator,
    )

    # Training
    if training_args.do_train:
        checkpoint = training_args.resume_from_checkpoint or last_checkpoint
        metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
        metrics["train_samples"] = len(train_dataset)
        trainer.save_model()
        trainer.log_metrics("train", metrics)
        trainer.save_metrics("train", metrics)
        trainer.save_state()

    # Evaluation
    if training_args.do_eval:
        metrics = trainer.evaluate(eval_dataset=eval_dataset)
        metrics["eval_samples"] = len(eval_dataset)
        if task == "mnli":
            mismatched = raw_datasets["validation_mismatched"]
            mismatched = mismatched.select(range(min(len(mismatched), len(eval_dataset))))
            metrics.update({f"{key}_mm": value for key, value in trainer.evaluate(eval_dataset=mismatched).items()})
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)

    # Prediction
    if training_args.do_predict:
        predict_datasets = {task: predict_dataset}
        if task == "mnli":
            predict_datasets["mnli-mm"] = raw_datasets["test_mismatched"]
        for name, dataset in predict_datasets.items():
            logits = trainer.predict(dataset.remove_columns("label"), metric_key_prefix="predict").predictions
            predictions = np.squeeze(logits) if is_regression else np.argmax(logits, axis=1)
            if trainer.is_world_process_zero():
                path = os.path.join(training_args.output_dir, f"predict_results_{name}.txt")
                write_predictions(path, predictions, label_list)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"run_glue.py: error: {error}", file=sys.stderr)
        sys.exit(2)
