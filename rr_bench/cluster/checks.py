"""Whether a task can start at all, found out before anything is queued."""

from __future__ import annotations

from rr_bench.cluster.slurm import ClusterError, Node, Partition
from rr_bench.config.cluster import ClusterSettings


def check_fits(cluster: ClusterSettings, partition: Partition) -> None:
    """Refuse what no node of the partition could run: such a job would wait for ever.

    Raises:
        ClusterError: the first setting that does not fit, and what the partition has.
    """
    where = f"partition {partition.name}"
    if not partition.up:
        raise ClusterError(f"{where} is down: choose another cluster.partition")
    if not partition.nodes:
        raise ClusterError(f"no node of {where} is up: choose another cluster.partition")
    if partition.minutes is not None and cluster.minutes > partition.minutes:
        raise ClusterError(
            f"cluster.hours={cluster.hours:g}: {where} ends jobs after {partition.minutes / 60:g} hours"
        )
    nodes = partition.nodes
    most = {
        "cpus": max(node.cpus for node in nodes),
        "memory_gb": max(node.memory_mb for node in nodes) // 1024,
        "gpus": max(node.gpus_of(cluster.gpu_type) for node in nodes),
    }
    for name, limit in most.items():
        wanted = getattr(cluster, name)
        if wanted > limit:
            kind = f" of type {cluster.gpu_type}" if name == "gpus" and cluster.gpu_type else ""
            raise ClusterError(
                f"cluster.{name}={wanted}: no node of {where} has more than {limit}{kind}"
            )
    if not any(_fits(cluster, node) for node in nodes):
        raise ClusterError(
            f"no node of {where} has cluster.cpus={cluster.cpus}, memory_gb={cluster.memory_gb} and "
            f"gpus={cluster.gpus} at once: ask for less of one"
        )


def _fits(cluster: ClusterSettings, node: Node) -> bool:
    return (
        node.cpus >= cluster.cpus
        and node.memory_mb >= 1024 * cluster.memory_gb
        and node.gpus_of(cluster.gpu_type) >= cluster.gpus
    )
