"""Tuning: the space and its refusals, what is reported, and a study that is shared, interrupted and gone on with."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FixedTrial, TrialState
from rich.console import Console

from adaloc.config import Config
from adaloc.config_file import dump_config, load_config
from adaloc.errors import ConfigError
from adaloc.training.learning_rate import LearningRate
from adaloc.tuning.command import TUNED_CONFIG, Tuning, tune, work
from adaloc.tuning.page import html_page
from adaloc.tuning.space import Space, changed, draw, drawn_values, load_space
from adaloc.tuning.study import TrialFolder, begin_trial, finished, folder_of, note_worker, open_study
from adaloc.tuning.trial import Reporter
from small import small_data

SPACE: dict[str, Any] = {
    "training.adaptive_lr_config.scheduler_type": {"choices": ["adaptive_plateau", "wsd"]},
    "training.lr_first": {
        "low": 1e-3, "high": 1e-1, "same": ["training.lr_second"],
        "when": {"training.adaptive_lr_config.scheduler_type": ["wsd"]},
    },
    "training.clip_norm": {"low": 0.5, "high": 8},
    "network.base_channels": {"low": 2, "high": 4, "integer": True},
}  # fmt: skip
QUIET = Console(quiet=True)
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return small_data(tmp_path_factory.mktemp("tuning"), training={"epochs": 500})


def write_space(folder: Path, space: dict[str, Any] = SPACE) -> Path:
    path = folder / "space.json"
    path.write_text(json.dumps(space), encoding="utf-8")
    return path


def make_tuning(base: Config, folder: Path, trials: int, **changes: Any) -> Tuning:
    space = load_space(write_space(folder), base)
    values = {"epochs": 2, "storage": str(folder / "study.journal"), "out": folder, **changes}
    return Tuning(base, space, trials, **values)


def parameters(folder: Path, tuning: Tuning) -> list[dict[str, Any]]:
    study = open_study(tuning.storage, tuning.space, tuning.base, epochs=tuning.epochs, prune=True)
    return [t.params for t in finished(study)]


def test_the_default_space_fits_the_default_config_and_holds_it() -> None:
    config = load_config(ROOT / "training/configs/train_config_adaptive.json")
    space = load_space(ROOT / "training/configs/tune_space.json", config)
    values = drawn_values(space, config)
    assert values.keys() == {k for k in space if k != "training.lr_first"}, "that one exists for fixed schedules only"
    assert changed(config, draw(FixedTrial(values), space, config), "x") == config


def test_a_conditional_parameter_exists_only_where_its_condition_holds(base: Config, tmp_path: Path) -> None:
    space = load_space(write_space(tmp_path), base)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    kinds = set()
    for _ in range(30):
        trial = study.ask()
        config = changed(base, draw(trial, space, base), "x")
        kind = config.training.adaptive_lr_config.scheduler_type
        kinds.add(kind)
        assert ("training.lr_first" in trial.params) == (kind == "wsd")
        assert config.training.lr_first == config.training.lr_second
        study.tell(trial, 0.0)
    assert kinds == {"adaptive_plateau", "wsd"}


def test_rates_are_log_uniform(base: Config, tmp_path: Path) -> None:
    """Half of the draws between 1e-3 and 1e-1 lie below 1e-2; of uniform draws a tenth would."""
    space = load_space(write_space(tmp_path, {"training.lr_first": {"low": 1e-3, "high": 1e-1}}), base)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [draw(study.ask(), space, base)["training.lr_first"] for _ in range(200)]
    assert 0.4 < sum(rate < 1e-2 for rate in drawn) / 200 < 0.6


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"training.lr_frist": {"low": 1, "high": 2}}, "no such key"),
        ({"training.unified_loss_config.pos_weight": {"low": 1, "high": 2}}, "what the validation loss means"),
        ({"simulation.emitters.density_per_um2": {"low": 1, "high": 2}}, "what the validation loss means"),
        ({"training.epochs": {"low": 1, "high": 2, "integer": True}}, "sets this itself"),
        ({"data.batch_size": {"low": 1, "high": 20}}, "data.batch_size = "),
        ({"training.optimizer": {"choices": ["muon", "no such"]}}, "no such"),
        ({"training.clip_norm": {"low": 2, "high": 1}}, "not below"),
        ({"training.clip_norm": {"low": 1}}, "give either"),
        ({"training.clip_norm": {"low": 1, "high": 2, "when": {"network.depth": [1]}},
          "network.depth": {"choices": [1, 2]}}, "must stand before"),
    ],
)  # fmt: skip
def test_a_wrong_space_is_refused_in_words(base: Config, tmp_path: Path, space: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_space(write_space(tmp_path, space), base)


def test_what_is_reported_is_the_lowest_loss_of_accepted_states() -> None:
    study = optuna.create_study()
    trial = study.ask()
    reporter = Reporter(trial)
    # A search (nothing is said), a steady stretch, a trial of a higher rate that hurts and one that dips, and the end.
    for epoch, (loss, accepted) in enumerate([(9, 0), (1, 0), (5, 1), (8, 0), (0.1, 0), (6, 1), (4, 1)]):
        reporter.observe(epoch, loss, bool(accepted))
    study.tell(trial, 4.0)
    assert study.trials[0].intermediate_values == {2: 5, 3: 5, 4: 5, 5: 5, 6: 4}


def test_warmup_search_and_trials_are_not_accepted(base: Config) -> None:
    scheduled = base.training.adaptive_lr_config.model_copy(update={"scheduler_type": "wsd", "warmup_epochs": 2})
    rate = LearningRate(scheduled, 1e-3, epochs=10, steps_per_epoch=3)
    accepted = []
    for _ in range(9):
        rate.observe_step(1.0, None)
        accepted.append(rate.is_accepted)
    assert accepted == [False] * 5 + [True] * 4
    adaptive = LearningRate(base.training.adaptive_lr_config, 1e-3, epochs=1000, steps_per_epoch=5)
    assert not adaptive.is_accepted, "it searches"
    assert adaptive._adaptive is not None
    for phase, expected in (("steady", True), ("baseline", True), ("trial", False), ("anneal", True)):
        adaptive._adaptive._phase = phase  # type: ignore[assignment]
        assert adaptive.is_accepted is expected


def test_a_study_goes_on_as_one_that_never_stopped_and_writes_a_config_that_trains(
    base: Config, tmp_path: Path
) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole, parts = (make_tuning(base, tmp_path / name, 4) for name in ("whole", "parts"))
    assert tune(whole, jobs=1, console=QUIET) == 0
    for trials in (2, 4):
        tune(make_tuning(base, tmp_path / "parts", trials), jobs=1, console=QUIET)
    drawn = parameters(tmp_path, whole)
    assert len(drawn) == 4
    assert drawn == parameters(tmp_path, parts)
    assert drawn[0] == drawn_values(whole.space, base), "the config itself comes first"
    tuned = load_config(tmp_path / "whole" / TUNED_CONFIG)
    assert tuned.training.epochs == 500
    assert tuned.output.save_dir.name == "run_tuned"
    study = open_study(whole.storage, whole.space, base, epochs=2, prune=True)
    best = changed(base, draw(FixedTrial(study.best_params), whole.space, base), "x")
    assert tuned.network == best.network
    assert tuned.training == best.training
    page = (tmp_path / "whole" / "tuning.html").read_text(encoding="utf-8")
    assert f"Trial {study.best_trial.number} is the best" in page
    assert "http://" not in page
    assert 'src="data:image/png' in page
    with pytest.raises(ConfigError, match="2 epochs a trial"):
        open_study(whole.storage, whole.space, base, epochs=3, prune=True)


def test_an_interrupted_trial_goes_on_where_it_was(
    base: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning = make_tuning(base, tmp_path, 1, epochs=4)
    assert tune(make_tuning(base, tmp_path / "..", 1, epochs=4, storage=str(tmp_path / "other.journal"),
                            out=tmp_path / "other"), jobs=1, console=QUIET) == 0  # fmt: skip
    from adaloc.tuning import command

    real = command.train_trial

    def interrupt(*args: Any, **kwargs: Any) -> Any:
        steps = iter(range(100))
        return real(
            *args, **{**kwargs, "should_stop": lambda: next(steps) == 4 and not os.kill(os.getpid(), signal.SIGINT)}
        )

    monkeypatch.setattr(command, "train_trial", interrupt)
    assert tune(tuning, jobs=1, console=QUIET) == 130
    monkeypatch.setattr(command, "train_trial", real)
    assert tune(tuning, jobs=1, console=QUIET) == 0
    study = open_study(tuning.storage, tuning.space, base, epochs=4, prune=True)
    (trial,) = finished(study)
    assert folder_of(trial, tmp_path).name == "trial_0000"
    events = [json.loads(line) for line in (tmp_path / "trial_0000/log.jsonl").read_text().splitlines()]
    assert "resume" in {e["event"] for e in events}
    other = optuna.load_study(study_name="adaloc", storage=_journal(tmp_path / "other.journal"))
    assert trial.value == other.best_value, "as if it had not been interrupted"


def _journal(path: Path) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(path)))


def test_a_killed_process_s_trial_is_done_by_another_and_a_living_one_s_is_not(base: Config, tmp_path: Path) -> None:
    tuning = make_tuning(base, tmp_path, 2)
    study = open_study(tuning.storage, tuning.space, base, epochs=2, prune=True)
    trial = begin_trial(study, tmp_path, 1)
    assert trial is not None
    params = draw(trial, tuning.space, base)
    with TrialFolder(folder_of(trial, tmp_path)) as folder:
        note_worker(trial, folder.path)
        assert begin_trial(study, tmp_path, 1) is None, "the one trial is being worked on"
    again = begin_trial(study, tmp_path, 1)  # the lock is gone, as of a killed process
    assert again is not None
    assert draw(again, tuning.space, base) == params
    assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.RUNNING]


def test_two_processes_work_on_one_study(base: Config, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(dump_config(base)), encoding="utf-8")
    command = [
        sys.executable, "-m", "adaloc", "tune", "--config", str(config), "--space", str(write_space(tmp_path)),
        "--trials", "6", "--epochs", "2", "--storage", str(tmp_path / "study.journal"), "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    tuning = make_tuning(base, tmp_path, 6)
    study = open_study(tuning.storage, tuning.space, base, epochs=2, prune=True)
    numbers = [t.number for t in finished(study)]
    assert len(numbers) == 6
    assert len({json.dumps(t.params, sort_keys=True) for t in finished(study)}) == 6, "they drew differently"
    trained = [{n for n in numbers if f"Trial {n}: training" in text} for text in said]
    assert trained[0].isdisjoint(trained[1])
    assert set.union(*trained) == set(numbers)


def test_a_trial_that_cannot_be_trained_counts_as_bad_and_the_study_goes_on(
    base: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adaloc.errors import AdalocError
    from adaloc.tuning import command
    from adaloc.tuning.trial import Outcome

    monkeypatch.setattr(command, "train_trial", lambda *_, **__: Outcome("failed", reason="the loss is no number"))
    tuning = make_tuning(base, tmp_path, 20)
    with pytest.raises(AdalocError, match="the loss is no number"):
        work(tuning, [], [], QUIET)
    study = open_study(tuning.storage, tuning.space, base, epochs=2, prune=True)
    assert [t.state for t in finished(study)] == [TrialState.PRUNED] * 5
    assert "cannot be trained" in html_page(study, tuning.space, 2)


def test_a_hopeless_trial_is_stopped_but_not_before_its_time(base: Config, tmp_path: Path) -> None:
    space: Space = load_space(write_space(tmp_path), base)
    study = open_study(str(tmp_path / "s.journal"), space, base, epochs=10, prune=True)
    for number in range(6):
        trial = study.ask()
        draw(trial, space, base)
        for epoch in range(10):
            trial.report(1.0 + 0.01 * number, epoch)
        study.tell(trial, 1.0)
    reporter = Reporter(study.ask())
    stopped = []
    for epoch in range(10):
        reporter.observe(epoch, 3.0, True)
        stopped.append(reporter.is_pruned)
    assert stopped == [False] * 4 + [True] * 6
