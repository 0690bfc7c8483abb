"""What --recipe and --recipe_args may be."""

import dataclasses
import io
import sys
from pathlib import Path
from typing import Any

import pytest

from nncf_transformers.config.errors import ConfigError
from nncf_transformers.flags import CompressionFlags
from nncf_transformers.recipe import load_recipe, parse_arguments

TEXT = "num_epochs: 3\nmodifiers:\n  - !EpochRangeModifier {start_epoch: 0, end_epoch: eval(num_epochs)}\n"


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def refused(recipe: str, arguments: str | None = None) -> str:
    with pytest.raises(ConfigError) as error:
        load_recipe(recipe, arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_file(recipe_file: Path) -> None:
    recipe = load_recipe(str(recipe_file))
    assert recipe.max_epochs == 3
    assert recipe.source == str(recipe_file)
    assert load_recipe(str(recipe_file), "num_epochs=5").max_epochs == 5


@pytest.mark.parametrize("name", ["r.yml", "r.md", "R.YAML", "with: colon.yaml"])
def test_names_of_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(f"---\n{TEXT}---\ntext\n" if name == "r.md" else TEXT, encoding="utf-8-sig")
    assert load_recipe(str(path)).max_epochs == 3


def test_the_text_itself() -> None:
    assert load_recipe(TEXT).source == "--recipe"
    assert load_recipe("{modifiers: [!EpochRangeModifier {start_epoch: 0, end_epoch: 2}]}").max_epochs == 2
    assert load_recipe("modifiers: [!EpochRangeModifier {start_epoch: 0, end_epoch: 2}]").max_epochs == 2
    assert (
        refused("modifiers: 3") == "--recipe: modifiers: must be a list of modifiers, each starting with - !ClassName"
    )


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(TEXT))
    recipe = load_recipe("-", '{"num_epochs": 7}')
    assert (recipe.max_epochs, recipe.source) == (7, "standard input")
    monkeypatch.setattr(sys, "stdin", io.StringIO(" \n"))
    assert "standard input is empty" in refused("-")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe"), encoding="utf-8"))
    assert "standard input is no UTF-8 text" in refused("-")


def flags_with(monkeypatch: pytest.MonkeyPatch, data: bytes | None) -> CompressionFlags:
    # As Python opens it with LANG=C, when any byte is a text.
    stream = None if data is None else io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors="surrogateescape")
    monkeypatch.setattr(sys, "stdin", stream)
    return CompressionFlags(recipe="-")


