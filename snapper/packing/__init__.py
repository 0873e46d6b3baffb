"""From the files of an environment to layers in a store."""
