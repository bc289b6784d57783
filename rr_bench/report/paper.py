"""Published figures (``results/paper``) beside one's own."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from rr_bench import PAPER


def published_categories(model: str, folder: Path = PAPER) -> pd.DataFrame:
    """HELMET's official values of a model; empty if there are none. Names match up to case."""
    path = folder / "helmet_official.csv"
    if not path.is_file():
        return pd.DataFrame(columns=["model", "length", "column", "value", "source"])
    frame = pd.read_csv(path)
    return frame[frame["model"].str.casefold() == model.casefold()]


def published_averages(model: str, folder: Path = PAPER) -> pd.DataFrame:
    """Averages and sparsities the RRAttention release prints for a model; empty if there are none."""
    path = folder / "rr_helmet.csv"
    if not path.is_file():
        return pd.DataFrame(columns=["model", "method", "setting", "sparsity", "value", "source"])
    frame = pd.read_csv(path)
    return frame[frame["model"].str.casefold() == model.casefold()]


def paper_lines(frame: pd.DataFrame, folder: Path = PAPER) -> list[str]:
    """Published averages of the models in a category frame, as Markdown list items."""
    lines = []
    for model in sorted(frame["model"].unique()):
        for _, row in published_averages(model, folder).iterrows():
            setting = "" if pd.isna(row["setting"]) else f"({row['setting']})"
            lines.append(
                f"- {model}, {row['method']}{setting}: {row['value']:.2f} at sparsity "
                f"{row['sparsity']:.2f} % — {row['source']}"
            )
    return lines
