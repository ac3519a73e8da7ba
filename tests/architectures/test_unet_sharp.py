# ruff: noqa: RUF012  (settings of a contract suite are constants)
import pytest
import torch

from overread.architectures import ARCHITECTURES, count_parameters
from overread.architectures.unet_sharp import UNetSharp, UNetSharpOptions, UNetSharpSegmenter, nodes_up_to
from overread.errors import UserError
from overread.records import MAIN
from overread.testing.architectures import ArchitectureContract, toy_batch


def count(**options: object) -> int:
    with torch.device("meta"):
        return count_parameters(ARCHITECTURES["unet_sharp"].build(options, in_channels=3, classes=2))


def segmenter(**options: object) -> UNetSharpSegmenter:
    torch.manual_seed(0)
    built = UNetSharpSegmenter(UNetSharpOptions(**({"width": 4} | options)), in_channels=1, classes=3)
    built(toy_batch((16, 16)))  # running statistics that are not the initial ones
    return built.eval()


class TestUNetSharp(ArchitectureContract):
    name = "unet_sharp"
    options = {"width": 4, "level": 3}
    size = (16, 24)


class TestUNetSharpDirectDeep(ArchitectureContract):
    name = "unet_sharp"
    options = {"width": 2, "connection": "direct", "deep_supervision": True}
    size = (32, 32)
    classes = 4


class TestUNetSharpProjectFirstDeep(ArchitectureContract):
    name = "unet_sharp"
    options = {"width": 4, "level": 2, "deep_supervision": True, "project_first": True, "intra": [True, False, False]}
    losses = {"focal": 0.0, "lovasz": 0.0}
    size = (8, 8)


@pytest.mark.parametrize(
    ("connection", "level", "expected"),
    [
        ("project", 1, 103_041),
        ("project", 2, 565_281),
        ("project", 3, 2_429_857),
        ("project", 4, 9_716_545),
        ("direct", 1, 103_041),
        ("direct", 2, 555_969),
        ("direct", 3, 2_531_073),
        ("direct", 4, 10_748_481),
    ],
)
def test_parameters_of_every_level(connection, level, expected):
    assert count(connection=connection, level=level) == expected


def test_parameters_with_deep_supervision_and_of_the_published_setting():
    assert count(deep_supervision=True) == 9_725_288
    assert count(connection="direct", deep_supervision=True) == 10_757_224
    assert ARCHITECTURES["unet_sharp"].published_parameters() == 9_716_545


@pytest.mark.parametrize("connection", ["project", "direct"])
def test_without_intra_connections_it_is_unet_plus_plus(connection):
    assert count(connection=connection, intra=[False] * 3) == 9_163_329


def test_projecting_first_has_the_same_weights():
    assert count(project_first=True) == 9_716_545


def test_inputs_of_every_node_are_those_of_the_fact_sheet():
    with torch.device("meta"):
        project = UNetSharp(UNetSharpOptions(), in_channels=3)
        direct = UNetSharp(UNetSharpOptions(connection="direct"), in_channels=3)
    wanted = {
        (0, 0): (3, 3), (1, 0): (32, 32), (4, 0): (256, 256),
        (0, 1): (96, 96), (3, 1): (768, 768),
        (0, 2): (256, 160), (1, 2): (512, 288), (2, 2): (1024, 544),
        (0, 3): (544, 224), (1, 3): (1088, 384), (0, 4): (1088, 288),
    }  # fmt: skip
    assert {node: (direct.inputs(node), project.inputs(node)) for node in wanted} == wanted
    assert sorted(project.projections) == ["x20", "x21", "x22", "x30", "x31", "x40"]
    assert project.intra_sources((0, 4)) == [(2, 2), (3, 1), (4, 0)]


def test_a_row_can_be_switched_off():
    with torch.device("meta"):
        network = UNetSharp(UNetSharpOptions(intra=(True, False, False)), in_channels=3)
    assert network.inputs((0, 4)) == 288
    assert network.inputs((1, 3)) == 3 * 64 + 128
    assert network.inputs((2, 2)) == 2 * 128 + 256
    assert sorted(network.projections) == ["x20", "x21", "x22", "x30", "x31", "x40"]


def test_lower_levels_are_a_prefix_of_the_nodes():
    assert list(nodes_up_to(1)) == [(0, 0), (1, 0), (0, 1)]
    assert list(nodes_up_to(4))[:6] == list(nodes_up_to(2))
    assert len(list(nodes_up_to(4))) == 15


