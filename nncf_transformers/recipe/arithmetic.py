"""The expressions of recipes, ``eval(num_epochs * 0.9)``: arithmetic on numbers and variables, and nothing else."""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from nncf_transformers.config.errors import ConfigError, nearest

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "min": min,
    "max": max,
    "round": round,
    "int": int,
    "float": float,
    "abs": abs,
    "ceil": math.ceil,
    "floor": math.floor,
}
_COUNTS = {"min": (2, 64), "max": (2, 64), "round": (1, 2)}  # all others take one number
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_FOUND = {
    ast.Attribute: "an attribute",
    ast.Subscript: "a subscript",
    ast.Compare: "a comparison",
    ast.BoolOp: "a boolean operation",
    ast.IfExp: "a condition",
    ast.Lambda: "a function definition",
    ast.List: "a list",
    ast.Tuple: "a tuple",
    ast.Dict: "a mapping",
    ast.Set: "a set",
    ast.JoinedStr: "a string",
    ast.NamedExpr: "an assignment",
    ast.Starred: "a starred argument",
}
MAX_LENGTH = 1000
MAX_DEPTH = 60
# No epoch, rate or count comes near; integers stay small enough to compute with at once.
LARGEST = 1e300


def evaluate(expression: str, variables: Mapping[str, Any], place: str) -> float | int:
    """Compute an expression of numbers, variables, ``+ - * / // % **``, parentheses and a few functions.

    Python's own parser reads it, but nothing of it is run: we walk the tree ourselves.

    Args:
        expression: what stands between the parentheses of ``eval(…)``.
        variables: what names mean; looking one up may raise a :class:`ConfigError` of its own.
        place: file and path, for messages.

    Raises:
        ConfigError: the expression has anything else in it, is too long, too deep or too large, or has no value.
    """
    shown = expression if len(expression) <= 60 else f"{expression[:57]}…"
    where = f"{place}: eval({shown})"
    if len(expression) > MAX_LENGTH:
        raise ConfigError(f"{where}: has {len(expression)} characters; {MAX_LENGTH} are the most")
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except SyntaxError as error:
        raise ConfigError(f"{where}: is not arithmetic ({error.msg}); write e.g. eval(num_epochs * 0.9)") from None
    except (ValueError, RecursionError, MemoryError):
        raise ConfigError(f"{where}: cannot be read; write e.g. eval(num_epochs * 0.9)") from None
    return _value(tree, variables, where, 0)


def _value(node: ast.expr, variables: Mapping[str, Any], where: str, depth: int) -> float | int:
    if depth > MAX_DEPTH:
        raise ConfigError(f"{where}: is nested more than {MAX_DEPTH} levels deep; make it simpler")
    try:
        value = _compute(node, variables, where, depth)
    except ZeroDivisionError:
        raise ConfigError(f"{where}: divides by zero") from None
    except OverflowError:
        raise ConfigError(f"{where}: {_text(node)} is too large") from None
    if isinstance(value, complex):
        raise ConfigError(f"{where}: {_text(node)} is no real number")
    if not -LARGEST <= value <= LARGEST:  # also NaN
        raise ConfigError(f"{where}: has a value that is too large")
    return value


def _compute(node: ast.expr, variables: Mapping[str, Any], where: str, depth: int) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    if isinstance(node, ast.Name):
        return _variable(node.id, variables, where)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, variables, where, depth + 1)
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        left, right = (_value(side, variables, where, depth + 1) for side in (node.left, node.right))
        if isinstance(node.op, ast.Pow) and abs(left) > 1 and right * math.log(abs(left)) > math.log(LARGEST):
            raise OverflowError
        return _BINARY[type(node.op)](left, right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
        return _call(node.func.id, node, variables, where, depth)
    raise ConfigError(
        f"{where}: has {_describe(node)} in it; allowed are numbers, variables, + - * / // % **, parentheses and "
        f"{', '.join(FUNCTIONS)}"
    )


def _variable(name: str, variables: Mapping[str, Any], where: str) -> float | int:
    if name not in variables:
        known = list(variables)
        hint = nearest(name, known) or (f"; variables: {', '.join(known[:12])}" if known else "; there are none")
        raise ConfigError(f'{where}: unknown variable "{name}"{hint}')
    value = variables[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f'{where}: the variable "{name}" is {value!r:.40}, which is no number to compute with')
    return value


def _call(name: str, node: ast.Call, variables: Mapping[str, Any], where: str, depth: int) -> Any:
    fewest, most = _COUNTS.get(name, (1, 1))
    if node.keywords or not fewest <= len(node.args) <= most:
        count = "one number" if most == 1 else f"{fewest} to {most} numbers"
        found = "a named one" if node.keywords else f"{len(node.args)}"
        raise ConfigError(f"{where}: {name}() takes {count}, found {found}")
    values = [_value(argument, variables, where, depth + 1) for argument in node.args]
    if name == "round" and len(values) == 2 and not (isinstance(values[1], int) and abs(values[1]) <= 300):
        raise ConfigError(f"{where}: round() takes a whole number of digits, found {values[1]}")
    return FUNCTIONS[name](*values)


def _describe(node: ast.expr) -> str:
    text = _text(node)
    if isinstance(node, ast.Constant):
        return f"the text {text}" if isinstance(node.value, (str, bytes)) else f"{text}"
    if isinstance(node, ast.Call):
        return f"a call of {_text(node.func)}"
    if isinstance(node, (ast.BinOp, ast.UnaryOp)):
        return f"the operation {text}"
    return f"{_FOUND.get(type(node), 'an expression')} ({text})"


def _text(node: ast.expr) -> str:
    try:
        return ast.unparse(node)[:40]
    except RecursionError:
        return "…"
