"""The transport: shared memory inside a node, byte streams between nodes."""
