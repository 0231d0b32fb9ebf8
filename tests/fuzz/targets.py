"""One target per reader: bytes in, and nothing but adaloc's own errors out."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import tifffile
import torch

from adaloc.config import Config, OpticsConfig, PixelSize
from adaloc.config_file import dump_config, load_config
from adaloc.data.generate import read_description
from adaloc.data.sample_folder import read_background_shape, read_coefficients, read_emitters
from adaloc.data.scaling import Scaling
from adaloc.emitters import EmitterTable
from adaloc.errors import AdalocError
from adaloc.localize.decode_file import write_decode_h5
from adaloc.localize.inference import Block
from adaloc.localize.movie import open_movie
from adaloc.localize.read import read_localizations
from adaloc.localize.work_file import WorkFile, finished_until
from adaloc.models.model_file import load_model, make_model, save_model
from adaloc.monitor.log import load_run
from adaloc.monitor.report import text_report
from adaloc.monitor.validation_file import read_validation
from adaloc.simulation.aberration_map import convert_aberration_map
from adaloc.simulation.camera_maps import CameraMaps, read_camera_maps, write_camera_maps
from adaloc.simulation.field_map import FieldMap, read_field_map, write_field_map
from adaloc.simulation.phase_mask import read_phase_mask
from adaloc.simulation.psf_file import PSFFile, read_psf_file, write_psf_file
from adaloc.simulation.smap_calibration import read_smap_calibration, write_smap_calibration
from adaloc.simulation.spline import Spline
from adaloc.simulation.spline_files import read_spline
from adaloc.training.checkpoint import load_checkpoint, save_checkpoint
from adaloc.tuning.space import load_space

_HUNDRED_NM = PixelSize(x=100, y=100)


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        file: name that the bytes are given.
        read: reads the file.
        seeds: writes sound files into a folder, for the fuzzer to begin with.
        beside: further files that the reader needs, by name.
    """

    file: str
    read: Callable[[Path], object]
    seeds: Callable[[Path], None]
    beside: dict[str, bytes]


def feed(target: Target, data: bytes, folder: Path) -> None:
    """Reads the bytes; whatever is raised here but by adaloc itself is a finding."""
    for name, content in target.beside.items():
        (folder / name).write_bytes(content)
    path = folder / target.file
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            target.read(path)
        except AdalocError as error:
            assert str(error), "an error without a word"


def seeds(target: Target) -> list[bytes]:
    """Sound files."""
    with tempfile.TemporaryDirectory() as folder:
        target.seeds(Path(folder))
        return [path.read_bytes() for path in sorted(Path(folder).iterdir())]


def _movie(path: Path) -> None:
    with open_movie(path) as movie:
        movie.read(0, min(movie.num_frames, 3))


def _tiffs(folder: Path) -> None:
    frames = np.arange(3 * 5 * 6, dtype=np.uint16).reshape(3, 5, 6)
    for name, options in (
        ("a.tif", {"photometric": "minisblack"}), ("b.ome.tif", {"metadata": {"axes": "TYX"}}),
        ("c.tif", {"compression": "zlib"}), ("d.tif", {"imagej": True}), ("e.tif", {"bigtiff": True, "byteorder": ">"}),
    ):  # fmt: skip
        tifffile.imwrite(folder / name, frames, **options)  # type: ignore[arg-type]


def _csv(folder: Path) -> None:
    (folder / "a").write_text(
        '"frame","x [nm]","y [nm]","z [nm]","intensity [photon]"\n1,2.5,3,4,5\n', encoding="utf-8"
    )
    (folder / "b").write_text("1,1,2.5,3,4,5\n", encoding="utf-8")
    (folder / "c").write_text("frame,xnm,ynm,phot\n1,2,3,4\n", encoding="utf-8")


def _rapidstorm(folder: Path) -> None:
    fields = "".join(
        f'<field identifier="{name}" unit="nanometer"/>'
        for name in ("Position-0-0", "Position-1-0", "ImageNumber-0-0", "Amplitude-0-0")
    )
    (folder / "a").write_text(f"# <localizations>{fields}</localizations>\n1 2 3 4\n", encoding="utf-8")


