"""Settings: where they come from, which values they accept, and the directories that snapper uses by default."""
