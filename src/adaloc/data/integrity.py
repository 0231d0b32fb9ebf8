"""Whether training data can be learned from, asked before the first step.

No network and no PSF model is needed: frames, emitters and the camera's constants suffice (a PSF that is known to have
made the data can only take an offset back). Every test has a
threshold with a reason beside it, and says so when the data are too few to tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adaloc.config import SimulationConfig
from adaloc.data.finding import Finding
from adaloc.data.integrity_alignment import check_alignment
from adaloc.data.integrity_values import check_values
from adaloc.data.windows import Sample
from adaloc.simulation.camera_maps import uniform_camera
from adaloc.simulation.psf import PSF

# Causes that explain what the alignment would say as well: frames without light cannot follow their emitters.
_EXPLAINS_ALIGNMENT = ("dead_frames",)


@dataclass(frozen=True)
class Integrity:
    """The answer.

    Attributes:
        findings: what is wrong; those that stop a training come first.
        measured: numbers behind it: z_own and z_expected (light at the emitters against chance, in standard
            deviations, found and to be expected), num_frames and num_emitters (looked at), photons_ratio (light per
            photon of the table), offset_x_px, offset_y_px.
        undecided: why it could not be told whether frames and emitters belong together; empty when it could.
    """

    findings: list[Finding]
    measured: dict[str, float | str]
    undecided: str

    @property
    def stops(self) -> list[Finding]:
        """Findings that a training cannot succeed with."""
        return [finding for finding in self.findings if finding.severity == "stop"]


def check_samples(
    training: Sequence[Sample],
    validation: Sequence[Sample],
    simulation: SimulationConfig,
    psf: PSF | None = None,
) -> Integrity:
    """All checks of loaded samples; deterministic, about 2 s for the reference data.

    Args:
        training, validation: (T, H, W) ADU with emitters in px, nm and photons; sizes may differ.
        simulation: its camera converts ADU to photons, its pixel size and z range are what the data should have.
        psf: that the data were simulated with, where that is known.
    """
    # The frames of a camera with maps were brought to the uniform camera's ADU in reading.
    simulation = simulation.model_copy(update={"camera": uniform_camera(simulation.camera)})
    findings, measured = check_values(training, validation, simulation)
    undecided = ""
    if any(f.cause in _EXPLAINS_ALIGNMENT and f.severity == "stop" for f in findings):
        undecided = "the frames hold nothing"
    else:
        answer = check_alignment([*training, *validation], simulation.camera, simulation.optics.pixel_size_nm, psf)
        measured = {**answer.evidence, **measured}
        findings = [*answer.findings, *findings]
        undecided = answer.undecided
    return Integrity(sorted(findings, key=lambda f: f.severity), measured, undecided)
