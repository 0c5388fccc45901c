"""Everything in `core` that runs on a card, run on fake tensors of one: all of it stays there, and a mix raises."""

from functools import partial

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError as Mismatch

from elfs_ray.core.augmentation import Draws, prepare_images
from elfs_ray.core.classifier import Recipe, count_correct, sgd, train_step, training_steps, unprepared
from elfs_ray.core.device_rows import DeviceRows, Room
from elfs_ray.core.dynamics import DynamicsAccumulator
from elfs_ray.core.networks import RESNETS, build_network
from elfs_ray.core.temi import consensus
from elfs_ray.core.temi_training import TemiOptions, TemiTraining
from fake_card import CARD

pytestmark = pytest.mark.usefixtures("card")
CPU = torch.device("cpu")
SAMPLES, DIM, CLASSES, BATCH, SIDE = 24, 12, 5, 8, 32
NETWORKS = ["linear", "mlp", *RESNETS]
DTYPES = [torch.float32, torch.bfloat16]


def numbers(*shape, device=CARD, dtype=torch.float32):
    return torch.randn(shape, device=device).to(dtype)


def places(count, device=CARD):
    return torch.arange(count, device=device)


def inputs_of(name, count, device=CARD):
    on_images = name in RESNETS
    return torch.zeros(count, 3, SIDE, SIDE, dtype=torch.uint8, device=device) if on_images else numbers(count, DIM)


class TestRows:
    def test_what_fits_rests_on_the_card(self):
        rows = DeviceRows(numbers(SAMPLES, DIM, device=CPU), Room(CARD, limit=10**6), torch.float16)
        assert rows.resident
        batches = list(rows.batches([places(3), places(5)]))
        assert [(batch.device, batch.dtype, len(batch)) for batch in batches] == [
            (CARD, torch.float16, 3),
            (CARD, torch.float16, 5),
        ]

    def test_what_does_not_fit_is_copied_there(self):
        rows = DeviceRows(numbers(SAMPLES, DIM, device=CPU), Room(CARD, limit=SAMPLES * DIM * 4 - 1))
        assert not rows.resident
        assert rows.take(places(3)).device == CARD
        assert rows.take(places(3), places(3)).device == CARD


class TestTemi:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("frozen", [True, False])
    def test_step_and_pseudo_labels_stay_on_the_card(self, dtype, frozen):
        training = TemiTraining(TemiOptions(3, CLASSES, 16, 8, dtype=dtype), DIM, 0, CARD)
        training.step(numbers(2 * BATCH, DIM, dtype=torch.float16), 1e-3, last_layer_frozen=frozen, weight=0.5)
        training.step(numbers(2 * BATCH, DIM, dtype=torch.float16), 1e-3)
        assert {each.device for each in (training.losses, training.prior)} == {CARD}
        weights = [*training.student.parameters(), *training.teacher.parameters()]
        assert {(weight.device, weight.dtype) for weight in weights} == {(CARD, torch.float32)}
        probabilities = training.probabilities(numbers(BATCH, DIM, dtype=torch.float16))
        alignment = torch.zeros(3, CLASSES, dtype=torch.int64, device=CARD)
        assert {each.device for each in consensus(probabilities, alignment, range(3))} == {CARD}

    def test_checkpoint_goes_to_main_memory_and_back(self):
        training, again = (TemiTraining(TemiOptions(3, CLASSES, 16, 8), DIM, 0, CARD) for _ in range(2))
        training.step(numbers(2 * BATCH, DIM), 1e-3)
        again.load(torch.utils._pytree.tree_map_only(torch.Tensor, torch.Tensor.cpu, training.state()))
        again.step(numbers(2 * BATCH, DIM), 1e-3)
        assert {weight.device for weight in again.student.parameters()} == {CARD}

    def test_views_in_main_memory_raise(self):
        training = TemiTraining(TemiOptions(3, CLASSES, 16, 8), DIM, 0, CARD)
        with pytest.raises((Mismatch, RuntimeError), match="device"):
            training.step(numbers(2 * BATCH, DIM, device=CPU), 1e-3)

    def test_alignment_in_main_memory_raises(self):
        training = TemiTraining(TemiOptions(3, CLASSES, 16, 8), DIM, 0, CARD)
        alignment = torch.zeros(3, CLASSES, dtype=torch.int64)
        with pytest.raises((Mismatch, RuntimeError), match="device"):
            consensus(training.probabilities(numbers(BATCH, DIM)), alignment, range(3))


