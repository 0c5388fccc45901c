"""How good the pseudo-labels are, judged without labels, and what that means for the coreset."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from elfs_ray.artifacts.record import Records, Unit
from elfs_ray.config import is_supervised

# Between what was seen with 87 % (0.99, 0.79) and 94 % (0.93, 0.93) of the pseudo-labels right on one side, and with
# 49 % (0.82, 0.72) on the other (docs/results.md). Held-out accuracy was 0.94 to 0.98 in all of them: it tells nothing.
WEAK_AGREEMENT, WEAK_CONSISTENCY = 0.9, 0.75


class Signal(NamedTuple):
    """One sign of quality.

    Attributes:
        value: 0 to 1.
        meaning: in plain words.
        weak_below: where it counts as weak; none: it does not tell good from bad pseudo-labels.
    """

    value: float
    meaning: str
    weak_below: float | None = None

    @property
    def verdict(self) -> str:
        """What a reader should take from it."""
        if self.weak_below is None:
            return "no verdict: weak pseudo-labels can be as easy to learn"
        return f"{'weak' if self.value < self.weak_below else 'good'} (weak below {self.weak_below:.0%})"


def label_free_signals(records: Records) -> list[Signal]:
    """What a run knows of its clusters without labels; nothing where there are none."""
    clustered = records.get(Unit("pseudo_labels"))
    if clustered is None:
        return []
    metrics = clustered.metrics
    signals = [
        Signal(metrics["mean_agreement"], "of the clustering heads agree on an image", WEAK_AGREEMENT),
        Signal(metrics["neighbor_consistency"], "of the neighbours share an image's pseudo-label", WEAK_CONSISTENCY),
    ]
    searches = [record for unit, record in records.of("beta_search").items() if not is_supervised(unit.method)]
    if searches:
        best = max(record.metrics["mean_validation_accuracy"] for record in searches)
        signals.append(Signal(best, "of held-out pseudo-labels are predicted by a classifier trained on a coreset"))
    return signals


def warning(config: Mapping[str, Any], records: Records) -> str:
    """A plain warning when the pseudo-labels look too weak to trust the difficulty scores; else nothing."""
    anchored = records.get(Unit("anchor")) if config["select"]["labeled"] is not None else None
    if anchored is not None and anchored.metrics["used"] == "probes":
        return ""
    weak = [
        f"{signal.value:.0%} {signal.meaning} (weak below {signal.weak_below:.0%})"
        for signal in label_free_signals(records)
        if signal.weak_below is not None and signal.value < signal.weak_below
    ]
    if not weak:
        return ""
    return (
        f"The pseudo-labels look weak: {' and '.join(weak)}. "
        "A gain over a random choice is unlikely; a stronger encoder helps most."
    )
