"""A disk that fills while each kind of file is written, and files that two processes want."""
# ruff: noqa: E501 - one row of the table a line

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
from matplotlib.figure import Figure
from optuna.storages import JournalStorage

from adaloc.config import OpticsConfig, PixelSize, SimulationConfig
from adaloc.data import generate
from adaloc.data.sample_folder import write_sample
from adaloc.emitters import EmitterTable
from adaloc.figure_file import write_figure
from adaloc.files import append_line
from adaloc.localize.density import Planes
from adaloc.localize.drift import Drift
from adaloc.localize.export import write_picasso_hdf5, write_smap_csv, write_thunderstorm_csv
from adaloc.localize.inference import Block
from adaloc.localize.parts import Part, Split, number_of_parts
from adaloc.localize.render import write_ome_tiff, write_png
from adaloc.localize.tables import write_drift
from adaloc.localize.work_file import WorkFile
from adaloc.locks import hold_lock
from adaloc.simulation.blinking import Molecules
from adaloc.simulation.frames import SimulatedSample
from adaloc.simulation.psf_file import PSFFile, write_psf_file
from adaloc.simulation.smap_calibration import write_smap_calibration
from adaloc.simulation.spline import Spline
from adaloc.training.recording import open_board
from adaloc.tuning.journal import open_journal
from bad_input import Case, refusal
from bad_input_movies import nothing, text
from bad_input_writing import full_disk, on_full_disk, table, through_command

SOURCE = Path(__file__).parent.parent / "src" / "adaloc"
PIXEL = PixelSize(x=100, y=100)
RNG = np.random.default_rng(0)


def sized() -> EmitterTable:
    """With the uncertainties that Picasso needs."""
    plain = table()
    return EmitterTable(plain.frame, plain.x, plain.y, plain.z, plain.photons, x_sigma=plain.photons, y_sigma=plain.photons)  # fmt: skip


def picasso(folder: Path) -> None:
    write_picasso_hdf5(folder / "out.hdf5", sized(), PIXEL, image_size_px=(9, 9), num_frames=9)


def two_files(folder: Path) -> None:
    text("out.hdf5", "what was there")(folder)
    text("out.yaml", "what was there too")(folder)


def picture(folder: Path) -> None:
    write_png(folder / "out", RNG.integers(0, 255, (150, 150, 3)).astype(np.uint8), 10.0)


def ome_tiff(folder: Path) -> None:
    noise = RNG.normal(size=(99, 99)).astype(np.float32)
    write_ome_tiff(folder / "out", Planes(noise, noise, np.arange(9)), 10.0)


def figure(folder: Path) -> None:
    drawn = Figure()
    drawn.subplots().imshow(RNG.normal(size=(99, 99)))
    write_figure(drawn, folder / "out", dpi=100)


def drift(folder: Path) -> None:
    write_drift(folder / "out", Drift(RNG.normal(size=(999, 3)), np.arange(2.0), np.zeros((2, 3)), np.zeros(3)))


def psf(folder: Path) -> None:
    phase = np.zeros(21)
    write_psf_file(folder / "out", PSFFile(OpticsConfig(), "scalar", False, None, None, 0.0, phase, phase, pupil_phase=RNG.normal(size=(64, 64))))  # fmt: skip


def smap(folder: Path) -> None:
    coefficients = RNG.normal(size=(4, 9, 9, 64)).astype(np.float32)
    write_smap_calibration(folder / "out", Spline(coefficients, 50.0, 1.0, 4.0, 4.0))


