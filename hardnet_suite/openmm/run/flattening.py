"""A config and its bases as one file: dictionaries are merged in the source, so that variables stay.

What a file computes by other means than expressions keeps its value instead: ``flatten`` evaluates the
result against the config as it reads.
"""

from __future__ import annotations

import ast
import copy
import io
import math
import re
import tokenize
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yapf.yapflib.yapf_api import FormatCode

from hardnet_suite.config_names import base_files
from hardnet_suite.errors import UserError

_STYLE = {"based_on_style": "facebook", "column_limit": 110}
_WORTH_A_NAME = 60  # characters of a dictionary that a second variable shares


@dataclass(frozen=True)
class Variable:
    """An assignment at the top of a config.

    Attributes:
        value: the expression.
        source: the expression as written; None for one that was made of several.
        above: the comment above it, line by line.
        beside: the comment beside it.
    """

    value: ast.expr
    source: str | None = None
    above: tuple[str, ...] = ()
    beside: str = ""


def flatten(path: Path, cfg: Mapping[str, Any], read: Callable[[str], bool]) -> dict[str, str]:
    """The variables of a config and of its bases, in an order in which they can be evaluated.

    Args:
        path: of the config, in Python.
        cfg: its values as it reads, plain dictionaries inside.
        read: whether something besides the config's own code reads a variable; others are kept where an
            expression has them.

    Returns:
        Variable -> its comments and assignment, one text each.

    Raises:
        UserError: the config computes a value that cannot be written as an expression, such as an object.
    """
    variables = _variables(path)
    variables |= {
        key: Variable(_display(value, key))
        for key, value in cfg.items()
        if read(key) and key not in variables
    }
    order = [key for key in variables if key in cfg and read(key)]
    variables = _with_values(variables, order, cfg)
    variables = _shared(variables, order)
    return {key: _text(key, variables[key]) for key in _sorted(variables, order)}


def comments_above(lines: list[str], end: int) -> list[str]:
    """The lines of comment that end above a line."""
    start = end
    while start and lines[start - 1].lstrip().startswith("#"):
        start -= 1
    return lines[start:end]


def _variables(path: Path) -> dict[str, Variable]:
    """The variables that a file and its bases leave; the file's own come first."""
    base: dict[str, Variable] = {}
    for file in base_files(path):
        base |= _variables(file)
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    own: dict[str, Variable] = {}
    assignments = [
        (node.targets[0].id, node)
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    ]
    scope = _Scope(base, own, {key for key, _ in assignments})
    for key, node in assignments:
        if key != "_base_":
            value = _Resolved(scope, scope.of_own, scope.of_base).visit(copy.deepcopy(node.value))
            is_same = ast.dump(value) == ast.dump(node.value)
            text = ast.get_source_segment(source, node.value) if is_same else None
            above = tuple(comments_above(lines, node.lineno - 1))
            own[key] = Variable(value, text, above, _beside(lines, node))
    merged: dict[str, Variable] = {}
    for key, variable in own.items():
        value = _merged(base[key].value, variable.value, scope) if key in base else variable.value
        is_same = ast.dump(value) == ast.dump(variable.value)
        merged[key] = replace(variable, value=value, source=variable.source if is_same else None)
    for key, variable in base.items():
        if key not in own:
            value = scope.as_in_base(variable.value)
            is_same = ast.dump(value) == ast.dump(variable.value)
            # where the data lie that a base names
            above = () if "data_root" in own and _is_layout(variable) else variable.above
            merged[key] = replace(
                variable, value=value, above=above, source=variable.source if is_same else None
            )
    return merged


class _Scope:
    """What names stand for in a file: its own variables so far, those of its bases, and all it assigns."""

    def __init__(self, base: dict[str, Variable], own: dict[str, Variable], assigned: set[str]) -> None:
        self.base, self.own, self.assigned = base, own, assigned

    def of_own(self, name: str) -> ast.expr | None:
        """In place of a name of the file: what it has there, if merging makes more of the variable later."""
        if name not in self.own or name not in self.base:
            return None
        value = self.own[name].value
        return value if _items(value, self) is not None else None

    def of_base(self, name: str) -> ast.expr | None:
        """In place of ``_base_.name``."""
        if name not in self.base:
            return None
        if name not in self.assigned:
            return ast.Name(name, ast.Load())
        return self.as_in_base(self.base[name].value)

    def as_in_base(self, value: ast.expr) -> ast.expr:
        """A base's expression without the variables that the file assigns anew."""

        def former(name: str) -> ast.expr | None:
            is_former = name in self.base and name in self.assigned
            return self.as_in_base(self.base[name].value) if is_former else None

        return _Resolved(self, former).visit(copy.deepcopy(value))

    def value(self, name: str) -> ast.expr | None:
        variable = self.own.get(name) or self.base.get(name)
        return None if variable is None else variable.value


