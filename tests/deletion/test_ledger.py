"""The ledger: whatever is done to it afterwards shows, and says where."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from unlearn.deletion.ledger import Head, canonical, check, hash_of, next_entry
from unlearn.signing import key_id

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key()
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def ledger(n, times=None):
    """The lines of a ledger with ``n`` entries, and the head after each of them."""
    head, lines, heads, last = Head(seq=0), [], [], ""
    for i in range(n):
        now = times[i] if times else START + timedelta(seconds=i)
        entry = next_entry(
            head, now=now, last_at=last, request=f"{i:016x}", event="received", by="officer"
        )
        head, last = Head.sign(entry, KEY, key_id(PUBLIC)), max(last, entry.at)
        lines.append(entry.text)
        heads.append(head)
    return lines, heads


def flaws(lines, head, key=PUBLIC, kept=()):
    return [(flaw.kind, flaw.seq) for flaw in check(lines, head, key, kept)[1]]


def test_a_ledger_that_nobody_touched_is_in_order():
    lines, heads = ledger(6)
    entries, found = check(lines, heads[-1], PUBLIC, heads)
    assert found == [] and [entry.seq for entry in entries] == [1, 2, 3, 4, 5, 6]
    assert check([], Head(seq=0), PUBLIC) == ([], [])


def test_the_hash_is_sha256_of_the_canonical_text():
    lines, heads = ledger(2)
    assert heads[-1].hash == hash_of(lines[-1])
    assert json.loads(lines[1])["previous"] == hash_of(lines[0])
    assert canonical(json.loads(lines[0])) == lines[0]


@given(st.data())
def test_any_flipped_bit_is_found_at_its_entry_or_the_next(data):
    lines, heads = ledger(4)
    position = data.draw(st.integers(0, 3))
    raw = bytearray(lines[position].encode())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 6))
    lines[position] = raw.decode("utf-8", errors="replace")
    found = flaws(lines, heads[-1])
    assert found and min(seq for _, seq in found if seq) in (position + 1, position + 2)


@pytest.mark.parametrize("dropped", range(4))
def test_a_dropped_entry_is_found(dropped):
    lines, heads = ledger(5)
    del lines[dropped]
    found = flaws(lines, heads[-1])
    assert ("chain", dropped + 1) in found and ("order", dropped + 1) in found
    assert ("end", 0) in found


def test_reordered_entries_are_found():
    lines, heads = ledger(5)
    lines[1], lines[2] = lines[2], lines[1]
    found = flaws(lines, heads[-1])
    assert ("order", 2) in found and ("chain", 2) in found and ("clock", 3) in found


def test_a_ledger_that_was_cut_off_is_found_by_its_head_and_by_one_that_was_kept():
    lines, heads = ledger(5)
    assert flaws(lines[:3], heads[-1]) == [("end", 0), ("end", 0)]
    # Whoever cuts the ledger may put the older head back, which was signed once.
    assert flaws(lines[:3], heads[2]) == []
    assert flaws(lines[:3], heads[2], kept=[heads[4]]) == [("end", 0)]


def test_a_rewritten_ledger_is_found_by_a_head_that_was_kept():
    _, heads = ledger(5)
    other, others = ledger(5, [START + timedelta(hours=i) for i in range(5)])
    assert flaws(other, others[-1]) == []
    assert flaws(other, others[-1], kept=[heads[2]]) == [("chain", 3)]


def test_another_key_is_found():
    lines, heads = ledger(3)
    stranger = Ed25519PrivateKey.generate().public_key()
    assert flaws(lines, heads[-1], key=stranger) == [("signature", 3)]
    assert flaws(lines, heads[-1].model_copy(update={"signature": "xy"})) == [("signature", 3)]


def test_a_clock_that_ran_backwards_is_found_and_a_little_skew_is_not():
    back = [START, START + timedelta(hours=1), START]
    lines, heads = ledger(3, back)
    assert flaws(lines, heads[-1]) == [("clock", 3)]
    skewed = [START, START - timedelta(seconds=1.5), START + timedelta(seconds=1)]
    lines, heads = ledger(3, skewed)
    assert flaws(lines, heads[-1]) == []


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{}",
        "null",
        "[]",
        '{"seq": 1}',
        "\ud800".encode("utf-16-le", "surrogatepass").decode("latin-1"),
    ],
)
def test_what_is_no_entry_is_called_unreadable(line):
    lines, heads = ledger(3)
    lines[1] = line
    assert ("unreadable", 2) in flaws(lines, heads[-1])
