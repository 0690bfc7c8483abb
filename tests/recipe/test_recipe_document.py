"""Text to variables, stages and tags: YAML, Markdown, aliases, eval, --recipe_args."""

from typing import Any

import pytest

from nncf_transformers.config.errors import ConfigError
from nncf_transformers.recipe.document import Document, read_document

BASE = """
num_epochs: 30
target: 0.8
modifiers:
  - !EpochRangeModifier
    start_epoch: 0.0
    end_epoch: eval(num_epochs)
"""


def read(text: str, arguments: dict[str, Any] | None = None) -> Document:
    return read_document(text, "recipe.yaml", arguments)


def fields(text: str, arguments: dict[str, Any] | None = None, index: int = 0) -> dict[str, Any]:
    return dict(read(text, arguments).stages[0].modifiers[index].fields)


def test_variables_and_tags() -> None:
    document = read(BASE)
    assert document.variables == {"num_epochs": 30, "target": 0.8}
    (entry,) = document.stages[0].modifiers
    assert entry.name == "EpochRangeModifier"
    assert entry.place == "recipe.yaml: modifiers[0]"
    assert entry.fields == {"start_epoch": 0.0, "end_epoch": 30}


@pytest.mark.parametrize(
    "text",
    [
        f"---{BASE}---\n# Title\n\nText with --- in it\n",
        f"<!-- a comment\nof two lines -->\n\n---{BASE}---\nText\n",
        f"   ---{BASE}   ---   \n",
        f"+++{BASE}+++\n",
        f"---{BASE}",
        f"# a comment\n{BASE}",
        f"# a comment\n\n<!-- another -->\n%YAML 1.1\n---{BASE}---\n",
        f"---{BASE}---\nNote: Markdown.\n\n```yaml\nmodifiers:\n```\n",
        BASE.replace("\n", "\r\n"),
        "\ufeff" + BASE,
        f"---{BASE}---\n".replace("\n", "\r\n"),
    ],
)
def test_markdown_and_yaml_are_the_same(text: str) -> None:
    assert read(text).stages == read(BASE).stages


def test_any_key_with_modifiers_in_it_is_a_group() -> None:
    text = "".join(
        f"{key}:\n  - !EpochRangeModifier\n    start_epoch: 0\n    end_epoch: 1\n"
        for key in ("modifiers", "pruning_modifiers", "my_modifiers_of_old")
    )
    places = [entry.place for entry in read(text + "empty_modifiers:\n").stages[0].modifiers]
    assert places == [
        "recipe.yaml: modifiers[0]",
        "recipe.yaml: pruning_modifiers[0]",
        "recipe.yaml: my_modifiers_of_old[0]",
    ]


def test_tags_of_the_framework_and_tags_without_fields() -> None:
    document = read("modifiers:\n  - !pytorch.GMPruningModifier {a: 1}\n  - !EpochRangeModifier\n")
    assert [entry.name for entry in document.stages[0].modifiers] == ["GMPruningModifier", "EpochRangeModifier"]
    assert document.stages[0].modifiers[1].fields == {}


@pytest.mark.parametrize(
    "written, value",
    [
        ("5e-5", 5e-5),
        ("1e3", 1000.0),
        ("1.75e-4", 1.75e-4),
        ("5.e-5", 5e-5),
        (".5", 0.5),
        ("-1", -1),
        ("1_000", 1000),
        ("2:4", "2:4"),
        ("010", "010"),
        ("2022-01-01", "2022-01-01"),
        ("True", True),
        ("off", False),
        ("null", None),
        ("~", None),
        ("__ALL__", "__ALL__"),
        (".nan", ".nan"),
        ("'5e-5'", "5e-5"),
        ("re:bert.encoder.layer.*.query.weight", "re:bert.encoder.layer.*.query.weight"),
    ],
)
def test_scalars_are_read_as_people_mean_them(written: str, value: Any) -> None:
    found = fields(f"modifiers:\n  - !X\n    a: {written}\n")["a"]
    assert found == value
    assert type(found) is type(value)


