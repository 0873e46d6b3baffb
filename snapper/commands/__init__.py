"""The verbs: one module per operation on environments and stores."""
