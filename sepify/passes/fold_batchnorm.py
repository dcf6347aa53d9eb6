"""Fold BatchNorm2d in inference mode into the convolution before it."""

from __future__ import annotations

import copy
from collections.abc import Collection

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sepify.graph.modules import call_counts, called_module, is_plain_conv, set_module


def fold_batchnorm(graph_module: fx.GraphModule, untouched: Collection[str] = ()) -> fx.GraphModule:
    """A copy of `graph_module` where each convolution absorbs the BatchNorm that follows it:
    weight * gamma / sqrt(var + eps), and the bias accordingly (Jacob et al. 2018, eq. 14).

    Left as it is: what follows a convolution named in `untouched`, BatchNorm in training mode or
    without running statistics, a convolution whose output has another user, and modules that are
    called in more than one place.
    """
    folded = copy.deepcopy(graph_module)
    calls = call_counts(folded)
    for node in list(folded.graph.nodes):
        norm = called_module(folded, node)
        if type(norm) is not nn.BatchNorm2d or norm.training or norm.running_mean is None:
            continue
        before = node.args[0] if node.args else next(iter(node.kwargs.values()), None)
        if not isinstance(before, fx.Node) or len(before.users) != 1:
            continue
        conv = called_module(folded, before)
        if not isinstance(conv, nn.Conv2d) or not is_plain_conv(conv):
            continue
        if str(before.target) in untouched:
            continue
        if calls[str(before.target)] > 1 or calls[str(node.target)] > 1:
            continue
        set_module(folded, str(before.target), fuse_conv_bn_eval(conv.eval(), norm))
        node.replace_all_uses_with(before)
        folded.graph.erase_node(node)
    folded.delete_all_unused_submodules()
    folded.recompile()
    return folded
