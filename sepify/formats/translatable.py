"""An exported graph in the words that torch.onnx translates."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten


def make_translatable(graph: fx.Graph) -> None:
    """Say in other words, in place, what torch.onnx (2.13) fails on.

    That is attention of other than (batch, heads, tokens, channels); attention with a mask, whose
    result it takes for laid out in memory as it is not, so that a view of it fails; and whether all
    of a tensor is true, under its private name.
    """
    for node in graph.find_nodes(op="call_function", target=aten._is_all_true.default):
        node.target = aten.all.default
    attention = aten.scaled_dot_product_attention.default
    names = [argument.name for argument in attention._schema.arguments]
    for node in graph.find_nodes(op="call_function", target=attention):
        given = dict(zip(names, node.args, strict=False)) | node.kwargs
        if any(given.get(other) for other in ("dropout_p", "is_causal", "enable_gqa")):
            continue
        query, key, value = (given[name] for name in names[:3])
        mask, shape = given.get("attn_mask"), query.meta["val"].shape
        if len(shape) == 4 and mask is None:
            continue
        scale = given.get("scale") or shape[-1] ** -0.5
        with graph.inserting_before(node):
            said = _attention(graph, (query, key, value), mask, scale)
        node.replace_all_uses_with(said)
        graph.erase_node(node)


def _attention(graph: fx.Graph, qkv: tuple[Any, ...], mask: Any, scale: float) -> fx.Node:
    """softmax(Q K^T scale + mask) V (Vaswani et al. 2017, eq. 1)."""
    query, key, value = qkv
    call = graph.call_function
    products = call(aten.matmul.default, (query, call(aten.transpose.int, (key, -2, -1))))
    products = call(aten.mul.Tensor, (products, scale))
    if mask is not None and mask.meta["val"].dtype == torch.bool:
        products = call(aten.where.ScalarOther, (mask, products, -math.inf))
    elif mask is not None:
        products = call(aten.add.Tensor, (products, mask))
    return call(aten.matmul.default, (call(aten.softmax.int, (products, -1)), value))
