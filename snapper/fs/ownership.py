"""Decide whether a file or directory can only have been made, and can only be replaced, by this user or root.

A directory is trusted if it and all directories above it belong to this user or root, and nobody else may write to
them. A sticky directory such as /tmp may be writable by everyone, because only the owner of an entry can replace it;
the entry itself must then be trusted. What a group may write counts as writable by others, unless nobody else is in
the group: many systems give each user a group of their own, and container images give everything to root's group. So
does what an access control list lets others write.

Directories above this user's home do not count for what is inside of it: who controls them controls the user anyway.
So does the owner of the home, whose files count as this user's own, except for root. The two differ where containers
run with any user, and on network file systems that give all files one owner.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
import struct
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from snapper.fs.moves import Entry

_MAX_LINKS = 40
ROOT = 0

#: The least number of an account of a person, on macOS; it is 1000 on Linux.
_FIRST_USER = 500

#: An entry of an access control list: what it is for, the permissions, and the number of a user or group.
_LISTED = struct.Struct("<HHI")
_AFTER_VERSION = 4
_USER, _OWNING_GROUP, _GROUP = 0x02, 0x04, 0x08
_WRITE = 0o2

#: What `others_can_write` finds the access control list of: a path that is no link, a descriptor, or an entry.
Place = str | Path | int | Entry


class UntrustedComponent(NamedTuple):
    """A directory or link on a path that another user controls, and how: `reason` completes "PATH …"."""

    path: str
    reason: str


def is_own(status: os.stat_result) -> bool:
    """Return whether the file belongs to this user or root."""
    return status.st_uid in (os.geteuid(), ROOT) or status.st_uid == _home_owner()


def is_of_this_user(status: os.stat_result) -> bool:
    """Return whether the file belongs to this user, not to root unless that is the user."""
    return status.st_uid == os.geteuid() or status.st_uid == _home_owner()


def own_users() -> frozenset[int]:
    """Return the numbers of the users whose files count as this user's own."""
    owner = _home_owner()
    return frozenset((os.geteuid(),) if owner is None else (os.geteuid(), owner))


def trusted_users() -> tuple[int, ...]:
    """Return the numbers of the users whose files count as this user's own, or root's."""
    return tuple(sorted(own_users() | {ROOT}))


def others_can_write(status: os.stat_result, place: Place, *, trusted_group: int | None = None) -> bool:
    """Return whether users other than the owner and root may write to the file or directory at a place.

    The members of `trusted_group` do not count as others. May raise OSError.
    """
    if status.st_mode & stat.S_IWOTH:
        return True
    if (
        not status.st_mode & stat.S_IWGRP
    ):  # with an access control list, this is the most that any entry permits
        return False
    trusted = trusted_users()
    users, groups = _listed_writers(place, status.st_gid)
    others = groups - {trusted_group}
    return not (users <= {*trusted} and all(_is_private_group(group, trusted) for group in others))


def access_list(place: Place) -> bytes:
    """Return the POSIX access control list, as Linux stores it; nothing if there is none. May raise OSError."""
    if isinstance(place, int):
        path = f"/proc/self/fd/{place}"  # the descriptor itself need not permit this
    elif isinstance(place, Entry):
        path = f"/proc/self/fd/{place.directory}/{place.name}"
    else:
        path = os.fspath(place)
    try:
        return os.getxattr(path, "system.posix_acl_access")
    except AttributeError:  # another system
        return b""
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP, errno.ENOENT):
            return b""
        raise


def private_groups() -> tuple[int, ...]:
    """Return the numbers of this process's group and root's group if only trusted users are known to be in them."""
    groups = sorted({os.getegid(), ROOT})
    return tuple(group for group in groups if _is_private_group(group, trusted_users()))


def group_without_known_members() -> int | None:
    """Return the number of this process's group, None if users who are not trusted are known to be in it."""
    group = os.getegid()
    return group if _is_private_group(group, trusted_users(), if_unknown=True) else None


def owner_name(status: os.stat_result) -> str:
    """Return the name of the file's owner, or the number where there is no name."""
    try:
        return pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        return str(status.st_uid)


def _no_group(_directory: str) -> None:
    """Trust the members of no group."""


