"""Processes, signals and files of the machine that the work is done on."""
