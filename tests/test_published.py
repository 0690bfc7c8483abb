"""The published figures: all of them, each with its source, its command and the hardware that it wants."""

import argparse
import itertools
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from benchmarks import render
from benchmarks.reproduce import jobs
from benchmarks.reproduce.figures import COMMANDS, OURS, Row, choose, load_figures
from nncf_transformers.config import load_config
from nncf_transformers.errors import UsageError
from scripts import train

ROOT = Path(__file__).resolve().parent.parent
FIGURES = load_figures()
TASKS = tomllib.loads(COMMANDS.read_text(encoding="utf-8"))
ROWS = {f"{task.name}/{row.key}": row for task in FIGURES.values() for row in task.rows}

# Every figure that was published, once more, as the publications have them; "-" where there was none.
EXPECTED = """
squad/fp32 93.21 87.2 | squad/int8 92.48 85.95 | squad/int8-second 92.36 85.58 | squad/int8-2020 92.60 86.36
squad/int8-2022 92.55 86.1 | squad/int8-kd 92.89 86.68
xnli/fp32 77.68 | xnli/int8 77.02 | xnli/int8-2022 77.22
mnli/fp32 90.6 90.1 | mnli/int8 89.25 88.9
sst2/fp32 91.1 | sst2/int8-2019 90.3 | sst2/int8 90.94
mrpc/fp32 84.56 | mrpc/int8 84.8
conll/fp32 99.17 95.03 | conll/int8 99.18 95.31
squad-mobilebert/fp32 89.98 82.61 | squad-mobilebert/int8 89.4 82.05
clm/fp32 19.73 | clm/int8 20.9
squad-magnitude/sparse80 -
squad-jpqd/jpqd - | squad-distilbert/int8 -
optimum-sisters/sst2-qat 92.9 | optimum-sisters/sst2-jpqd 92.2 | optimum-sisters/food101-jpqd 90.7
optimum-sisters/wav2vec2-qat 97.5
packed-qa/large-fp32 93.21 87.20 246.93 333.96 | packed-qa/large-int8 92.60 86.36
packed-qa/small-0001 91.57 85.04 57.94 | packed-qa/small-0002 91.9 85.4 23.9 41.1 | packed-qa/small-int8-0002 91.4 84.4
packed-embeddings/large-fp32 90.5 | packed-embeddings/small-int8 87.6
squad-full/fp32 88.52 81.22
squad-adapter/fp32 - | squad-adapter/int8 - | squad-v2-adapter/fp32 - | seq2seq-qa/fp32 - | mlm/fp32 -
clm-adapters/fp32 20 | clm-adapters/scratch -
squad-sparseml/dense 80.927 88.435 | squad-sparseml/12-prune80 81.372 88.62 | squad-sparseml/12-prune90 79.376 87.229
squad-sparseml/12-prune95 74.939 83.929 | squad-sparseml/6-prune80 78.042 85.915 | squad-sparseml/6-prune90 75.08 83.602
squad-sparseml/6-prune95 70.946 80.483 | squad-sparseml/12-prune-quant90 - | squad-sparseml/aggressive98 -
sparse-transfer/squad-dense 87.5 | sparse-transfer/squad 87.1 | sparse-transfer/qqp-dense 91.3 | sparse-transfer/qqp 90
sparse-transfer/mnli-dense 82.3 | sparse-transfer/mnli 81.9 | sparse-transfer/sst2-dense 91.2
sparse-transfer/sst2 91.3
sparse-transfer/conll-dense 94.7 | sparse-transfer/conll 88.5 | sparse-transfer/squad-quant -
squad-obert/dense 81.41 88.54 | squad-obert/30-epochs-80 89.04 | squad-obert/30-epochs-90 88.31
squad-obert/30-epochs-97 85.98 | squad-obert/10-epochs-90 87.98 | squad-obert/10-epochs-97 84.65
squad-obert/upstream-90 88.49 | squad-obert/upstream-97 84.92 | squad-obert/pruned90-quant 88
"""


def test_every_figure_is_there() -> None:
    expected = dict(entry.strip().split(" ", 1) for entry in re.split(r"[|\n]", EXPECTED) if entry.strip())
    assert list(ROWS.keys() - expected.keys()) == list(expected.keys() - ROWS.keys()) == []
    for task in FIGURES.values():
        for row in task.rows:
            name = f"{task.name}/{row.key}"
            figures = [row.published[m] for m in task.metrics if m in row.published] if row.published else []
            assert figures == [float(word) for word in expected[name].split() if word != "-"], name
            # A figure that exists nowhere is said to be unpublished, or to be nobody's.
            assert row.published or re.search(
                r"never published|no(thing)? .*published|not known|not be retrieved", row.note or ""
            ), name


@pytest.mark.parametrize("name", ROWS)
def test_every_row_says_where_how_and_on_what(name: str) -> None:
    row, task = ROWS[name], FIGURES[name.partition("/")[0]]
    assert row.source and row.command and row.label and "\n" not in row.command
    assert re.search("GPU|machine", row.wants)
    assert not set(row.published or ()) - set(task.metrics)


