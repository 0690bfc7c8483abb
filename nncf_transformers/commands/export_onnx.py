"""Export a trained model to ONNX and OpenVINO, and make a folder to deploy it from.

    export_onnx --model_path runs/squad-int8 --task question-answering
    export_onnx --model_path output --task qa --num_export_samples 20 --data_args '{"validation_file": "dev-v1.1.json"}'

writes output/model.onnx, and beside the model's folder deployment/ with model.onnx, the IR (openvino_model.xml and
.bin), the configuration and the tokenizer. Both are compared with the model in torch before they are put in place.
Batch size and sequence length stay variable; --sequence_length is recorded in deployment/config.json as what is read
at once. The command stands for SparseML's sparseml.transformers.export_onnx and has its flags.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nncf_transformers.commands import begin, positive
from nncf_transformers.errors import UsageError

logger = logging.getLogger(__name__)

# Rows of the data that the runtimes are compared on.
_COMPARED = 16


def main(argv: Sequence[str] | None = None) -> int:
    """Check everything that can be checked, load, export."""
    args = begin(_parser(), argv)
    data_args = _data_args(args)
    folder = Path(args.model_path)
    _check_places(folder, args)

    from nncf_transformers.deployment import (
        LENGTH_KEY,
        check_length,
        find_task,
        load_checkpoint,
        load_tokenizer,
        position_limit,
    )
    from nncf_transformers.export import OnnxForm, export_model
    from nncf_transformers.export.onnx import OPSET
    from nncf_transformers.inputs import input_names
    from nncf_transformers.recipe.inherit import RECIPE_FILE

    task, form = find_task(args.task), OnnxForm(args.opset or OPSET, fold=not args.no_convert_qat)
    model, tokenizer = load_checkpoint(folder, task).eval(), load_tokenizer(folder)
    limit = position_limit(model.config.to_dict())
    if args.sequence_length is not None:
        check_length(args.sequence_length, limit, str(folder))
        setattr(model.config, LENGTH_KEY, args.sequence_length)
    if args.finetuning_task is not None:
        model.config.finetuning_task = args.finetuning_task
    rows: list[Any] = []
    if data_args:
        from nncf_transformers.commands.samples import read_rows_of

        length = args.sequence_length or min(384, limit or 384)
        rows = read_rows_of(task, data_args, tokenizer, input_names(model), length)
        if len(rows) < args.num_export_samples:
            raise UsageError(f"--num_export_samples {args.num_export_samples}: the data has {len(rows)}; lower it")
    if args.one_shot is not None:
        _one_shot(model, folder, args.one_shot, rows)
    elif not (folder / RECIPE_FILE).is_file():
        logger.warning("%s: no %s is stored there; the model is exported as it is", folder, RECIPE_FILE)
    export_model(
        model,
        to_onnx=str(folder / args.onnx_file_name),
        to_openvino=str(_deployment(folder, args)),
        tokenizer=tokenizer,
        samples=rows[:_COMPARED] or None,
        form=form,
        onnx_beside_ir=args.onnx_file_name,
        source=folder,
    )
    if args.num_export_samples:
        from nncf_transformers.commands.samples import write_samples
        from nncf_transformers.runtimes import torch_runtime

        write_samples(folder, rows[: args.num_export_samples], torch_runtime(model), task.outputs)
        logger.info("wrote %d samples with their outputs to %s", args.num_export_samples, folder)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="export_onnx", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model_path", required=True, metavar="DIR", help="folder of the trained model")
    parser.add_argument(
        "--task",
        required=True,
        help="question-answering (qa), text-classification (glue), token-classification (ner) or "
        "masked-language-modeling (mlm)",
    )
    parser.add_argument(
        "--sequence_length",
        type=positive,
        metavar="N",
        help="tokens that a pipeline reads at once unless told otherwise; the model itself takes any length",
    )
    parser.add_argument("--onnx_file_name", default="model.onnx", metavar="NAME", help="name of the file (model.onnx)")
    parser.add_argument("--deployment_dir", metavar="DIR", help="default: deployment/ beside the model's folder")
    parser.add_argument(
        "--no_convert_qat",
        action="store_true",
        help="keep quantized weights as floats with QuantizeLinear behind them, not as INT8: a file as large as FP32",
    )
    parser.add_argument("--opset", type=int, metavar="N", help="ONNX operator set (17)")
    parser.add_argument("--finetuning_task", metavar="NAME", help="recorded in the configuration")
    parser.add_argument(
        "--data_args",
        metavar="JSON",
        help="'{\"validation_file\": FILE}': data in the format of the task, on which the runtimes are compared",
    )
    parser.add_argument(
        "--num_export_samples",
        type=int,
        default=0,
        metavar="N",
        help="also write N rows of the data and the model's outputs, as sample-inputs/ and sample-outputs/ (0)",
    )
    parser.add_argument("--one_shot", metavar="RECIPE", help="apply this recipe at once before the export")
    parser.add_argument("--trust_remote_code", action="store_true", help="refused: code in a model folder is never run")
    return parser


def _data_args(args: argparse.Namespace) -> dict[str, str]:
    """Check the flags that need no file, and return the content of --data_args."""
    if args.trust_remote_code:
        raise UsageError("--trust_remote_code: code that comes with a model is never run here; leave the flag out")
    if Path(args.onnx_file_name).name != args.onnx_file_name or not args.onnx_file_name.endswith(".onnx"):
        raise UsageError(f"--onnx_file_name {args.onnx_file_name}: must be a plain name that ends in .onnx")
    if args.num_export_samples < 0:
        raise UsageError(f"--num_export_samples {args.num_export_samples}: must not be negative")
    if args.data_args is None:
        for flag in ("num_export_samples", "one_shot"):
            if getattr(args, flag):
                raise UsageError(f"--{flag}: needs data; give --data_args '{{\"validation_file\": FILE}}'")
        return {}
    from nncf_transformers.commands.samples import COLUMN_KEY, FILE_KEYS

    try:
        found = json.loads(args.data_args)
    except ValueError as error:
        raise UsageError(f'--data_args: not valid JSON ({error}); write {{"validation_file": FILE}}') from error
    known = (*FILE_KEYS, COLUMN_KEY)
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise UsageError("--data_args: must be a JSON object with texts as values")
    if unknown := sorted(found.keys() - set(known)):
        raise UsageError(f"--data_args: {unknown[0]} is not known here; there are {', '.join(known)}")
    if not found.keys() & set(FILE_KEYS):
        raise UsageError(f"--data_args: names no file; give {' or '.join(FILE_KEYS)}")
    return found


def _deployment(folder: Path, args: argparse.Namespace) -> Path:
    # Of a path such as "." only the resolved one has a parent.
    return Path(args.deployment_dir) if args.deployment_dir else folder.resolve().parent / "deployment"


def _check_places(folder: Path, args: argparse.Namespace) -> None:
    """Find out before anything is loaded that the results cannot be written, or would replace what is not theirs."""
    if not folder.is_dir():
        raise UsageError(f"--model_path {folder}: no such folder; name one that a model was saved to")
    target = _deployment(folder, args)
    if folder.resolve().is_relative_to(target.resolve()):
        raise UsageError(f"{target}: would replace the model itself; name another folder with --deployment_dir")
    if target.exists():
        _check_replaceable(target, folder, named=args.deployment_dir is not None)
    if args.num_export_samples:
        from nncf_transformers.commands.samples import check_samples

        check_samples(folder)
    for place in (folder, target.parent):
        if not place.is_dir():
            raise UsageError(f"{place}: no such folder; create it first")
        if not os.access(place, os.W_OK):
            raise UsageError(f"{place}: is not writable; copy the model elsewhere, or see --deployment_dir")


def _check_replaceable(target: Path, folder: Path, *, named: bool) -> None:
    """Refuse a target with more than an earlier export of the model in ``folder``.

    Args:
        target: exists.
        folder: of the model.
        named: whether the user has named the target; the usual one is shared by all models beside each other.
    """
    from nncf_transformers.export.openvino import foreign_file, read_report

    other = "name another folder with --deployment_dir"
    if not target.is_dir():
        raise UsageError(f"{target}: exists and is no folder; move it away, or {other}")
    if name := foreign_file(target):
        raise UsageError(f"{target}: holds {name}, which is no part of an export; move it, or {other}")
    report = read_report(target)
    source = report.get("source")
    if source is None and report and not named:
        raise UsageError(f"{target}: does not say which model it was made from; move it away, or {other}")
    # The path and not the weights: a training that goes on in place makes no other model of it.
    if source is not None and source != os.path.relpath(folder.resolve(), target.resolve()):
        raise UsageError(f"{target}: was made from another model, {source} as seen from there; {other}")


def _one_shot(model: Any, folder: Path, recipe: str, rows: Sequence[Any]) -> None:
    """Apply the end of a recipe to a model, without a training."""
    import torch

    from nncf_transformers.compression import Compression
    from nncf_transformers.recipe import load_recipe
    from nncf_transformers.recipe.inherit import recipe_of
    from nncf_transformers.recipe.translate import recipe_config

    config = recipe_config(load_recipe(recipe), recipe_of(folder))
    compression = Compression.of(model)
    if compression is not None and not compression.replaceable(model, config):
        raise UsageError(f"--one_shot: {folder} is in mid-training; finish that first")
    compression = Compression(config)
    compression.start(model, [{name: torch.from_numpy(array) for name, array in row.items()} for row in rows])
    compression.skip_to_end(model)


if __name__ == "__main__":
    sys.exit(main())
