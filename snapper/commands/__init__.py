"""The commands: one module per operation on environments and stores."""