def test_anchors_aliases_and_merge_keys() -> None:
    text = """
    num_epochs: &n 30
    params: &p [a, b]
    common: &common {start_epoch: 1, end_epoch: *n, params: *p}
    modifiers:
      - !X
        <<: *common
        start_epoch: 2
    """
    assert fields(text) == {"start_epoch": 2, "end_epoch": 30, "params": ["a", "b"]}


def test_variables_in_any_order_and_in_nested_values() -> None:
    text = """
    a: eval(b + 1)
    b: eval(c * 2)
    c: 3
    names: [x, eval(c)]
    form: cubic
    modifiers:
      - !X
        plain: a
        one: eval(a)
        spaces: " eval( a * 2 ) "
        list: [eval(b), text, [eval(c)]]
        nested: {x: {y: eval(a - b)}, eval(c / 10): [eval(form)]}
        whole: eval(names)
        form: eval(form)
        inside: not eval(a)
    """
    assert fields(text) == {
        "plain": "a",
        "one": 7,
        "spaces": 14,
        "list": [6, "text", [3]],
        "nested": {"x": {"y": 1}, 0.3: ["cubic"]},
        "whole": ["x", 3],
        "form": "cubic",
        "inside": "not eval(a)",
    }


def test_a_circle_is_shown() -> None:
    with pytest.raises(ConfigError) as error:
        read("a: eval(b * 2)\nb: eval(c)\nc: eval(a + 1)\n" + BASE)
    assert str(error.value) == "recipe.yaml: a: the variables refer to each other in a circle: a -> b -> c -> a"
    with pytest.raises(ConfigError, match="circle: b -> b$"):
        read("a: eval(b)\nb: eval(b + 1)\n" + BASE)


def test_code_in_eval_is_refused_with_its_place() -> None:
    text = BASE.replace("eval(num_epochs)", "eval(__import__('os').getcwd())")
    with pytest.raises(ConfigError, match=r"^recipe.yaml: modifiers\[0\].end_epoch: eval\(.*has a call of __import__"):
        read(text)


def test_an_unknown_variable_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r'unknown variable "num_epoch" \(did you mean "num_epochs"\?\)'):
        read(BASE.replace("eval(num_epochs)", "eval(num_epoch)"))


def test_a_long_chain_of_variables_is_refused() -> None:
    chain = "".join(f"v{index}: eval(v{index + 1} + 1)\n" for index in range(500)) + "v500: 1\n"
    with pytest.raises(ConfigError, match="variables in a row"):
        read(chain + BASE)


STAGED = """
num_epochs: 10
rate: 0.1
first:
  num_epochs: 4
  half: eval(num_epochs / 2)
  pruning_modifiers:
    - !X {end: eval(num_epochs), half: eval(half), rate: eval(rate)}
second:
  training_modifiers:
    - !Y {end: eval(num_epochs)}
"""


def test_variables_of_a_stage_come_first() -> None:
    first, second = read(STAGED).stages
    assert (first.name, second.name) == ("first", "second")
    assert first.modifiers[0].fields == {"end": 4, "half": 2.0, "rate": 0.1}
    assert first.modifiers[0].place == "recipe.yaml: first.pruning_modifiers[0]"
    assert second.modifiers[0].fields == {"end": 10}


def test_a_stage_and_modifiers_at_the_root_do_not_mix() -> None:
    with pytest.raises(ConfigError, match=r'modifiers at its root \("modifiers"\) and in a stage \("first"\)'):
        read(STAGED + "modifiers:\n  - !Z {a: 1}\n")


