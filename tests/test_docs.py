"""The README and the pages: short, linked, in the site. Their commands: test_documented_*.py."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import vpns_lightning

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
# of mkdocs, made while the site is built
MADE = ("configuration.md", "contributing.md", "changelog.md", "example.md")


def test_the_readme_is_short_and_begins_with_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 900
    first = re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S)[0]
    assert [line.partition("#")[0].strip() for line in first.splitlines()] == [
        "make quickstart",
        "make test",
    ]


def slugs(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", prose, re.M)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in slugs(target), link


def test_every_page_is_in_the_site_and_the_readme_leads_to_it() -> None:
    # the tags of mkdocs are none here
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    listed = set(re.findall(r"[\w/]+\.md", str(nav)))
    tutorials = {f"notebooks/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb")}
    pages = {page.name for page in DOCS.glob("*.md")}
    assert listed == pages | tutorials | set(MADE)
    readme = (ROOT / "README.md").read_text()
    assert [page for page in pages - {"index.md", "api.md"} if f"(docs/{page}" not in readme] == []


def test_the_api_page_has_every_public_name_and_no_other() -> None:
    paths = re.findall(r"^::: ([\w.]+)$", (DOCS / "api.md").read_text(), re.M)
    named = {path.rpartition(".")[2] for path in paths}
    assert named == set(vpns_lightning.__all__) - {"__version__"}


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the site needs the extra [docs]")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "JSONARGPARSE_DEPRECATION_WARNINGS": "off"}
    site = str(tmp_path / "site")
    subprocess.run([*build, "--site-dir", site], cwd=ROOT, env=quiet, check=True)
    keys = (tmp_path / "site" / "configuration.html").read_text()
    for key in ("sparsity", "canvas_size", "batch_size", "limit_train_batches", "fraction"):
        assert f"<code>{key}</code>" in keys
    # a page of the site needs nothing from elsewhere
    front = (tmp_path / "site" / "index.html").read_text()
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?://', front)
