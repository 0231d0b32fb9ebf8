"""Reading the YAML that programs put beside their movies and localizations; nothing in it is executed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from adaloc.bounds import read_text

_MOST_BYTES = 16 * 2**20


class _Loader(yaml.SafeLoader):
    """Reads the Python objects that Picasso dumps (numpy scalars) as null instead of building them."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge keys (<<) double what they name at each level, so that a few lines could fill the memory."""
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, "merge keys (<<) are not read; write the values out", key.start_mark
                )


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def read_yaml(path: Path) -> Iterator[Any]:
    """The documents of a file, one by one.

    Raises:
        DataError: when the file is larger than any metadata.
        yaml.YAMLError, ValueError, RecursionError, OSError: when it cannot be read.
    """
    return iter(yaml.load_all(read_text(path, _MOST_BYTES, "metadata file"), Loader=_Loader))
