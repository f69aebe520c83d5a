# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Record of how a product's threshold was fitted and changed, kept in checkpoints and exports."""

from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from .labelled_scores import KnownImage, from_plain, thinned, to_plain

VALIDATION = "validation"
"""Source of a threshold fitted in training."""
RESCORED = "validation, judged again after products were added"
"""Source of a threshold fitted on features of validation images that a checkpoint carried."""


@dataclass(frozen=True)
class Change:
    """One change of a threshold.

    Attributes:
        when: ISO 8601, in UTC.
        what: Description of the change.
        before: Image threshold before, in the unit of the scores.
        after: Image threshold after.
    """

    when: str
    what: str
    before: float
    after: float


@dataclass(frozen=True)
class ThresholdRecord:
    """Origin and history of one product's threshold.

    Attributes:
        rule: Name of the rule that fitted it.
        source: Where the images come from.
        fitted: Image threshold fitted on the images, to which sensitivities refer.
        images: The images, or a sample if there were very many.
        seen: Number of normal and of anomalous images before sampling.
        rate: Promised false alarm rate, in (0, 1); ``None`` if none was promised.
        history: Changes, oldest first.
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
        """Record a threshold that was fitted on some images."""
        anomalous = sum(image.anomalous for image in images)
        return cls(rule, source, fitted, thinned(images), (len(images) - anomalous, anomalous), rate)

    def changed(self, what: str, before: float, after: float) -> "ThresholdRecord":
        """Return the record with a change added, dated now."""
        when = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return replace(self, history=(*self.history, Change(when, what, before, after)))

    def to_plain(self) -> dict[str, Any]:
        """Return the record as plain data."""
        return {
            **vars(self),
            "images": to_plain(self.images),
            "seen": list(self.seen),
            "history": [vars(change) for change in self.history],
        }

    @classmethod
    def from_plain(cls, plain: Any) -> "ThresholdRecord":  # noqa: ANN401  # whatever a file holds
        """Read what :meth:`to_plain` returned; raise a LookupError, TypeError or ValueError for anything else."""
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
