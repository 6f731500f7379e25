"""Every known evidence is checked once, in blocks, and a bad one names its row."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from labelwise.errors import InputError
from labelwise.evidence import RULES, Checked, Rows, check, row_numbers


@pytest.fixture
def probs():
    return torch.softmax(torch.randn(40, 5, generator=torch.Generator().manual_seed(0)), 1)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_type_passes(probs, kind):
    assert check("probs", probs.to(kind)).dtype == kind


def test_whole_numbers_may_be_distributions():
    assert len(check("probs", np.eye(3, dtype=np.uint8))) == 3


@pytest.mark.parametrize("name", ["logits", "embeddings", "probs", "head_weight"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_names_its_row(probs, name, value):
    probs[7, 3] = value
    with pytest.raises(InputError, match=rf"{name} must be finite, but row 7 holds .* column 3"):
        check(name, probs)


def test_nan_is_found_in_a_later_block(monkeypatch):
    monkeypatch.setattr("labelwise.kernels.rows.BLOCK_BYTES", 4 * 5 * 3)
    x = np.zeros((40, 5), np.float16)
    x[31, 0] = np.nan
    with pytest.raises(InputError, match="row 31 holds nan"):
        check("embeddings", x)


def test_nan_in_a_draw_names_draw_and_row(probs):
    draws = torch.stack([probs, probs, probs])
    draws[2, 9, 1] = torch.nan
    with pytest.raises(InputError, match="row 9 of draw 2 holds nan in column 1"):
        check("draws", draws)


def test_finite_numbers_whose_sum_overflows_pass():
    assert len(check("embeddings", np.full((4, 4), 3e38, np.float32))) == 4
    assert len(check("embeddings", np.full((4, 4), 6e4, np.float16))) == 4


def test_plus_and_minus_infinity_do_not_cancel():
    with pytest.raises(InputError, match="row 0"):
        check("logits", [[np.inf, -np.inf]])


def test_logits_passed_as_probs_are_refused_with_the_fix(probs):
    logits = probs.clone()
    logits[3] = torch.tensor([4.0, -1.0, 0.0, 0.0, 0.0])
    with pytest.raises(InputError, match=r"row 3 .*\[4, -1, 0, 0, \.\.\.\].*pass them as logits="):
        check("probs", logits)


def test_a_negative_entry_is_refused_even_where_the_row_sums_to_one():
    with pytest.raises(InputError, match="row 1 must be >= 0"):
        check("probs", [[0.5, 0.5], [1.1, -0.1]])


@pytest.mark.parametrize(("total", "fits"), [(1.009, True), (1.011, False), (0.989, False)])
def test_row_sums_may_be_off_by_a_hundredth(total, fits):
    row = [[0.5, 0.5], [0.25, total - 0.25]]
    if fits:
        check("probs", row)
    else:
        with pytest.raises(InputError, match=r"row 1 .* sum to 1 within 0.01"):
            check("probs", row)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("probs", (3,), r"probs must be \(N, C\)"),
        ("draws", (3, 2), r"draws must be \(S, N, C\)"),
        ("head_bias", (3, 2), r"head_bias must be \(C,\)"),
        ("embeddings", (3, 0), "no axis empty"),
        ("logits", (0, 3), "no axis empty"),
    ],
)
def test_a_wrong_shape_says_the_right_one(name, shape, words):
    with pytest.raises(InputError, match=words):
        check(name, np.zeros(shape))


def test_lengths_that_disagree_name_both_sides(probs):
    sizes = {}
    check("probs", probs, sizes)
    with pytest.raises(InputError, match="number of pool rows is 39, but probs says 40"):
        check("embeddings", np.zeros((39, 2)), sizes)
    with pytest.raises(InputError, match="number of classes is 4, but probs says 5"):
        check("head_weight", np.zeros((4, 2)), sizes)


def test_complex_numbers_are_refused():
    with pytest.raises(InputError, match="real numbers"):
        check("embeddings", torch.zeros(2, 2, dtype=torch.complex64))


def test_checked_evidence_is_not_read_again(probs):
    done = check("probs", probs)
    assert isinstance(done, Checked)
    probs[0] = -1  # the same memory: a second reading would refuse it
    assert check("probs", done) is done
    with pytest.raises(InputError):
        check("probs", Rows(done))


def test_evidence_of_another_name_is_passed_as_it_is():
    thing = object()
    assert check("my_own", thing) is thing


@pytest.mark.parametrize("name", ["round", "rounds"])
def test_counts(name):
    assert check(name, 3) == 3
    for bad in (-1, 1.5, True, "2"):
        with pytest.raises(InputError, match=name):
            check(name, bad)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([0, 9], r"rows of the pool in 0\.\.4, but entry 1 is 9"),
        ([2, -1], "entry 1 is -1"),
        ([1, 3, 1], "row 1 is there twice"),
        ([0.0, 1.0], "float64 values"),
        ([True, False, True, False, False], "flatnonzero"),
        ([[0, 1]], "shape"),
    ],
)
def test_bad_row_numbers(rows, words):
    with pytest.raises(InputError, match=words):
        row_numbers(Rows(rows, "labeled"), 5)


def test_an_empty_list_is_no_rows():
    assert row_numbers(Rows([], "labeled"), 5).tolist() == []


def test_labels_are_class_numbers():
    assert check("labels", [2, 0]).dtype == torch.int64
    with pytest.raises(InputError, match="entry 1 is -1"):
        check("labels", [2, -1])
    with pytest.raises(InputError, match=r"numpy\.unique"):
        check("labels", [0.5, 1.0])


def test_every_rule_says_what_it_is_about():
    for name, rule in RULES.items():
        assert rule.meaning, name
        assert rule.shape.startswith("("), name


def test_the_page_on_evidence_has_every_name_and_no_other():
    page = (Path(__file__).parents[1] / "docs" / "evidence.md").read_text(encoding="utf-8")
    table = page.partition("## Names")[2].partition("## Providers")[0]
    first = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = [name for cell in first for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(named) == sorted(RULES)
