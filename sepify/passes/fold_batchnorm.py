"""Fold BatchNorm2d in inference mode into the convolution before it."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sepify.graph.modules import call_counts, called_module, set_module, why_not_plain_conv
from sepify.passes.base import Pass, Result


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Each convolution absorbs the BatchNorm that follows it: weight * gamma / sqrt(var + eps), and
    the bias accordingly (Jacob et al. 2018, eq. 14).

    Args:
        untouched: paths of convolutions that are to stay as they are.
    """

    untouched: Collection[str] = ()

    def apply(self, graph_module: fx.GraphModule) -> Result:
        """Fold in a copy; the sites are the calls of BatchNorm, by path."""
        folded = copy.deepcopy(graph_module)
        calls = call_counts(folded)
        left_alone: dict[str, str] = {}
        changed = False
        for node in list(folded.graph.nodes):
            norm = called_module(folded, node)
            if not isinstance(norm, _BatchNorm):
                continue
            before = node.all_input_nodes[0]
            conv = called_module(folded, before)
            reason = _why_not_norm(norm) or self._why_not_behind(before, conv)
            if reason is None and max(calls[str(n.target)] for n in (node, before)) > 1:
                reason = "it or its convolution is called in more than one place"
            if reason is not None:
                left_alone[str(node.target)] = reason
                continue
            assert isinstance(conv, nn.Conv2d)
            set_module(folded, str(before.target), fuse_conv_bn_eval(conv.eval(), norm))
            node.replace_all_uses_with(before)
            folded.graph.erase_node(node)
            changed = True
        if changed:
            folded.delete_all_unused_submodules()
            folded.recompile()
        return Result(folded, changed, left_alone)

    def _why_not_behind(self, before: fx.Node, conv: nn.Module | None) -> str | None:
        if not isinstance(conv, nn.Conv2d):
            return "no Conv2d comes before it"
        if len(before.users) != 1:
            return f"something else reads the output of '{before.target}' too"
        if str(before.target) in self.untouched:
            return f"'{before.target}' is to stay as it is"
        plain = why_not_plain_conv(conv)
        return None if plain is None else f"'{before.target}': {plain}"


def _why_not_norm(norm: _BatchNorm) -> str | None:
    if type(norm) is not nn.BatchNorm2d:
        return f"a {type(norm).__name__}: only BatchNorm2d is folded"
    if norm.training:
        return "it is in training mode"
    return "it keeps no running statistics" if norm.running_mean is None else None
