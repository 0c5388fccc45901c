"""Encoding when memory runs short, by one thread and by two."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from elfs_ray.encoders.base import Encoder, Preprocessing
from elfs_ray.encoders.forward import AdaptiveForward, Lane
from elfs_ray.errors import RunError

CPU = torch.device("cpu")
SECONDS = 60  # against hanging alone


class Greedy(nn.Module):
    """Means of the channels; more rows than fit raise what torch raises."""

    def __init__(self, fits):
        super().__init__()
        self.fits, self.sizes = fits, []

    def forward(self, images):
        self.sizes.append(len(images))
        if len(images) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images.mean(dim=(2, 3))


def forward(fits, rows=16):
    module = Greedy(fits)
    encoder = Encoder("greedy", module, Preprocessing(4, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), 3, "none")
    return module, AdaptiveForward(encoder, torch.device("cpu"), torch.float32, rows)


def test_batches_get_smaller_and_stay_small():
    pixels = torch.randint(256, (8, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    _, plain = forward(8)
    module, adaptive = forward(3, rows=8)
    assert torch.allclose(adaptive(pixels), plain(pixels))
    assert module.sizes == [8, 4, 2, 2, 2, 2]
    adaptive(pixels)
    assert module.sizes[6:] == [2, 2, 2, 2]


def test_one_image_that_does_not_fit_says_what_to_do():
    _, adaptive = forward(0)
    with pytest.raises(RunError, match=r"no memory for one image of 4 pixels a side; use --set embed\.image_size"):
        adaptive(torch.zeros(16, 3, 4, 4, dtype=torch.uint8))


class Shared(nn.Module):
    """Means of the channels, of a card on which the rows of all threads together must fit.

    The first two passes meet: each is on the card when the other asks for memory.
    """

    def __init__(self, fits):
        super().__init__()
        self.fits, self.held, self.most, self.calls, self.failures = fits, 0, 0, 0, 0
        self.lock, self.meeting = threading.Lock(), threading.Barrier(2)

    def forward(self, images):
        with self.lock:
            self.calls += 1
            self.held += len(images)
            meets = self.calls <= 2
        if meets:
            self.meeting.wait(SECONDS)
        try:
            with self.lock:
                self.most = max(self.most, self.held)
                if self.held > self.fits:
                    self.failures += 1
                    raise torch.OutOfMemoryError("CUDA out of memory")
            if meets:
                self.meeting.wait(SECONDS)
            return images.mean(dim=(2, 3))
        finally:
            if meets and self.held > self.fits:
                self.meeting.wait(SECONDS)
            with self.lock:
                self.held -= len(images)


def by_two_threads(fits, batches=6):
    """Encode batches of 8 rows, a pass each; returns the network, the forward, and whether all vectors are right."""
    module = Shared(fits)
    encoder = Encoder("shared", module, Preprocessing(4, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), 3, "none")
    adaptive = AdaptiveForward(encoder, CPU, torch.float32, 8)
    _, plain = forward(8)
    pixels = [torch.full((8, 3, 4, 4), number, dtype=torch.uint8) for number in range(batches)]

    def encode(one):
        with adaptive.turn():
            return adaptive(one)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(encode, pixels))
    return module, adaptive, all(torch.equal(one, plain(each)) for one, each in zip(found, pixels, strict=True))


def test_two_batches_that_fit_are_under_way_at_once():
    module, adaptive, right = by_two_threads(16)
    assert right
    assert (adaptive.rows, module.most, module.failures) == (8, 16, 0)


def test_two_batches_that_do_not_fit_take_turns():
    """One alone fits, so that no part gets smaller."""
    module, adaptive, right = by_two_threads(8)
    assert right
    assert (adaptive.rows, module.failures) == (8, 2)
    assert module.calls == 2 + 6


def test_a_batch_that_does_not_fit_alone_gets_smaller():
    _, adaptive, right = by_two_threads(5)
    assert right
    assert adaptive.rows == 4


NO_CARD = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_CARD])])
class TestLane:
    def test_arrays_there_and_back(self, device):
        """A shorter one after a longer one, whose rows must be gone."""
        lane = Lane(torch.device(device))
        for count in (3, 2):
            values = np.full((count, 12), count, dtype=np.uint8)
            with lane.used() as clock:
                there = lane.onto_device(values, 3)
                clock.mark()
                back = lane.off_device(there + 1)
                seconds = clock.seconds()
            np.testing.assert_array_equal(back, [*(values + 1), *np.ones((3 - count, 12))])
            assert (there.device.type, back.dtype, len(seconds)) == (device, np.uint8, 1)

    def test_batches_of_two_threads_do_not_mix(self, device):
        def there_and_back(number):
            with lanes[number % 2].used():
                return lanes[number % 2].off_device(lanes[number % 2].onto_device(values[number], 64) * 2).copy()

        lanes = [Lane(torch.device(device)) for _ in range(2)]
        values = [np.full((64, 1000), number, dtype=np.float32) for number in range(40)]
        with ThreadPoolExecutor(2) as pool:
            halves = [pool.submit(lambda odd: [there_and_back(n) for n in range(odd, 40, 2)], odd) for odd in (0, 1)]
            found = [half.result() for half in halves]
        for odd, half in enumerate(found):
            for number, value in zip(range(odd, 40, 2), half, strict=True):
                np.testing.assert_array_equal(value, 2 * values[number])