def _insight3(folder: Path) -> None:
    record = bytearray(72)
    record[52] = 1  # its frame
    (folder / "a").write_bytes(b"M425" + bytes(8) + (2).to_bytes(4, "little") + bytes(record) * 2)


def _hdf5_tables(folder: Path) -> None:
    one = np.ones(2)
    write_decode_h5(folder / "a", EmitterTable(frame=np.arange(2), x=one, y=one, z=one, photons=one), _HUNDRED_NM)
    with h5py.File(folder / "b", "w") as file:
        file["locs"] = np.zeros(2, [("frame", "u4"), ("x", "f4"), ("y", "f4"), ("photons", "f4")])
        file["metadata"] = b"[]"


def _emitters(folder: Path) -> None:
    with h5py.File(folder / "a", "w") as file:
        for name, value in (("frame_ix", np.zeros(2)), ("phot", np.ones(2)), ("xyz", np.ones((2, 3)))):
            file[f"records/{name}"] = value
        file["background/pattern"], file["background/pattern_ix"] = np.ones((1, 4, 4)), np.zeros(3)


def _read_emitters(path: Path) -> None:
    read_emitters(path.parent)
    read_background_shape(path.parent)
    read_coefficients(path.parent)


def _spline(folder: Path) -> None:
    write_smap_calibration(folder / "a.mat", Spline(np.ones((3, 4, 4, 64), np.float32), 50.0, 1.0, 2.0, 2.0))


def _field_map(folder: Path) -> None:
    write_field_map(folder / "a", FieldMap(np.zeros((21, 4, 4)), np.zeros((2, 2)), np.ones((2, 21))))


def _camera_maps(folder: Path) -> None:
    ones = np.ones((3, 4))
    write_camera_maps(folder / "a.h5", CameraMaps(ones, ones, ones))
    np.save(folder / "b.npy", np.ones((3, 3, 4)))
    np.savez_compressed(folder / "c.npz", offset_adu=ones, variance_adu2=ones, gain_e_per_adu=ones)


def _config(folder: Path) -> None:
    (folder / "a").write_text('{"seed": 1, // why\n"data": {"batch_size": 4}}', encoding="utf-8")
    (folder / "b").write_text('{"simulation": {"psf": {"type": "gaussian", "sigma_x_nm": 100}}}', encoding="utf-8")


def _description(folder: Path) -> None:
    (folder / "a").write_text('{"format_version": 1, "seed": 0, "simulation": {}}', encoding="utf-8")


def _model(folder: Path) -> None:
    torch.manual_seed(0)
    scaling = Scaling(0.0, 1.0, 0.1, (0.0,) * 5, (1.0,) * 5, (0.0,) * 5, (1.0,) * 5)
    config = Config.model_validate({"network": {"base_channels": 1, "depth": 0}})
    assert dump_config(config)
    save_model(folder / "a", make_model(config, scaling))


def _checkpoint(folder: Path) -> None:
    state = dict.fromkeys(("optimizer", "learning_rate", "rewind", "place", "epoch", "step", "best", "progress"), 0)
    save_checkpoint(folder / "a", {**state, "wall_s": 0.0, "model": {"config": dump_config(Config())}})


def _psf(folder: Path) -> None:
    phase = np.zeros(21)
    pupil = np.zeros((8, 8))
    write_psf_file(
        folder / "a.h5", PSFFile(OpticsConfig(), "scalar", False, None, 1.5, 0.0, phase, phase, phase, pupil)
    )


def _mask(folder: Path) -> None:
    np.save(folder / "a.npy", np.zeros((8, 8)))


def _work(folder: Path) -> None:
    one = np.ones(2)
    table = EmitterTable(frame=np.arange(2), x=one, y=one, z=one, photons=one)
    with WorkFile(folder / "a", {}, resume=False) as work:
        work.append(Block(0, 5, table))
        work.append(Block(5, 9, replace(table, x_sigma=one)))


def _read_work(path: Path) -> None:
    finished_until(path)
    with WorkFile(path, {}, resume=True) as work:
        list(work.rows().parts())


def _space(folder: Path) -> None:
    space = {"training.lr_first": {"low": 1e-4, "high": 1e-2, "log": True}, "network.depth": {"choices": [1, 2]}}
    (folder / "a").write_text(json.dumps(space), encoding="utf-8")


