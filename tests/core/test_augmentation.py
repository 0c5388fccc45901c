"""Augmentation: what it may show, and that each image's draws are its own."""

import numpy as np
import torch
import torch.nn.functional as F

from elfs_ray.core import augmentation
from elfs_ray.core.augmentation import Draws, augment, draw, prepare_images


def draws(samples, seed=5, epoch=0):
    return Draws(seed, epoch, torch.as_tensor(samples))


def test_mixing_is_that_of_splitmix64():
    """The first numbers that SplitMix64 gives from the state 1234567, as Vigna's page for testing lists them."""
    states = 1234567 + augmentation._STEP * torch.arange(1, 4)
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [value % 2**64 for value in augmentation._mix(states).tolist()] == published


def test_draws_are_even_and_independent():
    found = draw(draws(torch.arange(30_000)), 3)
    assert found.min() >= 0
    for first, second in ((0, 1), (1, 2), (0, 2)):
        pairs = (found[:, first] % 9) * 9 + found[:, second] % 9
        assert (torch.bincount(pairs, minlength=81) / len(found) - 1 / 81).abs().max() < 0.003


def test_draws_belong_to_seed_epoch_and_sample_alone():
    together = draw(draws([7, 8, 9]), 3)
    assert torch.equal(together[[2, 0]], draw(draws([9, 7]), 3))
    others = [draws([7, 8, 9], seed=6), draws([7, 8, 9], epoch=1), draws([10, 11, 12])]
    assert all((draw(other, 3) != together).all() for other in others)


def test_is_a_shift_and_maybe_a_flip():
    image = torch.arange(16 * 16, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(1, 3, 1, 1)
    batch = augment(image.repeat(600, 1, 1, 1), draws(torch.arange(600)))
    padded = F.pad(image.float(), (2, 2, 2, 2), mode="reflect")
    allowed = {
        tuple(window.flatten().tolist())
        for top in range(5)
        for left in range(5)
        for crop in [padded[0, :, top : top + 16, left : left + 16]]
        for window in (crop, crop.flip(2))
    }
    assert {tuple(one.flatten().float().tolist()) for one in batch} == allowed


def test_an_image_of_one_pixel_stays():
    image = torch.full((3, 3, 1, 1), 7, dtype=torch.uint8)
    assert torch.equal(augment(image, draws([0, 1, 2])), image)


def test_without_draws_nothing_changes():
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(prepare_images(images, None).numpy(), images.numpy() / 127.5 - 1, atol=1e-6)
