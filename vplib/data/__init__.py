"""Videos and texts to batches: read video (files to frames), sources (folders and archives), shards, text, then pipeline (Grain)."""
