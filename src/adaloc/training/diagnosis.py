"""A run's diagnosis of itself: when to look, what to log, and when to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from adaloc.errors import AdalocError
from adaloc.training.causes import Finding, is_hopeless, is_named, rank
from adaloc.training.diagnosis_text import describe
from adaloc.training.evidence import Evidence, gather
from adaloc.training.probes import make_probes, overfit_fresh, probe_steps
from adaloc.training.run import Run
from adaloc.training.run_log import Event, read_events
from adaloc.training.signals import EARLY_EPOCHS, REMEMBERED_BATCHES

_PROBE_SHARE = 0.05
"""Steps spent on probes over steps trained, at most, from the second probing on."""
_EPOCHS_BETWEEN_STALL_CHECKS = 10


@dataclass(frozen=True)
class Diagnosis:
    """Causes of how a run stands.

    Attributes:
        epoch, step: when.
        findings: the most likely first.
        evidence: what they rest on.
        probes: results of the probes; empty when none were made.
    """

    epoch: int
    step: int
    findings: tuple[Finding, ...]
    evidence: Evidence
    probes: dict[str, Any]

    def event(self) -> dict[str, Any]:
        """The log's event."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "trend": self.evidence.trend,
            "findings": [asdict(finding) for finding in self.findings],
            "tried": list(self.evidence.tried),
            "probes": self.probes,
        }


def diagnose_events(events: list[Event], probes: dict[str, Any] | None = None) -> Diagnosis:
    """A diagnosis from the log alone, or with the results of probes."""
    evidence = gather(events, probes)
    return Diagnosis(evidence.epoch, evidence.step, tuple(rank(evidence)), evidence, probes or {})


def diagnose_in_training(run: Run, tell: Callable[[Diagnosis], None], *, force: bool) -> None:
    """Looks at a run at the end of an epoch: at its integrity early on, and at everything when it stalls.

    Raises:
        AdalocError: when the run cannot succeed, unless `force`.
    """
    epoch = run.epoch - 1
    if epoch < EARLY_EPOCHS:
        diagnosis = diagnose_events(read_events(run.log.path))
        hopeless = [finding for finding in diagnosis.findings if is_hopeless(finding) and _is_fault(run, finding)]
        if hopeless:
            # Whether the network is too small besides is known from a fresh one, whatever the data are.
            diagnosis = diagnose_events(read_events(run.log.path), {"overfit_ratio": overfit_fresh(run)})
            _report(run, diagnosis, tell)
            if not force:
                raise AdalocError(
                    f"The training stops after epoch {epoch + 1}, as it cannot succeed: {describe(hopeless[0])} "
                    "(--force goes on all the same.)"
                )
        return
    if (epoch + 1) % _EPOCHS_BETWEEN_STALL_CHECKS or run.is_over or run.learning_rate.is_settling:
        return
    events = read_events(run.log.path)
    diagnosis = diagnose_events(events)
    if diagnosis.evidence.trend not in ("stalled", "diverging"):
        return
    last = max((e["step"] for e in events if e["event"] == "diagnosis" and e.get("probes")), default=None)
    if last is not None and (run.step - last) * _PROBE_SHARE < probe_steps():
        return
    _report(run, diagnose_events(events, make_probes(run)), tell)


def _is_fault(run: Run, finding: Finding) -> bool:
    """Few data repeat by themselves: that is a choice, and no reason to stop."""
    few = run.windows.num_different <= REMEMBERED_BATCHES * run.config.data.windows_per_batch
    return finding.cause != "repeated_batch" or not few


def _report(run: Run, diagnosis: Diagnosis, tell: Callable[[Diagnosis], None]) -> None:
    run.log.write("diagnosis", **{**diagnosis.event(), "epoch": run.epoch - 1, "step": run.step})
    tell(diagnosis)


def first_named(diagnosis: Diagnosis) -> Finding:
    """The finding to tell first."""
    return next((finding for finding in diagnosis.findings if is_named(finding)), diagnosis.findings[0])
