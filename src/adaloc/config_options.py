"""Sections of the config for options of the training that are off by default. Import them from `adaloc.config`."""

from __future__ import annotations

from pydantic import Field

from adaloc.config_simulation import Section, SimulationConfig

_ROUND_PX = 1e-3  # relative difference of pixel sides that a turn may swap


class TrainingTermsConfig(Section):
    """What is minimised in training beside the loss or otherwise than in it. The validation loss knows none of it."""

    focal_gamma: float = Field(
        0.0, ge=0, le=5, description="power of the focal loss of the probability; 0: plain cross entropy"
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of every pixel's detection target that is replaced by the mean of all"
    )
    multi_scale_weight: float = Field(
        0.0,
        ge=0,
        description="of the errors of the emitters' number and photons in squares of 2, 4 and 8 px",
    )
    adversarial_weight: float = Field(
        0.0, ge=0, description="of a small discriminator that tells rendered predictions from rendered truth"
    )

    @property
    def changes_cross_entropy(self) -> bool:
        """Whether the detection channel is trained otherwise than it is judged."""
        return self.focal_gamma > 0 or self.label_smoothing > 0


class RandomizationConfig(Section):
    """Ranges in which light and camera are drawn anew, so that a network survives a calibration that is a little wrong.

    For each window of the sample folders, and for each freshly simulated movie. The network is not told.
    """

    brightness_fraction: float = Field(
        0.0, ge=0, lt=1, description="molecules: fresh ones brighter or dimmer; recorded windows can only be dimmed"
    )
    background_fraction: float = Field(
        0.0, ge=0, lt=1, description="background: fresh more or less; to recorded windows it can only be added"
    )
    gain_fraction: float = Field(0.0, ge=0, lt=1, description="of gain_e_per_adu, up or down")
    baseline_adu: float = Field(0.0, ge=0, description="of the baseline, up or down")
    read_noise_e: float = Field(0.0, ge=0, description="added to the read noise, in squares on recorded windows")
    aberration_nm_rms: float = Field(
        0.0, ge=0, le=200, description="of each of Noll 5 to 11; of fresh movies and the pupil PSF alone"
    )

    @property
    def is_on(self) -> bool:
        """Whether anything is drawn."""
        return any(getattr(self, name) > 0 for name in type(self).model_fields)

    @property
    def changes_recorded(self) -> bool:
        """Whether windows of sample folders are changed."""
        return any(getattr(self, name) > 0 for name in type(self).model_fields if name != "aberration_nm_rms")


def why_no_quarter_turns(simulation: SimulationConfig) -> str | None:
    """Why a window turned by 90 degrees would be no image of this microscope; None when it is one.

    The network is not told where in the field a window lies, so aberrations that vary over the field may turn with it,
    as they may be mirrored. What all images share may not.
    """
    side, psf = simulation.optics.pixel_size_nm, simulation.psf
    if abs(side.x - side.y) > _ROUND_PX * side.x:
        return f"the pixels are not square ({side.x:g} x {side.y:g} nm), and a turned PSF has other widths in pixels"
    if psf.type == "spline":
        return "the PSF is a measured one, of which nobody knows that it is symmetric"
    if psf.type == "pupil":
        if psf.calibration is not None:
            return "the PSF is a measured one, of which nobody knows that it is symmetric"
        if psf.astigmatism_nm_rms != 0:
            return "the PSF is astigmatic: turned by 90 degrees it is that of another z"
        return None
    along_x = (psf.sigma_x_nm, psf.focus_x_nm, psf.cubic_x, psf.quartic_x)
    along_y = (psf.sigma_y_nm, psf.focus_y_nm, psf.cubic_y, psf.quartic_y)
    if along_x != along_y:
        return "the PSF has other widths along x than along y: turned by 90 degrees it is that of another z"
    return None
