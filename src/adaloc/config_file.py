"""Reading and writing config files: JSON with // comments, every problem reported at once."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from adaloc.bounds import read_text
from adaloc.config import Config, PSFConfig
from adaloc.errors import ConfigError, DataError

_PSF_TYPES = tuple(get_args(m.model_fields["type"].annotation)[0] for m in get_args(get_args(PSFConfig)[0]))
_MOST_BYTES = 16 * 2**20
_STRING_OR_COMMENT = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*')


def strip_comments(text: str) -> str:
    """Blanks // comments outside of strings; line and column numbers stay as they were.

    >>> strip_comments('{"a": "http://x"} // why')
    '{"a": "http://x"}       '
    """
    return _STRING_OR_COMMENT.sub(lambda match: match[0] if match[0].startswith('"') else " " * len(match[0]), text)


def load_config(path: Path) -> Config:
    """Reads a config file.

    Raises:
        ConfigError: naming every problem of the file, each with what to do.
    """
    return parse_config(read_json(path, "config"), str(path))


def read_json(path: Path, what: str) -> Any:
    """The contents of a JSON file with // comments; `what` it is stands in messages.

    Raises:
        ConfigError: when it is missing or no JSON, or names a key twice in a section.
    """
    try:
        text = read_text(path, _MOST_BYTES, what, encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"The {what} {path} does not exist. {_existing_configs(path)}") from None
    except DataError as error:
        raise ConfigError(str(error)) from None
    except (OSError, ValueError) as error:  # ValueError: no text, or a path with a null character
        raise ConfigError(f"The {what} {path} cannot be read: {error}") from None
    try:
        return json.loads(strip_comments(text), object_pairs_hook=_without_duplicates)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"The {what} {path} is not valid JSON: {error.msg} in line {error.lineno}, column {error.colno}. "
            "Check for a missing or surplus comma, quote or bracket there."
        ) from None
    except (RecursionError, ValueError):
        raise ConfigError(
            f"The {what} {path} is nested too deeply, or holds numbers too long, to be a {what}."
        ) from None


def parse_config(raw: Any, source: str) -> Config:
    """Validates plain containers as a config; `source` names their origin in messages.

    Raises:
        ConfigError: naming every problem.
    """
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        problems = [_describe(item) for item in error.errors()]
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise ConfigError(f"{source} has {count}:\n" + "\n".join(f"  - {line}" for line in problems))


def dump_config(config: Config) -> dict[str, Any]:
    """The config as plain containers, ready for JSON."""
    return config.model_dump(mode="json")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise ConfigError(f"The config names {', '.join(twice)} twice in one section. Keep one of them.")
    return result


def _describe(item: Any) -> str:
    # The PSF's type stands in the location, but is no key; the last part is always one.
    *parents, last = item["loc"] or ("the config",)
    location = [str(part) for part in (*(p for p in parents if p not in _PSF_TYPES), last)]
    name = ".".join(location) or "the config"
    if item["type"] == "extra_forbidden":
        known = _fields_of(item["loc"][:-1])
        close = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f'did you mean "{close[0]}"?' if close else f"known here: {', '.join(known)}"
        return f"{name}: unknown key; {hint}"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] in ("value_error", "missing", "model_type"):
        return f"{name}: {message}"
    return f"{name}: {message} (it is {json.dumps(item['input'], default=str)[:80]})"


def _fields_of(location: Iterable[Any]) -> list[str]:
    models: list[type[BaseModel]] = [Config]
    for part in location:
        if part in _PSF_TYPES:
            models = [m for m in models if part in get_args(m.model_fields["type"].annotation)]
        else:
            found = [m.model_fields[part].annotation for m in models if part in m.model_fields]
            models = [m for annotation in found for m in _models_in(annotation)]
    return sorted({field for model in models for field in model.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _existing_configs(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path("training/configs")
    found = sorted(str(p) for p in folder.glob("*.json")) if folder.is_dir() else []
    return f"There are: {', '.join(found)}." if found else "Check the path after --config."


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A config's tree with some keys changed, section by section; neither argument is touched.

    >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}})
    {'a': {'b': 1, 'c': 3}}
    """
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result
