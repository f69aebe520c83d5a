# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Weights from a file, from the package and from the hub's cache; one clear error where they cannot be had."""

import socket
import time
from pathlib import Path
from zipfile import ZipFile

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor, nn

from anomalib_grad.backbone import FrozenBackbone
from anomalib_grad.backbone.tiny import create_grad_tiny
from anomalib_grad.backbone.weights import BackboneWeightsError, _has_no_network

NAME = "test_resnet.r160_in1k"
SIZE = (32, 32)
IMAGES = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def donor() -> nn.Module:
    """A whole network, classifier included, no tensor of which is what a fresh one starts with."""
    torch.manual_seed(7)
    network = timm.create_model(NAME, pretrained=False)
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.add_(0.1 * torch.rand_like(value))
    return network.eval()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_, **__):
        raise OSError("Network is unreachable")

    for variable in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def assert_weights_of(donor: nn.Module, backbone: FrozenBackbone) -> None:
    backbone.ensure_weights()
    wanted = donor.state_dict()
    state: dict[str, Tensor] = backbone.network.state_dict()
    assert state
    for name, value in state.items():
        torch.testing.assert_close(value, wanted[name], rtol=0, atol=0)
    stride_8 = donor.layer2(donor.layer1(donor.maxpool(donor.act1(donor.bn1(donor.conv1(IMAGES))))))
    torch.testing.assert_close(backbone(IMAGES)[:, : stride_8.shape[1]], stride_8)


def tiny_resnet(pre_trained: bool | str | Path) -> FrozenBackbone:
    return FrozenBackbone(NAME, pre_trained=pre_trained, image_size=SIZE)


# ---------------------------------------------------------------------- a local file


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "ckpt.pth"])
def test_a_local_file_is_read_to_the_last_tensor(donor, tmp_path, suffix, no_network):
    file = tmp_path / f"weights.{suffix}"
    state = donor.state_dict()
    if suffix == "safetensors":
        save_file(state, file)
    else:
        torch.save({"state_dict": state, "epoch": 3} if suffix == "ckpt.pth" else state, file)
    assert_weights_of(donor, tiny_resnet(file))
    assert_weights_of(donor, tiny_resnet(str(file)))


def test_position_embeddings_are_resized_to_the_images(tmp_path):
    donor = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    with torch.no_grad():
        donor.cls_token.add_(1)
        for module in donor.modules():
            if isinstance(module, nn.Linear | nn.LayerNorm):
                module.bias.add_(0.1)
    save_file(donor.state_dict(), tmp_path / "vit.safetensors")
    backbone = FrozenBackbone("vit_tiny_patch16_224", pre_trained=tmp_path / "vit.safetensors", image_size=(48, 64))
    assert backbone(torch.rand(1, 3, 48, 64)).shape == (1, 384, 3, 4)
    torch.testing.assert_close(backbone.network.state_dict()["model.cls_token"], donor.cls_token.detach())


def test_parts_that_are_not_used_are_no_cause_for_a_warning_and_tensors_of_no_part_are(tmp_path, caplog):
    name, file = "test_efficientnet.r160_in1k", tmp_path / "weights.safetensors"
    state = timm.create_model(name, pretrained=False).state_dict()
    for further in ({}, {"neck.weight": torch.ones(1)}):
        save_file(state | further, file)
        FrozenBackbone(name, pre_trained=file, image_size=SIZE).ensure_weights()
        warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert bool(warned) == bool(further)
        assert all("neck.weight" in warning for warning in warned)


def test_weights_are_read_when_first_needed(donor, tmp_path):
    file = tmp_path / "later.safetensors"
    backbone = tiny_resnet(file)
    with pytest.raises(BackboneWeightsError, match="there is no file"):
        backbone(IMAGES)
    save_file(donor.state_dict(), file)
    assert_weights_of(donor, backbone)
    file.unlink()
    backbone(IMAGES)  # they are read once


