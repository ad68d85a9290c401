"""The training loop, for any loss.

Read loop (log, stop), states (what is saved), restore (all of it back), then optimiser and sharding.
"""
