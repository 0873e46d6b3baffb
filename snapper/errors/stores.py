"""Errors about stores, their contents, and archives."""

from __future__ import annotations

from dataclasses import dataclass

from snapper.errors.base import ExitCode, SnapperError, suggest_name


@dataclass(eq=False, repr=False)
class NotInStore(SnapperError):
    """The store has no such environment, snapshot or object.

    `known` are the names that it has. `summary` replaces the usual message.
    """

    what: str
    store: str
    known: tuple[str, ...] = ()
    name: str = ""
    summary: str = ""
    code = ExitCode.NOT_FOUND

    @property
    def message(self) -> str:
        return self.summary or f"{self.what} is not in the store {self.store}"

    @property
    def hint(self) -> str:
        if not self.known:
            return "List the environments in the store with: snapper list."
        return f"{suggest_name(self.name, self.known)}The store has: {', '.join(dict.fromkeys(self.known))}."


@dataclass(eq=False, repr=False)
class NotAStore(SnapperError):
    """A URL does not lead to a snapper store; `absent` if nothing is there; `advice` replaces the usual hint."""

    store: str
    reason: str
    advice: str = ""
    absent: bool = False
    code = ExitCode.STORE

    @property
    def message(self) -> str:
        if self.absent:
            return f"there is no store at {self.store}"
        return f"{self.store} is not a snapper store: {self.reason}"

    @property
    def hint(self) -> str:
        return self.advice or (
            "The first snapper pack creates it, in a new or empty directory or S3 prefix. If it should exist, check "
            "--store, SNAPPER_STORE and the setting store (snapper config)."
        )


@dataclass(eq=False, repr=False)
class UnsupportedFormat(SnapperError):
    """A document was written by a later version of snapper, in a format that this version does not know."""

    what: str
    found: int
    known: int
    code = ExitCode.STORE
    message_template = "{what} has format {found}, but this version of snapper supports formats up to {known}"
    hint_template = "Upgrade: pip install --upgrade conda-snapper."


@dataclass(eq=False, repr=False)
class StoreRefused(SnapperError):
    """The store does not allow an operation, such as "write KEY", or any access if `action` is empty.

    `unreadable` is the key of the one object that cannot be read, while others may be readable.
    """

    store: str
    action: str
    reason: str
    advice: str = "Check this user's permissions there, or choose another store with --store."
    unreadable: str = ""
    code = ExitCode.STORE
    hint_template = "{advice}"

    @property
    def message(self) -> str:
        what = f"{self.action} in" if self.action else "access"
        return f"cannot {what} the store {self.store}: {self.reason}"


@dataclass(eq=False, repr=False)
class StoreUnreachable(SnapperError):
    """The store cannot be reached at the moment."""

    store: str
    reason: str
    advice: str = (
        "Check the network and the store's address, then run the command again; nothing was left half-done."
    )
    code = ExitCode.STORE
    message_template = "the store {store} cannot be reached: {reason}"
    hint_template = "{advice}"


@dataclass(eq=False, repr=False)
class Corrupted(SnapperError):
    """Stored bytes differ from what their name or manifest says; `advice` replaces the usual hint."""

    what: str
    reason: str
    advice: str = ""
    code = ExitCode.INTEGRITY
    message_template = "{what} is corrupted: {reason}"

    @property
    def hint(self) -> str:
        return self.advice or (
            "Repair the store (snapper verify --data --repair; add --from URL to copy from another store), use "
            "another snapshot, or pack the environment again from an intact copy."
        )


@dataclass(eq=False, repr=False)
class ObjectTooLarge(Corrupted):
    """An object is larger than any that a store may hold; it is not read."""

    what: str
    reason: str = "it exceeds the size limit for objects in a store"
    advice: str = ""


@dataclass(eq=False, repr=False)
class ConcurrentUpdate(SnapperError):
    """The environment's entry in the store was updated by someone else in the meantime."""

    environment: str
    who: str
    when: str
    code = ExitCode.CONFLICT
    message_template = "{environment!r} was updated in the store by {who} at {when}, in the meantime"
    hint_template = (
        "See the changes with: snapper log {environment}. Then run this again or pack with --force (the history "
        "keeps both snapshots), or pack under another name with --name."
    )


@dataclass(eq=False, repr=False)
class EntryTooLarge(SnapperError):
    """With another history entry, the environment's entry would exceed the format's limit; sizes in bytes."""

    environment: str
    store: str
    size: int
    limit: int
    message_template = (
        "the entry of {environment!r} in the store {store} would be {size:,} bytes; the limit is {limit:,}"
    )
    hint_template = (
        "Drop old history with snapper prune {environment} --keep-last N --yes, or use a shorter message."
    )


