"""Conda environments on disk: reading them, finding them, and the state that snapper keeps in them."""
