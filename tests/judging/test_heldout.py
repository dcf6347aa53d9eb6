import json

import pytest
import torch
from nets import images

from sepify.errors import UsageError
from sepify.graph.batches import calibration_batches
from sepify.judging.heldout import Split, held_out, hold_out, image_marks, not_held_out
from sepify.storage.tensors import is_on_disk


def batches(data, size=16):
    return tuple((part,) for part in data.split(size))


def rows(given):
    return torch.cat([batch[0] for batch in given]) if given else torch.zeros(0, 3, 12, 12)


def contents(given):
    return {row.numpy().tobytes() for row in given}


@pytest.mark.parametrize(
    ("count", "kept"), [(0, 0), (1, 0), (63, 0), (64, 8), (100, 12), (1024, 128), (3000, 128)]
)
def test_one_in_eight_is_kept_at_most_128_and_none_of_few(count, kept):
    data = images(count, size=4)
    split = hold_out(batches(data) if count else ())
    assert split.images == kept
    assert len(rows(split.fit)) == count - kept if count else not split.fit
    assert contents(rows(split.fit)) | contents(rows(split.heldout)) == contents(data)
    assert not contents(rows(split.fit)) & contents(rows(split.heldout))
    assert (split.below is None) == (kept == 0) == bool(split.why)


def test_contents_decide_whatever_the_order_and_the_batches():
    data = images(200, size=4)
    first = hold_out(batches(data))
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    again = hold_out(batches(data[order], size=7))
    assert contents(rows(first.heldout)) == contents(rows(again.heldout))
    assert first.below == again.below == json.loads(json.dumps(first.below))
    assert contents(held_out(data, first.below)) == contents(rows(first.heldout))
    assert contents(data[not_held_out(data, first.below)]) == contents(rows(first.fit))
    # half the images, and more of them: whoever knows the threshold keeps the same ones
    part = hold_out(batches(data[:100]), below=first.below)
    assert contents(rows(part.heldout)) <= contents(rows(first.heldout))
    more = hold_out(batches(torch.cat([data, images(900, size=4, seed=3)])), below=first.below)
    assert not contents(rows(more.heldout)) & contents(rows(first.fit))


def test_they_are_spread_over_the_data():
    where = torch.cat([image_marks(batch) for batch in batches(images(4096, size=2), 64)])
    out = (where < where.sort().values[512]).float()
    parts = out.reshape(8, 512).sum(1)  # 64 each but for chance, standard deviation 7.5
    assert parts.min() > 34
    assert parts.max() < 94


@pytest.mark.parametrize("turned", [lambda x: x.flip(3), lambda x: x])
def test_an_image_its_mirror_image_and_its_copies_are_on_one_side(turned):
    data = images(128, size=5)
    split = hold_out(batches(torch.cat([data, turned(data)]), size=13))
    fit, judged = contents(rows(split.fit)), contents(rows(split.heldout))
    assert split.images == len(judged) == 16
    assert not fit & contents(turned(rows(split.heldout)))
    assert not fit & judged
    few = images(10, size=5).repeat(20, 1, 1, 1)  # 200 images, but 10 different ones
    assert (
        hold_out(batches(few)).why == "10 different images are too few to hold any out (from 64 on)"
    )


def test_several_inputs_loaders_and_last_partial_batches():
    left, right = images(90), torch.arange(90)
    loader = [(left[i : i + 40], right[i : i + 40], "labels") for i in range(0, 90, 40)]
    with pytest.warns(UserWarning, match="not used"):
        split = hold_out(calibration_batches(iter(loader), inputs=2))
    assert split.images == 11
    for one, other in (*split.fit, *split.heldout):
        assert torch.equal(one, left[other])
    whole = [(images(4, seed=seed), torch.tensor(2.0)) for seed in range(80)]
    split = hold_out(whole)  # a number beside the images: batches stay whole
    assert len(split.heldout) == 10
    assert all(len(batch[0]) == 4 for batch in (*split.fit, *split.heldout))


def test_no_batch_of_one_image_is_left_of_several():
    data = images(128, size=4)
    split = hold_out(batches(data, size=2))
    assert all(len(batch[0]) == 2 for batch in split.fit)
    assert split.images == 16
    assert all(len(batch[0]) == 1 for batch in hold_out(batches(data, size=1)).fit)


def test_images_are_copied_only_where_one_is_held_out_and_not_into_memory_that_is_short():
    data = images(2048, size=4)
    split = hold_out(batches(data, size=8), holdout=16)
    there = {batch[0].untyped_storage().data_ptr() for batch in split.fit}
    copied = sum(
        batch[0].untyped_storage().data_ptr() != data.untyped_storage().data_ptr()
        for batch in split.fit
    )
    assert data.untyped_storage().data_ptr() in there
    assert copied <= 16
    tight = hold_out(batches(data), memory=0)
    assert any(is_on_disk(batch[0]) for batch in tight.fit)
    assert contents(rows(tight.fit)) == contents(rows(hold_out(batches(data)).fit))


@pytest.mark.parametrize(
    ("holdout", "kept"), [(0, 0), (0.0, 0), (0.25, 10), (3, 3), (3.0, 3), (30, 30), (1e-9, 1)]
)
def test_a_share_or_a_number(holdout, kept):
    split = hold_out(batches(images(40)), holdout)
    assert split.images == kept
    assert split.asked == (kept == 0)


@pytest.mark.parametrize("holdout", [-1, 40, 1.5, 0.999, True, "8", float("nan"), float("inf")])
def test_what_makes_no_sense_is_refused(holdout):
    with pytest.raises(UsageError, match="holdout"):
        hold_out(batches(images(40)), holdout)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.uint8, torch.complex64])
def test_every_type_has_marks(dtype):
    data = (50 * images(96)).to(dtype)
    split = hold_out(batches(data))
    assert isinstance(split, Split)
    assert split.images == 12
