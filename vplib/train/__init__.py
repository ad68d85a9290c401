"""The training loop, for any loss.

Read loop (log, stop), states (what is saved), then optimiser and sharding.
"""
