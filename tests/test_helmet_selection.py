"""HELMET's random choices against vectors of its own functions."""

import random

from rr_bench.tasks.files.selection import (
    balance,
    burned_draws,
    depth_order,
    first_distinct,
    label_map,
    sample_keys,
    shuffled,
    split_off_test,
    text_seed,
)


def test_keys_are_drawn_from_the_sorted_set():
    keys = [f"q{i:03d}" for i in range(20)]
    mixed = [*keys, *keys]
    random.Random(1).shuffle(mixed)
    assert sample_keys(mixed, 5, 42) == ["q003", "q000", "q008", "q007", "q016"]
    assert sorted(sample_keys(mixed, 100, 42)) == keys


def test_one_draw_per_row_from_one_generator():
    draws = [tuple(draw) for draw in burned_draws(5, 4, 2, 42)]
    assert draws == [(0, 3), (2, 0), (1, 0), (0, 2), (0, 2)]


def test_text_seed():
    question = "who proposed evolution in 1859 as the basis of biological development"
    assert text_seed(question) == 333082634
    assert text_seed("1234") == text_seed(1234) == 1472743156
    assert text_seed("How far is it from Denver to Aspen ?", 42) == 596078644
    assert text_seed("change the lights to a different hue", 42) == 296734281


def test_shuffle():
    first = {
        600: [522, 409, 86, 441, 309, 514, 295, 324, 459, 325, 302, 225],
        1000: [978, 933, 859, 916, 127, 608, 856, 260, 147, 810, 635, 972],
        100: [59, 21, 56, 18, 33, 42, 50, 27, 92, 71, 2, 25],
    }
    for count, expected in first.items():
        assert shuffled(count, 42)[:12] == expected


def test_split_off_test():
    train, test = split_off_test(25, 0.1, 42)
    assert test == [15, 16, 19] and train[:6] == [20, 9, 7, 17, 24, 6]
    assert sorted(train + test) == list(range(25))


def test_balance():
    labels = [0, 1, 2, 0, 1, 0, 0, 2, 0, 1]
    assert balance(labels, 5, 42) == [9, 2, 0, 4, 8]
    assert balance(labels, 7, 42) == [0, 4, 2, 1, 2, 8, 9]
    assert balance(labels, 12, 7) == [5, 2, 1, 9, 7, 3, 2, 1, 6, 4, 7, 0]


def test_label_map():
    assert label_map(6, 596078644) == [5, 4, 2, 0, 1, 3]
    assert label_map(50, 596078644)[:10] == [41, 2, 49, 27, 46, 42, 34, 26, 12, 43]


def test_depth_order_is_one_variant_per_key_then_the_next():
    rows = ["a", "a", "a", "x", "b", "b", "b", "c"]
    order = depth_order(rows, ["b", "a", "c"])
    assert order == [4, 1, 7, 5, 2, 6, 0]
    assert sorted(order) == [0, 1, 2, 4, 5, 6, 7]


def test_first_distinct():
    assert first_distinct([3, 1, 2, 0], ["k", "k", "m", "m"], 2) == [3, 1]
    assert first_distinct([3, 2], ["k", "k", "m", "m"], 2) == [3]
