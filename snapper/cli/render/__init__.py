"""Output of the command line: text, tables, JSON, progress bars."""
