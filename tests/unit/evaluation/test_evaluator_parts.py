# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import nn

from anomalib_grad.data import CategoryImageBatch
from anomalib_grad.data.read_or_refuse import FileFormat
from anomalib_grad.evaluation.collector import Collector
from anomalib_grad.evaluation.coordinates import GLOBAL, LOCAL, CoordinateTap, sample_local
from anomalib_grad.evaluation.examples import THUMBNAIL, TopExamples, candidate, load_example
from anomalib_grad.evaluation.metrics import Counts
from anomalib_grad.evaluation.results import build_report, recognition_notes
from anomalib_grad.report.records import METRIC_NAMES, CategoryResult, TestReport
from anomalib_grad.report.table import results_table, write_csv, write_json
from anomalib_grad.thresholds import PerCategoryPostProcessor

REPORT = TestReport(
    model="Grad",
    results=[
        CategoryResult("bottle", 3, 4, 0.9876543210123, 0.9, 0.8, 0.7, 12.5),
        CategoryResult("nuts, bolts", 1, 2, 1.0, 1.0, math.nan, math.nan, 3.0),
    ],
    mean=CategoryResult("mean", 4, 6, 0.99, 0.95, 0.8, 0.7, math.nan),
    records=[],
    notes=["Image metrics only for nuts, bolts: no anomaly masks."],
)


def test_csv_has_the_columns_and_the_mean_last(tmp_path: Path):
    write_csv(REPORT, tmp_path / "new" / "per_category.csv")
    with (tmp_path / "new" / "per_category.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == [
        "category",
        "n_normal",
        "n_anomalous",
        "image_AUROC",
        "image_F1Max",
        "pixel_AUROC",
        "pixel_AUPRO",
        "threshold",
        "image_categories",
        "pixel_categories",
    ]
    assert [row[0] for row in rows] == ["bottle", "nuts, bolts", "mean"]
    assert float(rows[0][3]) == 0.9876543210123
    assert rows[1][5] == ""
    assert rows[-1][1:3] == ["4", "6"]
    assert [row[-2:] for row in rows] == [["1", "1"], ["1", "0"], ["2", "1"]], "of how many categories each row is"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["per_category.csv"]


def test_json_has_null_where_nothing_is_defined(tmp_path: Path):
    write_json(REPORT, tmp_path / "per_category.json")
    rows = json.loads((tmp_path / "per_category.json").read_text())
    assert " ".join(rows[0]) == (
        "category n_normal n_anomalous image_AUROC image_F1Max pixel_AUROC pixel_AUPRO threshold image_categories "
        "pixel_categories"
    )
    assert rows[0]["image_AUROC"] == pytest.approx(0.9876543210123, abs=1e-13)
    assert rows[1]["pixel_AUPRO"] is None
    assert rows[2]["category"] == "mean"
    assert (rows[2]["image_categories"], rows[2]["pixel_categories"]) == (2, 1)


def test_terminal_table_shows_percents_dashes_and_notes():
    console = Console(width=80, file=io.StringIO())
    console.print(results_table(REPORT))
    lines = console.file.getvalue().splitlines()
    assert "threshold" in lines[2] + lines[3], "headers fit into 80 columns"
    bottle = next(line for line in lines if "bottle" in line)
    assert bottle.split() == ["bottle", "3", "4", "98.8", "90.0", "80.0", "70.0", "12.5"]
    assert next(line for line in lines if "nuts, bolts" in line).split().count("-") == 2
    assert "no anomaly masks" in lines[-1]
    row = next(number for number, line in enumerate(lines) if "mean of" in line)
    assert " ".join(" ".join(line[:18] for line in lines[row : row + 4]).split()) == "mean of 2 (image), 1 (pixel) of 2"


@pytest.mark.parametrize(
    ("defined", "said"), [((2, 2), "2"), ((1, 1), "1 of 2"), ((2, 0), "2 (image), 0 (pixel) of 2"), ((0, 0), "0 of 2")]
)
def test_the_mean_says_of_how_many_categories_it_is(defined: tuple[int, int], said: str):
    image, pixel = ([0.5] * count + [math.nan] * (2 - count) for count in defined)
    rows = [CategoryResult(f"c{i}", 1, 1, image[i], image[i], pixel[i], pixel[i], math.nan) for i in range(2)]
    assert replace(REPORT, results=rows).mean_of == said


