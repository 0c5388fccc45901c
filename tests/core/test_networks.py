import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from elfs_ray.core.networks import ResNet, build_network


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def count_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


class TestResNet:
    @pytest.mark.parametrize(("size", "features"), [(32, 4), (96, 3)])
    def test_stem_follows_the_image_size(self, size, features):
        network = ResNet("resnet18", size, 7, generator=generator()).eval()
        images = torch.zeros(2, 3, size, size)
        assert network(images).shape == (2, 7)
        assert network.blocks(network.stem(images)).shape[-1] == features

    @pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
    def test_has_the_parameters_of_torchvision(self, name):
        network, theirs = ResNet(name, 224, 1000, generator=generator()), models.get_model(name, weights=None)
        assert count_parameters(network) == count_parameters(theirs)

    def test_small_images_change_the_stem_alone(self):
        """CIFAR form, 10 classes: 11,173,962 as in He et al. with a 3 x 3 stem."""
        assert count_parameters(ResNet("resnet18", 32, 10, generator=generator())) == 11_173_962

    @pytest.mark.parametrize("size", [32, 64])
    def test_the_small_one_takes_25_million_operations(self, size):
        network, image = ResNet("resnet-small", size, 10, generator=generator()), torch.zeros(1, 3, size, size)
        with FlopCounterMode(display=False) as counted:
            network(image)
        assert counted.get_total_flops() == pytest.approx(25e6, rel=0.001)
        layers = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
        assert len([layer for layer in layers if getattr(layer, "kernel_size", 0) != (1, 1)]) == 8


@pytest.mark.parametrize("name", ["linear", "mlp", "resnet-small"])
def test_networks_by_name(name):
    inputs = torch.rand(6, 5, generator=generator()) if name in ("linear", "mlp") else torch.zeros(6, 3, 32, 32)
    one, same, other = (build_network(name, inputs, 4, 7, generator=generator(seed)) for seed in (1, 1, 2))
    assert one.eval()(inputs).shape == (6, 4)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(next(one.parameters()), next(other.parameters()))


def test_components_are_taken_as_the_vectors_that_they_are_of():
    """As long, after scaling, and met by weights of the same size."""
    components = torch.randn(50, 3, generator=generator())
    basis = torch.linalg.qr(torch.randn(27, 3, generator=generator(1))).Q
    whole = build_network("mlp", components @ basis.T, 4, 512, generator=generator())
    reduced = build_network("mlp", components, 4, 512, generator=generator(), width=27)
    assert reduced.scale.item() == pytest.approx(whole.scale.item())
    assert reduced.hidden.weight.std().item() == pytest.approx(whole.hidden.weight.std().item(), rel=0.05)
    other = build_network("mlp", components, 4, 512, generator=generator())
    assert other.scale.item() == pytest.approx(3 * whole.scale.item())
