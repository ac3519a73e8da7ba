import pytest
import torch

from overread.architectures.heads import check_classes, check_weights
from overread.errors import UserError
from overread.records import Extra, Needs
from overread.testing.architectures import ArchitectureContract, raised, toy_batch
from overread.testing.tiny import TinySegmenter, tiny_architecture


def test_toy_labels_follow_the_image():
    batch = toy_batch((8, 8), channels=2, classes=3, annotators=2)
    assert batch.images.shape == (3, 2, 8, 8)
    assert batch.labels.shape == (3, 2, 8, 8)
    assert set(batch.labels.unique().tolist()) == {0, 1, 2}
    assert (batch.labels[:, 0] == 0).equal(batch.images[:, 0] <= 0.7)
    assert torch.equal(batch.images, toy_batch((8, 8), channels=2).images)


def test_raised_wants_a_user_error():
    def fail() -> None:
        raise UserError("this")

    assert raised(fail) == "this"
    with pytest.raises(AssertionError):
        raised(lambda: None)


def test_toy_batch_has_all_that_is_needed():
    needs = Needs(pairs=True, annotators=True, instances=True, extras={"map": Extra(2, "v1")})
    batch = toy_batch((8, 8), channels=1, needs=needs)
    assert batch.labels.shape == (3, 2, 8, 8)
    assert batch.valid.shape == (3, 2)
    assert batch.extras["map"].shape == (3, 2, 8, 8)
    assert torch.equal(batch.instances > 0, batch.labels[:, 0] > 0)
    assert batch.partner.partner is None
    assert batch.partner.extras["map"].shape == (3, 2, 8, 8)
    assert not torch.equal(batch.partner.images, batch.images)
    plain = toy_batch((8, 8))
    assert (plain.extras, plain.partner, plain.instances) == ({}, None, None)


class Demanding(TinySegmenter):
    """Uses a partner, two annotators and a map of its own making."""

    def __init__(self, options, *, in_channels, classes, spatial_dims=2, losses=None):
        check_classes(classes)
        super().__init__(options, in_channels=in_channels, classes=classes, spatial_dims=spatial_dims, losses=losses)
        check_weights(self.weights)
        self.needs = Needs(pairs=True, annotators=True, extras={"map": Extra(1, "v1")})

    def case_inputs(self, image):
        return {"map": image[:1]}

    def relation_sets(self):
        return {"c": ("main", "factor_2")}

    def forward(self, batch, part=0):
        assert batch.labels.shape[1] >= 2
        assert batch.extras["map"].shape == batch.partner.extras["map"].shape
        own, other = (super(Demanding, self).forward(b)["loss"] for b in (batch, batch.partner))
        loss = (own + other) / 2
        return {"ce": loss.detach(), "loss": loss}

    def read(self, batch, *, variant=None, anchors=None, generator=None):
        assert batch.extras["map"].shape[1] == 1
        return super().read(batch, variant=variant)


@pytest.fixture(autouse=True, scope="module")
def registered():
    with tiny_architecture(Demanding, "demanding"):
        yield


class TestDemanding(ArchitectureContract):
    name = "demanding"
    size = (8, 8)
    module = Demanding.__module__.rpartition(".")[2]


def test_a_module_may_register_several_names():
    contract = ArchitectureContract()
    contract.name = "unet_sharp"
    contract.test_registered_in_the_module_of_its_name()
    contract.module = "unet"
    with pytest.raises(AssertionError):
        contract.test_registered_in_the_module_of_its_name()
    contract.module, contract.name = "", "demanding"
    with pytest.raises(AssertionError):
        contract.test_registered_in_the_module_of_its_name()
