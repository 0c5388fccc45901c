"""The code that runs on a GPU, run without one: on fake tensors, which have a device and a shape and no values.

Tensors of two devices in one product raise, as they would on a card. Only tensors without dimensions may mix.
"""

import contextlib

import pytest
import torch
from torch import nn

from elfs_ray.data.card_decoding import CardDecoder, squares, upright
from elfs_ray.encoders import load_encoder
from elfs_ray.encoders.forward import AdaptiveForward
from fake_card import CARD

SIDE = 64


def moved(module, mode, device=CARD):
    """The network with fake weights on a device; `Module.to` cannot change the kind of a parameter."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                fake = mode.from_tensor(weight).detach().to(device)
                part._parameters[name] = nn.Parameter(fake, requires_grad=False)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = mode.from_tensor(value).to(device)
    return module


def saved(folder, state):
    torch.save(state, folder / "weights.pt")
    return str(folder / "weights.pt")


def efficientnet(folder):
    return load_encoder("efficientnet-lite0", image_size=SIDE)


def of_timm(name):
    def build(folder):
        import timm

        weights = saved(folder, timm.create_model(name, pretrained=False, num_classes=0).state_dict())
        return load_encoder(f"timm:{name}", weights=weights, image_size=SIDE)

    return build


def of_torchvision(folder):
    from torchvision import models

    weights = saved(folder, models.resnet18(weights=None).state_dict())
    return load_encoder("torchvision:resnet18", weights=weights, image_size=SIDE)


def swav(folder):
    from torchvision import models

    weights = saved(folder, models.resnet50(weights=None).state_dict())
    return load_encoder("hub:swav_resnet50", weights=weights, image_size=SIDE)


def of_open_clip(folder):
    import open_clip

    weights = saved(folder, open_clip.create_model("ViT-S-32-alt", pretrained=None).state_dict())
    return load_encoder("open_clip:ViT-S-32-alt", weights=weights, image_size=SIDE)


FAMILIES = {
    "efficientnet": efficientnet,
    "timm, transformer": of_timm("vit_tiny_patch16_224"),
    "timm, ResNet": of_timm("resnet10t"),
    "torchvision": of_torchvision,
    "SwAV": swav,
    "open_clip": of_open_clip,
}


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """An encoder of a family, with weights of its own, on the processor."""
    return lambda family: FAMILIES[family](tmp_path_factory.mktemp("weights"))


def fake_pixels(rows=4, device=CARD):
    return torch.zeros(rows, 3, SIDE, SIDE, dtype=torch.uint8, device=device)


def seen_by(module):
    """Devices and types of what layers with weights give, filled as the network runs."""
    seen = set()
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            part.register_forward_hook(lambda _, __, output: seen.add((output.device, output.dtype)))
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_stays_on_the_card(build, request, family, dtype):
    encoder = build(family)
    mode = request.getfixturevalue("card")  # weights are read before
    moved(encoder.module, mode)
    seen = seen_by(encoder.module)
    vectors = encoder.encode(fake_pixels(), dtype)
    assert (vectors.device, vectors.dtype, vectors.shape) == (CARD, torch.float32, (4, encoder.dim))
    assert seen == {(CARD, dtype)}


def test_parts_of_a_batch_stay_on_the_card(build, request):
    encoder = build("torchvision")
    moved(encoder.module, request.getfixturevalue("card"))
    forward = AdaptiveForward(encoder, CARD, torch.bfloat16, 16)
    forward.rows = 3
    with forward.turn():
        vectors = forward(fake_pixels(16))
    assert (vectors.device, vectors.shape) == (CARD, (16, 512))


@pytest.mark.parametrize("turn", range(1, 9))
def test_pictures_are_turned_and_resized_on_the_card(card, turn):
    picture = upright(torch.zeros(2, 3, 300, 401, dtype=torch.uint8, device=CARD), turn)
    made = squares(picture, 96, 0.875, "bicubic")
    assert (made.device, made.dtype, made.shape) == (CARD, torch.uint8, (2, 3, 96, 96))


def test_a_decoder_groups_shapes_on_the_card(card, monkeypatch):
    shapes = [(30, 40), (41, 30), (30, 40), (40, 30)]
    pictures = [torch.zeros(3, *shape, dtype=torch.uint8, device=CARD) for shape in shapes]
    monkeypatch.setattr("elfs_ray.data.card_decoding._decoded", lambda jpegs, device: pictures)
    made = CardDecoder(CARD, 16, 1.0, "bilinear")([b""] * 4, [1, 6, 3, 8], [1200] * 4)
    assert [(one.device, one.shape) for one in made] == [(CARD, (3, 16, 16))] * 4


class TestAMixOfDevices:
    """What these tests would not see is no test."""

    @pytest.fixture
    def encoder(self, build, request):
        encoder = build("torchvision")
        self.mode = request.getfixturevalue("card")
        moved(encoder.module, self.mode)
        return encoder

    @contextlib.contextmanager
    def refused(self):
        with pytest.raises(RuntimeError, match=r"the same device|different devices"):
            yield

    def test_weights_on_the_processor(self, encoder):
        moved(encoder.module.layer3, self.mode, torch.device("cpu"))
        with self.refused():
            encoder.encode(fake_pixels())

    def test_pixels_on_the_processor(self, encoder):
        with self.refused():
            encoder.encode(fake_pixels(device="cpu"))

    def test_normalisation_on_the_processor(self, encoder):
        encoder._scales[CARD] = tuple(torch.ones(1, 3, 1, 1) for _ in range(2))
        with self.refused():
            encoder.encode(fake_pixels())
