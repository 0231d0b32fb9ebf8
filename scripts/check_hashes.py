"""Checks that every pin of constraints.txt has hashes, and that archives from the configured index have one of them.

    python scripts/check_hashes.py                      constraints.txt and constraints-hashes.txt agree
    python scripts/check_hashes.py --download numpy     pip's archives for this machine have these hashes
    python scripts/check_hashes.py --write numpy h5py   adds what pip downloads (pip hash computes)

Exit status: 0 they agree, 1 they do not.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PINS, HASHES = ROOT / "constraints.txt", ROOT / "constraints-hashes.txt"
_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;]+)", re.MULTILINE)
_HASHED = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==(\S+)((?:\s+--hash=sha256:[0-9a-f]{64})+)\s*$", re.MULTILINE)


def read_pins(text: str) -> dict[str, str]:
    """Package (normalized name) to version."""
    return {_normal(name): version for name, version in _PIN.findall(text)}


def read_hashes(text: str) -> dict[tuple[str, str], set[str]]:
    """(package, version) to the SHA-256 of its archives."""
    return {
        (_normal(name), version): set(re.findall(r"sha256:([0-9a-f]{64})", hashes))
        for name, version, hashes in _HASHED.findall(text)
    }


def disagreements(pins: dict[str, str], hashes: dict[tuple[str, str], set[str]]) -> list[str]:
    """What does not fit together, one line each."""
    lines = [f"{name}=={version} has no hash" for name, version in pins.items() if (name, version) not in hashes]
    return lines + [f"{name}=={version} has a hash but no pin" for name, version in hashes if pins.get(name) != version]


def download(name: str, version: str) -> str:
    """The SHA-256 of the archive that pip chooses for this machine, as `pip hash` computes it."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "download", "--quiet", "--no-deps", "--dest", folder, f"{name}=={version}"], check=True)
        (archive,) = Path(folder).iterdir()
        said = subprocess.run([*pip, "hash", str(archive)], check=True, stdout=subprocess.PIPE, text=True).stdout
    return re.findall(r"sha256:([0-9a-f]{64})", said)[0]


def write(hashes: dict[tuple[str, str], set[str]]) -> None:
    """The file of hashes, sorted."""
    lines = [
        "# SHA-256 of the archives of constraints.txt, computed by pip hash; scripts/check_hashes.py compares them."
    ]
    for (name, version), values in sorted(hashes.items()):
        lines.append(f"{name}=={version} " + " ".join(f"--hash=sha256:{value}" for value in sorted(values)))
    HASHES.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--download", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("packages", nargs="*")
    options = parser.parse_args(arguments)
    pins = read_pins(PINS.read_text(encoding="utf-8"))
    hashes = read_hashes(HASHES.read_text(encoding="utf-8")) if HASHES.is_file() else {}
    chosen = {name: pins[name] for name in map(_normal, options.packages)} or pins
    wrong: list[str] = []
    if options.write or options.download:
        for name, version in chosen.items():
            value, known = download(name, version), hashes.get((name, version), set())
            if options.write:
                hashes[name, version] = known | {value}
                write({key: values for key, values in hashes.items() if pins.get(key[0]) == key[1]})
            elif value not in known:
                wrong.append(f"{name}=={version}: the archive has sha256 {value}, which is not among those known")
    if not options.write:
        wrong += [] if options.packages else disagreements(pins, hashes)
    for line in wrong:
        sys.stdout.write(line + "\n")
    sys.stdout.write(f"{len(wrong)} disagreements; {len(hashes)} of {len(pins)} pins have hashes\n")
    return 1 if wrong else 0


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main())
