# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUPRO, AUROC, F1Max
from torch.utils.data import DataLoader, DistributedSampler

from anomalib_grad.categories.distributed import own_samples
from anomalib_grad.evaluation.binned import BinnedPixelCurves
from anomalib_grad.evaluation.metrics import CategoryMetrics, Counts, Predictions, mean_over_categories
from anomalib_grad.evaluation.results import data_notes
from anomalib_grad.report.records import METRIC_NAMES


def random_predictions(n: int, seed: int, size: int = 32, scale: float = 1.0) -> Predictions:
    """Every other image is anomalous, with a block of higher values that overlaps the background's."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(n) % 2 == 1
    mask = torch.zeros(n, size, size, dtype=torch.bool)
    mask[label, 4:12, 8:20] = True
    mask[label, 20:23, 2:5] = True
    anomaly_map = torch.rand(n, size, size, generator=generator) * 0.7 + 0.3 * mask * torch.rand(
        n, 1, 1, generator=generator
    )
    score = 0.6 * torch.rand(n, generator=generator) + 0.2 * label
    return Predictions(score * scale, label, anomaly_map * scale, mask)


def batches(predictions: Predictions, size: int) -> list[Predictions]:
    return [
        Predictions(*(value[i : i + size] for value in vars(predictions).values()))
        for i in range(0, len(predictions.gt_label), size)
    ]


def anomalib_values(predictions: Predictions) -> dict[str, float]:
    """What anomalib's metrics say on a run of one category."""
    image, pixel = ["pred_score", "gt_label"], ["anomaly_map", "gt_mask"]
    metrics = {
        "image_AUROC": AUROC(fields=image),
        "image_F1Max": F1Max(fields=image),
        "pixel_AUROC": AUROC(fields=pixel),
        "pixel_AUPRO": AUPRO(fields=pixel),
    }
    n = len(predictions.gt_label)
    for metric in metrics.values():
        metric.update(ImageBatch(image=torch.zeros(n, 3, 8, 8), **vars(predictions)))
    return {name: float(metric.compute()) for name, metric in metrics.items()}


def computed(metrics: CategoryMetrics, *categories: str) -> dict[str, dict[str, float]]:
    return metrics.compute(metrics.gather_counts(categories))


def test_equals_anomalibs_metrics_on_each_category_alone():
    data = {"bottle": random_predictions(20, seed=1), "cookie": random_predictions(13, seed=2)}
    metrics = CategoryMetrics()
    for parts in zip(*(batches(p, 3) for p in data.values()), strict=False):
        for category, part in zip(data, parts, strict=True):
            metrics.update(category, part)
    for part in batches(data["bottle"], 3)[len(batches(data["cookie"], 3)) :]:
        metrics.update("bottle", part)
    values = computed(metrics)
    for category, predictions in data.items():
        expected = anomalib_values(predictions)
        assert values[category] == pytest.approx(expected, abs=1e-6)
        assert 0.5 < expected["image_AUROC"] < 1, "a trivial case would prove nothing"
        assert 0.2 < expected["pixel_AUPRO"] < 1


def test_raw_scores_rank_as_they_are():
    # torchmetrics' AUROC squashes a batch that leaves [0, 1] and leaves other batches alone, which mixes their order.
    metrics = CategoryMetrics()
    label = torch.tensor([False, True])
    metrics.update("a", Predictions(torch.tensor([0.9, 0.95]), label))
    metrics.update("a", Predictions(torch.tensor([0.2, 3.0]), label))
    values = computed(metrics)["a"]
    assert values["image_AUROC"] == 1
    assert values["image_F1Max"] == pytest.approx(1)


def test_category_without_masks_counts_in_image_metrics_only():
    predictions = random_predictions(6, seed=3)
    metrics = CategoryMetrics()
    metrics.update("masks", predictions)
    metrics.update("none", Predictions(predictions.pred_score, predictions.gt_label, predictions.anomaly_map))
    metrics.update("empty", Predictions(*list(vars(predictions).values())[:3], torch.zeros_like(predictions.gt_mask)))
    counts = metrics.gather_counts()
    values = metrics.compute(counts)
    for name in ("none", "empty"):
        assert values[name]["image_AUROC"] == pytest.approx(values["masks"]["image_AUROC"])
        assert math.isnan(values[name]["pixel_AUROC"])
        assert math.isnan(values[name]["pixel_AUPRO"])
    mean = mean_over_categories(list(values.values()))
    assert mean["pixel_AUPRO"] == values["masks"]["pixel_AUPRO"]
    assert mean["image_F1Max"] == pytest.approx(values["masks"]["image_F1Max"])
    assert data_notes(counts) == ["Image metrics only for empty, none: no anomaly masks."]


