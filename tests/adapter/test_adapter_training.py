"""Adapters on a model that stays as it is: train, save, resume, reload."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from adapter_runs import FILES, base, files, load, logits, reload, train, trainer
from adapters import ADAPTER_CONFIG_MAP
from safetensors.torch import load_file
from tiny import tiny_model

from nncf_transformers.adapter import saving
from nncf_transformers.adapter.config import read_config
from nncf_transformers.adapter.flags import AdapterFlags
from nncf_transformers.adapter.keys import checksum, count
from nncf_transformers.adapter.model import install
from nncf_transformers.data import loading
from nncf_transformers.errors import UsageError
from nncf_transformers.hf import TrainingArguments

ROOT = Path(__file__).resolve().parents[2]
OLD_NAMES = {
    "pfeiffer": "seq_bn",
    "houlsby": "double_seq_bn",
    "parallel": "par_bn",
    "scaled_parallel": "scaled_par_bn",
    "pfeiffer+inv": "seq_bn_inv",
    "houlsby+inv": "double_seq_bn_inv",
}
UNIONS = ["prefix_tuning|seq_bn", "double_seq_bn[reduction_factor=8]", "prompt_tuning|lora[r=2]"]


@pytest.mark.parametrize("config", [*(name for name in ADAPTER_CONFIG_MAP if name not in OLD_NAMES), *UNIONS])
def test_every_configuration(config: str, tmp_path: Path) -> None:
    head = "classes" if "prompt_tuning" in config else "qa"
    folder, out = base(tmp_path / "base", head=head), tmp_path / "out"
    if config.startswith("compacter"):
        # By 32, as is the default, nothing would be left of 32.
        config += "[reduction_factor=8]"
    before, weights = logits(load(folder, head)), load_file(folder / "model.safetensors")
    model = train(out, load(folder, head), adapter_config=config, adapter_name="ours", max_steps=1, save_strategy="no")
    after = logits(model)
    assert not torch.equal(before, after), "it learns"
    own = {name: tensor for name, tensor in model.state_dict().items() if name in weights and name.startswith("bert.")}
    assert len(own) >= 30 and not [name for name, tensor in own.items() if not torch.equal(tensor, weights[name])]
    learned = [name for name, p in model.named_parameters() if p.requires_grad]
    assert any("bert." in name for name in learned), "not only the head learns"
    assert files(out) == sorted(
        ["README.md", "adapter_setup.json", "training_args.bin", *(f"ours/{name}" for name in FILES)]
    )
    assert torch.equal(logits(reload(tmp_path, load(folder, head), out)), after)
    # Under another name, and trained and saved once more by what was saved.
    other = train(
        tmp_path / "2", load(folder, head), load_adapter=out, adapter_name="other", max_steps=1, learning_rate=0.0
    )
    assert torch.equal(logits(other), after)
    assert torch.equal(logits(reload(tmp_path, load(folder, head), tmp_path / "2" / "other")), after)


def test_old_names_are_what_they_were() -> None:
    for old, new in OLD_NAMES.items():
        assert read_config("--adapter_config", old) == read_config("--adapter_config", new)
    assert set(OLD_NAMES) < set(ADAPTER_CONFIG_MAP)


@pytest.mark.parametrize("name", [name for name in ADAPTER_CONFIG_MAP if name not in OLD_NAMES])
def test_a_saved_configuration_says_what_it_was(name: str, tmp_path: Path) -> None:
    # A plain JSON file, one in the form of adapter_config.json, and changes.
    from nncf_transformers.adapter.config import describe_config

    config = read_config("--adapter_config", name)
    for content in (config.to_dict(), {"config": config.to_dict(), "name": "x"}):
        (tmp_path / "c.json").write_text(json.dumps(content))
        read = read_config("--adapter_config", str(tmp_path / "c.json"))
        assert read == config and describe_config(read) == name


def test_changes_of_a_configuration() -> None:
    config = read_config("--adapter_config", "prefix_tuning[prefix_length=7]|seq_bn[reduction_factor=2,dropout=0.5]")
    prefix, bottleneck = config["configs"]
    assert (prefix["prefix_length"], bottleneck["reduction_factor"], bottleneck["dropout"]) == (7, 2, 0.5)


@pytest.mark.parametrize(
    ("family", "head", "config", "adapter", "of_head"),
    [
        ("bert", "qa", {}, 894528, 1538),
        ("roberta", "masked", {}, 894528, 592128),
        ("gpt2", "causal", {}, 894528, 0),
        ("t5", "seq2seq", {"d_kv": 64, "d_ff": 2048, "num_decoder_layers": 6}, 399744, 0),
    ],
)
def test_sizes_of_the_published_models(
    family: str, head: str, config: dict[str, int], adapter: int, of_head: int
) -> None:
    sizes = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    if family == "t5":
        sizes = {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8}
    # Few words: neither the adapter nor what is trained of the head depends on them.
    model = tiny_model(family, head, **(sizes | config))
    plan = AdapterFlags(train_adapter=True).check_adapter()
    assert plan is not None
    install(model, plan, default_name="x", trains=True)
    assert {name: number for name, number in count(model).items() if name != "frozen"} == {
        "adapter": adapter,
        "head": of_head,
    }


@pytest.mark.parametrize(
    ("family", "head", "tied", "expected"),
    [
        ("roberta", "masked", True, {"dense.weight", "dense.bias", "layer_norm.weight", "layer_norm.bias"}),
        ("gpt2", "causal", True, None),
        ("gpt2", "causal", False, None),
        ("t5", "seq2seq", True, None),
    ],
)
def test_what_is_saved_of_a_language_models_head(
    family: str, head: str, tied: bool, expected: set[str] | None, tmp_path: Path
) -> None:
    folder, out = base(tmp_path / "base", family, head, tie_word_embeddings=tied), tmp_path / "out"
    model = train(out, load(folder, head), adapter_name="ours", save_strategy="no")
    # What maps to words stays as it is, whether it is the embeddings or not.
    assert torch.equal(model.get_output_embeddings().weight, load(folder, head).get_output_embeddings().weight)
    if expected is None:
        assert files(out / "ours") == FILES[:2]
    else:
        assert files(out / "ours") == FILES
        assert load_file(out / "ours" / FILES[3]).keys() == {f"lm_head.{name}" for name in expected}
    assert torch.equal(logits(reload(tmp_path, load(folder, head), out)), logits(model))


def test_resume_is_bit_for_bit(tmp_path: Path) -> None:
    folder, out = base(tmp_path / "base"), tmp_path / "out"
    # Dropout and a schedule: the state of everything counts.
    expected = logits(train(out, load(folder)))
    assert [*out.glob("checkpoint-2/squad/adapter.safetensors"), *out.glob("checkpoint-2/optimizer.pt")]
    assert not [*out.rglob("model.safetensors")], "no full model"
    run = trainer(out, load(folder))
    run.train(resume_from_checkpoint=str(out / "checkpoint-2"))
    assert run.state.global_step == 4 and torch.equal(logits(run.model), expected)
    run = trainer(out, load(folder), max_steps=5)
    run.train(resume_from_checkpoint=True)
    assert run.state.global_step == 5


def test_resume_needs_its_own_model(tmp_path: Path) -> None:
    out = tmp_path / "out"
    train(out, load(base(tmp_path / "base")))
    other = load(base(tmp_path / "other", seed=1))
    with pytest.raises(UsageError, match=r"checkpoint-2: its adapter was trained on .*base, whose weights differ"):
        trainer(out, other).train(resume_from_checkpoint=str(out / "checkpoint-2"))
    with pytest.raises(UsageError, match=r"checkpoint-2: the adapter 'else' is not in it.*it has squad"):
        run = trainer(tmp_path / "3", load(tmp_path / "base"), adapter_name="else")
        run.train(resume_from_checkpoint=str(out / "checkpoint-2"))


def test_best_adapter_comes_back(tmp_path: Path) -> None:
    # The wrong way round on purpose: the first checkpoint is the best.
    flags = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "load_best_model_at_end": True}
    flags |= {"metric_for_best_model": "loss", "greater_is_better": True}
    folder, out = base(tmp_path / "base"), tmp_path / "out"
    run = trainer(out, load(folder), **flags)
    run.train()
    best, last = Path(run.state.best_model_checkpoint), out / "checkpoint-4"
    assert best != last
    run.save_model()
    for file in ("adapter.safetensors", "model_head.safetensors"):
        saved, expected, others = (load_file(path / "squad" / file) for path in (out, best, last))
        assert all(torch.equal(saved[name], expected[name]) for name in expected)
        assert any(not torch.equal(saved[name], others[name]) for name in others)


def test_evaluation_alone_gives_the_same_loss(tmp_path: Path) -> None:
    folder, out = base(tmp_path / "base"), tmp_path / "out"
    run = trainer(out, load(folder), adapter_config="unipelt", do_eval=True)
    run.train()
    run.save_model()
    again = trainer(tmp_path / "2", load(folder), load_adapter=out, do_train=False, do_eval=True)
    assert again.evaluate()["eval_loss"] == run.evaluate()["eval_loss"]
    with pytest.raises(UsageError, match=r"--train_adapter: without --do_train.*name it with --load_adapter"):
        trainer(tmp_path / "3", load(folder), do_train=False, do_eval=True)


def test_language_stack(tmp_path: Path) -> None:
    folder, lang, out = base(tmp_path / "base"), tmp_path / "lang", tmp_path / "out"
    train(lang, load(base(tmp_path / "mlm", head="masked"), "masked"), adapter_config="seq_bn_inv", adapter_name="en")
    (model,) = (load(folder),)
    run = trainer(out, model, load_lang_adapter=lang, adapter_name="task", lang_adapter_config="seq_bn_inv")
    assert [str(name) for name in run.model.active_adapters] == ["en", "task"]
    run.train()
    run.save_model()
    weights = [load_file(path / "en" / "adapter.safetensors") for path in (lang, out)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0]), "it is not trained"
    # One flag is enough: the set-up says what is below.
    again = reload(tmp_path, load(folder), out)
    assert torch.equal(logits(again), logits(run.model))
    of_folder = reload(tmp_path, load(folder), out / "task")
    assert torch.equal(logits(of_folder), logits(run.model)), "the adapter's folder leaves out what is below"
    resumed = trainer(tmp_path / "r", load(folder), load_lang_adapter=lang, adapter_name="task")
    resumed.train(resume_from_checkpoint=str(out / "checkpoint-2"))
    assert torch.equal(logits(resumed.model), logits(run.model))
    with pytest.raises(
        UsageError, match=r"bears the name of the adapter on top of it, en; pass another --adapter_name"
    ):
        trainer(tmp_path / "4", load(folder), load_lang_adapter=lang, adapter_name="en")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (("rajpurkar/squad_v2", None), "squad_v2"),
        (("someone/wiki.en-2020", None), "wiki_en-2020"),
        (("nyu-mll/glue", "sst2"), "sst2"),
        (("json", None), "squad"),
        (("data/training/", None), "training_"),
        (("my/runs", None), "runs_"),
        (None, "squad"),
    ],
)
def test_default_names(
    asked: tuple[str, str | None] | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_asked_for", asked)
    train(tmp_path / "out", load(base(tmp_path / "base")), max_steps=1)
    assert (tmp_path / "out" / expected / "adapter.safetensors").is_file()


@pytest.mark.parametrize(
    "name", ["", " ", "a/b", "..", "a.b", "training", "_modules", "pop", "checkpoint-7", "runs", "base_model", "-x"]
)
def test_names_that_are_not_legal(name: str) -> None:
    with pytest.raises(UsageError, match=r"^--adapter_name '.*': cannot name a folder"):
        AdapterFlags(train_adapter=True, adapter_name=name).check_adapter()


def test_nothing_else_is_overwritten(tmp_path: Path) -> None:
    # A data set beside its output: what is saved there must not take its place.
    (tmp_path / "squad").mkdir()
    (tmp_path / "squad" / "train-v1.1.json").write_text("{}")
    with pytest.raises(UsageError, match=r"squad: is no adapter.*pass another --output_dir or --adapter_name"):
        trainer(tmp_path, load(base(tmp_path / "base")))
    run = trainer(tmp_path, load(tmp_path / "base"), adapter_name="ours", max_steps=1)
    run.train()
    run.save_model()
    with pytest.raises(UsageError, match="base: is no adapter"):
        saving.check_free(tmp_path, ["base"])
    assert (tmp_path / "squad" / "train-v1.1.json").is_file()
    trainer(tmp_path, load(tmp_path / "base"), adapter_name="ours").save_model()


def test_a_failure_while_saving_leaves_the_old_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = base(tmp_path / "base"), tmp_path / "out"
    expected = logits(train(out, load(folder)))
    run = trainer(out, load(folder))
    real = Path.rename

    def broken_head(*_: Any) -> None:
        raise KeyboardInterrupt

    def broken_move(self: Path, target: Path) -> Path:
        if target == out / "squad" and not self.name.endswith(".old"):
            raise OSError("no")
        return real(self, target)

    for owner, name, broken in (
        (saving._HeadLoader, "save", broken_head),
        (Path, "rename", broken_move),
        (saving, "write_text", broken_head),
    ):
        before = {name: (out / "squad" / name).read_bytes() for name in FILES}
        with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, OSError)):
            patch.setattr(owner, name, broken)
            run.save_model()
        if name != "write_text":
            assert {name: (out / "squad" / name).read_bytes() for name in FILES} == before
            assert torch.equal(logits(reload(tmp_path, load(folder), out)), expected)
        assert not [*out.glob(".*")], "nothing is left behind"


def test_a_kill_while_saving_does_not_hinder_a_resume(tmp_path: Path) -> None:
    folder, out = base(tmp_path / "base"), tmp_path / "out"
    train(out, load(folder))
    # What a run that was killed leaves: a configuration without its weights.
    for place in (out, out / "checkpoint-2"):
        (place / ".squad.1").mkdir()
        shutil.copy(out / "squad" / "adapter_config.json", place / ".squad.1")
    trainer(out, load(folder)).train(resume_from_checkpoint=str(out / "checkpoint-2"))
    (out / "adapter_setup.json").unlink()
    reload(tmp_path, load(folder), out)


def test_made_on_the_fly_the_model_is_saved_too(tmp_path: Path) -> None:
    model = train(tmp_path / "out", tiny_model())
    saved = load(tmp_path / "out" / "base_model")
    assert "adapters" not in json.loads((tmp_path / "out" / "base_model" / "config.json").read_text())
    assert torch.equal(logits(reload(tmp_path, saved, tmp_path / "out")), logits(model))


def test_another_model_is_named_in_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "out"
    train(out, load(base(tmp_path / "base")), max_steps=1)
    caplog.set_level(logging.WARNING)
    reload(tmp_path, load(tmp_path / "base"), out)
    assert "expect other results" not in caplog.text
    reload(tmp_path, load(base(tmp_path / "other", seed=1)), out)
    assert "other: expect other results" in caplog.text


def test_a_head_of_another_task_starts_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(tmp_path / "qa", load(base(tmp_path / "base")))
    classes = load(base(tmp_path / "classes", head="classes"), "classes")
    with pytest.raises(UsageError, match="has a head of BertForQuestionAnswering, so BertForSequenceClassification"):
        trainer(tmp_path / "1", classes, load_adapter=tmp_path / "qa", do_train=False)
    head = load_file(tmp_path / "classes" / "model.safetensors")["classifier.weight"]
    caplog.set_level(logging.WARNING)
    run = trainer(tmp_path / "2", load(tmp_path / "classes", "classes"), load_adapter=tmp_path / "qa")
    assert "the head of BertForSequenceClassification starts as it is" in caplog.text
    assert torch.equal(run.model.classifier.weight, head)


def test_checksum_is_of_the_base_alone(tmp_path: Path) -> None:
    model = tiny_model()
    plain = checksum(model)
    with torch.no_grad():
        model.qa_outputs.weight.add_(1)
    assert checksum(model) == plain
    run = trainer(tmp_path, model, adapter_config="mam")
    assert checksum(run.model) == plain
    with torch.no_grad():
        run.model.bert.encoder.layer[1].output.dense.bias[0] += 1e-6
    assert checksum(run.model) != plain
    assert checksum(tiny_model().bfloat16()) != plain


def test_without_the_flag_nothing_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys, json, nncf_transformers.seams as s, transformers\n"
        f"a = s.TrainingArguments(output_dir={str(tmp_path)!r}, logging_dir='x', use_cpu=True)\n"
        f"b = transformers.TrainingArguments(output_dir={str(tmp_path)!r}, logging_dir='x', use_cpu=True)\n"
        "assert a.to_dict() == b.to_dict(), a.to_dict().keys() ^ b.to_dict().keys()\n"
        "from tiny import tiny_model\n"
        "t = s.Trainer(model=tiny_model(), args=a)\n"
        "t.save_model()\n"
        "assert not [m for m in sys.modules if m == 'adapters' or m.startswith('adapters.')]"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def test_arguments_load_without_this_package(tmp_path: Path) -> None:
    train(tmp_path, load(base(tmp_path / "base")), adapter_config="lora", max_steps=1)
    code = (
        "import sys, torch\n"
        "sys.modules['nncf_transformers'] = sys.modules['adapters'] = None\n"
        f"a = torch.load({str(tmp_path / 'training_args.bin')!r}, weights_only=False)\n"
        "print(type(a).__module__, a.train_adapter, a.adapter_config, hasattr(a, 'adapter_plan'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.stdout.split() == ["transformers.training_args", "True", "lora", "False"], done.stderr[-2000:]


def test_only_flags_that_were_given_are_noted(tmp_path: Path) -> None:
    values = TrainingArguments(output_dir=str(tmp_path), train_adapter=True, adapter_name="x").to_dict()
    ours = {"adapter_config", "adapter_name", "load_adapter", "load_lang_adapter", "lang_adapter_config"}
    assert {name for name in values if name in ours} == {"adapter_name"} and values["train_adapter"] is True
    assert "adapter_plan" not in values
    json.dumps(values)


def test_spellings(tmp_path: Path) -> None:
    parser = transformers.HfArgumentParser(TrainingArguments)
    words = ["--output_dir", str(tmp_path), "--train-adapter", "--adapter-config", "lora[r=2]", "--adapter_name", "x"]
    (args,) = parser.parse_args_into_dataclasses(words)
    assert args.adapter_plan.config["r"] == 2 and args.adapter_plan.name == "x"
