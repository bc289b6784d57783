"""``verb=calibrate``: the setting at which each method computes a wanted share of attention.

Methods are compared fairly at equal density, but each has its own setting to buy density with (its
``knob``). The setting is bisected on real prompts of the model, preferably not those that the
methods are later measured on: use another seed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from method.attention import SparsePrefill
from method.base import Knob
from rr_bench.config.errors import ConfigError
from rr_bench.config.registry import MethodSpec, expand_method
from rr_bench.config.schema import RunSettings
from rr_bench.plan.cells import Plan, make_plan
from rr_bench.plan.keeps import keep_policy
from rr_bench.plan.model_facts import CheckpointError
from rr_bench.run.console import Console
from rr_bench.run.errors import describe
from rr_bench.run.prompt import Prompt
from rr_bench.run.session import Session

TOLERANCE = 0.005
STEPS = 16


class OutOfReach(ValueError):
    """No setting of the method gives the wanted density."""


@dataclass(frozen=True)
class Calibrated:
    """One method's answer.

    Attributes:
        method: what to put into ``methods`` of a run: its name, the calibrated setting, and others
            that are not those of its YAML.
        knob: the setting that was turned.
        density: mean density it gives on the calibration prompts.
        tried: settings and their densities, in the order of the search.
    """

    method: dict[str, Any]
    knob: str
    density: float
    tried: list[tuple[float, float]]


def calibrate(settings: RunSettings) -> int:
    """Calibrate every sparse method of the settings and write the answers.

    The calibration set is the first ``samples`` prompts of every task at every length, all of equal
    weight. Writes ``calibration-<density>.json`` into ``out`` and prints a ``methods=`` setting.

    Returns:
        Exit status: 0, or 1 if a method could not be calibrated.
    """
    console = Console()
    try:
        plan = make_plan(settings)
    except (CheckpointError, ConfigError, OSError) as error:
        console.error("plan", error)
        return 1
    for problem in plan.problems:
        console.error("plan", problem)
    methods = {cell.method.label: cell.method for cell in plan.cells if not cell.method.dense}
    target = settings.target_density
    assert target is not None
    console.say(f"calibrating {', '.join(methods)} to density {target}")
    if settings.dry_run:
        return 1 if console.errors else 0
    try:
        session = Session(settings, plan.model)
        prompts = calibration_prompts(session, plan)
    except (CheckpointError, ValueError, OSError) as error:
        console.error("calibrate", error)
        return 1
    found = []
    for label, spec in methods.items():
        try:
            answer = calibrate_method(session, spec, prompts, target)
        except Exception as error:
            console.error(label, describe(error, max(settings.lengths)))
            continue
        found.append(answer)
        setting = f"{answer.knob}={answer.method[answer.knob]}"
        console.say(f"{spec.name}: {setting} gives density {answer.density:.3f}")
    console.say(f"written: {_write(settings, plan, found)}")
    console.say(f"methods={_override([answer.method for answer in found])}")
    return 1 if console.errors else 0


def calibration_prompts(session: Session, plan: Plan) -> list[Prompt]:
    """Prompts of every task and length once, whatever the methods."""
    cells = {(cell.task.name, cell.length): cell for cell in plan.cells}
    return [prompt for cell in cells.values() for prompt in session.prompts(cell)]


def calibrate_method(
    session: Session, spec: MethodSpec, prompts: list[Prompt], target: float
) -> Calibrated:
    """Bisect one method's knob.

    Raises:
        OutOfReach: the method has no knob, or its lowest setting keeps more than the target.
    """
    knob = spec.cls.knob
    if knob is None:
        raise OutOfReach("the method has no knob to calibrate")

    def density(value: float) -> float:
        prefill = SparsePrefill(
            spec.build(**{knob.name: value}),
            keep_policy(session.settings.keep, spec),
            session.settings.backend,
            session.settings.dense_below,
        )
        shares = [session.prefill(prompt, prefill).summary()["density"] for prompt in prompts]
        return math.fsum(shares) / len(shares)

    longest = max(prompt.tokens for prompt in prompts)
    value, found, tried = bisect(density, knob, target, longest)
    defaults = expand_method(spec.name)[0].params
    changed = {key: item for key, item in spec.params.items() if item != defaults[key]}
    return Calibrated({"name": spec.name, **changed, knob.name: value}, knob.name, found, tried)


def bisect(
    density: Callable[[float], float], knob: Knob, target: float, longest: int
) -> tuple[float, float, list[tuple[float, float]]]:
    """The knob's value whose density is nearest to the target.

    Args:
        density: density that a value gives; expected to grow with it.
        knob: what is turned. Shares are halved, sizes by their logarithm.
        target: density wanted.
        longest: tokens of the longest prompt: more of a whole-number knob is no use.

    Returns:
        Value, its density, and all that was tried.

    Raises:
        OutOfReach: the lowest value keeps more than the target.
    """
    low, high = knob.low, float(min(knob.high, longest) if knob.whole else knob.high)
    linear = knob.high <= 1
    tried = [(_round(low, knob), density(_round(low, knob)))]
    if tried[0][1] > target + TOLERANCE:
        raise OutOfReach(
            f"{knob.name}={tried[0][0]} already computes {tried[0][1]:.3f} of attention, more than "
            f"target_density={target}: what the method always keeps is too much at this length; use "
            "longer prompts, keep=none, or smaller fixed sizes"
        )
    for _ in range(STEPS):
        if abs(tried[-1][1] - target) <= TOLERANCE:
            break
        middle = (low + high) / 2 if linear else math.sqrt(low * high)
        value = _round(middle, knob)
        if value in dict(tried):
            break
        tried.append((value, density(value)))
        low, high = (low, middle) if tried[-1][1] > target else (middle, high)
    value, found = min(tried, key=lambda pair: abs(pair[1] - target))
    return value, found, tried


def _round(value: float, knob: Knob) -> float:
    """A value fit to be written down."""
    return round(value) if knob.whole else float(f"{value:.5g}")


def _write(settings: RunSettings, plan: Plan, found: list[Calibrated]) -> Path:
    folder = Path(settings.out)
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "target_density": settings.target_density,
        "model": {"name": plan.model.name, "fingerprint": plan.model.fingerprint},
        "dtype": plan.model.dtype,
        "device": plan.model.device.name,
        "keep": settings.keep,
        "dense_below": settings.dense_below,
        "tasks": settings.tasks,
        "lengths": settings.lengths,
        "samples": settings.samples,
        "seed": settings.seed,
        "methods": [asdict(answer) for answer in found],
    }
    path = folder / f"calibration-{settings.target_density}.json"
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def _override(methods: list[dict[str, Any]]) -> str:
    """The methods as a setting on the command line, the dense baseline first."""
    shown = [
        "{" + ", ".join(f"{key}: {_yaml(value)}" for key, value in method.items()) + "}"
        for method in methods
    ]
    return f"'[full,{','.join(shown)}]'"


def _yaml(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
