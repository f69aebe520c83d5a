# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The embedded backbone: weights in the package, a timm model like any other."""

import socket
from pathlib import Path

import pytest
import skimage.data
import timm
import torch
from safetensors.torch import load_file, save_file

from anomalib_grad.backbone.tiny import WEIGHTS_FILE, create_grad_tiny


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the embedded backbone must not use the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))


def test_weights_are_small_and_half_precision() -> None:
    assert WEIGHTS_FILE.stat().st_size <= 4_000_000
    assert {value.dtype for value in load_file(WEIGHTS_FILE).values()} == {torch.float16}


@pytest.mark.usefixtures("no_network")
def test_the_weights_come_with_the_package() -> None:
    backbone = create_grad_tiny()
    assert not backbone.training
    assert {value.dtype for value in backbone.parameters()} == {torch.float32}
    stored = load_file(WEIGHTS_FILE)
    state = backbone.state_dict()
    assert state.keys() - stored.keys() == {name for name in state if name.endswith("num_batches_tracked")}
    for name, value in stored.items():
        torch.testing.assert_close(state[name], value.float(), atol=0, rtol=0)


def test_maps_at_stride_8_and_16(images: torch.Tensor) -> None:
    fine, coarse = create_grad_tiny()(images)
    assert fine.shape == (2, 32, 12, 8)
    assert coarse.shape == (2, 96, 6, 4)


def test_features_have_the_scale_of_normalised_channels() -> None:
    """Distilled from channels of unit variance, so natural pictures give values of order one."""
    picture = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1)[None].float() / 255
    config = timm.get_pretrained_cfg("grad_tiny")
    normalised = (picture - torch.tensor(config.mean).view(3, 1, 1)) / torch.tensor(config.std).view(3, 1, 1)
    with torch.no_grad():
        for features in create_grad_tiny()(normalised):
            assert 0.3 < features.square().mean() < 2


@pytest.mark.usefixtures("no_network")
def test_timm_builds_it_like_any_other_backbone(images: torch.Tensor) -> None:
    assert timm.is_model("grad_tiny")
    assert timm.is_model_pretrained("grad_tiny")
    config = timm.get_pretrained_cfg("grad_tiny")
    assert config.mean == (0.485, 0.456, 0.406)
    assert config.std == (0.229, 0.224, 0.225)
    both = timm.create_model("grad_tiny", pretrained=True, features_only=True, out_indices=(0, 1)).eval()
    coarse = timm.create_model("grad_tiny", pretrained=True, features_only=True, out_indices=[1]).eval()
    assert [info["module"] for info in both.feature_info] == ["adapter8", "adapter16"]
    assert [info["num_chs"] for info in both.feature_info] == [32, 96]
    assert [info["reduction"] for info in both.feature_info] == [8, 16]
    torch.testing.assert_close(both(images)[1], coarse(images)[0])
    torch.testing.assert_close(both(images)[0], create_grad_tiny()(images)[0])


def test_own_weights_can_take_their_place(tmp_path: Path) -> None:
    own = create_grad_tiny(pretrained=False).state_dict()
    save_file(own, tmp_path / "own.safetensors")
    overlay = {"file": str(tmp_path / "own.safetensors")}
    backbone = timm.create_model("grad_tiny", pretrained=True, features_only=True, pretrained_cfg_overlay=overlay)
    torch.testing.assert_close(backbone.state_dict()["adapter8.weight"], own["adapter8.weight"])


@pytest.mark.parametrize("out_indices", [(), (2,), (-1,)])
def test_unknown_maps_are_refused(out_indices: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="feature maps 0 and 1"):
        timm.create_model("grad_tiny", features_only=True, out_indices=out_indices)
