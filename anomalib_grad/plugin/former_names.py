# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Former module names, by which the pickles of older torch exports find their classes."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

PACKAGE = __name__.partition(".")[0]
NEW_NAMES = {
    "adjustment.corrections": "adjustment.verdicts",
    "backbone.cut": "backbone.remove_unused",
    "backbone_cut": "backbone.remove_unused",
    "category_features": "plugin.former_names",
    "checkpoint.convert": "checkpoint.from_authors",
    "components.fusion": "components.representation",
    "components.grid": "components.representation",
    "components.recogniser": "categories.recogniser",
    "deploy.maps": "deploy.maps_at_size",
    "evaluation.post_processor": "thresholds.post_processor",
    "feature_cache.settings": "settings",
    "head": "components.head",
    "pre_processor": "data.pre_processor",
    "resizing": "data.resizing",
    "thresholds.known_images": "thresholds.labelled_scores",
    "thresholds.record": "thresholds.threshold_record",
    "training.judged_sample": "training.feature_sample",
}
"""Former name to new name, for modules with a class that exports hold or a function that the documentation named."""


class CategoryFeatures:
    """Placeholder for a class of older exports, which hold an instance that nothing uses."""


class FormerNames(MetaPathFinder, Loader):
    """Import hook that returns the module of the new name for an import by the former one."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a former name."""
        package, _, name = fullname.partition(".")
        return ModuleSpec(fullname, self) if package == PACKAGE and name in NEW_NAMES else None

    def exec_module(self, module: ModuleType) -> None:
        """Replace the empty module by the one of the new name."""
        name = module.__name__.partition(".")[2]
        sys.modules[module.__name__] = import_module(f"{PACKAGE}.{NEW_NAMES[name]}")


def install() -> None:
    """Install the import hook once, after Python's own finders."""
    if not any(isinstance(finder, FormerNames) for finder in sys.meta_path):
        sys.meta_path.append(FormerNames())
