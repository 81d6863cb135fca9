"""Conditions on manifest columns as text, turned into pyarrow expressions.

Text such as `n_frames >= 9 and clip != "GOPR0372_07_00"` has Python's grammar and is parsed by
Python's own parser, but never run: the tree is translated node by node from a closed list into
an expression of `pyarrow.compute`, which Acero evaluates. Anything else is refused by name.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trajectory_builder.errors import DataError, ExitCode

MAX_LENGTH = 10_000
"""Characters of a condition; far beyond what a person writes, far below what hurts a parser."""

_CURE = "write for instance 'n_frames in [9, 11] and starts_with(clip_id, \"GOPR03\")'"
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}
_TEXT_TESTS: dict[str, Callable[[Any, str], Any]] = {
    "starts_with": lambda column, text: pc.starts_with(column, text),
    "ends_with": lambda column, text: pc.ends_with(column, text),
    "contains": lambda column, text: pc.match_substring(column, text),
    "matches": lambda column, text: pc.match_substring_regex(column, text),
}


def parse(text: str, schema: pa.Schema) -> tuple[pc.Expression, set[str]]:
    """Translate a condition; the expression and the columns that it reads.

    Known are columns, numbers, quoted text, True, False, `None` after `is`; `and`, `or`, `not`,
    comparisons (chained too), `in` and `not in` a list, `+ - * /`; `starts_with`, `ends_with`,
    `contains`, `matches` (a regular expression, RE2) of a text column and a text, `len` of a list
    column, `abs` of a number. A row for which the condition is null (an unknown value) is not
    chosen.

    Raises:
        DataError: it does not parse, names an unknown column, or uses anything else.
    """
    if len(text) > MAX_LENGTH:
        raise _refused(f"a condition has {len(text):,} characters, {MAX_LENGTH:,} are read", "")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        translation = _Translation(text, schema)
        expression = translation.condition(tree)
    except SyntaxError as error:
        raise _refused(f"cannot read the condition: {error.msg}", text) from error
    except (RecursionError, MemoryError, ValueError, OverflowError) as error:
        raise _refused("the condition is nested too deeply or is no text", text[:200]) from error
    return expression, translation.columns


def _refused(what: str, where: str) -> DataError:
    return DataError(what, where=where, cure=_CURE, exit_code=ExitCode.WRONG_USE)


class _Translation:
    """One condition on its way from Python's tree to an expression; collects its columns."""

    def __init__(self, text: str, schema: pa.Schema) -> None:
        self.text = text
        self.schema = schema
        self.columns: set[str] = set()

    def condition(self, node: ast.expr) -> pc.Expression:
        """A node that is true or false."""
        if isinstance(node, ast.BoolOp):
            parts = [self.condition(value) for value in node.values]
            whole = parts[0]
            for part in parts[1:]:
                whole = whole & part if isinstance(node.op, ast.And) else whole | part
            return whole
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return ~self.condition(node.operand)
        if isinstance(node, ast.Compare):
            return self._comparison(node)
        if isinstance(node, ast.Call) and _name(node) in _TEXT_TESTS:
            return self._text_test(node)
        if isinstance(node, ast.Name) and node.id in self.schema.names:
            if pa.types.is_boolean(self.schema.field(node.id).type):
                return self._column(node)
            raise self._unknown(node, "a column alone is no condition; compare it")
        raise self._unknown(node, "this is no condition")

    def _comparison(self, node: ast.Compare) -> pc.Expression:
        whole: pc.Expression | None = None
        left = node.left
        for operator, right in zip(node.ops, node.comparators, strict=True):
            part = self._compared(left, operator, right)
            whole = part if whole is None else whole & part
            left = right
        return whole

    def _compared(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> pc.Expression:
        if isinstance(operator, ast.In | ast.NotIn):
            found = self._member(left, right)
            return ~found if isinstance(operator, ast.NotIn) else found
        if isinstance(operator, ast.Is | ast.IsNot):
            if not (isinstance(right, ast.Constant) and right.value is None):
                raise self._unknown(right, "`is` takes None only; use == for values")
            column = self.value(left)
            return column.is_valid() if isinstance(operator, ast.IsNot) else column.is_null()
        return _COMPARE[type(operator)](self.value(left), self.value(right))

    def _member(self, left: ast.expr, right: ast.expr) -> pc.Expression:
        if not isinstance(right, ast.List | ast.Tuple | ast.Set):
            raise self._unknown(right, "`in` needs a list in brackets")
        values = [self._constant(item) for item in right.elts]
        kind = None
        if isinstance(left, ast.Name) and left.id in self.schema.names:
            kind = self.schema.field(left.id).type
        try:
            return self.value(left).isin(pa.array(values, kind))
        except (pa.ArrowException, TypeError) as error:
            raise self._unknown(right, f"the list does not fit a column of {kind}") from error

    def _text_test(self, node: ast.Call) -> pc.Expression:
        if len(node.args) != 2 or node.keywords:
            raise self._unknown(node, "a text test takes a column and a text")
        text = self._constant(node.args[1])
        if not isinstance(text, str):
            raise self._unknown(node.args[1], "a text test needs a quoted text")
        return _TEXT_TESTS[_name(node)](self.value(node.args[0]), text)

    def value(self, node: ast.expr) -> pc.Expression:
        """A node that is a number or a text."""
        if isinstance(node, ast.Name):
            return self._column(node)
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            return _ARITHMETIC[type(node.op)](self.value(node.left), self.value(node.right))
        if isinstance(node, ast.Call) and _name(node) in ("len", "abs") and len(node.args) == 1:
            inner = self.value(node.args[0])
            return pc.list_value_length(inner) if _name(node) == "len" else pc.abs(inner)
        return pc.scalar(self._constant(node))

    def _constant(self, node: ast.expr) -> bool | int | float | str:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            number = self._constant(node.operand)
            if isinstance(number, int | float) and not isinstance(number, bool):
                return -number
        if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | str):
            return node.value
        raise self._unknown(node, "expected a column, a number or a quoted text")

    def _column(self, node: ast.Name) -> pc.Expression:
        if node.id not in self.schema.names:
            near = difflib.get_close_matches(node.id, self.schema.names, n=1)
            hint = (
                f"did you mean {near[0]}?" if near else f"columns: {', '.join(self.schema.names)}"
            )
            raise self._unknown(node, f"there is no column {node.id!r}; {hint}")
        self.columns.add(node.id)
        return pc.field(node.id)

    def _unknown(self, node: ast.expr, why: str) -> DataError:
        part = ast.get_source_segment(self.text.strip(), node) or ""
        return _refused(f"cannot use this condition: {why}", f"{part!r} in {self.text!r}")


def _name(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""
