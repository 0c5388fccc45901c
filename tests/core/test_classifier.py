import numpy as np
import pytest
import torch
import torch.nn.functional as F

from elfs_ray.core.classifier import (
    MlpClassifier,
    ResNet18,
    accuracy,
    augment,
    cosine_factor,
    epoch_batches,
    prepare_images,
    train_for_steps,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def blobs():
    """Three classes around far centres, in features of very different scale, some almost constant."""
    draw = generator()
    labels = torch.arange(90) % 3
    centres = torch.randn(3, 20, generator=draw) * 5
    inputs = centres[labels] + torch.randn(90, 20, generator=draw)
    inputs[:, 10:] *= 1e-4
    return inputs, labels


class TestMlp:
    def test_learns_separable_classes(self, blobs):
        inputs, labels = blobs
        network = MlpClassifier(inputs, 3, 16, generator=generator())
        options = {"steps": 60, "batch_size": 32, "learning_rate": 0.02}
        train_for_steps(network, inputs, labels, generator=generator(1), **options)
        assert accuracy(network, inputs, labels) == 1.0

    def test_almost_constant_features_stay_small(self, blobs):
        inputs, _ = blobs
        network = MlpClassifier(inputs, 3, 16, generator=generator())
        scaled = (inputs - network.mean) / network.scale
        assert scaled[:, 10:].abs().max() < 0.01
        assert scaled.square().mean().item() == pytest.approx(1.0, rel=1e-5)

    def test_same_seed_same_network(self, blobs):
        inputs, labels = blobs
        logits = []
        for _ in range(2):
            torch.rand(3)  # the global generator plays no part
            network = MlpClassifier(inputs, 3, 16, generator=generator(3))
            options = {"steps": 10, "batch_size": 32, "learning_rate": 0.02}
            train_for_steps(network, inputs, labels, generator=generator(4), **options)
            logits.append(network(inputs))
        assert torch.equal(*logits)


class TestResNet:
    @pytest.mark.parametrize(("size", "features"), [(32, 4), (96, 3)])
    def test_stem_follows_the_image_size(self, size, features):
        network = ResNet18(size, 7, generator=generator()).eval()
        images = torch.zeros(2, 3, size, size)
        assert network(images).shape == (2, 7)
        assert network.blocks(network.stem(images)).shape[-1] == features

    def test_has_the_parameters_of_resnet18(self):
        """CIFAR form, 10 classes: 11,173,962 as in He et al. with a 3 x 3 stem."""
        network = ResNet18(32, 10, generator=generator())
        assert sum(parameter.numel() for parameter in network.parameters()) == 11_173_962


class TestAugment:
    def test_is_a_shift_and_maybe_a_flip(self):
        image = torch.arange(3 * 16 * 16, dtype=torch.float32).reshape(1, 3, 16, 16)
        batch = augment(image.repeat(50, 1, 1, 1), generator())
        padded = F.pad(image, (2, 2, 2, 2), mode="reflect")
        allowed = {
            tuple(window.flatten().tolist())
            for top in range(5)
            for left in range(5)
            for crop in [padded[0, :, top : top + 16, left : left + 16]]
            for window in (crop, crop.flip(2))
        }
        seen = {tuple(one.flatten().tolist()) for one in batch}
        assert seen <= allowed
        assert len(seen) > 20

    def test_without_generator_nothing_changes(self):
        images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, generator=generator())
        np.testing.assert_allclose(prepare_images(images, None).numpy(), images.numpy() / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize(("count", "sizes"), [(10, [4, 4, 2]), (9, [4, 5]), (3, [3]), (8, [4, 4])])
def test_epoch_batches(count, sizes):
    batches = list(epoch_batches(count, 4, 2, generator()))
    assert [len(batch) for batch in batches] == sizes
    assert sorted(torch.cat(batches).tolist()) == list(range(count))


def test_cosine():
    assert [cosine_factor(step, 4) for step in (0, 2, 4)] == pytest.approx([1, 0.5, 0])
