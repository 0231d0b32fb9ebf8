"""A training run: its parts, how they are made, and the state that a checkpoint holds."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from adaloc.config import Config
from adaloc.data.fresh import make_windows
from adaloc.data.scaling import Scaling
from adaloc.data.targets import encode_targets
from adaloc.data.training_windows import TrainingWindows
from adaloc.data.windows import Batch, Cut, Sample, make_batch, measure_training_scaling, validation_batches
from adaloc.errors import CheckpointError
from adaloc.models.device import choose_device, device_of, keep_freed_memory, use_bfloat16
from adaloc.models.losses import ChannelLoss, LossSums, make_loss
from adaloc.models.model_file import Model, make_model
from adaloc.models.training_terms import TrainingTerms, make_terms
from adaloc.random_streams import Stream, torch_stream
from adaloc.training.adversary import Adversary, accompanied, make_adversary, without_adversary
from adaloc.training.averaging import STATISTICS_BATCHES, averaged_weights
from adaloc.training.fine_tuning import scaling_for, start_from
from adaloc.training.floor import Floor, physical_floor
from adaloc.training.learning_rate import LearningRate
from adaloc.training.optimizers import Optimizer, make_optimizer
from adaloc.training.ranks import Ranks
from adaloc.training.rewind import Rewind
from adaloc.training.run_log import NoLog, RunLog
from adaloc.training.step_size import step_share

_TARGETS_AT_ONCE = 50  # their activations take some hundred megabytes with the default network


@dataclass
class Progress:
    """What was gathered in the current epoch, so that a run can stop and go on at any step."""

    losses: list[float] = field(default_factory=list)
    channels: list[list[float]] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    train_s: float = 0.0
    wait_s: float = 0.0


@dataclass
class Run:
    """A training run: everything that `fit` works on. `state` is what a checkpoint holds.

    `step` counts all steps, those of trials too; `place` is the next batch's, and goes back where a trial does.
    """

    config: Config
    folder: Path
    device: torch.device
    bfloat16: bool
    model: Model
    loss: ChannelLoss
    terms: TrainingTerms
    """What is minimised in training beside the loss."""
    adversary: Adversary | None
    """The discriminator of the adversarial term; its state is part of the optimizer's."""
    optimizer: Optimizer
    learning_rate: LearningRate
    rewind: Rewind
    windows: TrainingWindows
    validation: list[Batch]
    log: RunLog
    floor: Floor | None = None
    """What physics allows; None in a resumed run, whose log has it."""
    step: int = 0
    place: int = 0
    wall_s: float = 0.0
    clock: Callable[[], float] = time.perf_counter
    """Seconds. Processor time compares runs of one thread on a machine that does other things as well."""
    best_objective: float = math.inf
    """Lowest of what is minimised, on the validation windows; `best_val_loss` is that model's loss."""
    best_val_loss: float = math.inf
    best_epoch: int = -1
    best_model: dict[str, Any] | None = None
    progress: Progress = field(default_factory=Progress)
    cures: dict[str, Any] = field(default_factory=dict)
    """What the loop has mended so far, as plain containers (cures.py)."""
    observer: dict[str, Any] = field(default_factory=dict)
    """What the observer saw since its last event (signals.py)."""
    bad_steps: int = 0
    """Steps in a row, up to now, whose gradient was not finite."""
    ranks: Ranks = field(default_factory=Ranks)
    """The processes that train together."""

    @property
    def epoch(self) -> int:
        """The epoch that is being trained, from 0."""
        return self.step // self.windows.steps_per_epoch

    @property
    def is_over(self) -> bool:
        """Whether all epochs are trained."""
        return self.epoch >= self.config.training.epochs

    def state(self) -> dict[str, Any]:
        """The whole state as tensors and plain containers."""
        return {
            "model": self.model.to_dict(),
            "optimizer": self.optimizer.state_dict(),
            "learning_rate": self.learning_rate.state_dict(),
            "rewind": self.rewind.state_dict(),
            "place": self.place,
            "epoch": self.epoch,
            "step": self.step,
            "wall_s": self.wall_s,
            "best": {
                "objective": self.best_objective,
                "val_loss": self.best_val_loss,
                "epoch": self.best_epoch,
                "model": self.best_model,
            },
            "progress": vars(self.progress),
            "cures": self.cures,
            "observer": self.observer,
            "bad_steps": self.bad_steps,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.model.network.load_state_dict(state["model"]["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.learning_rate.load_state_dict(state["learning_rate"])
        self.rewind.load_state_dict(state["rewind"])
        self.place = int(state["place"])
        self.step, self.wall_s = int(state["step"]), float(state["wall_s"])
        best = state["best"]
        self.best_val_loss, self.best_epoch, self.best_model = best["val_loss"], best["epoch"], best["model"]
        self.best_objective = best.get("objective", self.best_val_loss)  # checkpoints of before minimised the loss
        self.progress = Progress(**state["progress"])
        # Checkpoints of before have none of these.
        self.cures, self.observer = state.get("cures", {}), state.get("observer", {})
        self.bad_steps = int(state.get("bad_steps", 0))
        if state["epoch"] != self.epoch:
            raise CheckpointError(
                "The checkpoint counts other steps in an epoch: the number of training samples has changed since. "
                "Put them back, or start a new run."
            )


def setup(
    config: Config,
    training: Sequence[Sample],
    validation: Sequence[Sample],
    state: dict[str, Any] | None = None,
    *,
    with_floor: bool = True,
    init: Model | None = None,
    ranks: Ranks | None = None,
) -> Run:
    """Builds a run, from scratch or from a checkpoint's state; a new one with its physical floor, if it is wanted.

    With `init`, a new run starts from that model's weights (fine_tuning.py). Of several `ranks` only the first writes.
    """
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    ranks = ranks or Ranks()
    device = choose_device(config.device) if ranks.size == 1 else device_of(config.device, ranks.local_rank)
    if device.type == "cpu":
        keep_freed_memory()
    scaling = (
        measure_training_scaling(training, config) if state is None else Scaling.from_dict(state["model"]["scaling"])
    )
    init = init if state is None else None
    if init is not None:
        scaling = scaling_for(init, scaling)
    # The weights come from a stream of their own; the global generator is left as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_stream(config.seed, Stream.WEIGHTS).initial_seed())
        model = make_model(config, scaling)
    if init is not None:
        start_from(init, model)
    model.network.to(device)
    loss = make_loss(config.training, scaling)
    adversary = make_adversary(config, scaling, device)
    optimizer = accompanied(
        make_optimizer(config.training, model.network.first_stage, model.network.second_stage), adversary
    )
    windows = make_windows(training, config, device)
    run = Run(
        config=config,
        folder=config.output.save_dir,
        device=device,
        bfloat16=use_bfloat16(config.precision, device),
        model=model,
        loss=loss,
        terms=make_terms(config.training.training_terms, loss),
        adversary=adversary,
        optimizer=optimizer,
        learning_rate=LearningRate(
            config.training.adaptive_lr_config,
            config.training.lr_first,
            config.training.epochs,
            windows.steps_per_epoch,
            step_share(model.network, is_orthogonal=config.training.optimizer == "muon"),
        ),
        rewind=Rewind(model.network, optimizer),
        windows=windows,
        validation=[batch.to(device) for batch in validation_batches(validation, config.data)],
        log=(RunLog if ranks.is_first else NoLog)(config.output.save_dir / "log.jsonl"),
        ranks=ranks,
    )
    if state is not None:
        run.load_state(state)
    elif with_floor:
        run.floor = physical_floor(validation, config, run.loss)
    return run


def batch_errors(run: Run, batch: Batch) -> LossSums:
    """The errors of a batch that is on the run's device; differentiable."""
    return run.loss.sums(predict(run, batch), batch_targets(run, batch))


def predict(run: Run, batch: Batch) -> torch.Tensor:
    """(N, 6, H, W) network outputs for the target frames of a batch that is on the run's device."""
    with _autocast(run):
        return run.model.predict(batch.adu_BTHW).flatten(0, 1)


def batch_targets(run: Run, batch: Batch) -> torch.Tensor:
    """(N, 6, H, W) targets of a batch, in their own units."""
    height, width = batch.adu_BTHW.shape[-2:]
    return encode_targets(batch.emitters, batch.background_N, (height, width), run.config.data.min_photons)


def _autocast(run: Run) -> AbstractContextManager[Any]:
    return torch.autocast(run.device.type, dtype=torch.bfloat16) if run.bfloat16 else nullcontext()


@contextmanager
def judged_weights(run: Run) -> Iterator[None]:
    """While it lasts the network has the weights that are validated and kept, which may be averages (averaging.py).

    Every process of several looks at the same training batches, the latest, by itself.
    """

    def see() -> None:
        for place in range(max(run.place - STATISTICS_BATCHES, 0), max(run.place, 1)):
            predict(run, run.windows[place].to(run.device))

    with averaged_weights(run.model.network, without_adversary(run.optimizer), see):
        yield


def loss_over_samples(run: Run, model: Model, samples: Sequence[Sample]) -> float:
    """The loss over all frames of samples: what the few windows of every epoch's validation stand for."""
    size, context = run.config.data.image_size, run.config.data.consecutive_frames - 1
    other = dataclasses.replace(run, model=model)
    total: LossSums | None = None
    model.network.eval()
    with torch.inference_mode():
        for sample in samples:
            num_frames, height, width = sample.frames_THW.shape
            for start in range(0, num_frames - context, _TARGETS_AT_ONCE):
                length = min(_TARGETS_AT_ONCE + context, num_frames - start)
                cut = Cut(sample, start, (height - size) // 2, (width - size) // 2)
                sums = batch_errors(other, make_batch([cut], length, size, context + 1).to(run.device))
                total = sums if total is None else total + sums
    assert total is not None
    return float(run.loss.total(total))


def best_model(run: Run) -> Model:
    """The model with the lowest validation loss, on the run's device; the current one before the first epoch."""
    if run.best_model is None:
        return run.model
    model = make_model(run.config, run.model.scaling)
    model.network.load_state_dict(run.best_model)
    model.network.to(run.device).eval()
    return model
