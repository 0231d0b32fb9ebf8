"""The recipe of DECODE: its network's size, field of view and bounds, its schedule; it trains and localizes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree

from adaloc.config import NetworkConfig
from adaloc.config_file import load_config
from adaloc.data.fresh import MixedWindows
from adaloc.data.scaling import Scaling, measure_scaling
from adaloc.data.windows import load_samples, split_samples
from adaloc.errors import CheckpointError
from adaloc.localize import inference
from adaloc.localize.inference import localize_frames
from adaloc.models.decode_network import DecodeNetwork
from adaloc.models.model_file import Model, load_model, make_model, save_model
from adaloc.models.network import num_parameters
from adaloc.training.learning_rate import LearningRate
from adaloc.training.run import setup
from adaloc.training.trainer import Hooks, fit, validate
from small import outputs_of_an_island, small_config, small_data

RECIPE = Path(__file__).parents[1] / "training" / "configs" / "train_config_decode.json"
SMALL = {"type": "decode", "base_channels": 4, "depth": 1}


def network(depth: int = 1, frames: int = 3) -> DecodeNetwork:
    torch.manual_seed(0)
    return DecodeNetwork(NetworkConfig(type="decode", base_channels=4, depth=depth), frames, prior=0.007).eval()


def scaling() -> Scaling:
    columns = tuple(np.linspace(0.0, 3.0, 7) for _ in range(5))
    return measure_scaling(input_mean=19, input_std=2, num_pixels=10, columns=columns)


def test_the_recipe_is_that_of_decode() -> None:
    config = load_config(RECIPE)
    model = make_model(config, scaling())
    assert isinstance(model.network, DecodeNetwork)
    assert num_parameters(model.network) == pytest.approx(2.2e6, rel=0.01)
    assert model.network.num_outputs == 10
    training = config.training
    assert (training.optimizer, training.weight_decay, training.clip_norm) == ("adamw", 0.1, 0.03)
    assert training.loss_type == "gaussian_mixture"
    assert (config.data.fresh_share, config.data.fresh_reuse, config.precision) == (1.0, 1, "float32")


def test_its_rate_is_that_of_torchs_step_schedule_in_epochs_of_ten_thousand_windows() -> None:
    config, theirs = load_config(RECIPE), torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-4)
    schedule = torch.optim.lr_scheduler.StepLR(theirs, step_size=10, gamma=0.9)
    ours = LearningRate(config.training.adaptive_lr_config, config.training.lr_first, epochs=10_000, steps_per_epoch=1)
    for _ in range(30):  # their epochs, of 125 of ours with 80 windows
        assert ours.rate == pytest.approx(theirs.param_groups[0]["lr"])
        theirs.step()
        schedule.step()
        for _ in range(125):
            ours.observe_step(1.0, None)


@pytest.mark.parametrize("frames", [1, 3])
def test_a_run_of_frames_equals_its_windows_one_by_one(frames: int) -> None:
    net, movie = network(frames=frames), torch.randn(2, 6, 12, 16)
    run = net(movie)
    assert run.shape == (2, 7 - frames, 6, 12, 16)
    for t in range(7 - frames):
        torch.testing.assert_close(run[:, t : t + 1], net(movie[:, t : t + frames]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(8, 8), (13, 21), (40, 40)])
@pytest.mark.parametrize("depth", [0, 2])
def test_any_field_size_and_depth(depth: int, size: tuple[int, int]) -> None:
    assert network(depth)(torch.randn(1, 3, *size)).shape == (1, 1, 6, *size)


@pytest.mark.parametrize("depth", [1, 2])
def test_nothing_beyond_the_margin_reaches_an_output(depth: int) -> None:
    net = network(depth)
    margin, multiple, needed = net.margin_px, net.size_multiple_px, 0
    for phase in range(multiple):
        first, last, finite = outputs_of_an_island(net, phase)
        assert finite[first:last, first:last].all()
        columns = torch.nonzero(finite.any(0))[:, 0]
        needed = max(needed, margin + last - 1 - int(columns.max()), margin + int(columns.min()) - first)
    # The two stages' halvings are aligned, so that no phase is the least favourable one for both of them.
    assert margin - needed <= multiple, "the margin is not much wider than what is seen"


def test_predicted_offsets_stay_within_a_pixel_and_start_at_the_mean(tmp_path: Path) -> None:
    model = make_model(small_config(tmp_path, network=SMALL, training={"loss_type": "gaussian_mixture"}), scaling())
    frames = torch.randint(100, 4000, (1, 3, 16, 16)).float()
    with torch.inference_mode():
        start = model.scaling.to_physical(model.predict(frames)[0])
        for weight in model.network.second_stage[-1].parameters():
            weight.normal_(std=30.0)
        large = model.scaling.to_physical(model.predict(frames)[0])
    mean = torch.tanh(torch.tensor(model.scaling.mean[0]))  # of a mean that no pixel's offset has, to see the bound
    torch.testing.assert_close(start[:, 1:3], mean.expand(1, 2, 16, 16), atol=0.05, rtol=0)
    assert 0.9 < float(large[:, 1:3].abs().max()) <= 1.0 + 1e-5
    assert float(large[:, 3].abs().max()) > 2.0, "depths have no bound"


def test_it_trains_on_fresh_frames_with_its_clip_as_it_is_and_comes_back_from_its_file(tmp_path: Path) -> None:
    recipe = load_config(RECIPE)
    config = small_data(
        tmp_path, network=SMALL, data={"fresh_share": 1.0},
        training={**recipe.training.model_dump(mode="json"), "epochs": 20, "lr_first": 2e-3, "lr_second": 2e-3},
    )  # fmt: skip
    training, validation = (load_samples(p, config.simulation.camera) for p in split_samples(config.data))
    run = setup(config, training, validation, with_floor=False)
    assert isinstance(run.windows, MixedWindows)
    before = float(run.loss.objective(validate(run)))
    assert fit(run, Hooks(force=True)) == "finished"
    assert run.best_objective < before - 0.1
    assert run.cures["clip"]["norm"] == 0.03
    events = [json.loads(line) for line in run.log.path.read_text(encoding="utf-8").splitlines()]
    assert not any(event.get("kind") == "clip_raised" for event in events)
    save_model(tmp_path / "model.pth", run.model)
    again = load_model(tmp_path / "model.pth")
    assert isinstance(again.network, DecodeNetwork)
    run.model.network.eval()
    again.network.eval()
    batch = run.validation[0].adu_BTHW
    torch.testing.assert_close(again.predict(batch), run.model.predict(batch))


def test_a_model_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    contents = make_model(small_config(tmp_path, network=SMALL), scaling()).to_dict()
    contents["config"]["network"]["type"] = "adaloc"
    torch.save(contents, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="another network"):
        load_model(tmp_path / "model.pth")


def test_tiles_give_the_localizations_of_whole_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _busy(make_model(small_config(tmp_path, network=SMALL), scaling()))
    frames = np.random.default_rng(0).integers(100, 900, (3, 96, 120)).astype(np.uint16)
    whole = localize_frames(model, frames, threshold=0.3)
    monkeypatch.setattr(inference, "_CPU_BYTES_AT_ONCE", 64 * 4 * 3 * 70 * 70)
    tiles = localize_frames(model, frames, threshold=0.3)
    assert len(tiles) == len(whole) > 50
    points = [np.stack([1000.0 * table.frame, table.x, table.y], axis=1) for table in (tiles, whole)]
    assert KDTree(points[0]).query(points[1])[0].max() < 1e-3


def _busy(model: Model) -> Model:
    """Finds something everywhere."""
    output = model.network.second_stage[-1]
    assert isinstance(output, torch.nn.Conv2d)
    assert output.bias is not None
    with torch.no_grad():
        output.weight.normal_(std=0.3)
        output.weight[0] *= 0.3
        output.weight[1:3] *= 0.05
        output.bias[0] = -2.0
    return model
