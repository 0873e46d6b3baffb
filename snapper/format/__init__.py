"""The on-disk format (docs/format.md): its types, segments, layers, and relocation."""
