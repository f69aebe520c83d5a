# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from anomalib_grad.report.output_names import RECORD, output_names, read_record, write_record


def test_names_are_anomalibs_where_they_tell_inputs_apart() -> None:
    inputs = ["/data/MVTecAD/bottle/test/good/0.png", "/data/MVTecAD/bottle/test/crack/0.png"]
    assert list(output_names(inputs, {}, "MVTecAD", "bottle").values()) == ["test/good/0.png", "test/crack/0.png"]
    assert list(output_names(inputs, {}).values()) == ["good/0.png", "crack/0.png"]


def test_equal_names_get_the_folders_that_tell_them_apart() -> None:
    inputs = ["/in/x/good/a.png", "/in/y/good/a.png", "/in/y/good/b.png", "/in/a.png"]
    assert list(output_names(inputs, {}).values()) == ["x/good/a.png", "y/good/a.png", "y/good/b.png", "a.png"]
    assert list(output_names(inputs[:2], {}, "GOOD").values()) == ["x/good/a.png", "y/good/a.png"]


def test_results_of_an_earlier_run_keep_their_names_unless_it_was_of_the_same_input(tmp_path: Path) -> None:
    first = output_names(["/day1/good/a.png", "/day1/good/b.png"], {})
    write_record(tmp_path, {}, first)
    record = read_record(tmp_path)
    assert output_names(["/day1/good/a.png"], record) == {"/day1/good/a.png": "good/a.png"}
    second = output_names(["/day2/good/a.png", "/day2/good/c.png"], record)
    assert second == {"/day2/good/a.png": "a.png", "/day2/good/c.png": "c.png"}
    write_record(tmp_path, record, second)
    third = output_names(["/day3/good/a.png", "/day3/good/b.png"], read_record(tmp_path))
    assert list(third.values()) == ["day3/good/a.png", "day3/good/b.png"]
    assert read_record(tmp_path).keys() == {"good/a.png", "good/b.png", "a.png", "c.png"}


def test_a_result_is_an_image_whatever_its_input_is_called() -> None:
    assert output_names(["/in/good/scan.dat"], {}) == {"/in/good/scan.dat": "good/scan.dat.png"}


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text("{")
    with pytest.raises(ValueError, match=rf"{RECORD} is damaged: .*; remove it, or choose another folder"):
        read_record(tmp_path)
