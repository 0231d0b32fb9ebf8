"""The order of the commands in `adaloc --help`: by what a person wants to do."""

from __future__ import annotations

from typing import Any

import typer

PANELS: dict[str, tuple[str, ...]] = {
    "Begin": ("demo", "check"),
    "Train": ("simulate", "train", "tune"),
    "Look at runs": ("monitor", "compare", "diagnose"),
    "Your microscope": ("calibrate", "spline", "mask", "field-map", "camera-map"),
    "Localize": ("localize", "convert", "evaluate"),
    "After localization": ("drift", "link", "group", "frc", "render"),
    "Studies": ("bench",),
}
OTHERS = "Others"


def arrange(app: typer.Typer) -> None:
    """Sorts the commands of an app, and of the nameless ones in it, into the panels; unlisted ones stand last."""
    panel_of = {name: panel for panel, names in PANELS.items() for name in names}
    place = {name: number for number, name in enumerate(panel_of)}

    def name_of(info: Any) -> str:
        return info.name or (info.callback.__name__.replace("_", "-") if info.callback else "")

    nameless = [group for group in app.registered_groups if not group.name and group.typer_instance is not None]
    for group in nameless:
        assert group.typer_instance is not None
        app.registered_commands += group.typer_instance.registered_commands
        app.registered_groups.remove(group)
    every: list[Any] = [*app.registered_commands, *app.registered_groups]
    for info in every:
        info.rich_help_panel = panel_of.get(name_of(info), OTHERS)
    app.registered_commands.sort(key=lambda info: place.get(name_of(info), len(place)))
