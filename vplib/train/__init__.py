"""The training loop, for any loss: read loop (resume, log, stop), then optimiser and sharding."""
