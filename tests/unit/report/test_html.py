# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""The report's page says what the test found, in one file, whatever the names in it."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalib_grad.report.html import render_html, write_html
from anomalib_grad.report.records import CategoryRecord, CategoryResult, Example, TestReport
from anomalib_grad.thresholds.normalization import denormalize

NAN = float("nan")


def make_example(path: str, *, anomalous: bool, score: float, size: tuple[int, int] = (32, 24)) -> Example:
    ramp = np.linspace(0, 1, size[0] * size[1], dtype=np.float32).reshape(size)
    image = np.repeat((255 * ramp).astype(np.uint8)[..., None], 3, axis=2)
    return Example(path, anomalous, score, image, ramp, ramp > 0.9 if anomalous else None)


def make_record(category: str, dimensions: int | None = None) -> CategoryRecord:
    rng = np.random.default_rng(0)
    return CategoryRecord(
        category=category,
        scores=np.array([0.1, 0.2, 0.7, 0.4, 0.8, 0.9]),
        anomalous=np.array([False, False, False, True, True, True]),
        threshold=0.5,
        best=[make_example(f"/data/{category}/test/hole/0.png", anomalous=True, score=0.9)],
        worst=[make_example(f"/data/{category}/test/hole/1.png", anomalous=True, score=0.4)],
        false_alarms=[make_example(f"/data/{category}/test/good/2.png", anomalous=False, score=0.7)],
        global_coordinates=None if dimensions is None else rng.uniform(-1, 1, (6, dimensions)),
        local_coordinates=None if dimensions is None else rng.uniform(-1, 1, (40, dimensions)),
        local_anomalous=None if dimensions is None else rng.random(40) < 0.2,
        recognised=np.array([category] * 6),
    )


def make_report(records: list[CategoryRecord], **metrics: float) -> TestReport:
    values = {"image_AUROC": 0.889, "image_F1Max": 0.857, "pixel_AUROC": 0.765, "pixel_AUPRO": 0.654, **metrics}
    rows = [
        CategoryResult(
            record.category, int((~record.anomalous).sum()), int(record.anomalous.sum()), **values, threshold=3.25
        )
        for record in records
    ]
    mean = CategoryResult(
        "mean", sum(r.n_normal for r in rows), sum(r.n_anomalous for r in rows), **values, threshold=NAN
    )
    return TestReport("Grad", rows, mean, records, ["A remark."])


