# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What people at the line are told about their corrections."""

from anomalib_grad.adjustment.change import Corrected, Correction
from anomalib_grad.adjustment.summary import in_words
from anomalib_grad.thresholds.labelled_scores import KnownImage

BAD = KnownImage("bad.png", anomalous=True, score=3.0)
ALARM = KnownImage("alarm.png", anomalous=False, score=4.0)


def test_a_threshold_that_cannot_help_stays():
    correction = Correction("nut", ALARM, before=True, after=True, against=[BAD])
    assert in_words(Corrected({"nut": (2.0, 2.0)}, [correction], {"nut": []}, written=True)) == [
        "nut: the threshold stays at 2.",
        "  alarm.png: NO THRESHOLD CAN CORRECT THIS (score 4); any that calls it normal also misjudges "
        "1 anomalous image: bad.png",
        "  cost: no other known image changes its verdict.",
    ]


def test_cost_and_gain_are_counted():
    correction = Correction("nut", ALARM, before=True, after=False, against=[])
    changed = [BAD, KnownImage("1.png", anomalous=False, score=4.5), KnownImage("2.png", anomalous=False, score=4.6)]
    assert in_words(Corrected({"nut": (2.0, 5.0)}, [correction], {"nut": changed}, written=False)) == [
        "nut: the threshold would be 5; it was 2.",
        "  alarm.png: is now called normal, as it should be (score 4)",
        "  gain: 2 fewer false alarms among known images: 1.png, 2.png",
        "  cost: 1 more missed image among known images: bad.png",
    ]
