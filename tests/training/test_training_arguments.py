"""The flags that the training scripts share."""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from nncf_transformers.errors import UsageError
from nncf_transformers.training import arguments, embeddings
from nncf_transformers.training.arguments import ARGUMENTS_FILE


@pytest.fixture
def args(tmp_path: Path) -> argparse.Namespace:
    """A command line that is right, with the defaults that a script would give."""
    (tmp_path / "squad.json").write_text("{}")
    parser = arguments.parser(
        "Train.",
        model_student="large",
        total_train_batch_size=48,
        per_gpu_train_batch_size=2,
        per_gpu_eval_batch_size=16,
        learning_rate=3e-5,
        num_train_epochs=2.0,
        max_seq_length_q=64,
        max_seq_length_c=384,
        logging_steps=50,
    )
    parser.add_argument("--supervision_weight", type=float, default=0.02)
    parser.add_argument("--hnm_hist_alpha", type=float, default=1.0)
    data = str(tmp_path / "squad.json")
    line = ["--squad_train_data", data, "--squad_dev_data", data, "--output_dir", str(tmp_path / "out")]
    return parser.parse_args(line)


def changed(args: argparse.Namespace, **values: Any) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(args), **values})


def test_good_arguments_pass(args: argparse.Namespace) -> None:
    arguments.check(args)
    arguments.check(changed(args, supervision_weight=0.0, doc_stride=0, num_train_epochs=0.25, learning_rate=1e-9))
    assert args.seed == 42 and args.doc_stride == 128 and args.save_steps == 500 and not args.no_cuda


def test_flags_are_not_abbreviated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments.parser("Train.").parse_args(["--squad_train", "x"])
    assert "--squad_train_data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("total_train_batch_size", 0, "must be at least 1"),
        ("per_gpu_train_batch_size", -1, "must be at least 1"),
        ("max_seq_length_q", 2, "must be at least 3"),
        ("max_seq_length_c", 7, "must be at least 8"),
        ("doc_stride", -1, "must be at least 0"),
        ("save_steps", 0, "must be at least 1"),
        ("logging_steps", 0, "must be at least 1"),
        ("supervision_weight", -0.1, "must be at least 0"),
        ("supervision_weight", float("nan"), "must be at least 0"),
        ("learning_rate", 0.0, "must be greater than 0"),
        ("learning_rate", float("nan"), "must be greater than 0"),
        ("learning_rate", float("inf"), "must be greater than 0"),
        ("num_train_epochs", 0.0, "must be greater than 0"),
        ("hnm_hist_alpha", 0.0, "must be greater than 0"),
    ],
)
def test_values_that_cannot_work_are_refused(args: argparse.Namespace, flag: str, value: float, message: str) -> None:
    with pytest.raises(UsageError, match=f"--{flag} {value}: {message}"):
        arguments.check(changed(args, **{flag: value}))


@pytest.mark.parametrize("flag", ["squad_train_data", "squad_dev_data", "squad_eval_script"])
def test_missing_files_are_refused(args: argparse.Namespace, tmp_path: Path, flag: str) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UsageError, match=f"--{flag} {path}: no such file"):
            arguments.check(changed(args, **{flag: str(path)}))


def test_settings_are_what_the_result_depends_on(args: argparse.Namespace) -> None:
    settings = arguments.settings_of(args)
    assert settings == json.loads(json.dumps(settings)) and list(settings) == sorted(settings)
    for flag in ("output_dir", "save_steps", "logging_steps", "overwrite_output_dir", "no_cuda"):
        assert flag not in settings
    for flag in ("learning_rate", "seed", "total_train_batch_size", "per_gpu_train_batch_size", "mixed_precision"):
        assert flag in settings
    assert settings["squad_train_data"] == args.squad_train_data