class _Resolved(ast.NodeTransformer):
    """Replaces names by expressions, and takes the parts of displays that follow."""

    def __init__(
        self,
        scope: _Scope,
        plain: Callable[[str], ast.expr | None],
        base: Callable[[str], ast.expr | None] = lambda name: None,
    ) -> None:
        self._scope, self._plain, self._base = scope, plain, base

    def visit_Name(self, node: ast.Name) -> ast.expr:
        found = self._plain(node.id) if isinstance(node.ctx, ast.Load) else None
        return node if found is None else copy.deepcopy(found)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if isinstance(node.value, ast.Name) and node.value.id == "_base_":
            return copy.deepcopy(self._base(node.attr)) or node
        is_of_base = _root(node) == "_base_"
        self.generic_visit(node)
        if not is_of_base:
            return node
        items = _items(node.value, self._scope)
        if items is not None and node.attr in items:
            return copy.deepcopy(items[node.attr])
        return ast.Subscript(node.value, ast.Constant(node.attr), node.ctx)

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        if isinstance(node.value, ast.Name) and node.value.id == "_base_":
            name = getattr(node.slice, "value", None)
            return (copy.deepcopy(self._base(name)) if isinstance(name, str) else None) or node
        self.generic_visit(node)
        is_plain = isinstance(node.value, ast.List) and not _starred(node.value)
        if not is_plain:
            return node
        try:
            place = eval(compile(ast.Expression(_slice_call(node.slice)), "", "eval"), {"slice": slice})
            taken = node.value.elts[place]
        except (NameError, TypeError, IndexError):
            return node
        return ast.List(taken, ast.Load()) if isinstance(taken, list) else taken

    def visit_List(self, node: ast.List) -> ast.expr:
        self.generic_visit(node)
        spread = [
            each.value.elts if isinstance(each, ast.Starred) and isinstance(each.value, ast.List) else [each]
            for each in node.elts
        ]
        node.elts = [each for part in spread for each in part]
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        return self._spread(node)

    def visit_Dict(self, node: ast.Dict) -> ast.expr:
        self.generic_visit(node)
        return self._spread(node)

    @staticmethod
    def _spread(node: ast.expr) -> ast.expr:
        """A dictionary with a display in place of its ``**``."""
        pairs = _pairs(node)
        if pairs is None or not any(key is None and _pairs(value) is not None for key, value in pairs):
            return node
        items = _items(node)
        return node if items is None else _dictionary(items)


def _slice_call(node: ast.expr) -> ast.expr:
    if not isinstance(node, ast.Slice):
        return ast.fix_missing_locations(node)
    arguments = [each or ast.Constant(None) for each in (node.lower, node.upper, node.step)]
    call = ast.Call(ast.Name("slice", ast.Load()), arguments, [])
    return ast.fix_missing_locations(ast.copy_location(call, node))


def _root(node: ast.expr) -> str | None:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def _starred(node: ast.List) -> bool:
    return any(isinstance(each, ast.Starred) for each in node.elts)


def _pairs(node: ast.expr) -> list[tuple[str | None, ast.expr]] | None:
    """The entries of a dictionary's display, None as the key of a ``**``; None for anything else."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return None if node.args else [(keyword.arg, keyword.value) for keyword in node.keywords]
    if isinstance(node, ast.Dict):
        keys = [key if key is None else getattr(key, "value", 0) for key in node.keys]
        if all(key is None or isinstance(key, str) for key in keys):
            return list(zip(keys, node.values, strict=True))
    return None


def _items(node: ast.expr, scope: _Scope | None = None) -> dict[str, ast.expr] | None:
    """The entries of a dictionary, also of one that a variable or a ``**`` of one stands for."""
    if isinstance(node, ast.Name) and scope is not None:
        value = scope.value(node.id)
        return None if value is None else _items(value, scope)
    pairs = _pairs(node)
    if pairs is None:
        return None
    items: dict[str, ast.expr] = {}
    for key, value in pairs:
        if key is not None:
            items[key] = value
            continue
        spread = _items(value, scope)
        if spread is None:
            return None
        items |= spread
    return items


def _merged(base: ast.expr, own: ast.expr, scope: _Scope) -> ast.expr:
    """What mmengine makes of a base's entry and a config's: dictionaries are merged, others replaced."""
    new = _items(own, scope)
    if new is None:
        return own
    former = _items(scope.as_in_base(base), scope)
    if former is None and "_delete_" not in new:
        return own
    deletes = "_delete_" in new and ast.unparse(new.pop("_delete_")) == "True"
    items = {} if deletes or former is None else dict(former)
    for key, value in new.items():
        items[key] = _merged(items[key], value, scope) if key in items else value
    return _dictionary(items)


def _dictionary(items: Mapping[str, ast.expr]) -> ast.expr:
    if all(key.isidentifier() for key in items):
        keywords = [ast.keyword(key, value) for key, value in items.items()]
        return ast.Call(ast.Name("dict", ast.Load()), [], keywords)
    return ast.Dict([ast.Constant(key) for key in items], list(items.values()))


def _display(value: Any, where: str) -> ast.expr:
    """A plain value as an expression; ``where`` names it in errors."""
    if isinstance(value, dict):
        items = {key: _display(item, f"{where}.{key}") for key, item in value.items()}
        if all(isinstance(key, str) for key in value):
            return _dictionary(items)
        return ast.Dict([_display(key, where) for key in items], list(items.values()))
    if isinstance(value, list | tuple):
        kind = ast.List if isinstance(value, list) else ast.Tuple
        return kind([_display(item, f"{where}[{n}]") for n, item in enumerate(value)], ast.Load())
    if isinstance(value, float) and not math.isfinite(value):
        return ast.Call(ast.Name("float", ast.Load()), [ast.Constant(str(value))], [])
    if value is not None and type(value) not in (bool, int, float, str, bytes):
        kind = value.__qualname__ if isinstance(value, type) else f"a {type(value).__qualname__}"
        raise UserError(
            f"{where} is {kind}, which cannot be written into a config of one file: expected numbers, "
            "strings, lists, tuples and dictionaries"
        )
    return ast.parse(repr(value), mode="eval").body


def _with_values(
    variables: dict[str, Variable], roots: list[str], cfg: Mapping[str, Any]
) -> dict[str, Variable]:
    """The variables, with the config's value in place of an expression that comes to another one."""
    known: dict[str, Any] = {}
    result = dict(variables)
    for key in _sorted(variables, roots):
        value = variables[key].value
        try:
            if key in cfg:
                value = _reconciled(value, cfg[key], known, key)
            known[key] = _evaluated(value, known)
        except Exception:  # a function, say: what the config computes with it is written as values
            if key in roots:
                raise
            continue
        if value is not variables[key].value:
            result[key] = replace(variables[key], value=value, source=None)
    return result


