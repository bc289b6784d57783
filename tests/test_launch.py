"""What an executor keeps between calls."""

from __future__ import annotations

import torch

from method.ops import launch
from method.ops.launch import Launches, kept


def count(made, *tensors, options=None):
    return kept("op", tensors, options, lambda: made.append(1) or len(made))


def test_without_an_executor_everything_is_made_anew():
    made = []
    assert [count(made, torch.zeros(2)) for _ in range(3)] == [1, 2, 3]


def test_what_a_launch_depends_on_tells_launches_apart():
    made, launches, base = [], Launches(), torch.zeros(64)
    cases = [
        (base.view(8, 8), None),
        (base.view(4, 16), None),
        (base.view(8, 8).T, None),
        (base.view(8, 8).half(), None),
        (base.view(8, 8), "other options"),
        (base[1:], None),
        (torch.zeros(127)[:63], None),  # shape and strides of the one before, aligned otherwise
    ]
    for _ in range(2):
        with launches:
            found = [count(made, tensor, options=options) for tensor, options in cases]
        assert found == list(range(1, len(cases) + 1))
    other = torch.ones(64).view(8, 8)
    with launches:
        assert count(made, other) == 1  # another tensor alike
        with Launches():
            assert count(made, other) == len(cases) + 1  # another executor
        assert count(made, other) == 1


def test_no_more_than_the_latest_are_kept(monkeypatch):
    monkeypatch.setattr(launch, "MOST", 3)
    made, launches = [], Launches()
    with launches:
        for size in (1, 2, 3, 4, 4, 2, 1):
            count(made, torch.zeros(size))
    assert len(made) == 5 and len(launches) == 3