def sample(frames: int, rows: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        one = np.ones(rows)
        emitters = EmitterTable(np.zeros(rows, np.int64), one, one, one, one, emitter_id=np.zeros(rows, np.int64))
        noise = RNG.integers(0, 999, (frames, 20, 20)).astype(np.uint16)
        made = SimulatedSample(noise, Molecules(one, one, one, one, one, one), emitters, None, None, np.ones(frames))
        write_sample(folder / "sample_000", made, OpticsConfig())

    return write


def kept_calibration(folder: Path) -> None:
    psf_config = {"type": "pupil", "calibration": str(folder / "psf.h5")}
    generate._keep_calibration(SimulationConfig.model_validate({"psf": psf_config}), folder / "data")


def calibration_is_not_kept(folder: Path) -> str:
    said = on_full_disk(kept_calibration)(folder)
    (folder / "data").rmdir()  # empty
    return said


def board(folder: Path) -> None:
    with open_board(folder / "board", 0) as files:
        for step in range(10):
            files.add_text("a", "b" * 4000, step)
            files.flush()


def board_is_left(folder: Path) -> str:
    """TensorBoard's own file keeps what was written; its readers leave a torn end out."""
    said = on_full_disk(board)(folder)
    (file,) = (folder / "board").iterdir()
    assert file.stat().st_size <= 8192
    file.unlink()
    file.parent.rmdir()
    return said


def begun_study(folder: Path) -> None:
    study = optuna.create_study(storage=JournalStorage(open_journal(folder / "s.journal")), study_name="a")
    study.add_trial(optuna.trial.create_trial(value=1.0))
    line = json.dumps({"op_code": 2, "worker_id": "w", "study_id": 0, "user_attr": {"a": "b" * 7000}})
    append_line(folder / "s.journal", line + "\n")


def study_goes_on(folder: Path) -> str:
    storage = JournalStorage(open_journal(folder / "s.journal"))
    study = optuna.load_study(storage=storage, study_name="a")
    with full_disk():
        said = through_command(lambda: study.set_user_attr("b", "c" * 4000))(folder)
    before = (folder / "s.journal").read_bytes()
    again = optuna.load_study(storage=JournalStorage(open_journal(folder / "s.journal")), study_name="a")
    again.set_user_attr("b", "short")
    again = optuna.load_study(storage=JournalStorage(open_journal(folder / "s.journal")), study_name="a")
    assert len(again.trials) == 1
    assert again.user_attrs["b"] == "short"
    (folder / "s.journal").write_bytes(before)
    return said


def work_file(folder: Path) -> str:
    with full_disk(8):
        said = refusal(lambda: WorkFile(folder / "new.unfinished", {}, resume=False))
    (folder / "new.unfinished").unlink()  # of a few bytes, and taken for nothing: the next run begins anew
    return said


def lock(folder: Path) -> None:
    with hold_lock(folder / "out", "The run folder"):
        raise AssertionError("it went on")


def one_of_two(folder: Path) -> None:
    split = Split(folder / "out.csv", {}, ((0, 5), (5, 9)))
    with split.open(1, resume=False) as work:
        work.append(Block(0, 5, table(3)))


def held_work_file(folder: Path) -> str:
    with WorkFile(folder / "out.1of2.unfinished", {"--part, or kind of device": [1, 2, 0, 5]}, resume=True):
        return refusal(lambda: WorkFile(folder / "out.1of2.unfinished", {}, resume=True))


def held_lock(folder: Path) -> str:
    with hold_lock(folder / ".run.lock", "The run folder run"):
        said = refusal(lambda: hold_lock(folder / ".run.lock", "The run folder run").__enter__())
    (folder / ".run.lock").unlink()
    return said


def on_full_disk_of(most_bytes: int, write: Callable[[Path], object]) -> Callable[[Path], str]:
    """As `on_full_disk`, with room for so many bytes."""

    def act(folder: Path) -> str:
        with full_disk(most_bytes):
            return refusal(lambda: write(folder))

    return act


WHAT = "what was there"
W = "Disks, rights, memory"
GUARDED = "could not be written"
P = "Several processes"
CASES = [
    Case(W, "a full disk while a ThunderSTORM table is written", text("out", WHAT), on_full_disk(lambda f: write_thunderstorm_csv(f / "out", table(), PIXEL)), GUARDED),
    Case(W, "a full disk while a SMAP table is written", text("out", WHAT), on_full_disk(lambda f: write_smap_csv(f / "out", table(), PIXEL)), GUARDED),
    Case(W, "a full disk while a Picasso file and its .yaml are written", two_files, on_full_disk(picasso), GUARDED, "both files as they were"),
    Case(W, "a full disk while a table of the drift is written", text("out", WHAT), on_full_disk(drift), GUARDED),
    Case(W, "a full disk while the super-resolved image is written", text("out", WHAT), on_full_disk(picture), GUARDED),
    Case(W, "a full disk while the image's numbers are written as OME-TIFF", text("out", WHAT), on_full_disk(ome_tiff), GUARDED),
    Case(W, "a full disk while a figure is written", text("out", WHAT), on_full_disk(figure), GUARDED),
    Case(W, "a full disk while a measured PSF is written", text("out", WHAT), on_full_disk(psf), GUARDED),
    Case(W, "a full disk while a spline is written", text("out", WHAT), on_full_disk(smap), GUARDED),
    Case(W, "a full disk while a simulated movie is written", nothing, on_full_disk(sample(99, 9)), GUARDED),
    Case(W, "a full disk while a simulated movie's truth is written", nothing, on_full_disk(sample(2, 9999)), GUARDED),
    Case(W, "a full disk while a calibration is copied beside the data", text("psf.h5", "x" * 20_000), calibration_is_not_kept, GUARDED),
    Case(W, "a full disk while TensorBoard's file is written", nothing, board_is_left, GUARDED, "what the file held, without the torn end"),
    Case(W, "a full disk while a study notes a result", begun_study, study_goes_on, "Check the disk's free space", "all trials; the study goes on"),
    Case(W, "a full disk when a localization begins", nothing, work_file, GUARDED),
    Case(W, "a full disk when a lock is taken", text("out", ""), on_full_disk_of(0, lock), GUARDED),
    Case(W, "a full disk in the middle of a line", text("out", "x" * 8000 + "\n"), on_full_disk(lambda f: append_line(f / "out", "y" * 999 + "\n")), GUARDED),
    Case(P, "two processes that localize into one file", one_of_two, held_work_file, "Another process is localizing into", "the file of the first"),
    Case(P, "two trainings in one run folder", nothing, held_lock, "is in use by another process: process", "the run of the first"),
    Case(P, "a movie begun in two parts and gone on with in three", one_of_two, lambda f: refusal(lambda: number_of_parts(f / "out.csv", Part(1, 3), resume=True)), "was begun in 2 parts", "the finished parts"),
    Case(P, "a movie begun in parts and localized anew without them", one_of_two, lambda f: refusal(lambda: number_of_parts(f / "out.csv", None, resume=False)), "Go on with --resume", "the finished parts"),
]  # fmt: skip


# --- That nothing is missing --------------------------------------------------------------------------------------

_WRITES = re.compile(
    r"\batomic_path\(|\bos\.write\(|\.write_(?:text|bytes)\(|\bimwrite\(|\bsavemat\(|\bSummaryWriter\(|\btorch\.save\(|"
    r"JournalFileBackend\(|\bnew_(?:large_)?hdf5\(|h5py\.File\([^)\n]*\"[wax]\"|open\([^)\n]*\"(?:[wax]b?\+?|rb?\+|r\+b)\""
)
WRITERS = {
    "data/generate.py": "calibration is copied",
    "data/sample_folder.py": "simulated movie's truth",
    "figure_file.py": "figure",
    "files.py": "text is written",
    "hdf5_file.py": "written as HDF5",
    "localize/decode_file.py": "written as HDF5",
    "localize/export.py": "Picasso file",
    "localize/render.py": "super-resolved image",
    "localize/tables.py": "table of the drift",
    "localize/work_file.py": "in the middle of a localization",
    "locks.py": "lock is taken",
    "models/model_file.py": "model is written",
    "simulation/camera_maps.py": "camera maps",
    "simulation/field_map.py": "field map",
    "simulation/psf_file.py": "measured PSF",
    "simulation/smap_calibration.py": "spline",
    "stopping.py": "",  # to the terminal
    "training/ranks.py": "",  # into memory
    "training/recording.py": "TensorBoard's file",
    "tuning/journal.py": "study notes a result",
    "tuning/study.py": "",  # a lock that holds nothing
}
"""Every file that writes files itself -> words of its row. All others write through these."""


def writers_in_the_source() -> set[str]:
    """Files of the product, without its benchmarks, in which a file is written."""
    return {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if path.relative_to(SOURCE).parts[0] != "bench" and _WRITES.search(path.read_text(encoding="utf-8"))
    }