def test_metadata_are_no_variables() -> None:
    text = """
    version: 1.1.0
    name: prune
    metadata: {name: x, seed: 3}
    framework_metadata: {torch_version: "2"}
    __metadata__: {level: 2}
    """
    document = read(text + BASE.replace("\n", "\n    "))
    assert document.metadata == {"name": "x", "seed": 3, "framework_metadata": {"torch_version": "2"}, "level": 2}
    assert "metadata" not in document.variables
    assert document.variables["version"] == "1.1.0"
    staged = read(STAGED.replace("first:\n", "first:\n  __metadata__: {doc_stride: 128}\n"))
    assert [stage.metadata for stage in staged.stages] == [{"doc_stride": 128}, {}]
    assert read("__metadata__:\n" + BASE).metadata == {}


class TestArguments:
    def test_they_override(self) -> None:
        assert fields(BASE, {"num_epochs": 3})["end_epoch"] == 3
        assert fields(BASE, {"num_epochs": "eval(target * 10)"})["end_epoch"] == 8.0

    def test_aliases_follow(self) -> None:
        text = "n: &n 30\nm: *n\nmodifiers:\n  - !X {a: *n, b: eval(m), c: eval(n)}\n"
        assert fields(text, {"n": 3}) == {"a": 3, "b": 3, "c": 3}
        assert fields(text, {"m": 3}) == {"a": 30, "b": 3, "c": 30}

    def test_lists_and_texts(self) -> None:
        text = "names: [a]\nform: cubic\nmodifiers:\n  - !X {names: eval(names), form: eval(form)}\n"
        assert fields(text, {"names": ["b", "c"], "form": "linear"}) == {"names": ["b", "c"], "form": "linear"}
        assert fields(text, {"form": ["x"]})["form"] == ["x"]

    def test_they_reach_stages(self) -> None:
        first, second = read(STAGED, {"num_epochs": 6}).stages
        assert first.modifiers[0].fields["end"] == 6
        assert second.modifiers[0].fields["end"] == 6
        assert read(STAGED, {"half": 1}).stages[0].modifiers[0].fields["half"] == 1

    def test_unknown_names_the_nearest(self) -> None:
        with pytest.raises(ConfigError, match=r'--recipe_args: recipe.yaml has no variable "num_epoch" \(did you mean'):
            read(BASE, {"num_epoch": 3})
        with pytest.raises(ConfigError, match='no variable "zzz"; its variables: num_epochs, target'):
            read(BASE, {"zzz": 3})
        with pytest.raises(ConfigError, match='no variable "x"; it has no variables'):
            read("modifiers:\n  - !X {a: 1}\n", {"x": 3})

    def test_groups_and_stages_are_no_variables(self) -> None:
        with pytest.raises(ConfigError, match='has no variable "modifiers"'):
            read(BASE, {"modifiers": 3})
        with pytest.raises(ConfigError, match='has no variable "first"'):
            read(STAGED, {"first": 3})


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 10)}]\n" for before, name in zip("abcdefg", "bcdefgh", strict=True)
)


