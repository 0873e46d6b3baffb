"""What verifying, comparing and diagnosing verbs look with."""