def _validation(folder: Path) -> None:
    facts = {
        "format": "adaloc-validation-1", "pixel_size_nm": {"x": 100, "y": 100}, "num_frames": 1, "num_emitters": 0,
        "num_localizations": 0, "frames": [], "sub_pixel": {}, "psf": None, "camera": None, "unknown_because": {},
    }  # fmt: skip
    (folder / "a").write_text(json.dumps(facts), encoding="utf-8")


def _log(folder: Path) -> None:
    start = {"event": "start", "time_s": 1.0, "epochs": 3, "steps_per_epoch": 1, "no_information_loss": 5.5}
    epoch = {"event": "epoch", "epoch": 0, "step": 1, "train_loss": 3.0, "val_loss": 3.0, "lr": 1e-3, "wall_s": 1.0}
    change = {"event": "lr", "epoch": 0, "step": 1, "kind": "boost", "factor": 1.5, "lr_before": 1e-3, "lr_after": 1e-3}
    lines = [json.dumps(event) for event in (start, epoch, change, {"event": "metrics", "epoch": 0, "jaccard": 0.5})]
    (folder / "a").write_text("\n".join(lines) + "\n", encoding="utf-8")


_RAW_YAML = b"Byte Order: <\nData Type: uint16\nHeight: 2\nWidth: 3\nFrames: 2\n"
_DAX_INF = b"frame dimensions = 2 x 3\nnumber of frames = 2\ndata type = 16 bit integers (binary, little endian)\n"


def _one(content: bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "a").write_bytes(content)

    return make


def _localizations(path: Path) -> object:
    return read_localizations(path, _HUNDRED_NM)


TARGETS = {
    "config": Target("c.json", load_config, _config, {}),
    "dataset_json": Target("dataset.json", lambda p: read_description(p.parent), _description, {}),
    "tiff": Target("m.tif", _movie, _tiffs, {}),
    "raw_yaml": Target("m.yaml", _movie, _one(_RAW_YAML), {"m.raw": bytes(24)}),
    "dax_inf": Target("m.inf", _movie, _one(_DAX_INF), {"m.dax": bytes(24)}),
    "csv": Target("f.csv", _localizations, _csv, {}),
    "rapidstorm": Target("f.txt", _localizations, _rapidstorm, {}),
    "insight3": Target("f.bin", _localizations, _insight3, {}),
    "hdf5_localizations": Target("f.h5", _localizations, _hdf5_tables, {}),
    "picasso_yaml": Target(
        "f.yaml", lambda p: read_localizations(p.with_suffix(".h5")), _one(_RAW_YAML + b"Pixelsize: 100\n"), {}
    ),
    "emitters_h5": Target("emitters.h5", _read_emitters, _emitters, {}),
    "smap_mat": Target("f.mat", read_smap_calibration, _spline, {}),
    "spline_file": Target("f.mat", read_spline, _spline, {}),
    "aberration_mat": Target("f.mat", convert_aberration_map, _spline, {}),
    "field_map": Target("f.h5", read_field_map, _field_map, {}),
    "camera_maps": Target("f.npz", read_camera_maps, _camera_maps, {}),
    "model": Target("m.pth", load_model, _model, {}),
    "checkpoint": Target("c.pth", lambda p: load_checkpoint(p, Config()), _checkpoint, {}),
    "psf_h5": Target("psf.h5", read_psf_file, _psf, {}),
    "phase_mask": Target("m.npy", lambda p: read_phase_mask(p, ""), _mask, {}),
    "work_file": Target("w.unfinished", _read_work, _work, {}),
    "tune_space": Target("s.json", lambda p: load_space(p, Config()), _space, {}),
    "validation_json": Target("validation.json", lambda p: read_validation(p.parent), _validation, {}),
    "run_log": Target("log.jsonl", lambda p: text_report(load_run(p.parent)), _log, {}),
}
with tempfile.TemporaryDirectory() as _folder:
    _hdf5_tables(Path(_folder))
    TARGETS["picasso_yaml"].beside["f.h5"] = (Path(_folder) / "b").read_bytes()