# Each level is a list of four times the next.
LISTS = "".join(f"v{i}: [{', '.join([f'eval(v{i + 1})'] * 4)}]\n" for i in range(12)) + "v12: 1\n"


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "recipe.yaml: is empty"),
        (" \n\n", "recipe.yaml: is empty"),
        ("---\n---\n", "recipe.yaml: is empty"),
        ("# nothing but a comment\n", "is no recipe: a recipe is a mapping"),
        ("just text", "is no recipe: a recipe is a mapping"),
        ("- a\n- b\n", "is no recipe: a recipe is a mapping"),
        ("a: 1\n", "has no modifiers; a recipe has lists"),
        ("modifiers: []\n", "has no modifiers"),
        ("modifiers:\n", "has no modifiers"),
        ("stage:\n  modifiers: []\n", "has no modifiers"),
        ("modifiers: 3\n", "modifiers: must be a list of modifiers"),
        ("modifiers: {a: 1}\n", "modifiers: must be a list of modifiers"),
        ("modifiers: !X {a: 1}\n", "modifiers: must be a list of modifiers"),
        ("modifiers:\n  - a: 1\n", r"modifiers[0]: is no modifier; write - !ClassName"),
        ("modifiers:\n  - text\n", r"modifiers[0]: is no modifier"),
        ("modifiers:\n  - !X [1]\n", "not YAML at line 2, column 5: !X needs its fields as a mapping"),
        ("modifiers:\n  - !X text\n", "!X needs its fields as a mapping"),
        ("modifiers:\n  - !X {a: !Y {b: 1}}\n", "modifiers[0]: has a modifier inside a modifier"),
        ("modifers:\n  - !X {a: 1}\n", 'modifers: holds modifiers, but its name does not contain "modifiers"'),
        ("s:\n  modifiers: [!X {a: 1}]\n  other: [!X {a: 1}]\n", "recipe.yaml: s.other: holds modifiers, but"),
        ("a: 1\na: 2\n" + BASE, "recipe.yaml: a: is given twice"),
        ("modifiers:\n  - !X {a: 1, b: 2, a: 3}\n", "recipe.yaml: modifiers[0].a: is given twice"),
        ("s: {x: {y: 1, y: 2}}\n" + BASE, "recipe.yaml: s.x.y: is given twice"),
        ("a: &a [*a]\n" + BASE, "recipe.yaml: a[0]: contains itself"),
        ("a: &a {b: *a}\n" + BASE, "recipe.yaml: a.b: contains itself"),
        ("a: *b\n" + BASE, "not YAML at line 1, column 4: found undefined alias"),
        ("? [a]\n: 1\n" + BASE, "has a key that is a list or a mapping"),
        ("a: [1\n" + BASE, "recipe.yaml: not YAML at line"),
        ("a: 'open\n", "recipe.yaml: not YAML at line"),
        ("a: \x07\n" + BASE, "recipe.yaml: not YAML"),
        ("a: 1\n---\nb: 2\n", "recipe.yaml: not YAML at line 2"),
        ("a: " + "[" * 60 + "]" * 60 + "\n" + BASE, "is nested more than 40 levels deep"),
        ("a: " + "[" * 5000 + "]" * 5000 + "\n" + BASE, "cannot be read: it is nested too deeply"),
        (BOMB + BASE, "entries, with its aliases filled in"),
        ("a: !!python/object/apply:os.system ['true']\n" + BASE, "a tag that is no modifier's at line 1, column 4"),
        ("a: !!python/name:os.system\n" + BASE, "a tag that is no modifier's"),
        ("a: !!binary x\n" + BASE, "recipe.yaml: "),
        ("stage_epochs: both\n" + BASE, 'stage_epochs: is \'both\', must be "relative" or "absolute"'),
        ("a: 1\n" * 200_001, "characters; 1000000 are the most"),
        ("a: !!bool maybe\n" + BASE, "not YAML at line 1, column 4: 'maybe' is not true or false"),
        ("a: !!int +\n" + BASE, "line 1, column 4: '+' is not a whole number"),
        ("a: !!int 0x" + "f" * 5000 + "\n" + BASE, "is not a whole number of at most 300 digits"),
        (f"a: {'1' * 5000}\n" + BASE, "is not a whole number of at most 300 digits"),
        ("a: !!float ''\n" + BASE, "line 1, column 4: '' is not a number"),
        ("a: {!!int foo: 1}\n" + BASE, "line 1, column 5: 'foo' is not a whole number"),
        ("a: !!timestamp foo\n" + BASE, "a tag that is no modifier's at line 1, column 4"),
        ("a: !!omap [b: !X {c: 1}]\n" + BASE, "a tag that is no modifier's at line 1, column 4"),
        ('a: "\\UFFFFFFFF"\n' + BASE, "recipe.yaml: cannot be read: "),
        ("!Foo : 1\n" + BASE, "recipe.yaml: has a key with the tag !Foo; keys are names"),
        ("modifiers:\n  - !X\n    !Foo : 1\n", "recipe.yaml: modifiers[0]: has a key with the tag !Foo"),
        ("a: {0.8: b, 0.80: c}\n" + BASE, "recipe.yaml: a.0.80: is given twice"),
        ("a: 0.9\nb: {0.9: x, eval(a): y}\n" + BASE, "b: the key eval(a) is 0.9, as another one is"),
        ("a: [1]\nb: {eval(a): x}\n" + BASE, "b: the key eval(a) is a list or a mapping"),
        (LISTS + BASE, "v3: the recipe has more than 200000 entries, with its variables filled in"),
        (f"v: [{'1,' * 999}]\nmodifiers:\n" + "  - !X {a: eval(v)}\n" * 300, "the recipe has more than 200000"),
        (
            f"v: [{'1,' * 9999}]\n" + "".join(f"s{i}: {{w: eval(v), modifiers: [!X ]}}\n" for i in range(30)),
            "recipe.yaml: s19.w: the recipe has more than 200000",
        ),
        ("v40: 1\n" + "".join(f"v{i}: [eval(v{i + 1})]\n" for i in range(39, -2, -1)) + BASE, "v-1: is nested more"),
        (
            "".join(f"v{i}: {'[' * 30}eval(v{i + 1}){']' * 30}\n" for i in range(50)) + "v50: 1\n" + BASE,
            "recipe.yaml: cannot be read: it is nested too deeply",
        ),
    ],
)
def test_bad_texts_are_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_lines_of_markdown_are_those_of_the_file() -> None:
    with pytest.raises(ConfigError, match="not YAML at line 5, column 2"):
        read("# Title\n\n---\na: [1\nb: 2\n---\n")


