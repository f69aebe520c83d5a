# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What registration adds to anomalib's registries, and what it says when it can't."""

import sys
import warnings
from types import ModuleType

import pytest

from anomalib_grad.plugin import callbacks
from anomalib_grad.plugin.registration import RegistrationError, register_with


class Padim: ...


class Grad: ...


class DataModule: ...


class MultiCategory(DataModule): ...


class Batch: ...


@pytest.fixture(autouse=True)
def ours(monkeypatch):
    """Light modules in the place of the package's heavy ones."""
    lightning_model = ModuleType("anomalib_grad.lightning_model")
    lightning_model.Grad = Grad
    data = ModuleType("anomalib_grad.data")
    vars(data).update(
        __all__=["MultiCategory", "Batch", "CONSTANT"], MultiCategory=MultiCategory, Batch=Batch, CONSTANT=1
    )
    monkeypatch.setitem(sys.modules, "anomalib_grad.lightning_model", lightning_model)
    monkeypatch.setitem(sys.modules, "anomalib_grad.data", data)


@pytest.fixture
def models():
    registry = ModuleType("anomalib.models")
    vars(registry).update(
        __all__=["Padim"],
        ALLOWED_MODULES={"anomalib.models"},
        _get_model_class_by_name={"grad": Grad, "Grad": Grad, "padim": Padim}.__getitem__,
    )
    return registry


@pytest.fixture
def data():
    registry = ModuleType("anomalib.data")
    vars(registry).update(__all__=["AnomalibDataModule"], AnomalibDataModule=DataModule)
    return registry


def test_model_is_found_by_every_name(models):
    register_with(models)
    assert models.Grad is Grad
    assert models.__all__ == ["Padim", "Grad"]
    assert {"anomalib_grad", "anomalib_grad.lightning_model", "anomalib.models"} == models.ALLOWED_MODULES
    for name in ("grad", "Grad", "anomalib_grad.Grad", "anomalib_grad.lightning_model.Grad"):
        assert models._get_model_class_by_name(name) is Grad
    assert models._get_model_class_by_name("padim") is Padim
    with pytest.raises(KeyError):
        models._get_model_class_by_name("os.grad")


def test_datamodules_are_attached_and_nothing_else(data):
    register_with(data)
    assert data.MultiCategory is MultiCategory
    assert data.__all__ == ["AnomalibDataModule", "MultiCategory"]
    assert not hasattr(data, "Batch")


def test_registering_again_changes_nothing(models, data):
    register_with(models)
    register_with(data)
    before = [{**vars(models)}, {**vars(data)}, [*models.__all__], [*data.__all__]]
    register_with(models)
    register_with(data)
    assert [{**vars(models)}, {**vars(data)}, [*models.__all__], [*data.__all__]] == before


@pytest.mark.parametrize("part", ["ALLOWED_MODULES", "_get_model_class_by_name", "__all__"])
def test_says_what_anomalib_lacks(models, part):
    delattr(models, part)
    with pytest.raises(RegistrationError, match=f"no anomalib.models.{part}"):
        register_with(models)


def test_does_not_replace_a_model_of_the_same_name(models):
    models.Grad = Padim
    with pytest.raises(RegistrationError, match="another Grad"):
        register_with(models)
    assert models.Grad is Padim


def test_no_callbacks_for_programs_without_anomalib(monkeypatch):
    for name in (*callbacks.USERS, "anomalib.models"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert callbacks.create_callbacks() == []


@pytest.mark.parametrize(("switch", "warned"), [(None, 1), ("1", 0)])
def test_a_hook_that_did_not_run_is_reported(monkeypatch, recwarn, switch, warned):
    for name in (*callbacks.USERS, "_anomalib_grad_startup"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "anomalib.models", ModuleType("anomalib.models"))
    monkeypatch.delenv("ANOMALIB_GRAD_DISABLE", raising=False)
    if switch:
        monkeypatch.setenv("ANOMALIB_GRAD_DISABLE", switch)
    assert callbacks.create_callbacks() == []
    assert len([w for w in recwarn if "start-up hook did not run" in str(w.message)]) == warned


def test_a_broken_evaluator_is_a_warning_and_no_more(monkeypatch):
    monkeypatch.setitem(sys.modules, "anomalib_grad.evaluation", ModuleType("anomalib_grad.evaluation"))
    with pytest.warns(RuntimeWarning, match="lack metrics per category"):
        assert callbacks.create_callbacks() == []
