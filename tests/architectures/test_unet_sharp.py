# ruff: noqa: RUF012  (settings of a contract suite are constants)
import math

import pytest
import torch

from overread.architectures import ARCHITECTURES, count_parameters
from overread.architectures.unet_sharp import UNetSharp, UNetSharpOptions, UNetSharpSegmenter
from overread.errors import UserError
from overread.records import MAIN
from overread.testing.architectures import ArchitectureContract, toy_batch


def count(**options: object) -> int:
    with torch.device("meta"):
        return count_parameters(ARCHITECTURES["unet_sharp"].build(options, in_channels=3, classes=2))


def solid(**options: object) -> int:
    with torch.device("meta"):
        built = ARCHITECTURES["unet_sharp"].build(
            {"encoder": "v_net", "width": 16, "projection_factor": 2} | options,
            in_channels=1,
            classes=2,
            spatial_dims=3,
        )
    return count_parameters(built)


def segmenter(**options: object) -> UNetSharpSegmenter:
    torch.manual_seed(0)
    built = UNetSharpSegmenter(UNetSharpOptions(**({"width": 4} | options)), in_channels=1, classes=3)
    built(toy_batch((32, 32) if "resnet" in str(options) else (16, 16)))  # running statistics that are not the initial
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


class TestFullScaleDeepVGG(ArchitectureContract):
    name = "unet_sharp"
    options = {"width": 2, "wiring": "full_scale", "encoder": "vgg16", "deep_supervision": True}
    size = (32, 48)


class TestVNetSharp(ArchitectureContract):
    name = "unet_sharp"
    options = {"width": 2, "encoder": "v_net", "level": 2, "deep_supervision": True, "projection_factor": 2}
    size = (8, 8, 16)


class TestGuided(ArchitectureContract):
    name = "unet_sharp"
    options = {"width": 4, "level": 2, "deep_supervision": True, "guidance": True}
    size = (16, 16)


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
        (0, 1): (96, 96), (3, 1): (768, 768),
        (0, 2): (256, 160), (1, 2): (512, 288), (2, 2): (1024, 544),
        (0, 3): (544, 224), (1, 3): (1088, 384), (0, 4): (1088, 288),
    }  # fmt: skip
    assert {node: (direct.inputs(node), project.inputs(node)) for node in wanted} == wanted
    assert sorted(project.projections) == ["x20", "x21", "x22", "x30", "x31", "x40"]


def test_a_row_can_be_switched_off():
    with torch.device("meta"):
        network = UNetSharp(UNetSharpOptions(intra=(True, False, False)), in_channels=3)
    assert network.inputs((0, 4)) == 288
    assert network.inputs((1, 3)) == 3 * 64 + 128
    assert network.inputs((2, 2)) == 2 * 128 + 256
    assert sorted(network.projections) == ["x20", "x21", "x22", "x30", "x31", "x40"]


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
    assert sorted(small.network.nodes) == sorted(f"x{i}{j}" for i in range(level) for j in range(1, level - i + 1))
    assert len(small.network.encoder.channels) == level + 1
    assert list(small.heads) == [f"x0{level}"]
    assert count_parameters(small) < count_parameters(deep)
    assert small.needs.size_multiple == 2**level
    expected = deep.read(batch, variant=deep.variant(f"level_{level}")).probabilities
    assert torch.equal(small.read(batch).probabilities, expected)


@pytest.mark.parametrize("options", [{}, {"wiring": "nested"}, {"guidance": True}, {"inference": "deepest"}])
def test_the_heads_of_one_pass_read_what_their_levels_read_alone(options):
    deep, batch = segmenter(deep_supervision=True, level=3, **options), toy_batch((16, 16))
    heads = dict(deep.read(batch).alternatives())
    assert list(heads) == ["level_1", "level_2", "level_3"]
    for name, probabilities in heads.items():
        assert torch.equal(probabilities, deep.read(batch, variant=deep.variant(name)).probabilities)
        assert torch.equal(probabilities, deep.pruned(int(name[-1])).read(batch).probabilities)


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
    with pytest.raises(UserError, match=r"trained head \(1, 2, 3\), but got 4"):
        segmenter(deep_supervision=True, level=3).pruned(4)


def test_what_reads_one_head_stands_alone():
    deep = segmenter(deep_supervision=True, inference="deepest")
    batch = toy_batch((16, 16))
    for name, level in (("level_2", 2), (MAIN, 4)):
        variant = deep.variant(name)
        alone = deep.alone(variant)
        assert alone is not None
        assert alone.options["level"] == level
        assert torch.equal(alone.segmenter.read(batch).probabilities, deep.read(batch, variant=variant).probabilities)
    assert deep.alone(deep.variant("accurate")) is None
    assert segmenter().alone(segmenter().variant(MAIN)) is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"wiring": "plain"}, 7_852_545),
        ({"wiring": "plain", "width": 35}, 9_392_916),
        ({"wiring": "nested"}, 9_163_329),
        ({"wiring": "nested", "deep_supervision": True}, 9_163_428),
        ({"wiring": "full_scale"}, 9_787_905),
    ],
)
def test_parameters_of_the_relatives(options, expected):
    assert count(**options) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"wiring": "plain"}, 26_388_385),
        ({"wiring": "plain", "width": 18}, 33_396_373),
        ({"wiring": "nested"}, 27_370_945),
        ({"wiring": "full_scale"}, 27_839_905),
        ({}, 28_200_641),
        ({"connection": "direct"}, 28_559_809),
        ({"projection_factor": 1}, 27_785_793),
    ],
)
def test_parameters_of_the_3d_family(options, expected):
    assert solid(**options) == expected


