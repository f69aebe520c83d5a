"""Classes that a torch export names by a module of before are found: a pickle holds nothing else of them."""

import pickle

import pytest

FORMER = {
    "adjustment.corrections": "read_verdicts",
    "backbone.cut": "Unused",
    "category_features": "CategoryFeatures",
    "checkpoint.convert": "convert",
    "deploy.maps": "at_size",
    "thresholds.known_images": "KnownImage",
    "thresholds.record": "ThresholdRecord",
}


@pytest.mark.parametrize(("module", "name"), FORMER.items())
def test_a_class_is_found_by_its_former_name(module: str, name: str) -> None:
    found = pickle.loads(f"canomalib_grad.{module}\n{name}\n.".encode())  # noqa: S301  # a name alone
    assert found.__name__ == name
    assert found.__module__ != f"anomalib_grad.{module}"


def test_a_class_that_was_renamed_is_found_by_its_former_name() -> None:
    found = pickle.loads(b"canomalib_grad.training.feature_sample\nNoting\n.")  # noqa: S301  # a name alone
    assert found.__name__ == "ValidationSampler"
