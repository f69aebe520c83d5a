# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Frozen backbones of every family: nothing superfluous, nothing trained, the right maps, sizes that fit."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from anomalib_grad.backbone import FrozenBackbone, default_layers, list_feature_maps, select_layers
from anomalib_grad.backbone.remove_unused import Unused, cut_unused

# backbone, image size, layers taken by default, strides
FAMILIES = [
    ("resnet18", (64, 96), ["layer2", "layer3"], (8, 16)),
    ("mobilenetv2_100", (64, 64), ["blocks.2", "blocks.4"], (8, 16)),
    ("mobilenetv3_small_050", (64, 64), ["blocks.1", "blocks.3"], (8, 16)),
    ("efficientnet_b0", (64, 64), ["blocks.2", "blocks.4"], (8, 16)),
    ("convnext_atto", (64, 64), ["stages.1", "stages.2"], (8, 16)),
    ("vit_tiny_patch16_224", (64, 96), ["blocks.5", "blocks.8"], (16, 16)),
    ("vit_small_patch14_dinov2", (56, 84), ["blocks.5", "blocks.8"], (14, 14)),
    ("swin_tiny_patch4_window7_224", (64, 96), ["layers.1", "layers.2"], (8, 16)),
    ("mambaout_femto", (64, 64), ["stages.1", "stages.2"], (8, 16)),
    ("regnetx_002", (64, 64), ["s2", "s3"], (8, 16)),
    ("densenet121", (64, 64), ["features.denseblock2", "features.denseblock3"], (8, 16)),
    ("grad_tiny", (64, 96), ["adapter8", "adapter16"], (8, 16)),
]


