"""The published figures: all of them, each with its source, its command and the hardware that it wants."""

import argparse
import itertools
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from benchmarks import render
from benchmarks.harness import FLOAT32
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
            assert words[1].startswith("build/") or (ROOT / words[1]).is_file(), name
        else:
            assert re.search("not among the scripts|figure of another task|no task of this", row.note or ""), name
    assert OURS == ("python", "scripts/train.py") and (ROOT / OURS[1]).is_file()


def _folder(command: str) -> str:
    """Where a command puts its results."""
    found = re.search(r"(?:--out|--output_dir)[ =](\S+)|\bOUT=(\S+)", command)
    assert found, f"names no folder: {command}"
    return found[1] or found[2]


def test_every_command_has_a_folder_of_its_own() -> None:
    """A second training in the folder of another would go on from its checkpoints."""
    commands = {name: row.command for name, row in ROWS.items() if shlex.split(row.command)[0] in ("python", "make")}
    assert len(commands) > 60
    folders = {name: _folder(command) for name, command in commands.items()}
    twice = {folder: [n for n in folders if folders[n] == folder] for folder in folders.values()}
    assert not {folder: names for folder, names in twice.items() if len(names) > 1}
    assert folders["squad-sparseml/12-prune80"] == "runs/v4.57/squad-sparseml-12-prune80"
    # Models that a command starts or learns from are made by others.
    for name, command in commands.items():
        for word in re.findall(r"runs/\S+", command):
            assert word.rstrip("'\"") in folders.values() or word == "runs/emb/packed", (name, word)


def test_what_is_measured_stands_beside_what_is_published() -> None:
    """Hours on a GPU must not end in a dash."""
    scripts = {"run_qa": {"f1", "exact_match"}, "run_seq2seq_qa": {"f1", "exact_match"}, "squad": {"f1", "exact_match"}}
    scripts |= {"run_glue": {"accuracy", "accuracy_mm"}, "run_xnli": {"accuracy"}}
    scripts |= {script: {"perplexity"} for script in ("run_mlm", "run_clm")}
    for name, row in ROWS.items():
        if row.train_words is None:
            continue
        # Operations and sizes are of the model.
        wanted = set(FIGURES[name.partition("/")[0]].metrics) - {"gops", "parameters_m"}
        found = scripts[TASKS[_parsed(row)[0].task]["script"]]
        assert (row.score in found) if wanted == {"score"} else wanted <= found, name


def test_notes_of_sparse_transfer_are_those_of_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "script.py"
    script.touch()
    monkeypatch.setattr(train, "script_path", lambda pin, asked: script)
    seen = 0
    for row in FIGURES["sparse-transfer"].rows:
        told = re.search(r"(\d+) epochs.*?learning rate (\S+?)[,;:]", row.note or "")
        if told is None:
            continue
        seed = re.search(r"seed (\d+)", row.note or "")
        args, extra = _parsed(row)
        args.dry_run = True
        words = train.compose(args, TASKS[args.task], extra)
        said = dict(itertools.pairwise(words))
        assert seed and (told[1], float(told[2]), seed[1]) == (
            said["--num_train_epochs"],
            float(said["--learning_rate"]),
            said["--seed"],
        ), row.key
        seen += 1
    assert seen == 8


def test_the_large_model_is_trained_as_its_note_says() -> None:
    large, quantized = (ROWS[f"packed-qa/{key}"] for key in ("large-fp32", "large-int8"))
    parser = subprocess.run(
        [sys.executable, "scripts/train_qa.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    flags = dict(word.split("=") for word in shlex.split(large.command) if "=" in word)
    assert all(f"{flag} " in parser for flag in flags)
    said = "embeddings frozen, learning rate {--learning_rate}, {--num_train_epochs} epochs, "
    said += "total batches of {--total_train_batch_size}"
    assert large.note == re.sub(r"\{(.*?)\}", lambda found: flags[found[1]], said)
    assert flags["--freeze_list"] == "embedding" and float(flags["--supervision_weight"]) == 0
    same = ROWS["squad/int8-2020"]
    assert quantized.published == same.published
    assert re.sub("--out .*", "", quantized.command) == re.sub("--out .*", "", same.command)


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
    assert missing["packed-qa/large-int8"] == "has the same command as squad/int8-2020, see there"
    # What magnitude pruning gives does not stand under the figures of second-order pruning.
    for key, near in (("30-epochs-80", "12-prune80"), ("30-epochs-90", "12-prune90"), ("10-epochs-97", "its command")):
        assert re.search(f"needs second-order pruning.*{near}", missing[f"squad-obert/{key}"])


def test_table_of_the_readme() -> None:
    lines = render.published().splitlines()
    assert len(lines) == len(FIGURES) + 2 <= 45
    (line,) = (line for line in lines if line.startswith("| `squad` "))
    assert line.split(" | ")[3] == "93.21 / 87.2" and "INT8, with distillation: 92.89 / 86.68" in line
    (line,) = (line for line in lines if line.startswith("| `squad-jpqd` "))
    assert "not published" in line
    assert len({line.count(" | ") for line in lines[2:]}) == 1


def test_tables_with_speeds_say_how_fp32_was_computed() -> None:
    for name in ("tables", "peers", "measured", "methods", "language", "packed"):
        assert FLOAT32 in render.BLOCKS[name](), name
    assert "non-zero parameters M" in render.BLOCKS["methods"]()


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
