"""What may stand in eval(…), and that nothing else is run."""

import math
import random

import pytest

from nncf_transformers.config.errors import ConfigError
from nncf_transformers.recipe.arithmetic import evaluate

VARIABLES = {"num_epochs": 30, "lr": 5e-5, "flag": True, "name": "cubic", "names": ["a"]}


@pytest.mark.parametrize(
    "expression, expected",
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("7 // 2", 3),
        ("7 % 4", 3),
        ("7 / 2", 3.5),
        ("2 ** 10", 1024),
        ("2 ** -1", 0.5),
        ("-num_epochs", -30),
        ("--3", 3),
        ("num_epochs * 2 / 3", 20.0),
        (" num_epochs ", 30),
        ("min(num_epochs, 10, 12)", 10),
        ("max(1, lr)", 1),
        ("round(2.5)", 2),
        ("round(1 / 3, 2)", 0.33),
        ("int(num_epochs * 0.99)", 29),
        ("float(3)", 3.0),
        ("abs(-3)", 3),
        ("ceil(num_epochs / 7)", 5),
        ("floor(num_epochs / 7)", 4),
        ("lr * 1e3", 0.05),
    ],
)
def test_arithmetic(expression: str, expected: float) -> None:
    value = evaluate(expression, VARIABLES, "r.yaml: x")
    assert value == pytest.approx(expected)
    assert type(value) is type(expected)


def test_values_are_those_of_python() -> None:
    random.seed(0)
    for _ in range(200):
        numbers = [random.choice(["3", "0.5", "num_epochs", "17", "-2"]) for _ in range(4)]
        operators = [random.choice([" + ", " - ", " * ", " / "]) for _ in range(3)]
        expression = f"({numbers[0]}{operators[0]}{numbers[1]}){operators[1]}({numbers[2]}{operators[2]}{numbers[3]})"
        try:
            expected = eval(expression, {"num_epochs": 30})
        except ZeroDivisionError:
            continue
        assert evaluate(expression, VARIABLES, "x") == expected


@pytest.mark.parametrize(
    "expression, found",
    [
        ("__import__('os').system('true')", "a call of __import__('os').system"),
        ("open('x')", "a call of open"),
        ("eval('1')", "a call of eval"),
        ("num_epochs.real", "an attribute (num_epochs.real)"),
        ("(1).__class__", "an attribute"),
        ("names[0]", "a subscript (names[0])"),
        ("'text'", "the text 'text'"),
        ("b'text'", "the text b'text'"),
        ("f'{lr}'", "a string"),
        ("True", "True"),
        ("None", "None"),
        ("1j", "1j"),
        ("1 < 2", "a comparison"),
        ("1 and 2", "a boolean operation"),
        ("1 if lr else 2", "a condition"),
        ("lambda: 1", "a function definition"),
        ("[1, 2]", "a list"),
        ("1, 2", "a tuple"),
        ("{1: 2}", "a mapping"),
        ("{1}", "a set"),
        ("[x for x in (1, 2)]", "an expression"),
        ("(x := 3)", "an assignment"),
        ("3 & 1", "the operation 3 & 1"),
        ("1 << 3", "the operation 1 << 3"),
        ("2 @ 3", "the operation 2 @ 3"),
        ("~3", "the operation ~3"),
        ("not 3", "the operation not 3"),
        ("max(*names, 1)", "a starred argument"),
    ],
)
def test_anything_else_is_refused_by_its_name(expression: str, found: str) -> None:
    with pytest.raises(ConfigError) as error:
        evaluate(expression, VARIABLES, "r.yaml: lr")
    message = str(error.value)
    assert message.startswith("r.yaml: lr: eval(")
    assert found in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "expression, message",
    [
        ("num_epoch * 2", 'unknown variable "num_epoch" (did you mean "num_epochs"?)'),
        ("zzz", 'unknown variable "zzz"; variables: num_epochs, lr'),
        ("name * 2", "the variable \"name\" is 'cubic', which is no number"),
        ("flag + 1", 'the variable "flag" is True, which is no number'),
        ("names + 1", "the variable \"names\" is ['a'], which is no number"),
        ("1 +", "is not arithmetic"),
        ("", "is not arithmetic"),
        ("x = 3", "is not arithmetic"),
        ("import os", "is not arithmetic"),
        ("1; 2", "is not arithmetic"),
        ("1 / 0", "divides by zero"),
        ("1 // 0", "divides by zero"),
        ("5 % (1 - 1)", "divides by zero"),
        ("0 ** -1", "divides by zero"),
        ("9**9**9", "9 ** 9 ** 9 is too large"),
        ("10.0 ** 400", "is too large"),
        ("1e999", "too large"),
        ("1e299 * 1e299", "too large"),
        ("(-8) ** 0.5", "is no real number"),
        ("min(1)", "min() takes 2 to 64 numbers, found 1"),
        ("abs(1, 2)", "abs() takes one number, found 2"),
        ("round(1.5, ndigits=1)", "round() takes 1 to 2 numbers, found a named one"),
        ("round(1.5, 0.5)", "round() takes a whole number of digits, found 0.5"),
        ("+".join("1" * 600), "has 1199 characters; 1000 are the most"),
        ("+".join("1" * 400), "is nested more than 60 levels deep"),
        ("(" * 400 + "1" + ")" * 400, "r.yaml: lr: eval("),
        ("-" * 900 + "1", "r.yaml: lr: eval("),
        ("[" + "+".join("1" * 400) + "]", "has a list"),
        ("1\0", "r.yaml: lr: eval("),
        ("9" * 900, "r.yaml: lr: eval("),
    ],
)
def test_what_has_no_value_is_one_line(expression: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        evaluate(expression, VARIABLES, "r.yaml: lr")
    assert message in str(error.value)
    assert len(str(error.value)) < 400


def test_no_variables_at_all() -> None:
    with pytest.raises(ConfigError, match='unknown variable "x"; there are none'):
        evaluate("x", {}, "r.yaml: y")


def test_large_powers_that_fit_are_computed() -> None:
    assert evaluate("2 ** 900", {}, "x") == 2**900
    assert evaluate("0.5 ** 900", {}, "x") == pytest.approx(0.5**900)
    assert evaluate("1 ** 99999", {}, "x") == 1
    assert math.isclose(evaluate("(1 - 0.9) ** 3", {}, "x"), 0.001)
