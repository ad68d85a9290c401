"""Videos and texts to batches: read video (files to frames), standardize (one kind of file), sources (folders and archives), shards,
text, then pipeline (Grain).
"""
