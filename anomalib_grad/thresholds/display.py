# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Table of a model's thresholds, in which every number comes from images that the model file names."""

import math

from rich import box
from rich.table import Table
from rich.text import Text

from anomalib_grad.files.refusals import enumerated

from .category_thresholds import UNKNOWN
from .error_rates import extrapolates, outcome, percent, rate_in_words
from .labelled_scores import scores_of
from .model_thresholds import ModelThresholds
from .normalization import HALF
from .threshold_record import ThresholdRecord

LATEST = 10
"""Number of changes listed for a product's threshold; each command adds one."""
NO_EVIDENCE = (
    "This file does not record which images its thresholds come from, like files of older versions: validate the "
    "checkpoint and export it again, or fit thresholds on images from the line (command fit)."
)

NO_THRESHOLDS = (
    "There are no thresholds yet: validate the checkpoint and export it again, or fit thresholds on images from the "
    "line (command fit)."
)


def thresholds_table(thresholds: ModelThresholds) -> Table:
    """Build a table with a row per product: its threshold, where it comes from, and its errors on known images."""
    table = Table(box=box.SIMPLE, caption="in brackets: 95 % confidence interval of the true rate")
    for title in ("product", "threshold", "rule", "from images", "false alarms", "missed"):
        table.add_column(title, overflow="fold", justify="right" if title == "threshold" else "left")
    for name in thresholds.names:
        threshold = thresholds.threshold(name)
        shown = "none" if math.isnan(threshold) else f"{threshold:.6g}"
        record = thresholds.record(name)
        if record is None:
            table.add_row(Text(name), shown, "unknown", "unknown", "unknown", "unknown")
            continue
        found = outcome(thresholds.images(name), threshold)
        source = _pooled_source(thresholds, record) if name == UNKNOWN and not record.images else record.source
        rate = thresholds.promise(name)
        promised = "" if rate is None else f"promised {100 * rate:.3g} %; "
        table.add_row(
            Text(name),  # rich would read brackets in names and paths as markup
            shown,
            record.rule,
            Text(f"{found.normal} normal, {found.anomalous} anomalous ({source})"),
            promised + rate_in_words(found.false_alarms, found.normal),
            rate_in_words(found.missed, found.anomalous),
        )
    return table


def _pooled_source(thresholds: ModelThresholds, pooled: ThresholdRecord) -> str:
    """Say which images the pooled threshold comes from, and which products changed after it was fitted."""
    last = max((change.when for change in pooled.history), default="")
    histories = {name: record.history for name in thresholds.products if (record := thresholds.record(name))}
    later = [name for name, history in histories.items() if history and history[-1].when > last]
    return "images of all products" + (f"; {enumerated(later)} changed after this fit" if later else "")


def remarks(thresholds: ModelThresholds) -> list[str]:
    """Return sentences on what the table cannot show: what is missing, extrapolated or was changed."""
    fitted = not all(math.isnan(thresholds.threshold(name)) for name in thresholds.names)
    said = [] if thresholds.records else [NO_EVIDENCE if fitted else NO_THRESHOLDS]
    for name in thresholds.names:
        record = thresholds.record(name)
        if record is not None:
            said += [f"{name}: {sentence}" for sentence in _remarks_on(record, thresholds, name)]
    return said


def _remarks_on(record: ThresholdRecord, thresholds: ModelThresholds, name: str) -> list[str]:
    said = []
    images = thresholds.images(name)
    normal = len(scores_of(images, anomalous=False))
    rate, sensitivity = thresholds.promise(name), thresholds.image_sensitivity
    if sensitivity != HALF and not record.history:
        said.append(
            f"the fitted threshold is {record.fitted:.6g}; the model's image_sensitivity={sensitivity:g} moves it."
        )
    if rate is not None and extrapolates(rate, normal):
        said.append(
            f"WARNING: the false alarm rate of {100 * rate:.3g} % is extrapolated: {normal} normal images can show no "
            f"rate below {percent(1 / (normal + 1))} %. Fit the threshold on more normal images (command fit)."
        )
    if sum(record.seen) > len(record.images) > 0:
        said.append(f"the file keeps {len(record.images)} of {sum(record.seen)} images, evenly spaced by score.")
    earlier = len(record.history[:-LATEST])
    if earlier:
        said.append(
            f"the file also holds {earlier} earlier changes; in Python, "
            f"anomalib_grad.adjustment.read_thresholds(file).record({name!r}).history lists all."
        )
    said += [f"{one.when}: {one.what} ({one.before:.6g} -> {one.after:.6g})." for one in record.history[-LATEST:]]
    return said
