"""Bad input: one line, the right exit code, and nothing of a foreign file is executed."""

import importlib.metadata
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_runs import base, load, reload, train, trainer
from safetensors.torch import load_file, save_file
from tiny import tiny_model

from nncf_transformers.adapter import flags as flags_module
from nncf_transformers.adapter.flags import AdapterFlags
from nncf_transformers.adapter.folder import find_adapter
from nncf_transformers.adapter.merge import merge_adapter
from nncf_transformers.adapter.share import export_adapters
from nncf_transformers.errors import CompressionError, IntegrityError, UnreachableError, UsageError
from nncf_transformers.hf import TrainingArguments

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def trained(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run."""
    out = tmp_path_factory.mktemp("trained")
    train(out, load(model), max_steps=1, save_strategy="no")
    return out


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """One to be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def refused(kind: type[CompressionError], message: str, run: Any) -> None:
    with pytest.raises(kind, match=message) as caught:
        run()
    assert type(caught.value) is kind and len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seq_bm", r"seq_bm: 'seq_bm' is no adapter configuration \(did you mean \"seq_bn\"\?\); known: .*unipelt"),
        ("lora[rnk=4]", "unknown key 'rnk'"),
        ("seq_bn[reduction_facto=4]", r"unknown key .*did you mean \"reduction_factor\""),
        ("lora[r=x]", "Invalid adapter config"),
        ("lora[r=4", "Write name\\[key=value"),
        ("|", "Write name"),
        ("lora|lora", "the library refuses this configuration"),
        ("mam[r=4]", "mam is a union; write its parts"),
        ("unipelt|lora", "unipelt is a union already; write its parts"),
        ("nothing.json", "nothing.json: cannot be read .*name an existing JSON file"),
        ("me/adapter", "is no adapter configuration"),
    ],
)
@pytest.mark.parametrize("flag", ["adapter_config", "lang_adapter_config"])
def test_configurations(flag: str, text: str, message: str, trained: Path) -> None:
    values = {"train_adapter": True, "load_lang_adapter": str(trained), flag: text}
    refused(UsageError, f"^--{flag} .*{message}", AdapterFlags(**values).check_adapter)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is no valid JSON"),
        ('{"architecture": "lora", "r": ', "is no valid JSON .*mend it"),
        ("[1]", "must be a JSON object"),
        ('{"architecture": "loraa"}', '"architecture" is \'loraa\'; null, "lora"'),
        ('{"architecture": "lora", "rank": 3}', "unknown key 'rank'"),
        ('{"config": {"architecture": "lora", "rank": 3}}', "unknown key 'rank'"),
        ('{"architecture": "union"}', "a union needs a list"),
        ('{"architecture": "union", "configs": [{"architecture": "lora", "rank": 3}]}', "unknown key 'rank'"),
        ('{"mh_adapter": true}', "the library refuses this configuration"),
        ('{"architecture": ["lora"]}', '"architecture" is'),
    ],
)
def test_configuration_files(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(content)
    flags = AdapterFlags(train_adapter=True, adapter_config=str(tmp_path / "c.json"))
    refused(UsageError, rf"^--adapter_config .*c\.json: {message}", flags.check_adapter)


@pytest.mark.parametrize(
    "config",
    [
        "lora[r='x']",
        "lora[r=0]",
        "lora[r=-1]",
        "lora[alpha='x']",
        "lora[dtype='foo']",
        "lora[attn_matrices=['z']]",
        "lora[composition_mode='foo']",
        "seq_bn[reduction_factor=0]",
        "seq_bn[reduction_factor='x']",
        "seq_bn[non_linearity='foo']",
        "seq_bn[dropout=7]",
        "seq_bn[output_adapter=False]",
        "prefix_tuning[prefix_length=-3]",
        "compacter[phm_dim=5]",
        "loreft[r=0]",
    ],
)
def test_values_that_do_not_fit_the_model(config: str, model: Path, tmp_path: Path) -> None:
    message = "^--adapter_config: does not fit BertForQuestionAnswering: .*; take another configuration$"
    refused(UsageError, message, lambda: trainer(tmp_path, load(model), adapter_config=config))


@pytest.mark.parametrize("config", ["prompt_tuning", "prompt_tuning|seq_bn"])
@pytest.mark.parametrize("head", ["qa", "masked"])
def test_prompts_shift_the_answers_for_tokens(config: str, head: str, tmp_path: Path) -> None:
    message = "^--adapter_config prompt_tuning: .*use prefix_tuning"
    refused(UsageError, message, lambda: trainer(tmp_path, tiny_model(head=head), adapter_config=config))


@pytest.mark.parametrize(
    "flag", ["adapter_config", "adapter_name", "load_adapter", "load_lang_adapter", "lang_adapter_config"]
)
def test_flags_without_the_first_one(flag: str, tmp_path: Path) -> None:
    message = f"^--{flag}: has no effect without --train_adapter; add it$"
    refused(UsageError, message, lambda: TrainingArguments(output_dir=str(tmp_path), **{flag: "x"}))
    if flag == "lang_adapter_config":
        values = {"train_adapter": True, flag: "lora"}
        refused(UsageError, "add --load_lang_adapter", AdapterFlags(**values).check_adapter)


@pytest.mark.parametrize(
    ("family", "head", "sizes", "kind", "message"),
    [
        ("roberta", "qa", {}, UsageError, "is an adapter for model_type bert, the model has roberta"),
        ("bert", "qa", {"hidden_size": 64}, UsageError, "is an adapter for hidden_size 32, the model has 64"),
        ("bert", "qa", {"num_hidden_layers": 1}, IntegrityError, "the weights have, but the model has not.*layer.1"),
        ("bert", "qa", {"num_hidden_layers": 3}, IntegrityError, "the weights lack .*layer.2.*number of layers"),
    ],
)
def test_adapter_of_another_model(
    family: str, head: str, sizes: dict[str, int], kind: Any, message: str, trained: Path, tmp_path: Path
) -> None:
    refused(kind, message, lambda: reload(tmp_path, tiny_model(family, head, **sizes), trained))


def test_adapter_with_other_labels(tmp_path: Path) -> None:
    out = tmp_path / "out"
    train(out, tiny_model(head="classes", num_labels=3), max_steps=1)
    refused(
        IntegrityError, "task: .*classifier.weight.*shape", lambda: reload(tmp_path, tiny_model(head="classes"), out)
    )


def test_damaged_weights(model: Path, copy: Path, tmp_path: Path) -> None:
    for name in ("adapter.safetensors", "model_head.safetensors"):
        path = copy / "squad" / name
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        refused(
            IntegrityError, "squad: cannot be loaded.*copy the adapter", lambda: reload(tmp_path, load(model), copy)
        )
        weights = load_file(copy.parent / name) if (copy.parent / name).is_file() else None
        assert weights is None
        path.write_bytes(b"")
        refused(IntegrityError, "squad: cannot be loaded", lambda: reload(tmp_path, load(model), copy))
        path.write_bytes(whole)
        weights = load_file(path)
        save_file(dict([*weights.items()][1:]), path)
        refused(IntegrityError, "squad: the weights lack", lambda: reload(tmp_path, load(model), copy))
        path.write_bytes(whole)
    reload(tmp_path, load(model), copy)
    (copy / "squad" / "model_head.safetensors").unlink()
    refused(
        UsageError, "squad: has no head, so BertFor.* cannot be evaluated", lambda: reload(tmp_path, load(model), copy)
    )
    (copy / "squad" / "adapter.safetensors").unlink()
    refused(
        IntegrityError, "squad: has no adapter.safetensors; copy", lambda: find_adapter("--load_adapter", str(copy))
    )


@pytest.mark.parametrize("name", ["squad/adapter_config.json", "squad/head_config.json", "adapter_setup.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"a": 1}'])
def test_damaged_json(name: str, content: str, model: Path, copy: Path, tmp_path: Path) -> None:
    if name == "squad/adapter_config.json" or content != "null":
        (copy / name).write_text(content)
        refused(IntegrityError, Path(name).name, lambda: reload(tmp_path, load(model), copy))


@pytest.mark.parametrize(
    "config", [{"architecture": "nope"}, {"architecture": "lora", "r": 8, "configs": 3}, {"architecture": "union"}, {}]
)
def test_damaged_configuration(config: dict[str, Any], model: Path, copy: Path, tmp_path: Path) -> None:
    path = copy / "squad" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"config": config}))
    refused(IntegrityError, "squad", lambda: reload(tmp_path, load(model), copy))
    refused(IntegrityError, "squad", lambda: merge_adapter(str(model), str(copy), str(tmp_path / "merged")))


