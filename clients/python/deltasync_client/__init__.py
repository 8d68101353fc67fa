"""A small deltasync client: copies of collections, a subject's inbox, commits.

    copy.py      what a copy is, and how deltas change it (no network)
    puller.py    catches copies up by pulls
    follower.py  keeps one copy live on a stream
    inbox.py     keeps everything that a subject follows
    writer.py    commits
    wire.py      the generated code, made when it is needed first

Rule numbers (R22) are those of docs/PROTOCOL.md.
"""
