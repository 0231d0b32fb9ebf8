"""One process of a training for test_ranks.py: the main job, with a stall test that stalls at once.

Arguments: the config, the value of --resume or "", and the number of steps after which process 1 dies in the middle of
the next one; 0 for none.
"""

import dataclasses
import os
import signal
import sys
from pathlib import Path

import torch
from rich.console import Console

from adaloc.config_file import load_config
from adaloc.main_job import train
from adaloc.training import controller
from adaloc.training.ranks import PeerError, Ranks
from adaloc.training.trend import Trend, TrendTest


class StalledAtOnce(TrendTest):
    def observe(self, loss: float) -> Trend | None:
        look = super().observe(loss)
        return None if look is None else dataclasses.replace(look, verdict="stalled")


def die_after(steps: int) -> None:
    """Patches this process so that it dies in the backward pass of the step behind so many."""
    made, whole_step, whole_sum = [0], Ranks.sum_step, Ranks.sum

    def sum_step(*args, **kwargs):
        made[0] += 1
        return whole_step(*args, **kwargs)

    def sum_or_die(self: Ranks, tensor: torch.Tensor) -> torch.Tensor:
        if made[0] >= steps:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole_sum(self, tensor)

    Ranks.sum_step, Ranks.sum = sum_step, sum_or_die


if __name__ == "__main__":
    config, resume, steps = Path(sys.argv[1]), sys.argv[2] or None, int(sys.argv[3])
    controller.TrendTest = StalledAtOnce
    if steps and os.environ["RANK"] == "1":
        die_after(steps)
    try:
        status = train(load_config(config), resume=resume, skip_checks=True, console=Console(quiet=True), force=True)
    except PeerError as error:
        print(f"process {os.environ['RANK']}: {error}", flush=True)
        status = error.exit_status
    sys.exit(status)
