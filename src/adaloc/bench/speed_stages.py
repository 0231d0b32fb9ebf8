"""The stages of training and localization, each of which can be timed: simulate, load, ..., write.

A stage's time is that of a unit: a target of `data.image_size` squared in training, a frame of the field in
localization.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import tifffile
import torch

from adaloc.config import Config
from adaloc.config_file import dump_config, merged, parse_config
from adaloc.data.fresh import FreshWindows
from adaloc.data.generate import FIELD_MAP_FILE, generate, psf_of_data
from adaloc.data.targets import BACKGROUND, PROBABILITY, EmitterRows, encode_targets
from adaloc.data.windows import load_samples, split_samples
from adaloc.emitters import EmitterTable, concatenate
from adaloc.localize.candidates import find_localizations
from adaloc.localize.command import spot_sigma_nm
from adaloc.localize.inference import Block, plan_of, view_of
from adaloc.localize.movie import Movie
from adaloc.localize.movie.find import open_movie
from adaloc.localize.outputs import DEFAULT_FORMATS, MovieFacts, output_paths, write_outputs
from adaloc.localize.tiles import blocks
from adaloc.localize.work_file import WorkFile
from adaloc.models.folding import fold_normalization
from adaloc.models.model_file import Model
from adaloc.simulation.field_map import FieldMap, read_field_map
from adaloc.simulation.frames import simulate_sample
from adaloc.simulation.psf import PSF
from adaloc.training.run import Run, batch_errors, batch_targets, predict, setup

TRAINING = ("simulate", "load", "encode targets", "forward", "loss", "backward", "optimizer", "validate")
LOCALIZATION = ("read", "infer", "decode", "write")
FIELD_PX = 128
Clock = Callable[[], float]
_NUM_FRAMES = 12  # of the field
_MOVIE_FRAMES = 8  # of a training sample
_NUM_VALIDATION = 4
_SIMULATED_FRAMES = 50
_WRITTEN_COPIES = 40  # so that about as many frames are written at once as in a long movie
_PROBABILITY, _ELSEWHERE = 0.95, 1e-4


@dataclass
class Workload:
    """What the stages of one config work on.

    Attributes:
        config: as it was given.
        run: of small simulated data, with the config's batches.
        psf, field_map: that frames are simulated with.
        movie: frames of the field on disk.
        outputs_BKHW: network outputs for it that say the truth, so that there is as much to find as in a real movie.
        folder: for files.
        frames_per_window: simulated for each fresh window that is trained on; 0 without fresh windows.
        clock: what stages are timed with.
    """

    config: Config
    run: Run
    psf: PSF
    field_map: FieldMap | None
    movie: Movie
    outputs_BKHW: torch.Tensor
    folder: Path
    frames_per_window: float
    clock: Clock
    step: int = 0

    @property
    def num_targets(self) -> int:
        """Of a batch."""
        return self.config.data.batch_size

    @property
    def validation_per_target(self) -> float:
        """Validation targets for each training target of an epoch, in the config's own data."""
        num, split = self.config.simulation.num_samples, self.config.data.train_val_split
        training = min(max(round(num * split), 1), num - 1)
        return (num - training) * self.config.data.validation_windows_per_sample / training


def prepare(config: Config, folder: Path, num_threads: int) -> Workload:
    """Simulates a little data in `folder`, sets a run up, and makes a movie of the field.

    Args:
        config: whose network, batches and microscope are timed.
        folder: an empty one.
        num_threads: of torch.
    """
    batch = config.data.batch_size
    changes = {
        "data": {
            "root": str(folder / "data"), "simulate_if_missing": True, "fresh_share": 0.0, "num_workers": 0,
            "sample_subset": None, "train_val_split": batch / (batch + _NUM_VALIDATION),
        },
        "simulation": {
            "num_samples": batch + _NUM_VALIDATION, "num_frames": _MOVIE_FRAMES,
            "image_size_px": max(config.simulation.image_size_px, config.data.image_size),
        },
        "output": {"save_dir": str(folder / "run")},
        "num_threads": num_threads,
    }  # fmt: skip
    small = parse_config(merged(dump_config(config), changes), "bench speed")
    for _ in generate(small, small.data.root):
        pass
    training, validation = (load_samples(part, small.simulation.camera) for part in split_samples(small.data))
    run = setup(small, training, validation, with_floor=False)
    run.model.network.train()
    psf, map_file = psf_of_data(small.data.root, small.simulation), small.data.root / FIELD_MAP_FILE
    field_map = read_field_map(map_file) if map_file.is_file() else None
    field = small.simulation.model_copy(update={"image_size_px": FIELD_PX, "num_frames": _NUM_FRAMES})
    with torch.inference_mode():
        sample = simulate_sample(field, psf, field_map, seed=config.seed, index=0)
    tifffile.imwrite(folder / "field.tif", sample.frames_THW)
    fresh = config.data.fresh_share
    per_window = FreshWindows(_with_fresh(small, config), run.device).frames_per_window if fresh > 0 else 0.0
    outputs = _true_outputs(run.model, sample.emitters, sample.background_T.mean())
    clock, movie = make_clock(run.device, num_threads), open_movie(folder / "field.tif")
    return Workload(config, run, psf, field_map, movie, outputs.to(run.device), folder, fresh * per_window, clock)


def time_stages(work: Workload) -> dict[str, float]:
    """Seconds of each stage for a unit: a target, or a frame of the field; of simulating, a frame of the config."""
    return _time_training(work) | _time_localization(work)


