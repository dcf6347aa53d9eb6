"""Every kernel against torch, over shapes that nobody chose."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from compiling.kernel_runner import assert_close, block, run_kernel, unblock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from sepify.compiling.kernels.carried import can_carry
from sepify.compiling.kernels.cook_toom import TILES, cook_toom
from sepify.compiling.kernels.dense import dense_kernel
from sepify.compiling.kernels.depthwise import depthwise_kernel
from sepify.compiling.kernels.grouped import grouped_kernel
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.layout import pack_kernel, unpack_kernel
from sepify.compiling.kernels.linear import linear_kernel
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.pooled import pooled_kernel, pooled_knobs
from sepify.compiling.kernels.pooling import (
    average_pool_kernel,
    global_average_kernel,
    max_pool_kernel,
)
from sepify.compiling.kernels.pw_dw import pw_dw_kernel, pw_dw_knobs
from sepify.compiling.kernels.separable import separable_kernel
from sepify.compiling.kernels.shapes import Conv, Epilogue, Window
from sepify.compiling.kernels.tiles import rank_tiles
from sepify.compiling.kernels.weights import (
    pack_bias,
    pack_dense,
    pack_depthwise,
    pack_depthwise_bias,
    pack_grouped,
    pack_term_outputs,
    pack_terms,
    pack_winograd,
)
from sepify.compiling.kernels.winograd import winograd_kernel, winograd_knobs

# each example is compiled by LLVM: few of them, and the same every time
sweep = settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

# AVX-512's shapes run on AVX2 too: LLVM cuts the vectors in two. Few and small tasks, so that even
# these small maps are cut into strips that overlap.
machines = st.sampled_from(
    [
        Machine(8, 16, scratch_bytes=4096, task_macs=512, max_tasks=8),
        Machine(8, 16),
        Machine(16, 32, cheap_broadcasts=True),
        Machine(16, 32, scratch_bytes=8192, task_macs=512, max_tasks=6),
        Machine(4, 16, task_macs=2048),
        Machine(32, 32, scratch_bytes=16384, task_macs=512),
    ]
)
clips = st.sampled_from([None, (0.0, math.inf), (0.0, 6.0), (-1.0, 1.0)])


@st.composite
def windows(draw: st.DrawFn) -> Window:
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (3, 3), (5, 5), (2, 3), (1, 7), (7, 1)]))
    stride = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 2), (3, 1)]))
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (2, 2)]))
    padding = draw(st.tuples(*(st.integers(0, 3),) * 4))
    return Window(
        kernel, stride, draw(st.sampled_from([padding, (0, 0, 0, 0), (1, 1, 1, 1)])), dilation
    )


def geometry(draw: st.DrawFn, window: Window, channels: int, outputs: int, groups: int) -> Conv:
    """A map on which the window fits."""
    top, left, bottom, right = window.padding
    height = draw(st.integers(max(1, window.span(0, 1) - top - bottom), 17))
    width = draw(st.integers(max(1, window.span(1, 1) - left - right), 17))
    out_height = (height + top + bottom - window.span(0, 1)) // window.stride[0] + 1
    out_width = (width + left + right - window.span(1, 1)) // window.stride[1] + 1
    batch = draw(st.integers(1, 3))
    return Conv(batch, channels, height, width, outputs, window, out_height, out_width, groups)


@st.composite
def dense_convs(draw: st.DrawFn) -> Conv:
    return geometry(draw, draw(windows()), draw(st.integers(1, 130)), draw(st.integers(1, 130)), 1)


@st.composite
def depthwise_convs(draw: st.DrawFn) -> tuple[Conv, int]:
    channels, rank = draw(st.integers(1, 130)), draw(st.integers(1, 9))
    return geometry(draw, draw(windows()), channels, channels * rank, channels), rank


@st.composite
def grouped_convs(draw: st.DrawFn) -> Conv:
    groups = draw(st.integers(2, 20))
    depth, per_group = draw(st.integers(1, 9)), draw(st.integers(1, 5))
    return geometry(draw, draw(windows()), groups * depth, groups * per_group, groups)


def reference(x: Tensor, weight: Tensor, bias: Tensor, conv: Conv) -> Tensor:
    top, left, bottom, right = conv.window.padding
    padded = F.pad(x, (left, right, top, bottom)).double()
    window = conv.window
    y = F.conv2d(
        padded, weight.double(), bias.double(), window.stride, 0, window.dilation, conv.groups
    )
    return y.float()


def finish(y: Tensor, residual: Tensor | None, clip: tuple[float, float] | None) -> Tensor:
    y = y if residual is None else y + residual
    return y if clip is None else y.clamp(*clip)


def data(conv: Conv) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Input, weight, bias, residual."""
    random = torch.Generator().manual_seed(conv.macs)
    shape = (conv.outputs, conv.channels // conv.groups, *conv.window.kernel)
    return (
        torch.randn(conv.batch, conv.channels, conv.height, conv.width, generator=random),
        torch.randn(shape, generator=random),
        torch.randn(conv.outputs, generator=random),
        torch.randn(conv.batch, conv.outputs, conv.out_height, conv.out_width, generator=random),
    )


def depth_of(conv: Conv) -> int:
    return conv.channels // conv.groups * conv.window.area


@sweep
@given(dense_convs(), machines, clips, st.booleans(), st.booleans())
def test_dense(conv, machine, clip, with_residual, blocked):
    x, weight, bias, residual = data(conv)
    v = machine.lanes
    kernel = dense_kernel(conv, Epilogue(with_residual, clip), machine, blocked=blocked)
    arguments = [block(x, v) if blocked else x]
    arguments += [pack_dense(weight.numpy(), v, blocked=blocked), pack_bias(bias.numpy(), v)]
    if with_residual:
        arguments.append(block(residual, v))
    want = finish(reference(x, weight, bias, conv), residual if with_residual else None, clip)
    assert_close(unblock(run_kernel(kernel, *arguments), conv.outputs), want, depth_of(conv))


@pytest.mark.parametrize("lanes", [4, 8, 16, 32])
def test_dense_in_groups_of_whole_vectors(lanes):
    window = Window((3, 3), (2, 2), (1, 1, 1, 1))
    conv = Conv(2, 3 * lanes, 9, 11, 6 * lanes, window, 5, 6, 3)
    x, weight, bias, _ = data(conv)
    kernel = dense_kernel(conv, Epilogue(), Machine(lanes, 2 * lanes, task_macs=512))
    packed = pack_dense(weight.numpy(), lanes), pack_bias(bias.numpy(), lanes)
    have = unblock(run_kernel(kernel, block(x, lanes), *packed), conv.outputs)
    assert_close(have, reference(x, weight, bias, conv), depth_of(conv))


def test_dense_with_more_weights_than_a_cache_holds():
    """The reduction is cut into chunks, the strips overlap, and every sum is still complete."""
    conv = Conv(1, 96, 13, 13, 24, Window((3, 3), (1, 1), (1, 1, 1, 1)), 13, 13)
    x, weight, bias, residual = data(conv)
    machine = Machine(8, 16)
    kernel = dense_kernel(conv, Epilogue(True, (0.0, math.inf)), machine)
    assert any("co*" in line for line in kernel.body)
    packed = pack_dense(weight.numpy(), 8), pack_bias(bias.numpy(), 8)
    have = unblock(run_kernel(kernel, block(x, 8), *packed, block(residual, 8)), conv.outputs)
    want = (reference(x, weight, bias, conv) + residual).relu()
    assert_close(have, want, depth_of(conv))


@st.composite
def pooled_convs(draw: st.DrawFn) -> tuple[Conv, Conv]:
    """A convolution of few channels, and a pooling of what it gives, its last windows hanging over
    the edge or not."""
    conv = geometry(draw, draw(windows()), draw(st.integers(1, 7)), draw(st.integers(1, 70)), 1)
    height, width = conv.out_height, conv.out_width
    kernel = draw(st.integers(1, min(5, height, width)))
    stride = draw(st.integers(1, kernel))
    padding = draw(st.integers(0, min(kernel // 2, kernel - stride)))
    hanging = draw(st.integers(0, stride - 1 - padding)) if padding < stride - 1 else 0
    rows, columns = (
        (extent + 2 * padding + hanging - kernel) // stride + 1 for extent in (height, width)
    )
    edge = (padding, padding, padding + hanging, padding + hanging)
    window = Window((kernel, kernel), (stride, stride), edge)
    outputs = conv.outputs
    return conv, Conv(conv.batch, outputs, height, width, outputs, window, rows, columns, outputs)


@sweep
@given(pooled_convs(), machines, clips)
def test_an_image_convolved_and_pooled_in_one(given_convs, machine, clip):
    conv, pool = given_convs
    assert can_carry(pool)
    x, weight, bias, _ = data(conv)
    v = machine.lanes
    knobs = pooled_knobs(conv, pool, machine)
    kernel = pooled_kernel(conv, pool, Epilogue(clip=clip), machine, knobs)
    packed = pack_dense(weight.numpy(), v, blocked=False), pack_bias(bias.numpy(), v)
    between = finish(reference(x, weight, bias, conv), None, clip)
    top, left, bottom, right = pool.window.padding
    between = F.pad(between, (left, right, top, bottom), value=-math.inf)
    want = F.max_pool2d(between, pool.window.kernel, pool.window.stride)
    have = unblock(run_kernel(kernel, x, *packed), conv.outputs)
    assert_close(have, want, depth_of(conv))


@pytest.mark.parametrize("rows", [1, 2, 4, 8])
@pytest.mark.parametrize(("padding", "ceil"), [(1, False), (1, True), (0, True)])
@pytest.mark.parametrize("height", [42, 43])
def test_a_map_is_pooled_right_however_it_is_cut(rows, padding, ceil, height):
    """Rows that two windows share, within a task and between two; rows above the map, and below it
    where the last window hangs over; strips that overlap, for 8 divides no number of rows here."""
    conv = Conv(2, 3, height, 17, 20, Window((3, 3), (1, 1), (1, 1, 1, 1)), height, 17)
    x, weight, bias, _ = data(conv)
    want = F.max_pool2d(reference(x, weight, bias, conv), 3, 2, padding, ceil_mode=ceil)
    high, wide = want.shape[2:]
    over = ((high - 1) * 2 + 3 - height - padding, (wide - 1) * 2 + 3 - 17 - padding)
    edge = (padding, padding, max(padding, over[0]), max(padding, over[1]))
    pool = Conv(2, 20, height, 17, 20, Window((3, 3), (2, 2), edge), high, wide, 20)
    machine = Machine(8, 16, scratch_bytes=6 * 17 * 3 * 8 * 4)  # two pooled rows at a time, or one
    kernel = pooled_kernel(conv, pool, Epilogue(), machine, Knobs(4, 2, rows, 1))
    packed = pack_dense(weight.numpy(), 8, blocked=False), pack_bias(bias.numpy(), 8)
    assert_close(unblock(run_kernel(kernel, x, *packed), 20), want, depth_of(conv))


@st.composite
def winograd_convs(draw: st.DrawFn) -> Conv:
    sides = st.integers(0, 3)
    padding = draw(st.one_of(st.just((1, 1, 1, 1)), st.tuples(sides, sides, sides, sides)))
    channels, outputs = draw(st.integers(1, 130)), draw(st.integers(1, 130))
    return geometry(draw, Window((3, 3), padding=padding), channels, outputs, 1)


@sweep
@given(winograd_convs(), machines, clips, st.booleans(), st.sampled_from(TILES))
def test_winograd(conv, machine, clip, with_residual, m):
    x, weight, bias, residual = data(conv)
    v = machine.lanes
    knobs = winograd_knobs(conv, m, machine)
    kernel = winograd_kernel(conv, Epilogue(with_residual, clip), machine, knobs)
    arguments = [block(x, v), pack_winograd(weight.numpy(), v, m), pack_bias(bias.numpy(), v)]
    if with_residual:
        arguments.append(block(residual, v))
    want = finish(reference(x, weight, bias, conv), residual if with_residual else None, clip)
    have = unblock(run_kernel(kernel, *arguments), conv.outputs)
    assert_close(have, want, depth_of(conv), cook_toom(m).growth)


def test_winograd_does_not_depend_on_threads():
    """Tasks may compute the same tile, never the same output from different tiles: a race between
    them must not change a bit."""
    conv = Conv(1, 20, 11, 11, 24, Window((3, 3), padding=(1, 1, 1, 1)), 11, 11)
    x, weight, bias, _ = data(conv)
    arguments = [block(x, 8), pack_winograd(weight.numpy(), 8, 4), pack_bias(bias.numpy(), 8)]
    results = [
        run_kernel(
            winograd_kernel(conv, Epilogue(), Machine(8, 16), Knobs(2, 1, rows, 1, winograd=4)),
            *arguments,
        )
        for rows in (1, 2, 4, 9)
    ]
    assert all(np.array_equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("m", TILES)
def test_the_matrices_compute_a_filter(m):
    toom = cook_toom(m)
    inputs, taps = np.random.default_rng(0).standard_normal((2, m + 2))
    points = (toom.filter @ taps[:3]) * (toom.input @ inputs)
    np.testing.assert_allclose(toom.output @ points, np.correlate(inputs, taps[:3]), atol=1e-12)
    assert toom.growth == pytest.approx({2: 5 / 3, 4: 7.125}[m])


@sweep
@given(depthwise_convs(), machines, clips, st.booleans())
def test_depthwise(given_conv, machine, clip, with_residual):
    conv, rank = given_conv
    x, weight, bias, residual = data(conv)
    v, epilogue = machine.lanes, Epilogue(with_residual, clip)
    if rank == 1:
        kernel = depthwise_kernel(conv, epilogue, machine)
        packed = pack_depthwise(weight.numpy(), 1, v)[0]
    else:
        kernel = grouped_kernel(conv, epilogue, machine)
        packed = pack_grouped(weight.numpy(), v)
    arguments = [block(x, v), packed, pack_bias(bias.numpy(), v)]
    if with_residual:
        arguments.append(block(residual, v))
    want = finish(reference(x, weight, bias, conv), residual if with_residual else None, clip)
    assert_close(unblock(run_kernel(kernel, *arguments), conv.outputs), want, depth_of(conv))


@sweep
@given(grouped_convs(), machines, clips)
def test_grouped(conv, machine, clip):
    x, weight, bias, _ = data(conv)
    v = machine.lanes
    kernel = grouped_kernel(conv, Epilogue(clip=clip), machine)
    arguments = [block(x, v), pack_grouped(weight.numpy(), v), pack_bias(bias.numpy(), v)]
    want = finish(reference(x, weight, bias, conv), None, clip)
    assert_close(unblock(run_kernel(kernel, *arguments), conv.outputs), want, depth_of(conv))


@sweep
@given(depthwise_convs(), st.integers(1, 130), machines, clips, clips, st.booleans())
def test_depthwise_and_pointwise_in_one(given_conv, outputs, machine, middle, clip, with_residual):
    conv, rank = given_conv
    x, weight, bias, _ = data(conv)
    v = machine.lanes
    second = Conv(
        conv.batch,
        conv.outputs,
        conv.out_height,
        conv.out_width,
        outputs,
        Window((1, 1)),
        conv.out_height,
        conv.out_width,
    )
    _, pointwise, second_bias, residual = data(second)
    epilogue = Epilogue(with_residual, clip)
    kernel = separable_kernel(conv, rank, outputs, Epilogue(clip=middle), epilogue, machine)
    arguments = [
        block(x, v),
        pack_depthwise(weight.numpy(), rank, v),
        pack_depthwise_bias(bias.numpy(), rank, v),
        pack_terms(pointwise.numpy(), rank, v),
        pack_bias(second_bias.numpy(), v),
    ]
    if with_residual:
        arguments.append(block(residual, v))
    between = finish(reference(x, weight, bias, conv), None, middle)
    want = reference(between, pointwise, second_bias, second)
    want = finish(want, residual if with_residual else None, clip)
    depth = depth_of(conv) + depth_of(second)
    assert_close(unblock(run_kernel(kernel, *arguments), outputs), want, depth)


@st.composite
def pw_dw_convs(draw: st.DrawFn) -> tuple[Conv, Conv]:
    """C -> rank*O channels, and a filter for each of O groups of them."""
    sides = draw(st.sampled_from([(3, 3), (3, 3), (5, 5), (2, 3), (7, 1)]))
    stride = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 2)]))
    over = sides[0] - stride[0]
    padding = draw(st.tuples(st.integers(0, over), *(st.integers(0, 3),) * 3))
    rank, outputs = draw(st.integers(1, 9)), draw(st.integers(1, 70))
    second = geometry(draw, Window(sides, stride, padding), rank * outputs, outputs, outputs)
    batch, height, width = second.batch, second.height, second.width
    channels = draw(st.integers(1, 130))
    first = Conv(batch, channels, height, width, rank * outputs, Window((1, 1)), height, width)
    return first, second


@sweep
@given(pw_dw_convs(), machines, clips, clips, st.booleans())
def test_pointwise_and_depthwise_in_one(given_convs, machine, middle, clip, with_residual):
    first, second = given_convs
    assert can_carry(second)
    v, rank = machine.lanes, second.channels // second.groups
    x, pointwise, bias, _ = data(first)
    _, filters, shifts, residual = data(second)
    epilogue = Epilogue(with_residual, clip)
    knobs = pw_dw_knobs(first, second, machine)
    kernel = pw_dw_kernel(first, second, Epilogue(clip=middle), epilogue, machine, knobs)
    arguments = [
        block(x, v),
        *pack_term_outputs(pointwise.numpy(), bias.numpy(), rank, v),
        pack_depthwise(filters.reshape(-1, 1, *filters.shape[2:]).numpy(), rank, v),
        pack_bias(shifts.numpy(), v),
    ]
    if with_residual:
        arguments.append(block(residual, v))
    between = finish(reference(x, pointwise, bias, first), None, middle)
    want = reference(between, filters, shifts, second)
    want = finish(want, residual if with_residual else None, clip)
    depth = depth_of(first) + depth_of(second)
    assert_close(unblock(run_kernel(kernel, *arguments), second.outputs), want, depth)


@sweep
@given(st.integers(1, 9), st.integers(1, 130), st.integers(1, 130), machines, clips)
def test_linear(batch, features, outputs, machine, clip):
    random = torch.Generator().manual_seed(features)
    x = torch.randn(batch, features, generator=random)
    weight = torch.randn(outputs, features, generator=random)
    bias = torch.randn(outputs, generator=random)
    v = machine.lanes
    packed = pack_dense(weight[:, :, None, None].numpy(), v, blocked=False)
    kernel = linear_kernel(batch, features, outputs, clip, machine)
    have = run_kernel(kernel, x, packed, pack_bias(bias.numpy(), v)).reshape(batch, -1)
    want = finish(F.linear(x.double(), weight.double(), bias.double()).float(), None, clip)
    assert_close(torch.from_numpy(have[:, :outputs]), want, features)


@pytest.mark.parametrize(
    ("batch", "channels", "height", "width"), [(1, 1, 1, 1), (3, 37, 12, 5), (2, 16, 7, 7)]
)
def test_layout_there_and_back(batch, channels, height, width):
    machine = Machine(8, 16, task_macs=512)
    x = torch.randn(batch, channels, height, width)
    packed = run_kernel(pack_kernel(tuple(x.shape), machine), x)
    assert torch.equal(unblock(packed, channels), x)
    back = run_kernel(unpack_kernel(tuple(x.shape), machine), packed)
    assert torch.equal(torch.from_numpy(back), x)


@pytest.mark.parametrize("lanes", [4, 8, 16, 32])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1), (5, 3, 2)]
)
def test_pooling(lanes, kernel, stride, padding):
    x = torch.randn(2, 19, 13, 11)
    machine = Machine(lanes, 2 * lanes, task_macs=512)
    want = F.max_pool2d(x, kernel, stride, padding)
    geometry = Window((kernel, kernel), (stride, stride), (padding,) * 4)
    conv = Conv(2, 19, 13, 11, 19, geometry, want.shape[2], want.shape[3], 19)
    have = unblock(run_kernel(max_pool_kernel(conv, machine), block(x, lanes)), 19)
    assert torch.equal(have, want)
    have = unblock(run_kernel(average_pool_kernel(conv, machine), block(x, lanes)), 19)
    assert_close(have, F.avg_pool2d(x, kernel, stride, padding), kernel * kernel)


def test_global_average():
    x = torch.randn(2, 19, 13, 11)
    conv = Conv(2, 19, 13, 11, 19, Window((13, 11)), 1, 1, 19)
    have = unblock(run_kernel(global_average_kernel(conv, Machine(8, 16)), block(x, 8)), 19)
    assert_close(have, x.mean((2, 3), keepdim=True), 143)


@pytest.mark.parametrize("cheap", [True, False])
@pytest.mark.parametrize("pixels", [49, 98, 196])
def test_a_pixel_is_read_for_one_vector_only_where_that_is_cheap(cheap, pixels):
    machine = Machine(lanes=16, registers=32, cheap_broadcasts=cheap)
    _, vectors = rank_tiles(pixels, 8, machine)[0]
    assert (vectors == 1) == cheap


def test_tiles_whose_pixels_overlap_leave_registers_for_them():
    size, vectors = rank_tiles(112, 4, Machine(lanes=16, registers=32), overlapping=True)[0]
    assert size * vectors <= 16
