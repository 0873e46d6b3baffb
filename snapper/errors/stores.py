"""Errors about stores, what is in them, and archives that come from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from snapper.errors.base import ExitCode, SnapperError, suggest_name


@dataclass(eq=False)
class NotInStore(SnapperError):
    """The store has no environment, snapshot or object of that name; `known` are those that it has."""

    what: str
    store: str
    known: tuple[str, ...] = ()
    name: str = ""
    code = ExitCode.NOT_FOUND

    @property
    def message(self) -> str:
        return f"{self.what} is not in the store {self.store}"

    @property
    def hint(self) -> str:
        if self.known:
            return (
                f"{suggest_name(self.name, self.known)}The store has: {', '.join(dict.fromkeys(self.known))}."
            )
        return "See what there is with: snapper list."


@dataclass(eq=False)
class NotAStore(SnapperError):
    """What a URL names is no snapper store, `absent` if nothing is there; `advice` is what to do if not the usual."""

    store: str
    reason: str
    advice: str = ""
    absent: bool = False
    code = ExitCode.STORE

    @property
    def message(self) -> str:
        return f"{self.store} is not a snapper store: {self.reason}"

    @property
    def hint(self) -> str:
        return self.advice or (
            "Name a store that is there, with --store, SNAPPER_STORE or snapper config set store; snapper pack makes "
            "one of a new or empty directory or S3 prefix."
        )


@dataclass(eq=False)
class UnsupportedFormat(SnapperError):
    """Something was written by a later snapper, in a format that this one does not know."""

    what: str
    found: int
    known: int
    code = ExitCode.STORE

    @property
    def message(self) -> str:
        return f"{self.what} has format {self.found}, and this snapper knows formats up to {self.known}"

    @property
    def hint(self) -> str:
        return "Upgrade: pip install --upgrade conda-snapper."


@dataclass(eq=False)
class StoreRefused(SnapperError):
    """The store is there but does not let us do what we must."""

    store: str
    action: str
    reason: str
    advice: str = "Check that this user may do that there, or choose another store with --store."
    code = ExitCode.STORE

    @property
    def message(self) -> str:
        return f"the store {self.store} refused to {self.action}: {self.reason}"

    @property
    def hint(self) -> str:
        return self.advice


@dataclass(eq=False)
class StoreUnreachable(SnapperError):
    """The store may be there, but there is no way to it right now."""

    store: str
    reason: str
    advice: str = "Check the network and the store's address, and run it again: nothing is left half-done."
    code = ExitCode.STORE

    @property
    def message(self) -> str:
        return f"the store {self.store} cannot be reached: {self.reason}"

    @property
    def hint(self) -> str:
        return self.advice


@dataclass(eq=False)
class Corrupted(SnapperError):
    """Stored bytes are not what their name or their manifest says; `advice` is what to do if not the usual."""

    what: str
    reason: str
    advice: str = ""
    code = ExitCode.INTEGRITY

    @property
    def message(self) -> str:
        return f"{self.what} is damaged: {self.reason}"

    @property
    def hint(self) -> str:
        return self.advice or (
            "Heal the store (snapper verify --data --repair, and --from URL from another store), use another "
            "snapshot, or pack the environment again from a healthy copy."
        )


@dataclass(eq=False)
class ObjectTooLarge(Corrupted):
    """An object is larger than any that a store has; it is not read."""

    what: str
    reason: str = "it is larger than anything that a store may hold"
    advice: str = ""


@dataclass(eq=False)
class ConcurrentUpdate(SnapperError):
    """Somebody else changed the environment's entry in the store meanwhile."""

    environment: str
    who: str
    when: str
    code = ExitCode.CONFLICT

    @property
    def message(self) -> str:
        return f"{self.environment!r} was moved to another snapshot by {self.who} at {self.when} meanwhile"

    @property
    def hint(self) -> str:
        return (
            f"See what was done with: snapper log {self.environment}. To put yours behind it, with both in the "
            "history, run this again, or pack with --force; or pack under another name with --name."
        )


