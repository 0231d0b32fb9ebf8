"""Which files a table of localizations is written to, and in which formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable
from adaloc.errors import ConfigError
from adaloc.localize.decode_file import write_decode_h5
from adaloc.localize.export import write_picasso_hdf5, write_smap_csv, write_thunderstorm_csv
from adaloc.localize.rows import Rows

FORMATS = {"thunderstorm": "ThunderSTORM", "picasso": "Picasso", "smap": "SMAP", "decode": "DECODE"}
"""Name on the command line -> name of the program."""
DEFAULT_FORMATS = ("thunderstorm", "picasso")
_BY_SUFFIX = {".csv": "thunderstorm", ".hdf5": "picasso", ".h5": "decode"}
_SUFFIXES = {"thunderstorm": ".csv", "picasso": ".hdf5", "smap": ".csv", "decode": ".h5"}


@dataclass(frozen=True)
class MovieFacts:
    """What the formats say about the movie besides its localizations.

    Attributes:
        pixel_size_nm: camera pixel.
        image_size_px: (H, W) of the camera frame.
        num_frames: of the whole movie.
        psf_sigma_nm: sigma of the spot in focus, or None.
        is_3d: z means something.
    """

    pixel_size_nm: PixelSize
    image_size_px: tuple[int, int]
    num_frames: int
    psf_sigma_nm: float | None
    is_3d: bool


def parse_formats(text: str | None) -> tuple[str, ...]:
    """`smap,decode` or `all` to names of `FORMATS`; None to the default, ThunderSTORM and Picasso.

    Raises:
        ConfigError: when a name is not known.
    """
    if text is None:
        return DEFAULT_FORMATS
    if text == "all":
        return tuple(FORMATS)
    names = tuple(dict.fromkeys(text.lower().split(",")))
    if unknown := [name for name in names if name not in FORMATS]:
        raise ConfigError(f"The format {', '.join(unknown)} is not known. Choose from {', '.join(FORMATS)}, or all.")
    return names


def format_of(path: Path) -> str:
    """The format that a file name asks for: .csv is ThunderSTORM, .hdf5 Picasso, .h5 DECODE.

    Raises:
        ConfigError: when the suffix is none of these.
    """
    name = _BY_SUFFIX.get(path.suffix.lower())
    if name is None:
        raise ConfigError(f"{path}: write a name that ends in .csv, .hdf5 or .h5, or say --to {'|'.join(FORMATS)}.")
    return name


def output_paths(out: Path, formats: Sequence[str]) -> dict[str, Path]:
    """A file for each format, all of one name: that of `out`, whose suffix is kept by the format that it fits.

    SMAP's table beside ThunderSTORM's is called `NAME_smap.csv`.

    Raises:
        ConfigError: when `out` ends in something else than .csv, .hdf5 or .h5.
    """
    if out.suffix.lower() not in _BY_SUFFIX:
        raise ConfigError(f"--out {out}: write a name that ends in .csv or .hdf5 (.h5), or name a folder.")
    paths = {name: out.with_suffix(_SUFFIXES[name]) for name in formats}
    if {"smap", "thunderstorm"} <= set(formats):
        paths["smap"] = out.with_name(f"{out.stem}_smap.csv")
    if "picasso" in formats and "decode" not in formats and out.suffix.lower() == ".h5":
        paths["picasso"] = out
    return paths


def write_outputs(paths: Mapping[str, Path], table: EmitterTable | Rows, facts: MovieFacts) -> None:
    """Writes each file, atomically.

    Raises:
        DataError: when a format needs what the table lacks.
        AdalocError: when a file cannot be written.
    """
    for name, path in paths.items():
        size, sigma, is_3d = facts.pixel_size_nm, facts.psf_sigma_nm, facts.is_3d
        if name == "thunderstorm":
            write_thunderstorm_csv(path, table, size, psf_sigma_nm=sigma, is_3d=is_3d)
        elif name == "smap":
            write_smap_csv(path, table, size, psf_sigma_nm=sigma, is_3d=is_3d)
        elif name == "decode":
            write_decode_h5(path, table, size, is_3d=is_3d)
        else:
            write_picasso_hdf5(
                path, table, size, image_size_px=facts.image_size_px, num_frames=facts.num_frames, psf_sigma_nm=sigma,
                is_3d=is_3d,
            )  # fmt: skip