@pytest.mark.parametrize("highest", [True, False])
def test_the_extremes_are_kept_whatever_the_order(highest: bool):
    scores = [0.3, 1.0, 1.0, 0.1, 0.7, 1.0, 0.0, 0.0]
    everything = [
        candidate(f"{i}.png", anomalous=True, score=s, anomaly_map=torch.zeros(4, 4), mask=None)
        for i, s in enumerate(scores)
    ]
    kept = []
    for order in (everything, everything[::-1]):
        top = TopExamples(highest=highest, size=3)
        for found in order:
            if top.admits(found.score, found.path):
                top.add(found)
        kept.append([(found.score, found.path) for found in top.candidates])
    assert kept[0] == kept[1]
    assert kept[0] == (
        [(1.0, "1.png"), (1.0, "2.png"), (1.0, "5.png")]
        if highest
        else [(0.0, "6.png"), (0.0, "7.png"), (0.1, "3.png")]
    )


def test_example_has_the_shape_of_its_image_and_the_place_of_its_defect(tmp_path: Path):
    path = tmp_path / "wide.png"
    Image.new("L", (400, 200), 200).save(path)
    anomaly_map, mask = torch.zeros(64, 64), torch.zeros(64, 64, dtype=torch.bool)
    anomaly_map[:16, 48:] = 2.0
    mask[0, 63] = True
    example = load_example(
        candidate(str(path), anomalous=True, score=0.9, anomaly_map=anomaly_map, mask=mask), low=0.0, high=2.0
    )
    assert example.image.shape == (80, THUMBNAIL, 3)
    assert example.image.dtype == np.uint8
    assert (example.image == 200).all()
    assert example.anomaly_map.shape == example.mask.shape == (80, THUMBNAIL)
    assert example.anomaly_map.dtype == np.float32
    assert example.anomaly_map[5, 150] == 1
    assert example.anomaly_map[70, 10] == 0
    assert example.mask.dtype == bool
    assert example.mask[0, -1]
    assert example.mask.sum() < 20


@pytest.mark.parametrize("bits", [16, 12])
def test_example_of_16_bits_is_shown_as_it_was_read(tmp_path: Path, bits: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # the guard refuses twice as many
    deep = np.linspace(0, 2**bits - 1, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    found = candidate(str(tmp_path / "deep.png"), anomalous=True, score=0.9, anomaly_map=torch.zeros(64, 64), mask=None)
    assert load_example(found, files=FileFormat(bits, 64 * 64)).image.mean() == pytest.approx(127.5, abs=1)


def test_one_marked_pixel_survives_the_thumbnail():
    mask = torch.zeros(500, 500, dtype=torch.bool)
    mask[321, 123] = True
    found = candidate("a", anomalous=True, score=1.0, anomaly_map=torch.zeros(500, 500), mask=mask)
    assert found.mask[102, 39]
    assert found.mask.sum() <= 4


def test_local_samples_are_labelled_repeatable_and_include_small_defects():
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 20), torch.linspace(-1, 1, 20), indexing="ij")
    coordinates = torch.stack([rows, columns])
    mask = torch.zeros(80, 80, dtype=torch.bool)
    mask[:8, :16] = True  # 2 x 4 cells of the coordinates
    sample = sample_local(coordinates, mask, seed="a.png")
    assert sample.coordinates.shape == (64, 2)
    assert sample.anomalous.sum() == 8
    inside = (sample.coordinates[:, 0] < -0.85) & (sample.coordinates[:, 1] < -0.65)
    assert (inside == sample.anomalous).all()
    assert np.array_equal(sample.coordinates, sample_local(coordinates, mask, seed="a.png").coordinates)
    assert not np.array_equal(sample.coordinates, sample_local(coordinates, mask, seed="b.png").coordinates)
    assert sample_local(coordinates[:, :2, :2], None, seed="a").coordinates.shape == (4, 2)
    assert sample_local(coordinates, torch.ones(20, 20, dtype=torch.bool), seed="a").anomalous.sum() == 16


class Part(nn.Module):
    def __init__(self, coordinates: nn.Module) -> None:
        super().__init__()
        self.coordinates = coordinates

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.coordinates(x)


