"""The flags: their spellings, and what is said of them before any work is done."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import HfArgumentParser

from nncf_transformers.config.model import DistillationConfig
from nncf_transformers.errors import UsageError
from nncf_transformers.flags import CompressionFlags, add_arguments, flags_of

TEACHER = (
    "--teacher_model_or_path",
    "--teacher-model-or-path",
    "--teacher_model_name_or_path",
    "--teacher-model-name-or-path",
    "--distill_teacher",
    "--distill-teacher",
)


def by_argparse(words: list[str]) -> CompressionFlags:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return flags_of(parser.parse_args(words))


def by_dataclass(words: list[str]) -> CompressionFlags:
    flags: CompressionFlags = HfArgumentParser(CompressionFlags).parse_args_into_dataclasses(words)[0]
    flags.check()
    return flags


@pytest.fixture(params=[by_argparse, by_dataclass])
def parse(request: pytest.FixtureRequest) -> Any:
    return request.param


def quantization(folder: Path, **distillation: Any) -> str:
    path = folder / "config.json"
    algorithms: list[dict[str, Any]] = [{"algorithm": "quantization"}]
    if distillation:
        algorithms.append({"algorithm": "distillation", **distillation})
    path.write_text(json.dumps({"algorithms": algorithms}))
    return str(path)


@pytest.mark.parametrize("teacher", TEACHER)
@pytest.mark.parametrize("config", ["--nncf-config", "--nncf_config", "--nncf_compression_config"])
def test_all_spellings(parse: Any, tmp_path: Path, teacher: str, config: str) -> None:
    path = quantization(tmp_path)
    words = [teacher, "large", config, path, "--distillation-weight", "0.9", "--distillation_temperature", "3"]
    flags = parse(words)
    assert (flags.nncf_config, flags.teacher_model_or_path) == (path, "large")
    merged = flags.check()
    assert merged is not None
    assert merged.algorithms[-1] == DistillationConfig(teacher="large", weight=0.9, temperature=3)
    assert merged.flags == {"teacher": "large", "weight": 0.9, "temperature": 3}


def test_a_teacher_alone_is_a_configuration(parse: Any) -> None:
    config = parse(["--distill_teacher", "self"]).check()
    assert config is not None and config.algorithms == (DistillationConfig(teacher="self"),)
    assert parse(["--distill_teacher", "disable"]).check() is None
    assert parse([]).check() is None


def test_disable_takes_the_distillation_out(parse: Any, tmp_path: Path) -> None:
    words = ["--nncf-config", quantization(tmp_path, teacher="self"), "--distill_teacher", "disable"]
    config = parse(words).check()
    assert config is not None and [a.algorithm for a in config.algorithms] == ["quantization"]


def test_flags_win_over_the_file(parse: Any, tmp_path: Path) -> None:
    file = quantization(tmp_path, weight=0.9, temperature=4, teacher="one")
    config = parse(["--nncf-config", file, "--distillation_weight", "0.1", "--distill_teacher", "two"]).check()
    assert config is not None
    assert config.algorithms[-1] == DistillationConfig(
        teacher="two", weight=0.1, temperature=4, place=f"{file}: algorithms[1]"
    )


@pytest.mark.parametrize(
    "words, message",
    [
        (["--distillation_weight", "0.5"], "--distillation_weight: has no effect without a teacher"),
        (["--distillation_cache", "x"], "--distillation_cache: has no effect without a teacher"),
        (
            ["--distill_teacher", "x", "--distillation_weight", "-1"],
            "--distillation_weight -1: must be a number from 0",
        ),
        (["--distill_teacher", "x", "--distillation_temperature", "0.9"], "must be a number of at least 1"),
        (["--distill_teacher", "x", "--distillation_hidden_weight", "-0.1"], "must be a number of at least 0"),
        (["--distill_teacher", "x", "--distillation_teacher_dtype", "half"], "must be float32 or bfloat16"),
        (["--nncf-config", "nothing.json"], "nothing.json"),
    ],
)
def test_mistakes_show_when_the_flags_are_parsed(parse: Any, words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse(words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("loss, refused", [("mse", ("weight", "temperature")), ("softmax", ("weight",)), ("kl", ())])
def test_flags_that_a_loss_does_not_know(tmp_path: Path, loss: str, refused: tuple[str, ...]) -> None:
    file = quantization(tmp_path, teacher="self", loss=loss)
    for name, value in (("weight", 0.3), ("temperature", 3.0)):
        flags = CompressionFlags(nncf_config=file, **{f"distillation_{name}": value})
        if name in refused:
            with pytest.raises(UsageError, match=f'the loss "{loss}", which knows no {name}'):
                flags.check()
        else:
            assert flags.check() is not None


def test_numbers_of_an_argument_file_may_be_text(tmp_path: Path) -> None:
    path = tmp_path / "arguments.json"
    path.write_text(json.dumps({"teacher_model_or_path": "self", "distillation_weight": "0.25"}))
    flags = HfArgumentParser(CompressionFlags).parse_json_file(str(path))[0]
    config = flags.check()
    assert config.algorithms[0].weight == 0.25
    flags.distillation_weight = "much"
    with pytest.raises(UsageError, match="--distillation_weight much: must be a number"):
        flags.check()