class TestNetworks:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("name", NETWORKS)
    def test_step_with_augmentation_and_dynamics_stays_on_the_card(self, name, dtype):
        network = build_network(name, inputs_of(name, BATCH), CLASSES, 16, generator=torch.Generator()).to(CARD)
        optimizer, dynamics = (
            sgd(network, 0.1, 0.9, 1e-4),
            DynamicsAccumulator(SAMPLES, device=CARD, tdds_classes=CLASSES),
        )
        assert optimizer.defaults["fused"]
        labels, rows, pixels = (
            torch.zeros(SAMPLES, dtype=torch.int64, device=CARD),
            places(BATCH),
            inputs_of(name, BATCH),
        )
        for epoch in range(2 if name in RESNETS else 12):  # more than the epochs that the dynamics keep in mind
            images = prepare_images(pixels, Draws(1, epoch, rows)) if name in RESNETS else pixels
            logits = train_step(network, optimizer, images, labels[rows], 0.1, dtype=dtype)
            dynamics.update(rows, logits, labels[rows], epoch)
        assert (logits.device, logits.dtype) == (CARD, torch.float32)
        assert {values.device for values in dynamics.state_dict().values()} == {CARD}

    @pytest.mark.parametrize("name", NETWORKS)
    def test_training_loop_stays_on_the_card(self, name, monkeypatch):
        # A generator of the card cannot be made without one.
        monkeypatch.setattr("elfs_ray.core.classifier.generator_on", lambda *_: torch.Generator())
        monkeypatch.setattr(
            "elfs_ray.core.classifier.epoch_batches", lambda count, size, *_: list(places(count).split(size))
        )
        samples = inputs_of(name, SAMPLES, CPU) if name in RESNETS else numbers(SAMPLES, DIM, device=CPU)
        rows, labels = (
            DeviceRows(samples, Room(CARD, limit=10**6)),
            torch.zeros(SAMPLES, dtype=torch.int64, device=CARD),
        )
        network = build_network(name, samples, CLASSES, 16, generator=torch.Generator()).to(CARD)
        recipe = Recipe(steps=4, batch_size=BATCH, learning_rate=0.1, dtype=torch.bfloat16)
        prepare = prepare_images if name in RESNETS else unprepared
        steps = list(training_steps(network, rows, labels, recipe, torch.Generator(), prepare))
        assert steps == [1, 2, 3, 4]
        assert count_correct(network, rows, labels, BATCH, prepare).device == CARD

    @pytest.mark.parametrize("name", ["mlp", "resnet18"])
    @pytest.mark.parametrize("what", ["inputs", "labels", "draws"])
    def test_a_mix_of_devices_raises(self, name, what):
        if (name, what) == ("mlp", "draws"):
            pytest.skip("embeddings are not augmented")
        network = build_network(name, inputs_of(name, BATCH), CLASSES, 16, generator=torch.Generator()).to(CARD)
        images = inputs_of(name, BATCH)
        labels = torch.zeros(BATCH, dtype=torch.int64, device=CPU if what == "labels" else CARD)
        images = images.cpu() if what == "inputs" else images
        draws = Draws(1, 0, places(BATCH, CPU if what == "draws" else images.device))

        def step():
            prepared = prepare_images(images, draws) if name in RESNETS else images
            train_step(network, sgd(network, 0.1, 0.9, 0), prepared, labels, 0.1)

        with pytest.raises((Mismatch, RuntimeError), match="device"):
            step()


class TestDynamics:
    def test_checkpoint_goes_to_main_memory_and_back(self):
        before, after = (DynamicsAccumulator(SAMPLES, device=CARD) for _ in range(2))
        feed = partial(before.update, places(BATCH), numbers(BATCH, CLASSES), places(BATCH) % CLASSES)
        feed(0)
        after.load_state_dict({name: values.cpu() for name, values in before.state_dict().items()})
        after.update(places(BATCH), numbers(BATCH, CLASSES), places(BATCH) % CLASSES, 1)
        after.keep(places(SAMPLES) % 2 == 0)
        assert {values.device for values in after.state_dict().values()} == {CARD}

    def test_positions_in_main_memory_raise(self):
        dynamics = DynamicsAccumulator(SAMPLES, device=CARD)
        with pytest.raises((Mismatch, RuntimeError), match="device"):
            dynamics.update(places(BATCH, CPU), numbers(BATCH, CLASSES), places(BATCH) % CLASSES, 0)
