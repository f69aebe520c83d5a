# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Scores are finite for any pixels, and no image's score depends on how many others, or which, stand beside it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import InferenceBatch
from anomalib.engine import Engine
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anomalib_grad.categories.recogniser import CategoryRecogniser
from anomalib_grad.data import MultiCategory
from anomalib_grad.lightning_model import Grad
from anomalib_grad.recipes import PUBLISHED, build_network
from anomalib_grad.settings import Settings
from anomalib_grad.thresholds.post_processor import PerCategoryPostProcessor, normalize
from anomalib_grad.torch_model import GradModel
from helpers import TINY, tiny

SIDE = 64
SETTINGS = Settings.of(tiny(mse_threshold=1.0)).over(PUBLISHED)
ROUNDING = {torch.float16: 0.1, torch.bfloat16: 0.3}
"""How far rounding may take a score, relatively: a random network amplifies it more than a trained one."""
few = settings(deadline=None, max_examples=12)
many = settings(deadline=None, max_examples=50)

constants = st.sampled_from([0.0, -0.0, 1.0, 0.5, 1e-40, 1e-45, 1e-8, -3.0, 1e4])  # black, denormal, beyond any picture
seeds = st.integers(0, 2**16)


def noise(seed: int) -> torch.Tensor:
    return torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


images = st.one_of(
    constants.map(lambda value: torch.full((3, SIDE, SIDE), value)),
    seeds.map(noise),
    seeds.map(lambda seed: noise(seed).sign()),
    seeds.map(lambda seed: noise(seed) * 1e-39),
)
batches = st.lists(images, min_size=2, max_size=5)


@pytest.fixture(scope="module")
def model() -> GradModel:
    """A model whose coordinates and representations differ between images, as after training."""
    torch.manual_seed(0)
    model = build_network(SETTINGS, pre_trained=False)
    for name, parameter in model.head.named_parameters():
        if "recover" not in name:  # the last convolution would bring the features near the end of float16's range
            parameter.data.mul_(20)
    return model.eval()


@torch.no_grad()
def scores(model: GradModel, batch: list[torch.Tensor]) -> torch.Tensor:
    prediction = model(torch.stack(batch))
    assert torch.isfinite(prediction.anomaly_map).all()
    assert (prediction.anomaly_map >= 0).all()
    return prediction.pred_score


# ------------------------------------------------------------------ the model


@few
@given(batches, st.randoms(use_true_random=False))
def test_scores_are_finite_and_each_images_own(model: GradModel, batch: list[torch.Tensor], random) -> None:
    alone = torch.cat([scores(model, [image]) for image in batch])
    assert torch.isfinite(alone).all()
    torch.testing.assert_close(scores(model, batch), alone, rtol=1e-4, atol=1e-5)
    order = random.sample(range(len(batch)), len(batch))
    torch.testing.assert_close(scores(model, [batch[index] for index in order]), alone[order], rtol=1e-4, atol=1e-5)


@few
@given(images, st.integers(2, 5))
def test_identical_images_have_one_score(model: GradModel, image: torch.Tensor, count: int) -> None:
    together = scores(model, [image] * count)
    torch.testing.assert_close(together, scores(model, [image]).expand(count), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ROUNDING)
@few
@given(batch=batches)
def test_autocast_is_finite_and_close_to_float32(
    model: GradModel, dtype: torch.dtype, batch: list[torch.Tensor]
) -> None:
    exact = scores(model, batch)
    with torch.autocast("cpu", dtype=dtype):
        rounded = scores(model, batch)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=ROUNDING[dtype], atol=0.05)


@pytest.mark.parametrize("dtype", ROUNDING)
@few
@given(batch=batches)
def test_a_model_of_half_the_size_is_finite_and_close(
    halves: dict[torch.dtype, GradModel], model: GradModel, dtype: torch.dtype, batch: list[torch.Tensor]
) -> None:
    rounded = scores(halves[dtype], [image.to(dtype) for image in batch])
    torch.testing.assert_close(rounded.float(), scores(model, batch), rtol=ROUNDING[dtype], atol=0.05)


@pytest.fixture(scope="module")
def halves(model: GradModel) -> dict[torch.dtype, GradModel]:
    """The model in each precision."""
    copies = {}
    for dtype in ROUNDING:
        copies[dtype] = build_network(SETTINGS, pre_trained=False).eval()
        copies[dtype].load_state_dict(model.state_dict())
        copies[dtype].backbone.mark_weights_ready()
        copies[dtype].to(dtype)
    return copies


@pytest.mark.parametrize("width", [81, 4000])  # of which bfloat16 counts no further than to 256, float16 to 2048
@pytest.mark.parametrize("dtype", ROUNDING)
def test_images_of_any_size_are_judged_in_half_precision(dtype: torch.dtype, width: int) -> None:
    model, half = (Grad(**tiny(mse_threshold=1.0)).eval() for _ in range(2))
    half.load_state_dict(model.state_dict())
    pictures = torch.rand(2, 3, 90, width)
    rounded = half.to(dtype)(pictures.to(dtype))
    torch.testing.assert_close(rounded.pred_score.float(), model(pictures).pred_score, rtol=ROUNDING[dtype], atol=0.05)


# ------------------------------------------------------------------ the post-processor

amount = st.floats(min_value=0, max_value=2.0**120, width=32)  # scores are distances
raw_scores = st.lists(amount, min_size=1, max_size=6).map(torch.tensor)


