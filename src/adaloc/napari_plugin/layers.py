"""Movies and tables as napari's layer tuples (data, keywords, type), without napari.

An axis of nm is scaled from px, so that a layer's own coordinates stay those of adaloc: the centre of pixel (row r,
column c) is y = r, x = c. It lies half a pixel from the corner at which the world's coordinates begin.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable, FloatArray
from adaloc.localize.movie.interface import FrameArray, Movie

LayerData = tuple[Any, dict[str, Any], str]
"""Data, keyword arguments of napari's `add_...` method, and the kind of layer."""
ANY_PIXEL = PixelSize(x=10.0, y=10.0)
"""For positions in nm whose pixel is not known: the world's coordinates, in nm, do not depend on it."""
_DEPTH_COLORS = "turbo"
_TRUE_SIZE_NM, _FOUND_SIZE_NM, _SPACE_SIZE_NM = 350.0, 250.0, 30.0
_LOOKED_AT_FRAMES, _LOOKED_AT_BYTES = 20, 64_000_000


class MovieArray:
    """A movie as an array (T, H, W) whose frames are read when they are looked at.

    What napari needs of an array and no more: shape, dtype, ndim, and indexing. A long movie is never in memory.
    """

    ndim = 3

    def __init__(self, movie: Movie) -> None:
        self.movie = movie
        self.shape = (movie.num_frames, movie.height, movie.width)
        self.dtype = movie.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> FrameArray:
        """The frames that the first index asks for, cut by the others; as numpy does."""
        frames, *rest = key if isinstance(key, tuple) else (key,)
        if frames is Ellipsis:
            frames, rest = slice(None), [Ellipsis, *rest]
        index = np.arange(len(self))[frames]
        wanted = np.atleast_1d(index)
        if not wanted.size:
            read = np.empty((0, *self.shape[1:]), self.dtype)
        else:
            first = int(wanted.min())
            read = self.movie.read(first, int(wanted.max()) + 1)[wanted - first]
        cut: FrameArray = read[(slice(None), *rest)]
        return cut if index.ndim else cut[0]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> FrameArray:
        """Reads the whole movie."""
        frames = self.movie.read(0, len(self))
        return frames if dtype is None else frames.astype(dtype)


def movie_layer(movie: Movie, pixel_size_nm: PixelSize | None, name: str) -> LayerData:
    """The frames as an image layer.

    Args:
        movie: stays open as long as the layer is shown.
        pixel_size_nm: camera pixel; None, where nobody knows, leaves the layer in px.
        name: of the layer.
    """
    count = max(1, min(_LOOKED_AT_FRAMES, movie.num_frames, _LOOKED_AT_BYTES // movie.bytes_per_frame))
    begin = (movie.num_frames - count) // 2
    low, high = np.percentile(movie.read(begin, begin + count), (1, 99.5))
    limits = (float(low), float(max(high, low + 1)))
    return MovieArray(movie), {"name": name, "contrast_limits": limits, **placed(pixel_size_nm)}, "image"


def placed(pixel_size_nm: PixelSize | None) -> dict[str, Any]:
    """Scale and translation of a layer (frame, y, x) in px; in px, from the same corner, where no size is known."""
    x, y = (1.0, 1.0) if pixel_size_nm is None else (pixel_size_nm.x, pixel_size_nm.y)
    return {"scale": (1.0, y, x), "translate": (0.0, y / 2, x / 2)}


def true_layer(table: EmitterTable, pixel_size_nm: PixelSize, name: str) -> LayerData:
    """True emitters as circles around their places; colour is depth where it varies."""
    drawn = _depth_colors(table, "border") or {"border_color": "lime"}
    style = {"symbol": "disc", "face_color": "transparent", "border_width": 0.12, **drawn}
    return _points(table, pixel_size_nm, name, _TRUE_SIZE_NM, style)


def found_layer(table: EmitterTable, pixel_size_nm: PixelSize, name: str) -> LayerData:
    """Localizations as crosses; colour is depth where it varies."""
    drawn = _depth_colors(table, "face") or {"face_color": "orange"}
    return _points(table, pixel_size_nm, name, _FOUND_SIZE_NM, {"symbol": "cross", "border_width": 0.0, **drawn})


def space_layer(
    points_M3: FloatArray, features: dict[str, npt.NDArray[Any]], scale: FloatArray, translate: FloatArray, name: str
) -> LayerData:
    """Localizations of all frames at their places in space, for napari's 3D display.

    Args:
        points_M3: (M, 3) frame, y, x of a layer of `found_layer` or `true_layer`.
        features: its features; `z_nm` is the depth, 0 where there is none.
        scale: of that layer.
        translate: of that layer.
        name: of the new one.

    Returns:
        Points (z, y, x) in nm.
    """
    z = np.asarray(features.get("z_nm", np.zeros(len(points_M3))), np.float64)
    lateral = points_M3[:, 1:] * np.asarray(scale)[1:] + np.asarray(translate)[1:]
    keywords = {
        "name": name, "features": dict(features), "size": _SPACE_SIZE_NM, "border_width": 0.0, "opacity": 0.6,
        "face_color": "orange",
    }  # fmt: skip
    if len(z) and np.ptp(z) > 0:
        keywords |= {"face_color": "z_nm", "face_colormap": _DEPTH_COLORS, "face_contrast_limits": _limits(z)}
    return np.column_stack([z, lateral]), keywords, "points"


def features_of(table: EmitterTable, pixel_size_nm: PixelSize) -> dict[str, npt.NDArray[Any]]:
    """The columns of a table by name with unit, lengths in nm from the corner of the field."""
    columns: dict[str, npt.NDArray[Any] | None] = {
        "frame": table.frame,
        "x_nm": (table.x + 0.5) * pixel_size_nm.x,
        "y_nm": (table.y + 0.5) * pixel_size_nm.y,
        "z_nm": table.z,
        "photons": table.photons,
        "background_photons_per_px": table.background,
        "x_sigma_nm": None if table.x_sigma is None else table.x_sigma * pixel_size_nm.x,
        "y_sigma_nm": None if table.y_sigma is None else table.y_sigma * pixel_size_nm.y,
        "z_sigma_nm": table.z_sigma,
        "photons_sigma": table.photons_sigma,
        "probability": table.probability,
        "emitter_id": table.emitter_id,
    }
    return {name: column for name, column in columns.items() if column is not None}


def _points(table: EmitterTable, size: PixelSize, name: str, diameter_nm: float, style: dict[str, Any]) -> LayerData:
    keywords = {
        "name": name, "features": features_of(table, size), "size": diameter_nm / size.x, **placed(size), **style,
    }  # fmt: skip
    return np.column_stack([table.frame.astype(np.float64), table.y, table.x]), keywords, "points"


def _depth_colors(table: EmitterTable, part: str) -> dict[str, Any]:
    """Keywords that colour the face or the border by depth; none where the depth does not vary."""
    if not len(table) or np.ptp(table.z) == 0:
        return {}
    colors = {"color": "z_nm", "colormap": _DEPTH_COLORS, "contrast_limits": _limits(table.z)}
    return {f"{part}_{key}": value for key, value in colors.items()}


def _limits(z: FloatArray) -> tuple[float, float]:
    """Depths between which the colours lie; a few outliers do not matter."""
    low, high = np.percentile(z, (1, 99))
    return (float(low), float(high)) if high > low else (float(z.min()), float(z.max()))
