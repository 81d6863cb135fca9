"""Conditions on manifest columns: the text of a pandas query, checked before pandas sees it.

A query can call any method of any object that it can reach. So the text is parsed by Python's own
parser first, and everything but columns, constants, operators and a short list of methods is
refused by name. What pandas evaluates is the text written anew from the checked tree.
"""

from __future__ import annotations

import ast
import difflib
import io
import re
import tokenize
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trajectory_builder.errors import DataError, ExitCode, shorten

if TYPE_CHECKING:
    import pandas as pd

MAX_LENGTH = 10_000
"""Characters of a condition; far beyond what a person writes, far below what hurts a parser."""
VALUES_LISTED = 12

_METHODS = ("isin", "between", "isna", "notna", "abs")
_TEXT_METHODS = ("contains", "startswith", "endswith", "match", "len")
_OPERATORS = (ast.And, ast.Or, ast.Not, ast.Invert, ast.USub, ast.Add, ast.Sub, ast.Mult, ast.Div)
_COMPARISONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn)
_EXAMPLE = "write for instance: n_frames in [9, 11] and clip_id.str.startswith('GOPR03')"
_TEXT = r"""('[^']*'|"[^"]*")"""
# What people write from SQL and other tools -> the same as a pandas query.
_OTHER_SPELLINGS: tuple[tuple[str, str], ...] = (
    (r"(?i)\b(\w+)\s+like\s+(['\"])%([^%'\"]*)%\2", r"\1.str.contains(\2\3\2)"),
    (r"(?i)\b(\w+)\s+like\s+(['\"])([^%'\"]*)%\2", r"\1.str.startswith(\2\3\2)"),
    (r"(?i)\b(\w+)\s+like\s+(['\"])%([^%'\"]*)\2", r"\1.str.endswith(\2\3\2)"),
    (rf"(?i)\b(\w+)\s+like\s+{_TEXT}", r"\1 == \2"),
    (r"(?i)\b(\w+)\s+between\s+(\S+)\s+and\s+([^\s)]+)", r"\1.between(\2, \3)"),
    (r"(?i)\b(\w+)\s+is\s+not\s+(?:null|none)\b", r"\1.notna()"),
    (r"(?i)\b(\w+)\s+is\s+(?:null|none)\b", r"\1.isna()"),
    (rf"\bstarts_?with\(\s*(\w+)\s*,\s*{_TEXT}\s*\)", r"\1.str.startswith(\2)"),
    (rf"\bends_?with\(\s*(\w+)\s*,\s*{_TEXT}\s*\)", r"\1.str.endswith(\2)"),
    (rf"\b(?:contains|matches)\(\s*(\w+)\s*,\s*{_TEXT}\s*\)", r"\1.str.contains(\2)"),
    (rf"\b(?!str\b)(\w+)\.(startswith|endswith|contains|match)\(\s*{_TEXT}\s*\)", r"\1.str.\2(\3)"),
)
_OTHER_WORDS: tuple[tuple[str, str], ...] = (
    (r"\bAND\b|&&", "and"),
    (r"\bOR\b|\|\|", "or"),
    (r"\bNOT\b|!(?!=)", "not "),
    (r"\bIN\b", "in"),
    (r"<>", "!="),
    (r"(?<![<>=!])=(?!=)", "=="),
)


@dataclass(frozen=True)
class Condition:
    """A checked condition.

    Attributes:
        text: as the user wrote it.
        query: as pandas evaluates it.
        columns: the columns that it reads.
        equalities: (column, constant) of each `==`, `in` and `isin`.
    """

    text: str
    query: str
    columns: frozenset[str]
    equalities: tuple[tuple[str, object], ...]

    def is_met(self, frame: pd.DataFrame) -> npt.NDArray[np.bool_]:
        """(R,) whether each row of `frame` meets the condition; False where it is null.

        Raises:
            DataError: it does not fit the columns' types, or is neither true nor false.
        """
        try:
            result: Any = frame.eval(self.query, engine="python", local_dict={}, global_dict={})
        except (
            pa.ArrowException, TypeError, ValueError, KeyError, AttributeError, RecursionError,
            NotImplementedError, OverflowError, MemoryError,
        ) as error:  # fmt: skip
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise _refused(
                f"cannot evaluate the condition: {reason}",
                self.text,
                cure="compare numbers with numbers and text with quoted text",
            ) from error
        if "bool" not in str(getattr(result, "dtype", "")):
            raise _refused("this is no condition: it is neither true nor false", self.text)
        return np.asarray(result.fillna(False).to_numpy(np.bool_))

    def absent_values(self, frame: pd.DataFrame) -> str:
        """Columns of the condition without a value in `frame`, and values that no row has."""
        notes = [f"{c} is null in all rows" for c in sorted(self.columns) if frame[c].isna().all()]
        for column, value in dict.fromkeys(self.equalities):
            values = frame[column].dropna().unique().tolist()
            if value in values:
                continue
            listed = values if len(values) <= VALUES_LISTED else None
            if listed is None and isinstance(value, str):
                listed = difflib.get_close_matches(value, values, VALUES_LISTED, 0.4)
            there = ", ".join(map(str, listed or values[:VALUES_LISTED]))
            more = len(values) - len(listed or values[:VALUES_LISTED])
            there += f" and {more:,} more" if more > 0 else ""
            notes.append(f"no row has {column} == {value!r}; it has {there or 'no value'}")
        return "; ".join(notes)


