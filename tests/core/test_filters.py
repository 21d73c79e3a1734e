"""Collection filters, and their algebra, against Flax's."""

import flax.core.scope as flax_scope
import hypothesis.strategies as st
import pytest
from hypothesis import given

from batiste.core import (
    DenyList,
    filter_to_set,
    group_collections,
    in_filter,
    intersect_filters,
    is_filter_empty,
    subtract_filters,
    union_filters,
)
from batiste.errors import InvalidFilterError

NAMES = ("params", "batch_stats", "cache", "a")
PROBES = (*NAMES, "other", "")

simple = st.one_of(
    st.booleans(),
    st.sampled_from(NAMES),
    st.lists(st.sampled_from(NAMES), max_size=3),
    st.lists(st.sampled_from(NAMES), max_size=3).map(tuple),
    st.sets(st.sampled_from(NAMES), max_size=3),
    st.frozensets(st.sampled_from(NAMES), max_size=3),
)
one_denied = simple.map(DenyList)
filters = st.one_of(simple, one_denied, one_denied.map(DenyList))
flax_filters = st.one_of(simple, one_denied)  # Flax's algebra takes one level


def theirs(collection_filter):
    """Return the same filter with Flax's DenyList."""
    if isinstance(collection_filter, DenyList):
        return flax_scope.DenyList(theirs(collection_filter.deny))
    return set(collection_filter) if isinstance(collection_filter, frozenset) else collection_filter


def accepted(collection_filter):
    return [name for name in PROBES if in_filter(collection_filter, name)]


def accepted_by_flax(collection_filter):
    return [name for name in PROBES if flax_scope.in_filter(collection_filter, name)]


@given(filters)
def test_in_filter_is_flax(one):
    assert accepted(one) == accepted_by_flax(theirs(one))


@given(flax_filters, flax_filters)
def test_algebra_is_flax(one, other):
    a, b = theirs(one), theirs(other)
    assert accepted(union_filters(one, other)) == accepted_by_flax(flax_scope.union_filters(a, b))
    assert accepted(intersect_filters(one, other)) == accepted_by_flax(flax_scope.intersect_filters(a, b))
    assert accepted(subtract_filters(one, other)) == accepted_by_flax(flax_scope.subtract_filters(a, b))


@given(filters, filters)
def test_algebra_is_that_of_sets(one, other):
    a, b = set(accepted(one)), set(accepted(other))
    assert set(accepted(union_filters(one, other))) == a | b
    assert set(accepted(intersect_filters(one, other))) == a & b
    assert set(accepted(subtract_filters(one, other))) == a - b
    assert set(accepted(DenyList(one))) == set(PROBES) - a


@given(filters, filters, filters)
def test_algebra_is_closed(one, other, third):
    joined = subtract_filters(union_filters(one, intersect_filters(other, third)), DenyList(third))
    expected = (set(accepted(one)) | (set(accepted(other)) & set(accepted(third)))) & set(accepted(third))
    assert set(accepted(joined)) == expected


@given(filters)
def test_emptiness(one):
    assert is_filter_empty(one) == (accepted(one) == [])


@given(simple)
def test_emptiness_is_flax(one):
    assert is_filter_empty(one) == flax_scope.is_filter_empty(theirs(one))


def test_a_filter_of_everything_denied_is_empty():
    assert is_filter_empty(DenyList(True))
    assert not is_filter_empty(DenyList(False))
    assert not is_filter_empty(DenyList("params"))


@given(st.one_of(st.sampled_from(NAMES), st.lists(st.sampled_from(NAMES), max_size=3), st.just(False)))
def test_filter_to_set_is_flax(one):
    assert filter_to_set(one) == flax_scope.filter_to_set(one)


@given(st.lists(filters, max_size=4))
def test_group_collections_is_flax(some):
    variables = {name: index for index, name in enumerate(NAMES)}
    assert group_collections(variables, some) == [
        dict(group) for group in flax_scope.group_collections(variables, list(map(theirs, some)))
    ]


@given(st.lists(filters, max_size=4))
def test_groups_are_disjoint_and_in_order(some):
    variables = {name: index for index, name in enumerate(NAMES)}
    groups = group_collections(variables, some)
    found = [name for group in groups for name in group]
    assert len(found) == len(set(found))
    for name in variables:
        first = next((i for i, f in enumerate(some) if in_filter(f, name)), None)
        assert [i for i, group in enumerate(groups) if name in group] == ([] if first is None else [first])


@pytest.mark.parametrize("wrong", [None, 3, 1.5, DenyList(None), DenyList(DenyList(3))], ids=repr)
def test_what_is_no_filter(wrong):
    for use in (lambda: in_filter(wrong, "a"), lambda: union_filters(wrong, "a"), lambda: is_filter_empty(wrong)):
        with pytest.raises(InvalidFilterError, match="no collection filter"):
            use()
