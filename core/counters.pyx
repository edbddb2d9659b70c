"""One table of counters with their help text; a block per reactor, written by its thread alone, summed on read.

A counter's name is its definition. The order is that of counter_t in counters.pxd.
"""

from typing import NamedTuple

from bootplane.core.linux cimport bp_relaxed_u64


class Counter(NamedTuple):
    """``name`` without the ``bootplane_`` prefix and ``_total`` suffix; ``help`` as it stands in /metrics."""

    name: str
    help: str


COUNTERS = (
    Counter("http_connections", "HTTP connections accepted."),
    Counter("http_closed", "HTTP connections closed."),
    Counter("http_requests", "HTTP request heads parsed, whatever became of them."),
    Counter("http_ok", "HTTP responses with status 200."),
    Counter("http_partial", "HTTP responses with status 206."),
    Counter("http_not_modified", "HTTP responses with status 304."),
    Counter("http_client_error", "HTTP responses with a 4xx status."),
    Counter("http_server_error", "HTTP responses with a 5xx status."),
    Counter("http_body_bytes", "HTTP body bytes accepted by the kernel."),
    Counter("http_head_bytes", "HTTP head bytes accepted by the kernel."),
    Counter("http_handed_over", "HTTP connections given to the control thread."),
    Counter("http_adopted", "HTTP connections that came back from the control thread."),
    Counter("http_cut", "HTTP responses ended short because right bytes could not be had in time."),
    Counter("http_aborted", "HTTP responses whose client went away."),
    Counter(
        "http_shed",
        "HTTP connections ended to make room: idle ones, unfinished heads, readers that take next to nothing.",
    ),
    Counter("http_refused", "HTTP connections told 503 because there was no place for them."),
    Counter("tls_connections", "HTTPS connections accepted: handshakes + failed + refused + those under way."),
    Counter("tls_closed", "HTTPS connections closed."),
    Counter("tls_handshakes", "TLS handshakes that came to their end; the connection is counted by HTTP from then on."),
    Counter("tls_failed_plain", "HTTPS connections that spoke plain HTTP and were told 400."),
    Counter("tls_failed_protocol", "TLS handshakes that failed: no TLS, or nothing that both sides know."),
    Counter("tls_failed_timeout", "TLS handshakes that were not finished in time."),
    Counter("tls_failed_gone", "TLS handshakes whose client went away, or that the rack's end cut."),
    Counter("tls_refused", "HTTPS connections closed before a handshake because there was no place for them."),
    Counter("tftp_requests", "TFTP read requests that began a transfer."),
    Counter("tftp_repeated", "TFTP read requests that repeated one being served."),
    Counter("tftp_completed", "TFTP transfers whose last block was acknowledged."),
    Counter("tftp_aborted", "TFTP transfers ended by the client, the size probe of UEFI firmware among them."),
    Counter("tftp_timed_out", "TFTP transfers whose client fell silent."),
    Counter("tftp_errors", "TFTP ERROR packets sent."),
    Counter("tftp_data", "TFTP DATA packets sent, retransmitted ones included."),
    Counter("tftp_retransmitted", "TFTP DATA packets sent again."),
    Counter("tftp_data_bytes", "TFTP payload bytes sent, retransmitted ones included."),
    Counter("tftp_malformed", "TFTP datagrams dropped in silence."),
    Counter("lookups", "Names looked up: found + dynamic + unknown."),
    Counter("names_found", "Names found in the table."),
    Counter("names_dynamic", "Names whose content is made for the machine that asks."),
    Counter("names_unknown", "Names nobody has."),
    Counter("hits", "Transfers that never waited for a byte."),
    Counter("misses", "Transfers that waited for a chunk that they were the first to ask for."),
    Counter("coalesced", "Transfers that waited only for chunks that others had asked for."),
    Counter("parked", "Times a transfer was parked for a chunk."),
    Counter("park_timeouts", "Times a parked transfer waited longer than the limit."),
    Counter("unreadable", "Times a file on the rack's own disk could not be read while it was sent."),
    Counter("mail_refused", "Mails to the control thread that found the ring full and were sent again."),
    Counter("records", "Transfers that ended and were recorded for the boot timeline."),
    Counter("records_lost", "Transfers that ended while the ring of records was full: they are in no timeline."),
    Counter("records_lost_refused", "Of these, refused requests that found their quarter of the ring full."),
)

if len(COUNTERS) != C_COUNT:
    raise ImportError(f"counters: {len(COUNTERS)} texts for {C_COUNT} counters")


cdef class CounterBlock:
    """The counters of one reactor. Reading is safe at any time from any thread."""

    def read(self):
        """Returns name -> count since start."""
        cdef int i
        return {COUNTERS[i].name: bp_relaxed_u64(&self.c.v[i]) for i in range(C_COUNT)}


def add_up(blocks):
    """Sums what several blocks' read() returned."""
    total = {counter.name: 0 for counter in COUNTERS}
    for block in blocks:
        for name, value in block.items():
            total[name] += value
    return total
