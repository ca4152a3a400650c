"""Laws of what is counted instead of visited: each beside the plain list, or the plain enumeration, that it stands for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_perf.hardware.collective import Fabric
from llm_perf.hardware.rank_group import RankGroup
from llm_perf.requests.blocks import Blocks
from llm_perf.requests.decoding import Decoding
from llm_perf.requests.records import Records
from llm_perf.requests.step_times import Table, table_counts
from llm_perf.requests.workload import Requests

# -- blocks of a cache ------------------------------------------------------------------------------------------


class Shelf:
    """Every free block by itself, the one that is taken next first: under which key its tokens are found, or None."""

    def __init__(self, capacity: int, keeps: bool) -> None:
        self.free: list[int | None] = [None] * capacity
        self.keeps = keeps

    def take(self, count: int) -> None:
        for _ in range(count):
            plain = self.free.index(None) if None in self.free else 0
            del self.free[plain]

    def give(self, key: int, full: int, more: int) -> None:
        if not self.keeps or not full:
            self.free += [None] * (full + more)
            return
        there = self.free.count(key)
        self.free = [one for one in self.free if one != key]
        # The same tokens twice are kept once, as those that were used last.
        self.free += [None] * (min(full, there) + more) + [key] * max(full, there)

    def reuse(self, key: int, count: int) -> None:
        if count:
            there = self.free.count(key)
            self.free = [one for one in self.free if one != key] + [None] * (there - count)


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["take", "give", "reuse"]), st.integers(0, 4), st.integers(0, 8), st.integers(0, 3)
    ),
    max_size=40,
)


@given(st.integers(1, 30), st.booleans(), ACTIONS)
def test_blocks_are_those_of_a_list_with_every_block_in_it(capacity, keeps, actions):
    """Plain ones go first, then those of the sequence that left longest ago; what is found is what nobody took."""
    blocks, shelf = Blocks(capacity, keeps), Shelf(capacity, keeps)
    for action, key, count, more in actions:
        held = capacity - len(shelf.free)
        if action == "take":
            count = min(count, len(shelf.free))
            blocks.take(count)
            shelf.take(count)
        elif action == "give":
            full = min(count, held)
            more = min(more, held - full)
            blocks.give(key, full, more)
            shelf.give(key, full, more)
        else:
            count = blocks.found(key, count)
            blocks.reuse(key, count)
            shelf.reuse(key, count)
        assert blocks.free == len(shelf.free)
        assert blocks.used == capacity - len(shelf.free)
        for name in range(5):
            assert blocks.found(name, 100) == shelf.free.count(name)
            assert blocks.found(name, 1) == min(shelf.free.count(name), 1)


@given(
    st.integers(4, 30), st.lists(st.tuples(st.booleans(), st.integers(0, 2), st.integers(1, 6)), max_size=30)
)
def test_a_prefix_is_held_once_however_many_share_it(capacity, actions):
    """What one more sequence takes is what `to_hold` says, and all of it is free again when the last one leaves."""
    blocks, users = Blocks(capacity, True), {0: [], 1: [], 2: []}
    for enters, prefix, count in actions:
        before = blocks.free
        if enters:
            needed = blocks.to_hold(prefix, count)
            if needed > before:
                continue
            there = blocks.shared(prefix)
            assert blocks.hold(prefix, count) == max(count - there, 0)
            assert blocks.free == before - needed
            users[prefix].append(count)
            assert blocks.shared(prefix) == max(count, there)
        elif users[prefix]:
            users[prefix].pop()
            held = blocks.shared(prefix)
            blocks.leave(prefix)
            assert blocks.free == before + (0 if users[prefix] else held)
            assert blocks.shared(prefix) == held  # still there, for who comes next
        assert blocks.used == sum(blocks.shared(one) for one, by in users.items() if by)


# -- sequences that decode ----------------------------------------------------------------------------------------


@given(
    st.sampled_from([1, 3, 16]),
    st.lists(
        st.one_of(st.tuples(st.integers(1, 50), st.integers(2, 40)), st.integers(1, 9)),
        min_size=1,
        max_size=25,
    ),
)
def test_decoding_sequences_are_counted_as_if_each_were_looked_at(block, actions):
    """Their contexts, what they have yet to generate, when the first ends, and the blocks that so many steps take."""
    lengths = [action for action in actions if isinstance(action, tuple)] or [(5, 3)]
    requests = Requests.of(0.0, [prompt for prompt, _ in lengths], [output for _, output in lengths])
    records, running = Records(requests), {}
    decoding = Decoding(records, block, running)
    alive: dict[int, list[int]] = {}  # request: [tokens in the cache, tokens yet to come]
    following = iter(range(len(lengths)))
    for action in actions:
        if isinstance(action, tuple):
            request = next(following)
            prompt, output = lengths[request]
            running[request] = None
            records.generated[request] = 1  # its prompt's token
            decoding.enter(request, prompt, output - 1)
            alive[request] = [prompt, output - 1]
        elif alive:
            steps = min(action, decoding.first_end)
            decoding.steps += steps
            for one in alive.values():
                one[0], one[1] = one[0] + steps, one[1] - steps
            for request in list(decoding.ended()):
                assert alive.pop(request)[1] == 0
                decoding.leave(request)
                del running[request]
        assert decoding.count == len(alive)
        assert decoding.left == sum(left for _, left in alive.values())
        if not alive:
            assert decoding.mean_context == 0
            continue
        assert decoding.mean_context == pytest.approx(np.mean([held + 1 for held, _ in alive.values()]))
        assert decoding.first_end == min(left for _, left in alive.values())

        def taken(count):
            return sum(-(-(held + count) // block) - -(-held // block) for held, _ in alive.values())

        assert decoding.blocks_of_next() == taken(1)
        for count in (1, 2, block, 2 * block + 1):
            assert decoding.blocks_of(count) == taken(count)
        for room in (0, 1, 7, 40):
            most = max((count for count in range(1, 31) if taken(count) <= room), default=1)
            assert decoding.steps_within(room, 30) == most
        for request, (_, left) in alive.items():
            assert decoding.generated(request) == lengths[request][1] - left


# -- tables -------------------------------------------------------------------------------------------------------


@given(st.integers(2, 20_000), st.integers(2, 9000), st.floats(0, 1e3), st.floats(0, 10), st.data())
def test_a_table_of_a_straight_line_is_that_line(most, dense, start, slope, data):
    """One by one and as an array, up to `dense` and between nodes beyond; nothing at no count."""
    counts = table_counts(most, dense)
    assert counts[0] == 1
    assert counts[-1] == most
    assert (np.diff(counts) >= 1).all()
    table = Table(counts, start + slope * counts, dense)
    asked = sorted({1, most, *data.draw(st.lists(st.integers(1, most), max_size=8))})
    assert [table(count) for count in asked] == pytest.approx([start + slope * one for one in asked])
    assert table.at(np.array(asked, float)) == pytest.approx([start + slope * one for one in asked])
    assert table(0) == table.at(np.array([0.0]))[0] == 0


# -- collectives --------------------------------------------------------------------------------------------------


@given(st.integers(2, 4), st.integers(1, 4), st.sampled_from([1, 2, 8]), st.floats(1e3, 1e10))
def test_a_token_s_copies_cross_the_network_once_per_domain(nodes, copies, local, size):
    """Of tokens that go to any domains alike: what is counted is what one gets by going through all cases."""
    group = RankGroup(nodes * local, local, 1e30, 1e30, 1e30, 2e10, 1e-5)
    cases = list(itertools.product(range(nodes), repeat=copies))
    remote = sum(len(set(case) - {0}) for case in cases) / len(cases)  # the token is in domain 0
    assert group.all_to_all_s(size, copies) == pytest.approx(1e-5 + remote * size / 2e10, rel=1e-9)


@given(st.sampled_from([2, 4, 16]), st.sampled_from([1, 2, 8]), st.floats(1e3, 1e10), st.booleans())
def test_a_group_over_domains_gathers_at_the_slower_of_link_and_network(nodes, local, size, slow_link):
    """Each rank misses what the others hold; a domain's cards together carry what the other domains hold."""
    link, nic = (1e9, 1e12) if slow_link else (1e12, 1e9)
    group = RankGroup(nodes * local, local, link, 1.0, 1.0, nic, 1e-5)
    ranks = nodes * local
    expected = (ranks - 1) / ranks * size / link if slow_link else (nodes - 1) / nodes * size / (local * nic)
    assert group.gather_s(size) == pytest.approx(1e-5 + expected, rel=1e-9)
    assert group.all_reduce_s(size) == pytest.approx(2 * (1e-5 + expected), rel=1e-9)
    assert group.send_s(size) == pytest.approx(1e-5 + size / nic, rel=1e-9)


