"""What the red-team suite (`tests/redteam`) attacks with, and how it observes what an attack achieved."""
