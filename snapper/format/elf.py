"""Find what the dynamic loader reads in an ELF file: the strings that its tables refer to, and what is never loaded.

Layout: System V ABI, "Object Files" and "Dynamic Linking"; the names below are those of elf.h. The file may come from
an attacker: whatever contradicts itself is not understood, and the time taken is linear in its size.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

MAGIC = b"\x7fELF"

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_SHT_NULL, _SHT_NOBITS, _SHT_DYNAMIC, _SHT_DYNSYM = 0, 8, 6, 11
_SHT_VERDEF, _SHT_VERNEED = 0x6FFFFFFD, 0x6FFFFFFE
_SHF_ALLOC, _SHF_EXECINSTR, _PF_X = 2, 4, 1
_EM_X86_64 = 62
_DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ, _DT_GNU_HASH = 4, 5, 6, 10, 0x6FFFFEF5
_DT_VERDEF, _DT_VERDEFNUM, _DT_VERNEED, _DT_VERNEEDNUM = 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF

#: The tags of names and paths: NEEDED, SONAME, RPATH, RUNPATH, CONFIG, DEPAUDIT, AUDIT, AUXILIARY, FILTER.
_STRING_TAGS = frozenset((1, 14, 15, 29, 0x6FFFFEFA, 0x6FFFFEFB, 0x6FFFFEFC, 0x7FFFFFFD, 0x7FFFFFFF))

#: Sections that only debuggers and linkers read; others that are not loaded may be read by the program itself.
_DEBUG_SECTIONS = (b".debug", b".zdebug", b".gnu_debug", b".stab", b".gdb_index")
_OTHER_UNLOADED = frozenset((b".comment", b".strtab", b".symtab", b".shstrtab", b".GCC.command.line"))


#: The most segments that a file is understood with; linkers make some fifteen.
_MOST_SEGMENTS = 64

#: The sizes of the headers of segments and sections, in bytes, by whether addresses have 64 bits.
_HEADER_SIZES = {True: (56, 64), False: (32, 40)}


class Span(NamedTuple):
    """A range of a file."""

    start: int
    end: int


class LoaderString(NamedTuple):
    """A NUL-terminated string that nothing but one table of the file refers to.

    It ends at `end`. Without its terminator, it may become as long as `capacity`.
    """

    start: int
    end: int
    capacity: int


class Segment(NamedTuple):
    """A range of the file that is loaded to an address."""

    start: int
    end: int
    address: int


class ElfLayout(NamedTuple):
    """The strings that the dynamic loader reads as names and paths, and ranges that are never loaded.

    `loaded` are the others, and `code` those with instructions, if they are x86-64's: `has_known_instructions`.
    """

    strings: tuple[LoaderString, ...]
    unloaded: tuple[Span, ...]
    loaded: tuple[Segment, ...] = ()
    code: tuple[Segment, ...] = ()
    has_known_instructions: bool = False


class _Malformed(ValueError):
    """The file contradicts itself."""


class _Section(NamedTuple):
    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int


class _Segment(NamedTuple):
    type: int
    flags: int
    offset: int
    address: int
    size: int


def parse(data: bytes) -> ElfLayout:
    """Return what is understood of the file; nothing if it is malformed."""
    try:
        elf = _Elf(data)
        strings = sorted([*elf.interpreter(), *elf.dynamic_strings()])
        disjoint = all(a.start + a.capacity < b.start for a, b in pairwise(strings))
        return ElfLayout(
            tuple(strings) if disjoint else (),
            tuple(elf.unloaded()),
            tuple(elf.loaded()),
            tuple(elf.code()),
            elf.has_known_instructions,
        )
    except (_Malformed, struct.error, IndexError, OverflowError):
        return ElfLayout((), ())


class _Elf:
    """The headers of a file; methods raise _Malformed, struct.error, IndexError, or OverflowError."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._unread = len(data) // 8  # how many records the version tables can have at most
        self._wide = data[4] == 2
        self._order = "<" if data[5] == 1 else ">"
        header = self._unpack("HHIQQQIHHHHHH" if self._wide else "HHIIIIIHHHHHH", 16)
        self.has_known_instructions, self._names_index = header[1] == _EM_X86_64, header[12]
        expected = _HEADER_SIZES[self._wide]
        if (header[9] and header[8] != expected[0]) or (header[11] and header[10] != expected[1]):
            raise _Malformed
        if header[9] > _MOST_SEGMENTS:
            raise _Malformed
        self._segments = [self._segment(header[4] + number * header[8]) for number in range(header[9])]
        self._sections = [self._section(header[5] + number * header[10]) for number in range(header[11])]
        if sum(segment.type == _PT_DYNAMIC for segment in self._segments) > 1:
            raise _Malformed
        code = list(self.code())
        if any(end > len(data) for _, end, _ in code):
            raise _Malformed
        if sum(end - start for start, end, _ in code) > len(data):  # parts of it would be read many times
            raise _Malformed

    def interpreter(self) -> Iterator[LoaderString]:
        """Yield the path of the program that loads this one."""
        for segment in self._segments:
            if segment.type == _PT_INTERP:
                end = self._end_of_string(segment.offset, segment.offset + segment.size)
                yield LoaderString(segment.offset, end, segment.size - 1)

    def dynamic_strings(self) -> Iterator[LoaderString]:
        """Yield the strings of the dynamic section that neither share characters with others nor name symbols."""
        entries = self._dynamic_entries()
        tags = dict(entries)
        if _DT_STRTAB not in tags or _DT_STRSZ not in tags:
            return
        table = self._offset(tags[_DT_STRTAB])
        limit = table + tags[_DT_STRSZ]
        if limit > len(self._data) or self._has_other_users(table):
            return
        named = self._symbol_names(tags) | self._version_names(tags)
        files = self._version_files(tags)
        listed = {value for tag, value in entries if tag in _STRING_TAGS}
        used = sorted(named | files | listed)
        following = dict(zip(used, [*used[1:], tags[_DT_STRSZ]], strict=True))
        for offset in sorted(listed - named):
            start, end = table + offset, self._end_of_string(table + offset, limit)
            free_to = table + following[offset]
            if free_to > end and (offset == 0 or self._data[start - 1] == 0):
                nuls = end
                while nuls < free_to and self._data[nuls] == 0:
                    nuls += 1
                yield LoaderString(start, end, nuls - 1 - start)

    def unloaded(self) -> Iterator[Span]:
        """Yield the sections that only debuggers and linkers read."""
        if not self._sections or self._names_index >= len(self._sections):
            return
        names = self._sections[self._names_index].offset
        loaded = [(s.offset, s.offset + s.size) for s in self._segments if s.type == _PT_LOAD]
        for section in self._sections:
            if section.flags & _SHF_ALLOC or section.type in (_SHT_NULL, _SHT_NOBITS):
                continue
            start, end = section.offset, section.offset + section.size
            name = self._data[names + section.name : names + section.name + 32].partition(b"\0")[0]
            is_known = name in _OTHER_UNLOADED or name.startswith(_DEBUG_SECTIONS)
            if is_known and end <= len(self._data) and all(end <= a or b <= start for a, b in loaded):
                yield Span(start, end)

    def loaded(self) -> Iterator[Segment]:
        """Yield what is loaded."""
        for segment in self._segments:
            if segment.type == _PT_LOAD:
                yield Segment(segment.offset, segment.offset + segment.size, segment.address)

    def code(self) -> Iterator[Segment]:
        """Yield what has instructions of x86-64: sections, or segments if there are no sections."""
        if not self.has_known_instructions:
            return
        for section in self._sections:
            if section.flags & _SHF_EXECINSTR and section.type != _SHT_NOBITS:
                yield Segment(section.offset, section.offset + section.size, section.address)
        for segment in self._segments:
            if not self._sections and segment.type == _PT_LOAD and segment.flags & _PF_X:
                yield Segment(segment.offset, segment.offset + segment.size, segment.address)

    # --- tables -------------------------------------------------------------------------------------------

    def _unpack(self, layout: str, offset: int) -> tuple[int, ...]:
        return struct.unpack_from(self._order + layout, self._data, offset)

    def _words(self, offset: int, count: int) -> tuple[int, ...]:
        if count * 4 > len(self._data):
            raise _Malformed
        return self._unpack(f"{count}I", offset)

    def _segment(self, at: int) -> _Segment:
        if self._wide:
            kind, flags, offset, address, _, size = self._unpack("IIQQQQ", at)
        else:
            kind, offset, address, _, size, _, flags = self._unpack("IIIIIII", at)
        return _Segment(kind, flags, offset, address, size)

    def _section(self, at: int) -> _Section:
        name, kind, flags, address, offset, size, link, _, _, _ = self._unpack(
            "IIQQQQIIQQ" if self._wide else "IIIIIIIIII", at
        )
        return _Section(name, kind, flags, address, offset, size, link)

    def _offset(self, address: int) -> int:
        """Return where in the file the bytes are that are loaded to the address."""
        for segment in self._segments:
            if segment.type == _PT_LOAD and segment.address <= address < segment.address + segment.size:
                return segment.offset + address - segment.address
        raise _Malformed

    def _end_of_string(self, start: int, limit: int) -> int:
        end = self._data.find(0, start, limit)
        if end < 0:
            raise _Malformed
        return end

    def _dynamic_entries(self) -> list[tuple[int, int]]:
        layout = struct.Struct(self._order + ("QQ" if self._wide else "II"))
        entries: list[tuple[int, int]] = []
        for segment in self._segments:
            if segment.type == _PT_DYNAMIC:
                table = self._data[segment.offset : segment.offset + segment.size]
                for entry in layout.iter_unpack(table[: len(table) - len(table) % layout.size]):
                    if entry[0] == 0:
                        break
                    entries.append((entry[0], entry[1]))
        return entries

    def _has_other_users(self, table: int) -> bool:
        """Return whether tables that are not in the dynamic section use its strings, too."""
        known = (_SHT_DYNAMIC, _SHT_DYNSYM, _SHT_VERDEF, _SHT_VERNEED)
        at_table = {n for n, section in enumerate(self._sections) if section.type and section.offset == table}
        return self._names_index in at_table or any(
            section.link in at_table and section.type not in known for section in self._sections
        )

    def _symbol_names(self, tags: dict[int, int]) -> set[int]:
        """Return the offsets of the dynamic symbols' names."""
        if _DT_SYMTAB not in tags:
            return set()
        table, size = self._offset(tags[_DT_SYMTAB]), 24 if self._wide else 16
        counts = [s.size // size for s in self._sections if s.type == _SHT_DYNSYM and s.offset == table]
        if _DT_HASH in tags:
            counts.append(self._words(self._offset(tags[_DT_HASH]), 2)[1])
        if _DT_GNU_HASH in tags:
            counts.append(self._count_hashed(self._offset(tags[_DT_GNU_HASH])))
        if not counts:
            raise _Malformed
        end = table + max(counts) * size
        if end > len(self._data):
            raise _Malformed
        layout = struct.Struct(self._order + ("I20x" if self._wide else "I12x"))
        return {name for (name,) in layout.iter_unpack(self._data[table:end])}

    def _count_hashed(self, at: int) -> int:
        """Return one more than the highest number of a symbol in the hash table of GNU's linkers."""
        bucket_count, first, bloom_size, _ = self._words(at, 4)
        buckets_at = at + 16 + bloom_size * (8 if self._wide else 4)
        number = max(self._words(buckets_at, bucket_count), default=0)
        if number < first:
            return first
        chains = buckets_at + 4 * bucket_count
        while not self._words(chains + 4 * (number - first), 1)[0] & 1:
            number += 1
        return number + 1

    def _version_names(self, tags: dict[int, int]) -> set[int]:
        """Return the offsets of the names of symbol versions."""
        names = set()
        for _, at, count in self._records(tags, _DT_VERNEED, _DT_VERNEEDNUM, "HHIII"):
            for auxiliary in self._chain(at, count, "IHHII", 4):
                names.add(auxiliary[3])
        for _, at, count in self._records(tags, _DT_VERDEF, _DT_VERDEFNUM, "HHHHIII"):
            for auxiliary in self._chain(at, count, "II", 1):
                names.add(auxiliary[0])
        return names

    def _version_files(self, tags: dict[int, int]) -> set[int]:
        """Return the offsets of the names of libraries that versions are needed of."""
        return {record[2] for record, _, _ in self._records(tags, _DT_VERNEED, _DT_VERNEEDNUM, "HHIII")}

    def _records(
        self, tags: dict[int, int], tag: int, count_tag: int, layout: str
    ) -> Iterator[tuple[tuple[int, ...], int, int]]:
        """Yield the records of a version table, and where their auxiliary records begin and how many there are."""
        if tag not in tags:
            return
        at = self._offset(tags[tag])
        for record in self._chain(at, tags.get(count_tag, 0), layout, len(layout) - 1):
            count = record[1] if tag == _DT_VERNEED else record[3]
            yield record, at + record[-2], count
            at += record[-1]

    def _chain(self, at: int, count: int, layout: str, next_field: int) -> Iterator[tuple[int, ...]]:
        """Yield records; each says how far away the next one is."""
        for _ in range(count):
            self._unread -= 1
            if self._unread < 0:
                raise _Malformed
            record = self._unpack(layout, at)
            yield record
            if not record[next_field]:
                return
            at += record[next_field]
