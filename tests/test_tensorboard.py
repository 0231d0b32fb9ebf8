"""What TensorBoard shows of a run that was interrupted and resumed, read from its event files."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from adaloc.data.windows import load_samples, split_samples
from adaloc.training.checkpoint import LATEST, load_checkpoint
from adaloc.training.run import setup
from adaloc.training.trainer import Hooks, fit
from small import small_data


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_resumed_run_goes_on_without_zigzag_and_hyperparameters_are_filled(tmp_path: Path) -> None:
    # The checkpoint lies at epoch 2, the first process trained on to epoch 3: epoch 3 is trained, and written, twice.
    config = small_data(tmp_path, training={"epochs": 4}, output={"checkpoint_interval_epochs": 2})
    training, validation = (load_samples(part, config.simulation.camera) for part in split_samples(config.data))
    folder = config.output.save_dir
    kept = tmp_path / "kept.pth"

    def keep(record: dict[str, object]) -> None:
        if record["epoch"] == 2:
            kept.write_bytes((folder / LATEST).read_bytes())

    ended = [False]

    def stop_in_epoch_4() -> bool:
        ended[0] = kept.exists()
        return ended[0]

    assert fit(setup(config, training, validation, None), Hooks(on_epoch=keep, should_stop=stop_in_epoch_4)) == (
        "interrupted"
    )
    kept.replace(folder / LATEST)  # as if the process had been killed
    state = load_checkpoint(folder / LATEST, config)
    assert state["epoch"] == 2
    assert fit(setup(config, training, validation, state), Hooks()) == "finished"
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    for tag in ("Loss/Train", "Loss/Validation", "Learning_Rate"):
        steps = [event.step for event in events.Scalars(tag)]
        assert steps == [0, 1, 2, 3], tag
    hyperparameters = events.summary_metadata
    assert any("hparams" in tag for tag in hyperparameters)
    assert events.Scalars("hparam/best_val_loss")[-1].value == pytest.approx(
        min(event.value for event in events.Scalars("Loss/Validation")), rel=1e-5
    )
