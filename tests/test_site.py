"""The site: every page is in its navigation, links and anchors hold, and it builds without a warning."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from test_docs import generator

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"^```.*?^```|^(?: {4}[^\n]*\n)+|`[^`\n]*`", re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    """A page without its code, in which brackets mean other things."""
    return _CODE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them of their words."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        count = sum(1 for known in found if known == slug or re.fullmatch(re.escape(slug) + r"[-_]\d+", known))
        found.add(slug if not count else f"{slug}_{count}")
    return found


def navigation() -> list[str]:
    config = re.sub(r"!!python\S*", "", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages: list[str] = []
    for entry in yaml.safe_load(config)["nav"]:
        for below in entry.values() if isinstance(entry, dict) else [entry]:
            pages += below if isinstance(below, list) else [below]
    return pages


def test_the_navigation_is_that_of_the_index() -> None:
    module = generator("make_nav")
    config = module.CONFIG.read_text(encoding="utf-8")
    assert module.with_navigation(config, module.INDEX.read_text(encoding="utf-8")) == config, (
        "run: python docs/make_nav.py"
    )


def test_every_page_is_in_the_navigation_once() -> None:
    assert sorted(navigation()) == [page.name for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_stay_in_the_site_and_their_anchors_exist(page: Path) -> None:
    for target in _LINK.findall(prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = page if not name else page.parent / name
        assert file.is_file(), target
        assert DOCS in file.resolve().parents, f"{target} leads out of the site"
        if anchor:
            assert anchor in anchors(file), target


def test_a_wrong_anchor_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text("# A `key` of z\n\n## z\n\n## z\n", encoding="utf-8")
    assert anchors(page) == {"a-key-of-z", "z", "z_1"}


def test_it_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="the site needs the extra docs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    api = (tmp_path / "site" / "api.html").read_text(encoding="utf-8")
    for name in ("read_localizations", "AdaptivePlateauLR", "localize_frames"):
        assert name in api
    assert (tmp_path / "site" / "search" / "search_index.json").is_file()
    assert not list((tmp_path / "site").rglob("*.py"))
