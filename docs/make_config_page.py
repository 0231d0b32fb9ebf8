"""Writes docs/config.md, every key of the config, from the models themselves: python docs/make_config_page.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adaloc.config import Config

PAGE = Path(__file__).parent / "config.md"
_INTRO = """# Every key of the config

Written by `python docs/make_config_page.py` from the models in `src/adaloc/config.py` and the files beside it;
`adaloc check --schema` prints the same as JSON schema. A config is JSON, `//` comments allowed. What is left out has
its default; unknown keys are refused, with the nearest known one named. `adaloc check --config C` tells every mistake
at once.

The defaults here are those of the code. The shipped configs in `training/configs/` set some keys otherwise: the
default one has, among others, `training.mixture_weight` 0.1, so that the network predicts uncertainties.
"""
_NAMES = {
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "null": "null",
    "string": "text",
    "path": "path",
}


def page() -> str:
    """The whole page in Markdown."""
    schema = Config.model_json_schema()
    lines = [_INTRO]
    _add_section(lines, schema, schema["$defs"], "")
    return "\n".join(lines).rstrip() + "\n"


def _add_section(lines: list[str], model: dict[str, Any], models: dict[str, Any], name: str) -> None:
    below: list[tuple[str, dict[str, Any]]] = []
    rows = []
    for key, entry in model["properties"].items():
        full = f"{name}.{key}" if name else key
        parts = [models[ref] for ref in _references(entry)]
        if parts and key != "pixel_size_nm":
            below += [(full, part) for part in parts]
        else:
            rows.append((key, entry, key in model.get("required", [])))
    heading = f"`{name}`" if name else "The top level"
    kind = model["properties"].get("type", {}).get("const")
    lines.append(f"## {heading}" + (f' with `"type": "{kind}"`' if kind else "") + "\n")
    if name:
        lines.append(" ".join(model["description"].split()) + "\n")
    if rows:
        lines += ["| key | value | default | meaning |", "|---|---|---|---|"]
        lines += [_row(key, entry, models, required) for key, entry, required in rows]
        lines.append("")
    for full, part in below:
        _add_section(lines, part, models, full)


def _row(key: str, entry: dict[str, Any], models: dict[str, Any], required: bool) -> str:
    default = "needed" if required else f"`{json.dumps(entry.get('default'), ensure_ascii=False)}`"
    meaning = " ".join(entry.get("description", "").split()).replace("|", "\\|")
    return f"| `{key}` | {_values(entry, models)} | {default} | {meaning} |"


def _values(entry: dict[str, Any], models: dict[str, Any]) -> str:
    """What may be written, in words."""
    if "anyOf" in entry:
        return " or ".join(_values(part, models) for part in entry["anyOf"])
    if "$ref" in entry:
        fields = models[entry["$ref"].rsplit("/", 1)[1]]["properties"]
        return "{" + ", ".join(f'"{name}": {_values(part, models)}' for name, part in fields.items()) + "}"
    if "const" in entry:
        return f"`{json.dumps(entry['const'])}`"
    if "enum" in entry:
        return ", ".join(f"`{json.dumps(value)}`" for value in entry["enum"])
    if entry.get("type") == "array":
        if "prefixItems" in entry:
            return f"list of {len(entry['prefixItems'])}: {_values(entry['prefixItems'][0], models)}"
        return f"list of {_values(entry['items'], models)}"
    name = _NAMES.get(entry.get("format", entry.get("type", "")), "anything")
    bounds = [
        f"{word} {entry[key]:.10g}"
        for key, word in (("minimum", "at least"), ("exclusiveMinimum", "above"), ("maximum", "at most"),
                          ("exclusiveMaximum", "below"))
        if key in entry
    ]  # fmt: skip
    return " ".join([name, ", ".join(bounds)]).strip()


def _references(entry: dict[str, Any]) -> list[str]:
    """Names of the models that a value is made of: one, or several that its type tells apart."""
    options = [entry, *entry.get("oneOf", []), *entry.get("allOf", [])]
    return [option["$ref"].rsplit("/", 1)[1] for option in options if "$ref" in option]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"written: {PAGE}")