def parse(text: str, schema: pa.Schema) -> Condition:
    """Check a condition.

    Allowed are columns, numbers, quoted text, True, False; `and`, `or`, `not`, `&`, `|`, `~`;
    comparisons (chained too), `in` and `not in` a list, `+ - * /`, `abs(column)`, `len(column)`;
    `column.isin([...])`, `.between(low, high)`, `.isna()`, `.notna()`, `.abs()`,
    `.str.contains(text)`, `.str.startswith`, `.str.endswith`, `.str.match`, `.str.len()`,
    `.list.len()`.

    Raises:
        DataError: it does not parse, names an unknown column, or uses anything else; the cure
            shows the condition as a pandas query where it was written as SQL.
    """
    try:
        return _parse(text, schema)
    except DataError as error:
        if rewritten := _as_query(text, schema):
            error.cure = f"write: {rewritten}"
        raise


def _parse(text: str, schema: pa.Schema) -> Condition:
    if len(text) > MAX_LENGTH:
        raise _refused(f"the condition has {len(text):,} characters, {MAX_LENGTH:,} are read", "")
    try:
        tree = ast.parse(_with_words(text.strip()), mode="eval")
        checker = _Checker(text, schema)
        query = ast.unparse(checker.visit(tree.body))
    except (SyntaxError, tokenize.TokenError) as error:
        raise _refused(f"cannot read the condition: {error.args[0]}", text) from error
    except (RecursionError, MemoryError, ValueError, OverflowError) as error:
        raise _refused("the condition is nested too deeply or is no text", text[:200]) from error
    return Condition(text, query, frozenset(checker.columns), tuple(checker.equalities))


def _refused(what: str, where: str, cure: str = _EXAMPLE) -> DataError:
    return DataError(what, where=where, cure=cure, exit_code=ExitCode.WRONG_USE)


def _with_words(text: str) -> str:
    """`&` and `|` as `and` and `or`, which is how pandas reads them: below the comparisons."""
    text = text.replace("\n", " ")
    for token in reversed(list(tokenize.generate_tokens(io.StringIO(text).readline))):
        if token.type == tokenize.OP and token.string in ("&", "|"):
            word = " and " if token.string == "&" else " or "
            text = text[: token.start[1]] + word + text[token.end[1] :]
    return text


def _as_query(text: str, schema: pa.Schema) -> str:
    """A condition in SQL's spelling as a pandas query; "" where that makes nothing valid."""
    changed = text
    for pattern, replacement in _OTHER_SPELLINGS:
        changed = re.sub(pattern, replacement, changed)
    parts = re.split(_TEXT, changed)  # every other part is quoted text
    for pattern, replacement in _OTHER_WORDS:
        parts[::2] = [re.sub(pattern, replacement, part) for part in parts[::2]]
    changed = re.sub(r"\bnot\s+", "not ", "".join(parts))
    try:
        return changed if changed != text and _parse(changed, schema) else ""
    except DataError:
        return ""


