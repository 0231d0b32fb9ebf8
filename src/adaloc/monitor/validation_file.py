"""`validation.json` of a run folder: what the report shows of the model's work, so that it needs no model and no data.

Written at the end of a training (`adaloc.validation_score`), read by the report. Units as everywhere: x, y in px from
the centre of the first pixel, z in nm, photons. Keys that a later version adds are ignored by an older one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from adaloc.files import write_text

VALIDATION_FILE = "validation.json"
SIGMA_RANGE = 4.0


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Pixel(_Part):
    """Camera pixel in the sample, nm."""

    x: float
    y: float


class Points(_Part):
    """Rows of a table; `paired` says of each whether it has a partner in the other table."""

    x: list[float]
    y: list[float]
    z: list[float]
    photons: list[float]
    paired: list[bool]


class ScoredFrame(_Part):
    """One validation frame.

    Attributes:
        sample, frame: which one; frames from 0.
        rank: among the best or the worst of all validation frames.
        top, left: first row and column of what is shown, px; 0 unless the frame is larger than is shown.
        photons: (rows) of whole photons per px.
        truth: emitters with at least `data.min_photons`. localizations: of the best model.
        jaccard: true positives over all, 0 to 1. rmse_lateral_nm: None without a pair.
    """

    sample: str
    frame: int
    rank: Literal["best", "worst"]
    top: int
    left: int
    photons: list[list[int]]
    truth: Points
    localizations: Points
    jaccard: float
    rmse_lateral_nm: float | None


class SubPixelAxis(_Part):
    """Positions within the pixel along one axis, -0.5 to 0.5 px, in equal bins.

    Attributes:
        counts: localizations. truth_counts: emitters that were asked for.
        amplitude, peak_px, p_value: of the localizations, see `adaloc.localize.pixel_grid`.
    """

    counts: list[int]
    truth_counts: list[int]
    amplitude: float
    peak_px: float
    p_value: float


class SigmaAxis(_Part):
    """Errors over predicted uncertainties along one axis, of pairs.

    Attributes:
        counts: in equal bins from -`SIGMA_RANGE` to `SIGMA_RANGE`; errors beyond lie in the outermost.
        spread: standard deviation; 1 when the uncertainties are right, more when they are too small.
        within_one: share of the errors within one uncertainty; 0.683 of a normal distribution.
    """

    counts: list[int]
    spread: float
    within_one: float


class PSFCheck(_Part):
    """Mean image of isolated emitters of the frames beside the PSF that the data set describes.

    Attributes:
        z_nm: mean depth of each group. num: emitters in it.
        measured, model: of each group (rows) of 1000 x the share of the photons in a pixel.
        correlation: Pearson's, of both.
    """

    z_nm: list[float]
    num: list[int]
    measured: list[list[list[float]]]
    model: list[list[list[float]]]
    correlation: list[float]


class CameraCheck(_Part):
    """Noise against light of a validation movie (photon transfer), and what the config's camera gives."""

    mean_adu: list[float]
    variance_adu2: list[float]
    expected_adu2: list[float]
    slope_adu: float
    slope_sigma: float | None
    expected_slope_adu: float


class Validation(_Part):
    """The file.

    Attributes:
        format: name and version of the format.
        pixel_size_nm: of the camera.
        num_frames, num_emitters, num_localizations: that were scored.
        frames: the best and the worst.
        sub_pixel: along x and y; empty without localizations.
        uncertainty: along x, y and z; empty for a model without uncertainties.
        psf, camera: None where they are not known; `unknown_because` then says why, under the same name; and under
            "crlb" why there is no RMSE over CRLB.
    """

    format: Literal["adaloc-validation-1"] = "adaloc-validation-1"
    pixel_size_nm: Pixel
    num_frames: int
    num_emitters: int
    num_localizations: int
    frames: list[ScoredFrame]
    sub_pixel: dict[Literal["x", "y"], SubPixelAxis]
    uncertainty: dict[Literal["x", "y", "z"], SigmaAxis] = {}
    psf: PSFCheck | None
    camera: CameraCheck | None
    unknown_because: dict[str, str]


def write_validation(folder: Path, validation: Validation) -> Path:
    """Writes the file into a run folder.

    Raises:
        AdalocError: when it cannot be written.
    """
    path = folder / VALIDATION_FILE
    write_text(path, validation.model_dump_json() + "\n")
    return path


def read_validation(folder: Path) -> tuple[Validation | None, str]:
    """The file's content, or None and why: "missing", or a sentence."""
    path = folder / VALIDATION_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None, "missing"
    except (OSError, UnicodeDecodeError) as error:
        return None, f"{VALIDATION_FILE} cannot be read: {error}"
    try:
        return Validation.model_validate_json(text), ""
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return None, f"{VALIDATION_FILE} is damaged, or of another version ({where}: {first['msg']})"
