"""Restore: from layers in a store to the files of an environment.

Read `snapper.commands.restore` first, then `plan` and `engine`, which it calls; `snapper.commands.export` uses
`unpacker` only. This package writes files. Kernels, and the records that they wait for, are the command's task.
"""
