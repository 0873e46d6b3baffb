"""The contents of a store: refs, snapshots, layers, and locks."""
