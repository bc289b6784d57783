"""Every setting of a run, declared once: default, help, and whether it is part of a cell's key.

Hydra composes the YAML files over the defaults declared here, and :mod:`rr_bench.config.reading` checks
what comes out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from rr_bench.config.cluster import ClusterSettings
from rr_bench.config.latency import LatencySettings
from rr_bench.tasks.settings import DataSettings


def setting(default: Any, help: str, *, key: bool = False) -> Any:
    """A field of the schema.

    Args:
        default: its value where nothing sets it; :data:`omegaconf.MISSING` asks for one.
        help: what it does, for ``--help``.
        key: whether it can change a cell's numbers, and so is part of what identifies them.
    """
    metadata = {"help": help, "key": key}
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class ModelSettings:
    """Group ``model``: the files of ``conf/model``, or ``model=<folder, .gguf file or hub id>``."""

    path: str = setting(MISSING, "checkpoint folder, .gguf file, or hub id", key=True)
    name: str | None = setting(None, "name in tables; null: the folder's or file's")
    trust_remote_code: bool = setting(False, "run model code that comes with the checkpoint", key=True)
    allow_extrapolation: bool = setting(False, "run lengths beyond the model's positions")
    rope: Any = setting(
        None, "RoPE settings laid over the checkpoint's own, such as YaRN's (qwen25_7b_yarn)", key=True
    )
    device_map: str | None = setting(
        None,
        "spread the layers over the visible GPUs: auto, balanced, balanced_low_0 or sequential, as "
        "accelerate has it; null: the model is on one device",
    )
    positions: str = setting(
        "original",
        "positions of video tokens: original (as Qwen trained its models) or transformers (of the "
        "installed release)",
        key=True,
    )


@dataclass
class WandbSettings:
    """Group ``wandb``: optional logging to Weights & Biases."""

    mode: str = setting("disabled", "disabled, offline (files only) or online (needs an account)")
    project: str = setting("rr_bench", "project that the run is filed under")


@dataclass
class RunSettings:
    """Everything one run needs."""

    out: str = setting(MISSING, "folder of the results; finished samples found there are kept")
    model: ModelSettings = setting(ModelSettings, "")
    methods: list[Any] = setting(
        MISSING,
        "names from conf/method, or {name: .., <setting>: <value or list>}; lists make a grid",
        key=True,
    )
    tasks: list[str] = setting(MISSING, "tasks or groups of tasks from tasks/", key=True)
    lengths: list[int] = setting(MISSING, "tokens of prompt and answer together", key=True)
    samples: int = setting(MISSING, "samples per cell; the first n are the same for every n")
    keep: Any = setting(
        "paper",
        "blocks that are always computed: paper (each method's own), equal (the same for all), none, "
        "or {sink: .., diagonal: .., last_row: ..}; a list makes a grid",
        key=True,
    )
    backend: str = setting(
        "auto",
        "kernel of the sparse executor: auto (hopper on capability 9.0, triton on other GPUs, torch "
        "on a CPU), hopper, triton, fa4 (FlashAttention-4, extra fa4), torch, reference",
        key=True,
    )
    dense_below: Any = setting(
        0,
        "prompts of fewer tokens run dense under every method; 0: never; auto: those that were slower "
        "sparse than dense on this GPU, method by method (from `crossover`)",
        key=True,
    )
    crossover: str | None = setting(
        None, "folder of the latency experiment whose crossover-*.json dense_below=auto reads"
    )
    dtype: str = setting(
        "auto",
        "auto (the checkpoint's on a GPU, float32 on a CPU), float32, bfloat16, float16",
        key=True,
    )
    device: str = setting("auto", "auto, cpu or cuda; CUDA_VISIBLE_DEVICES picks one GPU", key=True)
    seed: int = setting(42, "seed of the task data", key=True)
    newline_stop: Any = setting(
        "auto",
        "end generation at a newline token: auto (for RAG, ICL and re-ranking, as the RRAttention "
        "authors ran HELMET), true, or false (as HELMET's own numbers were made)",
        key=True,
    )
    decode: str = setting(
        "auto",
        "how answers are decoded: auto (a CUDA graph where the model allows it), graph, or generate "
        "(transformers' own)",
        key=True,
    )
    decode_together: int = setting(
        1,
        "samples of a cell that are decoded together, each behind its own prefill; the width changes "
        "the rounding, what else is in it does not. Memory for that many prompts is needed",
        key=True,
    )
    data: DataSettings = setting(DataSettings, "")
    verb: str = setting(
        "run",
        "run; calibrate (settings for target_density); search (MInference's patterns of a model); "
        "latency (time kernels and prefills); diagnose (attention mass in a method's blocks, then run)",
    )
    action: str = setting(
        "here",
        "here: run on this machine; submit: queue what is missing on a SLURM cluster (cluster=<name>)",
    )
    target_density: float | None = setting(None, "density that verb=calibrate aims at, 0 to 1")
    workers: int = setting(
        1, "processes that share the cells, on the visible GPUs in turn; each loads the model"
    )
    slice: str | None = setting(None, "run only part i of n of the cells: i/n, such as 2/8")
    cells: list[str] | None = setting(
        None, "run only these cells: starts of their keys, as folders of the store end in"
    )
    cluster: ClusterSettings = setting(ClusterSettings, "")
    wandb: WandbSettings = setting(WandbSettings, "")
    latency: LatencySettings = setting(LatencySettings, "")
    dry_run: bool = setting(False, "print the plan and stop")

    @property
    def whole(self) -> bool:
        """Whether the run has all cells, so that it ends with the table."""
        return self.slice is None and self.cells is None


@dataclass(frozen=True)
class Declared:
    """One declared setting.

    Attributes:
        name: dotted name.
        default: its default; :data:`omegaconf.MISSING` where one has to be given.
        help: what it does.
        key: whether it is part of what identifies a cell's numbers.
    """

    name: str
    default: Any
    help: str
    key: bool


def declared(schema: type = RunSettings, prefix: str = "") -> Iterator[Declared]:
    """Every setting of the schema, nested ones in dotted form."""
    for item in fields(schema):
        nested = item.default_factory
        if isinstance(nested, type) and is_dataclass(nested):
            yield from declared(nested, f"{prefix}{item.name}.")
            continue
        default = nested() if nested is not NO_DEFAULT else item.default
        metadata = item.metadata
        yield Declared(
            prefix + item.name, default, str(metadata.get("help", "")), bool(metadata.get("key"))
        )


def known_keys() -> list[str]:
    """All keys of the schema in dotted form, the groups themselves included."""
    names = [item.name for item in declared()]
    return sorted({*names, *(name.partition(".")[0] for name in names)})


def register() -> None:
    """Let ``conf/config.yaml`` compose over the defaults here, as Hydra's config ``schema``."""
    ConfigStore.instance().store("schema", defaults())


def defaults() -> dict[str, Any]:
    """The schema's defaults as nested plain values, for Hydra to compose over."""
    plain = OmegaConf.to_container(OmegaConf.structured(RunSettings))
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items()}