def test_branches_and_their_resolution():
    deep = segmenter(deep_supervision=True)
    assert list(deep.heads) == ["x01", "x02", "x03", "x04", "x13", "x22", "x31", "x40"]
    maps = deep.network.features(torch.zeros(1, 1, 32, 32)).deep
    assert [maps[name].shape[-1] for name in deep.heads] == [32, 32, 32, 32, 16, 8, 4, 2]
    assert list(segmenter().heads) == ["x04"]


def test_the_loss_is_the_mean_over_branches_against_the_pooled_truth():
    # All heads say p = 1/2 (logit 0) everywhere; one foreground voxel is 1/4 of the image at level 1.
    deep = segmenter(deep_supervision=True, level=1)
    for head in deep.heads.values():
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
    batch = toy_batch((4, 4), samples=1)
    batch.labels = torch.zeros_like(batch.labels)
    batch.labels[0, 0, 1, 1] = 1
    # class 1: 1 - (2*0.5 + 1)/(1 + 8 + 1) at full size, 1 - (2*0.5 + 1)/(1 + 2 + 1) pooled to 2 x 2; class 2 is empty
    full = (1 - 2 / 10 + 1 - 1 / 9) / 2
    pooled = (1 - 2 / 4 + 1 - 1 / 3) / 2
    assert deep(batch)["dice"].item() == pytest.approx((full + pooled) / 2)


def test_accurate_mode_is_the_mean_of_the_level_0_sigmoids():
    deep = segmenter(deep_supervision=True)
    batch = toy_batch((16, 16))
    maps = deep.network.features(batch.images).deep
    p = torch.stack([deep.heads[f"x0{j}"](maps[f"x0{j}"]).sigmoid() for j in range(1, 5)]).mean(0)
    background = (1 - p[:, 0]) * (1 - p[:, 1])
    expected = background / (background + p.sum(1))
    torch.testing.assert_close(deep.read(batch).probabilities[:, 0], expected)


def test_the_deepest_head_may_be_the_main_reading():
    deep = segmenter(deep_supervision=True, inference="deepest")
    batch = toy_batch((16, 16))
    main, accurate, level_4 = (
        deep.read(batch, variant=deep.variant(name)).probabilities for name in (MAIN, "accurate", "level_4")
    )
    torch.testing.assert_close(main, level_4, rtol=0, atol=0)
    torch.testing.assert_close(deep.read(batch).probabilities, main, rtol=0, atol=0)
    assert not torch.allclose(main, accurate)


def test_variants_are_the_trained_levels_and_cost_less_below():
    deep = segmenter(deep_supervision=True, level=3)
    names = [v.name for v in deep.variants()]
    costs = [v.cost for v in deep.variants()]
    assert names == [MAIN, "accurate", "level_1", "level_2", "level_3"]
    assert costs[0] == costs[1] == costs[4] == 1
    assert costs[2] < costs[3] < 1
    assert [v.name for v in segmenter().variants()] == [MAIN]
    assert list(segmenter().read(toy_batch((16, 16))).alternatives()) == []
    assert [name for name, _ in deep.read(toy_batch((16, 16))).alternatives()] == names[2:]


@pytest.mark.parametrize("connection", ["project", "direct"])
@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_pruning_gives_a_smaller_network_with_the_reading_of_its_level(connection, level):
    deep, batch = segmenter(deep_supervision=True, connection=connection), toy_batch((16, 16))
    small = deep.pruned(level)
    assert sorted(small.network.nodes) == sorted(f"x{i}{j}" for i, j in nodes_up_to(level))
    assert list(small.heads) == [f"x0{level}"]
    assert count_parameters(small) < count_parameters(deep)
    assert small.needs.size_multiple == 2**level
    expected = deep.read(batch, variant=deep.variant(f"level_{level}")).probabilities
    assert torch.equal(small.read(batch).probabilities, expected)


def test_a_pruned_network_owns_its_weights():
    deep, batch = segmenter(deep_supervision=True), toy_batch((16, 16))
    before = deep.read(batch).probabilities
    small = deep.pruned(2)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.zero_()
    assert torch.equal(deep.read(batch).probabilities, before)
    assert all(parameter.requires_grad for parameter in small.parameters())


def test_a_level_without_head_cannot_be_pruned_to():
    with pytest.raises(UserError, match=r"trained head \(4\), but got 2"):
        segmenter().pruned(2)


@pytest.mark.parametrize("options", [{"level": 0}, {"level": 5}, {"width": 0}, {"connection": "x"}, {"intra": [True]}])
def test_wrong_options_are_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        UNetSharpOptions.from_json(options)
