"""The training loop, for any loss: read loop (log, stop), states (what is saved), then optimiser
and sharding.
"""
