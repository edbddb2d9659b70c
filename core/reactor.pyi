from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from bootplane.core.blob import Blob
from bootplane.core.table import Table

Address = tuple[str, int]
Mail = (
    tuple[Literal["miss"], int, int]  # blob id, chunk
    | tuple[Literal["damaged"], int, int]  # the same: its file cannot be read there, or in the chunk that follows
    | tuple[Literal["ask"], int, str, str, Address, Address]  # request id, protocol, name, peer, local
    | tuple[Literal["handover"], int, bytes, Address, Address]  # descriptor (yours now), bytes read so far, peer, local
    | tuple[Literal["drained"]]
)

class Record(NamedTuple):
    """One transfer that has ended: an HTTP request that got a response or lost its connection, or a TFTP request that
    began a transfer or was refused with an ERROR. Not: what was handed over to Python, or met with silence.

    Times are CLOCK_MONOTONIC as the reactor reads it, once per wake-up: a hit may begin and end in the same one.
    HTTP counts what the kernel took, TFTP what the client acknowledged.
    """

    began_ns: int  # the request was read
    ended_ns: int
    proto: Literal["http", "tftp"]
    peer: Address  # IPv4 as such, also on a socket of both families
    name: str  # canonical, or as asked when it cannot be one; Latin-1, 255 bytes at most, control characters as "?"
    outcome: Literal[
        "complete",  # HTTP: 200, 206, 304, HEAD among them; TFTP: the last block was acknowledged
        "aborted",  # closed, ERROR, unreachable, or another request from the same port
        "timeout",  # the peer fell silent, be it before the last ACK alone
        "cut",  # the rack could not give the bytes, or was stopped
        "refused",  # HTTP: 4xx, 5xx; TFTP: ERROR before any DATA
        "probe",  # TFTP: ERROR 8 after the OACK, before any DATA was acknowledged: UEFI has asked for the size
    ]
    status: int  # HTTP: 0 when the connection was lost before any; TFTP: code of the ERROR sent or received, 0: none
    size: int  # of the file; -1: unknown
    offset: int  # first byte asked for
    sent: int  # payload bytes delivered, each once; not the text of a refusal
    source: Literal[
        "hit",  # never waited
        "miss",  # waited for a chunk that nobody on this reactor had asked for before
        "coalesced",  # waited, but only for what others on this reactor had asked for already
        "dynamic",  # made by Python for this machine, or denied by it
        "",  # no byte of a file was to be sent: refusals, HEAD, 304
    ]
    blksize: int  # TFTP, granted; 0 where no transfer began
    windowsize: int
    packets: int  # DATA packets sent, all
    retransmits: int  # of them sent before
    duplicate_acks: int  # ACKs that moved nothing
    head: bool  # HTTP HEAD
    agent: str  # User-Agent, 47 bytes at most
    reused: int  # HTTP: number of the request on its connection, from 1 (again after adopt()); 0: none was read, TFTP

class Reactor:
    index: int
    def __init__(
        self,
        index: int = 0,
        *,
        http: Sequence[int] = (),
        tftp: Sequence[int] = (),
        https: Sequence[int] = (),
        http_options: Mapping[str, Any] | None = None,
        tftp_options: Mapping[str, Any] | None = None,
        https_options: Mapping[str, Any] | None = None,
        park_limit_s: float = 20.0,
    ) -> None: ...
    @property
    def alive(self) -> bool: ...
    def ping(self) -> int: ...
    def has_read(self, mark: int) -> bool: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def open(self) -> None: ...
    def drain(self) -> None: ...
    def publish(self, table: Table) -> None: ...
    def chunk(self, blob: Blob, index: int, status: int = 0) -> None: ...
    def answer(self, request: int, blob: Blob | None, status: int = 0) -> None: ...
    def adopt(self, fd: int, data: bytes = b"") -> None: ...
    def fileno(self) -> int: ...
    def take(self, limit: int = 1024) -> list[Mail]: ...
    def records(self, limit: int = 1024) -> list[Record]: ...
    def counters(self) -> dict[str, int]: ...
