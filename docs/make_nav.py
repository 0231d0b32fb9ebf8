"""Writes the navigation of mkdocs.yml from the tables of docs/index.md: python docs/make_nav.py.

So pages are listed once, and mkdocs.yml stays a plain file that other site generators read too.
"""

from __future__ import annotations

import re
from pathlib import Path

INDEX = Path(__file__).parent / "index.md"
CONFIG = Path(__file__).parent.parent / "mkdocs.yml"
_LINK = re.compile(r"\]\(([\w.-]+\.md)(?:#[^)]*)?\)")
_NAV = re.compile(r"^nav:.*\n(?:[ -].*\n)*", re.MULTILINE)


def sections(index: str) -> dict[str, list[str]]:
    """The headings of the index, each with the pages that its table links to, in their order.

    A page that two sections name stands in the first; a section without pages is left out.
    """
    found: dict[str, list[str]] = {}
    seen: set[str] = set()
    for section in re.split(r"^## ", index, flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        rows = "\n".join(line for line in body.splitlines() if line.startswith("|"))
        pages = [page for page in dict.fromkeys(_LINK.findall(rows)) if page not in seen]
        seen |= set(pages)
        if pages:
            found[heading.strip()] = pages
    return found


def with_navigation(config: str, index: str) -> str:
    """The text of mkdocs.yml with the navigation of an index; a page's title is its own heading."""
    lines = ["nav: # python docs/make_nav.py writes it from docs/index.md", "  - Home: index.md"]
    for heading, pages in sections(index).items():
        lines += [f"  - {heading}:", *(f"      - {page}" for page in pages)]
    return _NAV.sub("\n".join(lines) + "\n", config, count=1)


if __name__ == "__main__":
    CONFIG.write_text(
        with_navigation(CONFIG.read_text(encoding="utf-8"), INDEX.read_text(encoding="utf-8")), encoding="utf-8"
    )
    print(f"written: {CONFIG}")
