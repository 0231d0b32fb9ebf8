"""The plugin's three widgets. Only napari loads this file.

Annotations are evaluated here: magicgui makes the forms from them.
"""

from pathlib import Path
from typing import Any

import napari
from magicgui import magicgui
from magicgui.widgets import CheckBox, Container, FileEdit, FloatSlider, FloatSpinBox, Label, PushButton, create_widget
from napari.layers import Image, Layer, Points
from napari.qt.threading import GeneratorWorker, create_worker
from napari.utils.notifications import show_error, show_info, show_warning

from adaloc.config import PixelSize
from adaloc.errors import AdalocError
from adaloc.napari_plugin.layers import LayerData, space_layer
from adaloc.napari_plugin.predict import Progress, movie_of, predict
from adaloc.napari_plugin.reader import read_table


class LocalizeWidget(Container):  # type: ignore[misc]
    """Chooses a model and an image layer, localizes it beside the window, and adds the localizations as points.

    Args:
        napari_viewer: where the points go; napari gives it to an argument of this name.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        self._viewer = napari_viewer
        self._worker: GeneratorWorker | None = None
        self.model = FileEdit(label="model", filter="*.pth", tooltip="best_model.pth, or a training checkpoint")
        self.movie = create_widget(label="movie", annotation=Image)
        self.threshold = FloatSlider(
            label="probability", value=0.5, min=0.01, max=1.0, tooltip="least probability of a localization"
        )
        self.certain_only = CheckBox(label="certain only", value=False, tooltip="filter by predicted uncertainty")
        self.max_sigma_nm = FloatSpinBox(label="sigma up to (nm)", value=30.0, min=0.1, max=1000.0, enabled=False)
        self.start = PushButton(text="Localize")
        self.stop = PushButton(text="Stop", enabled=False)
        self.said = Label(value="")
        super().__init__(
            widgets=[self.model, self.movie, self.threshold, self.certain_only, self.max_sigma_nm, self.start,
                     self.stop, self.said]
        )  # fmt: skip
        self.certain_only.changed.connect(lambda on: setattr(self.max_sigma_nm, "enabled", on))
        self.start.changed.connect(self.localize)
        self.stop.changed.connect(self._ask_to_stop)

    def localize(self) -> GeneratorWorker | None:
        """Starts what the widget says; None where something is not chosen yet."""
        layer, path = self.movie.value, Path(self.model.value)
        if layer is None:
            show_error("Open a movie first: drop a sample folder, a TIFF, .raw, .dax or .nd2 on the window.")
            return None
        if not path.is_file():
            show_error("Choose a model: best_model.pth in the folder of a training.")
            return None
        try:
            movie = movie_of(layer.data, layer.name)
        except AdalocError as error:
            show_error(str(error))
            return None
        self._worker = create_worker(
            predict, path, movie, name=f"{layer.name} localized", threshold=self.threshold.value,
            max_sigma_nm=self.max_sigma_nm.value if self.certain_only.value else None,
            placement={"scale": tuple(layer.scale), "translate": tuple(layer.translate)}, warn=show_warning,
            _start_thread=False,
        )  # fmt: skip
        self._worker.yielded.connect(self._take)
        self._worker.errored.connect(lambda error: self.said.native.setText(str(error)))
        self._worker.finished.connect(lambda: self._set_running(on=False))
        self._set_running(on=True)
        self._worker.start()
        return self._worker

    def _take(self, part: Progress | LayerData) -> None:
        if isinstance(part, Progress):
            self.said.value = f"{part.done} of {part.frames} frames, {part.found} localizations"
            return
        self._viewer.add_layer(Layer.create(*part))

    def _ask_to_stop(self) -> None:
        if self._worker is not None:
            self._worker.quit()
            self.said.value = "stopped"

    def _set_running(self, *, on: bool) -> None:
        self.start.enabled = not on
        self.stop.enabled = on


def make_open_widget() -> Any:
    """A form for files that do not say how large a camera pixel is: CSV over a movie, Insight3."""

    @magicgui(  # type: ignore[untyped-decorator]
        call_button="Open",
        path={"label": "localizations", "tooltip": "CSV, Picasso .hdf5, DECODE .h5, SMAP .mat, rapidSTORM, Insight3"},
        pixel_x_nm={"label": "camera pixel x (nm)", "min": 1.0, "max": 10000.0},
        pixel_y_nm={"label": "camera pixel y (nm)", "min": 1.0, "max": 10000.0},
    )
    def open_localizations(
        viewer: napari.Viewer, path: Path = Path(), pixel_x_nm: float = 100.0, pixel_y_nm: float = 100.0
    ) -> None:
        try:
            layers = read_table(path, PixelSize(x=pixel_x_nm, y=pixel_y_nm))
        except AdalocError as error:
            show_error(str(error))
            return
        for layer in layers:
            viewer.add_layer(Layer.create(*layer))

    return open_localizations


def make_space_widget() -> Any:
    """A form that makes of a points layer (frame, y, x) one at the places in space, and shows it in 3D."""

    @magicgui(call_button="Show in space", points={"label": "points"})  # type: ignore[untyped-decorator]
    def show_in_space(viewer: napari.Viewer, points: Points) -> None:
        if points is None:
            show_error("Open localizations first, or localize a movie.")
            return
        if points.data.shape[1] != 3 or "z_nm" not in points.features:
            show_error(f"The layer {points.name} holds no localizations of adaloc: it has no feature z_nm.")
            return
        features = {name: points.features[name].to_numpy() for name in points.features}
        data, keywords, kind = space_layer(points.data, features, points.scale, points.translate, "in space")
        keywords["name"] = f"{points.name} in space"
        for layer in viewer.layers:
            layer.visible = False  # their first axis is the frame, this one's is the depth
        viewer.add_layer(Layer.create(data, keywords, kind))
        viewer.dims.ndisplay = 3
        show_info("Frames are hidden: their first axis is time, that of this layer is depth.")

    return show_in_space
