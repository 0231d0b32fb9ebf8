"""The napari plugin: its layers lie on each other, it claims its own files alone, and its manifest is napari's."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from adaloc.config import PixelSize
from adaloc.data.scaling import measure_scaling
from adaloc.emitters import EmitterTable
from adaloc.errors import ConfigError, DataError
from adaloc.localize.export import write_thunderstorm_csv
from adaloc.localize.inference import localize_frames
from adaloc.localize.movie import ArrayMovie, open_movie
from adaloc.localize.read import read_localizations
from adaloc.models.model_file import load_model, make_model, save_model
from adaloc.napari_plugin.layers import MovieArray, found_layer, movie_layer, space_layer, true_layer
from adaloc.napari_plugin.predict import LayerMovie, Progress, movie_of, predict
from adaloc.napari_plugin.reader import get_reader, read_table
from small import small_config, small_data

MANIFEST = Path(importlib.util.find_spec("adaloc").origin).parent / "napari_plugin" / "napari.yaml"  # type: ignore[union-attr, arg-type]
OBLONG = PixelSize(x=101.11, y=98.83)


def table(**columns: Any) -> EmitterTable:
    base = {
        "frame": np.array([0, 3, 3]), "x": np.array([0.0, 4.5, -0.5]), "y": np.array([1.0, 2.25, -0.5]),
        "z": np.array([-100.0, 0.0, 250.0]), "photons": np.array([900.0, 1000.0, 1100.0]),
    }  # fmt: skip
    return EmitterTable(**{**base, **columns})


def world(layer: tuple[Any, dict[str, Any], str]) -> np.ndarray[Any, Any]:
    """Places of points as napari computes them: data times scale, plus translation."""
    data, keywords, kind = layer
    assert kind == "points"
    return np.asarray(data * np.array(keywords["scale"]) + np.array(keywords["translate"]))


# --- Layers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [found_layer, true_layer])
def test_points_are_nm_from_the_corner_and_keep_their_columns(make: Callable[..., Any]) -> None:
    layer = make(table(x_sigma=np.array([0.1, 0.2, 0.3])), OBLONG, "a")
    places, features = world(layer), layer[1]["features"]
    np.testing.assert_allclose(places[2], (3, 0, 0), atol=1e-9)  # x = y = -0.5 px is the corner
    np.testing.assert_allclose(places[:, 1], features["y_nm"])
    np.testing.assert_allclose(places[:, 2], features["x_nm"])
    np.testing.assert_allclose(features["x_sigma_nm"], [10.111, 20.222, 30.333])
    assert set(features) == {"frame", "x_nm", "y_nm", "z_nm", "photons", "x_sigma_nm"}
    assert layer[1]["size"] * OBLONG.x == pytest.approx(350 if make is true_layer else 250)


def test_a_point_lies_on_the_pixel_whose_place_it_has() -> None:
    movie = ArrayMovie(np.zeros((4, 6, 8), np.uint16))
    _, frames, kind = movie_layer(movie, OBLONG, "movie")
    assert kind == "image"
    pixel = np.array([3, 2.25, 4.5])  # frame, row, column
    np.testing.assert_allclose(
        pixel * frames["scale"] + frames["translate"], world(found_layer(table(), OBLONG, "a"))[1]
    )


def test_in_2d_and_without_rows_depth_is_no_colour() -> None:
    flat = found_layer(table(z=np.zeros(3)), OBLONG, "a")[1]
    none = true_layer(table().select(np.zeros(3, bool)), OBLONG, "a")[1]
    deep = found_layer(table(), OBLONG, "a")[1]
    assert flat["face_color"] == "orange"
    assert none["border_color"] == "lime"
    assert (deep["face_color"], deep["face_colormap"]) == ("z_nm", "turbo")
    low, high = deep["face_contrast_limits"]
    assert -100 <= low < high <= 250


def test_in_space_depth_takes_the_place_of_the_frame() -> None:
    data, keywords, _ = found_layer(table(), OBLONG, "a")
    places, space, kind = space_layer(data, keywords["features"], keywords["scale"], keywords["translate"], "b")
    assert kind == "points"
    features = keywords["features"]
    np.testing.assert_allclose(places, np.column_stack([features[f"{axis}_nm"] for axis in "zyx"]))
    assert "scale" not in space


@given(
    index=st.one_of(
        st.integers(-7, 6),
        st.slices(7),
        st.tuples(st.integers(-7, 6), st.slices(5)),
        st.tuples(st.slices(7), st.integers(-5, 4), st.slices(4)),
        st.tuples(st.lists(st.integers(-7, 6), min_size=1, max_size=4), st.slices(5)),
        st.just(Ellipsis),
        st.just((Ellipsis, 2)),
    )
)
def test_a_movie_is_indexed_as_numpy_does(index: Any) -> None:
    frames = np.arange(7 * 5 * 4).reshape(7, 5, 4).astype(np.uint16)
    found = MovieArray(ArrayMovie(frames))[index]
    np.testing.assert_array_equal(found, frames[index])


def test_a_frame_is_read_alone() -> None:
    read: list[tuple[int, int]] = []

    class Watched(ArrayMovie):
        def _read(self, begin: int, end: int) -> Any:
            read.append((begin, end))
            return super()._read(begin, end)

    array = MovieArray(Watched(np.zeros((1000, 4, 4), np.uint16)))
    assert array[500].shape == (4, 4)
    assert read == [(500, 501)]
    assert np.asarray(array).shape == (1000, 4, 4)


# --- Reader -----------------------------------------------------------------------------------------------------


def test_a_sample_folder_is_frames_and_truth(tmp_path: Path) -> None:
    config = small_data(tmp_path)
    folder = sorted(config.data.root.glob("sample_*"))[0]
    reader = get_reader(path=str(folder))
    assert reader is not None
    (frames, image, first), (places, points, second) = reader(str(folder))
    assert (first, second) == ("image", "points")
    assert frames.shape == (8, 20, 20)
    with open_movie(folder) as movie:
        np.testing.assert_array_equal(frames[3], movie.read(3, 4)[0])
    truth = read_localizations(folder).table
    np.testing.assert_array_equal(places, np.column_stack([truth.frame, truth.y, truth.x]))
    np.testing.assert_array_equal(points["features"]["z_nm"], truth.z)
    assert image["scale"] == points["scale"]
    assert image["translate"] == points["translate"]
    low, high = image["contrast_limits"]
    assert low < high


FILES = {
    "picasso/testdata_locs.hdf5": None,
    "picasso/testdata.raw": "image",
    "locan/decode_dstorm_data.h5": None,
    "locan/smap_dstorm_data.mat": None,
    "locan/Thunderstorm_dstorm_data.csv": None,
    "smap-fit3d/cme_2um_site_uncorrected_sml.csv": None,
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_other_programs_are_claimed_and_read(name: str, shared_data: Callable[[str], Path]) -> None:
    path = shared_data(name)
    reader = get_reader(path=[str(path)])
    assert reader is not None
    ((data, keywords, kind),) = reader([str(path)])
    assert kind == (FILES[name] or "points")
    if kind == "points":
        found = read_localizations(path, OBLONG if name.endswith(".csv") else None)
        assert len(data) == len(found.table) > 0
        nm = np.column_stack(
            [(found.table.y + 0.5) * found.pixel_size_nm.y, (found.table.x + 0.5) * found.pixel_size_nm.x]
        )
        np.testing.assert_allclose(world((data, keywords, kind))[:, 1:], nm, rtol=1e-6, atol=1e-3)


def test_a_csv_lies_on_its_movie_with_and_without_the_pixel_size(tmp_path: Path) -> None:
    path = tmp_path / "locs.csv"
    write_thunderstorm_csv(path, table(), OBLONG)
    (unknown,), (known,) = read_table(path), read_table(path, OBLONG)
    np.testing.assert_allclose(world(unknown), world(known), atol=1e-3)
    np.testing.assert_allclose(world(known), world(found_layer(table(), OBLONG, "a")), atol=0.01)


def test_places_that_depend_on_the_pixel_size_ask_for_it(shared_data: Callable[[str], Path]) -> None:
    """rapidSTORM counts from the centre of the first pixel, in nm."""
    path = shared_data("locan/rapidSTORM_dstorm_data.txt")
    reader = get_reader(path=str(path))
    assert reader is not None
    with pytest.raises(DataError, match="Open localizations"):
        reader(str(path))
    (layer,) = read_table(path, OBLONG)
    found = read_localizations(path, OBLONG).table
    np.testing.assert_allclose(world(layer)[:, 2], (found.x + 0.5) * OBLONG.x)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("points.csv", b"index,axis-0,axis-1\n0,1.5,2.5\n"),  # napari's own
        ("notes.txt", b"bought milk\n"),
        ("empty.csv", b""),
        ("noise.h5", bytes(range(256))),
        ("movie.raw", b"\0\1"),  # no .yaml beside it
    ],
)
def test_what_is_not_its_own_is_left_to_others(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert get_reader(path=str(path)) is None
    assert get_reader(path=str(tmp_path)) is None  # a folder that is no sample
    assert get_reader(path=str(tmp_path / "missing.csv")) is None


def test_a_broken_file_that_looks_right_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "locs.csv"
    write_thunderstorm_csv(path, table(), OBLONG)
    path.write_text(path.read_text() + "1,2,three,4\n", encoding="utf-8")
    reader = get_reader(path=str(path))
    assert reader is not None
    with pytest.raises(DataError, match="line 5"):
        reader(str(path))


# --- Predictions ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network whose outputs vary with its input, so that it finds something."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    columns = tuple(np.arange(3.0) for _ in range(5))
    model = make_model(
        small_config(folder), measure_scaling(input_mean=19, input_std=2, num_pixels=10, columns=columns)
    )
    output = model.network.second_stage[-1]
    assert isinstance(output, torch.nn.Conv2d)
    assert output.bias is not None
    with torch.no_grad():
        output.weight.normal_(std=0.3)
        output.bias[0] = -2.0
    save_model(folder / "model.pth", model)
    return folder / "model.pth"


FRAMES = np.random.default_rng(0).integers(100, 900, (6, 24, 30)).astype(np.uint16)


@pytest.mark.parametrize("kind", ["movie", "layer"])
def test_predictions_are_those_of_the_pipeline(model_path: Path, kind: str) -> None:
    data: Any = MovieArray(ArrayMovie(FRAMES)) if kind == "movie" else FRAMES
    warnings: list[str] = []
    *steps, last = predict(model_path, movie_of(data, "m"), name="n", threshold=0.3, warn=warnings.append)
    expected = localize_frames(load_model(model_path), FRAMES, threshold=0.3)
    assert len(expected) > 20
    assert isinstance(last, tuple)
    places, keywords, _ = last
    np.testing.assert_allclose(places, np.column_stack([expected.frame, expected.y, expected.x]), atol=1e-4)
    assert steps[-1] == Progress(6, 6, len(expected))
    assert any("adaloc check --movie" in warning for warning in warnings)  # noise fits no camera
    size = load_model(model_path).config.simulation.optics.pixel_size_nm
    assert keywords["scale"] == (1.0, size.y, size.x)


def test_predictions_lie_on_the_layer_and_keep_to_the_asked_frames(model_path: Path) -> None:
    placement = {"scale": (1.0, 1.0, 1.0), "translate": (0.0, 7.0, 8.0)}
    *_, layer = predict(
        model_path, ArrayMovie(FRAMES), name="n", threshold=0.3, frames=(2, 4), placement=placement, warn=lambda _: None
    )
    assert isinstance(layer, tuple)
    assert {*layer[0][:, 0]} == {2.0, 3.0}
    assert layer[1]["translate"] == (0.0, 7.0, 8.0)
    assert layer[1]["name"] == "n"


def test_uncertain_ones_need_a_model_that_says_so(model_path: Path) -> None:
    with pytest.raises(ConfigError, match="uncertainties"):
        list(predict(model_path, ArrayMovie(FRAMES), name="n", max_sigma_nm=10, warn=lambda _: None))


@pytest.mark.parametrize("shape", [(20, 30), (5, 20, 30, 3)])
def test_what_is_no_stack_of_grey_frames_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="three axes"):
        LayerMovie(np.zeros(shape, np.uint16), "colour")


# --- The manifest, and napari itself ----------------------------------------------------------------------------


def test_every_command_of_the_manifest_exists() -> None:
    commands = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))["contributions"]["commands"]
    assert len(commands) == 4
    for command in commands:
        module, name = command["python_name"].split(":")
        if module.endswith("widgets"):  # needs napari; its names are read
            tree = ast.parse((MANIFEST.parent / "widgets.py").read_text(encoding="utf-8"))
            assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        else:
            assert callable(getattr(importlib.import_module(module), name))


def test_the_manifest_is_valid() -> None:
    npe2 = pytest.importorskip("npe2")
    manifest = npe2.PluginManifest.from_file(MANIFEST)
    assert manifest.name == "adaloc"
    (reader,) = manifest.contributions.readers
    assert reader.accepts_directories
    used = {item.command for item in [reader, *manifest.contributions.widgets]}
    assert used == {command.id for command in manifest.contributions.commands}


def test_napari_shows_the_layers(tmp_path: Path) -> None:
    """Without a window: the model of the viewer alone."""
    components, npe2 = pytest.importorskip("napari.components"), pytest.importorskip("npe2")
    plugins = npe2.PluginManager.instance()
    if "adaloc" not in plugins:  # as where the repository is not installed but on the path
        plugins.register(npe2.PluginManifest.from_file(MANIFEST))
    config = small_data(tmp_path)
    folder = sorted(config.data.root.glob("sample_*"))[0]
    viewer = components.ViewerModel()
    viewer.open(str(folder), plugin="adaloc")
    assert [layer.name for layer in viewer.layers] == [folder.name, f"{folder.name} true emitters"]
    image, points = viewer.layers
    truth = read_localizations(folder).table
    assert len(points.data) == len(truth) > 0
    place = points.data_to_world(points.data[3])
    np.testing.assert_allclose(place, [points.features[name].iloc[3] for name in ("frame", "y_nm", "x_nm")])
    np.testing.assert_allclose(image.data_to_world((4, -0.5, -0.5)), (4, 0, 0), atol=1e-9)
    with open_movie(folder) as movie:
        np.testing.assert_array_equal(np.asarray(image.data[4]), movie.read(4, 5)[0])