def test_category_with_one_kind_of_image_or_none_at_all_has_no_value():
    metrics = CategoryMetrics()
    metrics.update("normal", Predictions(torch.rand(3), torch.zeros(3, dtype=torch.bool)))
    metrics.update("anomalous", Predictions(torch.rand(3), torch.ones(3, dtype=torch.bool)))
    counts = metrics.gather_counts(["absent"])
    values = metrics.compute(counts)
    assert list(values) == ["absent", "anomalous", "normal"]
    assert all(math.isnan(value) for row in values.values() for value in row.values())
    assert all(math.isnan(value) for value in mean_over_categories(list(values.values())).values())
    notes = " ".join(data_notes(counts))
    assert "There were no test images of absent." in notes
    assert "anomalous, normal" in notes


def test_notes_count_anomalous_images_with_empty_masks():
    counts = {"a": Counts(n_normal=1, n_anomalous=3, n_unmarked=2, marked_pixels=5, normal_pixels=9, map_size=(2, 2))}
    assert data_notes(counts) == [
        "2 of 3 anomalous images of a have a mask that is empty at the anomaly map's size: their pixels count as "
        "normal.",
    ]


def test_mean_is_the_mean_over_categories_not_over_images():
    rows = [dict.fromkeys(METRIC_NAMES, value) for value in (1.0, 0.5, math.nan)]
    assert mean_over_categories(rows) == dict.fromkeys(METRIC_NAMES, 0.75)


def test_binned_metrics_approach_the_exact_ones_with_more_bins():
    predictions = random_predictions(12, seed=4)
    exact = anomalib_values(predictions)
    errors = []
    for bins in (10, 100, 1000):
        metrics = CategoryMetrics(binned=bins)
        for part in batches(predictions, 5):
            metrics.update("a", part)
        values = computed(metrics)["a"]
        errors.append(max(abs(values[name] - exact[name]) for name in METRIC_NAMES))
    assert errors[2] < 1e-3
    assert errors[2] < errors[1] < errors[0]


def test_binned_metrics_keep_no_pixels():
    metric = BinnedPixelCurves(bins=100)
    sizes = []
    for seed in range(3):
        metric.update(random_predictions(4, seed=seed))
        sizes.append(sum(state.numel() for state in metric.metric_state.values()))
    assert sizes == [301, 301, 301]


def test_binned_perfect_and_constant_maps():
    mask = random_predictions(2, seed=0).gt_mask
    label = torch.tensor([False, True])
    for anomaly_map, expected in ((mask.float(), (1.0, 1.0)), (torch.full(mask.shape, 0.5), (0.5, 0.15))):
        metrics = CategoryMetrics(binned=50)
        metrics.update("a", Predictions(torch.rand(2), label, anomaly_map, mask))
        values = computed(metrics)["a"]
        assert (values["pixel_AUROC"], values["pixel_AUPRO"]) == pytest.approx(expected)


def test_binned_metrics_refuse_what_they_cannot_count():
    metrics = CategoryMetrics(binned=100)
    with pytest.raises(ValueError, match=r"anomaly maps in \[0, 1\]: validate the model with"):
        metrics.update("a", random_predictions(2, seed=0, scale=3.0))
    with pytest.raises(ValueError, match="at least 2 bins"):
        BinnedPixelCurves(bins=1)


@pytest.mark.parametrize(("images", "processes"), [(7, 2), (8, 2), (5, 3), (2, 3)])
def test_repeated_samples_are_not_counted(images: int, processes: int):
    kept = []
    for rank in range(processes):
        sampler = DistributedSampler(range(images), num_replicas=processes, rank=rank, shuffle=False)
        loader = DataLoader(range(images), sampler=sampler, batch_size=2)
        kept += list(sampler)[: own_samples(loader)]
    assert sorted(kept) == list(range(images))
    assert own_samples(DataLoader(range(images))) is None
