"""`adaloc localize` in small blocks; process 1 of a first run kills itself in the middle. For test_parts.py."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adaloc.cli import main
from adaloc.localize import command, inference
from adaloc.localize.inference import Block, localize_stream
from adaloc.localize.work_file import finished_until
from adaloc.stopping import asked_to_stop


def until_killed(*arguments: Any, **options: Any) -> Iterator[Block]:
    """Process 1 finishes one block and dies when process 0 has one too, which then waits to be told to stop."""
    first = Path(sys.argv[sys.argv.index("-o") + 1]).with_suffix(".1of2.unfinished")
    for number, block in enumerate(localize_stream(*arguments, **options)):
        if number == 1 and os.environ["RANK"] == "1":
            while not first.exists() or finished_until(first) is None:
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGKILL)
        while number == 1 and not asked_to_stop():
            time.sleep(0.02)
        yield block


if __name__ == "__main__":
    inference._CPU_BYTES_AT_ONCE, inference._BLOCK_BYTES = 64 * 4 * 5 * 24 * 32, 1
    if "--resume" not in sys.argv:
        command.localize_stream = until_killed  # type: ignore[attr-defined]
    main(["localize", *sys.argv[1:]])
