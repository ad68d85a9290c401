"""Videos and texts to batches.

Read video (files to frames), container (what a file says of itself), stream (some frames of a long
one), standardize (one kind of file), cutting (clips out of long files), pictures (folders of them),
entries (what is said of a clip), sources (folders), webdataset (archives) and parquets (tables),
public (data sets as they are distributed), shards (random access), buckets and beam (the same in a
bucket, and by a cluster), decisions (what is dropped of a corpus, as duplicates and screens say),
unlabelled (the same without captions), text (tokens; swapped: some about other clips), then pipeline
(Grain), cached (batches of tokens), labelled (of clips with targets) and spoken (of clips with what
is said of them).
"""
