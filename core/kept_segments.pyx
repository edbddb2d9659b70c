"""What a cache finds on its disk at start, and the state file it leaves at a clean end. Runs before and after all work.

    <directory>/state    "bootplane-cache 1\\n", "boot <id>\\n", a line for each segment, the least recently used first:
                         <sha256> <index> <blob's size or -1> <SHA-256 of its chunk list or -> <states> <size> <ctime ns>,
                         " reused" where lru_policy had it so, and at last "sha256 <of all before>\\n"

Invariant: the file is there only between a clean end and the next start: it is read and unlinked, durably, before anything
else is done, so whatever ends a run otherwise leaves none. It is written after every segment has been fsynced, aside, and
renamed. What it says about a file counts only while size and ctime are those recorded; all else is UNCHECKED.

Left to others: adopting what was found (lru, lru_kept), checking it at its first use (dataplane.fill).
"""

import errno
import hashlib
import os
import re
import stat
from typing import NamedTuple

from bootplane.core.segments cimport (
    CHUNK_ABSENT, CHUNK_BYTES, CHUNK_PRESENT, CHUNK_UNCHECKED, SEGMENT_BYTES, SEGMENT_CHUNKS,
)

MAGIC = "bootplane-cache 1"
INDEX_LIMIT = 1 << 18                # a blob of 1 TiB: a name beyond is no segment of ours
NAMED = 8                            # removed names that are kept for the log
SYNCERS = 16                         # files on their way to the disk at once, at the end
BLOCK = 4096                         # as in lru_steps: charges are rounded up to it
UNKNOWN = bytes([CHUNK_UNCHECKED]) * SEGMENT_CHUNKS
LINE = re.compile("([0-9a-f]{64}) ([0-9]{1,6}) (-1|[0-9]{1,18}) ([0-9a-f]{64}|-) ([023]{4}) ([0-9]{1,10}) ([0-9]{1,20})( reused)?")


class Record(NamedTuple):
    """A segment as the state file has it."""

    sha256: str
    index: int
    size: int                        # of the blob; -1: no catalogue had named it
    root: str                        # SHA-256 of the chunk list its chunks were checked against; "-": of none
    states: bytes
    length: int                      # of the file
    ctime_ns: int
    reused: bool                     # see lru_policy


class Segment(NamedTuple):
    """A file that is kept."""

    sha256: str
    index: int
    size: int
    root: str
    states: bytes
    length: int
    ctime_ns: int                    # for which PRESENT in *states* counts; 0: nothing is known
    reused: bool


class Found(NamedTuple):
    """What was in the directory at start."""

    segments: int                    # kept
    bytes: int                       # of them
    clean: bool
    removed: int                     # files under our names that were no segments
    removed_names: tuple             # the first few, each with the reason
    evicted: int                     # segments for which the limit is too small


def charge_of(length: int) -> int:
    return (length + BLOCK - 1) // BLOCK * BLOCK


def take_state(int dirfd):
    """{(sha256, index): (rank, Record)} of the state file, which is gone afterwards; None when there is no good one."""
    text = None
    try:
        fd = os.open("state", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dirfd)
        with os.fdopen(fd, "rb") as file:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                text = file.read()
    except OSError:
        pass
    for name in ("state", "state.new"):
        try:
            os.unlink(name, dir_fd=dirfd)
        except (FileNotFoundError, IsADirectoryError):   # a directory is foreign, and no state
            pass
    os.fsync(dirfd)
    return None if text is None else parse(text)


def parse(text: bytes):
    head, separator, digest = text.rpartition(b"sha256 ")
    if not separator or digest != hashlib.sha256(head).hexdigest().encode() + b"\n":
        return None
    lines = head.decode("ascii", "replace").splitlines()
    if len(lines) < 2 or lines[0] != MAGIC or not lines[1].startswith("boot "):
        return None
    records = {}
    for rank, line in enumerate(lines[2:]):
        match = LINE.fullmatch(line)
        if match is None:
            return None
        states = bytes(int(digit) for digit in match[5])
        record = Record(match[1], int(match[2]), int(match[3]), match[4], states, int(match[6]), int(match[7]),
                        match[8] is not None)
        records[record.sha256, record.index] = rank, record
    return records


