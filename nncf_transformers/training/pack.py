"""What ``scripts/pack_and_distill.py`` does: make a model smaller, and let it learn the large one's hidden states.

The stages of inventory 3.3.2: layer after layer, then all together, again after the least important heads are gone, and
a last time with more weight on the later layers.
"""

import argparse
import copy
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from nncf_transformers.embedding import is_embedding
from nncf_transformers.errors import UsageError
from nncf_transformers.packing import (
    HeadImportance,
    PackConfig,
    embedding_parameters,
    is_merged,
    is_packed,
    layer_parameters,
    pack,
    prune_heads,
    remove_dropout,
)
from nncf_transformers.training import arguments
from nncf_transformers.training.data import (
    Encoded,
    check_lengths,
    encode_answers,
    encode_texts,
    read_questions,
    retrieval_of,
)
from nncf_transformers.training.evaluation import Answers, Found, in_words
from nncf_transformers.training.models import (
    check_hidden_sizes,
    check_positions,
    load_any_teacher,
    load_student,
    load_tokenizer,
    make_plain,
    quieten,
    read_model_config,
    write_result,
)
from nncf_transformers.training.objectives import HiddenObjective, Teacher
from nncf_transformers.training.quantization import say
from nncf_transformers.training.run import Run
from nncf_transformers.training.stage import Stage, warm_constant, warm_linear

logger = logging.getLogger(__name__)

# The weights of training, with the linear layers that merging folds: from here the last stage can be run again.
UNMERGED = "unmerged"
# Epochs of the stages that take in one layer after the other.
_GROWING = 0.25


def main(description: str, argv: Sequence[str] | None = None) -> int:
    """Pack and distil as the command line says.

    Args:
        description: of the script, for ``--help``.
        argv: the command line; None for this process's.
    """
    args = _parse(description, argv)
    arguments.check(args)
    arguments.start_log("pack_and_distill")
    quieten()
    if arguments.is_finished(args):
        return 0
    config = read_model_config("model_student", args.model_student)
    if is_packed(config) and is_merged(config):
        folder = Path(args.model_student) / UNMERGED
        raise UsageError(f"--model_student {args.model_student}: is merged, and cannot be trained on; give {folder}")
    embedding = _task(config) == "embedding"
    packing = None if is_packed(config) else PackConfig.parse(args.pack_cfg, config)
    if not embedding:
        check_lengths(args.max_seq_length_q, args.max_seq_length_c, args.doc_stride)
    arguments.log_parameters(args)
    run = Run.of(args)
    tokenizer = load_tokenizer(args.model_student)
    student = load_student(args.model_student, run.resumed_model, embedding=embedding)
    teacher = load_any_teacher(student, args.model_teacher, args.model_student)
    check_positions({"model_student": student, "model_teacher": teacher}, args.max_seq_length_c)
    data, judge = _data(args, tokenizer, embedding)
    if packing is None:
        logger.info("!!!model already packed!!! only its last stage is run")
    elif run.resumed_model is None:
        pack(student, packing)
    check_hidden_sizes(student, teacher)
    remove_dropout(student)
    objective = HiddenObjective(student, Teacher(teacher, run.accelerator.device))
    train(run, objective, data, judge, args, packing)
    say(run, "teacher", teacher, judge)
    say(run, "student", student, judge)
    if run.main:
        out = Path(args.output_dir)
        student.save_pretrained(out / UNMERGED)
        tokenizer.save_pretrained(out / UNMERGED)
        merged = copy.deepcopy(student).cpu().eval()
        kept = make_plain(merged, args.model_student)
        scores = judge(merged)
        logger.info("%s after some operations are merged, %d parameters", in_words(scores), _count(merged))
        write_result(merged, tokenizer, out, data[0], kept, arguments.card_facts(args, argv, scores))
        arguments.write_arguments(args)
    run.finish()
    return 0


