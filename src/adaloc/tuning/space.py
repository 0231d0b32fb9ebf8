"""The space that `adaloc tune` searches: a JSON file that says for keys of the config how they are drawn."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial
from pydantic import Field, ValidationError, model_validator

from adaloc.config import Config
from adaloc.config_file import dump_config, merged, parse_config, read_json
from adaloc.config_simulation import Section
from adaloc.errors import ConfigError

_LOG_FROM = 10.0
"""Ratio of the ends of a range from which it is searched by its logarithm, where the space does not say it."""
_MEANING_OF_THE_LOSS = (
    "data.root", "data.simulate_if_missing", "data.sample_subset", "data.train_val_split", "data.min_photons",
    "data.image_size", "data.consecutive_frames", "data.validation_windows_per_sample", "simulation", "training.loss",
    "training.unified_loss_config", "training.simple_combined_config",
)  # fmt: skip
_SET_BY_THE_TUNING = ("training.epochs", "output", "seed", "comments", "device", "num_threads")


class Parameter(Section):
    """How one key of the config is drawn: from `choices`, or between `low` and `high`."""

    choices: list[Any] | None = Field(None, min_length=2, description="any JSON values that the key takes")
    low: float | None = None
    high: float | None = None
    log: bool | None = Field(None, description="even in the logarithm; null: where high is at least ten times low > 0")
    integer: bool = False
    when: dict[str, list[Any]] = Field(
        {}, description="the parameter exists only where each of these keys has one of these values"
    )
    same: list[str] = Field([], description="further keys of the config that get the same value")

    @model_validator(mode="after")
    def _is_whole(self) -> Parameter:
        if (self.choices is None) == (self.low is None or self.high is None):
            raise ValueError('give either "choices", or "low" and "high"')
        if self.choices is not None:
            if self.log is not None or self.integer or self.low is not None or self.high is not None:
                raise ValueError("low, high, log and integer have no meaning beside choices")
            return self
        assert self.low is not None
        assert self.high is not None
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError("a logarithmic range begins above 0")
        if self.integer and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError("low and high of an integer range must be whole numbers")
        return self

    @property
    def is_log(self) -> bool:
        """Whether the range is searched by its logarithm."""
        if self.log is not None or self.low is None or self.high is None:
            return bool(self.log)
        return self.low > 0 and self.high >= _LOG_FROM * self.low

    def distribution(self) -> BaseDistribution:
        """As Optuna draws it; a choice that is a list or section is drawn as its JSON."""
        if self.choices is not None:
            return CategoricalDistribution([_as_scalar(choice) for choice in self.choices])
        assert self.low is not None
        assert self.high is not None
        if self.integer:
            return IntDistribution(int(self.low), int(self.high), log=self.is_log)
        return FloatDistribution(self.low, self.high, log=self.is_log)

    def examples(self) -> list[Any]:
        """All choices, or the ends of the range and a number in it, which a key for whole numbers does not take."""
        if self.choices is not None:
            return self.choices
        assert self.low is not None
        assert self.high is not None
        if self.integer:
            return [int(self.low), int(self.high)]
        return [self.low, self.low + (self.high - self.low) / math.e, self.high]

    def to_config(self, drawn: Any) -> Any:
        """The config's value of what was drawn."""
        if self.choices is None:
            return drawn
        return next(choice for choice in self.choices if _as_scalar(choice) == drawn and _same_kind(choice, drawn))

    def to_drawn(self, value: Any) -> Any:
        """The inverse of `to_config`.

        Raises:
            KeyError: when the value is not in the space.
        """
        if self.choices is not None:
            if not any(
                choice == value and _same_kind(_as_scalar(choice), _as_scalar(value)) for choice in self.choices
            ):
                raise KeyError(value)
            return _as_scalar(value)
        assert self.low is not None
        assert self.high is not None
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            raise KeyError(value)
        return int(value) if self.integer else float(value)


Space = dict[str, Parameter]
"""Key of the config, with points between its parts, to how it is drawn; in the order of drawing."""


