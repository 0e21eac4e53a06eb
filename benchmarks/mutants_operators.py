"""Small faults planted in Python source, each at one place: for `benchmarks.mutants`.

Comparisons, arithmetic, conditions, constants, arguments, returned values and statements are
changed. What no test is to hold is left alone: texts, annotations, assertions, what is logged.
"""

import ast
import copy
import dataclasses
from collections import Counter

COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
SWAPPED_NAMES = {"FIRST": "SECOND", "SECOND": "FIRST"}
# Whose two arguments may change places.
SYMMETRIC = {"min", "max", "minimum", "maximum", "isclose", "array_equal", "add", "multiply"}
LOGGING = {"log", "print", "warning", "info", "add_note", "named_scope"}


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A fault at a place of a file.

    Attributes:
      file: path in the checkout.
      line: from 1.
      function: first line of the innermost function that it is in, 0 outside of all.
      kind: of fault, in a word or two.
      start: first byte that is replaced.
      end: the byte after the last.
      before: the source there, with its white space made one.
      after: what stands there instead.
      where: the whole first line, and the place in it.
    """

    file: str
    line: int
    function: int
    kind: str
    start: int
    end: int
    before: str
    after: str
    where: str

    def apply(self, source: str) -> str:
        """The file's source with the fault in it."""
        content = source.encode()
        return (content[: self.start] + self.after.encode() + content[self.end :]).decode()

    @property
    def name(self) -> str:
        """Tells it from all others of the checkout, whatever line it is moved to."""
        return f"{self.file}: {self.where}: {self.before} -> {self.after}"

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.kind}: {self.before} -> {self.after}"


def mutants_of(file: str, source: str) -> list[Mutant]:
    """All faults that can be planted in a file, in the order of their places."""
    finder = _Finder(file, source)
    finder.visit(ast.parse(source))
    seen, told = Counter(), []
    for mutant in sorted(finder.found, key=lambda m: (m.start, m.end, m.after)):
        seen[mutant.name] += 1  # lines may be alike
        again = f" ({seen[mutant.name]})" if seen[mutant.name] > 1 else ""
        told.append(dataclasses.replace(mutant, where=mutant.where + again))
    return told


def instrumented(file: str, source: str) -> str:
    """The source of a file whose functions say that they are called.

    They call `builtins.reached`, where there is one, with the file and the function's first line.
    """
    module = ast.parse(source)
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef):
            say = f"getattr(__import__('builtins'), 'reached', id)('{file}:{first_line(node)}')"
            node.body.insert(ast.get_docstring(node) is not None, ast.parse(say).body[0])
    return ast.unparse(module)


def first_line(node: ast.FunctionDef) -> int:
    """Of a function, with its decorators."""
    return node.decorator_list[0].lineno if node.decorator_list else node.lineno


class _Finder(ast.NodeVisitor):
    """Walks over a module, leaving out what is not to be changed."""

    def __init__(self, file: str, source: str):
        self.found: list[Mutant] = []
        self._file, self._content = file, source.encode()
        lengths = [len(line) for line in self._content.splitlines(keepends=True)]
        self._starts = [sum(lengths[:i]) for i in range(len(lengths))]
        self._functions = [0]

    def _add(self, node: ast.AST, kind: str, after: str) -> None:
        start = self._starts[node.lineno - 1] + node.col_offset
        end = self._starts[node.end_lineno - 1] + node.end_col_offset
        before = " ".join(self._content[start:end].decode().split())
        line = self._content.splitlines()[node.lineno - 1].decode()
        indented = len(line) - len(line.lstrip())
        where = f"{line.strip()}, {node.col_offset - indented}"
        place = self._file, node.lineno, self._functions[-1]
        self.found.append(Mutant(*place, kind, start, end, before, after, where))

    def _replace(self, node: ast.expr, kind: str, **fields) -> None:
        changed = copy.copy(node)
        for name, value in fields.items():
            setattr(changed, name, value)
        self._add(node, kind, f"({ast.unparse(changed)})")

    # What is walked into, and what is not.

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name in ("__repr__", "__str__"):
            return
        defaults = [*node.args.defaults, *(x for x in node.args.kw_defaults if x is not None)]
        for default in defaults:
            self.visit(default)
        self._functions.append(first_line(node))
        self._body(node.body)
        self._functions.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._body(node.body)

    def visit_Module(self, node: ast.Module) -> None:
        self._body(node.body)

    def _body(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            self.visit(statement)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass  # texts, in which Python 3.11 does not know the places of values either

    def visit_Raise(self, node: ast.Raise) -> None:
        self._add(node, "statement left out", "pass")

    def visit_Assert(self, node: ast.Assert) -> None:
        pass

    # What is changed.

    def visit_Compare(self, node: ast.Compare) -> None:
        for i, op in enumerate(node.ops):
            other = COMPARISONS[type(op)]()
            self._replace(node, "comparison", ops=[*node.ops[:i], other, *node.ops[i + 1 :]])
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        is_type = isinstance(node.op, ast.BitOr) and self._functions[-1] == 0
        of_text = _is_text(node.left) or _is_text(node.right)
        if type(node.op) in ARITHMETIC and not is_type and not of_text:
            self._replace(node, "arithmetic", op=ARITHMETIC[type(node.op)]())
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._add(node, "statement left out", "pass")
        self.visit(node.value)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        self._replace(node, "and, or", op=other)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        self._add(node, "operator left out", f"({ast.unparse(node.operand)})")
        self.generic_visit(node)

    def _negate(self, test: ast.expr) -> None:
        if not isinstance(test, ast.Compare | ast.UnaryOp):  # which are turned by themselves
            self._add(test, "condition negated", f"(not ({ast.unparse(test)}))")

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) == "TYPE_CHECKING":
            return
        self._negate(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self._negate(test)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._add(node, "constant", str(not node.value))
        elif isinstance(node.value, int | float):
            self._add(node, "constant", f"({node.value + 1!r})")
            self._add(node, "constant", f"({node.value - 1!r})")

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in SWAPPED_NAMES and isinstance(node.ctx, ast.Load):
            self._add(node, "name", SWAPPED_NAMES[node.id])

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and not _is_none(node.value):
            self._add(node.value, "value returned", "None")
            self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        if _called(node) in LOGGING:
            return
        swappable = (
            _called(node) not in SYMMETRIC
            and len(node.args) == 2
            and not any(isinstance(x, ast.Starred) for x in node.args)
        )
        if swappable and ast.unparse(node.args[0]) != ast.unparse(node.args[1]):
            self._replace(node, "arguments swapped", args=node.args[::-1])
        self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg != "strict":  # of `zip`: an assertion
            self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant):  # a docstring
            return
        if isinstance(node.value, ast.Call) and _called(node.value) not in LOGGING:
            self._add(node, "statement left out", "pass")
        self.visit(node.value)


def _called(node: ast.Call) -> str:
    return ast.unparse(node.func).rpartition(".")[2]


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None
