"""A checkpoint and exports as they were written before modules moved into rooms load, and predict as they did."""

import json
import lzma
from pathlib import Path

import pytest
import torch
from anomalib.deploy import TorchInferencer
from torch import Tensor

from anomalib_grad import Grad
from anomalib_grad.deploy import CategoryOpenVINOInferencer
from anomalib_grad.thresholds.normalization import KNEE
from helpers import TINY

DATA = Path(__file__).parent / "data/former"
EXPECTED = json.loads((DATA / "expected.json").read_text())


class Former:
    """Pickled as such a method is."""

    def __reduce__(self) -> tuple[object, tuple[object, str]]:
        return getattr, (Grad.__new__(Grad), "_feature_source")


def images() -> Tensor:
    """The three images that the figures are of."""
    ramp = torch.linspace(0, 1, 3 * 64 * 64).view(1, 3, 64, 64).flip(-1)
    return torch.cat([ramp, 1 - ramp, ramp.roll(9, 2)])


def map_means(maps: Tensor) -> list[float]:
    """Mean of each map (B, 1, H, W), of what lies within the range of the scores: that alone is normalised as then."""
    return maps.clamp(max=KNEE).mean(dim=(1, 2, 3)).tolist()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("former")
    for packed in DATA.glob("*.xz"):
        (folder / packed.stem).write_bytes(lzma.decompress(packed.read_bytes()))
    return folder


def test_a_checkpoint(files: Path) -> None:
    model = Grad.load_from_checkpoint(files / "model.ckpt", map_location="cpu").eval()
    prediction = model(images())
    assert prediction.pred_score.tolist() == pytest.approx(EXPECTED["score"], abs=1e-3)
    assert map_means(prediction.anomaly_map) == pytest.approx(EXPECTED["map"], abs=1e-5)
    assert prediction.explanation == EXPECTED["explanation"]


def test_a_torch_export(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    model = TorchInferencer(files / "model.pt", device="cpu").model
    with torch.no_grad():
        prediction = model(images())
    assert prediction.pred_score.tolist() == pytest.approx(EXPECTED["score"], abs=1e-3)
    assert map_means(prediction.anomaly_map) == pytest.approx(EXPECTED["map"], abs=1e-5)


@pytest.mark.parametrize(
    ("name", "rounding"), [("model.xml", 5e-3), ("model.onnx", 1e-3)]
)  # the first's weights are half
def test_an_export_for_openvino(files: Path, name: str, rounding: float) -> None:
    """OpenVINO files hold weights in half precision."""
    inferencer = CategoryOpenVINOInferencer(files / name, device="CPU")
    results = [inferencer.predict(image.permute(1, 2, 0).numpy()) for image in images()]
    assert [result.pred_score.item() for result in results] == pytest.approx(EXPECTED["score"], abs=rounding)
    assert [result.explanation[0] for result in results] == EXPECTED["explanation"]


def test_a_method_that_older_torch_exports_refer_to_is_still_found(tmp_path: Path) -> None:
    """Their feature cache held a method of the model, which unpickling looks up by its name."""
    model = Grad(**TINY)
    model.feature_caching._source = Former()
    torch.save(model, tmp_path / "model.pt")
    assert isinstance(torch.load(tmp_path / "model.pt", weights_only=False), Grad)