class _Checker(ast.NodeTransformer):
    """Refuses every node that is not known to be harmless; collects columns and equalities."""

    def __init__(self, text: str, schema: pa.Schema) -> None:
        self.text = text
        self.schema = schema
        self.columns: set[str] = set()
        self.equalities: list[tuple[str, object]] = []

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Refuse a node that has no method of its own here."""
        raise self._unknown(node, f"{type(node).__name__} is not allowed")

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        """`and`, `or`."""
        return ast.BoolOp(node.op, [self.visit(value) for value in node.values])

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        """`not`, `~`, `-`."""
        if not isinstance(node.op, _OPERATORS):
            raise self._unknown(node, "this operator is not allowed")
        return ast.UnaryOp(node.op, self.visit(node.operand))

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        """`+ - * /` of numbers."""
        if not isinstance(node.op, _OPERATORS):
            raise self._unknown(node, "this operator is not allowed")
        for side in (node.left, node.right):
            if isinstance(side, ast.Constant) and isinstance(side.value, str):
                raise self._unknown(node, "text cannot be added or multiplied")
        return ast.BinOp(self.visit(node.left), node.op, self.visit(node.right))

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        """Comparisons, also chained; `in` and `not in` a list."""
        left = node.left
        for operator, right in zip(node.ops, node.comparators, strict=True):
            if isinstance(operator, ast.Is | ast.IsNot):
                raise self._unknown(node, "`is` compares objects; use .isna() or .notna()")
            if not isinstance(operator, _COMPARISONS):
                raise self._unknown(node, "this comparison is not allowed")
            is_list = isinstance(right, ast.List | ast.Tuple)
            if isinstance(operator, ast.In | ast.NotIn) != is_list:
                raise self._unknown(right, "`in` needs a list in brackets, other comparisons none")
            if isinstance(operator, ast.Eq | ast.In):
                self._note_equalities(left, right)
            left = right
        parts = [self.visit(part) for part in (node.left, *node.comparators)]
        return ast.Compare(parts[0], node.ops, parts[1:])

    def visit_List(self, node: ast.List) -> ast.expr:
        """A list of constants."""
        return ast.List([self._constant(item) for item in node.elts], ast.Load())

    def visit_Tuple(self, node: ast.Tuple) -> ast.expr:
        """The same in round brackets."""
        return ast.List([self._constant(item) for item in node.elts], ast.Load())

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        """A number, a text, True or False."""
        if isinstance(node.value, bool | int | float | str):
            return node
        raise self._unknown(node, "None is not a value here; use .isna() or .notna()")

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """A column."""
        if node.id not in self.schema.names:
            near = difflib.get_close_matches(node.id, self.schema.names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"for text write '{node.id}' in quotes"
            columns = f"columns: {shorten(self.schema.names, at_most=40)}"
            raise _refused(f"there is no column {node.id!r}; {hint}", columns)
        self.columns.add(node.id)
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        """A method from the lists, or `abs` and `len` of one column."""
        function = node.func
        if isinstance(function, ast.Name) and function.id in ("abs", "len") and len(node.args) == 1:
            return self._length_or_size(function.id, node.args[0])
        if not isinstance(function, ast.Attribute):
            raise self._unknown(node, "this function is not allowed")
        owner, name = function.value, function.attr
        if isinstance(owner, ast.Attribute) and (owner.attr, name) == ("list", "len"):
            of: ast.expr = ast.Attribute(self.visit(owner.value), "list", ast.Load())
        elif isinstance(owner, ast.Attribute) and owner.attr == "str" and name in _TEXT_METHODS:
            of = ast.Attribute(self.visit(owner.value), "str", ast.Load())
        elif name in _METHODS:
            of = self.visit(owner)
        else:
            known = [*_METHODS, *(f"str.{one}" for one in _TEXT_METHODS), "list.len"]
            raise self._unknown(node, f"only these methods are allowed: {', '.join(known)}")
        if name == "isin" and node.args:
            self._note_equalities(owner, node.args[0])
        arguments = [
            self.visit(one) if isinstance(one, ast.List | ast.Tuple) else self._constant(one)
            for one in node.args
        ]
        keywords = [ast.keyword(one.arg, self._constant(one.value)) for one in node.keywords]
        if any(one.arg is None for one in keywords):
            raise self._unknown(node, "** is not allowed")
        return ast.Call(ast.Attribute(of, name, ast.Load()), arguments, keywords)

    def _length_or_size(self, name: str, argument: ast.expr) -> ast.expr:
        of: ast.expr = self.visit(argument)
        if name == "len":
            kind = self.schema.field(of.id).type if isinstance(of, ast.Name) else None
            accessor = "list" if kind is not None and pa.types.is_list(kind) else "str"
            of, name = ast.Attribute(of, accessor, ast.Load()), "len"
        return ast.Call(ast.Attribute(of, name, ast.Load()), [], [])

    def _constant(self, node: ast.expr) -> ast.expr:
        value = node.operand if isinstance(node, ast.UnaryOp) else node
        negative = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
        if (negative or value is node) and isinstance(value, ast.Constant):
            self.visit_Constant(value)
            return node
        raise self._unknown(node, "expected a number or a quoted text")

    def _note_equalities(self, left: ast.expr, right: ast.expr) -> None:
        if isinstance(right, ast.Name):
            left, right = right, left
        items = right.elts if isinstance(right, ast.List | ast.Tuple) else [right]
        if isinstance(left, ast.Name):
            constants = [item.value for item in items if isinstance(item, ast.Constant)]
            self.equalities += [(left.id, value) for value in constants]

    def _unknown(self, node: ast.AST, why: str) -> DataError:
        part = ast.unparse(node)
        return _refused(f"cannot use this condition: {why}", f"{shorten([part])!r} in {self.text}")
