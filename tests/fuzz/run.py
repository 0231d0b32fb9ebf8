"""Fuzzes the readers, guided by coverage (atheris), and writes how often and how long: `python tests/fuzz/run.py`.

Each target runs in a process of its own, since a fuzzer that finds something ends. What it finds is kept in
`tests/fuzz/found/TARGET-NAME`, which tests/test_fuzz.py feeds to the reader ever after.

    python tests/fuzz/run.py --seconds 60 --out benchmarks/results/fuzz.json [TARGET ...]
    python tests/fuzz/run.py --one TARGET --seconds 60 --work DIR
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent / "src")]
_MOST_INPUT_BYTES = 20_000


def main() -> None:
    """One target, or all of them one after the other."""
    parser = argparse.ArgumentParser()
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one")
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    if options.one:
        fuzz_one(options.one, options.seconds, options.work)
        return
    from fuzz.targets import TARGETS

    for name in options.targets or TARGETS:
        result = run_target(name, options.seconds)
        if options.out is not None:
            known = json.loads(options.out.read_text(encoding="utf-8"))["targets"] if options.out.is_file() else []
            results = [other for other in known if other["target"] != name] + [result]
            options.out.write_text(json.dumps(summary(results), indent=2) + "\n", encoding="utf-8")


def summary(results: list[dict[str, object]]) -> dict[str, object]:
    """Sums over the targets."""
    return {
        "fuzzer": "atheris (libFuzzer), coverage of adaloc's own code",
        "executions": sum(int(str(result["executions"])) for result in results),
        "cpu_s": round(sum(float(str(result["cpu_s"])) for result in results), 1),
        "findings": sum(bool(result["finding"]) for result in results),
        "targets": results,
    }


def run_target(name: str, seconds: int) -> dict[str, object]:
    """Fuzzes one target in a process of its own."""
    with tempfile.TemporaryDirectory() as work:
        command = [sys.executable, __file__, "--one", name, "--seconds", str(seconds), "--work", work]
        begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        wall_s, after = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
        said = ended.stdout + ended.stderr
        finding = None
        for found in [*Path(work).glob("crash-*"), *Path(work).glob("oom-*"), *Path(work).glob("timeout-*")]:
            kept = HERE / "found" / f"{name}-{found.name[:16]}"
            kept.write_bytes(found.read_bytes())
            finding = kept.name
            sys.stdout.write(said[-3000:] + "\n")
    counts = re.findall(r"stat::number_of_executed_units:\s*(\d+)", said) or re.findall(r"^#(\d+)", said, re.MULTILINE)
    if not counts:
        sys.stdout.write(said[-3000:] + "\n")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    result: dict[str, object] = {
        "target": name, "executions": int(counts[-1]) if counts else 0, "wall_s": round(wall_s, 1),
        "cpu_s": round(cpu_s, 1), "exit_status": ended.returncode, "finding": finding,
    }  # fmt: skip
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    return result


def fuzz_one(name: str, seconds: int, work: Path) -> None:
    """Does not return: the fuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["adaloc"]):
        from fuzz.targets import TARGETS, feed, seeds
    target = TARGETS[name]
    corpus = work / "corpus"
    corpus.mkdir()
    for number, content in enumerate(seeds(target)):
        (corpus / f"seed{number}").write_bytes(content)
    inputs = work / "inputs"
    inputs.mkdir()
    os.chdir(work)
    options = [
        f"-max_total_time={seconds}", f"-max_len={_MOST_INPUT_BYTES}", "-rss_limit_mb=3000", "-timeout=30",
        "-print_final_stats=1", "-verbosity=1", f"-artifact_prefix={work}/",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(corpus)], lambda data: feed(target, data, inputs))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
