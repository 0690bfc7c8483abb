"""What ``scripts/train_qcemb.py`` does: train a model whose embeddings put a question near its context."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from nncf_transformers.compression import Compression
from nncf_transformers.embedding import POOLINGS
from nncf_transformers.errors import UsageError
from nncf_transformers.retrieval.mining import HardNegatives
from nncf_transformers.training import arguments
from nncf_transformers.training.data import encode_texts, read_questions, retrieval_of
from nncf_transformers.training.evaluation import Found
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
from nncf_transformers.training.objectives import EmbeddingObjective, Teacher
from nncf_transformers.training.quantization import compress, say, tune
from nncf_transformers.training.run import Run

_LARGE = "bert-large-uncased-whole-word-masking"
_LOSSES = ("none", "L1", "L2")


def main(description: str, argv: Sequence[str] | None = None) -> int:
    """Train as the command line says.

    Args:
        description: of the script, for ``--help``.
        argv: the command line; None for this process's.
    """
    args = _parse(description, argv)
    arguments.check(args)
    losses = arguments.read_pairs("loss_cfg", args.loss_cfg, {"triplet_num": ("0", "1", "2"), "emb_loss": _LOSSES})
    if losses.get("triplet_num") == "0" and args.supervision_weight == 0:
        raise UsageError(
            "--loss_cfg triplet_num:0: leaves nothing to learn from; take 1 or 2, or learn from a teacher by "
            "--supervision_weight"
        )
    config = arguments.read_config(args.nncf_config)
    if config is not None and Compression(config).changes_loss:
        raise UsageError(
            f"--nncf_config {args.nncf_config}: embeddings can be quantized, but not pruned or distilled by it; "
            "leave quantization alone in it"
        )
    arguments.start_log("train_qcemb")
    quieten()
    if arguments.is_finished(args):
        return 0
    arguments.log_parameters(args)
    run = Run.of(args)
    tokenizer = load_tokenizer(args.model_student)
    pairs = retrieval_of(read_questions(args.squad_train_data, train=True), args.squad_train_data)
    found = retrieval_of(read_questions(args.squad_dev_data, train=False), args.squad_dev_data)
    student = load_student(args.model_student, run.resumed_model, embedding=True, pooling=args.pooling)
    models = {"model_student": student}
    if args.supervision_weight > 0:
        name = args.model_teacher or _LARGE
        models["model_teacher"] = load_any_teacher(student, name, args.model_student)
    check_positions(models, max(args.max_seq_length_q, args.max_seq_length_c))
    contexts = encode_texts(tokenizer, pairs.contexts, args.max_seq_length_c)
    # A step takes as long as its contexts are.
    longest = [contexts.length(owner) for owner in pairs.owners]
    questions = encode_texts(tokenizer, pairs.questions, args.max_seq_length_q, longest, owner=pairs.owners)
    lengths = {"max_question": args.max_seq_length_q, "max_context": args.max_seq_length_c}
    judge = Found(found, tokenizer, batch_size=args.per_gpu_eval_batch_size, **lengths)
    kept = make_plain(student, args.model_student)
    if "model_teacher" in models:
        check_hidden_sizes(student, models["model_teacher"], kept)
    student.to(run.accelerator.device)
    compress(run, student, config, contexts, judge)
    teacher = Teacher(models["model_teacher"], run.accelerator.device) if "model_teacher" in models else None
    objective = EmbeddingObjective(
        student,
        teacher,
        kept if teacher is not None else None,
        contexts=contexts,
        negatives=_negatives(args, run, len(pairs.contexts)),
        gather=run.accelerator.gather,
        autocast=run.accelerator.autocast,
        share=(run.accelerator.process_index, run.accelerator.num_processes),
        batch_size=args.hnm_batch_size,
        triplets=int(losses.get("triplet_num", "1")),
        embedding_loss=losses.get("emb_loss", "none"),
        teacher_weight=args.supervision_weight,
    )
    tune(run, objective, questions, judge, args, objective.without_triplets)
    scores = say(run, "checkpoint final result", student, judge)
    if run.main:
        facts = arguments.card_facts(args, argv, scores)
        write_result(student.eval(), tokenizer, Path(args.output_dir), contexts, kept, facts)
        arguments.write_arguments(args)
    run.finish()
    return 0


def candidates(wanted: int, history: int, contexts: int, processes: int) -> int:
    """Contexts to embed at a step: as many as wanted, rounded up so that all processes embed as many.

    No more, though, than it takes to have all contexts in the history: to embed them more often takes most of a step's
    time where there are few, and finds no others.
    """
    enough = min(wanted, -(-contexts // history))
    return min(-(-enough // processes) * processes, contexts // processes * processes)


def _negatives(args: argparse.Namespace, run: Run, contexts: int) -> HardNegatives:
    num = candidates(args.hnm_num, args.hnm_hist_num, contexts, run.accelerator.num_processes)
    if num != args.hnm_num:
        run.log(
            f"mining: {num} contexts a step, not {args.hnm_num}: within {args.hnm_hist_num} steps they are all there"
        )
    return HardNegatives(contexts, num=num, history=args.hnm_hist_num, alpha=args.hnm_hist_alpha, seed=args.seed)


def _parse(description: str, argv: Sequence[str] | None) -> argparse.Namespace:
    parser = arguments.parser(
        description,
        answers=False,
        model_student=_LARGE,
        total_train_batch_size=32,
        per_gpu_train_batch_size=4,
        per_gpu_eval_batch_size=32,
        learning_rate=5e-4,
        num_train_epochs=8.0,
        max_seq_length_q=32,
        max_seq_length_c=384,
        logging_steps=10,
    )
    add = parser.add_argument
    add("--supervision_weight", type=float, default=0.0, help="of what the teacher says (default: %(default)s)")
    add("--loss_cfg", default="", help="triplet_num:0|1|2,emb_loss:none|L1|L2 (default: triplet_num:1,emb_loss:none)")
    add("--hnm_batch_size", type=int, default=32, help="contexts embedded at a time in mining (default: %(default)s)")
    add(
        "--hnm_num",
        type=int,
        default=256,
        help="contexts embedded at a step; 0: random negatives (default: %(default)s)",
    )
    add("--hnm_hist_num", type=int, default=32, help="steps for which they are remembered (default: %(default)s)")
    add("--hnm_hist_alpha", type=float, default=1.0, help="above 1 pushes older ones away (default: %(default)s)")
    add(
        "--pooling", choices=POOLINGS, help="what stands for a text: cls, as in the original, or the mean of its tokens"
    )
    add("--nncf_config", help="quantize as this file says, a name in nncf_configs/ or a path")
    add("--freeze_list", default="", help="parts of parameter names, separated by commas, that are not trained")
    return parser.parse_args(argv)
