"""Optional logging to Weights & Biases: one run per invocation, imported only when asked for."""

from __future__ import annotations

import math
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rr_bench.config.errors import ConfigError
from rr_bench.config.schema import RunSettings
from rr_bench.store.redact import stored_path

if TYPE_CHECKING:
    from rr_bench.report import Report

METRICS = (
    *("score", "dense_score", "recovery", "recovery_lo", "recovery_hi"),
    *("density", "prefill_s", "n", "failed"),
)


def check_wandb(settings: RunSettings) -> None:
    """Refuse a run that would end without the log it was asked for.

    Raises:
        ConfigError: logging is on and the package is not installed, or has no key for online.
    """
    if settings.wandb.mode != "disabled" and find_spec("wandb") is None:
        raise ConfigError(
            f"wandb.mode={settings.wandb.mode} needs the extra `wandb`: "
            "pip install -c constraints.txt '.[wandb]'"
        )
    if settings.wandb.mode == "online":
        import wandb

        if wandb.api.api_key is None:
            raise ConfigError(
                "wandb.mode=online needs a key: set WANDB_API_KEY or run `wandb login` first, or take "
                "wandb=offline"
            )


def log_report(settings: RunSettings, report: Report) -> Path | None:
    """Log settings, the summary table, the figures, and every cell's metrics.

    A metric is named ``<task>/<length>/<method>/<column>``.

    Args:
        settings: the run's settings.
        report: what the report wrote.

    Returns:
        Folder of the logged files; ``None`` when logging is off.
    """
    if settings.wandb.mode == "disabled":
        return None
    import wandb

    out = Path(settings.out)
    out.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"project": settings.wandb.project, "mode": settings.wandb.mode}
    quiet = wandb.Settings(silent=True, console="off")
    run = wandb.init(**options, dir=out, name=out.name, config=_config(settings), settings=quiet)
    figures = [path for path in report.paths if path.suffix == ".png"]
    run.log(
        {
            "summary": wandb.Table(
                dataframe=report.frame.astype(object).where(report.frame.notna(), None)
            ),
            **{f"figures/{path.stem}": wandb.Image(str(path)) for path in figures},
        }
    )
    run.summary.update(cell_metrics(report.frame.to_dict("records")))
    folder = Path(run.settings.sync_dir)
    run.finish()
    return folder


def cell_metrics(rows: list[dict[Any, Any]]) -> dict[str, float]:
    """The defined numbers of every row of the summary, by ``<task>/<length>/<method>/<column>``."""
    return {
        f"{row['task']}/{row['length']}/{row['method']}/{name}": float(row[name])
        for row in rows
        for name in METRICS
        if isinstance(row[name], int | float) and math.isfinite(row[name])
    }


def _config(settings: RunSettings) -> dict[str, Any]:
    """The settings, every path in them as records name it."""
    redacted = _redacted(asdict(settings))
    assert isinstance(redacted, dict)
    return redacted


def _redacted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _redacted(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_redacted(item) for item in value]
    if isinstance(value, str) and (Path(value).is_absolute() or value.startswith("~")):
        return stored_path(Path(value))
    return value