def images_of(size: tuple[int, int], batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "size", "layers", "strides"), FAMILIES, ids=str)
def test_every_family(name, size, layers, strides):
    torch.manual_seed(0)
    backbone = FrozenBackbone(name, pre_trained=False, image_size=size)
    images = images_of(size)
    features = backbone(images)

    assert backbone.layers == layers
    assert tuple(m.stride for m in backbone.maps) == strides
    assert backbone.feature_size == (size[0] // strides[0], size[1] // strides[0])
    assert features.shape == (2, backbone.channels, *backbone.feature_size)
    assert not features.requires_grad
    assert features.std() > 0
    torch.testing.assert_close(features[1:], backbone(images[1:]), rtol=1e-3, atol=1e-4)

    # nothing is held that the features do not depend on
    parameters = dict(backbone.network.named_parameters())
    with torch.enable_grad():
        for parameter in parameters.values():
            parameter.requires_grad_()
        outputs = backbone.network(images)
    gradients = torch.autograd.grad(sum(o.sum() for o in outputs), list(parameters.values()), allow_unused=True)
    assert [n for n, gradient in zip(parameters, gradients, strict=True) if gradient is None] == []

    # and the cut changes no map
    whole = timm.create_model(
        name,
        features_only=True,
        out_indices=[m.place for m in backbone.maps],
        **({"img_size": size} if timm.get_pretrained_cfg(name).fixed_input_size else {}),
    ).eval()
    whole.load_state_dict({**whole.state_dict(), **backbone.network.state_dict()})
    with torch.no_grad():
        maps = [
            m if m.shape[1] == f.channels else m.movedim(-1, 1)
            for m, f in zip(whole(images), backbone.maps, strict=True)
        ]
    torch.testing.assert_close(features[:, : backbone.maps[0].channels], maps[0], rtol=1e-4, atol=1e-5)
    coarse = functional.interpolate(maps[1], backbone.feature_size, mode="bilinear", align_corners=True)
    torch.testing.assert_close(features[:, backbone.maps[0].channels :], coarse, rtol=1e-4, atol=1e-5)


def test_efficientnet_b4_is_cut_to_the_published_size():
    backbone = FrozenBackbone(pre_trained=False)
    assert round(sum(p.numel() for p in backbone.parameters()) / 1e6, 1) == 3.6
    assert (backbone.channels, backbone.feature_size) == (216, (28, 28))
    assert backbone.layers == ["blocks.2", "blocks.4"]


@pytest.mark.parametrize(
    ("name", "layers"),
    [("grad_tiny", ["adapter8"]), ("efficientnet_b0", ["blocks.0"]), ("vit_tiny_patch16_224", ["blocks.1"])],
)
def test_a_chosen_layer_keeps_only_what_leads_to_it(name, layers):
    backbone = FrozenBackbone(name, layers, pre_trained=False, image_size=(64, 64))
    ahead = [parameter for parameter in backbone.network.parameters() if parameter.requires_grad_() is not None]
    with torch.enable_grad():
        gradients = torch.autograd.grad(backbone.network(images_of((64, 64)))[0].sum(), ahead, allow_unused=True)
    assert all(gradient is not None for gradient in gradients)
    assert backbone.channels == backbone.maps[0].channels


@pytest.mark.parametrize(("name", "most"), [("hrnet_w18_small", 1.9e6), ("pit_ti_224", 1.4e6)])
def test_families_that_timm_does_not_cut_at_all(name, most):
    backbone = FrozenBackbone(name, pre_trained=False, image_size=(64, 64))
    assert sum(parameter.numel() for parameter in backbone.parameters()) < most


class Branching(nn.Module):
    """Adds the output of a module without effect: leaving it out would break the addition of shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.narrow = nn.Conv2d(4, 2, 1)
        self.side = nn.Conv2d(4, 2, 1)
        self.tail = nn.Linear(2, 2)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        x = self.stem(images)
        self.tail((self.narrow(x) + self.side(x)[:, :2]).mean(dim=(2, 3)))
        return [x]


def test_a_module_that_the_network_cannot_run_without_stays():
    network = Branching().eval()
    replaced = cut_unused(network, images_of((4, 4)))
    assert "tail" in replaced
    assert isinstance(network.tail, Unused)
    assert isinstance(network.stem, nn.Conv2d)
    assert not {"stem"} & set(replaced)
    assert network(images_of((4, 4)))[0].shape == (2, 4, 4, 4)


def test_frozen_means_eval_mode_no_gradients_and_no_change():
    backbone = FrozenBackbone("mobilenetv3_small_050", pre_trained=False, image_size=(64, 64))
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    model = nn.Sequential(backbone, nn.Conv2d(backbone.channels, 1, 1)).train()
    assert model.training
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    model(images_of((64, 64))).sum().backward()
    assert all(parameter.grad is None for parameter in backbone.parameters())
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_normalisation_is_the_backbones_own():
    imagenet = FrozenBackbone("resnet18", pre_trained=False, image_size=(32, 32))
    assert (imagenet.mean, imagenet.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    halves = FrozenBackbone("vit_tiny_patch16_224.augreg_in21k", pre_trained=False, image_size=(32, 32))
    assert (halves.mean, halves.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_random_weights_follow_the_seed_and_pretrained_ones_leave_it_alone():
    def draw(pre_trained: bool | str) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(5)
        backbone = FrozenBackbone("grad_tiny", pre_trained=pre_trained, image_size=(32, 32))
        return backbone.network.adapter8.weight, torch.rand(3)

    first, second = draw(pre_trained=False), draw(pre_trained=False)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.manual_seed(5)
    assert torch.equal(draw(pre_trained="given later")[1], torch.manual_seed(5) and torch.rand(3))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet81", "unknown backbone 'resnet81': timm has no model of that name"),
        ("mobilenetv2", "similar names: .*mobilenetv2_100"),
        (
            "resnet18.no_such_tag",
            r"no pretrained weights with tag 'no_such_tag'; choose one of resnet18, resnet18\.a1_in1k",
        ),
    ],
)
def test_an_unknown_backbone_is_refused_with_names_that_exist(name, message):
    with pytest.raises(ValueError, match=message):
        FrozenBackbone(name, pre_trained=False)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["layer9"], r"no layer 'layer9'; it offers: act1 \(stride 2, 64 channels\), layer1 .*layer4 \(stride 32"),
        (["layer2", "layer2"], "needs one or more different layers"),
        ([], "needs one or more different layers"),
    ],
)
def test_an_unknown_layer_is_refused_with_those_that_exist(layers, message):
    with pytest.raises(ValueError, match=message):
        FrozenBackbone("resnet18", layers, pre_trained=False)


def test_layers_are_sorted_finest_first():
    backbone = FrozenBackbone("resnet18", ["layer3", "layer1", "layer2"], pre_trained=False, image_size=(64, 64))
    assert backbone.layers == ["layer1", "layer2", "layer3"]
    assert backbone(images_of((64, 64))).shape == (2, 64 + 128 + 256, 16, 16)


def test_defaults_without_maps_at_stride_8_and_16():
    assert [m.stride for m in default_layers(list_feature_maps("efficientvit_m0"))] == [16, 32]
    assert [m.name for m in default_layers(list_feature_maps("deit_tiny_patch16_224"))] == ["blocks.5", "blocks.8"]


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("mobilenetv2_050", ["blocks.4"]),
        ("resnet18", ["layer3"]),
        ("efficientvit_m0", ["stages.1"]),  # strides 16 and 32
        ("deit_tiny_patch16_224", ["blocks.8"]),  # one stride
    ],
)
def test_coarsest_is_the_last_of_the_default_layers(name, layers):
    assert [m.name for m in select_layers(name, "coarsest")] == layers


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("mobilenetv2_050", ["blocks.3", "blocks.4"]),
        ("ghostnet_100", ["blocks.5", "blocks.6"]),  # timm lists the first of the two
        ("tf_efficientnet_b4", ["blocks.3", "blocks.4"]),  # 380 pixels are no multiple of the stride
        ("rdnet_tiny", ["dense_stages.4", "dense_stages.5"]),  # the last two of four
        ("vgg11", ["features.19"]),  # whose layers between two pools are no stages
        ("resnet18", ["layer3"]),
        ("deit_tiny_patch16_224", ["blocks.8"]),
    ],
)
def test_coarsest_stages_are_the_last_two_of_that_stride(name, layers):
    maps = select_layers(name, "coarsest_stages")
    assert [m.name for m in maps] == layers
    assert len({m.stride for m in maps}) == 1


@pytest.mark.parametrize("name", ["mobilenetv2_050", "ghostnet_100"])
def test_threads_that_share_a_backbone_get_the_features_of_their_own_images(name):
    backbone = FrozenBackbone(name, "coarsest_stages", pre_trained=False, image_size=(64, 64))
    images = torch.rand(4, 1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = [backbone(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(backbone, [*images] * 16)]
    for features, own in zip(found, expected * 16, strict=True):
        torch.testing.assert_close(features, own)


def test_stages_that_timm_does_not_list_give_the_features_that_they_compute():
    torch.manual_seed(0)
    backbone = FrozenBackbone(
        "mobilenetv2_050", ["blocks.3", "blocks.1", "blocks.4"], pre_trained=False, image_size=(64, 96)
    )
    whole = timm.create_model("mobilenetv2_050").eval()
    whole.load_state_dict(backbone.network.state_dict(), strict=False)
    images = torch.rand(2, 3, 64, 96)
    _, *stages = whole.forward_intermediates(images, extra_blocks=True, intermediates_only=True)
    maps = backbone.feature_maps(images)
    torch.testing.assert_close(maps, [stages[1], stages[3], stages[4]], rtol=1e-4, atol=1e-5)
    assert [feature_map.channels for feature_map in backbone.maps] == [m.shape[1] for m in maps]
    assert not any(module._forward_hooks for module in backbone.modules())  # a pickle would hold them


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("mobilenetv2_050", "blocks.2"),  # strides 2 to 32
        ("swin_tiny_patch4_window7_224", "layers.1"),  # strides 4 to 32
        ("efficientvit_m0", "stages.1"),  # strides 16, 32 and 64
        ("deit_tiny_patch16_224", "blocks.5"),  # 12 blocks
        ("grad_tiny", "adapter8"),
    ],
)
def test_middle_is_the_map_halfway_through_the_backbone(name, layer):
    assert [m.name for m in select_layers(name, "middle")] == [layer]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vit_small_patch14_dinov2", (64, 100)),  # not a multiple of the patch
        ("vit_tiny_patch16_224", (60, 64)),  # a rest of 12 pixels would silently be left out
        ("swin_tiny_patch4_window7_224", (61, 90)),
        ("hrnet_w18_small", (40, 40)),  # needs more than multiples of its maps' strides
        ("densenet121", (3, 3)),  # nothing is left after pooling
        ("resnet18", (0, 64)),
    ],
)
def test_an_image_size_that_does_not_fit_is_refused_with_one_that_does(name, size):
    with pytest.raises(ValueError, match=rf"'{name}' cannot take images of {size[0]} x {size[1]} pixels") as raised:
        FrozenBackbone(name, pre_trained=False, image_size=size)
    step, height, width = map(
        int, re.search(r"multiples of (\d+), for instance \[(\d+), (\d+)\]", str(raised.value)).groups()
    )
    assert height % step == width % step == 0
    for factor in (1, 2):
        FrozenBackbone(name, pre_trained=False, image_size=(height * factor, width + factor * step))


@pytest.mark.parametrize(
    ("name", "layers", "size", "least"),
    [
        ("mobilenetv2_050", None, (4, 4), 32),
        ("mobilenetv2_050", None, (16, 64), 32),  # one cell high
        ("resnet18", ["layer2", "layer4"], (32, 32), 64),
        ("grad_tiny", None, (8, 8), 32),
        ("tf_efficientnet_b4.aa_in1k", None, (15, 15), 32),
        ("vit_tiny_patch16_224", None, (16, 16), 32),
    ],
)
def test_an_image_too_small_for_the_maps_is_refused_with_the_least_size(name, layers, size, least):
    with pytest.raises(ValueError, match=rf"{size[0]} x {size[1]} pixels are too small for layer .*at least \[{least}"):
        FrozenBackbone(name, layers, pre_trained=False, image_size=size)
    backbone = FrozenBackbone(name, layers, pre_trained=False, image_size=(least, least))
    assert backbone(images_of((least, least))).isfinite().all()


def test_a_backbone_of_one_size_says_which():
    with pytest.raises(ValueError, match=r"choose image_size=\[240, 240\], the size that it was trained at"):
        FrozenBackbone("crossvit_tiny_240", pre_trained=False, image_size=(64, 64))