def test_flags_keep_what_standard_input_said(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = flags_with(monkeypatch, f"\ufeff{TEXT}".encode())
    first = flags.check()
    assert first is not None and first.epochs == 3
    assert flags.check() == first
    assert dataclasses.replace(flags).check() == first


@pytest.mark.parametrize(
    "data, message",
    [
        (None, "--recipe: standard input is closed; pipe a recipe into it"),
        (b"", "--recipe: standard input is empty; pipe a recipe into it"),
        (b" \n", "--recipe: standard input is empty"),
        ("modifiers: é".encode("latin-1"), "--recipe: standard input is no UTF-8 text (byte 11); save the recipe as"),
        (b"\0", "--recipe: standard input is a binary file"),
        (b"a" * 4_000_001, "--recipe: standard input has more than 4000000 bytes"),
        (b"recipe.yaml", "--recipe: is no recipe: a recipe is a mapping"),
        (b"recipe.yaml\n", "--recipe: is no recipe: a recipe is a mapping"),
        (b"zoo:bert", "--recipe: is no recipe: a recipe is a mapping"),
        (b"-", "--recipe: "),
    ],
)
def test_flags_refuse_standard_input(
    monkeypatch: pytest.MonkeyPatch, recipe_file: Path, data: bytes | None, message: str
) -> None:
    monkeypatch.chdir(recipe_file.parent)
    flags = flags_with(monkeypatch, data)
    for _ in range(2 if data and b"recipe" in data else 1):
        with pytest.raises(ConfigError) as error:
            flags.check()
        assert str(error.value).startswith(message)
        assert "\n" not in str(error.value)


def test_standard_input_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = flags_with(monkeypatch, b"")
    sys.stdin.close()
    with pytest.raises(ConfigError, match="standard input cannot be read"):
        flags.check()


@pytest.mark.parametrize(
    "recipe, message",
    [
        ("missing.yaml", "missing.yaml: no such file; give the path of a recipe (.yaml, .yml, .md)"),
        ("no/such/folder/r.md", "no/such/folder/r.md: no such file"),
        ("", "--recipe: is empty"),
        ("  ", "--recipe: is empty"),
        (
            "zoo:nlp/question_answering/bert-base/pytorch/huggingface/squad/pruned-aggressive_98",
            "the SparseZoo is gone",
        ),
        ("https://example.com/recipe.yaml", "is a URL, and nothing is downloaded"),
        ("file:///etc/passwd", "is a URL"),
        ("hf:org/model", "is a URL"),
        ("x" * 5000, "cannot be read"),
        ("a\0b.yaml", "no such file"),
    ],
)
def test_what_cannot_be_read(recipe: str, message: str) -> None:
    assert message in refused(recipe)


def test_files_that_are_no_recipes(tmp_path: Path, recipe_file: Path) -> None:
    assert refused(str(tmp_path)) == f"{tmp_path}: is a folder; take {recipe_file}"
    recipe_file.rename(tmp_path / "other.yaml")
    assert refused(str(tmp_path)) == f"{tmp_path}: is a folder; give the path of a recipe file"

    def write(name: str, content: bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content)
        return refused(str(path)).removeprefix(f"{path}: ")

    assert write("a.yaml", b"") == "is empty; a recipe has lists of modifiers, such as pruning_modifiers"
    assert write("a.yaml", TEXT.encode("utf-16")).startswith("is no UTF-8 text (byte 0)")
    assert write("a.yaml", "modifiers: é".encode("latin-1")).startswith("is no UTF-8 text (byte 11)")
    assert write("a.yaml", b"\x00\x01\x02").startswith("is a binary file")
    assert write("a.yaml", b"\x89PNG\r\n\x1a\n\xff").startswith("is no UTF-8 text (byte 0)")
    assert write("a.yaml", b"- a\n- b\n").startswith("is no recipe: a recipe is a mapping")
    assert write("a.yaml", b"a: 1\n").startswith("has no modifiers")
    assert write("a.yaml", b"a" * 4_000_001).startswith("has 4000001 bytes")
    assert write("a.md", b"# only text\n").startswith("has no front matter")
    assert write("a.md", b"").startswith("is empty")
    assert write("a.json", TEXT.encode()).startswith('ends in ".json"; a recipe is a .yaml, .yml, .md file')
    assert write("a.yaml", b"a: [1\nb: 2\n").startswith("not YAML at line 2")


@pytest.mark.parametrize(
    "text, expected",
    [
        (None, {}),
        (" ", {}),
        ("a=1", {"a": 1}),
        ("a=1, b = 0.5 ,c=5e-5", {"a": 1, "b": 0.5, "c": 5e-5}),
        ("a=true,b=cubic,c=2:4,d=__ALL__", {"a": True, "b": "cubic", "c": "2:4", "d": "__ALL__"}),
        ("a=[1", {"a": "[1"}),
        ("a={x}", {"a": "{x}"}),
        ('{"a": 1, "b": "x", "c": [1, 2], "d": null}', {"a": 1, "b": "x", "c": [1, 2], "d": None}),
        (' {"a": "eval(b)"}', {"a": "eval(b)"}),
    ],
)
def test_arguments(text: str | None, expected: dict[str, Any]) -> None:
    found = parse_arguments(text)
    assert found == expected
    assert [type(value) for value in found.values()] == [type(value) for value in expected.values()]


@pytest.mark.parametrize(
    "text, message",
    [
        ("a", '--recipe_args: cannot read "a"; write name=value'),
        ("a=", '--recipe_args: cannot read "a="'),
        ("=1", '--recipe_args: cannot read "=1"'),
        ("a=1,,b=2", '--recipe_args: cannot read ""'),
        ("a=1=2", '--recipe_args: cannot read "a=1=2"'),
        ("a b=1", '--recipe_args: cannot read "a b=1"'),
        ("a=1,a=2", "--recipe_args: a is given twice"),
        ('{"a": 1', "--recipe_args: is not JSON"),
        ("[1]", "--recipe_args: is a JSON list, must be an object"),
        ("[" * 100_000, "--recipe_args: is not JSON"),
        ('{"a": 1, "a": 2}', "--recipe_args: a is given twice; keep one of them"),
        ('{"a": {"b": 1, "b": 2}}', "--recipe_args: b is given twice"),
        (f"a={'1' * 5000}", "--recipe_args: a: '1111"),
        (f"a={'[' * 1200}", "--recipe_args: a: '[[[["),
        ("a=!!int foo", "--recipe_args: a: 'foo' is not a whole number"),
        ('a="\\UFFFFFFFF"', "--recipe_args: a: "),
        ("num_epoch=3", '--recipe_args: --recipe has no variable "num_epoch" (did you mean "num_epochs"?)'),
        ("num_epochs=soon", '--recipe: modifiers[0].end_epoch: is "soon", must be an epoch from 0'),
    ],
)
def test_wrong_arguments(text: str, message: str) -> None:
    assert message in refused(TEXT, text)