def test_a_checkpoint_that_brings_weights_needs_no_file(donor, tmp_path):
    backbone = tiny_resnet(tmp_path / "absent.safetensors")
    backbone.network.load_state_dict({name: donor.state_dict()[name] for name in backbone.network.state_dict()})
    backbone.mark_weights_ready()
    assert_weights_of(donor, backbone)


@pytest.mark.parametrize("absent", ["layer1.0.conv1.weight", "bn1.weight", "layer2.0.bn2.running_var"])
def test_a_missing_tensor_is_named_even_where_random_ones_look_alike(donor, tmp_path, absent):
    state = {name: value for name, value in donor.state_dict().items() if name != absent}
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(BackboneWeightsError, match=rf"lacks 1 of .*{absent}.*exactly 'test_resnet"):
        tiny_resnet(tmp_path / "part.safetensors").ensure_weights()


@pytest.mark.parametrize("other", ["test_resnet.r160_in1k", "test_efficientnet", "resnet34"])
def test_weights_of_another_network_are_refused(tmp_path, other):
    """The last one has every tensor of resnet18 in the same shape, and more blocks besides."""
    save_file(timm.create_model(other, pretrained=False).state_dict(), tmp_path / "other.safetensors")
    backbone = FrozenBackbone("resnet18", pre_trained=tmp_path / "other.safetensors", image_size=SIZE)
    with pytest.raises(BackboneWeightsError, match=r"another network .* exactly 'resnet18'|lacks") as raised:
        backbone.ensure_weights()
    assert "\n" not in str(raised.value)


class Bomb:
    """Runs code when it is unpickled by a reader that trusts the file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return Path.touch, (self.proof,)


def test_code_in_a_pth_file_is_not_run(donor, tmp_path):
    file, proof = tmp_path / "bomb.pth", tmp_path / "exploded"
    torch.save({"state_dict": donor.state_dict(), "extra": Bomb(proof)}, file)
    torch.load(file, weights_only=False)
    assert proof.exists(), "the bomb itself must work"
    proof.unlink()
    with pytest.raises(BackboneWeightsError, match="nor a pth file that holds only tensors"):
        tiny_resnet(file).ensure_weights()
    assert not proof.exists()


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 half a zip", bytes(range(256)) * 40])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_garbage_is_refused_in_one_sentence(tmp_path, suffix, content):
    file = tmp_path / f"garbage.{suffix}"
    file.write_bytes(content)
    with pytest.raises(BackboneWeightsError, match=r"cannot read weights .*garbage") as raised:
        tiny_resnet(file).ensure_weights()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": [1]}, {"epoch": 3}, torch.zeros(3)], ids=str)
def test_a_pth_file_of_something_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(BackboneWeightsError, match=r"other\.pth"):
        tiny_resnet(tmp_path / "other.pth").ensure_weights()


@pytest.mark.parametrize(
    "change", [lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8), lambda weight: weight.to("meta")]
)
def test_weights_that_are_not_stored_as_plain_numbers_are_refused_by_name(donor, tmp_path, change):
    torch.save({**donor.state_dict(), "bn1.weight": change(donor.bn1.weight.detach())}, tmp_path / "weights.pth")
    with pytest.raises(
        BackboneWeightsError, match=r"tensor bn1\.weight in .* is quantised or not stored in full; give a file of plain"
    ):
        tiny_resnet(tmp_path / "weights.pth").ensure_weights()


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_that_are_no_numbers_are_refused_by_name(donor, tmp_path, suffix):
    file = tmp_path / f"weights.{suffix}"
    broken = {**donor.state_dict(), "bn1.weight": torch.full_like(donor.bn1.weight, torch.nan)}
    save_file(broken, file) if suffix == "safetensors" else torch.save(broken, file)
    with pytest.raises(
        BackboneWeightsError, match=r"tensor bn1\.weight in .* has NaN or infinite values; give an undamaged file\.$"
    ):
        tiny_resnet(file).ensure_weights()


def test_a_changed_bit_in_a_pth_file_is_noticed(donor, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save(donor.state_dict(), file)
    with ZipFile(file) as archive:
        part = max(archive.infolist(), key=lambda entry: entry.file_size)
    content = bytearray(file.read_bytes())
    content[part.header_offset + part.file_size // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(BackboneWeightsError, match="is damaged"):
        tiny_resnet(file).ensure_weights()


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nothing.pth"):
        with pytest.raises(BackboneWeightsError, match="there is no file"):
            tiny_resnet(path).ensure_weights()


# ---------------------------------------------------------------------- the hub and its cache


def put_into_cache(cache: Path, donor: nn.Module) -> None:
    """Lay a file out as the hub's client does."""
    repository = cache / f"models--timm--{NAME}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(donor.state_dict(), repository / "snapshots" / ("0" * 40) / "model.safetensors")


