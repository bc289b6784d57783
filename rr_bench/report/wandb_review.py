"""A review report for Weights & Biases: the sections of ``report.html`` over the run of a store.

Offline its spec is written beside the tables; online it is saved in the run's project as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rr_bench.report import write_report
from rr_bench.report.environment import commands, environment_values
from rr_bench.report.tables import Summary, summarise
from rr_bench.report.verdict import standings, verdict
from rr_bench.report.wandb_log import (
    BY_LENGTH,
    LENGTH,
    STORE,
    WandbError,
    check_wandb,
    content_digest,
    length_metric,
)
from rr_bench.store.jsonl import StoreError, write_whole
from rr_bench.store.reading import read_store
from rr_bench.store.redact import redact
from rr_bench.store.wandb_note import WandbNote, read_wandb

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import Report

FILE = "wandb_review.json"

_WIDE, _HIGH = 24, 12
"""Columns of W&B's grid, and rows of a table or gallery in it."""


def write_review(out: str | Path) -> tuple[Path, str]:
    """Write the spec of a store's review report; online, save the report.

    Returns:
        The spec's file, and the saved report's address, empty offline.

    Raises:
        StoreError: there is no store at ``out``, or no run of it asked for a log.
        WandbError: the extra is not installed, the store changed since it was logged, or the server
            said no.
    """
    folder = Path(out)
    note = read_wandb(folder)
    if note is None:
        raise StoreError(f"{folder} was run without wandb: run it again with wandb=offline or online")
    report = write_report(folder) if note.logged else None
    if report is None or note.logged != content_digest(report.paths):
        raise WandbError(
            f"what the store holds is not logged yet: python -m rr_bench.report --wandb {folder}"
        )
    if find_spec("wandb_workspaces") is None:
        raise WandbError("a review needs the extra `wandb`: pip install -c constraints.txt '.[wandb]'")
    check_wandb(note.mode)
    cells, problems = read_store(folder)
    tables, figures = (
        [path.stem for path in report.paths if path.suffix == ending] for ending in (".csv", ".png")
    )
    path, address = folder / FILE, ""
    try:
        review = make_review(note, summarise(cells, problems), tables, figures, folder.resolve().name)
        if note.mode == "online":
            review.save()
            address = str(review.url)
        spec = review._to_model().spec
    except Exception as error:  # whatever the service or its client does
        raise WandbError(f"the review was not made ({type(error).__name__}: {error})") from error
    write_whole(path, spec.model_dump_json(by_alias=True, exclude_none=True, indent=1) + "\n")
    return path, address


def make_review(
    note: WandbNote, summary: Summary, tables: Sequence[str], figures: Sequence[str], name: str
) -> Report:
    """The report as ``wandb_workspaces`` has it, not saved.

    Args:
        note: the store's run.
        summary: the store's summary.
        tables: names of the tables that were logged.
        figures: names of the figures that were logged.
        name: of the run.
    """
    import wandb_workspaces.reports.v2 as wr

    def grid(panels: Sequence[Any]) -> Any:
        only = f"Metric('ID') = '{note.id}'"
        runs = wr.Runset(entity=note.entity, project=note.project, name=name, filters=only)
        return wr.PanelGrid(runsets=[runs], panels=list(panels))

    wide = wr.Layout(w=_WIDE, h=_HIGH)
    shown = [wr.WeavePanelSummaryTable(table_name=f"tables/{table}", layout=wide) for table in tables]
    media = [wr.MediaBrowser(media_keys=[f"figures/{one}" for one in figures], layout=wide)]
    found = standings(summary.frame, summary.pairs)
    problems: list[Any] = [redact(line) for line in summary.problems]
    blocks = [
        wr.TableOfContents(),
        wr.H1("Verdict"),
        *(wr.P(line) for line in verdict(found)),
        *([wr.H2("Problems"), wr.UnorderedList(problems)] if problems else []),
        wr.H1("Tables"),
        grid(shown),
        wr.H1("Figures"),
        *([grid(media)] if figures else []),
        grid(_lines(summary)),
        wr.H1("Samples"),
        wr.P(
            f"Single samples are in report.html of the artifact {STORE}-{note.id}, with the frozen "
            "store that every number here can be made from again."
        ),
        wr.H1("Environment"),
        *_environment(summary),
    ]
    title = f"{name}: score recovery under sparse prefill"
    return wr.Report(project=note.project, entity=note.entity, title=title[:128], blocks=blocks)


def _lines(summary: Summary) -> list[Any]:
    """One plot over the length per task and metric."""
    import wandb_workspaces.reports.v2 as wr

    measured = summary.frame[summary.frame["status"] != "missing"]
    plots = []
    for task, rows in measured.groupby("task", sort=True):
        for metric in BY_LENGTH:
            records = rows[rows[metric].notna()].to_dict("records")
            names: list[Any] = list(
                dict.fromkeys(length_metric(row, summary.frame, metric) for row in records)
            )
            if names:
                title = f"{task}: {metric} (%)"
                plots.append(wr.LinePlot(title=title, x=LENGTH, y=names, title_x="Length (tokens)"))
    return plots


def _environment(summary: Summary) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    records = [cell.env for cell in summary.cells]
    items: list[Any] = [
        f"{name}: {'; '.join(values)}" for name, values in environment_values(records).items()
    ]
    found = [wr.CodeBlock(code=command, language="python") for command in commands(records)]
    return [*([wr.UnorderedList(items)] if items else []), *found]
