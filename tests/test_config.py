"""Config files: every shipped one parses; every problem is named, all at once, with the way out."""

import json
from pathlib import Path

import pytest

from adaloc.config import Config
from adaloc.config_file import dump_config, load_config, parse_config, strip_comments
from adaloc.errors import ConfigError

ROOT = Path(__file__).parent.parent
SHIPPED = sorted((ROOT / "training" / "configs").glob("train_config_*.json")) + sorted(
    (ROOT / "benchmarks").rglob("config_*.json")
)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_every_shipped_config_parses(path: Path) -> None:
    load_config(path)


def test_the_default_config_keeps_the_documented_keys_and_values() -> None:
    raw = json.loads(strip_comments((ROOT / "training/configs/train_config_adaptive.json").read_text(encoding="utf-8")))
    training, data = raw["training"], raw["data"]
    assert (data["batch_size"], data["image_size"], data["consecutive_frames"], data["train_val_split"]) == (
        16,
        40,
        3,
        0.8,
    )
    assert (training["epochs"], training["lr_first"], training["weight_decay"]) == (1000, 5e-4, 1e-5)
    assert training["unified_loss_config"]["channel_weights"] == [1, 1, 1, 1, 1, 0.5]
    rate = training["adaptive_lr_config"]
    assert (rate["warmup_epochs"], rate["warmup_start_lr"], rate["plateau_patience"]) == (10, 1e-5, 50)
    assert (rate["plateau_factor"], rate["plateau_min_lr"], rate["adaptive_threshold"]) == (0.7, 1e-6, 0.001)
    assert (rate["loss_window_size"], rate["lr_boost_factor"], rate["lr_decay_factor"]) == (20, 1.5, 0.8)
    assert data["min_photons"] == 250


def test_a_config_survives_writing_and_reading() -> None:
    config = Config()
    assert parse_config(json.loads(json.dumps(dump_config(config))), "test") == config


def test_comments_are_blanked_outside_of_strings_only(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('// head\n{"comments": "see http://a//b", // tail\n "seed": 3}', encoding="utf-8")
    config = load_config(path)
    assert config.seed == 3
    assert config.comments == "see http://a//b"


def test_all_problems_are_reported_at_once_with_the_nearest_known_key() -> None:
    raw = {
        "data": {"batchsize": 16, "train_val_split": 2},
        "simulation": {"psf": {"type": "pupil", "roi_size": 3}},
        "training": {"lr_first": "fast", "adaptive_lr_config": {"warmup_epoch": 3}},
        "sede": 1,
    }
    with pytest.raises(ConfigError) as caught:
        parse_config(raw, "c.json")
    text = str(caught.value)
    assert "c.json has 6 problems" in text
    for part in ('"batch_size"', '"roi_size_px"', '"warmup_epochs"', '"seed"', "train_val_split", '"fast"'):
        assert part in text
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('{"seed": 1,}', "line 1"),
        ('{"seed": 1, "seed": 2}', "seed twice"),
        ("[1]", "dict"),
        ('{"training": {"unified_loss_config": {"channel_weights": [0,0,0,0,0,0]}}}', "not all zero"),
        ('{"simulation": {"optics": {"numerical_aperture": 1.7}}}', "must be below"),
        ('{"simulation": {"emitters": {"z_min_nm": 5, "z_max_nm": -5}}}', "above z_max_nm"),
        ('{"seed": NaN}', "seed"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_wrong_file_says_where_and_what(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=part):
        load_config(path)


def test_a_missing_file_names_those_that_exist(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"other\.json"):
        load_config(tmp_path / "missing.json")