@many
@given(raw_scores, amount, amount, st.one_of(amount, st.just(float("nan"))))
def test_normalised_scores_lie_in_the_unit_range_and_are_each_their_own(
    preds: torch.Tensor, one: float, other: float, threshold: float
) -> None:
    low, high = torch.tensor(min(one, other)), torch.tensor(max(one, other))
    threshold = torch.tensor(threshold)
    normalized = normalize(preds, low, high, threshold)
    assert ((normalized >= 0) & (normalized <= 1)).all()
    alone = [normalize(pred, low, high, threshold) for pred in preds]
    assert torch.equal(normalized, torch.stack(alone))


@many
@given(raw_scores, st.lists(amount, min_size=6, max_size=6), seeds, st.sampled_from([torch.float32, *ROUNDING]))
def test_each_image_is_judged_by_its_own_category(
    preds: torch.Tensor, statistics: list[float], seed: int, dtype: torch.dtype
) -> None:
    post_processor = PerCategoryPostProcessor()
    post_processor.set_categories(["nut", "pin"])
    first, second = sorted(statistics[:3]), sorted(statistics[3:])
    for column, name in enumerate(("min", "threshold", "max")):
        row = torch.tensor([first[column], second[column]])
        setattr(post_processor, f"category_image_{name}", row)
    index = torch.randint(2, preds.shape, generator=torch.Generator().manual_seed(seed))
    given_dtype = preds.clamp(max=torch.finfo(dtype).max).to(dtype)
    judged = post_processor(InferenceBatch(pred_score=given_dtype, anomaly_map=None), index)
    assert ((judged.pred_score >= 0) & (judged.pred_score <= 1)).all()
    for position in range(len(preds)):
        own = slice(position, position + 1)
        alone = post_processor(InferenceBatch(pred_score=given_dtype[own], anomaly_map=None), index[own])
        assert torch.equal(alone.pred_score, judged.pred_score[own])
        assert torch.equal(alone.pred_label, judged.pred_label[own])


# ------------------------------------------------------------------ the recogniser


@many
@given(seeds, st.integers(1, 4), st.integers(1, 4), st.sampled_from([0.0, 1e-40, 1e-6, 1.0, 1e6]))
def test_recognition_is_defined_and_each_images_own_for_any_spread(
    seed: int, categories: int, each: int, spread: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(categories).repeat(each)
    centres = torch.arange(categories).unsqueeze(1) * torch.ones(1, 5)
    features = centres[labels] + spread * torch.randn(len(labels), 5, generator=generator)
    recogniser = CategoryRecogniser()
    recogniser.fit(features, labels, categories)
    assert torch.isfinite(recogniser.means).all()
    assert (recogniser.scale > 0).all()
    assert (recogniser.radius > 0).all()

    asked = torch.cat([features, features * 3 + 1, torch.zeros(1, 5)])
    together = recogniser(asked)
    assert ((together >= 0) & (together <= categories)).all()
    assert torch.equal(torch.cat([recogniser(one) for one in asked.split(1)]), together)
    if spread <= 1e-6:
        assert torch.equal(recogniser(features), labels)


@many
@given(seeds)
def test_recognition_does_not_depend_on_the_order_of_the_training_images(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat(6)
    features = 5.0 * labels.unsqueeze(1) + torch.randn(18, 4, generator=generator)
    order = torch.randperm(18, generator=generator)
    straight, shuffled = CategoryRecogniser(), CategoryRecogniser()
    straight.fit(features, labels, 3)
    shuffled.fit(features[order], labels[order], 3)
    for name, value in straight.state_dict().items():
        torch.testing.assert_close(shuffled.state_dict()[name], value)


def test_features_that_are_no_numbers_are_of_no_category() -> None:
    recogniser = CategoryRecogniser()
    recogniser.fit(torch.eye(4), torch.tensor([0, 0, 1, 1]), 2)
    for value in (float("nan"), float("inf")):
        assert recogniser(torch.full((1, 4), value)).tolist() == [2]


# ------------------------------------------------------------------ training


def flat_category(folder: Path, values: list[int]) -> None:
    """A product whose images are of one grey each; training images get ``values``."""
    for split, greys in (("train/good", values), ("test/good", [values[0]]), ("test/spot", [255 - values[0]])):
        (folder / split).mkdir(parents=True)
        for number, value in enumerate(greys):
            flat = np.full((40, 40, 3), value, dtype=np.uint8)
            Image.fromarray(flat).save(folder / split / f"{number}.png")


@pytest.mark.parametrize(
    ("values", "precision"),
    [
        ({"nut": [0], "pin": [255]}, "32-true"),  # one training image each
        ({"nut": [0, 0, 0]}, "32-true"),  # all black
        ({"nut": [90, 90], "pin": [91]}, "bf16-mixed"),  # all alike, and nearly so in the other category
    ],
)
def test_training_on_next_to_nothing_gives_finite_scores(
    values: dict[str, list[int]], precision: str, tmp_path: Path
) -> None:
    for name, greys in values.items():
        flat_category(tmp_path / "data" / name, greys)
    model = Grad(**TINY, visualizer=False)
    data = MultiCategory(root=tmp_path / "data", train_batch_size=1, eval_batch_size=4, num_workers=0)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, max_epochs=2, precision=precision, **quiet)
    engine.fit(model, datamodule=data)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    predictions = engine.predict(model, datamodule=data)
    for batch in predictions:
        assert torch.isfinite(batch.pred_score).all()
        assert torch.isfinite(batch.anomaly_map).all()
        assert ((batch.pred_score >= 0) & (batch.pred_score <= 1)).all()
        assert set(batch.explanation) <= {*values, "unknown"}
    loaded = Grad.load_from_checkpoint(engine.best_model_path)
    assert torch.equal(loaded.post_processor.recogniser.radius, model.post_processor.recogniser.radius)
