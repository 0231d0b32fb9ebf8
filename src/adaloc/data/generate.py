"""`adaloc simulate`: writes a data set of sample folders, and goes on where it was interrupted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from adaloc import __version__
from adaloc.bounds import read_text
from adaloc.config import Config, PupilPSFConfig, SimulationConfig
from adaloc.data.sample_folder import list_samples, write_sample
from adaloc.errors import ConfigError, DataError
from adaloc.files import atomic_path, remove_leftovers, write_text
from adaloc.random_streams import Stream, numpy_stream
from adaloc.simulation.camera_maps import maps_of, read_camera_maps, write_camera_maps
from adaloc.simulation.field_map import FieldMap, random_field_map, read_field_map, write_field_map
from adaloc.simulation.frames import simulate_sample
from adaloc.simulation.psf import PSF, make_psf
from adaloc.simulation.psf_file import read_psf_file
from adaloc.simulation.spline import SplinePSF

DATASET_FILE = "dataset.json"
FIELD_MAP_FILE = "zmap.h5"
CALIBRATION_FILE = "psf.h5"
CAMERA_MAPS_FILE = "camera_maps.h5"
_FIELD_SIZE_PX = 256
"""Side of the field that a random map covers; each sample lies at a random place in it."""
_FORMAT_VERSION = 1
_MOST_DESCRIPTION_BYTES = 16 * 2**20
_DEPTH_TOLERANCE_NM = 0.1  # rounding of a range that was typed


def is_complete(root: Path, config: Config) -> bool:
    """Whether `root` holds all the samples that the config's simulation makes.

    Raises:
        DataError: when it holds data that were simulated otherwise.
    """
    description = read_description(root)
    if description is None:
        return False
    _refuse_other_simulation(root, description, config)
    return len(list_samples(root)) >= config.simulation.num_samples


def read_description(root: Path) -> dict[str, Any] | None:
    """What a data set says that it was simulated with; None for data without dataset.json.

    Raises:
        DataError: when dataset.json is broken.
    """
    path = root / DATASET_FILE
    if not path.is_file():
        return None
    try:
        description = json.loads(read_text(path, _MOST_DESCRIPTION_BYTES, "description of a data set"))
        if not isinstance(description, dict) or not isinstance(description.get("simulation"), dict):
            raise ValueError("it has no section 'simulation'")
    except (ValueError, OSError, RecursionError) as error:
        raise DataError(f"{path} is broken ({error}). Delete {root} and simulate again.") from None
    return description


def generate(config: Config, root: Path, zmap: Path | None = None) -> Iterator[int]:
    """Simulates what is missing in `root`; yields the number of finished samples, first those that were there.

    Args:
        config: its `simulation` and `seed`.
        root: the data folder; made when missing.
        zmap: a field map; without one, a smooth random one is made. It is saved with the data.

    Raises:
        DataError: when `root` holds other data.
        ConfigError: when emitters are to lie deeper than a calibrated PSF reaches.
        AdalocError: when it cannot be written.
    """
    simulation = config.simulation
    remove_leftovers(root)
    description = read_description(root)
    if description is not None:
        _refuse_other_simulation(root, description, config)
        _refuse_other_calibration(root, simulation)
        if zmap is not None and description.get("zmap") != str(zmap):
            raise DataError(f"{root} was begun with the field map {description.get('zmap')}. Choose another folder.")
    elif holds_other_files(root):
        raise DataError(
            f"{root} holds files but no {DATASET_FILE}. Choose an empty folder for simulated data, or set "
            "data.simulate_if_missing to false to train on these files."
        )
    missing = [i for i in range(simulation.num_samples) if not (root / sample_name(i)).is_dir()]
    done = simulation.num_samples - len(missing)
    # Before anything is written: its file may be missing.
    psf = _make_psf(simulation, root, is_new=description is None) if missing else None
    if description is None:
        root.mkdir(parents=True, exist_ok=True)
        field_map = _make_field_map(config, zmap)
        _keep_calibration(simulation, root)
        if field_map is not None:
            write_field_map(root / FIELD_MAP_FILE, field_map)
        if (maps := maps_of(simulation.camera)) is not None:
            write_camera_maps(root / CAMERA_MAPS_FILE, maps)
        write_text(root / DATASET_FILE, json.dumps(_describe(config, zmap), indent=2) + "\n")
    else:
        field_map = read_field_map(root / FIELD_MAP_FILE) if isinstance(simulation.psf, PupilPSFConfig) else None
    seed = config.seed if description is None else int(description.get("seed", config.seed))
    yield done
    if psf is None:
        return
    with torch.inference_mode():
        for index in missing:
            sample = simulate_sample(simulation, psf, field_map, seed=seed, index=index)
            write_sample(root / sample_name(index), sample, simulation.optics)
            done += 1
            yield done


def psf_of_data(root: Path, simulation: SimulationConfig) -> PSF:
    """The PSF that a data set is made with; a calibration is the copy in `root`, so that the data say it all.

    Raises:
        DataError: when that copy is missing or damaged, or is not the file that `simulation` names.
    """
    psf = simulation.psf
    if isinstance(psf, PupilPSFConfig) and psf.calibration is not None:
        _refuse_other_calibration(root, simulation)
        psf = psf.model_copy(update={"calibration": root / CALIBRATION_FILE})
    return make_psf(psf, simulation.optics)


def _refuse_other_calibration(root: Path, simulation: SimulationConfig) -> None:
    psf, copy = simulation.psf, root / CALIBRATION_FILE
    if not isinstance(psf, PupilPSFConfig) or psf.calibration is None:
        return
    if copy.is_file() and psf.calibration.is_file() and copy.read_bytes() != psf.calibration.read_bytes():
        raise DataError(
            f"{root} was simulated with another {psf.calibration} than the one that is there now. "
            f"Delete {root} to simulate it anew, or name another folder in data.root."
        )


def holds_other_files(root: Path) -> bool:
    """Whether a folder holds something that no interrupted start of a simulation leaves behind."""
    ours = (FIELD_MAP_FILE, CALIBRATION_FILE, CAMERA_MAPS_FILE)
    return root.is_dir() and any(p.name not in ours and not p.name.startswith(".") for p in root.iterdir())


def sample_name(index: int) -> str:
    """sample_000, sample_001, ..."""
    return f"sample_{index:03d}"


def _make_psf(simulation: SimulationConfig, root: Path, *, is_new: bool) -> PSF:
    psf = make_psf(simulation.psf, simulation.optics) if is_new else psf_of_data(root, simulation)
    if isinstance(psf, SplinePSF):
        (low, high), asked = psf.z_range_nm, simulation.emitters
        if asked.z_min_nm < low - _DEPTH_TOLERANCE_NM or asked.z_max_nm > high + _DEPTH_TOLERANCE_NM:
            raise ConfigError(
                f"simulation.emitters lie at z from {asked.z_min_nm:g} to {asked.z_max_nm:g} nm, and the PSF is "
                f"calibrated from {low:g} to {high:g} nm: set z_min_nm and z_max_nm inside of that."
            )
    return psf


def field_map_of(config: Config) -> FieldMap | None:
    """The random field map of a config's seed; None for a PSF without Zernike coefficients."""
    return _make_field_map(config, None)


