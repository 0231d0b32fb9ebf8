"""What a check of the training data found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["stop", "warn"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with the data.

    Attributes:
        cause: an id of `integrity_text.CAUSES`.
        severity: "stop" when training on it cannot succeed, "warn" when it can but its result will be off.
        evidence: the numbers behind it; their names carry their units.
    """

    cause: str
    severity: Severity
    evidence: dict[str, float | str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, as in the run's log."""
        return {"cause": self.cause, "severity": self.severity, "evidence": dict(self.evidence)}


def severity_of(stop: bool) -> Severity:
    """The severity of a finding that stops a training, or does not."""
    return "stop" if stop else "warn"
