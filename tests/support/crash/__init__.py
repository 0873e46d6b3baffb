"""Crash-test engine: kill commands at random moments and judge what they leave."""
