# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Verdicts of people, read from folders and tables."""

from pathlib import Path

import pandas as pd
import pytest

from anomalib_grad.adjustment.verdicts import from_folders, read_verdicts


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_folders_per_product_and_of_one_product(tmp_path: Path):
    alarm, missed, hidden = tmp_path / "nut/false_alarms/1.png", tmp_path / "pin/missed/2.png", tmp_path / "nut/.x.png"
    touch(alarm, missed, hidden, tmp_path / "nut/false_alarms/notes.txt")
    assert read_verdicts(tmp_path) == {"nut": [(alarm, False)], "pin": [(missed, True)]}
    assert read_verdicts(tmp_path, "pin") == {"pin": [(missed, True)]}
    assert read_verdicts(tmp_path / "nut", "nut") == {"nut": [(alarm, False)]}
    assert from_folders(alarm.parent, missed.parent, None) == {None: [(alarm, False), (missed, True)]}


@pytest.mark.parametrize("stray", ["nut/false_alarm/2.png", "nut/2.png", "false_alarms/2.png", "cup/Missed/a/2.png"])
def test_images_that_are_in_no_folder_of_verdicts_are_refused(tmp_path: Path, stray: str):
    touch(tmp_path / "nut/false_alarms/1.png", tmp_path / stray)
    with pytest.raises(ValueError, match=r"is not in a folder of verdicts.* false_alarms or missed") as refusal:
        read_verdicts(tmp_path)
    assert "2.png" in str(refusal.value) or stray.startswith("false_alarms")  # beside which nut is the stray one


def test_other_products_than_the_one_that_is_named_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    touch(tmp_path / "pin/missed/1.png", tmp_path / "nut/missed/2.png", tmp_path / "nut/false_alarms/3.png")
    assert list(read_verdicts(tmp_path, "pin")) == ["pin"]
    said = f"Ignored in {tmp_path}: 2 verdicts on products other than pin: nut (2)"
    assert [record.getMessage() for record in caplog.records] == [said]
    file = tmp_path / "table.csv"
    file.write_text("path,category,right_label\na.png,nut,normal\nb.png,pin,normal\nc.png,,bad\nd.png,cup,bad\n")
    assert read_verdicts(file, "pin") == {"pin": [(Path("b.png"), False), (Path("c.png"), True)]}
    assert f"Ignored in {file}: 2 verdicts on products other than pin: nut (1), cup (1)" in caplog.text


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_of_predictions(tmp_path: Path, suffix: str):
    rows = [("a.png", "NA", "normal"), ("b.png", "NA", None), ("c.png", "pin", "Anomalous")]
    table = pd.DataFrame(rows, columns=["path", "category", "right_label"])
    file = tmp_path / f"predictions{suffix}"
    table.to_csv(file) if suffix == ".csv" else table.to_parquet(file)
    assert read_verdicts(file) == {"NA": [(Path("a.png"), False)], "pin": [(Path("c.png"), True)]}
    assert read_verdicts(file, "pin") == {"pin": [(Path("c.png"), True)]}
    if suffix == ".parquet":
        assert read_verdicts(tmp_path) == read_verdicts(file), "a folder of them is one table"


@pytest.mark.parametrize(
    ("words", "anomalous"),
    [("normal, Good,false,0,0.0", False), ("anomalous,BAD ,defective,True,1,1.0", True)],
)
def test_verdicts_in_the_words_of_people_and_spreadsheets(tmp_path: Path, words: str, anomalous: bool):
    pd.DataFrame({"path": "a.png", "right_label": words.split(",")}).to_csv(tmp_path / "table.csv")
    verdicts = read_verdicts(tmp_path / "table.csv", "pin")["pin"]
    assert verdicts == [(Path("a.png"), anomalous)] * len(words.split(","))


def test_a_table_that_was_saved_by_a_spreadsheet_with_decimal_commas(tmp_path: Path):
    file = tmp_path / "predictions.csv"
    file.write_text("\ufeffpath;pred_score;right_label\na, b.png;0,5;normal\nc.png;0,7;\n", encoding="utf-8")
    assert read_verdicts(file, "pin") == {"pin": [(Path("a, b.png"), False)]}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_table_in_the_encodings_that_spreadsheets_write(tmp_path: Path, encoding: str):
    file = tmp_path / "predictions.csv"
    mark = "\ufeff" if encoding.endswith(("le", "be")) else ""
    file.write_text(f"{mark}path\tcategory\tright_label\n\u00e4.png\tNA\tnormal\nb.png\tNA\t\n", encoding=encoding)
    assert read_verdicts(file) == {"NA": [(Path("\u00e4.png"), False)]}


@pytest.mark.parametrize(
    "content",
    [
        "sep=;\r\npath;category;right_label\r\na.png;nut;normal\r\n",
        "\r\n;;\r\npath;category;right_label\r\n\r\na.png;nut;normal\r\n;;\r\n",
        '"path","category","right_label",\n"a.png","nut","normal",\n"b.png","nut"," ",\n',
        "path;category;right_label\na.png;nut;normal;seen by Otto\n",
        "path;category;right_label\nb.png;nut\na.png;nut;normal;;seen by Otto\n",
        "right_label, path, category\nnormal, a.png, nut \n",
        "path;category;right_label\ra.png;nut;normal\r",
    ],
)
def test_a_table_with_what_people_and_spreadsheets_add(tmp_path: Path, content: str):
    (tmp_path / "predictions.csv").write_bytes(content.encode())
    assert read_verdicts(tmp_path / "predictions.csv") == {"nut": [(Path("a.png"), False)]}


@pytest.mark.parametrize("content", [b"\xff\xfep\0a", b"\xfe\xff\xd8\0\0a", b"\0\0\xfe\xff\0\0\0p"])
def test_a_table_in_no_known_encoding_is_answered_by_a_sentence(tmp_path: Path, content: bytes):
    (tmp_path / "predictions.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"the table of predictions .*(give a \.csv in UTF-8|has no column 'path')"):
        read_verdicts(tmp_path / "predictions.csv")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("path,category\na.png,nut\n", "no column 'right_label'"),
        ("path,right_label\na.png,perhaps\n", "'perhaps' in column 'right_label'"),
        ("path,right_label\na.png,\n", "holds no verdicts"),
        ("path|right_label\na.png|normal\n", r"no column 'path' \(its columns: 'path\|right_label'\); add it"),
        ("path,pred_score,right_label\na.png,0,5,normal\n", "'5' in column 'right_label'"),
        ("path,category,right_label\n,nut,normal\n", "a verdict without the path of its image"),
        ('path,right_label\n"a.png,normal\n', "cannot read the table of predictions"),
        ("\n", r"\(it is empty\)"),
    ],
)
def test_a_table_without_verdicts_is_refused(tmp_path: Path, content: str, said: str):
    (tmp_path / "predictions.csv").write_text(content)
    with pytest.raises(ValueError, match=said):
        read_verdicts(tmp_path / "predictions.csv")
