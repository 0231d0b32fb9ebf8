"""The study: an Optuna study in a journal file or a database, which any number of processes work on at once."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import time
import warnings
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from adaloc.config import Config
from adaloc.config_file import dump_config
from adaloc.errors import AdalocError, ConfigError
from adaloc.locks import is_unsupported, try_lock
from adaloc.tuning.journal import open_journal
from adaloc.tuning.space import Space, drawn_values

STUDY_NAME = "adaloc"
_FIRST_RANDOM_TRIALS = 10
_BEFORE_PRUNING = 5
"""Finished trials that the median needs."""
PRUNE_FROM = 0.4
"""Share of a trial's epochs before which it is never stopped."""
IS_BASE = "is_base"
"""Mark of the trial that is the config as it was given, where the space holds its values."""
_FOLDER, _HOST, _CONTINUES, _ABOUT = "folder", "host", "continues", "about"
_LOCK_TRIES = 30
_TIME_TO_BEGIN = timedelta(seconds=60)


class SeededByTrial(BaseSampler):
    """A TPE sampler whose draws are a function of the seed, the trial's number and the results that there are.

    So processes that work on one study draw differently, and a study that goes on draws as one that never stopped.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._samplers: dict[int, TPESampler] = {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As `TPESampler`."""
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As `TPESampler`."""
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As `TPESampler`."""
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def _of(self, trial: FrozenTrial) -> TPESampler:
        if trial.number not in self._samplers:
            seed = int(np.random.SeedSequence([self._seed, trial.number]).generate_state(1)[0])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                # Group: parameters that exist together are drawn together, also where they exist only sometimes.
                sampler = TPESampler(
                    seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=_FIRST_RANDOM_TRIALS
                )
            self._samplers = {trial.number: sampler}
        return self._samplers[trial.number]


def open_study(storage: str, space: Space, base: Config, *, epochs: int, prune: bool) -> Study:
    """Opens a study, or begins it with the config itself as the first trial.

    Args:
        storage: a journal file's path, or the URL of a database (with ://).
        space, base, epochs: what the study is of; they cannot change within it.
        prune: whether hopeless trials are stopped early.

    Raises:
        ConfigError: when there is another study in the storage.
        AdalocError: when the storage cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    about = {"space": {k: p.model_dump(mode="json") for k, p in space.items()}, "epochs": epochs,
             "config": _fingerprint(base)}  # fmt: skip
    place = _open_storage(storage)
    kept: dict[str, Any] = {"storage": place, "sampler": SeededByTrial(base.seed), "pruner": _pruner(epochs, prune)}
    try:
        study = optuna.create_study(study_name=STUDY_NAME, direction="minimize", **kept)
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(study_name=STUDY_NAME, **kept)
        _refuse_another(study, about, storage)
        return study
    study.set_user_attr(_ABOUT, about)
    study.enqueue_trial(drawn_values(space, base), user_attrs={IS_BASE: True})
    return study


class TrialFolder:
    """A trial's folder while a process works on it; a lock on it tells others that the process lives."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> TrialFolder:
        self.path.mkdir(parents=True, exist_ok=True)
        for _ in range(_LOCK_TRIES):  # another process may be looking whether this one lives
            self._lock = _take_lock(self.path)
            if self._lock is not None:
                return self
            time.sleep(0.1)
        raise AdalocError(f"Another process works in {self.path}. Give this study another --out.")

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()


def begin_trial(study: Study, out: Path, wanted: int) -> optuna.Trial | None:
    """The next trial of this process, or None when `wanted` trials are finished or being worked on.

    Trials whose process was killed come first, where this machine can know it.
    """
    _take_over_dead(study, out)
    if _count(study, out) >= wanted:
        return None
    trial = study.ask()
    others = [t for t in study.get_trials(deepcopy=False) if t.number < trial.number]
    if sum(_counts(t, out) for t in others) >= wanted:  # another process was faster
        study.tell(trial, state=TrialState.FAIL)
        return None
    return trial


def folder_of(trial: optuna.Trial | FrozenTrial, out: Path) -> Path:
    """Where a trial is trained; one that continues another goes on in the other's folder."""
    return out / str(trial.user_attrs.get(_FOLDER, f"trial_{trial.number:04d}"))


def note_worker(trial: optuna.Trial, folder: Path) -> None:
    """Says on which machine a trial runs; its folder must be locked."""
    trial.set_user_attr(_FOLDER, folder.name)
    trial.set_user_attr(_HOST, platform.node())


