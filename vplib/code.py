"""What a computation depends on: digests of the definitions of `vplib` that it reaches.

Syntax trees are compared, without comments, docstrings and layout, and definition by definition: a
new function in a module, or another wording, changes no digest of what does not use it. Values of
the configuration are recorded elsewhere.
"""

import ast
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
# How choices are checked and files named, written and shown changes no number; what was chosen is
# in config.yaml.
NEUTRAL = {
    f"vplib.{name}"
    for name in ("chains", "code", "config", "files", "paths", "progress", "results", "rules")
}
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class _Module(NamedTuple):
    """Top-level definitions by name, what imported names mean, and what runs on import."""

    definitions: dict[str, ast.AST]
    imports: dict[str, tuple[str, str | None]]  # name -> module, and the name in it
    loose: list[ast.AST]


def of_notebook(path: Path) -> dict[str, str]:
    """Digests, by module, of what a notebook's code reaches; its own code, but for the cell tagged
    `setup`, has its own entry. Files are read again in every call: they change while a sweep runs.
    """
    _module.cache_clear()
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    computing = (
        cell
        for cell in cells
        if cell["cell_type"] == "code" and "setup" not in cell.get("metadata", {}).get("tags", [])
    )
    source = "\n".join("".join(cell["source"]) for cell in computing)
    return {path.stem: _digest([ast.parse(source)])} | _reached(_parsed(source), path.stem)


def of(*things: Callable) -> str:
    """One digest of all that these functions and classes reach; others count by name."""
    found, names = defaultdict(dict), []
    for thing in things:
        while isinstance(thing, partial):
            thing = thing.func
        names.append(f"{thing.__module__}.{thing.__qualname__}")
        _follow(thing.__module__, thing.__qualname__.split(".")[0], found)
    return hashlib.sha256(json.dumps([sorted(names), _summary(found)]).encode()).hexdigest()


def _reached(module: _Module, name: str) -> dict[str, str]:
    found = defaultdict(dict)
    for node in [*module.loose, *module.definitions.values()]:
        for root, attribute in _references(node):
            _resolve(module, name, root, attribute, found)
    return _summary(found)


def _summary(found: dict[str, dict[str, ast.AST]]) -> dict[str, str]:
    return {
        name: _digest(node for _, node in sorted(nodes.items()))
        for name, nodes in sorted(found.items())
    }


def _follow(name: str, definition: str | None, found: dict[str, dict[str, ast.AST]]) -> None:
    """Adds a definition of a module, or with None all of them, and what they reach."""
    module = _module(name)
    if module is None:
        return
    if not found[name]:
        for index, node in enumerate(module.loose):
            _add(module, name, f"import {index:03d}", node, found)
    for key in module.definitions if definition is None else [definition]:
        if key in module.definitions:
            _add(module, name, key, module.definitions[key], found)
        elif key in module.imports:
            _follow(*module.imports[key], found)


def _add(module: _Module, name: str, key: str, node: ast.AST, found: dict) -> None:
    if key in found[name]:
        return
    found[name][key] = node
    for root, attribute in _references(node):
        _resolve(module, name, root, attribute, found)


def _resolve(module: _Module, name: str, root: str, attribute: str | None, found: dict) -> None:
    if root in module.definitions:
        _follow(name, root, found)
    elif root in module.imports:
        source, member = module.imports[root]
        inner = f"{source}.{member}" if member else source
        if _path(inner) is None:  # a definition of `source`
            _follow(source, member, found)
        else:  # a module: one of its definitions or, used as a whole, all
            _follow(inner, attribute, found)


def _references(node: ast.AST) -> set[tuple[str, str | None]]:
    """Names in a tree, each with the attribute that is asked of it, if any."""
    owned, found = set(), set()
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
            owned.add(part.value)
            found.add((part.value.id, part.attr))
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and part not in owned:
            found.add((part.id, None))
    return found


@cache
def _module(name: str) -> _Module | None:
    path = _path(name)
    return None if path is None else _parsed(path.read_text(encoding="utf-8"))


def _path(name: str) -> Path | None:
    """The file of a module of ours, or None."""
    package, *parts = name.split(".")
    if package != "vplib" or name in NEUTRAL:
        return None
    base = HERE.joinpath(*parts)
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


def _parsed(source: str) -> _Module:
    tree = ast.parse(source)
    definitions, imports, loose = {}, {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("vplib"):
            imports |= {
                alias.asname or alias.name: (node.module, alias.name) for alias in node.names
            }
    for node in tree.body:
        names = [node.name] if isinstance(node, _DEFINITIONS) else []
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            flat = [t for target in targets for t in getattr(target, "elts", [target])]
            names = [target.id for target in flat if isinstance(target, ast.Name)]
        if names:
            definitions |= dict.fromkeys(names, node)
        elif not isinstance(node, ast.Import | ast.ImportFrom) and not _is_text(node):
            if not ast.unparse(node).startswith("if __name__ == "):
                loose.append(node)
    return _Module(definitions, imports, loose)


def _is_text(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _digest(nodes: Iterable[ast.AST]) -> str:
    return hashlib.sha256("\n".join(map(_text, nodes)).encode()).hexdigest()[:16]


def _text(node: object) -> str:
    """A tree as text, the same under every Python; `ast.dump` names fields that older ones lack."""
    if isinstance(node, list):
        return f"[{','.join(_text(item) for item in node if not _is_text(item))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(key, value) for key, value in ast.iter_fields(node) if value not in (None, [])]
    return f"{type(node).__name__}({','.join(f'{k}={_text(v)}' for k, v in fields)})"