def load_space(path: Path, base: Config) -> Space:
    """Reads a space and checks it against the config that it will change.

    Raises:
        ConfigError: naming every problem.
    """
    raw = read_json(path, "space")
    if not isinstance(raw, dict) or not raw:
        raise ConfigError(f"The space {path} must hold at least one key of the config and how it is drawn.")
    space: Space = {}
    problems: list[str] = []
    for key, value in raw.items():
        try:
            space[key] = Parameter.model_validate(value)
        except ValidationError as error:
            problems += [
                f"{'.'.join(map(str, (key, *e['loc'])))}: {e['msg'].removeprefix('Value error, ')}"
                for e in error.errors()
            ]
    problems += [problem for key in space for problem in _problems_of(key, space, base)]
    if problems:
        raise ConfigError(f"The space {path} has problems:\n" + "\n".join(f"  - {line}" for line in problems))
    return space


def draw(trial: BaseTrial, space: Space, base: Config) -> dict[str, Any]:
    """Draws what a trial changes in the config: key to value, conditional parameters only where they exist."""
    tree = dump_config(base)
    changes: dict[str, Any] = {}
    for key, parameter in space.items():
        if not all(_at(tree, other) in values for other, values in parameter.when.items()):
            continue
        value = parameter.to_config(_suggest(trial, key, parameter.distribution()))
        for name in (key, *parameter.same):
            changes[name] = value
            tree = merged(tree, nested({name: value}))
    return changes


def drawn_values(space: Space, base: Config) -> dict[str, Any]:
    """What a trial would have to draw to be the config itself; keys whose value is not in the space are left out."""
    tree, found = dump_config(base), {}
    for key, parameter in space.items():
        if all(_at(tree, other) in values for other, values in parameter.when.items()):
            try:
                found[key] = parameter.to_drawn(_at(tree, key))
            except KeyError:
                continue
    return found


def changed(base: Config, changes: dict[str, Any], source: str) -> Config:
    """The config with some keys, with points between their parts, changed.

    Raises:
        ConfigError: when the values do not go together.
    """
    return parse_config(merged(dump_config(base), nested(changes)), source)


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Keys with points to sections.

    >>> nested({"a.b": 1, "a.c": 2, "d": 3})
    {'a': {'b': 1, 'c': 2}, 'd': 3}
    """
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        section = tree
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    return tree


def _problems_of(key: str, space: Space, base: Config) -> list[str]:
    parameter, tree = space[key], dump_config(base)
    problems = []
    for name in (key, *parameter.same):
        if _begins_with(name, _SET_BY_THE_TUNING):
            problems.append(f"{name}: the tuning sets this itself, the same in all trials; leave it out")
        elif _begins_with(name, _MEANING_OF_THE_LOSS):
            problems.append(f"{name}: it changes what the validation loss means, so trials could not be compared")
        elif not _exists(tree, name):
            problems.append(f"{name}: no such key of the config; adaloc check --schema prints them")
    earlier = list(space)[: list(space).index(key)]
    for other in parameter.when:
        if not _exists(tree, other):
            problems.append(f"{key}: when names {other}, which is no key of the config")
        elif other in space and other not in earlier:
            problems.append(f"{key}: when names {other}, which must stand before it")
    if problems:
        return problems
    for value in parameter.examples():
        conditions = {other: values[0] for other, values in parameter.when.items()}
        try:
            changed(base, {**conditions, **dict.fromkeys((key, *parameter.same), value)}, f"{key} = {value}")
        except ConfigError as error:
            problems.append(str(error).replace("\n", " "))
    return problems


def _suggest(trial: BaseTrial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log)
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)


def _as_scalar(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value, sort_keys=True)


def _same_kind(first: Any, second: Any) -> bool:
    """JSON tells true from 1; Python does not."""
    return isinstance(first, bool) == isinstance(second, bool) or isinstance(first, list | dict)


def _begins_with(key: str, sections: tuple[str, ...]) -> bool:
    return any(key == section or key.startswith((section + ".", section + "_")) for section in sections)


def _exists(tree: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return True


def _at(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree
