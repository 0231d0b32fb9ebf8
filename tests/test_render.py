from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import norm

from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable, empty_table
from adaloc.errors import DataError
from adaloc.localize import density as density_module
from adaloc.localize import render as render_module
from adaloc.localize.read import read_localizations
from adaloc.localize.render import render, scale_bar_length_nm, write_png, z_range_nm

OBLONG = PixelSize(x=120, y=80)
SQUARE = PixelSize(x=100, y=100)


def at(x: list[float], y: list[float], z: list[float] | None = None, sigma_px: float | None = None) -> EmitterTable:
    num = len(x)
    sigma = None if sigma_px is None else np.full(num, sigma_px)
    depth = np.zeros(num) if z is None else np.array(z)
    return EmitterTable(np.zeros(num, int), np.array(x), np.array(y), depth, np.ones(num), x_sigma=sigma, y_sigma=sigma)


@settings(deadline=None, max_examples=40)
@given(st.floats(-0.49, 29.49), st.floats(-0.49, 19.49), st.booleans())
def test_orientation(x: float, y: float, color_by_z: bool) -> None:
    """An emitter lights the row and column that its nm, from the outer edge, fall into."""
    image = render(at([x], [y]), pixel_size_nm=OBLONG, image_size_px=(20, 30), blur_nm=0, color_by_z=color_by_z)
    assert image.shape == (160, 360, 3)
    assert np.argwhere(image.any(axis=2)).tolist() == [[int((y + 0.5) * 80 // 10), int((x + 0.5) * 120 // 10)]]


def test_blur_keeps_the_place_and_is_a_gaussian() -> None:
    spots = at([20], [10], sigma_px=0.3)
    for blur_nm in (30.0, None):  # given, and the table's own uncertainty
        image = render(spots, pixel_size_nm=SQUARE, image_size_px=(40, 40), blur_nm=blur_nm, color_by_z=True)
        grey = image.max(axis=2).astype(float)
        assert np.unravel_index(grey.argmax(), grey.shape) == (105, 205)
        profile = (grey[105, 195:216] / grey.max()) ** (1 / 0.7)
        np.testing.assert_allclose(profile, norm.pdf(np.arange(-10, 11), scale=3) / norm.pdf(0, scale=3), atol=0.01)


def test_black_where_nothing_is() -> None:
    for color_by_z in (True, False):
        image = render(at([5], [5]), pixel_size_nm=SQUARE, image_size_px=(50, 50), color_by_z=color_by_z, blur_nm=10.0)
        assert (image[200:] == 0).all()
        assert (render(empty_table(), pixel_size_nm=SQUARE, image_size_px=(9, 7), color_by_z=color_by_z) == 0).all()


def test_the_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    spots = EmitterTable(
        np.zeros(500, int),
        *rng.uniform(0, 30, (4, 500)),
        x_sigma=rng.uniform(0.05, 1, 500),
        y_sigma=rng.uniform(0.05, 1, 500),
    )
    options = {"pixel_size_nm": OBLONG, "image_size_px": (31, 31), "color_by_z": True}
    first, second = (render(t, **options) for t in (spots, spots.select(rng.permutation(500))))
    np.testing.assert_allclose(first.astype(int), second.astype(int), atol=1)


def test_strips_have_no_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    spots = EmitterTable(
        np.zeros(3000, int),
        *rng.uniform(0, 30, (4, 3000)),
        x_sigma=rng.uniform(0.05, 0.5, 3000),
        y_sigma=rng.uniform(0.05, 0.5, 3000),
    )
    options = {"pixel_size_nm": SQUARE, "image_size_px": (31, 31), "color_by_z": True}
    whole = render(spots, **options)
    monkeypatch.setattr(render_module, "_STRIP_PX", 310 * 13)
    monkeypatch.setattr(density_module, "_STRIP_PX", 310 * 13)
    np.testing.assert_allclose(render(spots, **options).astype(int), whole.astype(int), atol=1)


def test_a_bright_clump_does_not_darken_the_rest() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.uniform(0, 30, (2, 2000))
    clump = at([*x, *np.full(20_000, 3.0)], [*y, *np.full(20_000, 3.0)])
    image = render(clump, pixel_size_nm=SQUARE, image_size_px=(31, 31), blur_nm=0)
    assert np.median(image.max(axis=2)[image.any(axis=2)]) > 60


def test_depth_colours_run_from_blue_to_red_at_equal_lightness() -> None:
    image = render(
        at([5, 15, 25], [5, 5, 5], [-400.0, 0.0, 400.0]),
        pixel_size_nm=SQUARE,
        image_size_px=(10, 30),
        blur_nm=0,
        color_by_z=True,
        z_limits_nm=(-400, 400),
    )
    low, middle, high = (image[55, column].astype(int) for column in (55, 155, 255))
    assert low.argmax() == 2
    assert middle.argmax() == 1
    assert high.argmax() == 0
    luminance = [np.dot([0.2126, 0.7152, 0.0722], (colour / 255) ** 2.2) for colour in (low, middle, high)]
    assert max(luminance) / min(luminance) < 1.5


def test_values_outside_the_z_limits_take_the_outer_colours() -> None:
    spots = at([5, 15], [5, 5], [-9000.0, -400.0])
    options = {"pixel_size_nm": SQUARE, "image_size_px": (10, 30), "blur_nm": 0, "color_by_z": True}
    image = render(spots, z_limits_nm=(-400, 400), **options)
    assert (image[55, 55] == image[55, 155]).all()


def test_z_range() -> None:
    assert z_range_nm(empty_table()) == (-500, 500)
    assert z_range_nm(at([1], [1], [30.0])) == (29.5, 30.5)
    low, high = z_range_nm(at([0.0] * 1001, [0.0] * 1001, [float(z) for z in range(1001)]))
    assert (low, high) == (20, 980)


def test_field_without_a_size_holds_every_localization() -> None:
    image = render(at([3.4, 7.6], [2.0, 11.49]), pixel_size_nm=SQUARE, image_size_px=None, blur_nm=0)
    assert image.shape == (120, 90, 3)
    assert len(np.argwhere(image.any(axis=2))) == 2


def test_rows_outside_the_field_are_left_out() -> None:
    image = render(at([-0.6, 10.0, 5.0], [5.0, 5.0, 9.51]), pixel_size_nm=SQUARE, image_size_px=(10, 10), blur_nm=0)
    assert not image[:, :95].any()


def test_too_large_an_image_is_refused_and_the_advice_works() -> None:
    with pytest.raises(DataError, match=r"20480 x 10240 px.*11 nm"):
        render(empty_table(), pixel_size_nm=SQUARE, image_size_px=(1024, 2048))
    assert 2048 * 100 / 11 <= 20_000


@pytest.mark.parametrize(("width_nm", "length_nm"), [(4000, 1000), (3999, 500), (25_600, 5000), (1750, 200), (8, 2)])
def test_scale_bar_is_a_round_length(width_nm: float, length_nm: float) -> None:
    assert scale_bar_length_nm(width_nm) == length_nm


def test_png_has_a_true_scale_bar_and_its_resolution(tmp_path: Path) -> None:
    black = np.zeros((300, 400, 3), np.uint8)
    write_png(tmp_path / "a.png", black, 10.0)
    with Image.open(tmp_path / "a.png") as image:
        assert image.text["pixel_size_nm"] == "10"
        assert 25.4e6 / image.info["dpi"][0] == pytest.approx(10, rel=1e-3)
        lit = np.asarray(image).min(axis=2) == 255
    longest = lit.sum(axis=1).max()
    assert longest == 100  # 1 µm
    assert lit[:, :200].sum() == lit[:150].sum() == 0  # in the lower right


def test_png_without_drawings_is_the_image(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (120, 130, 3), dtype=np.uint8)
    write_png(tmp_path / "a.png", rgb, 10.0, scale_bar=False)
    write_png(tmp_path / "small.png", rgb[:50], 10.0)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), rgb)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "small.png")), rgb[:50])


def test_depth_key_is_drawn_in_its_own_corner(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.zeros((300, 400, 3), np.uint8), 10.0, scale_bar=False, z_limits_nm=(-400, 400))
    drawn = np.asarray(Image.open(tmp_path / "a.png"))
    assert drawn[:100, :200].any()
    assert not drawn[100:].any()


def test_a_real_structure(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    found = read_localizations(shared_data("pyme-smlm-import/ThunderSTORM_TS3D.csv"), SQUARE)
    image = render(found.table, pixel_size_nm=SQUARE, image_size_px=None, color_by_z=True)
    rows, columns = np.nonzero(image.max(axis=2) > 40)
    assert abs(np.median(rows) - np.median((found.table.y + 0.5) * 10)) < 20
    assert abs(np.median(columns) - np.median((found.table.x + 0.5) * 10)) < 20
    write_png(tmp_path / "cell.png", image, 10.0, z_limits_nm=z_range_nm(found.table))
    assert (tmp_path / "cell.png").stat().st_size > 10_000
