"""Write down what every pass makes of a graph, to read where a conversion goes another way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from torch import fx

from sepify.errors import FileError
from sepify.graph.modules import called_module
from sepify.graph.operators import operator_name
from sepify.passes.base import Result
from sepify.storage import require_writable, write_text


class Dump:
    """A folder of numbered files: `01-input.txt`, then one for each pass."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written = 0

    def write(self, name: str, graph_module: fx.GraphModule, result: Result | None = None) -> None:
        """Write the graph, and what the pass of this `name` says of its work."""
        self.written += 1
        lines = [f"# {name}"]
        if result is not None:
            lines += ["# changed" if result.changed else "# nothing changed"]
            lines += [f"# left alone: {site}: {why}" for site, why in result.left_alone.items()]
        text = "\n".join([*lines, "", readable(graph_module)])
        write_text(self.folder / f"{self.written:02d}-{name}.txt", text)


_CURRENT: ContextVar[Dump | None] = ContextVar("dump", default=None)


def current_dump() -> Dump | None:
    """Where graphs are dumped to now, if anywhere."""
    return _CURRENT.get()


@contextmanager
def dumping(folder: Path | str | None) -> Iterator[None]:
    """Write the graph before the first and after every pass that runs within the block.

    Args:
        folder: new or empty; None writes nothing.

    Raises:
        FileError: the folder holds something, or cannot be written to.
    """
    if folder is None:
        yield
        return
    folder = Path(folder)
    require_writable(folder)
    if any(folder.iterdir()):
        raise FileError(f"{folder} is not empty: give a new folder to dump graphs to")
    token = _CURRENT.set(Dump(folder))
    try:
        yield
    finally:
        _CURRENT.reset(token)


def readable(graph_module: fx.GraphModule) -> str:
    """The graph, a line a node: its name, what it calls on what, and the module called."""
    rows = []
    for node in graph_module.graph.nodes:
        module = called_module(graph_module, node)
        target = node.target if isinstance(node.target, str) else operator_name(node.target)
        given = [str(value) for value in node.args]
        given += [f"{name}={value}" for name, value in node.kwargs.items()]
        call = f"{node.op} {target}({', '.join(given)})"
        rows.append((node.name, call, "" if module is None else str(module).splitlines()[0]))
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    lines = (
        f"{name:<{widths[0]}} = {call:<{min(widths[1], 60)}}  {module}".rstrip()
        for name, call, module in rows
    )
    return "\n".join(lines) + "\n"
