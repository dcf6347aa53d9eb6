"""The package has the structure that docs/architecture.md says, and the words of a house style."""

from __future__ import annotations

import ast
import re

import pytest
from house import PACKAGE, ROOT, House, cycles, imports, read_house

PAGE = ROOT / "docs" / "architecture.md"
GROUND = "storage"  # the first folder of the ground
ROOTS = (PACKAGE, "__main__")  # they import whatever they like, and nobody imports them


def rows(head: str) -> list[list[str]]:
    """The cells of the page's table that starts with this heading."""
    lines = PAGE.read_text("utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {head} |"))
    table = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table


def name_of(cell: str) -> str:
    return cell.strip("`").removesuffix("/").removesuffix(".py")


def allowed_imports() -> dict[str, set[str]]:
    """Which folders each folder may import, by the page."""
    table = rows("folder")
    folders = [name_of(cells[0]) for cells in table]
    ground = folders[folders.index(GROUND) :]
    allowed = {}
    for place, (folder, cells) in enumerate(zip(folders, table, strict=True)):
        named = set(re.findall(r"`(\w+)`", cells[2]))
        if "all below" in cells[2]:
            named |= set(folders[place + 1 :])
        if "the ground" in cells[2]:
            named |= set(ground)
        assert named <= set(folders[place + 1 :]), f"the row of {folder} names what is above it"
        allowed[folder] = named
    return allowed


@pytest.fixture(scope="module")
def house() -> House:
    return read_house()


def test_the_page_names_every_folder_and_no_other(house: House) -> None:
    assert set(allowed_imports()) == {module.folder for module in house.values()} - set(ROOTS)


def test_folders_import_only_what_the_page_allows(house: House) -> None:
    allowed = allowed_imports()
    wrong = [
        f"{name} imports {target}"
        for name, targets in imports(house).items()
        for target in sorted(targets)
        if (source := house[name].folder) not in ROOTS
        and (sink := house[target].folder) != source
        and sink not in allowed[source]
    ]
    assert wrong == []


def test_no_module_imports_itself_by_way_of_others(house: House) -> None:
    assert cycles(imports(house)) == []


def test_tvm_is_imported_in_compiling_alone(house: House) -> None:
    importing = {
        module.folder
        for module in house.values()
        if any(re.match(r"tvm(_ffi)?\b", name) for name, _ in module.imported)
    }
    assert importing == {"compiling"}


def test_files_are_opened_in_storage_and_formats_and_where_the_page_says(house: House) -> None:
    named = [cells[0].strip("`") for cells in rows("file")]
    opening = {
        module.path.relative_to(PACKAGE).as_posix(): module.opened
        for module in house.values()
        if module.opened and module.folder not in ("storage", "formats")
    }
    covered = {
        path: name
        for path in opening
        for name in named
        if path == name or (name.endswith("/") and path.startswith(name))
    }
    assert {path: calls for path, calls in opening.items() if path not in covered} == {}
    assert set(named) == set(covered.values()), "the page names a file that opens none"


def test_the_files_that_tasks_open_exist() -> None:
    for _, files in rows("task"):
        for name in re.findall(r"`([\w/.]+)`", files):
            assert (ROOT / PACKAGE / name).exists(), name


def test_no_docstring_starts_with_of(house: House) -> None:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    starting = []
    for module in house.values():
        tree = ast.Module(list(module.body), [])
        for node in ast.walk(tree):
            text = ast.get_docstring(node) if isinstance(node, documented) else None
            if text is not None and text.startswith("Of "):
                starting.append(f"{module.path}:{getattr(node, 'lineno', 1)}")
    assert starting == []


@pytest.mark.parametrize(
    ("graph", "found"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"a"}, "c": {"a"}}, [["a", "b"]]),
        (
            {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"e"}, "e": {"d"}},
            [["a", "b", "c"], ["d", "e"]],
        ),
    ],
)
def test_cycles_are_found(graph: dict[str, set[str]], found: list[list[str]]) -> None:
    assert cycles(graph) == found