class Page(HTMLParser):
    """What a browser would find in a page: elements with their attributes, table rows and the text of each section."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.sections: dict[str, str] = {}
        self._section = "header"
        self._in_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag == "section":
            self._section = attributes["id"] or ""
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in {"td", "th"}:
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        self.sections[self._section] = self.sections.get(self._section, "") + data
        if self._in_cell:
            self.rows[-1][-1] += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)

    def text(self, section: str) -> str:
        return re.sub(r"\s+", " ", self.sections[section])


def images(page: Page, alt: str) -> list[Image.Image]:
    sources = [
        attributes["src"] or "" for tag, attributes in page.elements if tag == "img" and attributes["alt"] == alt
    ]
    return [Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) for source in sources]


@pytest.fixture(scope="module")
def page() -> Page:
    """The page of two products, with all that a report shows."""
    return Page(render_html(make_report([make_record("bottle", 2), make_record("cable", 2)])))


def test_table_has_a_row_per_category_and_the_mean(page: Page) -> None:
    values = ["0.889", "0.857", "0.765", "0.654"]
    assert ["bottle", "3", "3", *values, "3.25"] in page.rows
    assert ["cable", "3", "3", *values, "3.25"] in page.rows
    assert ["mean of 2; images: sum", "6", "6", *values, "–"] in page.rows  # noqa: RUF001


def test_header_names_the_model_and_the_headline_numbers(page: Page) -> None:
    header = page.text("header")
    assert re.search(r"Grad test report \d{4}-\d\d-\d\d \d\d:\d\d", header)
    assert "mean image AUROC0.889" in header
    assert "categories2" in header.replace(" ", "")
    assert "testimages12" in header.replace(" ", "")
    assert "mean of2" in header


def test_undefined_values_are_dashes_and_sort_last() -> None:
    record = replace(make_record("tile"), threshold=NAN)
    page = Page(render_html(make_report([record], pixel_AUROC=NAN, pixel_AUPRO=NAN)))
    assert ["tile", "3", "3", "0.889", "0.857", "–", "–", "3.25"] in page.rows  # noqa: RUF001
    assert not [text for text in page.sections.values() if re.search(r"\bnan\b", text)]
    assert [a["data-value"] for tag, a in page.elements if tag == "td" and "none" in (a.get("class") or "")][:2] == [
        "",
        "",
    ]
    assert "no threshold known" in page.text("scores")


def test_threshold_counts_and_verdicts() -> None:
    page = Page(render_html(make_report([make_record("bottle")])))
    assert "threshold 0.5: 1 false alarm, 1 missed" in page.text("scores")
    heatmaps = page.text("examples")
    assert re.search(r"Clearest anomalies found\s*hole/0.png\s*anomalous, score 0.9", heatmaps)
    assert re.search(r"Missed or nearly missed missed\s*hole/1.png\s*anomalous, score 0.4", heatmaps)
    assert re.search(r"false alarm\s*good/2.png\s*normal, score 0.7", heatmaps)


def test_a_table_says_what_neighbouring_thresholds_do_in_the_models_own_unit() -> None:
    page = Page(render_html(make_report([replace(make_record("bottle"), raw=(0.0, 20.0, 8.0))])))
    rows = {row[0]: row[1:] for row in page.rows if len(row) == 3}
    assert rows["8 (now)"] == ["1 of 3: 33 % (0.84 to 91 %)", "1 of 3: 33 % (0.84 to 91 %)"]
    assert rows["14"] == ["0 of 3: 0 % (0 to 71 %)", "1 of 3: 33 % (0.84 to 91 %)"]  # 0.75 between 0.7 and 0.8
    assert rows["4.8"] == ["1 of 3: 33 % (0.84 to 91 %)", "0 of 3: 0 % (0 to 71 %)"]


def test_thresholds_of_that_table_judge_as_it_says_when_they_are_typed_in() -> None:
    scores = np.array([0.1, 0.499998, 0.500002, 0.4, 0.8, 0.9])
    record = replace(make_record("bottle"), scores=scores, raw=(0.0, 20.0, 8.12345678))
    page = Page(render_html(make_report([record])))
    judged = [row for row in page.rows if len(row) == 3 and "of 3" in row[1]]
    typed = {row[0].removesuffix(" (now)"): row[1].partition(":")[0] for row in judged}
    raw = [denormalize(score, 0.0, 20.0, 8.12345678) for score in scores[:3]]  # of the good parts
    assert "1 of 3" in typed.values()
    assert {one: f"{sum(score > float(one) for score in raw)} of 3" for one in typed} == typed


def test_score_on_the_threshold_is_normal_as_for_anomalib() -> None:
    record = replace(make_record("bottle"), threshold=0.7)
    page = Page(render_html(make_report([record])))
    assert "threshold 0.7: 0 false alarms, 1 missed" in page.text("scores")
    assert re.search(r"passed\s*good/2.png", page.text("examples"))


def test_notes_are_shown(page: Page) -> None:
    assert "A remark." in page.text("results")


def test_file_needs_nothing_from_outside(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    write_html(make_report([make_record("bottle", 2), make_record("cable", 2)]), path)
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    for tag, attributes in page.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form"}
        assert (attributes.get("src") or "data:image/").startswith("data:image/")
        assert (attributes.get("href") or "#").startswith("#")
    assert "@import" not in html
    assert "url(" not in html
    policy = next(a["content"] for tag, a in page.elements if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_links_lead_to_parts_of_the_page(page: Page) -> None:
    targets = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    links = [attributes["href"] or "" for tag, attributes in page.elements if tag == "a"]
    assert len(links) == 8  # six parts and two categories
    assert {link.removeprefix("#") for link in links} <= targets


HOSTILE = ["<script>alert(1)</script>", "\"><img src=x onerror='alert(1)'>", "{{ 7 * 7 }}", r"$\frac{1$ &amp; 瓶"]


def test_hostile_names_are_text() -> None:
    plain = Page(render_html(make_report([make_record(name, 2) for name in "abcd"])))
    records = [replace(make_record(name, 2), recognised=np.array([HOSTILE[0]] * 6)) for name in HOSTILE]
    report = replace(make_report(records), model=HOSTILE[0], notes=HOSTILE)
    page = Page(render_html(report))
    for tag in ("script", "img", "a", "style"):
        assert page.count(tag) == plain.count(tag)
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
    for name in HOSTILE:
        for section in ("results", "scores", "recognition", "representation", "examples"):
            assert re.sub(r"\s+", " ", name) in page.text(section)


def test_undecodable_file_names_do_not_stop_the_report(tmp_path: Path) -> None:
    record = replace(make_record("bottle"), best=[make_example("/data/\udcff.png", anomalous=True, score=0.9)])
    write_html(make_report([record]), tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size > 0


def test_windows_paths_are_shortened_like_others() -> None:
    record = replace(make_record("bottle"), best=[make_example(r"C:\data\hole\7.png", anomalous=True, score=0.9)])
    page = Page(render_html(make_report([record])))
    assert re.search(r"found\s*hole/7.png", page.text("examples"))
    assert "C:" not in page.text("examples")


def test_confusion_matrix_counts_what_was_recognised() -> None:
    bottle = replace(make_record("bottle"), recognised=np.array(["bottle"] * 4 + ["cable", "unknown"]))
    cable = make_record("cable")
    silent = replace(make_record("tile"), recognised=None)
    page = Page(render_html(make_report([bottle, cable, silent])))
    assert ["", "bottle", "cable", "unknown", ""] in page.rows
    assert ["bottle", "4", "1", "1", "0.667"] in page.rows
    assert ["cable", "", "6", "", "1.000"] in page.rows
    assert "product recognised0.833" in page.text("header")
    assert "bottle taken for cable: 1 image" in page.text("recognition")


@pytest.mark.parametrize(
    ("dimensions", "sentence"),
    [
        (1, "one dimension; the height only separates the categories"),
        (2, "borders of the 8 \N{MULTIPLICATION SIGN} 8 cells"),
        (3, "3 dimensions; the plane shows the first two principal components"),
        (4, "4 dimensions; the plane shows the first two principal components"),
    ],
)
def test_coordinates_of_any_dimension_are_drawn(dimensions: int, sentence: str) -> None:
    report = make_report([make_record("bottle", dimensions), make_record("cable", dimensions)])
    page = Page(render_html(replace(report, local_resolution=8, global_resolution=4)))
    text = page.text("representation").replace("\xa0", " ")
    assert sentence in text
    assert "80 pixels of the test set" in text
    assert "12 images of the test set" in text
    assert min(images(page, "Local coordinates, coloured by category")[0].size) > 500


def test_many_points_are_sampled_and_the_page_says_so() -> None:
    record = replace(
        make_record("bottle"), local_coordinates=np.zeros((3500, 2)), local_anomalous=np.zeros(3500, dtype=bool)
    )
    text = Page(render_html(make_report([record]))).text("representation")
    assert "3,000 pixels of the test set, at most 3,000 per category" in text


def test_parts_without_data_are_left_out() -> None:
    record = replace(make_record("bottle", None), recognised=None, best=[], worst=[], false_alarms=[])
    page = Page(render_html(make_report([record])))
    assert set(page.sections) - {"header"} == {"results", "roc", "scores"}


def test_report_without_anomalous_images_has_no_roc_curves() -> None:
    record = replace(make_record("bottle"), anomalous=np.zeros(6, dtype=bool), best=[], worst=[])
    page = Page(render_html(make_report([record], image_AUROC=NAN, image_F1Max=NAN)))
    assert "roc" not in page.sections
    assert "Clearest anomalies" not in page.text("examples")
    assert "good/2.png" in page.text("examples")


def test_report_of_metrics_alone() -> None:
    report = replace(make_report([make_record("bottle")]), records=[], notes=[])
    page = Page(render_html(report))
    assert set(page.sections) - {"header"} == {"results"}
    assert page.rows[1][0] == "bottle"


def test_category_without_a_record_keeps_its_row_and_the_links_stay_right() -> None:
    report = make_report([make_record("bottle"), make_record("cable")])
    page = Page(render_html(replace(report, records=report.records[1:])))
    assert [a["href"] for tag, a in page.elements if tag == "a" and "scores-" in (a["href"] or "")] == ["#scores-0"]
    assert page.rows[1][0] == "bottle"


def test_scores_that_are_not_finite_are_left_out_and_reported() -> None:
    record = replace(make_record("bottle"), scores=np.array([0.1, np.nan, 0.7, 0.4, np.inf, 0.9]))
    assert "bottle: 2 scores are not finite" in Page(render_html(make_report([record]))).text("results")


def test_only_the_lowest_curves_of_many_categories_are_coloured() -> None:
    report = make_report([make_record(f"product_{index:02d}", None) for index in range(13)])
    rows = [replace(row, image_AUROC=0.99 - 0.01 * index) for index, row in enumerate(report.results)]
    text = Page(render_html(replace(report, results=rows))).text("roc")
    assert re.findall(r"product_(\d\d)", text) == [f"{index:02d}" for index in range(12, 2, -1)]
    assert "Grey: the other 3" in text


def test_large_pictures_are_shrunk_and_small_ones_are_not_blown_up() -> None:
    record = make_record("bottle")
    wide = make_example("wide.png", anomalous=True, score=0.9, size=(200, 1000))
    page = Page(render_html(make_report([replace(record, best=[wide])])))
    assert [image.size for image in images(page, "image")] == [(192, 38), (24, 32), (24, 32)]
    assert [image.size for image in images(page, "anomaly map over the image")] == [(192, 38), (24, 32), (24, 32)]


def test_coordinates_of_different_models_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="record those of all categories with one model"):
        write_html(make_report([make_record("bottle", 2), make_record("cable", 3)]), tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_an_older_report_survives_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("older")

    def fail(self: Path, target: Path) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_html(make_report([make_record("bottle", None)]), path)
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]
