"""Says whether inserted lines still mean something where they lie: "applies" is not yet "works".

Checked on the syntax tree: the file parses; the names that our lines use are bound there; the names that our imports
shadow are used after them, and not bound again; the functions that our lines lie in are still used.
"""

import ast
import builtins
import warnings
from collections.abc import Iterator, Sequence

from overlay.hunks import Place

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def problems(lines: Sequence[str], places: Sequence[Place]) -> list[list[str]]:
    """Returns what is wrong with each edit of a Python file.

    Args:
        lines: The file with the edits.
        places: Where they lie in the file without them, in order.

    Returns:
        One list of reasons per edit, empty where nothing is wrong.
    """
    try:
        tree = parse("\n".join(lines))
    except (SyntaxError, ValueError) as error:
        return [[f"the file is no valid Python any more ({error.args[0]})"] for _ in places]
    ranges = _ranges(places)
    return [sorted(set(_of_edit(tree, first, last))) for first, last in ranges]


def parse(text: str) -> ast.Module:
    """Parses a Python file, and checks what only the compiler does, such as an argument that is given twice.

    Raises:
        SyntaxError: It is no valid Python.
        ValueError: It has a null byte.
    """
    tree = ast.parse(text)
    with warnings.catch_warnings():
        # A script's own doubtful escapes are none of our business.
        warnings.simplefilter("ignore")
        compile(text, "script", "exec", dont_inherit=True)
    return tree


def _ranges(places: Sequence[Place]) -> list[tuple[int, int]]:
    """First and last line of each edit in the file that has them, from 1."""
    ranges, shift = [], 0
    for place in places:
        first = place.line + shift + 1
        ranges.append((first, first + len(place.added) - 1))
        shift += len(place.added) - place.count
    return ranges


def _of_edit(tree: ast.Module, first: int, last: int) -> Iterator[str]:
    for node in ast.walk(tree):
        inside = isinstance(node, ast.stmt | ast.keyword | ast.expr) and first <= node.lineno <= last
        if not inside:
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                yield from _of_import(tree, (alias.asname or alias.name).split(".")[0], node.lineno)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield from _of_name(tree, node)
        if isinstance(node, ast.stmt):
            yield from _of_function(tree, node)


def _of_import(tree: ast.Module, name: str, line: int) -> Iterator[str]:
    used = any(
        isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load) and node.lineno > line
        for node in ast.walk(tree)
    )
    if not used:
        yield f"{name} is imported in line {line}, but nothing after it uses that name"
    again = [bound for node in ast.walk(tree) for bound in _bindings(node) if bound[0] == name and bound[1] > line]
    if again:
        yield f"{name} is bound again in line {min(again, key=lambda bound: bound[1])[1]}, so ours is not the one used"


def _of_name(tree: ast.Module, name: ast.Name) -> Iterator[str]:
    if hasattr(builtins, name.id) or _bound_in(tree.body, name.id, None):
        return
    for function in _functions_around(tree, name.lineno):
        arguments = function.args
        given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        if any(argument is not None and argument.arg == name.id for argument in given):
            return
        if _bound_in(function.body, name.id, name.lineno + 1):
            return
    yield f"{name.id}, which line {name.lineno} uses, is not bound there"


def _of_function(tree: ast.Module, statement: ast.stmt) -> Iterator[str]:
    around = _functions_around(tree, statement.lineno)
    top = [function for function in around if function in tree.body and function is not statement]
    for function in top:
        used = any(
            isinstance(node, ast.Name) and node.id == function.name and not _inside(function, node.lineno)
            for node in ast.walk(tree)
        )
        if not used:
            yield f"{function.name}(), which line {statement.lineno} lies in, is no longer called in this file"


def _functions_around(tree: ast.Module, line: int) -> list[_Function]:
    return [node for node in ast.walk(tree) if isinstance(node, _Function) and _inside(node, line)]


def _inside(node: _Function, line: int) -> bool:
    return node.lineno <= line <= (node.end_lineno or node.lineno)


def _bound_in(body: Sequence[ast.stmt], name: str, before: int | None) -> bool:
    """Whether statements bind a name, those of functions and classes inside them left out."""
    pending: list[ast.AST] = list(body)
    while pending:
        node = pending.pop()
        for bound, line in _bindings(node):
            if bound == name and (before is None or line < before):
                return True
        if not isinstance(node, _Function | ast.ClassDef | ast.Lambda):
            pending += ast.iter_child_nodes(node)
    return False


def _bindings(node: ast.AST) -> Iterator[tuple[str, int]]:
    """Yields the names that a node itself binds, with its line."""
    match node:
        case ast.Import(names=names, lineno=line) | ast.ImportFrom(names=names, lineno=line):
            for alias in names:
                yield (alias.asname or alias.name).split(".")[0], line
        case ast.FunctionDef(name=name, lineno=line) | ast.AsyncFunctionDef(name=name, lineno=line):
            yield name, line
        case ast.ClassDef(name=name, lineno=line) | ast.ExceptHandler(name=str(name), lineno=line):
            yield name, line
        case ast.Name(id=name, ctx=ast.Store(), lineno=line):
            yield name, line