@given(st.sampled_from([2, 3, 8]), st.floats(1e3, 1e9))
def test_collectives_in_a_node_move_what_their_names_say(ranks, size):
    """Bytes over the bus of each, and one start of its own kind; nothing else where no channel has to fill."""
    fabric = Fabric(ranks, latency_s=0.0, bytes_per_s=1e9)
    share = (ranks - 1) / ranks
    assert fabric.all_reduce_s(size) == pytest.approx(2 * share * size / 1e9)
    assert fabric.all_gather_s(size) == pytest.approx(share * size / 1e9)
    assert fabric.reduce_scatter_all_gather_s(size) == pytest.approx(2 * share * size / 1e9)
    assert fabric.all_to_all_s(size) == pytest.approx(share * size / 1e9)
    assert fabric.one_shot_all_reduce_s(size) == pytest.approx((ranks - 1) * size / 1e9)
    assert fabric.send_s(size) == pytest.approx(size / 1e9)
    for kind in ("all_reduce_s", "send_s"):
        late = Fabric(ranks, latency_s=3e-5, bytes_per_s=1e9)
        assert getattr(late, kind)(size) == pytest.approx(getattr(fabric, kind)(size) + 3e-5)


@given(st.sampled_from([2, 4, 16]), st.sampled_from([1, 4]), st.floats(1e3, 1e10))
def test_an_all_to_all_over_nodes_sends_what_other_nodes_are_to_get(nodes, local, size):
    fabric = Fabric(nodes * local, 4e-5, 1e15, 0.0, 1e-5, local, 1e10)
    assert fabric.spans_nodes
    assert fabric.all_to_all_s(size) == pytest.approx(4e-5 + (nodes - 1) / nodes * size / 1e10)
    assert not Fabric(local + 1, 4e-5, 1e15, 0.0, 1e-5, 0, 1e10).spans_nodes


@given(st.floats(1, 1e9), st.floats(0, 1e8))
def test_a_small_message_takes_the_quicker_way_and_a_large_one_the_ring(size, limit):
    fabric = Fabric(4, 5e-5, 1e11, 1e-5, 1e-5)
    ring = 5e-5 + 1e-5 * (size / 1e6) ** 0.5 + 1.5 * size / 1e11
    direct = 1e-5 + 3 * size / 1e11
    expected = min(ring, direct) if 0 < size <= limit else ring
    assert fabric.small_all_reduce_s(size, limit) == pytest.approx(expected)
