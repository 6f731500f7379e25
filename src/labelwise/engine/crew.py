"""Who works on the shards: told things without waiting, asked for answers, replaced when lost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from labelwise.engine.shard import Shard

Call = tuple[str, tuple[Any, ...]]
"""A method of a shard and its arguments."""


class Crew(ABC):
    """Workers, each with one shard.

    A worker does what it is told in the order told. One that is lost is replaced by another that
    makes the same shard and is told the ``memoir``: all that the lost one was ever told, or what
    comes to the same.

    Attributes:
        memoir: gives the calls that a new shard of that number has to catch up on.
    """

    memoir: Callable[[int], list[Call]]

    def __init__(self) -> None:
        self.memoir = lambda shard: []

    @abstractmethod
    def __len__(self) -> int:
        """How many shards there are."""

    @abstractmethod
    def tell(self, calls: Mapping[int, Call]) -> None:
        """Have shards do something, without waiting; what fails is raised by the next `ask`."""

    @abstractmethod
    def ask(self, calls: Mapping[int, Call]) -> dict[int, Any]:
        """Answers of some shards, by number; they work side by side."""

    @abstractmethod
    def close(self) -> None:
        """Let the workers go."""

    def tell_all(self, method: str, *args: Any) -> None:
        """Tell every shard the same."""
        self.tell(dict.fromkeys(range(len(self)), (method, args)))

    def ask_all(self, method: str, *args: Any) -> list[Any]:
        """Ask every shard the same; answers in the order of rows."""
        answers = self.ask(dict.fromkeys(range(len(self)), (method, args)))
        return [answers[shard] for shard in range(len(self))]


class LocalCrew(Crew):
    """Shards in this process, one after the other: for one machine's several devices, for tests.

    Args:
        make: each makes one shard.
    """

    def __init__(self, make: list[Callable[[], Shard]]) -> None:
        super().__init__()
        self._make = make
        self._shards = [one() for one in make]

    def __len__(self) -> int:
        return len(self._shards)

    def tell(self, calls: Mapping[int, Call]) -> None:
        """Have shards do something."""
        for shard, (method, args) in calls.items():
            getattr(self._shards[shard], method)(*args)

    def ask(self, calls: Mapping[int, Call]) -> dict[int, Any]:
        """Answers of some shards, by number."""
        return {
            shard: getattr(self._shards[shard], method)(*args)
            for shard, (method, args) in calls.items()
        }

    def close(self) -> None:
        """Let the shards go."""
        self._shards = []

    def replace(self, shard: int) -> None:
        """Lose a shard and make it anew."""
        self._shards[shard] = self._make[shard]()
        for method, args in self.memoir(shard):
            getattr(self._shards[shard], method)(*args)
