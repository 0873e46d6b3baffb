"""Retention policies: which snapshots of its history an environment keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from fnmatch import fnmatchcase

from snapper.errors import UsageError, empty_value
from snapper.format.model import HistoryEntry, Ref


@dataclass(frozen=True)
class RetentionPolicy:
    """The snapshots that an environment keeps besides its current one.

    These are the `last` snapshots, and the latest snapshot of each of the last days, weeks, and months that have one;
    all snapshots if no number is given. Tags that match one of the patterns are kept, with their snapshots.
    """

    last: int | None = None
    daily: int | None = None
    weekly: int | None = None
    monthly: int | None = None
    tags: tuple[str, ...] = ("*",)

    @property
    def keeps_all(self) -> bool:
        return (self.last, self.daily, self.weekly, self.monthly) == (None,) * 4

    def __post_init__(self) -> None:
        if any((count or 0) < 0 for count in (self.last, self.daily, self.weekly, self.monthly)):
            raise UsageError("a retention policy cannot keep a negative number of snapshots")
        if "" in self.tags:
            raise empty_value("a pattern of tags to keep")

    def kept_snapshots(self, ref: Ref) -> set[str]:
        """Return the ids of the snapshots to keep."""
        newest_first = ref.history[::-1]
        kept_ids = {ref.current, *self._kept_tags(ref).values()}
        if self.keeps_all:
            return kept_ids | {entry.snapshot for entry in newest_first}
        kept_ids.update(list(dict.fromkeys(entry.snapshot for entry in newest_first))[: self.last or 0])
        for count, period_of in ((self.daily, _day), (self.weekly, _week), (self.monthly, _month)):
            kept_ids.update(_newest_of_each(newest_first, period_of)[: count or 0])
        return kept_ids

    def apply(self, ref: Ref) -> Ref:
        """Return the ref without the history entries and tags that are not kept."""
        kept_ids = self.kept_snapshots(ref)
        history = tuple(entry for entry in ref.history if entry.snapshot in kept_ids)
        return replace(ref, history=history, tags=self._kept_tags(ref))

    def _kept_tags(self, ref: Ref) -> dict[str, str]:
        return {
            tag: snapshot_id
            for tag, snapshot_id in ref.tags.items()
            if any(fnmatchcase(tag, pattern) for pattern in self.tags)
        }


def _newest_of_each(newest_first: Iterable[HistoryEntry], period_of: Callable[[str], str]) -> list[str]:
    """Return the newest snapshot of each period, newest first."""
    newest: dict[str, str] = {}
    for entry in newest_first:
        newest.setdefault(period_of(entry.time), entry.snapshot)
    return list(newest.values())


def _day(time: str) -> str:
    return time[:10]


def _month(time: str) -> str:
    return time[:7]


def _week(time: str) -> str:
    try:
        year, week, _ = datetime.strptime(time[:10], "%Y-%m-%d").isocalendar()
    except ValueError:
        return time
    return f"{year}-{week}"