class Module(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.head = nn.Module()
        self.model.head.local_representation = Part(nn.Conv2d(3, 2, 1))
        self.model.head.global_representation = Part(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.model.head.global_representation(x)
        return self.model.head.local_representation(x)


def test_tap_reads_the_last_coordinates_once_and_leaves_the_model_as_it_was():
    module = Module()
    tap = CoordinateTap(module)
    out = module(torch.rand(2, 3, 4, 4))
    taken = tap.take()
    assert torch.equal(taken[LOCAL], out)
    assert taken[GLOBAL].shape == (2, 3)
    assert tap.take() == {}
    tap.close()
    module(torch.rand(2, 3, 4, 4))
    assert tap.take() == {}
    assert not any(m._forward_hooks for m in module.modules())
    assert CoordinateTap(nn.Conv2d(3, 2, 1)).take() == {}


def batch_of(paths: list[str], scores: list[float], labels: list[int], **fields: object) -> CategoryImageBatch:
    n = len(paths)
    return CategoryImageBatch(
        image=torch.zeros(n, 3, 8, 8),
        image_path=paths,
        pred_score=torch.tensor(scores),
        gt_label=torch.tensor(labels),
        gt_mask=torch.zeros(n, 8, 8),
        anomaly_map=torch.rand(n, 8, 8),
        category=["bottle"] * n,
        **fields,
    )


def test_records_do_not_depend_on_how_processes_shared_the_images(tmp_path: Path):
    paths = [str(tmp_path / f"{i}.png") for i in range(6)]
    for path in paths:
        Image.new("RGB", (12, 10)).save(path)
    scores, labels = [0.1, 0.9, 0.3, 0.8, 0.5, 0.2], [0, 1, 0, 1, 0, 1]
    coordinates = {LOCAL: torch.rand(6, 2, 3, 3) * 2 - 1, GLOBAL: torch.rand(6, 2) * 2 - 1}
    names = ["bottle", "bottle", "cookie", "bottle", "unknown", "bottle"]

    def collected(indices: list[int]) -> Collector:
        torch.manual_seed(0)
        collector = Collector()
        part = batch_of(*([values[i] for i in indices] for values in (paths, scores, labels)))
        part.explanation = [names[i] for i in indices]
        part.anomaly_map = torch.tensor(indices).view(-1, 1, 1).expand(-1, 8, 8) / 10
        collector.update(part, {k: v[indices] for k, v in coordinates.items()}, keep=len(indices))
        return collector

    one = collected(list(range(6))).record("bottle", 0.5, normalized=True)
    shared = collected([0, 2, 4])
    shared.merge([collected([1, 3, 5])])
    two = shared.record("bottle", 0.5, normalized=True)
    for field in ("scores", "anomalous", "global_coordinates", "local_coordinates", "local_anomalous", "recognised"):
        assert np.array_equal(getattr(one, field), getattr(two, field)), field
    for record in (one, two):
        assert [e.path for e in record.best] == [paths[i] for i in (1, 3, 5)]
        assert [e.path for e in record.worst] == [paths[i] for i in (5, 3, 1)]
        assert [e.path for e in record.false_alarms] == [paths[i] for i in (4, 2, 0)]
        assert record.best[0].anomaly_map.max() == pytest.approx(0.1, abs=1e-3)
    assert one.scores == pytest.approx(scores)
    assert one.global_coordinates.shape == (6, 2)
    assert recognition_notes([one]) == [
        "The model recognised the category of 4 of 6 test images (66.7 %); "
        "it took 1 for another category and 1 for an unseen one."
    ]


def test_coordinates_of_a_batch_in_pieces_are_not_used():
    collector = Collector()
    batch = batch_of(["a", "b"], [0.1, 0.2], [0, 1])
    batch.anomaly_map = None
    collector.update(batch, {GLOBAL: torch.zeros(1, 2)}, keep=2)
    record = collector.record("bottle", 0.5, normalized=True)
    assert collector.split_forward
    assert record.global_coordinates is None
    assert record.recognised is None
    assert record.best == []


def test_a_report_names_all_products_that_have_thresholds_though_the_data_hold_some():
    post_processor = PerCategoryPostProcessor()
    post_processor.set_categories(["new", "old", "unfitted"])
    post_processor.category_image_threshold.copy_(torch.tensor([2.0, 3.0, math.nan]))
    post_processor._image_threshold.fill_(4.0)
    counts = {name: Counts(n_normal=1) for name in ("new", "unfitted")}
    values = dict.fromkeys((*counts, "mean"), dict.fromkeys(METRIC_NAMES, math.nan))
    assert {
        "Thresholds are fitted for new, old.",
        "The pooled threshold is used for unfitted: fit again with their validation images.",
    } <= set(build_report(Module(), counts, values, Collector(), post_processor).notes)
