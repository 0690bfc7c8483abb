"""What ``scripts/train_qa.py`` does: fine-tune a model that answers questions, alone, with a teacher, or to INT8."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from nncf_transformers.training import arguments
from nncf_transformers.training.data import check_lengths, encode_answers, read_questions
from nncf_transformers.training.evaluation import Answers
from nncf_transformers.training.models import (
    check_hidden_sizes,
    check_positions,
    load_any_teacher,
    load_student,
    load_tokenizer,
    make_plain,
    quieten,
    write_result,
)
from nncf_transformers.training.objectives import AnswerObjective, Teacher
from nncf_transformers.training.quantization import compress, say, tune
from nncf_transformers.training.run import Run

logger = logging.getLogger(__name__)

_LARGE = "bert-large-uncased-whole-word-masking"


def main(description: str, argv: Sequence[str] | None = None) -> int:
    """Train as the command line says.

    Args:
        description: of the script, for ``--help``.
        argv: the command line; None for this process's.
    """
    args = _parse(description, argv)
    arguments.check(args)
    check_lengths(args.max_seq_length_q, args.max_seq_length_c, args.doc_stride)
    config = arguments.read_config(args.nncf_config)
    arguments.start_log("train_qa")
    quieten()
    if arguments.is_finished(args):
        return 0
    arguments.log_parameters(args)
    run = Run.of(args)
    tokenizer = load_tokenizer(args.model_student)
    examples = {
        name: read_questions(getattr(args, f"squad_{name}_data"), train=name == "train") for name in ("train", "dev")
    }
    student = load_student(args.model_student, run.resumed_model, embedding=False)
    models = {"model_student": student}
    if with_teacher(args):
        models["model_teacher"] = load_any_teacher(student, args.model_teacher or _LARGE, args.model_student)
    check_positions(models, args.max_seq_length_c)
    lengths = {"max_question": args.max_seq_length_q, "max_length": args.max_seq_length_c, "stride": args.doc_stride}
    data = encode_answers(tokenizer, examples["train"], **lengths)
    batch = args.per_gpu_eval_batch_size
    judge = Answers(
        args.squad_dev_data, examples["dev"], tokenizer, script=args.squad_eval_script, batch_size=batch, **lengths
    )
    kept = make_plain(student, args.model_student)
    if "model_teacher" in models and args.supervision_weight > 0:
        check_hidden_sizes(student, models["model_teacher"], kept)
    student.to(run.accelerator.device)
    compress(run, student, config, data, judge)
    teacher = Teacher(models["model_teacher"], run.accelerator.device) if "model_teacher" in models else None
    weights = {"logits_weight": args.kd_weight, "hidden_weight": args.supervision_weight}
    used = kept if teacher is not None and args.supervision_weight > 0 else None
    tune(run, AnswerObjective(student, teacher, used, **weights), data, judge, args)
    scores = say(run, "checkpoint final result", student, judge)
    if run.main:
        facts = arguments.card_facts(args, argv, scores)
        write_result(student.eval(), tokenizer, Path(args.output_dir), data, kept, facts)
        arguments.write_arguments(args)
    run.finish()
    return 0


def with_teacher(args: argparse.Namespace) -> bool:
    """Whether a teacher has a part in the training; its default alone is no wish for one."""
    named = args.model_teacher is not None
    if args.supervision_weight > 0 or (named and args.kd_weight > 0):
        return True
    if named:
        logger.warning("--model_teacher %s: has no effect, for both weights are 0", args.model_teacher)
    return False


def _parse(description: str, argv: Sequence[str] | None) -> argparse.Namespace:
    parser = arguments.parser(
        description,
        model_student=_LARGE,
        total_train_batch_size=48,
        per_gpu_train_batch_size=2,
        per_gpu_eval_batch_size=16,
        learning_rate=3e-5,
        num_train_epochs=2.0,
        max_seq_length_q=64,
        max_seq_length_c=384,
        logging_steps=50,
    )
    add = parser.add_argument
    add("--supervision_weight", type=float, default=0.02, help="of the teacher's hidden states (default: %(default)s)")
    add("--kd_weight", type=float, default=1.0, help="of the teacher's logits (default: %(default)s)")
    add("--loss_cfg", default="", help="accepted, and of no effect, as in the original")
    add("--nncf_config", help="quantize as this file says, a name in nncf_configs/ or a path")
    add("--freeze_list", default="", help="parts of parameter names, separated by commas, that are not trained")
    return parser.parse_args(argv)
