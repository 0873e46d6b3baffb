"""Pack files of an environment into layers in a store."""
