"""A part of the mutations of stores and configurations; ``python -m tests.mutations`` makes more."""

from __future__ import annotations

from tests.mutations import configs, stores


def test_a_damaged_store_is_as_it_was_or_the_damage_is_named() -> None:
    found = stores(150)
    assert found["named"] > 75 and found["same"] > 10


def test_a_changed_configuration_is_taken_or_refused() -> None:
    found = configs(200)
    assert found["refused"] > 100 and found["taken"] > 10
