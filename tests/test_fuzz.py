"""Readers against noise: sound files, what a fuzzer found, and damaged ones. `tests/fuzz/run.py` goes on for hours."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.targets import TARGETS, feed, seeds

ROOT = Path(__file__).parent.parent
FOUND = sorted((Path(__file__).parent / "fuzz" / "found").glob("*"))


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.name)
def test_what_the_fuzzer_found_stays_mended(path: Path, tmp_path: Path) -> None:
    feed(TARGETS[path.name.split("-")[0]], path.read_bytes(), tmp_path)


def test_the_page_says_what_was_tried() -> None:
    """The counts in docs/clusters.md are those of the results."""
    page = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
    fuzzed, killed = (
        json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))
        for name in ("fuzz.json", "kill.json")
    )
    assert fuzzed["executions"] == sum(target["executions"] for target in fuzzed["targets"])
    assert fuzzed["cpu_s"] == pytest.approx(sum(target["cpu_s"] for target in fuzzed["targets"]))
    found = {path.name for path in FOUND}
    assert {name for target in fuzzed["targets"] for name in target["findings"]} <= found
    ran = {target["target"] for target in fuzzed["targets"]}
    assert ran <= TARGETS.keys()
    readers = f"{len(ran)} of {len(TARGETS)} readers"
    said = f"{fuzzed['executions']:,} inputs in {fuzzed['cpu_s']:.0f} s of CPU time, {readers}"
    assert said in page
    assert f"{killed['kills']} kills in {sum(case['runs'] for case in killed['cases'])} runs" in page
    rows = (ROOT / "docs" / "bad_input.md").read_text(encoding="utf-8")
    inputs = rows.splitlines()[-1].removesuffix(" inputs.")
    assert f"| broken inputs | {inputs} " in page
    assert f"| {rows.count('| a full disk')} of these rows |" in page


@pytest.mark.parametrize("name", TARGETS)
def test_the_fuzzer_begins_with_a_file_that_can_be_read(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    for beside, content in target.beside.items():
        (tmp_path / beside).write_bytes(content)
    (tmp_path / target.file).write_bytes(seeds(target)[0])
    if name == "aberration_mat":  # of its MATLAB container; no small file holds a map of a known shape
        feed(target, seeds(target)[0], tmp_path)
    else:
        target.read(tmp_path / target.file)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_refused_in_words(name: str, data: st.DataObject, tmp_path: Path) -> None:
    target = TARGETS[name]
    content = bytearray(data.draw(st.sampled_from(seeds(target))))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content)))
        kind = data.draw(st.sampled_from(("set", "cut", "insert", "repeat")))
        if kind == "set":
            content[place : place + 4] = data.draw(st.binary(min_size=1, max_size=8))
        elif kind == "cut":
            del content[place:]
        elif kind == "insert":
            content[place:place] = data.draw(st.binary(max_size=20))
        else:
            content[place:place] = content[place : place + 30]
    feed(target, bytes(content), tmp_path)
