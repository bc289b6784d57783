"""From how many tokens on a sparse prefill is no slower than dense attention: measured, and looked up.

A latency experiment writes one file for every GPU and shape of attention that it captured inputs of;
``dense_below=auto`` reads them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from rr_bench.store.jsonl import StoreError, read_json, write_whole
from rr_bench.store.latency_table import DONE, Row


@dataclass(frozen=True)
class Shape:
    """What a crossover holds for.

    Attributes:
        device: name of the GPU.
        heads: query heads of a layer.
        kv_heads: KV heads.
        dim: head size.
    """

    device: str
    heads: int
    kv_heads: int
    dim: int

    @property
    def file(self) -> str:
        """Name of its file."""
        device = re.sub(r"[^a-z0-9]+", "_", self.device.lower()).strip("_")
        return f"crossover-{device}-{self.heads}x{self.kv_heads}x{self.dim}.json"


def crossovers(rows: Iterable[Row], model: str) -> dict[str, int]:
    """Tokens by method's label: prompts of at least as many are no slower sparse than dense.

    Compared are selection and attention on the model's own queries and keys with the strongest dense
    back end at the same length. A length counts if all longer ones pass as well. Shorter prompts than
    any that was measured stay dense; where the longest does not pass, so does all that was measured.
    """
    dense: dict[int, float] = {}
    sparse: dict[str, dict[int, float]] = {}
    for row in rows:
        own = row.level == "both" and row.model == model and row.status == DONE
        if not own or row.length is None or row.median_ms is None:
            continue
        if row.method == "full":
            dense[row.length] = min(row.median_ms, dense.get(row.length, row.median_ms))
        else:
            sparse.setdefault(row.method, {})[row.length] = row.median_ms
    found = {}
    for method, times in sparse.items():
        compared = sorted(set(times) & set(dense), reverse=True)
        if compared:
            found[method] = compared[0] + 1
        for length in compared:
            if times[length] > dense[length]:
                break
            found[method] = length
    return found


def write_crossovers(folder: Path, shape: Shape, tokens: dict[str, int]) -> None:
    """Write a table's crossovers beside it."""
    record = {**asdict(shape), "tokens": dict(sorted(tokens.items()))}
    write_whole(folder / shape.file, json.dumps(record, indent=2) + "\n")


def crossover(folder: Path, shape: Shape, method: str) -> int:
    """Tokens from which on a method is no slower than dense attention.

    Args:
        folder: of a latency experiment.
        shape: of the model's attention, and the GPU.
        method: the method's label.

    Raises:
        StoreError: nothing was measured for the shape or the method; the message names the remedy.
    """
    remedy = (
        "measure it (python -m rr_bench +experiment=latency with this model and method, whose folder "
        "is `crossover`), or give dense_below a number of tokens"
    )
    path = folder / shape.file
    if not path.is_file():
        raise StoreError(f"dense_below=auto: there is no {shape.file} in crossover={folder}: {remedy}")
    tokens = read_json(path).get("tokens", {})
    if method not in tokens:
        raise StoreError(f"dense_below=auto: {path} knows no {method}: {remedy}")
    return int(tokens[method])
