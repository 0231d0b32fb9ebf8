"""The super-resolved image of a table of localizations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from scipy.ndimage import gaussian_filter

from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable, FloatArray
from adaloc.errors import DataError
from adaloc.files import atomic_path

RGBArray = npt.NDArray[np.uint8]
PlaneArray = npt.NDArray[np.float32]

MAX_SIDE_PX = 20_000
DEFAULT_BLUR_NM = 10.0
"""Width of a localization whose uncertainty is not known: what good single-molecule data reach."""
_STRIP_PX = 8_000_000  # pixels that are worked on at a time; bounds the memory besides the image itself
_NUM_BLUR_CLASSES = 8
_SATURATED_SHARE = 0.03  # of the occupied pixels
_GAMMA = 0.7  # lifts thin structures out of the black
_MIN_SIDE_FOR_BAR_PX = 100


def z_range_nm(table: EmitterTable) -> tuple[float, float]:
    """The span of z that colours should cover: from the 2nd to the 98th percentile, at least 1 nm."""
    if len(table) == 0:
        return -500.0, 500.0
    low, high = (float(value) for value in np.percentile(table.z, [2, 98]))
    return (low, high) if high - low >= 1 else (low - 0.5, low + 0.5)


def render(
    table: EmitterTable,
    *,
    pixel_size_nm: PixelSize,
    image_size_px: tuple[int, int] | None,
    render_pixel_nm: float = 10.0,
    blur_nm: float | None = None,
    color_by_z: bool = False,
    z_limits_nm: tuple[float, float] | None = None,
) -> RGBArray:
    """Draws each localization as a Gaussian of weight 1.

    Row 0 is at the top and x runs to the right, as in the camera frame; pixel (0, 0) begins at the field's outer
    edge. Brightness is density to the power 0.7: white is what 3 % of the occupied pixels exceed, so that one bright
    clump does not darken the rest. Without z the colours are matplotlib's inferno. With `color_by_z` the hue is
    the mean z in the pixel, from blue (low) to red (high) at equal lightness, so that no depth looks denser.

    Args:
        table: localizations; those outside the field are left out.
        pixel_size_nm: camera pixel.
        image_size_px: (H, W) of the camera frame; None takes the field from its first corner to the last localization.
        render_pixel_nm: side of a pixel of the image.
        blur_nm: sigma of the Gaussian. None takes each localization's own uncertainty, in 8 steps, or
            `DEFAULT_BLUR_NM` where the table has none, and at least one pixel of the image: a narrower spot falls
            between the pixels. 0 draws the bare histogram.
        color_by_z: colour the depth.
        z_limits_nm: z of the first and last colour; None takes `z_range_nm`.

    Returns:
        uint8 (rows, columns, 3), black where nothing is.

    Raises:
        DataError: when the image would have more than 20,000 px on a side.
    """
    shape = _image_shape(table, pixel_size_nm, image_size_px, render_pixel_nm)
    spots = _spots(table, pixel_size_nm, render_pixel_nm, blur_nm, shape)
    low, high = z_limits_nm or z_range_nm(table)
    density = np.empty(shape, np.float32)
    hue = np.zeros(shape, np.uint8) if color_by_z else None
    for rows, margin in _strips(shape, spots):
        strip = _accumulate(spots, None, rows, margin, shape[1])
        density[rows] = strip
        if hue is not None:
            depth = _accumulate(spots, spots.z, rows, margin, shape[1])
            with np.errstate(invalid="ignore", divide="ignore"):
                level = (depth / strip - low) / (high - low)
            hue[rows] = np.round(255 * np.clip(np.nan_to_num(level), 0, 1))

    white = _white_level(density, spots)
    palette = _depth_palette() if color_by_z else _density_palette()
    rgb = np.empty((*shape, 3), np.uint8)
    for rows, _ in _strips(shape, spots):
        brightness = np.clip(density[rows] / white, 0, 1) ** _GAMMA
        if hue is None:
            rgb[rows] = palette[np.round(255 * brightness).astype(np.uint8)]
        else:
            rgb[rows] = np.round(brightness[..., None] * palette[hue[rows]])
    return rgb


def write_png(
    path: Path,
    rgb: RGBArray,
    render_pixel_nm: float,
    *,
    scale_bar: bool = True,
    z_limits_nm: tuple[float, float] | None = None,
) -> None:
    """Writes the image as PNG, atomically, with its pixel size as resolution and as text `pixel_size_nm`.

    Args:
        path: the file.
        rgb: uint8 (rows, columns, 3).
        render_pixel_nm: side of a pixel.
        scale_bar: draw a bar of a round length into the lower right corner. Images under 100 px get none.
        z_limits_nm: z of the first and last colour, to draw the depth's colours into the upper left corner.

    Raises:
        AdalocError: when the file cannot be written.
    """
    image = Image.fromarray(rgb)
    if min(image.size) >= _MIN_SIDE_FOR_BAR_PX:
        if scale_bar:
            _draw_scale_bar(image, render_pixel_nm)
        if z_limits_nm is not None:
            _draw_depth_key(image, z_limits_nm)
    info = PngImagePlugin.PngInfo()
    info.add_text("Software", "adaloc")
    info.add_text("pixel_size_nm", f"{render_pixel_nm:g}")
    dots_per_inch = 25.4e6 / render_pixel_nm
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", dpi=(dots_per_inch, dots_per_inch), pnginfo=info)


# --- Drawing ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Spots:
    """Localizations in image pixels, ascending rows; `blur_px[blur_class]` is the sigma of each."""

    row: npt.NDArray[np.int64]
    column: npt.NDArray[np.int64]
    z: FloatArray
    blur_class: npt.NDArray[np.int64]
    blur_px: FloatArray


def _image_shape(
    table: EmitterTable, pixel_size_nm: PixelSize, image_size_px: tuple[int, int] | None, render_pixel_nm: float
) -> tuple[int, int]:
    if image_size_px is None:
        far_y, far_x = (max(0.0, column.max(initial=0.0)) for column in (table.y, table.x))
        image_size_px = (math.floor(far_y + 0.5) + 1, math.floor(far_x + 0.5) + 1)
    height_nm, width_nm = image_size_px[0] * pixel_size_nm.y, image_size_px[1] * pixel_size_nm.x
    # Rounding must not add a row to a height that is whole.
    rows, columns = (max(1, math.ceil(side / render_pixel_nm - 1e-6)) for side in (height_nm, width_nm))
    if max(rows, columns) > MAX_SIDE_PX:
        fitting = math.ceil(max(height_nm, width_nm) / MAX_SIDE_PX)
        raise DataError(
            f"The image would have {columns} x {rows} px, and {MAX_SIDE_PX} on a side is the limit. "
            f"Choose render pixels of {fitting} nm or more instead of {render_pixel_nm:g} nm, or render a part."
        )
    return rows, columns


def _spots(
    table: EmitterTable,
    pixel_size_nm: PixelSize,
    render_pixel_nm: float,
    blur_nm: float | None,
    shape: tuple[int, int],
) -> _Spots:
    row = np.floor((table.y + 0.5) * pixel_size_nm.y / render_pixel_nm).astype(np.int64)
    column = np.floor((table.x + 0.5) * pixel_size_nm.x / render_pixel_nm).astype(np.int64)
    inside = np.flatnonzero((row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1]))
    order = inside[np.argsort(row[inside], kind="stable")]
    widths_nm = _widths_nm(table, pixel_size_nm, render_pixel_nm) if blur_nm is None else np.full(len(table), blur_nm)
    blur_class, class_nm = _blur_classes(widths_nm[order])
    return _Spots(row[order], column[order], table.z[order], blur_class, class_nm / render_pixel_nm)


def _widths_nm(table: EmitterTable, pixel_size_nm: PixelSize, at_least_nm: float) -> FloatArray:
    if table.x_sigma is None or table.y_sigma is None:
        return np.full(len(table), max(DEFAULT_BLUR_NM, at_least_nm))
    lateral = np.sqrt(((table.x_sigma * pixel_size_nm.x) ** 2 + (table.y_sigma * pixel_size_nm.y) ** 2) / 2)
    return np.maximum(np.where(np.isfinite(lateral), lateral, DEFAULT_BLUR_NM), at_least_nm)


def _blur_classes(widths_nm: FloatArray) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """A few widths in equal ratios, and which of them each localization gets.

    One filter per class replaces one Gaussian per localization. The widest and narrowest 2 % take the outer classes:
    a fit that went astray would otherwise cost the most and be seen the least.
    """
    if len(widths_nm) == 0:
        return np.empty(0, np.int64), np.zeros(1)
    low, high = np.percentile(widths_nm, [2, 98])
    if high <= low:
        return np.zeros(len(widths_nm), np.int64), np.array([low])
    classes = np.geomspace(low, high, _NUM_BLUR_CLASSES)
    step = math.log(high / low) / (_NUM_BLUR_CLASSES - 1)
    nearest = np.round(np.log(np.clip(widths_nm, low, high) / low) / step)
    return nearest.astype(np.int64), classes


def _strips(shape: tuple[int, int], spots: _Spots) -> Iterator[tuple[slice, int]]:
    """Blocks of rows, and how many rows around them can shine into them."""
    margin = math.ceil(4 * float(spots.blur_px.max())) + 1
    height = max(_STRIP_PX // shape[1], margin)
    for start in range(0, shape[0], height):
        yield slice(start, min(start + height, shape[0])), margin


def _accumulate(spots: _Spots, weights: FloatArray | None, rows: slice, margin: int, width: int) -> PlaneArray:
    """Sum of the spots' Gaussians over a strip, each times its weight."""
    top, bottom = rows.start - margin, rows.stop + margin
    first, last = np.searchsorted(spots.row, [top, bottom])
    strip = np.zeros((bottom - top, width), np.float32)
    for index, blur_px in enumerate(spots.blur_px):
        chosen = first + np.flatnonzero(spots.blur_class[first:last] == index)
        if len(chosen) == 0:
            continue
        flat = (spots.row[chosen] - top) * width + spots.column[chosen]
        weight = None if weights is None else weights[chosen]
        plane = np.bincount(flat, weight, minlength=strip.size).reshape(strip.shape).astype(np.float32)
        strip += gaussian_filter(plane, blur_px, mode="constant", truncate=4.0) if blur_px > 0 else plane
    return strip[margin : bottom - top - margin]


