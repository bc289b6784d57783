"""What a cell ran on: device, driver, versions, commit, time. "unknown" where it cannot be read."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from rr_bench import ROOT
from rr_bench.store.fingerprint import sources_hash
from rr_bench.store.redact import redact

UNKNOWN = "unknown"

PACKAGES = (
    "torch",
    "triton",
    "transformers",
    "tokenizers",
    "lm_eval",
    "datasets",
    "numpy",
    "hydra-core",
    "flash-attn",
)

COMMAND = "RR_BENCH_COMMAND"
"""Variable that holds the run's command line, for worker processes too."""

SUBMITTED = "RR_BENCH_SUBMITTED"
"""Variable that tells a job of a cluster by which command line it was submitted."""

_CODE = ("method", "rr_bench", "conf", "tasks", "pyproject.toml")
_GPU_STATE = {
    "clocks.sm": "sm_clock_mhz",
    "clocks.max.sm": "max_sm_clock_mhz",
    "clocks.mem": "memory_clock_mhz",
    "power.draw": "power_w",
    "power.limit": "power_limit_w",
    "temperature.gpu": "temperature_c",
}


def environment(device: str | Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Everything about the machine and the code that explains a number later.

    Args:
        device: "cpu", "cuda" or "cuda:<n>" as the run resolved it, or a mapping with what torch
            knows (for example ``name`` and ``capability``), which wins over what is found here.
            None: a GPU if the machine has one.

    Returns:
        device (name), capability, driver, gpu_state (clocks, power, temperature now), cpu, cores,
        memory_gib, os, python, versions, sources (a hash of the project's own files), commit, dirty,
        time (UTC, ISO 8601), and the command where a run was started by one, its absolute paths
        shortened. No host name.
    """
    given = dict(device) if isinstance(device, Mapping) else {}
    kind = given.get("type") if given else device
    gpu = {} if kind == "cpu" else query_gpu("name", "compute_cap", "driver_version", *_GPU_STATE)
    found: dict[str, Any] = {
        "device": gpu.get("name") or ("cpu" if kind in (None, "auto", "cpu") else UNKNOWN),
        "capability": gpu.get("compute_cap", UNKNOWN),
        "driver": gpu.get("driver_version", UNKNOWN),
        "gpu_state": {name: gpu[field] for field, name in _GPU_STATE.items() if field in gpu},
        "cpu": _cpu_model(),
        "cores": _cores(),
        "memory_gib": _memory_gib(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "versions": package_versions(*PACKAGES),
        "sources": sources_hash()[:12],
        **git_state(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if command := os.environ.get(COMMAND):
        found["command"] = redact(command)
    renamed = {"name": "device"}
    found |= {renamed.get(key, key): value for key, value in given.items() if key != "type"}
    return found


def package_versions(*names: str) -> dict[str, str]:
    """Installed versions from package metadata; "not installed" for the others."""
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def query_gpu(*fields: str) -> dict[str, str]:
    """Fields of the first visible GPU from nvidia-smi; empty without one.

    Where nvidia-smi is missing but the driver is there, only ``name`` is known.
    """
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        first = visible.split(",")[0].strip()
        if first in ("", "-1", "NoDevFiles"):
            return {}
        command.append(f"--id={first}")
    answer = _run(command)
    if not answer:
        return {"name": name} if (name := _driver_gpu_name()) else {}
    values = [value.strip() for value in answer.splitlines()[0].split(",")]
    return dict(zip(fields, values, strict=True)) if len(values) == len(fields) else {}


def git_state(root: Path = ROOT) -> dict[str, Any]:
    """Commit of the checkout and whether its code differs from it (results do not count).

    A copy whose own history says nothing, in a container for example, can be told its commit by the
    environment variable ``RR_BENCH_COMMIT``; whether it was changed since stays unknown.
    """
    if told := os.environ.get("RR_BENCH_COMMIT"):
        return {"commit": told, "dirty": UNKNOWN}
    top = _run(["git", "-C", str(root), "rev-parse", "--show-toplevel"])
    commit = _run(["git", "-C", str(root), "rev-parse", "--verify", "--quiet", "HEAD"])
    # A copy without its own .git may lie inside another repository, whose commit says nothing.
    if not top or not commit or Path(top).resolve() != root.resolve():
        return {"commit": UNKNOWN, "dirty": UNKNOWN}
    changed = _run(["git", "-C", str(root), "status", "--porcelain", "--", *_CODE])
    return {"commit": commit, "dirty": UNKNOWN if changed is None else bool(changed)}


def merge_sessions(first: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Environment of a resumed cell: the first session's, and under "resumed" what changed since."""
    latest = dict(first)
    for session in first.get("resumed", []):
        latest |= session
    passing = ("time", "gpu_state", "resumed")
    changed = {
        key: value for key, value in now.items() if key not in passing and latest.get(key) != value
    }
    if not changed:
        return dict(first)
    return {
        **first,
        "resumed": [*first.get("resumed", []), {**changed, "time": now.get("time", UNKNOWN)}],
    }


def _run(command: list[str]) -> str | None:
    """Output of a command, None if it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _driver_gpu_name() -> str | None:
    """Model of the first GPU in the driver's own listing."""
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or UNKNOWN
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine() or UNKNOWN


def _cores() -> int | str:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or UNKNOWN


def _memory_gib() -> float | str:
    try:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return UNKNOWN
    return round(pages / 2**30, 1)