def train(
    run: Run,
    objective: HiddenObjective,
    data: Sequence[Encoded],
    judge: Callable[[nn.Module], dict[str, float]],
    args: argparse.Namespace,
    packing: PackConfig | None,
) -> None:
    """Run the stages.

    Args:
        run: of the whole training.
        objective: around a packed student.
        data: windows; or questions, then contexts.
        judge: after every epoch of a main stage.
        args: the script's flags.
        packing: None to run the last stage alone.
    """
    student: Any = objective.student.to(run.accelerator.device)
    layers = student.config.num_hidden_layers

    def parameters(count: int) -> list[dict[str, Any]]:
        chosen = embedding_parameters(student)
        return [{"params": chosen + [p for i in range(count) for p in layer_parameters(student, i)]}]

    def end_of_epoch(stage: Stage, epoch: int) -> None:
        if run.main:
            student.save_pretrained(run.out / f"checkpoint-{stage.name}")
        say(run, f"checkpoint-{stage.name}-{epoch:02d}", student, judge)

    common = {"data": data, "guard": True, "log_every": args.logging_steps}
    usual = {
        "learning_rate": args.learning_rate,
        "total_batch": run.batch(args.total_train_batch_size),
        "schedule": warm_constant,
    }
    main_stage = {"epochs": args.num_train_epochs, "end_of_epoch": end_of_epoch}
    if packing is not None:
        for i in range(layers + 1) if packing.pack_emb else ():
            objective.count = i + 1
            run.train(Stage(f"{i:02d}", parameters=parameters(i), epochs=_GROWING, **common, **usual), objective)
        objective.count = None
        if run.stage_to_come:
            objective.importance = HeadImportance(student)
        run.train(Stage(f"{layers + 1:02d}", parameters=parameters(layers), **common, **usual, **main_stage), objective)
        _prune(run, objective, packing.num_attention_heads)
        run.train(Stage(f"{layers + 2:02d}", parameters=parameters(layers), **common, **usual, **main_stage), objective)
    objective.alpha = args.loss_weight_alpha
    tuning = {
        "learning_rate": args.learning_rate_for_tune or args.learning_rate,
        "total_batch": run.batch(args.total_train_batch_size_for_tune or args.total_train_batch_size),
        "schedule": warm_linear,
    }
    run.train(Stage(f"{layers + 3:02d}", parameters=parameters(layers), **common, **tuning, **main_stage), objective)


def _prune(run: Run, objective: HiddenObjective, keep: int) -> None:
    """Remove the heads that the stage just done has found least important, if that is still to be done."""
    if objective.importance is None:
        return
    importance = [run.accelerator.reduce(values, "sum") for values in objective.importance.importance]
    objective.importance.close()
    objective.importance = None
    for layer, heads in prune_heads(objective.student, importance, keep).items():
        run.log(f"layer {layer} heads_to_prune {heads}")


def _task(config: Any) -> str:
    """What a student is for: ``answers`` or ``embedding``."""
    if is_embedding(config):
        return "embedding"
    architecture = (getattr(config, "architectures", None) or ["BertForQuestionAnswering"])[0]
    if not architecture.endswith("ForQuestionAnswering"):
        raise UsageError(
            f"--model_student: is a {architecture}; train it by train_qa or train_qcemb first, then pack the result"
        )
    return "answers"


def _data(args: argparse.Namespace, tokenizer: Any, embedding: bool) -> tuple[list[Encoded], Any]:
    """The training data, and what judges a model."""
    train, dev = (read_questions(p, train=t) for p, t in ((args.squad_train_data, True), (args.squad_dev_data, False)))
    question, context, batch = args.max_seq_length_q, args.max_seq_length_c, args.per_gpu_eval_batch_size
    if embedding:
        pairs = retrieval_of(train, args.squad_train_data)
        texts = ((pairs.questions, question), (pairs.contexts, context))
        judge = Found(
            retrieval_of(dev, args.squad_dev_data),
            tokenizer,
            max_question=question,
            max_context=context,
            batch_size=batch,
        )
        return [encode_texts(tokenizer, some, length) for some, length in texts], judge
    lengths = {"max_question": question, "max_length": context, "stride": args.doc_stride}
    answers = Answers(args.squad_dev_data, dev, tokenizer, script=args.squad_eval_script, batch_size=batch, **lengths)
    return [encode_answers(tokenizer, train, **lengths)], answers


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _parse(description: str, argv: Sequence[str] | None) -> argparse.Namespace:
    parser = arguments.parser(
        description,
        total_train_batch_size=32,
        per_gpu_train_batch_size=4,
        per_gpu_eval_batch_size=32,
        learning_rate=5e-4,
        num_train_epochs=16.0,
        max_seq_length_q=64,
        max_seq_length_c=384,
        logging_steps=50,
    )
    add = parser.add_argument
    add(
        "--pack_cfg",
        default="num_hidden_layers:12,ff_iter_num:4,num_attention_heads:8,hidden_size:512,pack_emb:1,hidden_act:orig",
        help="sizes of the packed model; what is left out stays (default: %(default)s)",
    )
    add("--loss_weight_alpha", type=float, default=1.5, help="last stage: hidden state i weighs alpha^i (default: 1.5)")
    add("--total_train_batch_size_for_tune", type=int, help="of the last stage (default: --total_train_batch_size)")
    add("--learning_rate_for_tune", type=float, help="of the last stage (default: --learning_rate)")
    return parser.parse_args(argv)
