"""Does the memory of `adaloc localize` depend on the length of the movie?

    python benchmarks/streaming.py --work WORK [--gigabytes 20] [--frames 105,525,1575,all] [--size 256x256]

Makes a Picasso .raw of that many gigabytes, of which the frames that are looked at hold noise and the rest of the file
is sparse, and localizes more and more of its frames, each length in a process of its own that reports its peak resident
memory. The network is untrained and of the light type, so that the whole movie takes half an hour of a core and not
hours; its bias is set so that it finds a few localizations a frame, and all that a real run writes is written. Writes
benchmarks/results/streaming.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.console import Console

from adaloc.config import CameraConfig, Config
from adaloc.config_file import load_config
from adaloc.data.scaling import measure_scaling
from adaloc.localize.command import LocalizeOptions, localize_movies
from adaloc.localize.inference import localize_frames
from adaloc.models.device import choose_device, describe_device
from adaloc.models.model_file import make_model, save_model

RESULTS = Path(__file__).parent / "results" / "streaming.json"
CONFIG = Path(__file__).parents[1] / "training" / "configs" / "train_config_adaptive.json"
LOCALIZATIONS_PER_FRAME, THRESHOLD = 20, 0.5


def make_movie(path: Path, size: tuple[int, int], num_filled: int, gigabytes: float, camera: CameraConfig) -> int:
    """Writes the sparse movie; returns its number of frames."""
    rng = np.random.default_rng(0)
    num_frames = int(gigabytes * 1e9) // (2 * size[0] * size[1])
    mean = camera.baseline_adu + 100 * camera.quantum_efficiency / camera.gain_e_per_adu
    patterns = rng.normal(mean, np.sqrt(mean), (16, *size)).clip(0, 65535).astype("<u2")
    with path.open("wb") as handle:
        for index in range(num_filled):
            handle.write(np.roll(patterns[index % 16], index, axis=1).tobytes())
        handle.truncate(num_frames * 2 * size[0] * size[1])
    info = {"Byte Order": "<", "Data Type": "uint16", "Frames": num_frames, "Height": size[0], "Width": size[1]}
    path.with_suffix(".yaml").write_text(yaml.safe_dump(info))
    return num_frames


def make_untrained_model(path: Path, movie: Path, size: tuple[int, int], channels: int) -> None:
    """A random network whose bias finds `LOCALIZATIONS_PER_FRAME` in a part of the first frames; in others fewer."""
    raw = load_config(CONFIG).model_dump(mode="json")
    raw["network"] = {"type": "light", "base_channels": channels}
    columns = tuple(np.arange(3.0) for _ in range(5))
    torch.manual_seed(0)
    model = make_model(
        Config.model_validate(raw), measure_scaling(input_mean=20, input_std=2, num_pixels=10, columns=columns)
    )
    output = model.network.second_stage[-1]
    sample = np.fromfile(movie, "<u2", 3 * size[0] * size[1]).reshape(3, *size)[:, :128, :128]
    wanted = 3 * LOCALIZATIONS_PER_FRAME * sample[0].size / (size[0] * size[1])
    with torch.inference_mode():
        output.weight.normal_(std=0.5)
    for step, too_many in ((1.0, False), (-0.05, True)):
        while (len(localize_frames(model, sample, threshold=THRESHOLD)) > wanted) == too_many:
            with torch.inference_mode():
                output.bias[0] += step
    save_model(path, model)


def localize_part(work: Path, num_frames: int) -> dict[str, Any]:
    """In a process of its own: localizes the first frames, and says how much memory that took at its peak."""
    options = LocalizeOptions(frames=(0, num_frames), threshold=THRESHOLD, device="cpu")
    began = time.monotonic()
    (done,) = localize_movies(
        work / "model.pth", [work / "movie.raw"], work / f"locs_{num_frames}.csv", None, options, Console(quiet=True)
    )
    seconds = time.monotonic() - began
    return {
        "frames": num_frames,
        "peak_megabytes": peak_megabytes(),
        "frames_per_s": round(num_frames / seconds, 2),
        "localizations": done.num_localizations,
        "csv_megabytes": round(done.outputs["thunderstorm"].stat().st_size / 1e6, 2),
    }


def warm_up_megabytes(work: Path) -> int:
    """Peak memory of a process that loads everything and localizes three small frames."""
    from adaloc.models.model_file import load_model

    localize_frames(load_model(work / "model.pth"), np.full((3, 32, 32), 300, np.uint16))
    return peak_megabytes()


def peak_megabytes() -> int:
    """Peak resident memory of this process; Linux alone.

    Not `ru_maxrss`: a child inherits its parent's, which made the movie and is larger.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return round(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def main() -> None:
    """Makes the movie, measures each length, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the movie, the model and the outputs")
    parser.add_argument("--gigabytes", type=float, default=20.0, help="size of the movie")
    parser.add_argument("--frames", default="105,525,1575,all", help="numbers of frames to localize")
    parser.add_argument("--size", default="256x256", help="HEIGHTxWIDTH of a frame")
    parser.add_argument("--channels", type=int, default=8, help="width of the network; train_config_light.json has 24")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--part", type=int, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    work = arguments.work
    if arguments.part is not None:
        print(json.dumps(localize_part(work, arguments.part) if arguments.part else warm_up_megabytes(work)))
        return
    height, width = (int(side) for side in arguments.size.split("x"))
    whole = int(arguments.gigabytes * 1e9) // (2 * height * width)
    lengths = [whole if part == "all" else int(part) for part in arguments.frames.split(",")]
    work.mkdir(parents=True, exist_ok=True)
    movie = work / "movie.raw"
    num_frames = make_movie(
        movie, (height, width), min(max(lengths) + 2, whole), arguments.gigabytes, load_config(CONFIG).simulation.camera
    )
    make_untrained_model(work / "model.pth", movie, (height, width), arguments.channels)

    for left in work.glob("locs_*.unfinished"):  # of a benchmark that was stopped
        left.unlink()

    def measure(part: int) -> Any:
        command = [sys.executable, __file__, "--work", str(work), "--part", str(part)]
        measured = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        print(measured, file=sys.stderr)
        return measured

    results = {
        "command": f"python benchmarks/streaming.py --work WORK --gigabytes {arguments.gigabytes:g} "
        f"--frames {arguments.frames} --size {arguments.size} --channels {arguments.channels}",
        "device": describe_device(choose_device("cpu")),
        "movie": {"gigabytes": movie.stat().st_size / 1e9, "frames": num_frames, "height": height, "width": width},
        "program_alone_peak_megabytes": measure(0),
        "parts": [measure(length) for length in lengths],  # by default of 1, 5, 15 and all 1454 blocks
    }
    movie.unlink()
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
