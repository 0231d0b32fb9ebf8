"""Opening TIFFs of others: one kind of error for all that is wrong with them, and no more memory than they can fill."""

from __future__ import annotations

import logging
import lzma
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import tifffile

from adaloc.bounds import MOST_FACTOR, array_bytes, most_bytes, require_plausible
from adaloc.errors import DataError

_MOST_PLANES = 20_000_000
"""That the metadata of a movie in several files may name; each costs a place in a list."""
_SIZES = ("SizeC", "SizeT", "SizeZ")
_PLACES = ("FirstC", "FirstT", "FirstZ", "IFD", "PlaneCount", "NumPlanes")
_MOST_COMPLAINTS = 100
_MOST_METADATA_BYTES = 256 * 2**20
_DEFLATE, _ADOBE_DEFLATE, _LZMA = 32946, 8, 34925


@contextmanager
def open_tiff(path: Path) -> Iterator[tifffile.TiffFile]:
    """Opens a TIFF; everything that is wrong with it, also what tifffile only logs, is one kind of error.

    Raises:
        DataError: when it is no TIFF, cut off, claims more than it holds, or is compressed in a way that cannot be
            read.
    """
    logger, complaints = logging.getLogger("tifffile"), _Complaints()
    logger.addHandler(complaints)
    propagate, logger.propagate = logger.propagate, False
    level, is_disabled = logger.level, logger.disabled
    logger.setLevel(logging.ERROR)  # other packages turn it off, Picasso among them
    logger.disabled = False
    try:
        with tifffile.TiffFile(path) as tiff:
            _refuse_circle(tiff, path)
            _refuse_metadata(tiff, path)
            yield tiff
        if complaints.messages:
            raise ValueError(complaints.messages[0])
    except DataError:
        raise
    except Exception as error:
        # tifffile raises many kinds of errors on broken files; each means the same here. What it allocates for a
        # file's metadata is bounded above, so that a lack of memory is the file's doing too.
        if "imagecodecs" in str(error):
            raise DataError(f"The movie {path} is compressed in a way that needs more: save it uncompressed.") from None
        raise DataError(
            f"The movie {path} cannot be read; it may be cut off or not a TIFF: {str(error)[:200]}. Copy or simulate "
            "it again."
        ) from None
    finally:
        logger.propagate = propagate
        logger.setLevel(level)
        logger.disabled = is_disabled
        logger.removeHandler(complaints)


def read_frames(tiff: tifffile.TiffFile, path: Path) -> npt.NDArray[Any]:
    """All frames of the first series at once.

    Raises:
        DataError: when they claim more than the file can hold or the memory can.
    """
    series = tiff.series[0]
    require_plausible(array_bytes(series.shape, series.dtype.itemsize), path.stat().st_size, path, "the movie")
    if series.dataoffset is None:
        for page in series.pages:
            if page is not None:
                require_plausible_page(page)
    return np.asarray(series.asarray())


def require_plausible_page(page: Any) -> None:
    """Refuses a page whose pieces lie beyond the end of its file, or unpack to more than they are said to hold.

    Args:
        page: of tifffile; its file is open.

    Raises:
        DataError: saying what is wrong.
    """
    handle, whole = page.parent.filehandle, page.keyframe
    path, present = handle.path, handle.size
    itemsize = whole.dtype.itemsize if whole.dtype is not None else 8
    piece = array_bytes(whole.chunks, itemsize)
    require_plausible(max(array_bytes(whole.shape, itemsize), piece), present, path, "a frame")
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        if offset < 0 or count < 0 or offset + count > present:
            raise DataError(f"The movie {path} is cut off: a frame reaches to byte {offset + count} of {present}.")
        if not _fits_when_unpacked(handle, offset, count, int(whole.compression), piece):
            raise DataError(
                f"The movie {path}: a frame unpacks to more than the {piece} bytes that it is said to have. It is "
                "damaged, or made to exhaust the memory, and is not read."
            )


def _fits_when_unpacked(handle: Any, offset: int, count: int, compression: int, piece: int) -> bool:
    """Tries those that could fill the memory; their decoders unpack whatever is there."""
    if compression not in (_DEFLATE, _ADOBE_DEFLATE, _LZMA):
        return True
    if compression != _LZMA and count * MOST_FACTOR <= most_bytes(0):
        return True
    handle.seek(offset)
    packed = handle.read(count)
    room = piece + 1
    if compression == _LZMA:
        return len(lzma.LZMADecompressor().decompress(packed, room)) < room
    return len(zlib.decompressobj().decompress(packed, room)) < room


def _refuse_circle(tiff: tifffile.TiffFile, path: Path) -> None:
    """A list of frames that comes back to an earlier one, which tifffile would follow for ever."""
    form, handle, seen = tiff.tiff, tiff.filehandle, set[int]()
    handle.seek(8 if form.is_bigtiff else 4)
    offset = struct.unpack(form.offsetformat, handle.read(form.offsetsize))[0]
    while 0 < offset < handle.size and offset not in seen:
        seen.add(offset)
        handle.seek(offset)
        head = handle.read(form.tagnosize)
        if len(head) < form.tagnosize:
            return  # cut off, which tifffile says
        # Where the file ends within the tags tifffile takes the last bytes that there are for the next place.
        following = handle.read(struct.unpack(form.tagnoformat, head)[0] * form.tagsize + form.offsetsize)
        following = following[-form.offsetsize :]
        if len(following) < form.offsetsize:
            return
        offset = struct.unpack(form.offsetformat, following)[0]
    if offset in seen:
        raise DataError(f"The movie {path} is damaged: its list of frames runs in a circle. Copy or simulate it again.")


def _refuse_metadata(tiff: tifffile.TiffFile, path: Path) -> None:
    """What tifffile would allocate or open because the metadata say so, before it does."""
    if tiff.is_micromanager:
        summary = (tiff.micromanager_metadata or {}).get("Summary") or {}
        keys = [key for key in ("Frames", "Slices", "Channels", "Positions") if key in summary]
        _refuse_planes([(key, summary[key]) for key in keys], path)
    text = tiff.ome_metadata
    if not text:
        return
    if len(text) > _MOST_METADATA_BYTES or "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DataError(f"The movie {path}: its OME metadata are too long, or define entities. Save it as plain TIFF.")
    try:
        elements = list(ElementTree.fromstring(text).iter())
    except ElementTree.ParseError:
        return  # tifffile then takes the file for a plain TIFF
    for element in elements:
        name = element.attrib.get("FileName", "")
        if name != PureWindowsPath(name).name or name != PurePosixPath(name).name:
            raise DataError(
                f"The movie {path}: its metadata name the file {name}, which is not a name in the same folder. "
                "Save it again, or put all parts into one folder."
            )
        _refuse_planes([(key, element.attrib[key]) for key in _SIZES if key in element.attrib], path)
        for key in _PLACES:
            _refuse_planes([(key, element.attrib.get(key, "1"))], path)


def _refuse_planes(counts: Sequence[tuple[str, Any]], path: Path) -> None:
    """Counts are strings or numbers; their product is what a list will be made for."""
    product = 1
    for key, value in counts:
        text = str(value).strip()
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
        product *= max(number, 1)
        if number < 0 or product > _MOST_PLANES:
            raise DataError(f"The movie {path}: its metadata claim {key} = {text[:40]}, which cannot be.")


class _Complaints(logging.Handler):
    """Collects errors; a TIFF that is cut off is one to tifffile's log, which then reads what is left."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        if len(self.messages) > _MOST_COMPLAINTS:  # a damaged list of frames can go on for millions
            raise ValueError(self.messages[0])
