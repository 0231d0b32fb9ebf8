"""The super-resolved image of a table of localizations."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable
from adaloc.files import atomic_path
from adaloc.localize.density import Planes, planes

RGBArray = npt.NDArray[np.uint8]

_STRIP_PX = 8_000_000  # pixels that are coloured at a time
_BIGTIFF_BYTES = 4_000_000_000
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
    drawn = planes(
        table,
        pixel_size_nm=pixel_size_nm,
        image_size_px=image_size_px,
        render_pixel_nm=render_pixel_nm,
        blur_nm=blur_nm,
        with_depth=color_by_z,
    )
    return colored(drawn, z_limits_nm or z_range_nm(table))


def colored(drawn: Planes, z_limits_nm: tuple[float, float]) -> RGBArray:
    """Brightness and colour of planes, as `render` describes them; without depth the limits mean nothing."""
    low, high = z_limits_nm
    white = _white_level(drawn)
    palette = _density_palette() if drawn.depth_nm is None else depth_palette()
    rgb = np.empty((*drawn.density.shape, 3), np.uint8)
    height = max(1, _STRIP_PX // drawn.density.shape[1])
    for start in range(0, len(rgb), height):
        rows = slice(start, start + height)
        brightness = np.clip(drawn.density[rows] / white, 0, 1) ** _GAMMA
        if drawn.depth_nm is None:
            rgb[rows] = palette[np.round(255 * brightness).astype(np.uint8)]
        else:
            level = np.clip(np.nan_to_num((drawn.depth_nm[rows] - low) / (high - low)), 0, 1)
            rgb[rows] = np.round(brightness[..., None] * palette[np.round(255 * level).astype(np.uint8)])
    return rgb


def write_ome_tiff(path: Path, drawn: Planes, render_pixel_nm: float) -> None:
    """Writes the numbers, not the colours: an OME-TIFF of float32 with the pixel size, atomically.

    The first channel is localizations per pixel; the second, where there is one, the mean z in nm, NaN where nothing
    is. BigTIFF above 4 GB, compressed without loss.

    Raises:
        AdalocError: when the file cannot be written.
    """
    channels = [drawn.density] if drawn.depth_nm is None else [drawn.density, drawn.depth_nm]
    names = ["localizations per pixel", "mean z (nm)"][: len(channels)]
    metadata = {
        "axes": "CYX",
        "Channel": {"Name": names},
        **{f"PhysicalSize{axis}": render_pixel_nm for axis in "XY"},
        **{f"PhysicalSize{axis}Unit": "nm" for axis in "XY"},
    }
    with atomic_path(path) as temporary:
        tifffile.imwrite(
            temporary,
            np.stack(channels),
            ome=True,
            bigtiff=sum(c.nbytes for c in channels) > _BIGTIFF_BYTES,
            photometric="minisblack",
            compression="zlib",
            metadata=metadata,
        )


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


def _white_level(drawn: Planes) -> float:
    """Density shown as full brightness. Only pixels that hold a localization are asked: most of an image is empty."""
    if len(drawn.occupied) == 0:
        return 1.0
    return float(np.quantile(drawn.density.reshape(-1)[drawn.occupied], 1 - _SATURATED_SHARE))


# --- Colours ----------------------------------------------------------------------------------------------------


def _density_palette() -> RGBArray:
    """(256, 3): matplotlib's inferno, perceptually uniform, with a first entry that is really black."""
    import matplotlib  # slow to import, and needed for 2D only

    palette = np.round(255 * matplotlib.colormaps["inferno"](np.arange(256))[:, :3]).astype(np.uint8)
    palette[0] = 0
    return palette


def depth_palette() -> npt.NDArray[np.float32]:
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
    strip = np.round(depth_palette()).astype(np.uint8)[None].repeat(2 * thick, axis=0)
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
