"""The stall test on series of known answer: false alarms over a whole run, and what it finds when.

    python benchmarks/trend_test.py

For each kind of noise (white, AR(1) of 0.5 and 0.9, Student's t with 3 degrees of freedom, log-normal, white with
2 % of spikes twenty times as large), scale of the loss (1e-3 to 1e3) and signal, `--runs` series are drawn. Writes
benchmarks/results/trend_test.json.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path

import numpy as np
import numpy.typing as npt

from adaloc.training.trend import TrendTest

FloatArray = npt.NDArray[np.float64]
RESULTS = Path(__file__).parent / "results" / "trend_test.json"
NOISES = ("white", "ar1_0.5", "ar1_0.9", "student_t3", "lognormal", "spikes")
# In units of the noise. The first is a training curve's fall; the slow one falls evenly by 6 over 3000 steps.
SIGNALS = ("flat", "falling", "slow", "rising", "fell_then_flat")
SCALES = (1e-3, 1.0, 1e3)
WRONG = {
    "flat": ("falling", "diverging"),
    "falling": ("stalled", "diverging"),
    "slow": ("stalled", "diverging"),
    "rising": ("falling", "stalled"),
    "fell_then_flat": ("diverging",),
}
RIGHT = {"flat": "stalled", "falling": "falling", "slow": "falling", "rising": "diverging", "fell_then_flat": "stalled"}


def make_noise(kind: str, n: int, rng: np.random.Generator) -> FloatArray:
    """A series of zero mean and unit spread."""
    if kind.startswith("ar1"):
        correlation = float(kind.split("_")[1])
        innovations = rng.standard_normal(n) * math.sqrt(1 - correlation**2)
        values = np.empty(n)
        values[0] = rng.standard_normal()
        for i in range(1, n):
            values[i] = correlation * values[i - 1] + innovations[i]
        return values
    if kind == "student_t3":
        return rng.standard_t(3, n) / math.sqrt(3)
    if kind == "lognormal":
        return (rng.lognormal(0, 1, n) - math.exp(0.5)) / math.sqrt((math.e - 1) * math.e)
    if kind == "spikes":
        return rng.standard_normal(n) * np.where(rng.random(n) < 0.02, 20, 1)
    return rng.standard_normal(n)


def make_signal(kind: str, n: int) -> FloatArray:
    """The truth, in units of the noise."""
    steps = np.arange(n)
    if kind == "falling":
        return -3 * np.log1p(steps / 50)
    if kind == "slow":
        return -6 * steps / 3000
    if kind == "rising":
        return 6 * steps / 3000
    if kind == "fell_then_flat":
        return 30 * np.exp(-steps / 30)
    return np.zeros(n)


def first_verdicts(losses: FloatArray) -> dict[str, int]:
    """The step of each verdict that came up."""
    test, seen = TrendTest(), {}
    for step, loss in enumerate(losses):
        look = test.observe(float(loss))
        if look is not None and look.verdict != "undecided":
            seen.setdefault(look.verdict, step + 1)
    return seen


def main() -> None:
    """Draws the series and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rows = []
    for noise in NOISES:
        for signal in SIGNALS:
            for scale in SCALES if signal in ("flat", "falling") else (1.0,):
                seen = [
                    first_verdicts(
                        scale
                        * (
                            make_signal(signal, arguments.steps)
                            + make_noise(noise, arguments.steps, np.random.default_rng([11, run]))
                        )
                    )
                    for run in range(arguments.runs)
                ]
                found = [verdicts[RIGHT[signal]] for verdicts in seen if RIGHT[signal] in verdicts]
                rows.append(
                    {
                        "noise": noise,
                        "signal": signal,
                        "scale": scale,
                        "wrong": sum(any(w in v for w in WRONG[signal]) for v in seen) / arguments.runs,
                        "found": len(found) / arguments.runs,
                        "median_step_of_finding": statistics.median(found) if found else None,
                    }
                )
                print(rows[-1], flush=True)
    results = {
        "command": f"python benchmarks/trend_test.py --runs {arguments.runs} --steps {arguments.steps}",
        "runs": arguments.runs,
        "steps": arguments.steps,
        "worst_false_alarm_rate": max(row["wrong"] for row in rows),
        "rows": rows,
    }
    arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
