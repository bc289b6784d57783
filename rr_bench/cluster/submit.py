"""``action=submit``: print the plan, see that it can start, queue the cells that are missing."""

from __future__ import annotations

from pathlib import Path

from rr_bench.cluster.checks import check_fits
from rr_bench.cluster.jobs import Submission, share, short_key, still_queued
from rr_bench.cluster.slurm import ClusterError, largest_array, read_partition
from rr_bench.config.cluster import ClusterSettings
from rr_bench.config.errors import ConfigError
from rr_bench.config.schema import RunSettings
from rr_bench.plan.cells import make_plan
from rr_bench.plan.cost import Cost, costs
from rr_bench.plan.model_facts import CheckpointError, Device
from rr_bench.report.wandb_log import WandbError, check_wandb
from rr_bench.run.agenda import Work
from rr_bench.run.console import Console
from rr_bench.run.run import FAILED, check_out, find_pending
from rr_bench.store.cells import Store


def submit(settings: RunSettings) -> int:
    """Queue what is missing of a sweep, and a report behind it.

    Returns:
        Exit status: 0, or 1 if something could not be planned or the cluster does not take it.
    """
    console = Console()
    try:
        check_wandb(settings.wandb.mode)
        plan = make_plan(settings, job_device(settings.cluster))
        for problem in plan.problems:
            console.error("plan", problem)
        store = Store(settings.out)
        pending = find_pending(settings, plan, store, console)
        waiting = still_queued(Path(settings.out))
        left = [work for work in pending if short_key(work) not in waiting]
        if len(left) < len(pending):
            console.say(f"{len(pending) - len(left)} of them are in the queue already")
        if left:
            _queue(settings, left, console)
        else:
            console.say("nothing to queue")
        if not settings.dry_run:
            store.note_plan(plan.problems)
    except (CheckpointError, ClusterError, ConfigError, WandbError, OSError) as error:
        console.error("submit", error)
    return FAILED if console.errors else 0


def job_device(cluster: ClusterSettings) -> Device:
    """What the tasks will run on, as far as it identifies a cell."""
    if not cluster.gpus:
        return Device("cpu", "the cluster's CPUs")
    return Device("cuda", f"a GPU of capability {cluster.capability}", cluster.capability)


def _queue(settings: RunSettings, left: list[Work], console: Console) -> None:
    cluster = settings.cluster
    device = job_device(cluster)
    console.say(cost_table(costs([(work.cell, work.left) for work in left], settings.out), settings))
    partition = read_partition(cluster.partition)
    shares = share(left, min(cluster.tasks or len(left), largest_array()))
    submission = Submission(settings, shares, partition, device.kind)
    console.say(queue_line(submission))
    check_fits(cluster, partition)
    submission.try_out()
    if settings.dry_run:
        return
    check_out(settings.out)
    submission.write()
    array, report = submission.queue()
    console.say(
        f"queued: array {array} with {len(shares)} tasks, report {report} behind it; "
        f"logs in {submission.folder / 'logs'}"
    )


def cost_table(parts: dict[int, Cost], settings: RunSettings) -> str:
    """Cells, prompts, tokens and GPU hours that are left, by length."""
    unit = "GPU hours" if settings.cluster.gpus else "CPU hours"
    # The workers of a task share its GPUs.
    factor = (settings.cluster.gpus or settings.cluster.cpus) / settings.workers
    rows = [f"{'length':>8} {'cells':>6} {'prompts':>8} {'M tokens':>9} {unit:>10}"]
    total = Cost()
    for length, cost in parts.items():
        rows.append(f"{length:>8} {_columns(cost, factor)}")
        for name in vars(total):
            setattr(total, name, getattr(total, name) + getattr(cost, name))
    rows.append(f"{'all':>8} {_columns(total, factor)}")
    if total.untimed:
        rows.append(f"hours leave out {total.untimed:,} prompts of a kind that the store has not timed")
    return "\n".join(rows)


def _columns(cost: Cost, factor: float) -> str:
    hours = "?" if cost.hours is None else f"{cost.hours * factor:,.2f}"
    return f"{cost.cells:>6,} {cost.prompts:>8,} {cost.tokens / 1e6:>9,.1f} {hours:>10}"


def queue_line(submission: Submission) -> str:
    """What is asked of the cluster, and the most that it can cost before a task comes back."""
    cluster, tasks = submission.settings.cluster, len(submission.shares)
    at_once = "" if cluster.at_once is None else f", {cluster.at_once} at a time"
    gpus = f"{cluster.gpus} {cluster.gpu_type or 'GPUs'}, " if cluster.gpus else ""
    hours = cluster.minutes / 60
    most = tasks * hours * (cluster.gpus or cluster.cpus)
    return (
        f"partition {submission.partition.name}: {tasks} tasks{at_once}, each {gpus}{cluster.cpus} "
        f"cores, {cluster.memory_gb} GiB, {hours:.3g} h: at most {most:,.1f} "
        f"{'GPU' if cluster.gpus else 'CPU'} hours until tasks go back into the queue"
    )
