"""An engine's cache in blocks: what running sequences hold, and what is found again of earlier ones until others need it."""

from __future__ import annotations

from collections import OrderedDict


class Blocks:
    """Blocks of one replica's cache.

    A free block is plain, or it holds tokens of an earlier sequence and is found again. Plain ones are taken first, then
    the least recently freed; of one sequence the last blocks first, since the blocks before them are worth more.

    Attributes:
        capacity: Blocks that there are.
        free: Blocks that no running sequence holds.
    """

    __slots__ = ("_keeps", "_kept", "_plain", "_shared", "_users", "capacity", "free")

    def __init__(self, capacity: int, keeps: bool) -> None:
        self.capacity = self.free = self._plain = capacity
        self._keeps = keeps
        self._kept: OrderedDict[int, int] = OrderedDict()
        self._shared: dict[int, int] = {}
        self._users: dict[int, int] = {}

    @property
    def used(self) -> int:
        """Blocks that running sequences hold."""
        return self.capacity - self.free

    def take(self, count: int) -> None:
        """Take so many free blocks, of which there are enough."""
        self.free -= count
        if count <= self._plain:
            self._plain -= count
            return
        count -= self._plain
        self._plain = 0
        while count:
            key, held = next(iter(self._kept.items()))
            if held > count:
                self._kept[key] = held - count
                return
            del self._kept[key]
            count -= held

    def give(self, key: int, full: int, more: int) -> None:
        """Free ``full`` blocks whose tokens are found again under ``key``, and ``more`` that are not."""
        self.free += full + more
        if not self._keeps or not full:
            self._plain += full + more
            return
        self._plain += more
        left = self._kept.pop(key, 0)
        self._kept[key] = max(full, left)
        self._plain += min(full, left)  # the same tokens twice: one copy is as good as none

    def found(self, key: int, most: int) -> int:
        """Blocks that are found again under a key, at most so many."""
        return min(self._kept.get(key, 0), most)

    def reuse(self, key: int, count: int) -> None:
        """Take blocks that were found under a key; what else is kept under it is free and plain from now on."""
        if count:
            self.free -= count
            self._plain += self._kept.pop(key) - count

    # -- prefixes that several sequences hold at once -------------------------------------------------------------

    def shared(self, prefix: int) -> int:
        """Blocks of a prefix that are there, held or free."""
        return self._shared.get(prefix, 0) if self._users.get(prefix) else self._kept.get(-1 - prefix, 0)

    def hold(self, prefix: int, blocks: int) -> int:
        """One more sequence holds so many blocks of a prefix; those that are not there are taken. Returns how many."""
        there = self.shared(prefix)
        users = self._users.get(prefix, 0)
        if not users:
            self.reuse(-1 - prefix, there)
        new = max(blocks - there, 0)
        self.take(new)
        self._shared[prefix] = there + new
        self._users[prefix] = users + 1
        return new

    def to_hold(self, prefix: int, blocks: int) -> int:
        """Free blocks that `hold` would take."""
        there = self.shared(prefix)
        return max(blocks, there) if not self._users.get(prefix) else max(blocks - there, 0)

    def leave(self, prefix: int) -> None:
        """One sequence less holds a prefix; without any it is free, and found again."""
        self._users[prefix] -= 1
        if not self._users[prefix]:
            self.give(-1 - prefix, self._shared.pop(prefix), 0)