def untrusted_component(
    path: str | Path, *, group_at: Callable[[str], int | None] = _no_group
) -> UntrustedComponent | None:
    """Return the first component of an absolute path that another user controls, or None if the path is trusted.

    Links are followed, and their own components checked as well. Components that do not exist end the check: they
    can only be created by who may write to the last one that exists. `group_at` returns the group whose members are
    trusted with a component; it gets its path without links. May raise OSError.
    """
    current, pending = _first_to_check(os.fspath(path))
    problem = _problem(current, os.stat(current), group_at) if current == "/" else None
    links = 0
    while pending and problem is None:
        name = pending.pop()
        if name in ("", "."):
            continue
        if name == "..":
            current = os.path.dirname(current)
            continue
        child = os.path.join(current, name)
        try:
            status = os.lstat(child)
        except FileNotFoundError:
            return None
        if not stat.S_ISLNK(status.st_mode):
            current = child
            problem = _problem(current, status, group_at)
            continue
        if not is_own(status):
            return UntrustedComponent(child, f"is a link of the user {owner_name(status)}")
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), child)
        target = os.path.join(current, os.readlink(child), *pending[::-1])
        current, pending = _first_to_check(target)
    return problem


def _first_to_check(path: str) -> tuple[str, list[str]]:
    """Return where to start checking an absolute path, and the names after that, the last one first."""
    names = path.split("/")
    home = os.path.expanduser("~")
    for top in (home, os.path.realpath(home)):
        is_inside = f"{path}/".startswith(f"{top.rstrip('/')}/") and ".." not in names
        if is_inside and _is_home(top):
            return top, path[len(top) :].split("/")[::-1]
    return "/", names[::-1]


def _is_home(directory: str) -> bool:
    """Return whether the directory exists and is this user's, so that root does not work in the home of another."""
    try:
        return is_of_this_user(os.stat(directory))
    except OSError:
        return False


def _home_owner() -> int | None:
    """Return the owner of this user's home, unless that is root, or root is the user."""
    if os.geteuid() == ROOT:
        return None
    try:
        owner = os.stat(os.path.expanduser("~")).st_uid
    except OSError:
        return None
    return None if owner == ROOT else owner


def _problem(
    path: str, status: os.stat_result, group_at: Callable[[str], int | None]
) -> UntrustedComponent | None:
    """Return how another user controls this directory or file, if one does."""
    if not is_own(status):
        return UntrustedComponent(path, f"belongs to the user {owner_name(status)}")
    is_exposed = bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
    writable = is_exposed and others_can_write(status, path, trusted_group=group_at(path))
    if writable and not (stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX):
        return UntrustedComponent(path, "is writable by other users")
    return None


def _listed_writers(place: Place, group: int) -> tuple[set[int], set[int]]:
    """Return the users and groups that may write to what `group` is the group of, besides its owner."""
    listed = access_list(place)
    if not listed:
        return set(), {group}
    users, groups = set(), set()
    for kind, permissions, number in _LISTED.iter_unpack(listed[_AFTER_VERSION:]):
        if permissions & _WRITE and kind == _USER:
            users.add(number)
        elif permissions & _WRITE and kind in (_OWNING_GROUP, _GROUP):
            groups.add(group if kind == _OWNING_GROUP else number)
    return users, groups


@lru_cache(maxsize=64)
def _is_private_group(gid: int, trusted: tuple[int, ...], *, if_unknown: bool = False) -> bool:
    """Return whether only trusted users are known to be in the group.

    Directory services such as LDAP may not list their accounts, so the members of a group of one of these users cannot
    be known: return `if_unknown`, or True if it is named after the user. For root's group, accounts that are not listed
    are assumed not to be in it. Accounts of the system are in it on some systems, where only root runs their programs.
    """
    accounts = pwd.getpwall()
    try:
        group = grp.getgrgid(gid)
    except KeyError:
        return gid == ROOT or if_unknown
    if gid == ROOT:
        accounts = [account for account in accounts if account.pw_uid >= _FIRST_USER]
        are_known = True
    else:
        are_known = not _is_unlisted(accounts) or group.gr_name == pwd.getpwuid(os.geteuid()).pw_name
    members = {account.pw_uid for account in accounts if account.pw_gid == gid}
    for name in group.gr_mem:
        try:
            members.add(pwd.getpwnam(name).pw_uid)
        except KeyError:
            are_known = False
    return members <= set(trusted) and (are_known or if_unknown)


def _is_unlisted(accounts: list[pwd.struct_passwd]) -> bool:
    """Return whether this user has an account that is not among those listed."""
    user = os.geteuid()
    try:
        pwd.getpwuid(user)
    except KeyError:
        return False
    return not any(account.pw_uid == user for account in accounts)