def _reconciled(node: ast.expr, value: Any, known: Mapping[str, Any], where: str) -> ast.expr:
    try:
        if _alike(_evaluated(node, known), value):
            return node
    except Exception:  # an expression of the config's, of what a flat file has not
        return _display(value, where)
    items = _items(node)
    if items is None or not isinstance(value, dict):
        return _display(value, where)
    return _dictionary(
        {
            key: _reconciled(items[key], item, known, f"{where}.{key}")
            if key in items
            else _display(item, f"{where}.{key}")
            for key, item in value.items()
        }
    )


def _alike(one: Any, other: Any) -> bool:
    return one == other and repr(one) == repr(other) if not isinstance(one, dict) else one == other


def _evaluated(node: ast.expr, known: Mapping[str, Any]) -> Any:
    expression = ast.fix_missing_locations(ast.Expression(copy.deepcopy(node)))
    return copy.deepcopy(eval(compile(expression, "config", "eval"), dict(known)))


def _shared(variables: dict[str, Variable], roots: list[str]) -> dict[str, Variable]:
    """The variables, with a name in place of a dictionary that another one has already."""
    first: dict[str, str] = {}
    result = dict(variables)
    for key in _sorted(variables, roots):
        value = variables[key].value
        if key not in roots or _pairs(value) is None:
            continue
        text = ast.unparse(ast.fix_missing_locations(value))
        if len(text) >= _WORTH_A_NAME and first.setdefault(text, key) != key:
            result[key] = replace(variables[key], value=ast.Name(first[text], ast.Load()), source=None)
    return result


def _sorted(variables: Mapping[str, Variable], roots: list[str]) -> list[str]:
    """The variables that the roots need, each after those that it is made of."""
    order: dict[str, None] = {}

    def add(key: str) -> None:
        for name in _names_in(variables[key].value):
            if name in variables and name != key and name not in order:
                add(name)
        order[key] = None

    for key in roots:
        if key not in order:
            add(key)
    return list(order)


def _names_in(node: ast.expr) -> Iterator[str]:
    for child in ast.walk(node):
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Load):
            yield child.id


def _beside(lines: list[str], node: ast.Assign) -> str:
    end = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode().strip()
    return end if end.startswith("#") else ""


def _is_layout(variable: Variable) -> bool:
    return any("DATA_ROOT/" in line for line in variable.above)


def _text(key: str, variable: Variable) -> str:
    if variable.source is not None:
        code = f"{key} = {variable.source}"
    else:
        value = ast.unparse(ast.fix_missing_locations(variable.value))
        code = _formatted(f"{key} = {value}")
    above, beside = list(variable.above), variable.beside
    if beside and ("\n" in code or len(code) + len(beside) > _STYLE["column_limit"]):
        above.append(beside)
    elif beside:
        code = f"{code}  {beside}"
    return "\n".join([*above, code])


def _formatted(code: str) -> str:
    """Code as the suite's configs are formatted, strings in double quotes."""
    edits = [
        (token.start[1], token.end[1], f'"{token.string[1:-1]}"')
        for token in tokenize.generate_tokens(io.StringIO(code).readline)
        if token.type == tokenize.STRING and re.fullmatch(r"'[^'\"\\]*'", token.string)
    ]
    for start, end, string in reversed(edits):  # the code is one line
        code = code[:start] + string + code[end:]
    return FormatCode(f"{code}\n", style_config=_STYLE)[0].strip()
