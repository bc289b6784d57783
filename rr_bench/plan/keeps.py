"""What ``keep`` means for a method: the blocks that it always computes, or several rules for them."""

from __future__ import annotations

from typing import Any

from method.keep import EQUAL_KEEP, NO_KEEP, KeepPolicy
from rr_bench.config.registry import MethodSpec


def keep_policy(setting: Any, method: MethodSpec) -> KeepPolicy:
    """The always-kept blocks that ``keep`` means for a method; the dense baseline needs none."""
    if method.dense:
        return NO_KEEP
    named = {"paper": method.cls.paper_keep, "equal": EQUAL_KEEP, "none": NO_KEEP}
    return named[setting] if isinstance(setting, str) else KeepPolicy(**setting)


def keep_policies(setting: Any, method: MethodSpec) -> list[KeepPolicy]:
    """Those of a list of rules, each once: a method's own may be another of the list."""
    rules = setting if isinstance(setting, list) else [setting]
    return list(dict.fromkeys(keep_policy(rule, method) for rule in rules))
