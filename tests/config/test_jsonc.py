"""Reading JSON with comments and trailing commas."""

from pathlib import Path

import pytest

from nncf_transformers.config import ConfigError, load_config
from nncf_transformers.config.jsonc import parse_json, read_json, strip_comments


@pytest.mark.parametrize(
    "text, expected",
    [
        ('{"a": 1, // end of line\n "b": 2}', {"a": 1, "b": 2}),
        ('{"a": 1, # end of line\n "b": 2}', {"a": 1, "b": 2}),
        ('{/* in\nbetween */ "a": 1}', {"a": 1}),
        ('{"a": [1, 2,], "b": {"c": 3,},}', {"a": [1, 2], "b": {"c": 3}}),
        ('{"a": [1, // last\n ], /* , */ }', {"a": [1]}),
    ],
)
def test_comments_and_trailing_commas_are_allowed(text: str, expected: dict) -> None:
    assert parse_json(text, "f.json") == expected


def test_a_list_is_read_too() -> None:
    assert parse_json('[{"a": 1,}, /* b */ 2,]', "f.json") == [{"a": 1}, 2]
    assert parse_json("[]", "f.json") == []


@pytest.mark.parametrize("inside", ["http://x", "a # b", "/* no comment */", 'quote \\" // and on', ",]", "{re}.*#1,}"])
def test_strings_stay_as_they_are(inside: str) -> None:
    text = f'{{"a": "{inside}", "b": ["{inside}",]}}'
    value = inside.replace('\\"', '"')
    assert parse_json(text, "f.json") == {"a": value, "b": [value]}


def test_stripping_keeps_every_line_and_column() -> None:
    text = '{"a": 1, // c\n/* d\ne */ "b": [2,]\n}'
    plain = strip_comments(text, "f.json")
    assert len(plain) == len(text)
    assert [len(line) for line in plain.split("\n")] == [len(line) for line in text.split("\n")]


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"a": 1 // c\n "b": 2}', r"f\.json: not JSON at line 2, column 2: "),
        ('{"a": }', r"f\.json: not JSON at line 1, column 7"),
        ('{"a": "open\n}', r"f\.json: not JSON at line 1"),
        ('{"a": [1,,]}', r"f\.json: not JSON at line 1, column 10"),
        ("{,}", r"f\.json: not JSON at line 1, column 2"),
        ('{"a": [,]}', r"f\.json: not JSON at line 1, column 8"),
        ('{"a": 1} /* never', r"f\.json: the comment opened with /\* in line 1 is never closed"),
        ('{"a": 1, "a": 2}', r'f\.json: the key "a" is given twice'),
        ('{"a": NaN}', r"f\.json: NaN is not a JSON number"),
        ('"x"', r"f\.json: holds a string, not an object"),
        ("null", r"f\.json: holds null, not an object"),
        ("{}", r"f\.json: the object is empty"),
        ("", r"f\.json: the file is empty"),
        (" // only a comment\n", r"f\.json: the file is empty"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_json(text, "f.json")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_missing_file_a_folder_and_a_binary_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.json: no such file"):
        load_config(tmp_path / "nowhere.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)
    binary = tmp_path / "weights.bin"
    binary.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigError, match=r"weights\.bin: cannot be read"):
        load_config(binary)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "bom.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(path) == {"a": 1}