def test_damaged_setup_is_noticed_by_a_resume(model: Path, tmp_path: Path) -> None:
    trainer(tmp_path, load(model)).train()
    (tmp_path / "checkpoint-2" / "adapter_setup.json").write_text("{")
    resume = {"resume_from_checkpoint": str(tmp_path / "checkpoint-2")}
    refused(IntegrityError, "checkpoint-2/adapter_setup.json", lambda: trainer(tmp_path, load(model)).train(**resume))
    shutil.rmtree(tmp_path / "checkpoint-4" / "squad")
    resume = {"resume_from_checkpoint": str(tmp_path / "checkpoint-4")}
    refused(UsageError, "it has none", lambda: trainer(tmp_path, load(model)).train(**resume))


def test_folders(trained: Path, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(place: Any) -> Any:
        return find_adapter("--load_adapter", str(place))

    assert find(trained).path == trained / "squad" == find(trained / "squad").path
    (copy / "adapter_setup.json").unlink()
    assert find(copy).path == copy / "squad"
    shutil.copytree(copy / "squad", copy / "other")
    refused(UsageError, "copy: has several adapters; name one of .*other, .*squad", lambda: find(copy))
    (tmp_path / "empty").mkdir()
    refused(UsageError, "empty: no adapter is in it", lambda: find(tmp_path / "empty"))
    for place in (tmp_path / "none", copy / "squad" / "adapter_config.json", "none", "a/b/c", "./a"):
        refused(UsageError, "^--load_adapter .*: is no folder; name", lambda place=place: find(place))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused(
        UnreachableError, "^--load_adapter someone/squad: no such folder, and the hub", lambda: find("someone/squad")
    )
    refused(UnreachableError, "^--load_adapter a b/c: no such folder", lambda: find("a b/c"))


def test_a_fusion_is_not_one_adapter(copy: Path) -> None:
    names = [{"type": "Single", "children": ["a"]}, {"type": "Single", "children": ["b"]}]
    for setup in ({"type": "Fuse", "children": names}, {"type": "Stack", "children": [*names, names[0]]}):
        (copy / "adapter_setup.json").write_text(json.dumps({"adapter_setup": setup}))
        with pytest.raises(UsageError, match="is not one adapter, or one on another"):
            find_adapter("--load_adapter", str(copy))


class _Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("as_torch", [True, False])
def test_a_pickle_is_never_executed(as_torch: bool, model: Path, copy: Path, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    for file, other in (
        ("adapter.safetensors", "pytorch_adapter.bin"),
        ("model_head.safetensors", "pytorch_model_head.bin"),
    ):
        whole = (copy / "squad" / file).read_bytes()
        for name in (file, other):
            (copy / "squad" / file).unlink(missing_ok=True)
            path = copy / "squad" / name
            if as_torch:
                torch.save({"x": _Bomb(mark)}, path)
            else:
                path.write_bytes(pickle.dumps(_Bomb(mark)))
            refused(IntegrityError, "squad: cannot be loaded", lambda: reload(tmp_path, load(model), copy))
            path.unlink()
        (copy / "squad" / file).write_bytes(whole)
    assert not mark.exists()


def test_sparsity_cannot_prune_what_is_frozen(model: Path, tmp_path: Path) -> None:
    settings = {"algorithm": "magnitude_sparsity", "final_sparsity": 0.5, "end_epoch": 2}
    movement = {
        "algorithm": "movement_sparsity",
        "warmup_start_epoch": 0.1,
        "warmup_end_epoch": 0.5,
        "importance_regularization_factor": 1.0,
        "sparse_structure_by_scopes": [{"mode": "block", "sparse_factors": [8, 8], "target_scopes": ["{re}attention"]}],
    }
    for algorithm in (settings, movement):
        path = tmp_path / "c.json"
        path.write_text(json.dumps({"algorithms": [algorithm]}))
        message = f"^--train_adapter freezes the weights that {algorithm['algorithm']} would prune"
        refused(UsageError, message, lambda: trainer(tmp_path, load(model), nncf_config=tmp_path / "c.json"))


def test_library_missing_or_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    flags = AdapterFlags(train_adapter=True)

    def missing(name: str) -> str:
        if name == "adapters":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(flags_module, "version", missing)
    refused(UsageError, "the library adapters is not installed here; use the pin", flags.check_adapter)
    monkeypatch.setattr(flags_module, "version", lambda name: "5.2.0" if name == "transformers" else real(name))
    refused(UsageError, r"adapters 1\.3\.0 works with transformers .*, this is 5\.2\.0; use", flags.check_adapter)
    monkeypatch.setattr(flags_module, "version", real)
    assert flags.check_adapter() is not None


def test_family_without_adapters(tmp_path: Path) -> None:
    message = "^--train_adapter: the library adapters has none for the model family 'mobilebert'"
    refused(UsageError, message, lambda: trainer(tmp_path, tiny_model("mobilebert")))


def test_scripts_of_our_own(model: Path, trained: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").touch()
    merged = str(tmp_path / "merged")
    refused(UsageError, "^--output .*full: exists already", lambda: merge_adapter(str(model), str(trained), str(full)))
    refused(
        UsageError, "^--adapter .*none: is no folder", lambda: merge_adapter(str(model), str(tmp_path / "none"), merged)
    )
    refused(
        UsageError, "^--adapters .*none: is no folder", lambda: export_adapters(str(model), [merged + "none"], merged)
    )
    refused(
        UsageError, "two of them have the same name", lambda: export_adapters(str(model), [str(trained)] * 2, merged)
    )


def test_scripts_end_with_one_line(model: Path, trained: Path, tmp_path: Path) -> None:
    script = ROOT / "scripts" / "merge_adapter.py"
    for words, code, message in (
        ((tmp_path / "none", trained), 2, "none: is no folder; name the folder of a model"),
        ((model, "someone/squad"), 5, "the hub"),
    ):
        command = [sys.executable, script, "--model", words[0], "--adapter", words[1], "--output", tmp_path / "merged"]
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=300)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert done.returncode == code and len(errors) == 1 and message in errors[0], done.stderr[-2000:]
        assert "Traceback" not in done.stderr and not (tmp_path / "merged").exists()