def test_without_network_the_error_comes_at_once_and_names_both_ways_out(no_network, hub_cache):
    backbone = tiny_resnet(pre_trained=True)
    before = {name: value.clone() for name, value in backbone.network.state_dict().items()}
    start = time.monotonic()
    with pytest.raises(BackboneWeightsError) as raised:
        backbone(IMAGES)
    assert time.monotonic() - start < 5
    message = str(raised.value)
    for part in (NAME, "cannot be reached", "pre_trained=/path/to/weights.safetensors", "grad_tiny"):
        assert part in message
    with pytest.raises(BackboneWeightsError):  # nor do random weights serve the second time
        backbone(IMAGES)
    for name, value in backbone.network.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_list_of_hosts_without_a_proxy_is_no_proxy(no_network, monkeypatch):
    monkeypatch.setenv("no_proxy", "localhost")
    assert _has_no_network()


def test_cached_weights_need_no_network(donor, no_network, hub_cache):
    put_into_cache(hub_cache, donor)
    assert_weights_of(donor, tiny_resnet(pre_trained=True))


def test_an_architecture_without_published_weights_says_so(no_network):
    name = next(n for n in timm.list_models("resnet*") if not timm.is_model_pretrained(n))
    with pytest.raises(BackboneWeightsError, match="no pretrained weights for backbone"):
        FrozenBackbone(name, image_size=SIZE).ensure_weights()


# ---------------------------------------------------------------------- the built-in backbone


def packaged_as(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    config = timm.get_pretrained_cfg("grad_tiny")
    config.file = str(file)
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: config)


def test_the_built_in_backbone_reads_its_packaged_file_and_no_network(monkeypatch, tmp_path, no_network):
    donor = create_grad_tiny(pretrained=False)
    with torch.no_grad():
        for value in donor.state_dict().values():
            if value.is_floating_point():
                value.add_(0.1)
    save_file(donor.state_dict(), tmp_path / "packaged.safetensors")
    packaged_as(monkeypatch, tmp_path / "packaged.safetensors")
    backbone = FrozenBackbone("grad_tiny", image_size=(64, 96))
    assert backbone.layers == ["adapter8", "adapter16"]
    assert backbone(torch.rand(1, 3, 64, 96)).shape == (1, 128, 8, 12)
    torch.testing.assert_close(backbone.network.state_dict()["adapter8.weight"], donor.adapter8.weight.detach())


def test_an_installation_without_the_packaged_file_says_so(monkeypatch, tmp_path, no_network):
    packaged_as(monkeypatch, tmp_path / "lost.safetensors")
    with pytest.raises(BackboneWeightsError, match=r"installation of anomalib-grad lacks .* install it again"):
        FrozenBackbone("grad_tiny", image_size=SIZE).ensure_weights()


def test_a_pth_file_that_is_no_pickle_is_named(tmp_path: Path) -> None:
    file = tmp_path / "bad.pth"
    file.write_text("abc")
    with pytest.raises(BackboneWeightsError, match=r"bad\.pth"):
        FrozenBackbone("resnet10t", pre_trained=file, image_size=(32, 32)).ensure_weights()
