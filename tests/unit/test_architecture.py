"""How the code is built: no import cycles, few parameters, files that fit a head.

`lint-imports` checks the directions between packages; this looks inside them.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import grimp
import pytest

ROOT: Final = Path(__file__).parents[2]
PARAMETERS_MOST: Final = 5
LINES_MOST: Final = 300

TOO_LONG: Final = {
    "gateway/dialects/anthropic/messages.py": "request, response and stream of one API",
    "gateway/dialects/base.py": "the protocol of dialects together with its value types",
    "gateway/dialects/bounds.py": "bounds of every request shape",
    "gateway/dialects/gemini/generate.py": "request, response and stream of one API",
    "gateway/domain/pricing.py": "price shapes, their packing and their rating in one",
    "gateway/exporter/sinks/sqlite_reader.py": "all queries on the store in one class",
    "gateway/ledger/client/embedded.py": "starting and watching the embedded server",
    "gateway/settings/checks.py": "all checks across sections",
    "gateway/settings/customers.py": "plans and customers with their fields' texts",
    "gateway/settings/prices.py": "all price shapes with their fields' texts",
}
"""Files over 300 lines → why they still are. Empty this table; a file that is short again must go."""


def modules() -> dict[str, Path]:
    """Every module of the product by its dotted name."""
    files = (ROOT / "gateway").rglob("*.py")
    return {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for file in files
    }


def components(imports: dict[str, set[str]]) -> list[set[str]]:
    """Strongly connected components of more than one node (Tarjan 1972, without recursion)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []
    for root in imports:
        if root in index:
            continue
        index[root] = low[root] = len(index)
        stack.append(root)
        path: list[tuple[str, Iterator[str]]] = [(root, iter(imports[root]))]
        while path:
            node, rest = path[-1]
            for target in rest:
                if target not in index:
                    index[target] = low[target] = len(index)
                    stack.append(target)
                    path.append((target, iter(imports[target])))
                    break
                if target in stack:
                    low[node] = min(low[node], index[target])
            else:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[node])
                if low[node] == index[node]:
                    start = stack.index(node)
                    found.append(set(stack[start:]))
                    del stack[start:]
    return [each for each in found if len(each) > 1]


def import_graph() -> dict[str, set[str]]:
    """Module → the modules that it imports anywhere: at the top, in functions, for type checking."""
    graph = grimp.build_graph("gateway", exclude_type_checking_imports=False, cache_dir=None)
    return {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}


def test_components_finds_cycles_and_nothing_else() -> None:
    straight = {"a": {"b", "c"}, "b": {"c"}, "c": set[str]()}
    assert components(straight) == []
    assert components({**straight, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]
    two = components({"a": {"b"}, "b": {"a"}, "c": {"d", "a"}, "d": {"c"}})
    assert sorted(map(sorted, two)) == [["a", "b"], ["c", "d"]]


def test_the_import_graph_has_every_import() -> None:
    graph = import_graph()
    assert graph.keys() == modules().keys()
    assert "gateway.flow.handler" in graph["gateway.app.gate"]
    assert "gateway.settings" in graph["gateway.app.private"], "imported for type checking"


def test_no_files_import_each_other_in_a_circle() -> None:
    assert [sorted(cycle) for cycle in components(import_graph())] == []


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef, *, bound: bool) -> int:
    """How many arguments a caller may give. bound: the first is the object itself"""
    given = function.args
    count = len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs)
    return count - bound


def functions(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, bool]]:
    """Every function, nested ones too; whether its first parameter is bound."""
    methods: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            methods.update(node.body)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names = {each.id for each in node.decorator_list if isinstance(each, ast.Name)}
            yield node, node in methods and "staticmethod" not in names


@pytest.mark.parametrize("package", ["flow", "operations"])
def test_no_function_takes_more_than_five_parameters(package: str) -> None:
    """Beyond that a type is missing."""
    files = sorted((ROOT / "gateway" / package).rglob("*.py"))
    assert files
    crowded = {
        f"{file.relative_to(ROOT)}:{function.lineno} {function.name}": count
        for file in files
        for function, bound in functions(ast.parse(file.read_text()))
        if (count := parameters(function, bound=bound)) > PARAMETERS_MOST
    }
    assert crowded == {}


def test_no_file_is_longer_than_three_hundred_lines() -> None:
    lengths = {
        str(file.relative_to(ROOT)): len(file.read_text().splitlines())
        for file in modules().values()
    }
    long = {name: lines for name, lines in lengths.items() if lines > LINES_MOST}
    assert {name: lines for name, lines in long.items() if name not in TOO_LONG} == {}
    assert sorted(TOO_LONG.keys() - long.keys()) == [], "no longer too long: take them out"
