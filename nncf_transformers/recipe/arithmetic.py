"""The expressions of recipes, ``eval(num_epochs * 0.9)``: arithmetic on numbers and variables, and nothing else.

:class:`Scope` holds the variables, and replaces every ``eval(…)`` in a value.
"""

import ast
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
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
MAX_CHAIN = 60
# Of a recipe, with the lists that it names by aliases and variables written out.
MAX_NODES = 200_000
MAX_LEVELS = 40
_EVAL = re.compile(r"eval\((.*)\)", re.DOTALL)


@dataclass(frozen=True)
class _Filled:
    """A value without ``eval(…)``, and how large it is: the lists in it are shared, but all who read it walk them."""

    value: Any
    nodes: int = 1
    levels: int = 0

    @classmethod
    def of(cls, value: Any, items: Iterable["_Filled"]) -> "_Filled":
        items = list(items)
        levels = 1 + max((item.levels for item in items), default=0)
        return cls(value, 1 + sum(item.nodes for item in items), levels)


class Scope(Mapping[str, Any]):
    """Variables that are computed when somebody asks for them; those of a stage come before the root's."""

    def __init__(self, own: Mapping[str, Any], source: str, path: str = "", parent: "Scope | None" = None) -> None:
        self._own = own
        self._where = f"{source}: {path}." if path else f"{source}: "
        self._parent = parent
        self._values: dict[str, _Filled] = {}
        self._computing: list[str] = []
        self._nodes = 0

    def __contains__(self, name: object) -> bool:
        return name in self._own or (self._parent is not None and name in self._parent)

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        if self._parent is not None:
            yield from (name for name in self._parent if name not in self._own)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, name: str) -> Any:
        return self._find(name).value

    def resolve(self, value: Any, place: str) -> Any:
        """Replace every ``eval(…)`` in a value by what it means; a bare name keeps its type.

        Raises:
            ConfigError: one of them has no value, or all that was resolved is too large with them.
        """
        return self._resolve(value, place).value

    def _resolve(self, value: Any, place: str) -> _Filled:
        found = self._fill(value, place)
        self._count(found.nodes, place)
        if found.levels > MAX_LEVELS:
            raise ConfigError(f"{place}: is nested more than {MAX_LEVELS} levels deep, with its variables filled in")
        return found

    def _count(self, nodes: int, place: str) -> None:
        """Add to the size of the recipe, which the root knows."""
        if self._parent is not None:
            self._parent._count(nodes, place)
            return
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise ConfigError(f"{place}: the recipe has more than {MAX_NODES} entries, with its variables filled in")

    def _find(self, name: str) -> _Filled:
        if name not in self._own:
            if self._parent is None:
                raise KeyError(name)
            return self._parent._find(name)
        if name not in self._values:
            if len(self._computing) > MAX_CHAIN:
                raise ConfigError(f"{self._where}{name}: more than {MAX_CHAIN} variables in a row refer to the next")
            if name in self._computing:
                circle = [*self._computing[self._computing.index(name) :], name]
                raise ConfigError(
                    f"{self._where}{name}: the variables refer to each other in a circle: {' -> '.join(circle)}"
                )
            self._computing.append(name)
            self._values[name] = self._resolve(self._own[name], f"{self._where}{name}")
            self._computing.pop()
        return self._values[name]

    def _fill(self, value: Any, place: str) -> _Filled:
        if isinstance(value, str):
            found = _EVAL.fullmatch(value.strip())
            if found is None:
                return _Filled(value)
            name = found.group(1).strip()
            return self._find(name) if name in self else _Filled(evaluate(found.group(1), self, place))
        if isinstance(value, list):
            items = [self._fill(item, f"{place}[{index}]") for index, item in enumerate(value)]
            return _Filled.of([item.value for item in items], items)
        if isinstance(value, dict):
            named: dict[Any, _Filled] = {}
            for written, item in value.items():
                key = self._fill(written, place).value
                if isinstance(key, (list, dict)):
                    raise ConfigError(f"{place}: the key {written} is a list or a mapping; keys are names or numbers")
                if key in named:
                    raise ConfigError(
                        f"{place}: the key {written} is {key!r:.40}, as another one is; put what they hold together"
                    )
                named[key] = self._fill(item, f"{place}.{written}")
            return _Filled.of({key: item.value for key, item in named.items()}, named.values())
        return _Filled(value)


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