@dataclass(eq=False, repr=False)
class Diverged(SnapperError):
    """The histories of an environment in two stores have diverged."""

    environment: str
    store: str
    snapshot: str
    who: str
    when: str
    code = ExitCode.CONFLICT
    message_template = (
        "{environment!r} has diverged: its current snapshot in {store}, {snapshot:.12} (by {who} at {when}), is not "
        "in its history in the other store"
    )
    hint_template = (
        "Inspect that snapshot with snapper show, then copy with --force (the history there keeps both "
        "snapshots)."
    )


@dataclass(eq=False, repr=False)
class StoreLocked(SnapperError):
    """Another operation on the store excludes this one."""

    store: str
    action: str
    who: str
    code = ExitCode.CONFLICT
    message_template = "the store {store} is locked by a {action}: {who}"

    @property
    def hint(self) -> str:
        expiry = "an hour" if self.action == "prune" else "a day"
        return (
            "Wait for it to finish, then run this again. "
            f"If its machine has disappeared, the lock expires within {expiry}."
        )


@dataclass(eq=False, repr=False)
class LockHeld(SnapperError):
    """Another process has kept the entries of a directory store locked for too long; `who` describes it."""

    store: str
    who: str
    code = ExitCode.CONFLICT
    message_template = "the entries in the store {store} are locked by {who}"
    hint_template = "Wait for it to finish, or end it if it hangs. Then run this again."


@dataclass(eq=False, repr=False)
class LeaseExpired(SnapperError):
    """The operation took so long that its lease has expired."""

    store: str
    code = ExitCode.CONFLICT
    message_template = "this operation's lock expired; objects it relies on may have been pruned from {store}"
    hint_template = "Run this again: data that is already stored is not stored again."


@dataclass(eq=False, repr=False)
class LayersPruned(SnapperError):
    """Layers that a pack relies on have disappeared from the store."""

    store: str
    count: int
    code = ExitCode.CONFLICT
    hint_template = "The store was pruned in the meantime. Pack again to store them again."

    @property
    def message(self) -> str:
        layers = "a layer" if self.count == 1 else f"{self.count} layers"
        return f"{layers} disappeared from the store {self.store} while packing"


@dataclass(eq=False, repr=False)
class TagExists(SnapperError):
    """The environment already has a tag of that name, for another snapshot."""

    environment: str
    tag: str
    snapshot: str
    code = ExitCode.CONFLICT
    message_template = "{environment!r} already has the tag {tag!r}, for snapshot {snapshot:.12}"
    hint_template = "Choose another name, or move the tag with --move."


@dataclass(eq=False, repr=False)
class EnvironmentExists(SnapperError):
    """The store already has an environment of a name that nobody has chosen, with another snapshot."""

    environment: str
    store: str
    code = ExitCode.CONFLICT
    message_template = "the store {store} already has another environment called {environment!r}"
    hint_template = "Choose another name with --name, or replace its current snapshot: --name {environment}."


@dataclass(eq=False, repr=False)
class NoEarlierSnapshot(SnapperError):
    """There is no snapshot to roll back to."""

    environment: str
    current: str
    code = ExitCode.NOT_FOUND
    message_template = "{environment!r} has no snapshot before {current:.12}, the current one"
    hint_template = "See its history with: snapper log {environment}."


@dataclass(eq=False, repr=False)
class NotAnArchive(SnapperError):
    """A file to import is not an archive of a conda environment."""

    file: str
    reason: str
    code = ExitCode.NOT_FOUND
    message_template = "cannot import {file}: {reason}"
    hint_template = (
        "Give an archive made by conda-pack or snapper export "
        "(.tar.gz, .tar.zst, .tar.bz2, .tar.xz, .tar, .zip, .squashfs)."
    )


@dataclass(eq=False, repr=False)
class InvalidArchive(SnapperError):
    """An archive is corrupted or contains something unsafe."""

    file: str
    reason: str
    code = ExitCode.INTEGRITY
    message_template = "cannot import {file}: {reason}"
    hint_template = (
        "Nothing was imported. Get a new copy of the archive; or unpack it in a safe place (such as a container), "
        "inspect it, run its bin/conda-unpack, and pack that directory: snapper pack -p DIRECTORY."
    )
