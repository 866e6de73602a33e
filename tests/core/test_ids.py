"""Ids carry their address: run and index come back out of them."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowq.core.ids import INDEX_BITS, is_node_id, node_id, node_id_of, run_uid, split_node_id

uids = st.builds(run_uid, st.integers(0, 2**48 - 1), st.integers(0, 2**44 - 1))
indexes = st.integers(0, 2**INDEX_BITS - 2)


@given(uids, indexes)
def test_run_and_index_come_back(uid: UUID, index: int) -> None:
    assert split_node_id(node_id(uid, index)) == (uid, index)
    assert node_id_of(str(uid), index) == node_id(uid, index)


@given(uids, indexes)
def test_a_node_id_is_a_version_8_uuid_of_the_rfc_variant(uid: UUID, index: int) -> None:
    value = UUID(node_id(uid, index))
    assert value.version == 8
    assert value.variant == "specified in RFC 4122"
    assert is_node_id(str(value))


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**44 - 1))
def test_a_run_uid_is_a_version_7_uuid_that_sorts_by_time(ms: int, dice: int) -> None:
    uid = run_uid(ms, dice)
    assert uid.version == 7
    assert uid.int >> 80 == ms
    assert run_uid(ms + 1, 0).int > uid.int or ms == 2**48 - 1
    assert not is_node_id(str(uid))


@given(uids, uids, indexes, indexes)
def test_different_nodes_have_different_ids(a: UUID, b: UUID, i: int, j: int) -> None:
    assert (node_id(a, i) == node_id(b, j)) == ((a, i) == (b, j))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "8" * 36,
        "0b9e6f0a-3c1d-4e57-9a52-7d1f4b0c8e21",
        str(run_uid(5, 5)),
        "not-an-id-of-any-8-kind-xxxxxxxxxxxx",
    ],
)
def test_other_texts_are_no_node_ids(text: str) -> None:
    assert not is_node_id(text)
    with pytest.raises(ValueError, match=r"not a node id|badly formed"):
        _ = split_node_id(text)


def test_a_version_8_uuid_without_an_index_is_refused() -> None:
    bare = str(UUID(int=run_uid(1, 1).int & ~(0xF << 76) | 8 << 76))
    with pytest.raises(ValueError, match="not a node id"):
        split_node_id(bare)
