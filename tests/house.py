"""Measure the structure of the package: sizes, imports, cycles, parameters. Run by `make house`.

Everything is read from the source with `ast`, so that any commit can be measured:

    python tests/house.py             the working tree
    python tests/house.py 467f341     that commit beside the working tree
"""

from __future__ import annotations

import argparse
import ast
import io
import subprocess
import tarfile
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "sepify"
LONG_FILE = 300
LONG_FUNCTION = 60
MANY_PARAMETERS = 10

Function = ast.FunctionDef | ast.AsyncFunctionDef

# the calls that open a file: by bare name, by the name of a method, by module and name
OPENS = {"open"}
OPEN_METHODS = {"open", "read_text", "read_bytes", "write_text", "write_bytes"}
OPEN_FUNCTIONS = {
    f"{module}.{name}"
    for module, names in {
        "torch": "load save",
        "torch.jit": "load save",
        "torch.export": "load save",
        "np": "load save savez savez_compressed loadtxt savetxt memmap",
        "json": "load dump",
        "pickle": "load dump",
        "zipfile": "ZipFile",
        "tarfile": "open TarFile",
        "os": "open fdopen",
        "io": "open",
        "shutil": "copy copy2 copyfile copytree move",
    }.items()
    for name in names.split()
}


@dataclass(frozen=True)
class Module:
    """One file of the package.

    Attributes:
        name: Dotted; `sepify` for the package itself.
        path: From the root of the repository.
        lines: How many the file has.
        body: Its statements.
        functions: All functions and methods, nested ones too.
        imported: Every name that it imports, in full, also within functions and under
            TYPE_CHECKING; with its line.
        opened: The calls that open a file, other than data of the package itself; with their line.
    """

    name: str
    path: Path
    lines: int
    body: tuple[ast.stmt, ...]
    functions: tuple[Function, ...]
    imported: tuple[tuple[str, int], ...]
    opened: tuple[tuple[str, int], ...]

    @property
    def folder(self) -> str:
        """The folder below the package, or the file's own name where it stands at the top."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else parts[0]


House = Mapping[str, Module]


def read_house(root: Path = ROOT) -> House:
    """Read every module of the package below `root`, by dotted name."""
    modules = (_read(path, root) for path in sorted((root / PACKAGE).rglob("*.py")))
    return {module.name: module for module in modules}


def _read(path: Path, root: Path) -> Module:
    text = path.read_text("utf-8")
    parts = path.relative_to(root).with_suffix("").parts
    package = parts[:-1]
    tree = ast.parse(text)
    nodes = list(ast.walk(tree))
    return Module(
        ".".join(parts).removesuffix(".__init__"),
        path.relative_to(root),
        len(text.splitlines()),
        tuple(tree.body),
        tuple(node for node in nodes if isinstance(node, Function)),
        tuple(found for node in nodes for found in _imported(node, package)),
        tuple(found for node in nodes for found in _opened(node)),
    )


def _imported(node: ast.AST, package: Sequence[str]) -> Iterator[tuple[str, int]]:
    if isinstance(node, ast.Import):
        yield from ((alias.name, node.lineno) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = package[: len(package) - node.level + 1] if node.level else ()
        start = ".".join([*base, *([node.module] if node.module else [])])
        yield from ((f"{start}.{alias.name}", node.lineno) for alias in node.names)


def _opened(node: ast.AST) -> Iterator[tuple[str, int]]:
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        method = isinstance(node.func, ast.Attribute) and node.func.attr in OPEN_METHODS
        packaged = "files(" in name  # importlib.resources
        if name in OPENS or name in OPEN_FUNCTIONS or (method and not packaged):
            yield name, node.lineno


def read_house_at(commit: str) -> House:
    """Read the package as it was at a commit of this repository."""
    command = ["git", "-C", str(ROOT), "archive", commit, PACKAGE]
    archive = subprocess.run(command, capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
            packed.extractall(folder)
        return read_house(Path(folder))


def imports(house: House) -> dict[str, set[str]]:
    """Which modules of the package each module imports."""
    graph: dict[str, set[str]] = {}
    for module in house.values():
        found = graph.setdefault(module.name, set())
        for name, _ in module.imported:
            target = name if name in house else name.rpartition(".")[0]
            if name == f"{PACKAGE}.__version__":  # a constant: anybody may say it
                continue
            if target in house and target != module.name:
                found.add(target)
    return graph


def folder_imports(house: House) -> dict[str, Counter[str]]:
    """How often the modules of each folder import modules of each other folder."""
    arrows: dict[str, Counter[str]] = defaultdict(Counter)
    for name, targets in imports(house).items():
        for target in targets:
            source, sink = house[name].folder, house[target].folder
            if source != sink:
                arrows[source][sink] += 1
    return dict(arrows)


def back_arrows(house: House) -> list[tuple[str, str]]:
    """The imports that go against the flow: of two folders that import one another, the fewer."""
    arrows = folder_imports(house)
    back = {
        (source, sink)
        for source, sinks in arrows.items()
        for sink, count in sinks.items()
        if 0 < count <= arrows.get(sink, Counter())[source]
        and (count < arrows[sink][source] or source < sink)
    }
    return sorted(
        (name, target)
        for name, targets in imports(house).items()
        for target in targets
        if (house[name].folder, house[target].folder) in back
    )


def cycles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """The groups of modules that import one another, directly or by way of others.

    Strongly connected components, after Tarjan 1972.
    """
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in sorted(graph[name]):
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            place = stack.index(name)
            group = stack[place:]
            del stack[place:]
            if len(group) > 1:
                groups.append(sorted(group))

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return sorted(groups)


def long_functions(house: House) -> list[tuple[str, int]]:
    """The functions of more than LONG_FUNCTION lines, the longest first."""
    found = [
        (f"{module.path}:{function.name}", _lines(function))
        for module in house.values()
        for function in module.functions
    ]
    return sorted((f for f in found if f[1] > LONG_FUNCTION), key=lambda f: -f[1])


def _lines(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def long_files(house: House) -> list[tuple[str, int]]:
    """The files of more than LONG_FILE lines, the longest first."""
    found = [(str(module.path), module.lines) for module in house.values()]
    return sorted((f for f in found if f[1] > LONG_FILE), key=lambda f: -f[1])


def public_parameters(house: House) -> dict[str, int]:
    """How many parameters each public function has, the most first."""
    found = {}
    for node in (n for stmt in house[PACKAGE].body for n in ast.walk(stmt)):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                function = _definition(house, node.module, alias.name)
                if function is not None:
                    arguments = function.args
                    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
                    found[alias.asname or alias.name] = len(every)
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _definition(
    house: House, module: str, name: str, seen: tuple[tuple[str, str], ...] = ()
) -> Function | None:
    """The function that a name of a module stands for, also where the module only imports it."""
    if module not in house or (module, name) in seen:
        return None
    for node in house[module].body:
        if isinstance(node, Function) and node.name == name:
            return node
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _definition(house, node.module, alias.name, (*seen, (module, name)))
    return None


def figures(house: House) -> dict[str, str]:
    """The structure in a few numbers."""
    groups = cycles(imports(house))
    folders = {source: set(sinks) for source, sinks in folder_imports(house).items()}
    folders |= {m.folder: set() for m in house.values() if m.folder not in folders}
    parameters = public_parameters(house)
    top = [m for m in house.values() if m.name.count(".") == 1 and m.path.name != "__init__.py"]
    return {
        "files": str(len(house)),
        "lines": f"{sum(m.lines for m in house.values()):,}",
        "files at the top level": str(len(top)),
        f"files over {LONG_FILE} lines": str(len(long_files(house))),
        f"functions over {LONG_FUNCTION} lines": str(len(long_functions(house))),
        "imports between folders": str(
            sum(sum(sinks.values()) for sinks in folder_imports(house).values())
        ),
        "folders in cycles": str(sum(map(len, cycles(folders)))),
        "imports that go back": str(len(back_arrows(house))),
        "cycles of modules": str(len(groups)),
        "modules in them": str(sum(map(len, groups))),
        f"public functions of over {MANY_PARAMETERS} parameters": str(
            sum(count > MANY_PARAMETERS for count in parameters.values())
        ),
        "the most parameters": ", ".join(
            f"{name} {count}" for name, count in list(parameters.items())[:3]
        ),
    }


def show(columns: Mapping[str, House]) -> None:
    """Print the figures of each house side by side, and the last one in full."""
    measured = {title: figures(house) for title, house in columns.items()}
    print("| |" + "|".join(f" {title} " for title in measured) + "|")
    print("|---" * (len(measured) + 1) + "|")
    for name in next(iter(measured.values())):
        print(f"| {name} |" + "|".join(f" {m[name]} " for m in measured.values()) + "|")
    house = list(columns.values())[-1]
    lists: dict[str, Sequence[str]] = {
        f"Files over {LONG_FILE} lines": [f"{n} {name}" for name, n in long_files(house)],
        f"Functions over {LONG_FUNCTION} lines": [
            f"{n} {name}" for name, n in long_functions(house)
        ],
        "Cycles of modules": [", ".join(group) for group in cycles(imports(house))],
        "Imports that go back": [f"{name} -> {target}" for name, target in back_arrows(house)],
        "Imports by folder": [
            f"{source} -> " + ", ".join(f"{sink} {n}" for sink, n in sinks.most_common())
            for source, sinks in sorted(folder_imports(house).items())
        ],
        "Parameters of public functions": [
            f"{count} {name}" for name, count in public_parameters(house).items()
        ],
    }
    for title, lines in lists.items():
        print(f"\n{title}:", *(lines or ["none"]), sep="\n  ")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("commits", nargs="*", help="to measure beside the working tree")
    columns = {commit: read_house_at(commit) for commit in parser.parse_args().commits}
    show(columns | {"now": read_house()})