def test_a_folder_is_finished_by_the_very_command(args: argparse.Namespace, caplog: pytest.LogCaptureFixture) -> None:
    assert not arguments.is_finished(args)
    arguments.prepare_folder(args)
    assert not arguments.is_finished(args)
    arguments.write_arguments(args)
    listing = (Path(args.output_dir) / ARGUMENTS_FILE).read_text(encoding="utf-8")
    assert "learning_rate 3e-05\n" in listing and 'model_student "large"\n' in listing
    with caplog.at_level(logging.INFO, logger="nncf_transformers"):
        assert arguments.is_finished(changed(args, save_steps=7))
    assert "holds the result of this command already" in caplog.text
    with pytest.raises(UsageError, match="training with other parameters.*--overwrite_output_dir"):
        arguments.is_finished(changed(args, seed=43))
    assert not arguments.is_finished(changed(args, seed=43, overwrite_output_dir=True))
    # What is there stays until there is something to put in its place.
    arguments.prepare_folder(args)
    assert arguments.is_finished(args)


def test_a_folder_with_something_else_is_left_alone(args: argparse.Namespace) -> None:
    out = Path(args.output_dir)
    out.write_text("a file")
    with pytest.raises(UsageError, match="is a file"):
        arguments.is_finished(args)
    with pytest.raises(UsageError, match="cannot be written"):
        arguments.prepare_folder(args)
    out.unlink()
    out.mkdir()
    (out / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="a model that is not of this training"):
        arguments.is_finished(args)
    # A training that was killed while it wrote its result.
    (out / "resume-01-0000010").mkdir()
    assert not arguments.is_finished(args)


def test_only_states_of_a_training_are_removed(tmp_path: Path) -> None:
    ours = ["resume-00-0000500", "resume-12-0000001", ".resume-01-0000002.4711"]
    theirs = ["my-resume-2024", "resume-", "resume-final", "resume-1-0000001", "resumes-01-0000001"]
    for name in [*ours, *theirs]:
        (tmp_path / name).mkdir()
    (tmp_path / "resume-01-0000003").write_text("a file")
    assert {folder.name for folder in arguments.state_folders(tmp_path)} == {*ours}
    arguments.remove_states(tmp_path, but=ours[0])
    assert {path.name for path in tmp_path.iterdir()} == {ours[0], *theirs, "resume-01-0000003"}


def test_configurations_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert arguments.read_config(None) is None
    shipped = sorted(arguments.SHIPPED_CONFIGS.glob("nncf_bert_config_squad.json"))
    monkeypatch.chdir(tmp_path)
    by_name, by_path = arguments.read_config(shipped[0].name), arguments.read_config(str(shipped[0]))
    assert by_name is not None and by_path is not None and by_name.algorithms == by_path.algorithms
    # A file of that name, here, is meant first.
    Path(shipped[0].name).write_text("not JSON")
    with pytest.raises(UsageError):
        arguments.read_config(shipped[0].name)
    for name in ("none.json", f"nncf_configs/{shipped[0].name}"):
        with pytest.raises(UsageError, match=name):
            arguments.read_config(name)


KNOWN = {"triplet_num": ("0", "1", "2"), "emb_loss": ("none", "L1", "L2")}


def test_pairs() -> None:
    assert arguments.read_pairs("loss_cfg", "", KNOWN) == {}
    both = {"triplet_num": "1", "emb_loss": "L2"}
    for text in ("triplet_num:1,emb_loss:L2", " emb_loss:L2 , triplet_num:1,"):
        assert arguments.read_pairs("loss_cfg", text, KNOWN) == both


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("triplets:1", "--loss_cfg triplets:1: unknown; known are triplet_num, emb_loss"),
        ("triplet_num", "--loss_cfg triplet_num: must be 0 or 1 or 2"),
        ("emb_loss:L2,triplet_num:3", "--loss_cfg triplet_num:3: must be 0 or 1 or 2"),
        ("emb_loss:l2", "must be none or L1 or L2"),
    ],
)
def test_wrong_pairs_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        arguments.read_pairs("loss_cfg", text, KNOWN)


def test_embeddings_need_something_to_learn_from(args: argparse.Namespace) -> None:
    data = args.squad_train_data
    line = ["--squad_train_data", data, "--squad_dev_data", data, "--output_dir", args.output_dir]
    with pytest.raises(UsageError, match="triplet_num:0: leaves nothing to learn from"):
        embeddings.main("", [*line, "--loss_cfg", "triplet_num:0"])
    assert not Path(args.output_dir).exists()
