"""A model over a movie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from adaloc.emitters import EmitterTable, concatenate
from adaloc.localize.candidates import find_localizations
from adaloc.models.model_file import Model
from adaloc.simulation.camera_maps import CameraMaps

_PIXELS_AT_ONCE = 500_000
"""Pixels that the network sees together; with 16 channels it needs about 1 kB for each."""


def localize_frames(
    model: Model,
    frames_THW: npt.NDArray[Any],
    *,
    threshold: float = 0.5,
    maps: CameraMaps | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> EmitterTable:
    """Localizes every frame of a movie; the first and the last frame are their own outer neighbours.

    Args:
        model: on the device to compute on.
        frames_THW: ADU; any height and width.
        threshold: least integrated probability of a localization.
        maps: of the camera's pixels under these frames, already cut to them; None for a uniform camera.
        on_progress: gets the number of finished frames.

    Returns:
        Localizations sorted by frame.
    """
    device = next(model.network.parameters()).device
    num_frames, height, width = frames_THW.shape
    margin = model.config.data.consecutive_frames // 2
    at_once = max(_PIXELS_AT_ONCE // (height * width), 1)
    tables = []
    model.network.eval()
    with torch.inference_mode():
        for begin in range(0, num_frames, at_once):
            end = min(begin + at_once, num_frames)
            index = np.clip(np.arange(begin - margin, end + margin), 0, num_frames - 1)
            adu = torch.from_numpy(tile_adu(frames_THW[index], model, maps)).to(device)
            outputs_BKHW = model.predict(adu[None])[0].float()
            tables.append(find_localizations(model.scaling.to_physical(outputs_BKHW), begin, threshold))
            on_progress(end)
    return concatenate(tables)


def tile_adu(
    raw_THW: npt.NDArray[Any], model: Model, maps: CameraMaps | None, origin_px: tuple[int, int] = (0, 0)
) -> npt.NDArray[np.float32]:
    """Raw frames of a tile as the model's uniform camera would have given them, float32 ADU.

    Args:
        raw_THW: ADU of the tile.
        model: its camera sets the scale.
        maps: of the whole movie's pixels; None: the camera is uniform, and the numbers stay as they are.
        origin_px: row and column of the movie at which the tile begins.
    """
    if maps is None:
        return raw_THW.astype(np.float32)
    height, width = raw_THW.shape[1:]
    return maps.cut(origin_px, (height, width)).to_uniform(raw_THW, model.config.simulation.camera)