def training_seconds(work: Workload, stages: dict[str, float]) -> dict[str, float]:
    """What each stage of training takes of a target's time, with simulation and validation as often as they come."""
    times = {"simulate": work.frames_per_window, "validate": work.validation_per_target}
    return {name: stages[name] * times.get(name, 1.0) for name in TRAINING}


def _time_training(work: Workload) -> dict[str, float]:
    run, device = work.run, work.run.device
    seconds: dict[str, float] = {}
    simulation = run.config.simulation.model_copy(update={"num_frames": _SIMULATED_FRAMES})
    with torch.inference_mode(), _timed(seconds, "simulate", _SIMULATED_FRAMES, work.clock):
        simulate_sample(simulation, work.psf, work.field_map, seed=work.config.seed, index=work.step, device=device)
    with _timed(seconds, "load", work.num_targets, work.clock):
        batch = run.windows[work.step].to(device)
    with _timed(seconds, "encode targets", work.num_targets, work.clock):
        targets = batch_targets(run, batch)
    run.optimizer.zero_grad(set_to_none=True)
    with _timed(seconds, "forward", work.num_targets, work.clock):
        outputs = predict(run, batch)
    with _timed(seconds, "loss", work.num_targets, work.clock):
        objective = run.loss.objective(run.loss.sums(outputs, targets))
    with _timed(seconds, "backward", work.num_targets, work.clock):
        objective.backward()  # type: ignore[no-untyped-call]
    with _timed(seconds, "optimizer", work.num_targets, work.clock):
        torch.nn.utils.clip_grad_norm_(run.model.network.parameters(), run.config.training.clip_norm)
        run.optimizer.step()
    validation = run.validation[work.step % len(run.validation)]
    run.model.network.eval()
    with torch.inference_mode(), _timed(seconds, "validate", len(validation.adu_BTHW), work.clock):
        batch_errors(run, validation)
    run.model.network.train()
    work.step += 1
    return seconds


def _time_localization(work: Workload) -> dict[str, float]:
    run, device, movie = work.run, work.run.device, work.movie
    seconds: dict[str, float] = {}
    model, num = run.model, movie.num_frames
    context = work.config.data.consecutive_frames // 2
    with _timed(seconds, "read", num, work.clock):
        frames = movie.read(0, num)
    plan = plan_of(model, movie, view_of(movie), device)
    targets = num - 2 * context
    folded = replace(model, network=fold_normalization(model.network))
    with torch.inference_mode():
        with _timed(seconds, "infer", targets, work.clock):
            for first, last in blocks(0, targets, plan.frames_at_once):
                for tile in plan.tiles:
                    cut = frames[first : last + 2 * context, tile.read.rows, tile.read.columns]
                    folded.predict(torch.from_numpy(cut.astype("float32")).to(device)[None])
        with _timed(seconds, "decode", num, work.clock):
            table = find_localizations(model.scaling.to_physical(work.outputs_BKHW), 0)
    copies = [replace(table, frame=table.frame + i * num) for i in range(_WRITTEN_COPIES)]
    whole, length = concatenate(copies), num * _WRITTEN_COPIES
    simulation = work.config.simulation
    spot_nm = spot_sigma_nm(simulation)  # Picasso's file needs it where the network predicts no uncertainties
    facts = MovieFacts(simulation.optics.pixel_size_nm, (FIELD_PX, FIELD_PX), length, spot_nm, is_3d=True)
    with (
        _timed(seconds, "write", length, work.clock),
        WorkFile(work.folder / "field.unfinished", {}, resume=False) as file,
    ):
        file.append(Block(0, length, whole))
        write_outputs(output_paths(work.folder / "field.csv", DEFAULT_FORMATS), file.rows(), facts)
        file.delete()
    return seconds


def make_clock(device: torch.device, num_threads: int) -> Clock:
    """Seconds that count what is computed, as far as that can be told from what the machine does besides.

    With one thread on the CPU, the processor time of the process: other processes hardly change it, but waiting for a
    disk is not in it. Else the time of the day, after all that was started on a GPU.
    """
    if device.type == "cpu" and num_threads == 1:
        return time.process_time

    def wall() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return wall


@contextmanager
def _timed(seconds: dict[str, float], name: str, units: int, clock: Clock) -> Iterator[None]:
    begin = clock()
    yield
    seconds[name] = (clock() - begin) / units


def _with_fresh(small: Config, config: Config) -> Config:
    data = small.data.model_copy(
        update={"fresh_share": config.data.fresh_share, "fresh_reuse": config.data.fresh_reuse}
    )
    return small.model_copy(update={"data": data})


def _true_outputs(model: Model, emitters: EmitterTable, background: float) -> torch.Tensor:
    """(T, 6 or 10, H, W) outputs of a network that is right and nearly sure."""
    rows = EmitterRows(
        torch.from_numpy(emitters.frame),
        *(torch.from_numpy(c).float() for c in (emitters.x, emitters.y, emitters.z, emitters.photons)),
    )
    targets = encode_targets(
        rows, torch.full((_NUM_FRAMES,), float(background)), (FIELD_PX, FIELD_PX), model.config.data.min_photons
    )
    assert targets[:, BACKGROUND].isfinite().all()
    outputs = model.scaling.scale_targets(targets)
    high, low = (math.log(p / (1 - p)) for p in (_PROBABILITY, _ELSEWHERE))
    outputs[:, PROBABILITY] = torch.where(targets[:, PROBABILITY] == 1, high, low)
    sigmas = torch.zeros((_NUM_FRAMES, model.network.num_outputs - outputs.shape[1], FIELD_PX, FIELD_PX))
    return torch.cat([outputs, sigmas], dim=1)
