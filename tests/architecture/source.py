"""Reading our own source: modules, their imports and their sizes, as values that the tests judge."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("kato_node", "kato_gateway", "container_manager")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One source file: its dotted name (a package without `.__init__`), its syntax tree and its length in lines."""

    name: str
    path: Path
    tree: ast.Module
    lines: int

    @property
    def is_package(self) -> bool:
        """Whether this is a package's `__init__`."""
        return self.path.name == "__init__.py"


@cache
def modules() -> tuple[Module, ...]:
    """Return every module of the three packages, sorted by name."""
    paths = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return tuple(sorted((_read(path) for path in paths), key=lambda module: module.name))


def _read(path: Path) -> Module:
    text = path.read_text()
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return Module(name=name, path=path, tree=ast.parse(text), lines=text.count("\n"))


def imports(module: Module) -> frozenset[str]:
    """Return the dotted names that the module imports, at any depth of its code.

    `from a import b` counts as `a.b` when that is one of our modules, else as `a`: so `from kato_node import service`
    cannot hide behind its package.
    """
    return frozenset(name for node in ast.walk(module.tree) for name in _imported(module, node))


def _imported(module: Module, node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = _absolute(module, node)
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            yield inner if inner in _names() else base


def _absolute(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    keep = len(parts) - node.level + module.is_package
    return ".".join([*parts[:keep], *([node.module] if node.module else [])])


@cache
def _names() -> frozenset[str]:
    return frozenset(module.name for module in modules())


def functions(module: Module) -> Iterator[tuple[str, Function]]:
    """Yield each function and method with its qualified name."""
    yield from _functions(module.tree, module.name)


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef):
            name = f"{prefix}.{child.name}"
            if not isinstance(child, ast.ClassDef):
                yield name, child
            yield from _functions(child, name)
        else:
            yield from _functions(child, prefix)


def classes(module: Module) -> Iterator[tuple[str, ast.ClassDef]]:
    """Yield each class with its qualified name."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef):
            yield f"{module.name}.{node.name}", node


def length(function: Function) -> int:
    """Return the lines from `def` to the end, the docstring left out: budgets are for what must be followed."""
    body = function.body
    documented = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
    docstring = (body[0].end_lineno or 0) - body[0].lineno + 1 if documented else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring
