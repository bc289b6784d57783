"""The order of a run: the plan's own, or longest first for workers."""

from __future__ import annotations

from types import SimpleNamespace

from rr_bench.run.agenda import Agenda, Work


def work(task: str, length: int, left: int = 10) -> Work:
    return Work(SimpleNamespace(task=SimpleNamespace(name=task), length=length), left)  # type: ignore[arg-type]


def taken(agenda: Agenda, *loaded) -> list[tuple[str, int]]:
    return [one.point for _ in range(len(agenda)) if (one := agenda.take(*loaded)) is not None]


PLAN = [("a", 1024), ("a", 1024), ("b", 1024), ("b", 1024), ("a", 4096), ("b", 4096)]


def test_one_process_keeps_the_order_of_the_plan():
    assert taken(Agenda(work(*point) for point in PLAN)) == PLAN


def test_workers_take_the_longest_cells_first_and_spread_over_tasks():
    agenda = Agenda((work(*point) for point in PLAN), longest_first=True)
    assert taken(agenda) == [(t, n) for n, m in ((4096, 1), (1024, 2)) for _ in range(m) for t in "ab"]


def test_many_samples_make_a_cell_long():
    agenda = Agenda([work("a", 4096, left=1), work("b", 1024, left=100)], longest_first=True)
    assert taken(agenda) == [("b", 1024), ("a", 4096)]


def test_a_worker_stays_with_the_rows_it_has():
    agenda = Agenda((work(*point) for point in PLAN[:4]), longest_first=True)
    assert agenda.take(("b", 1024)).point == ("b", 1024)
    assert agenda.take(("b", 1024)).point == ("b", 1024)
    assert agenda.take(("b", 1024)).point == ("a", 1024)


def test_what_is_put_back_comes_later_and_is_not_lost():
    agenda = Agenda([work("a", 1024), work("b", 1024)])
    first = agenda.take()
    agenda.put_back(first, delay=0.0)
    assert [agenda.take().point, agenda.take()] == [("b", 1024), first]
    agenda.put_back(first, delay=60.0)
    assert (agenda.take(), len(agenda)) == (None, 1)