def test_v_net_sharp_is_within_one_per_cent_of_the_paper():
    published = ARCHITECTURES["unet_sharp"].published_parameters
    for name in ("v_net_sharp", "v_net_sharp_direct"):
        assert abs(published(name) / 28.37e6 - 1) < 0.01


def test_relatives_with_deep_supervision_have_the_branches_of_their_nodes():
    def names(wiring: str) -> list[str]:
        return list(segmenter(wiring=wiring, deep_supervision=True).heads)

    assert names("plain") == names("full_scale") == ["x04", "x13", "x22", "x31", "x40"]
    assert names("nested") == ["x01", "x02", "x03", "x04"]
    full = segmenter(wiring="full_scale", deep_supervision=True)
    assert [v.name for v in full.variants()] == [MAIN]
    assert full.alone(full.variant(MAIN)) is not None


def test_the_gate_of_a_branch_silences_it():
    guided = segmenter(deep_supervision=True, guidance=True, level=2)
    plain = segmenter(deep_supervision=True, level=2)
    plain.load_state_dict({k: v for k, v in guided.state_dict().items() if not k.startswith("guides.")})
    for guide in guided.guides.values():
        torch.nn.init.zeros_(guide.layers[-1].weight)
        guide.layers[-1].bias.data = torch.tensor([0.0, 1.0, 1.0, 0.0])  # class 1: absent 0, present 1; class 2: absent
    batch = toy_batch((16, 16))
    for name in ("level_1", "level_2"):
        found = guided._foregrounds(batch.images, guided.variant(name))[name][0]
        expected = plain._foregrounds(batch.images, plain.variant(name))[name][0]
        torch.testing.assert_close(found[:, 0], expected[:, 0])
        assert (found[:, 1] == 0).all()
        p, absent = guided._foregrounds(batch.images, guided.variant(name))[name]
        torch.testing.assert_close(absent, 1 - p)


def test_the_presence_term_is_the_mean_over_branches_and_classes():
    guided = segmenter(deep_supervision=True, guidance=True, level=1)
    for guide in guided.guides.values():
        torch.nn.init.zeros_(guide.layers[-1].weight)
        guide.layers[-1].bias.data = torch.tensor([0.0, 0.0, math.log(3), math.log(3)])  # presence 3/4
    batch = toy_batch((4, 4), samples=1)
    batch.labels = torch.zeros_like(batch.labels)
    batch.labels[0, 0, 1, 1] = 1  # class 1 is there, class 2 is not
    assert guided(batch)["presence"].item() == pytest.approx(-(math.log(3 / 4) + math.log(1 / 4)) / 2)


@pytest.mark.parametrize(
    ("guidance", "weight", "message"),
    [
        (True, 0.0, "presence must be > 0 with guidance"),
        (True, -3.0, "presence must be > 0 with guidance"),
        (True, math.nan, "presence must be > 0 with guidance"),
        (False, -3.0, "presence must come with guidance, but got -3.0"),
        (False, 0.3, "presence must come with guidance, but got 0.3"),
    ],
)
def test_the_weight_of_presence_needs_the_guidance_and_the_guidance_it(guidance, weight, message):
    options = UNetSharpOptions(width=4, level=1, guidance=guidance)
    with pytest.raises(UserError, match=message):
        UNetSharpSegmenter(options, in_channels=1, classes=2, losses={"presence": weight})


def test_a_pruned_network_keeps_its_loss_weights():
    options = UNetSharpOptions(width=4, level=2, guidance=True, deep_supervision=True)
    guided = UNetSharpSegmenter(options, in_channels=1, classes=2, losses={"presence": 0.3, "dice": 0.5})
    small = guided.pruned(1)
    assert small.presence_weight == 0.3
    assert small.loss_weights == {"focal": 0.5, "dice": 0.5, "lovasz": 0.5}
    assert UNetSharpSegmenter(UNetSharpOptions(width=4), in_channels=1, classes=2).presence_weight == 1.0


def test_one_sample_cannot_train_the_guidance():
    guided = segmenter(guidance=True).train()
    with pytest.raises(UserError, match="at least 2 samples"):
        guided(toy_batch((32, 32), samples=1))


def test_a_residual_encoder_reads_at_the_full_size():
    # (the contract suite's toy of single bright pixels cannot be learnt at half the resolution)
    built = segmenter(encoder="resnet50", deep_supervision=True)
    built(toy_batch((64, 64)))["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in built.parameters())
    assert built.read(toy_batch((64, 64))).probabilities.shape == (3, 3, 64, 64)
    assert built.needs.size_multiple == 32
    maps = built.network.features(torch.zeros(1, 1, 64, 64)).deep
    assert {name: maps[name].shape[-1] for name in built.heads} == {
        "x01": 64, "x02": 64, "x03": 64, "x04": 64, "x13": 16, "x22": 8, "x31": 4, "x40": 2,
    }  # fmt: skip


@pytest.mark.parametrize("options", [{"level": 0}, {"level": 5}, {"width": 0}, {"connection": "x"}, {"intra": [True]}])
def test_wrong_options_are_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        UNetSharpOptions.from_json(options)