def _white_level(density: PlaneArray, spots: _Spots) -> float:
    """Density shown as full brightness. Only pixels that hold a localization are asked: most of an image is empty."""
    occupied = np.unique(spots.row * density.shape[1] + spots.column)
    if len(occupied) == 0:
        return 1.0
    return float(np.quantile(density.reshape(-1)[occupied], 1 - _SATURATED_SHARE))


# --- Colours ----------------------------------------------------------------------------------------------------


def _density_palette() -> RGBArray:
    """(256, 3): matplotlib's inferno, perceptually uniform, with a first entry that is really black."""
    import matplotlib  # slow to import, and needed for 2D only

    palette = np.round(255 * matplotlib.colormaps["inferno"](np.arange(256))[:, :3]).astype(np.uint8)
    palette[0] = 0
    return palette


def _depth_palette() -> npt.NDArray[np.float32]:
    """(256, 3), 0 to 255: hues from blue over green to red at equal lightness and chroma in OKLCH (Ottosson 2020).

    Equal steps of hue at equal lightness are equal steps to the eye, and leave brightness to the density.
    """
    lightness, chroma = 0.74, 0.16
    hue = np.radians(np.linspace(265.0, 25.0, 256))
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    cones = np.stack(
        [
            lightness + 0.3963377774 * a + 0.2158037573 * b,
            lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ]
    )
    to_linear_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip(to_linear_rgb @ cones**3, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    # The brightest channel reaches 255 somewhere, so that contrast is not given away.
    return np.asarray(255 * srgb.T / srgb.max(), np.float32)


# --- Scale bar and key ------------------------------------------------------------------------------------------


def scale_bar_length_nm(width_nm: float) -> float:
    """The longest of 1, 2, 5 times a power of ten that is no longer than a quarter of the width.

    >>> scale_bar_length_nm(25_600)
    5000.0
    """
    longest = width_nm / 4
    decade = 10.0 ** math.floor(math.log10(longest))
    return max(step * decade for step in (1, 2, 5) if step * decade <= longest * (1 + 1e-9))


def _draw_scale_bar(image: Image.Image, render_pixel_nm: float) -> None:
    width, height = image.size
    length_nm = scale_bar_length_nm(width * render_pixel_nm)
    label = f"{length_nm / 1000:g} µm" if length_nm >= 1000 else f"{length_nm:g} nm"
    margin, thick = _line_widths(image)
    right, bottom = width - margin - 1, height - margin - 1
    left = right - round(length_nm / render_pixel_nm) + 1
    draw = ImageDraw.Draw(image)
    draw.rectangle((left, bottom - thick + 1, right, bottom), fill="white")
    draw.text(((left + right) / 2, bottom - 1.5 * thick), label, fill="white", anchor="mb", font=_font(image))


def _draw_depth_key(image: Image.Image, z_limits_nm: tuple[float, float]) -> None:
    margin, thick = _line_widths(image)
    strip = np.round(_depth_palette()).astype(np.uint8)[None].repeat(2 * thick, axis=0)
    key = Image.fromarray(strip).resize((image.width // 4, 2 * thick))
    image.paste(key, (margin, margin))
    label = f"z {z_limits_nm[0]:.0f} to {z_limits_nm[1]:.0f} nm"
    ImageDraw.Draw(image).text((margin, margin + 2.5 * thick), label, fill="white", anchor="lt", font=_font(image))


def _line_widths(image: Image.Image) -> tuple[int, int]:
    """Margin and thickness in px that suit the image."""
    side = min(image.size)
    return max(4, side // 30), max(2, side // 120)


def _font(image: Image.Image) -> ImageFont.FreeTypeFont:
    import matplotlib  # for its font: the one in Pillow has no µ

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(file), size=max(10, min(image.size) // 28))
