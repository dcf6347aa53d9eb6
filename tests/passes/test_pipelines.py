"""The lists of passes, what a user may do to them, and what is dumped between passes."""

from dataclasses import dataclass, fields
from math import inf
from typing import ClassVar

import pytest
import torch
from nets import Plain, Residual, images, relative_error, seeded
from torch import fx

import sepify
from sepify.errors import FileError, UsageError
from sepify.passes.base import Pass, Result
from sepify.passes.complete_blocks import CompleteBlocks
from sepify.passes.drop_checks import DropChecks
from sepify.passes.dump import dumping
from sepify.passes.fold_batchnorm import FoldBatchNorm
from sepify.passes.freeze import Freeze
from sepify.passes.pipelines import (
    COMPILE,
    CONVERT,
    PREPARE,
    QUANTISE,
    conversion,
    inference_copy,
    with_options,
    with_pass,
    without_pass,
)
from sepify.passes.reestimate_batchnorm import ReestimateBatchNorm
from sepify.passes.runner import run_passes
from sepify.passes.separate import SeparateConvolutions
from sepify.passes.settle_batchnorm import SettleBatchNorm


@dataclass(frozen=True)
class Doubled(Pass):
    """The output twice as large."""

    in_place: ClassVar[bool] = True

    def apply(self, graph_module: fx.GraphModule) -> Result:
        (output,) = graph_module.graph.find_nodes(op="output")
        (value,) = output.all_input_nodes
        with graph_module.graph.inserting_before(output):
            output.args = (graph_module.graph.call_function(torch.mul, (value, 2)),)
        graph_module.recompile()
        return Result(graph_module, changed=True)


def names(pipeline):
    return [item.name for item in pipeline]


def test_every_pass_is_a_frozen_dataclass_that_says_what_it_is():
    for item in (*PREPARE, *CONVERT, *QUANTISE, *COMPILE):
        assert type(item).__doc__
        assert type(item).__dataclass_params__.frozen
        for field in fields(item):
            assert f"{field.name}: " in type(item).__doc__, (item.name, field.name)


def test_a_pass_is_put_in_and_taken_out():
    assert names(with_pass(COMPILE, Doubled(), after=FoldBatchNorm)) == [
        *("plain-dict-outputs", "flatten-outputs", "fold-batch-norm", "doubled", "as-conv2d"),
        "drop-checks",
    ]
    assert names(with_pass(PREPARE, Doubled(), before=Freeze))[:2] == [
        "make-out-of-place",
        "doubled",
    ]
    assert with_pass(PREPARE, Doubled())[-1] == Doubled()
    assert names(without_pass(COMPILE, DropChecks)) == names(COMPILE)[:-1]
    with pytest.raises(UsageError, match="no pass DropChecks; it has MakeOutOfPlace, Freeze"):
        without_pass(PREPARE, DropChecks)
    with pytest.raises(UsageError, match="say one of them"):
        with_pass(PREPARE, Doubled(), after=Freeze, before=Freeze)


def test_options_are_filled_in_by_type():
    filled = with_options(PREPARE, {FoldBatchNorm: {"untouched": ("conv1",)}, Freeze: None})
    assert names(filled) == ["make-out-of-place", "fold-batch-norm"]
    assert filled[-1] == FoldBatchNorm(untouched=("conv1",))
    assert PREPARE[-1] == FoldBatchNorm()


def test_a_conversion_has_the_passes_that_its_plan_asks_for():
    batches = [(images(),)]

    def asked(**options):
        given = {"ceiling": None, "batchnorm": False, **options}
        return [type(item) for item in conversion(CONVERT, {}, batches, **given)]

    assert asked() == [SeparateConvolutions]
    assert asked(batchnorm=True) == [SeparateConvolutions, ReestimateBatchNorm]
    assert asked(ceiling=inf) == [SeparateConvolutions, CompleteBlocks, SettleBatchNorm]
    blind = conversion(CONVERT, {}, None, ceiling=6.0, batchnorm=True)
    assert names(blind) == ["separate-convolutions", "complete-blocks"]
    with pytest.raises(UsageError, match="no pass SeparateConvolutions"):
        conversion(without_pass(CONVERT, SeparateConvolutions), {}, None, ceiling=6, batchnorm=True)


@torch.no_grad()
def test_the_copy_for_solvers_computes_the_same_and_the_original_is_as_it_was():
    network = fx.symbolic_trace(seeded(Residual()))
    code = network.code
    copied = inference_copy(network, untouched=("conv1",))
    assert relative_error(copied(images()), network(images())) < 1e-5
    assert hasattr(copied, "bn1")
    assert not hasattr(copied, "bn2")
    assert not any(p.requires_grad for p in copied.parameters())
    assert network.code == code
    assert all(p.requires_grad for p in network.parameters())


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::sepify.errors.SepifyWarning")
def test_a_pass_of_the_users_takes_part_in_a_conversion(tmp_path):
    model, x = seeded(Plain()), images()
    given = {"example_inputs": x, "rank": 1}
    mine = sepify.Solver(method="svd", pipeline=with_pass(CONVERT, Doubled()))
    with dumping(tmp_path / "graphs"):
        doubled = sepify.convert(model, **given, solver=mine)
    assert torch.equal(
        doubled(x), 2 * sepify.convert(model, **given, solver=sepify.Solver(method="svd"))(x)
    )
    found = sorted(path.name for path in (tmp_path / "graphs").iterdir())
    assert found == ["01-input.txt", "02-separate-convolutions.txt", "03-doubled.txt"]
    before, after, last = ((tmp_path / "graphs" / name).read_text() for name in found)
    assert before.startswith("# input\n\n")
    assert "call_module conv1(x)" in before
    assert "Conv2d(3, 8, kernel_size=(3, 3)" in before
    assert after.startswith("# separate-convolutions\n# changed\n")
    assert "call_module conv1.pointwise(conv1_depthwise)" in after
    assert "call_function mul(" in last


def test_a_dump_says_what_was_left_alone_and_goes_to_a_folder_of_its_own(tmp_path):
    network = fx.symbolic_trace(seeded(Plain()))
    with dumping(tmp_path / "new"):
        run_passes(network, [FoldBatchNorm(untouched=("conv1",)), SeparateConvolutions()])
        run_passes(network, [])
    text = (tmp_path / "new" / "02-fold-batch-norm.txt").read_text()
    assert text.startswith("# fold-batch-norm\n# changed\n# left alone: bn1: 'conv1' is to stay")
    assert "# nothing changed" in (tmp_path / "new" / "03-separate-convolutions.txt").read_text()
    assert (tmp_path / "new" / "04-input.txt").exists()
    with pytest.raises(FileError, match="not empty"), dumping(tmp_path / "new"):
        pass
    run_passes(network, [Freeze()])
    with dumping(None):
        run_passes(network, [Freeze()])
    assert len(list((tmp_path / "new").iterdir())) == 4
