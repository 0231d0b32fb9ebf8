"""Every row of docs/bad_input.md: the input is made, read, and what is said and kept is compared."""

import hashlib
import resource
import sys
import warnings
from pathlib import Path

import pytest

import bad_input_disk
import bad_input_movies
import bad_input_tables
import bad_input_writing
from bad_input import NOTHING_CHANGED, Case, table

CASES: list[Case] = [*bad_input_movies.CASES, *bad_input_tables.CASES, *bad_input_writing.CASES, *bad_input_disk.CASES]
PAGE = Path(__file__).parent.parent / "docs" / "bad_input.md"
MOST_MEMORY_BYTES = 200 * 2**20


def contents(folder: Path) -> dict[str, str]:
    """Everything below a folder: names, and digests of what is in them."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_it_is_said_and_nothing_is_lost(case: Case, tmp_path: Path) -> None:
    if case.skip:
        pytest.skip(case.skip)
    folder = tmp_path / "case"
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is made to be broken may be warned of
        case.make(folder)
    before = contents(folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = case.act(folder)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
    folder.chmod(0o755)
    assert case.says in said
    assert "Traceback" not in said
    assert contents(folder) == before
    assert grown < MOST_MEMORY_BYTES


def test_rows_have_names_of_their_own_and_are_enough() -> None:
    assert len({case.what for case in CASES}) == len(CASES) >= 60
    assert all(case.kept for case in CASES)
    assert sum(case.kept == NOTHING_CHANGED for case in CASES) > 100


def test_every_writer_of_files_has_a_row_of_its_own() -> None:
    assert bad_input_disk.writers_in_the_source() == bad_input_disk.WRITERS.keys()
    full = [case.what for case in CASES if case.what.startswith("a full disk")]
    for source, words in bad_input_disk.WRITERS.items():
        assert not words or sum(words in what for what in full) >= 1, source


def test_the_page_is_made_of_the_cases() -> None:
    assert PAGE.read_text(encoding="utf-8") == table(CASES)


if __name__ == "__main__":
    PAGE.write_text(table(CASES), encoding="utf-8")
    sys.stdout.write(f"{PAGE}: {len(CASES)} inputs\n")
