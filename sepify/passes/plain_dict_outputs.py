"""Return plain dicts where a network returns a dataclass that is a dict too."""

from __future__ import annotations

import copy

from torch import fx


def with_dict_outputs(graph_module: fx.GraphModule) -> fx.GraphModule:
    """A copy that returns plain dicts where `graph_module` returns dataclasses that are dicts too,
    which torch.jit.script cannot construct; without fields that are None."""
    plain = copy.deepcopy(graph_module)
    for node in plain.graph.nodes:
        if isinstance(node.target, type) and issubclass(node.target, dict):
            fields = {name: value for name, value in node.kwargs.items() if value is not None}
            for user in list(node.users):
                others = {given: given for given in user.all_input_nodes}
                user.args = fx.map_arg(user.args, {**others, node: fields}.__getitem__)
    plain.graph.eliminate_dead_code()
    plain.recompile()
    return plain