MORE = "other_modifiers:\n  - !X {a: 1}\n"


@pytest.mark.parametrize(
    "text, refused",
    [
        (f"{MORE}---{BASE}---\n", {"r.yaml", "R.YML", "--recipe"}),
        (f"---{BASE}---\n{MORE}", {"r.yaml", "R.YML", "--recipe"}),
        (f"---{BASE}---\nText\n---\nstage:\n  modifiers: []\n", {"r.yaml", "R.YML", "--recipe"}),
        (f"num_epochs: 3\n---{BASE}---\n", {"r.yaml", "R.YML", "--recipe"}),
        (f"Text in front\n---{BASE}---\n", {"r.yaml", "R.YML"}),
    ],
)
@pytest.mark.parametrize("source", ["r.yaml", "R.YML", "r.md", "--recipe"])
def test_a_recipe_is_one_document(text: str, refused: set[str], source: str) -> None:
    if source in refused:
        with pytest.raises(ConfigError, match=f'^{source}: a line "---" .* a recipe is one document: remove the line'):
            read_document(text, source)
    else:
        assert [item.name for item in read_document(text, source).stages[0].modifiers] == ["EpochRangeModifier"]


def test_keys_may_be_computed() -> None:
    text = "a: 0.8\nb: 0.9\nmodifiers:\n  - !X {final: {eval(a): [x], eval(b): [y]}}\n"
    assert fields(text) == {"final": {0.8: ["x"], 0.9: ["y"]}}
    with pytest.raises(ConfigError, match=r"modifiers\[0\].final: the key eval\(b\) is 0.9, as another one is; put"):
        fields(text, {"a": 0.9})


def test_a_key_that_is_an_alias_follows_its_variable() -> None:
    text = "n: &n 30\nmodifiers:\n  - !X {a: {*n : x}, b: *n}\n"
    assert fields(text, {"n": 3}) == {"a": {3: "x"}, "b": 3}


def test_lists_of_lists_are_counted_once_for_each_use() -> None:
    chain = "".join(f"v{i}: eval(v{i + 1})\n" for i in range(50)) + "v50: [1, 2]\n"
    assert fields(chain + "modifiers:\n  - !X {a: eval(v0)}\n") == {"a": [1, 2]}


def test_arguments_are_not_nested_deeply() -> None:
    deep: list[Any] = []
    for _ in range(60):
        deep = [deep]
    with pytest.raises(ConfigError, match="is nested more than 40 levels deep"):
        read(BASE, {"target": deep})
