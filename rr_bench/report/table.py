"""A table of a report: numbers with what its columns mean, as CSV, Markdown, LaTeX or text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import LATEX_ESCAPE_RULES, tabulate

NOTHING = "–"
"""Shown for what is undefined."""

_LATEX = str.maketrans(LATEX_ESCAPE_RULES | {"–": "--", "×": r"$\times$", "±": r"$\pm$"})


@dataclass(frozen=True)
class Column:
    """What a column holds.

    Attributes:
        meaning: in words, unit included.
        decimals: of a number as it is shown; None for text and whole numbers.
        ends: columns with the ends of its interval, which are shown behind the number.
        unit: behind a number, such as "×".
    """

    meaning: str
    decimals: int | None = None
    ends: tuple[str, str] | None = None
    unit: str = ""


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: stem of its files.
        title: its heading.
        frame: full precision; NaN, None or "" where a value is undefined. Its columns are those of
            ``columns``, in their order.
        columns: what each column holds.
        caption: what a reader has to know beside the columns.
        best: places ``(row number, column)`` set in bold: the best of a column where that is certain.
    """

    name: str
    title: str
    frame: pd.DataFrame
    columns: Mapping[str, Column]
    caption: str = ""
    best: frozenset[tuple[int, str]] = frozenset()

    def text(self, bold: str = "{}") -> pd.DataFrame:
        """As shown: numbers rounded, intervals behind them; what no row has is left out.

        Args:
            bold: format of the best of a column, such as ``"**{}**"``.
        """
        return pd.DataFrame(self._shown(str, bold), dtype=object)

    def _shown(self, escape: Callable[[str], str], bold: str) -> dict[str, list[str]]:
        """Columns that some row has, as text."""
        ends = {end for column in self.columns.values() for end in column.ends or ()}
        rows = self.frame.to_dict("records")
        shown: dict[str, list[str]] = {}
        for name, column in self.columns.items():
            cells = [escape(_text(row, name, column)) for row in rows]
            if name not in ends and set(cells) - {escape(NOTHING)}:
                marked = [bold.format(cell) for cell in cells]
                best = [(i, name) in self.best for i in range(len(cells))]
                shown[name] = [m if b else c for c, m, b in zip(cells, marked, best, strict=True)]
        return shown

    def csv(self) -> str:
        """Full precision; undefined values are empty."""
        return self.frame.to_csv(index=False, lineterminator="\n")

    def markdown(self) -> str:
        """A GitHub table, with caption and the meaning of the columns below."""
        text = self.text("**{}**")
        lines = [f"- **{name}**: {self.columns[str(name)].meaning}" for name in text]
        parts = [tabulated(text, "github"), self.caption, "\n".join(lines)]
        return "\n\n".join(part for part in parts if part) + "\n"

    def latex(self) -> str:
        """A ``tabular`` for the package booktabs; title and caption as comments."""
        shown = self._shown(_latex, r"\textbf{{{}}}")
        aligned = "".join("l" if self.columns[name].decimals is None else "r" for name in shown)
        lines = [
            *(f"% {line}" for line in (self.title, *self.caption.splitlines())),
            rf"\begin{{tabular}}{{{aligned}}}",
            r"\toprule",
            " & ".join(map(_latex, shown)) + r" \\",
            r"\midrule",
            *_grouped(list(zip(*shown.values(), strict=True))),
            r"\bottomrule",
            r"\end{tabular}",
        ]
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> list[Path]:
        """Write ``<name>.csv``, ``.md`` and ``.tex``."""
        folder.mkdir(parents=True, exist_ok=True)
        made = {"csv": self.csv(), "md": f"# {self.title}\n\n{self.markdown()}", "tex": self.latex()}
        paths = [folder / f"{self.name}.{ending}" for ending in made]
        for path, text in zip(paths, made.values(), strict=True):
            path.write_text(text, encoding="utf-8")
        return paths


def _grouped(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a tabular, with room where the first column that groups the rows changes."""
    columns = list(zip(*rows, strict=True))
    groups = next((one for one in columns if 1 < len(set(one)) < len(one)), None)
    grouped = groups is not None and len(list(groupby(groups))) == len(set(groups))
    for number, cells in enumerate(rows):
        if groups is not None and grouped and number and groups[number] != groups[number - 1]:
            yield r"\addlinespace"
        yield " & ".join(cells) + r" \\"


def best_caption(best: Collection[object]) -> str:
    """What bold means in a table of intervals, or that nothing is bold."""
    if best:
        return "Bold: the best sparse method of a column, where its interval lies above all others."
    return "Nothing is bold: no column's best sparse method has an interval above all others."


def tabulated(text: pd.DataFrame, style: str, **options: Any) -> str:
    """A table whose cells are text already, in one of tabulate's styles."""
    options |= {"headers": "keys", "showindex": False, "disable_numparse": True}
    return tabulate(text.astype(str), tablefmt=style, **options)


def _text(row: Mapping[Any, Any], name: str, column: Column) -> str:
    value = row[name]
    if pd.isna(value) or value == "":
        return NOTHING
    if column.decimals is None or isinstance(value, str):
        return str(value).replace("|", "/").replace("\n", " ")
    text = f"{value:.{column.decimals}f}{column.unit}"
    ends = [row[end] for end in column.ends or ()]
    if not ends or any(pd.isna(end) for end in ends):
        return text
    return f"{text} ({'–'.join(f'{end:.{column.decimals}f}' for end in ends)})"


def _latex(text: str) -> str:
    return text.translate(_LATEX)
