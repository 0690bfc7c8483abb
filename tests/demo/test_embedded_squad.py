"""embedded/run_squad.py on the tiny data: trains, resumes, predicts, and names mistakes in one line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

SCRIPT = Path(__file__).resolve().parents[2] / "embedded" / "run_squad.py"


@pytest.fixture
def command(demo_dir, tmp_path):
    """A function that returns the arguments of a short run."""

    def build(*extra, model=demo_dir / "model", data=demo_dir / "squad", out=tmp_path / "out"):
        base = ["--model_type", "bert", "--model_name_or_path", model, "--output_dir", out, "--no_cuda"]
        sizes = ["--max_seq_length", 48, "--doc_stride", 16, "--per_gpu_train_batch_size", 4]
        return [*base, *sizes, "--data_dir", data, *extra]

    return build


def test_two_steps_train_evaluate_and_write_all_files(load_script, command, tmp_path, capsys):
    flags = ["--do_train", "--do_eval", "--max_steps", 2, "--save_steps", 1, "--eval_all_checkpoints"]
    results = load_script("run_squad", *command(*flags)).main()
    out = tmp_path / "out"
    assert {"exact", "f1", "total", "exact_1", "f1_2"} <= results.keys()
    assert json.loads((out / "eval_results.json").read_text()) == results
    assert f"Results: {json.dumps(results)}" in capsys.readouterr().out
    predictions = json.loads((out / "predictions_.json").read_text())
    n_best = json.loads((out / "nbest_predictions_.json").read_text())
    assert len(predictions) == results["total"] == len(n_best)
    assert all(n_best[qid][0]["text"] == text for qid, text in predictions.items())
    assert sum(row["probability"] for row in next(iter(n_best.values()))) == pytest.approx(1)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "optimizer.pt", "scheduler.pt"):
        assert (out / "checkpoint-1" / name).is_file()
    assert list((out / "runs").glob("events.out.tfevents.*"))


def test_continued_run_equals_an_uninterrupted_one(load_script, command, tmp_path):
    flags = ["--do_train", "--max_steps", 4, "--save_steps", 2, "--gradient_accumulation_steps", 2]
    load_script("run_squad", *command(*flags, out=tmp_path / "whole")).main()
    checkpoint = tmp_path / "whole" / "checkpoint-2"
    load_script("run_squad", *command(*flags, model=checkpoint, out=tmp_path / "continued")).main()
    whole, continued = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "continued"))
    assert whole.keys() == continued.keys()
    assert all(torch.equal(whole[name], continued[name]) for name in whole)


def test_windows_cover_the_context_and_find_the_answer(load_script, demo_dir, command):
    module = load_script("run_squad", *command())
    args = module.make_parser().parse_args([str(part) for part in command()])
    tokenizer = AutoTokenizer.from_pretrained(demo_dir / "model")
    context = " ".join(f"Ada Norvik moved to Telhaven in {year}." for year in range(1950, 1970))
    example = module.Example("1", "When?", context, [("1960", context.index("1960"))])
    windows = module.make_windows(args, tokenizer, example)
    starts = [next(span[0] for span in window.offsets if span) for window in windows]
    tokens = tokenizer(context, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert starts == [span[0] for span in tokens[: 16 * len(windows) : 16]]
    assert windows[-1].offsets[windows[-1].attention_mask.index(0) - 2 if 0 in windows[-1].attention_mask else -2]

    spans = [module.answer_tokens(window, example, tokenizer.cls_token_id) for window in windows]
    found = [(window, span) for window, span in zip(windows, spans, strict=True) if span != (0, 0)]
    assert 0 < len(found) < len(windows)
    for window, (first, last) in found:
        assert context[window.offsets[first][0] : window.offsets[last][1]] == "1960"


def test_scores_are_those_of_squad(load_script):
    module = load_script("run_squad")
    examples = [
        module.Example("a", "?", "", [("the red Door", 0)]),
        module.Example("b", "?", "", [("two chairs", 0), ("chairs", 0)]),
        module.Example("c", "?", "", []),
    ]
    results = module.score(examples, {"a": "Red door!", "b": "old chairs", "c": "something"})
    assert results["exact"] == pytest.approx(100 / 3)
    assert results["f1"] == pytest.approx((100 + 200 / 3 + 0) / 3)
    assert (results["HasAns_total"], results["NoAns_total"], results["NoAns_f1"]) == (2, 1, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"data": [{"paragraphs": [', "not valid JSON, perhaps truncated"),
        ('{"data": []}', "holds no questions"),
        ('{"rows": []}', "not in SQuAD's layout"),
        (
            '{"data": [{"paragraphs": [{"context": "c", "qas": [{"id": "q7", "question": "?"}]}]}]}',
            "1 of 1 questions have no answers (first: q7)",
        ),
        (None, "cannot read"),
    ],
)
def test_bad_data_is_one_error(load_script, command, tmp_path, text, message):
    if text is not None:
        (tmp_path / "train-v1.1.json").write_text(text)
    module = load_script("run_squad", *command("--do_train", data=tmp_path))
    with pytest.raises(module.InputError) as error:
        module.main()
    assert message in str(error.value) and str(tmp_path / "train-v1.1.json") in str(error.value)
    assert not (tmp_path / "out").exists()


def test_output_folder_of_another_run_is_refused_without_traceback(command, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.safetensors").write_text("precious")
    arguments = [str(part) for part in command("--do_train")]
    done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("run_squad.py: error: --output_dir")
    assert (tmp_path / "out" / "model.safetensors").read_text() == "precious"
