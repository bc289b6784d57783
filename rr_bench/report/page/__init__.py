"""``report.html``: a store as one page that needs nothing else, not even a network.

Verdict, sortable tables, figures, single samples, and what it was measured on and by which command.
``report.html.j2`` is the page; ``page.css`` and ``page.js`` lie beside it and end up inside.
"""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rr_bench.report.page.content import Page

FILE = "report.html"


def render(page: Page) -> str:
    """The page as HTML; everything that a store holds is escaped."""
    environment = Environment(
        loader=PackageLoader("rr_bench.report.page", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    css, js = (Markup(_own(name)) for name in ("page.css", "page.js"))
    return environment.get_template("report.html.j2").render(page=page, css=css, js=js)


def write_page(page: Page, folder: Path) -> Path:
    """Write the page beside a store's tables."""
    path = folder / FILE
    path.write_text(render(page), encoding="utf-8")
    return path


def _own(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
