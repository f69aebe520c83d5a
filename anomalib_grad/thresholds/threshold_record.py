# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""How a product's threshold came about, kept beside it in checkpoints and exports."""

from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from .labelled_scores import KnownImage, from_plain, thinned, to_plain

VALIDATION = "validation"
"""Source of what training fitted."""
AFTERWARDS = "validation, judged again after products were added"
"""Source of what was fitted on features of validation images that a checkpoint carried."""


@dataclass(frozen=True)
class Change:
    """One change of a threshold.

    Attributes:
        when: ISO 8601, in UTC.
        what: What was asked for, in words.
        before: Image threshold until then, in the unit of the scores.
        after: Image threshold from then on.
    """

    when: str
    what: str
    before: float
    after: float


@dataclass(frozen=True)
class ThresholdRecord:
    """What is known of one product's threshold.

    Attributes:
        rule: By which it was found, in words.
        source: Where the images come from.
        fitted: Image threshold that the images gave, to which sensitivities refer.
        images: The images, or a sample of very many.
        seen: Number of normal and of anomalous images that there were.
        rate: Share of normal images that were promised to exceed it, in (0, 1); ``None`` where nothing was promised.
        history: What was changed, oldest first.
    """

    rule: str
    source: str
    fitted: float
    images: tuple[KnownImage, ...] = ()
    seen: tuple[int, int] = (0, 0)
    rate: float | None = None
    history: tuple[Change, ...] = ()

    @classmethod
    def of(
        cls, rule: str, source: str, fitted: float, images: list[KnownImage], rate: float | None = None
    ) -> "ThresholdRecord":
        """Note a threshold that was fitted on some images."""
        anomalous = sum(image.anomalous for image in images)
        return cls(rule, source, fitted, thinned(images), (len(images) - anomalous, anomalous), rate)

    def changed(self, what: str, before: float, after: float) -> "ThresholdRecord":
        """Give the record after a change now."""
        when = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return replace(self, history=(*self.history, Change(when, what, before, after)))

    def to_plain(self) -> dict[str, Any]:
        """Give the record as plain data."""
        return {
            **vars(self),
            "images": to_plain(self.images),
            "seen": list(self.seen),
            "history": [vars(change) for change in self.history],
        }

    @classmethod
    def from_plain(cls, plain: Any) -> "ThresholdRecord":  # noqa: ANN401  # whatever a file holds
        """Read what :meth:`to_plain` gave; a LookupError, TypeError or ValueError if it is something else."""
        normal, anomalous = (int(count) for count in plain["seen"])
        rate = plain["rate"]
        return cls(
            rule=str(plain["rule"]),
            source=str(plain["source"]),
            fitted=float(plain["fitted"]),
            images=from_plain(plain["images"]),
            seen=(normal, anomalous),
            rate=None if rate is None else float(rate),
            history=tuple(
                Change(str(one["when"]), str(one["what"]), float(one["before"]), float(one["after"]))
                for one in plain["history"]
            ),
        )
