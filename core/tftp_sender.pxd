# Blocks of files as datagrams: gathered from the mapping, many in one sendmmsg, windows as UDP_SEGMENT messages.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from bootplane.core.linux cimport iovec, mmsghdr, sockaddr_storage
from bootplane.core.loop cimport loop_t
from bootplane.core.segments cimport segment_t
from bootplane.core.tftp_deadlines cimport wheel_t
from bootplane.core.tftp_sessions cimport path_t, session_t, tid_t
from bootplane.core.tftp_shares cimport held_t

cdef enum:
    OUT_MESSAGES = 256
    OUT_IOVECS = 2048
    OUT_HEADERS = 16384          # bytes of DATA headers and OACKs
    OUT_SEGMENTS = 512           # references held until the call returned
    OUT_CONTROL = 96             # bytes of ancillary data per message: pktinfo 40, UDP_SEGMENT 24
    GSO_SEGMENTS = 64            # UDP_MAX_SEGMENTS of every kernel that has GSO
    GSO_BYTES = 65507            # 65535 - 20 (IPv4) - 8 (UDP)
    TURN_BLOCKS = 64             # what one transfer may add before the others get their turn

cdef struct out_t:               # what one message carries
    session_t* session
    uint64_t first
    uint32_t blocks              # 0: an OACK
    uint32_t bytes               # payload
    uint8_t gso

cdef struct sender_t:            # one batch for one TID socket; empty between calls
    mmsghdr messages[256]
    out_t out[256]
    iovec iovecs[2048]
    segment_t* segments[512]
    uint8_t headers[16384]
    uint8_t control[256][96]
    uint32_t n                   # messages
    uint32_t iovecs_used
    uint32_t headers_used
    uint32_t segments_used

# Sends what the sessions of *tid* owe, in turns, until they owe nothing, are parked, have no turn (held), or the kernel
# refuses.
cdef void sender_pump(sender_t* s, loop_t* loop, wheel_t* wheel, held_t* held, tid_t* tid) noexcept nogil
# One packet; a refusal by the kernel is as good as a loss on the way.
cdef void send_one(int fd, const path_t* path, const uint8_t* packet, size_t n) noexcept nogil
# 1 if the kernel knows UDP_SEGMENT: an older one would send one huge datagram
cdef int gso_probe(int fd) noexcept nogil
