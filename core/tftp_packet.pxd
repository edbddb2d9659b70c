# TFTP packets (RFC 1350, 2347) <-> structs, in the caller's buffer. No socket, no state, no copy of a name.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum opcode_t:
    OP_RRQ = 1
    OP_WRQ = 2
    OP_DATA = 3
    OP_ACK = 4
    OP_ERROR = 5
    OP_OACK = 6

cdef enum error_t:               # codes of ERROR packets
    ERR_UNDEFINED = 0            # read the text
    ERR_NOT_FOUND = 1
    ERR_ACCESS = 2
    ERR_ILLEGAL = 4
    ERR_UNKNOWN_TID = 5
    ERR_OPTIONS = 8              # RFC 2347; UEFI firmware ends its size probe with it

cdef enum mode_t:
    MODE_OTHER = 0
    MODE_OCTET = 1
    MODE_NETASCII = 2
    MODE_MAIL = 3

cdef enum option_t:              # a bit set
    OPT_BLKSIZE = 1              # RFC 2348
    OPT_TIMEOUT = 2              # RFC 2349
    OPT_TSIZE = 4                # RFC 2349
    OPT_WINDOWSIZE = 8           # RFC 7440

cdef enum:
    DATA_HEADER = 4              # opcode, block number
    BLKSIZE_DEFAULT = 512
    BLKSIZE_MIN = 8              # RFC 2348
    BLKSIZE_MAX = 65464
    ERROR_ROOM = 516             # longest ERROR we send: header 4, text 511, NUL
    OACK_ROOM = 96  # longest OACK: 2 + "blksize.65464." "timeout.255." "tsize.<20 digits>." "windowsize.65535."

cdef struct options_t:           # of one request, or of one OACK
    uint8_t present  # OPT_* bits; a value out of its RFC's range leaves its bit clear: the option is ignored
    uint32_t blksize             # bytes, 8..65464
    uint32_t timeout_s           # 1..255
    uint32_t windowsize          # blocks, 1..65535

cdef struct request_t:
    uint16_t opcode              # OP_RRQ or OP_WRQ
    uint8_t mode                 # mode_t
    const char* name             # borrowed from the packet, not NUL-terminated by name_len
    uint32_t name_len
    options_t options

cdef inline int opcode_of(const uint8_t* packet, size_t n) noexcept nogil:      # 0 when there is none
    return (packet[0] << 8) | packet[1] if n >= 2 else 0

cdef inline uint16_t block_of(const uint8_t* packet) noexcept nogil:            # of DATA and ACK, code of ERROR; n >= 4
    return <uint16_t>((packet[2] << 8) | packet[3])

cdef inline void data_header(uint8_t* out, uint64_t block) noexcept nogil:      # block numbers roll over to 0
    out[0] = 0
    out[1] = OP_DATA
    out[2] = <uint8_t>(block >> 8)
    out[3] = <uint8_t>block

cdef int request_parse(const uint8_t* packet, size_t n, request_t* out) noexcept nogil              # ST_OK or ST_BAD
cdef size_t oack_write(uint8_t* out, const options_t* options, uint64_t tsize) noexcept nogil  # out: OACK_ROOM bytes
# *out* has ERROR_ROOM bytes; the text is the printable part of *before*, *name*, *after*, the name cut so that both
# fit.
cdef size_t error_write(uint8_t* out, int code, const char* before, const char* name, size_t name_len,
                        const char* after) noexcept nogil