@dataclass(eq=False)
class Diverged(SnapperError):
    """An environment that is to be copied has gone another way in the store that it is to be copied to."""

    environment: str
    store: str
    snapshot: str
    who: str
    when: str
    code = ExitCode.CONFLICT

    @property
    def message(self) -> str:
        return (
            f"{self.environment!r} in {self.store} is at snapshot {self.snapshot[:12]}, by {self.who} at {self.when}, "
            "which is not what came before in the other store"
        )

    @property
    def hint(self) -> str:
        return "Look at it with snapper show, then copy with --force, which leaves both in the history there."


@dataclass(eq=False)
class StoreLocked(SnapperError):
    """Somebody else is at work on the store, with which this cannot go on."""

    store: str
    action: str
    who: str
    code = ExitCode.CONFLICT

    @property
    def message(self) -> str:
        return f"a {self.action} is at work on the store {self.store}: {self.who}"

    @property
    def hint(self) -> str:
        counts = "an hour" if self.action == "prune" else "a day"
        return f"Wait for it to end, then run this again. If its machine is gone, it counts for {counts} at most."


@dataclass(eq=False)
class LeaseExpired(SnapperError):
    """The work took so long that others may take it for dead."""

    store: str
    code = ExitCode.CONFLICT

    @property
    def message(self) -> str:
        return (
            f"this took so long that others may have given it up, and removed from {self.store} what it needs"
        )

    @property
    def hint(self) -> str:
        return "Nothing was changed that others can see. Run it again: what is stored already is not stored twice."


@dataclass(eq=False)
class LayersPruned(SnapperError):
    """Layers that a pack found in the store are no longer there when it ends."""

    store: str
    count: int
    code = ExitCode.CONFLICT

    @property
    def message(self) -> str:
        layers = "a layer is" if self.count == 1 else f"{self.count} layers are"
        return f"{layers} no longer in the store {self.store} as they were when this began"

    @property
    def hint(self) -> str:
        return "The store was pruned meanwhile. Pack again: what is gone is then stored anew."


@dataclass(eq=False)
class TagExists(SnapperError):
    """The environment has a tag of that name, which stands for another snapshot."""

    environment: str
    tag: str
    snapshot: str
    code = ExitCode.CONFLICT

    @property
    def message(self) -> str:
        return f"{self.environment!r} has the tag {self.tag!r} already, for snapshot {self.snapshot[:12]}"

    @property
    def hint(self) -> str:
        return "Choose another name, or move the tag with --move."


@dataclass(eq=False)
class NoEarlierSnapshot(SnapperError):
    """There is no snapshot that the environment could be rolled back to."""

    environment: str
    current: str
    code = ExitCode.NOT_FOUND

    @property
    def message(self) -> str:
        return f"{self.environment!r} has no snapshot before {self.current[:12]}, the current one"

    @property
    def hint(self) -> str:
        return f"See what there is with: snapper log {self.environment}."


@dataclass(eq=False)
class NotAnArchive(SnapperError):
    """A file that was to be imported holds no conda environment."""

    file: str
    reason: str
    code = ExitCode.NOT_FOUND

    @property
    def message(self) -> str:
        return f"{self.file} is not a conda-pack archive: {self.reason}"

    @property
    def hint(self) -> str:
        return (
            "Name an archive that conda-pack or snapper export made "
            "(.tar.gz, .tar.zst, .tar.bz2, .tar.xz, .tar, .zip, .squashfs)."
        )


@dataclass(eq=False)
class InvalidArchive(SnapperError):
    """An archive is damaged, or holds what no environment has a use for and an attacker does."""

    file: str
    reason: str
    code = ExitCode.INTEGRITY

    @property
    def message(self) -> str:
        return f"{self.file} is refused: {self.reason}"

    @property
    def hint(self) -> str:
        return (
            "Nothing was imported. Get it anew from where it comes from; or unpack it yourself where it can do no "
            "harm, look at it, run its bin/conda-unpack, and pack that directory: snapper pack -p DIRECTORY."
        )