def put_state(int dirfd, records) -> None:
    """Writes the state file of *records*, the least recently used first. The segments are on the disk already."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
    except OSError:
        boot = "unknown"
    lines = [MAGIC, f"boot {boot}"]
    for r in records:
        states = "".join(str(state) for state in r.states)
        lines.append(f"{r.sha256} {r.index} {r.size} {r.root} {states} {r.length} {r.ctime_ns}{' reused' if r.reused else ''}")
    text = "".join(f"{line}\n" for line in lines).encode()
    text += f"sha256 {hashlib.sha256(text).hexdigest()}\n".encode()
    fd = os.open("state.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=dirfd)
    try:
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.write(text)
        os.fsync(fd)
        os.rename("state.new", "state", src_dir_fd=dirfd, dst_dir_fd=dirfd)
        os.fsync(dirfd)
    except BaseException:
        for name in ("state.new", "state"):
            try:
                os.unlink(name, dir_fd=dirfd)
            except OSError:
                pass
        raise
    finally:
        os.close(fd)


def sync(int dirfd, segments) -> list:
    """Puts files that were written to on stable storage, and their names: [(stamp, record, descriptor, or -1: not open)] ->
    [(stamp, record)], without those whose file is gone."""
    records = at_once(lambda each: sync_file(dirfd, each[1], each[2]), segments)
    found = [(stamp, record) for (stamp, _, _), record in zip(segments, records, strict=True) if record is not None]
    at_once(lambda name: sync_directory(dirfd, name), sorted({record.sha256 for _, record in found}))
    os.fsync(dirfd)
    return found


def at_once(work, items) -> list:
    """*work* of each; of many, SYNCERS at a time: a journal commits together what is asked for together."""
    if len(items) <= SYNCERS:
        return [work(item) for item in items]
    from concurrent.futures import ThreadPoolExecutor    # not at the start, which is not to wait for it

    try:
        with ThreadPoolExecutor(SYNCERS) as pool:
            return list(pool.map(work, items))
    except RuntimeError:             # no thread can be started
        return [work(item) for item in items]


def sync_file(int dirfd, record, int fd):
    """*record*; None when there is no such file. The ctime of an open one is what it is now: it is we who wrote to it."""
    if fd >= 0:
        os.fsync(fd)
        return record._replace(ctime_ns=os.fstat(fd).st_ctime_ns)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(f"{record.sha256}.d/{record.index}", flags, dir_fd=dirfd)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        return None
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return record


def sync_directory(int dirfd, name: str) -> None:
    try:
        fd = os.open(f"{name}.d", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dirfd)
    except (FileNotFoundError, NotADirectoryError):      # removed by somebody: the next start finds no file of it
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def find(int dirfd, limit: int):
    """(segments to adopt, the least recently used first; foreign names, which stay; Found). Removes what is no segment,
    and what is too much for *limit* bytes."""
    state = take_state(dirfd)
    recorded = state or {}
    foreign, removed, segments = [], [], []
    for name in sorted(os.listdir(dirfd)):
        if not re.fullmatch("[0-9a-f]{64}[.]d", name) or not stat.S_ISDIR(os.lstat(name, dir_fd=dirfd).st_mode):
            if name != "lock":
                foreign.append(name)
            continue
        sub = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dirfd)
        strange, ours = [], 0
        try:
            for entry in os.listdir(sub):
                status = os.lstat(entry, dir_fd=sub)
                if not re.fullmatch("0|[1-9][0-9]{0,9}", entry) or stat.S_ISDIR(status.st_mode):
                    strange.append(f"{name}/{entry}")
                    continue
                rank, record = recorded.get((name[:64], int(entry)), (-1, None))
                segment, why = judge(name[:64], int(entry), status, record)
                if why:
                    os.unlink(entry, dir_fd=sub)
                    removed.append(f"{name}/{entry}: {why}")
                else:
                    segments.append((rank, status.st_mtime_ns, segment))
                    ours += 1
        finally:
            os.close(sub)
        foreign += sorted(strange)
        if not strange and not ours:
            os.rmdir(name, dir_fd=dirfd)
    segments.sort(key=lambda each: each[:2])             # not in the record: older than all that are
    kept = [segment for _, _, segment in segments]
    surplus = too_much(kept, limit)
    for segment in surplus:
        remove(dirfd, segment)
    gone = set(surplus)
    kept = [segment for segment in kept if segment not in gone]
    found = Found(len(kept), sum(segment.length for segment in kept), state is not None, len(removed),
                  tuple(removed[:NAMED]), len(surplus))
    return kept, tuple(foreign), found


def too_much(segments, limit: int):
    """Those of *segments*, the least recently used first, for which *limit* is too small: what lru_policy would choose, as
    far as it is known before a catalogue names them."""
    small = [s for s in segments if s.index == 0 and s.length < SEGMENT_BYTES]
    large = [s for s in segments if s.index != 0 or s.length >= SEGMENT_BYTES]
    beyond = oldest(small, sum(charge_of(s.length) for s in small) - limit // 4)
    order = [*small[:beyond], *(s for s in large if not s.reused), *(s for s in large if s.reused), *small[beyond:]]
    return order[:oldest(order, sum(charge_of(s.length) for s in order) - limit)]


def oldest(segments, wanted: int) -> int:
    """How many of the first of *segments* make up *wanted* bytes."""
    count = 0
    while wanted > 0:
        wanted -= charge_of(segments[count].length)
        count += 1
    return count


def judge(sha256: str, index: int, status, record):
    """(Segment, "") or (None, why it is none)."""
    if not stat.S_ISREG(status.st_mode):
        return None, "expected a regular file"
    if index >= INDEX_LIMIT:
        return None, f"expected a segment below {INDEX_LIMIT}"
    length = status.st_size
    if not 0 < length <= SEGMENT_BYTES:
        return None, f"expected up to {SEGMENT_BYTES} bytes, got {length}"
    if record is None:
        return Segment(sha256, index, -1, "-", cut(UNKNOWN, length), length, 0, False), ""
    if length != record.length or (record.size >= 0 and length != min(SEGMENT_BYTES, record.size - index * SEGMENT_BYTES)):
        return None, f"expected {record.length} bytes of a blob of {record.size}, got {length}"
    states = cut(record.states, length)
    if not any(states):
        return None, "expected a chunk in it, got none"
    ctime_ns = record.ctime_ns
    if status.st_ctime_ns != ctime_ns:                   # somebody was here: nothing in it is known any more
        states = bytes(CHUNK_UNCHECKED if state == CHUNK_PRESENT else state for state in states)
        ctime_ns = 0
    return Segment(sha256, index, record.size, record.root, states, length, ctime_ns, record.reused), ""


def cut(states: bytes, length: int) -> bytes:
    """Chunks beyond the end of the file are none."""
    chunks = (length + CHUNK_BYTES - 1) // CHUNK_BYTES
    return states[:chunks] + bytes([CHUNK_ABSENT]) * (SEGMENT_CHUNKS - chunks)


def remove(int dirfd, segment) -> None:
    """Best effort: what stays is replaced when the segment is filled."""
    try:
        sub = os.open(f"{segment.sha256}.d", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dirfd)
        try:
            os.unlink(str(segment.index), dir_fd=sub)
        finally:
            os.close(sub)
        os.rmdir(f"{segment.sha256}.d", dir_fd=dirfd)
    except OSError:
        pass
