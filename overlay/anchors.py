"""Finds the place of an edit by the syntax around it, where its lines have changed.

A statement is known again by what it means: first by its whole syntax tree, which reformatting does not change, else
by its head: what it assigns, calls, defines or tests. An edit goes back between the two statements it stood between,
in the function of the same name, or where exactly one other place has them. Anything less than that is no place.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from overlay.hunks import Edit, Place

_Body = list[ast.stmt]
_KEYWORD = re.compile(r"\s*(\w+)\s*=[^=]")
# What a neighbour is worth that is the same, and one that only begins alike.
_SAME, _ALIKE = 4, 3
# One neighbour that begins alike is too little where a whole file is searched.
_ENOUGH_HERE, _ENOUGH_ELSEWHERE = 3, 7


@dataclass(frozen=True)
class _Gap:
    """The place between two statements of one body, in a function known by its name."""

    function: str
    before: ast.stmt | None
    after: ast.stmt | None


def find_place(old: Sequence[str], place: Place, edit: Edit, new: Sequence[str]) -> Place | None:
    """Finds where an edit belongs in a newer version of a Python file.

    Args:
        old: The file that the edit is known to fit, without the edit.
        place: Where it lies there.
        edit: The edit.
        new: The newer version, without the edit.

    Returns:
        Its place there, with its indentation adapted, or None if there is not exactly one that fits.
    """
    try:
        old_tree, new_tree = ast.parse("\n".join(old)), ast.parse("\n".join(new))
    except (SyntaxError, ValueError):
        return None
    if edit.removed:
        return _find_replaced(old_tree, old, place, new_tree, new)
    inside = _find_argument(old_tree, old, place, new_tree, new)
    if inside is not None:
        return inside
    gap = _gap_at(old_tree, place.line)
    if gap is None:
        return None
    best = _best_gap(gap, new_tree)
    return None if best is None else _insert(gap, best, old, place, new)


def _gap_at(tree: ast.Module, line: int) -> _Gap | None:
    """The statements around the gap before the line of this index; None inside a statement."""
    return next((gap for gap in _gaps(tree) if _spans(gap, line)), None)


def _spans(gap: _Gap, line: int) -> bool:
    first = gap.before.end_lineno if gap.before is not None else _first_line(gap.after) - 1
    last = _first_line(gap.after) - 1 if gap.after is not None else gap.before.end_lineno  # type: ignore[union-attr]
    return first is not None and last is not None and first <= line <= last


def _best_gap(wanted: _Gap, tree: ast.Module) -> _Gap | None:
    """The one gap that fits best; in the same function if it is there, else the only one that fits anywhere."""
    gaps = list(_gaps(tree))
    here = [gap for gap in gaps if gap.function == wanted.function]
    return _only_best(wanted, here, _ENOUGH_HERE) or _only_best(wanted, gaps, _ENOUGH_ELSEWHERE)


def _only_best(wanted: _Gap, gaps: Sequence[_Gap], enough: int) -> _Gap | None:
    scored = [(_likeness(wanted.before, gap.before) + _likeness(wanted.after, gap.after), gap) for gap in gaps]
    top = max((score for score, _ in scored), default=0)
    best = [gap for score, gap in scored if score == top]
    return best[0] if top >= enough and len(best) == 1 else None


def _likeness(a: ast.stmt | None, b: ast.stmt | None) -> int:
    if a is None or b is None:
        # The beginning or the end of a body: a weak sign, which only breaks a tie.
        return int(a is b)
    if ast.dump(a) == ast.dump(b):
        return _SAME
    return _ALIKE if _head(a) == _head(b) else 0


def _head(statement: ast.stmt) -> str:
    """What a statement is about, without its details."""
    match statement:
        case ast.Assign(targets=targets, value=value):
            return f"{[ast.dump(target) for target in targets]} = {_callee(value)}"
        case ast.AnnAssign(target=target) | ast.AugAssign(target=target):
            return f"{type(statement).__name__} {ast.dump(target)}"
        case ast.Expr(value=value):
            return f"call {_callee(value) or ast.dump(value)}"
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return f"{type(statement).__name__} {name}"
        case ast.If(test=test) | ast.While(test=test):
            return f"{type(statement).__name__} {ast.dump(test)}"
        case ast.For(target=target):
            return f"for {ast.dump(target)}"
        case ast.With(items=items):
            return f"with {[ast.dump(item) for item in items]}"
        case ast.ImportFrom(module=module):
            return f"from {module}"
    return ast.dump(statement)


def _callee(value: ast.expr) -> str:
    return ast.dump(value.func) if isinstance(value, ast.Call) else ""


def _insert(gap: _Gap, found: _Gap, old: Sequence[str], place: Place, new: Sequence[str]) -> Place:
    """Puts an insertion into the gap that was found, at the same distance from the neighbour that is alike."""
    follows = _likeness(gap.before, found.before) >= _likeness(gap.after, found.after)
    if follows and gap.before is not None and found.before is not None:
        shift = _column(found.before) - _column(gap.before)
        line = found.before.end_lineno or 0
        distance = place.line - (gap.before.end_lineno or 0)
        # Blank lines and comments between the neighbour and the edit stay between them.
        line += _common(old[place.line - distance : place.line], new[line:])
    else:
        assert gap.after is not None and found.after is not None
        shift = _column(found.after) - _column(gap.after)
        line = _first_line(found.after) - 1
        distance = _first_line(gap.after) - 1 - place.line
        between = list(old[place.line : place.line + distance])
        line -= _common(between[::-1], list(new[:line])[::-1])
    return Place(line, 0, _indented(place.added, shift))


def _common(wanted: Sequence[str], given: Sequence[str]) -> int:
    """Counts equal lines from the start."""
    count = 0
    for a, b in zip(wanted, given, strict=False):
        if a.strip() != b.strip():
            break
        count += 1
    return count


def _find_argument(
    old_tree: ast.Module, old: Sequence[str], place: Place, new_tree: ast.Module, new: Sequence[str]
) -> Place | None:
    """Finds the place of arguments that were inserted as lines of their own into a call."""
    calls = [c for c in _calls(old_tree) if c[1].lineno <= place.line < (c[1].end_lineno or 0)]
    if not calls:
        return None
    function, call = min(calls, key=lambda c: (c[1].end_lineno or 0) - c[1].lineno)
    if any(value.lineno <= place.line < (value.end_lineno or 0) for _, value in _arguments(call)):
        return None
    same = [c for f, c in _calls(new_tree) if f == function and ast.dump(c.func) == ast.dump(call.func)]
    if len(same) != 1 or same[0].end_lineno == same[0].lineno:
        return None
    target = same[0]
    given = _arguments(target)
    ours = {match[1] for line in place.added if (match := _KEYWORD.match(line))}
    if not given or any(name in ours for name, _ in given):
        return None
    # After the last argument before ours that is still there; else after the positional ones.
    before = [name for name, value in _arguments(call) if (value.end_lineno or 0) <= place.line]
    kept = [value for name, value in given if (name in before if name else True)]
    line = (kept[-1].end_lineno if kept else target.lineno) or 0
    starts = [(value.lineno, value) for _, value in given if not kept or value is not kept[-1]]
    if not new[line - 1].rstrip().endswith((",", "(")) or any(number == line for number, _ in starts if kept):
        return None
    first_old, first_new = (arguments[0][1].lineno - 1 for arguments in (_arguments(call), given))
    return Place(line, 0, _indented(place.added, _indent(new[first_new]) - _indent(old[first_old])))


def _arguments(call: ast.Call) -> list[tuple[str, ast.expr]]:
    """The arguments of a call with their names; positional ones, which come first, and ``**`` ones have none."""
    given = [*(("", value) for value in call.args), *((k.arg or "", k.value) for k in call.keywords)]
    return sorted(given, key=lambda argument: (argument[1].lineno, argument[1].col_offset))


def _find_replaced(
    old_tree: ast.Module, old: Sequence[str], place: Place, new_tree: ast.Module, new: Sequence[str]
) -> Place | None:
    """Finds the statements that an edit replaces, when nothing but their layout or place has changed."""
    end = place.line + place.count
    touched = [s for _, body in _bodies(old_tree) for s in body if _first_line(s) - 1 < end and _end(s) > place.line]
    whole = [s for s in touched if not any(o is not s and _contains(s, o) for o in touched)]
    if not whole:
        return None
    first, last = whole[0], whole[-1]
    matches = [
        body[i : i + len(whole)]
        for _, body in _bodies(new_tree)
        for i in range(len(body) - len(whole) + 1)
        if all(ast.dump(a) == ast.dump(b) for a, b in zip(whole, body[i:], strict=False))
    ]
    if len(matches) != 1:
        return None
    # Where the edit replaces a part of the statements' lines, the others stay as they are in the old version.
    head, tail = old[_first_line(first) - 1 : place.line], old[end : _end(last)]
    shift = _column(matches[0][0]) - _column(first)
    start, stop = _first_line(matches[0][0]) - 1, _end(matches[0][-1])
    return Place(start, stop - start, _indented((*head, *place.added, *tail), shift))


def _gaps(tree: ast.Module) -> Iterator[_Gap]:
    for function, body in _bodies(tree):
        for before, after in zip([None, *body], [*body, None], strict=True):
            yield _Gap(function, before, after)


def _bodies(tree: ast.Module) -> Iterator[tuple[str, _Body]]:
    """Yields every list of statements, innermost first, with the dotted name of the function or class around it."""
    yield from _bodies_of(tree, "")


def _bodies_of(node: ast.AST, function: str) -> Iterator[tuple[str, _Body]]:
    for _, value in ast.iter_fields(node):
        items = value if isinstance(value, list) else [value]
        for item in items:
            if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from _bodies_of(item, f"{function}.{item.name}".lstrip("."))
            elif isinstance(item, ast.stmt | ast.excepthandler | ast.match_case):
                yield from _bodies_of(item, function)
        if items and all(isinstance(item, ast.stmt) for item in items) and isinstance(value, list):
            yield function, value


def _calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Yields every call with the dotted name of the function or class around it."""
    for function, body in _bodies(tree):
        for statement in body:
            for node in _own_expressions(statement):
                if isinstance(node, ast.Call):
                    yield function, node


def _own_expressions(statement: ast.stmt) -> Iterator[ast.AST]:
    """Walks a statement without the statements inside it."""
    pending: list[ast.AST] = [statement]
    while pending:
        node = pending.pop()
        yield node
        pending += [c for c in ast.iter_child_nodes(node) if not isinstance(c, ast.stmt | ast.excepthandler)]


def _contains(outer: ast.stmt, inner: ast.stmt) -> bool:
    return _first_line(outer) <= _first_line(inner) and _end(inner) <= _end(outer)


def _first_line(statement: ast.stmt | None) -> int:
    decorators = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(d.lineno for d in decorators)]) if statement is not None else 1


def _end(statement: ast.stmt) -> int:
    return statement.end_lineno or statement.lineno


def _column(statement: ast.stmt) -> int:
    return statement.col_offset


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _indented(lines: Sequence[str], shift: int) -> tuple[str, ...]:
    if shift >= 0:
        return tuple(" " * shift + line if line.strip() else line for line in lines)
    return tuple(line[min(-shift, _indent(line)) :] for line in lines)
