"""Fuzzes the readers, guided by coverage (atheris), and writes how often and how long: `python tests/fuzz/run.py`.

Each target runs in a process of its own, forked from one that has imported all, since a fuzzer that finds something
ends. What it finds is kept in `tests/fuzz/found/TARGET-NAME`, which tests/test_fuzz.py feeds to the reader ever after.
With --corpus a later run goes on with the inputs that earlier ones found interesting, and the counts in --out are those
of all runs together.

    python tests/fuzz/run.py --seconds 60 --out benchmarks/results/fuzz.json --corpus DIR [TARGET ...]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent / "src")]
_MOST_INPUT_BYTES = 20_000


def main() -> None:
    """The named targets, or all of them, one after the other."""
    parser = argparse.ArgumentParser()
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--corpus", type=Path)
    options = parser.parse_args()
    import atheris

    with atheris.instrument_imports(include=["adaloc"]):
        from fuzz.targets import TARGETS
    for name in options.targets or TARGETS:
        result = run_target(name, options.seconds, options.corpus)
        if options.out is not None:
            known = json.loads(options.out.read_text(encoding="utf-8"))["targets"] if options.out.is_file() else []
            results = merged(known, result)
            options.out.write_text(json.dumps(summary(results), indent=2) + "\n", encoding="utf-8")


def merged(known: list[dict[str, Any]], new: dict[str, Any]) -> list[dict[str, Any]]:
    """The results with those of one more run, which is added to the earlier ones of its target.

    >>> first = {"target": "a", "runs": 1, "executions": 5, "wall_s": 1.0, "cpu_s": 1.0, "findings": ["x"]}
    >>> merged([first], {**first, "executions": 2, "findings": []})[0]["executions"]
    7
    """
    before = next((other for other in known if other["target"] == new["target"]), None)
    if before is not None:
        numbers = ("runs", "executions", "wall_s", "cpu_s")
        new = {**new, **{key: round(before[key] + new[key], 1) for key in numbers}}
        new["findings"] = sorted({*before["findings"], *new["findings"]})
    return [other for other in known if other["target"] != new["target"]] + [new]


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums over the targets."""
    return {
        "fuzzer": "atheris (libFuzzer), coverage of adaloc's own code",
        "runs": sum(result["runs"] for result in results),
        "executions": sum(result["executions"] for result in results),
        "cpu_s": round(sum(result["cpu_s"] for result in results), 1),
        "findings": sum(len(result["findings"]) for result in results),
        "targets": results,
    }


def run_target(name: str, seconds: int, corpora: Path | None) -> dict[str, Any]:
    """Fuzzes one target in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        begin = time.monotonic()
        child = os.fork()
        if child == 0:
            with (work / "said").open("wb") as said_file:
                os.dup2(said_file.fileno(), 1)
                os.dup2(said_file.fileno(), 2)
            try:
                fuzz(name, seconds, work, corpora)
            except BaseException:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)  # the fuzzer ends the process itself; this one must not clean up after its parent
        _, status, used = os.wait4(child, 0)
        wall_s = time.monotonic() - begin
        said = (work / "said").read_text(encoding="utf-8", errors="replace")
        findings = []
        for found in [*work.glob("crash-*"), *work.glob("oom-*"), *work.glob("timeout-*")]:
            kept = HERE / "found" / f"{name}-{found.name[:16]}"
            kept.write_bytes(found.read_bytes())
            findings.append(kept.name)
            sys.stdout.write(said[-3000:] + "\n")
    counts = re.findall(r"stat::number_of_executed_units:\s*(\d+)", said) or re.findall(r"^#(\d+)", said, re.MULTILINE)
    if not counts or (status != 0 and not findings):
        raise SystemExit(f"the fuzzer itself failed with status {status} on {name}:\n{said[-3000:]}")
    result: dict[str, Any] = {
        "target": name, "runs": 1, "executions": int(counts[-1]), "wall_s": round(wall_s, 1),
        "cpu_s": round(used.ru_utime + used.ru_stime, 1), "findings": findings,
    }  # fmt: skip
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    return result


def fuzz(name: str, seconds: int, work: Path, corpora: Path | None) -> None:
    """Does not return: the fuzzer ends the process."""
    import atheris

    from fuzz.targets import TARGETS, feed, seeds

    target = TARGETS[name]
    corpus = (corpora or work / "corpora").absolute() / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(seeds(target)):
        (corpus / f"seed{number}").write_bytes(content)
    inputs = work / "inputs"
    inputs.mkdir()
    os.chdir(work)
    options = [
        f"-max_total_time={seconds}", f"-max_len={_MOST_INPUT_BYTES}", "-rss_limit_mb=3000", "-timeout=60",
        "-print_final_stats=1", "-verbosity=1", f"-artifact_prefix={work}/",
    ]  # fmt: skip

    def once(data: bytes) -> None:
        try:
            feed(target, data, inputs)
        except BaseException:
            # Kept by ourselves: in a forked process the fuzzer does not come to write what it found.
            (work / f"crash-{hashlib.sha1(data).hexdigest()}").write_bytes(data)
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)

    atheris.Setup([sys.argv[0], *options, str(corpus)], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
