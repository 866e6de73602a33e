"""Ids that carry their own address.

A run's uid is a UUIDv7 whose last 30 bits are zero; a node's id is the same UUID with version
8 and its index + 1 in those bits. So ``split_node_id`` finds run and node without a table, and
two runs made in the same millisecond still differ in 44 random bits.
"""

from __future__ import annotations

from uuid import UUID

#: Bits that hold index + 1; a run has fewer nodes than that.
INDEX_BITS = 30
_INDEX_MASK = (1 << INDEX_BITS) - 1
_VERSION_MASK = 0xF << 76


def run_uid(milliseconds: int, random_bits: int) -> UUID:
    """Make a run's uid from a Unix time in milliseconds and 44 random bits."""
    high = random_bits >> 32 & 0xFFF
    low = random_bits & 0xFFFFFFFF
    value = (milliseconds & ((1 << 48) - 1)) << 80 | 7 << 76 | high << 64 | 2 << 62
    return UUID(int=value | low << INDEX_BITS)


def node_id(uid: UUID, index: int) -> str:
    """Make the id of the node at `index` of a run."""
    return str(UUID(int=(uid.int & ~_VERSION_MASK | 8 << 76) | index + 1))


def node_id_of(uid: str, index: int) -> str:
    """`node_id` of a uid that is text already, without taking it apart."""
    return f"{uid[:14]}8{uid[15:28]}{int(uid[28:], 16) | index + 1:08x}"


def is_node_id(text: str) -> bool:
    """Whether an id was made by `node_id`; any text may be asked about."""
    return len(text) == 36 and text[14] == "8" and _parse(text) is not None


def split_node_id(text: str) -> tuple[UUID, int]:
    """Return the run's uid and the node's index.

    Raises:
        ValueError: `text` is not a node id.
    """
    value = _parse(text)
    if value is None or value.version != 8 or not value.int & _INDEX_MASK:
        raise ValueError(f"not a node id: {text!r}")
    number = value.int
    index = (number & _INDEX_MASK) - 1
    uid = UUID(int=(number & ~_INDEX_MASK) & ~_VERSION_MASK | 7 << 76)
    return uid, index


def _parse(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
