"""What of core/segments.pxd Python must know, once: how a cached file is cut, and the states of a chunk."""

from __future__ import annotations

from bootplane.dataplane.catalogue import CHUNK_BYTES

SEGMENT_CHUNKS = 4  # of one cached file, which is opened, evicted and charged as a whole
SEGMENT_BYTES = SEGMENT_CHUNKS * CHUNK_BYTES

# chunk_state_t
ABSENT = 0
PRESENT = 2
UNCHECKED = 3  # of an earlier run's file: hashed before it is sent
CLOSED = 4  # verified, and its file is not open
HERE = bytes([PRESENT, CLOSED])  # what need not be fetched, nor hashed
