"""What a controller of the learning rate asks the training loop to do."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Decision:
    """What the controller does after a step or an epoch, and why.

    Attributes:
        action: "none"; a change of the rate or of its course: search, found, boost, revert, decay, rollback, plateau,
            warmup_done, trial, anneal; or "give_up", when going back did not help.
        reason: in words.
        factor: by which the rate is multiplied.
        evidence: the numbers that the decision rests on.
        restore: slot whose state the loop takes back, before anything else; None for none.
        replay: whether the data go back to where they were then too, so that trials see the same batches.
        save: slot into which the loop copies its state (weights, optimizer, place in the data); None for none.
    """

    action: str = "none"
    reason: str = ""
    factor: float = 1.0
    evidence: dict[str, float] = field(default_factory=dict)
    restore: str | None = None
    replay: bool = False
    save: str | None = None
