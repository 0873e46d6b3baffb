"""An engine that kills commands at any moment, and judges what they leave: see `python -m tests.crash --help`."""