def repeat_reports(study: Study, trial: optuna.Trial) -> float:
    """Reports again what the trial that this one continues had reported; returns the last, infinite when none."""
    if _CONTINUES not in trial.user_attrs:
        return math.inf
    earlier = next(t for t in study.get_trials(deepcopy=False) if t.number == trial.user_attrs[_CONTINUES])
    for step, value in sorted(earlier.intermediate_values.items()):
        trial.report(value, step)
    return min(earlier.intermediate_values.values(), default=math.inf)


def put_back(study: Study, number: int) -> None:
    """Gives a trial that was not finished back to the study: whoever asks next goes on with it."""
    trial = next(t for t in study.get_trials(deepcopy=False) if t.number == number)
    study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
    attrs = {_FOLDER: folder_of(trial, Path()).name, _CONTINUES: number, IS_BASE: trial.user_attrs.get(IS_BASE, False)}
    study.enqueue_trial(trial.params, user_attrs=attrs)


def twin_of(study: Study, trial: optuna.Trial) -> FrozenTrial | None:
    """A finished trial that drew the same, and so would come out the same."""
    return next((t for t in finished(study) if t.params == trial.params), None)


def finished(study: Study) -> list[FrozenTrial]:
    """Trials that were trained to the end or stopped early, in order."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _pruner(epochs: int, prune: bool) -> BasePruner:
    if not prune:
        return NopPruner()
    return MedianPruner(n_startup_trials=_BEFORE_PRUNING, n_warmup_steps=math.ceil(PRUNE_FROM * epochs), n_min_trials=3)


def _open_storage(storage: str) -> BaseStorage:
    try:
        if "://" in storage:
            return RDBStorage(storage)
        path = Path(storage)
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(open_journal(path))
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise _cannot_open(storage, error) from error
    except Exception as error:  # of SQLAlchemy and of database drivers, whose classes are many
        if type(error).__module__.partition(".")[0] in ("adaloc", "builtins"):
            raise
        raise _cannot_open(storage, error) from error


def _cannot_open(storage: str, error: Exception) -> AdalocError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return AdalocError(
        f"The storage {storage} cannot be opened: {reason}. Give a journal file's path, or a database's URL such as "
        "sqlite:///study.db or postgresql+psycopg://user@host/name with its driver installed."
    )


def _fingerprint(base: Config) -> str:
    tree = dump_config(base)
    for name in ("output", "comments", "device", "num_threads"):
        del tree[name]
    del tree["training"]["epochs"]
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]


def _refuse_another(study: Study, about: dict[str, Any], storage: str) -> None:
    there: dict[str, Any] = {}
    for _ in range(50):  # the process that began it may not have said it yet
        there = study.user_attrs.get(_ABOUT, {})
        if there:
            break
        time.sleep(0.1)
    if differing := [name for name in about if there.get(name) != json.loads(json.dumps(about[name]))]:
        words = {
            "space": "another space",
            "epochs": f"{there.get('epochs')} epochs a trial",
            "config": "another config",
        }
        raise ConfigError(
            f"The storage {storage} holds a study with {', '.join(words[name] for name in differing)}, and its trials "
            "could not be compared with new ones. Go on with what it was begun with, or give another --storage."
        )


def _count(study: Study, out: Path) -> int:
    return sum(_counts(trial, out) for trial in study.get_trials(deepcopy=False))


def _counts(trial: FrozenTrial, out: Path) -> bool:
    if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
        return True
    return trial.state == TrialState.RUNNING and not _is_dead(trial, out)


def _is_dead(trial: FrozenTrial, out: Path) -> bool:
    """Whether the process of a running trial is surely gone. Of another machine's it is never sure."""
    host = trial.user_attrs.get(_HOST)
    if host is None:  # its process has not come to its folder yet
        return trial.datetime_start is not None and datetime.now() - trial.datetime_start > _TIME_TO_BEGIN
    folder = folder_of(trial, out)
    if host != platform.node() or not folder.is_dir():
        return False
    lock = _take_lock(folder)
    if lock is not None:
        lock.close()
    return lock is not None


def _take_over_dead(study: Study, out: Path) -> None:
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        folder = folder_of(trial, out)
        if trial.user_attrs.get(_HOST) != platform.node() or not folder.is_dir():
            continue
        lock = _take_lock(folder)
        if lock is None:
            continue
        with lock:  # held, so that two processes do not both put it back
            running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if any(other.number == trial.number for other in running):
                put_back(study, trial.number)


def _take_lock(folder: Path) -> IO[bytes] | None:
    """The folder's lock, held until it is closed or the process ends; None when another process holds it.

    None too where the file system knows no locks: a trial whose process cannot be seen is never taken over.
    """
    file = (folder / ".lock").open("ab")
    try:
        if try_lock(file.fileno()):
            return file
    except OSError as error:
        if not is_unsupported(error):
            file.close()
            raise
    file.close()
    return None
