"""What a store contains: refs, snapshots and their objects, and locks."""
