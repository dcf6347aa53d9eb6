import pytest
import torch
from nets import images
from torch import nn

from sepify.errors import CalibrationWarning, InputError
from sepify.graph.batches import BATCH_SIZE, calibration_batches, image_count, on_device_of


def test_a_tensor_is_split_and_nothing_is_lost():
    data = images(2 * BATCH_SIZE + 3, size=4)
    batches = calibration_batches(data)
    assert [len(batch[0]) for batch in batches] == [BATCH_SIZE, BATCH_SIZE, 3]
    assert torch.equal(torch.cat([batch[0] for batch in batches]), data)


def test_labels_of_a_loader_are_dropped_and_empty_batches_skipped():
    loader = [(images(4), torch.arange(4)), (images(0), torch.arange(0)), [images(2), "names"]]
    batches = calibration_batches(loader)
    assert [len(batch) for batch in batches] == [1, 1]
    assert image_count(batches) == 6


def test_limit_stops_an_endless_loader():
    def endless():
        while True:
            yield images(3)

    assert image_count(calibration_batches(endless(), limit=7)) == 7


def test_large_images_are_split_into_small_batches():
    batches = calibration_batches(torch.zeros(40, 3, 224, 224))
    assert [len(batch[0]) for batch in batches] == [13, 13, 13, 1]


def test_several_inputs():
    with pytest.warns(CalibrationWarning, match="1 more value"):
        assert len(calibration_batches([(images(2), images(2), 7)], inputs=2)[0]) == 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "empty"),
        (torch.zeros(0, 3, 4, 4), "empty"),
        (torch.zeros(5), "no batch of images"),
        ([images(2), images(2) / 0], "batch 2 holds NaN or infinity"),
        ([images(2), images(2, channels=1)], r"batch 2 is \(2, 1, 12, 12\), the first \(2, 3"),
        ([("a.png", 3)], r"batch 1 holds \(str\); 1 tensor"),
    ],
)
def test_bad_data(data, message):
    with pytest.raises(InputError, match=message):
        calibration_batches(data)


@pytest.mark.parametrize("model", [nn.ReLU(), nn.Conv2d(3, 3, 3, device="meta")])
def test_batches_stay_where_they_are_if_the_model_is_nowhere(model):
    batch = (images(2), images(2))
    assert on_device_of(model, batch) is batch
