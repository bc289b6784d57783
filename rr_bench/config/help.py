"""The text of ``python -m rr_bench --help``, made from the one declaration of the settings."""

from __future__ import annotations

from textwrap import fill

from omegaconf import MISSING

from rr_bench.config.command_line import group_options
from rr_bench.config.registry import method_names
from rr_bench.config.schema import Declared, declared

_EXAMPLES = """\
Examples
  python -m rr_bench                                   the default experiment on the built-in probe
  python -m rr_bench dry_run=true                      only show what would run
  python -m rr_bench +experiment=helmet_recall model=/models/Llama-3.1-8B lengths=[8192,16384]
  python -m rr_bench 'methods=[full,{name: rr, tau: [0.95, 0.9], stride: [8, 16]}]'
  python -m rr_bench +experiment=calibrate target_density=0.5     settings for equal density
  python -m rr_bench +experiment=latency                          times instead of scores
  python -m rr_bench workers=8                         eight processes on this machine's GPUs
  python -m rr_bench slice=2/8                         the second of eight shares of the cells
  python -m rr_bench action=submit cluster=gpu         queue what is missing on a SLURM cluster
  python -m rr_bench wandb=offline                     log table, figures and metrics to W&B files
  python -m rr_bench --cfg job                         print the composed settings
  python -m rr_bench -m seed=1,2                       one run after the other

A run that was stopped goes on with the same command. HYDRA_FULL_ERROR=1 shows tracebacks.

Exit status
  0  all done            1  something failed, is missing or was refused; its line says what
  2  a wrong setting     130  interrupted: finished samples are stored"""


def help_text() -> str:
    """Usage, groups, every setting with its default, examples, exit status."""
    groups = group_options()
    lines = [
        "rr_bench measures how much of a model's score survives a sparse prefill.",
        "",
        "usage: python -m rr_bench [+experiment=NAME] [model=FOLDER] [KEY=VALUE ...]",
        "",
        "Groups",
        *(_wrapped(f"{name}={'|'.join(options)}") for name, options in groups.items()),
        _wrapped(f"methods: {', '.join(method_names())}"),
        "",
        "Settings (a * marks those that identify a result)",
        *(_setting(one) for one in declared()),
        "",
        _EXAMPLES,
    ]
    return "\n".join(lines)


def _setting(one: Declared) -> str:
    default = "" if one.default == MISSING else f" [{_shown(one.default)}]"
    return _wrapped(f"{one.name}{'*' if one.key else ''}{default}: {one.help}")


def _shown(default: object) -> str:
    if default is None:
        return "null"
    return str(default).lower() if isinstance(default, bool) else str(default)


def _wrapped(text: str) -> str:
    return fill(text, 100, initial_indent="  ", subsequent_indent="      ")