def _parsed(row: Row) -> tuple[argparse.Namespace, list[str]]:
    words = row.train_words
    assert words is not None
    return train.parse_with_extra(train.make_parser(TASKS), words)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.train_words is not None])
def test_commands_of_ours_compose(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args, extra = _parsed(ROWS[name])
    script = tmp_path / "script.py"
    # As the Trainer-based scripts look to what composes their command lines.
    script.write_text("--local_rank LOCAL_RANK")
    monkeypatch.setattr(train, "script_path", lambda pin, asked: script)
    args.dry_run = True
    words = train.compose(args, TASKS[args.task], extra)
    assert "--model_name_or_path" in words and "--output_dir" in words
    flags = [word for word in words if word.startswith("--")]
    assert len(flags) == len(set(flags)), "no flag twice"
    assert not {"--recipe", "--nncf_config"} <= set(flags)
    for flag, value in itertools.pairwise(words):
        if flag == "--nncf_config":
            assert load_config(str(ROOT / value)).algorithms
        if flag == "--recipe":
            from nncf_transformers.recipe import load_recipe

            given = words[words.index("--recipe_args") + 1] if "--recipe_args" in words else None
            assert load_recipe(str(ROOT / value), given).max_epochs


def test_other_commands_are_somebodys() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name, row in ROWS.items():
        words = shlex.split(row.command)
        if row.train_words is not None:
            continue
        if words[0] == "make":
            assert words[1] in targets, name
        elif words[0] == "python":
            assert words[1].startswith("build/"), name
        else:
            assert re.search("not among the scripts|figure of another task|no task of this", row.note or ""), name
    assert OURS == ("python", "scripts/train.py") and (ROOT / OURS[1]).is_file()


def test_full_scale_trains_each_command_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "script.py"
    script.write_text("--local_rank LOCAL_RANK")
    monkeypatch.setattr(train, "script_path", lambda pin, asked: script)
    scale = jobs.load_scale("full")
    setting = jobs.Setting("full", tmp_path, "v5.2")
    plans = jobs.full_jobs(FIGURES, scale["judging"], setting)
    assert list(plans) == list(ROWS)
    real = {name: plan for name, plan in plans.items() if isinstance(plan, jobs.Job)}
    commands = [re.sub(r"runs/tables/full/\S+/\S+/model", "X", plan.command) for plan in real.values()]
    assert len(set(commands)) == len(commands) > 30
    # Where one starts from another's result, it is that of this scale, and comes first.
    assert real["squad-sparseml/12-prune80"].needs == ("squad-sparseml/dense",)
    assert real["squad-adapter/int8"].needs == ("squad/int8",)
    assert real["clm/int8"].needs == ("clm/fp32",)
    assert not any("runs/v" in word for plan in real.values() for word in plan.words)
    order = list(jobs.ordered(plans, list(reversed(plans))))
    assert all(order.index(need) < order.index(name) for name, plan in real.items() for need in plan.needs)
    missing = {name: plan.reason for name, plan in plans.items() if isinstance(plan, jobs.Missing)}
    assert missing["squad/int8-second"] == "has the same command as squad/int8, see there"
    assert "pruned already" in missing["sparse-transfer/squad"]
    assert "run it by hand" in missing["conll/fp32"]


def test_table_of_the_readme() -> None:
    lines = render.published().splitlines()
    assert len(lines) == len(FIGURES) + 2 <= 45
    (line,) = (line for line in lines if line.startswith("| `squad` "))
    assert line.split(" | ")[3] == "93.21 / 87.2" and "INT8, with distillation: 92.89 / 86.68" in line
    (line,) = (line for line in lines if line.startswith("| `squad-jpqd` "))
    assert "not published" in line
    assert len({line.count(" | ") for line in lines[2:]}) == 1


def test_mistakes_in_the_files(tmp_path: Path) -> None:
    row = '{ key = "k", label = "l", command = "c" }'
    good = f'[a]\ntitle = "t"\nsource = "s"\nmetrics = []\nwants = "w"\nrows = [{row}]\n'
    head = 'order = 1\nsystem = "s"\n'
    (tmp_path / "a.toml").write_text(head + good)
    (read,) = load_figures(tmp_path)["a"].rows
    assert (read.source, read.wants, read.published, read.note) == ("s", "w", None, None)
    (tmp_path / "b.toml").write_text(head + good)
    with pytest.raises(UsageError, match=r"b\.toml: the task a stands in another file"):
        load_figures(tmp_path)
    (tmp_path / "b.toml").unlink()
    for old, new, message in (
        ('title = "t"\n', "", "the task a: 'title'"),
        ('wants = "w"\n', "", "a/k: source, command and wants are needed"),
        (', label = "l"', "", "the task a: .*'label'"),
        (row, f"{row}, {row}", "a key stands twice"),
    ):
        (tmp_path / "a.toml").write_text(head + good.replace(old, new))
        with pytest.raises(UsageError, match=message):
            load_figures(tmp_path)


def test_choosing() -> None:
    assert choose(FIGURES, []) == list(FIGURES)
    assert choose(FIGURES, ["sst2"]) == ["sst2"]
    with pytest.raises(UsageError, match="TASK=squad-jpgd: there is no such table; the nearest is squad-jpqd"):
        choose(FIGURES, ["squad-jpgd"])
