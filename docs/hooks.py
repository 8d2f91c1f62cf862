"""What `mkdocs.yml` cannot say: pages that stand outside of `docs/` link into it."""

from typing import Any


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Read the changelog's links, which are those of the repository's front page, from here."""
    if page.file.src_uri != "changelog.md":
        return markdown
    with open("CHANGELOG.md", encoding="utf-8") as file:
        return file.read().replace("](docs/", "](")
