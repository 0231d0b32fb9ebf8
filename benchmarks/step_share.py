"""By how much of their size shall a step change the weights? Small networks of many kinds, each trained at four shares.

    python benchmarks/step_share.py --work WORK --seeds 600 619

Networks, optimizers and data are those that `adaloc bench stalls` draws by the seed; 300 steps each, 5 s. Goes on from
WORK and writes benchmarks/results/step_share.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import adaloc.training.run
from adaloc.bench.cured import train
from adaloc.files import append_line, write_text

SHARES = (0.06, 0.03, 0.015, 0.0075)
RESULTS = Path(__file__).parent / "results" / "step_share.json"


def main() -> None:
    """Trains what is missing, and prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the data and the rows; goes on from there")
    parser.add_argument("--seeds", type=int, nargs=2, default=(600, 619), metavar=("FIRST", "LAST"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    path = given.work / "shares.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    done = {(row["seed"], row["share"]) for row in rows}
    seeds = range(given.seeds[0], given.seeds[1] + 1)
    for seed in seeds:
        for share in SHARES:
            if (seed, share) not in done:
                rows.append(_row(seed, share, given.work))
                append_line(path, json.dumps(rows[-1]) + "\n")
                print(rows[-1], flush=True)
    rows = [row for row in rows if row["seed"] in seeds]  # WORK may hold more
    summary = summarize(rows)
    print(json.dumps(summary, indent=1))
    write_text(given.out, json.dumps({"seeds": list(given.seeds), "medians": summary, "rows": rows}, indent=1) + "\n")


def _row(seed: int, share: float, work: Path) -> dict[str, Any]:
    with patch.object(adaloc.training.run, "step_share", lambda *_, **__: share):
        result = train("healthy", seed, work)
    settings = result["settings"]
    return {
        "seed": seed, "share": share, "optimizer": settings["optimizer"],
        "normalization": settings["network"]["normalization"], "loss": result["loss"],
        "no_information": result["no_information"], "rollbacks": result["done"].get("rollback", 0),
    }  # fmt: skip


def summarize(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each kind of network: how many, and by share the median of the loss over the no-information loss."""
    kinds = {
        "no normalization": [r for r in rows if r["normalization"] == "none"],
        "normalized, muon": [r for r in rows if r["normalization"] != "none" and r["optimizer"] == "muon"],
        "normalized, others": [r for r in rows if r["normalization"] != "none" and r["optimizer"] != "muon"],
    }
    return {
        name: {"networks": len({r["seed"] for r in of_kind})}
        | {f"{share:g}": _median([r for r in of_kind if r["share"] == share]) for share in SHARES}
        for name, of_kind in kinds.items()
    }


def _median(rows: list[dict[str, Any]]) -> float:
    return round(statistics.median(1e9 if r["loss"] is None else r["loss"] / r["no_information"] for r in rows), 3)


if __name__ == "__main__":
    main()