def _make_field_map(config: Config, zmap: Path | None) -> FieldMap | None:
    psf = config.simulation.psf
    if not isinstance(psf, PupilPSFConfig):
        if zmap is not None:
            raise DataError(f"A field map needs the pupil PSF; simulation.psf.type is {psf.type}.")
        return None
    if zmap is not None and psf.calibration is not None:
        raise DataError(
            "--zmap and simulation.psf.calibration both say the aberrations. Give one of them; a field map holds "
            "those of the whole field."
        )
    if zmap is not None:
        return read_field_map(zmap)
    measured = None if psf.calibration is None else read_psf_file(psf.calibration)
    size = max(_FIELD_SIZE_PX, config.simulation.image_size_px)
    rng = numpy_stream(config.seed, Stream.FIELD_MAP)
    return random_field_map(psf, config.simulation.optics.wavelength_nm, (size, size), rng, measured)


def _keep_calibration(simulation: SimulationConfig, root: Path) -> None:
    if isinstance(simulation.psf, PupilPSFConfig) and simulation.psf.calibration is not None:
        with atomic_path(root / CALIBRATION_FILE) as temporary:
            temporary.write_bytes(simulation.psf.calibration.read_bytes())


def _describe(config: Config, zmap: Path | None) -> dict[str, Any]:
    return {
        "format_version": _FORMAT_VERSION,
        "adaloc_version": __version__,
        "seed": config.seed,
        "zmap": None if zmap is None else str(zmap),
        "simulation": config.simulation.model_dump(mode="json"),
    }


def _refuse_other_simulation(root: Path, description: dict[str, Any], config: Config) -> None:
    try:  # keys that are newer than the data have their defaults
        there = SimulationConfig.model_validate(description["simulation"])
    except ValidationError as error:
        raise DataError(
            f"{root / DATASET_FILE} is broken ({error.error_count()} problems). Delete {root} and simulate again."
        ) from None
    here = _flatten(there.model_dump(mode="json"))
    asked = _flatten(config.simulation.model_dump(mode="json"))
    differing = sorted(key for key in here.keys() | asked.keys() if here.get(key) != asked.get(key))
    if differing:
        lines = [f"simulation.{key}: {here.get(key)} there, {asked.get(key)} in the config" for key in differing[:8]]
        raise DataError(
            f"{root} was simulated otherwise than the config says:\n  "
            + "\n  ".join(lines)
            + f"\nDelete {root} to simulate it anew, or name another folder in data.root."
        )
    maps, copy = maps_of(config.simulation.camera), root / CAMERA_MAPS_FILE
    if maps is not None and copy.is_file() and not maps.same_as(read_camera_maps(copy)):
        raise DataError(
            f"{root} was simulated with other camera maps than {config.simulation.camera.maps} holds now. Name "
            f"{copy} in simulation.camera.maps, or delete {root} to simulate it anew."
        )


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
