"""Reactor: one epoll thread that never takes the GIL, and the Python face of its mailboxes.

Python gives it sockets, snapshots, news of chunks and answers; it gives back misses, questions and connections that are
not its to answer (see loop.pxd for the mails). What the services do on the thread stands in http_service and
tftp_service; this module knows only how a thread starts, is spoken to, and ends.
"""

import atexit
import os
import threading
import time
import weakref

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from bootplane.core.blob cimport Blob
from bootplane.core.counters cimport CounterBlock
from bootplane.core.linux cimport (
    AF_INET, AF_INET6, SIG_SETMASK, bp_load_u32, ntohs, pthread_sigmask, sigfillset, sigset_t, sockaddr_in,
    sockaddr_in6, sockaddr_storage, write,
)
from bootplane.core.loop cimport (
    MAIL_ADOPT, MAIL_ANSWER, MAIL_ASK, MAIL_CHUNK, MAIL_DAMAGED, MAIL_DRAIN, MAIL_DRAINED, MAIL_HANDOVER, MAIL_MISS,
    MAIL_OPEN, MAIL_RETIRED, MAIL_SNAPSHOT, MAIL_STOP, PROTO_HTTP, ask_t, handover_t, loop_free, loop_init, loop_run,
    loop_t, mail_drop,
)
from bootplane.core.mailbox cimport (
    mail_t, mailbox_begin, mailbox_free, mailbox_init, mailbox_pop, mailbox_push_locked,
)
from bootplane.core.records cimport RECORDS, records_free, records_init, records_read
from bootplane.core.segments cimport blob_retain
from bootplane.core.records import Record
from bootplane.core.status import RingFull
from bootplane.core.status cimport ST_FULL, check
from bootplane.core.table cimport Table, table_retain

import socket as _socket

cdef enum:
    INBOX_MAILS = 8192
    OUTBOX_MAILS = 8192
    POST_TRIES = 2000                # of 1 ms each: a reactor that reads nothing for 2 s is dead

_running = weakref.WeakSet()


@atexit.register
def _stop_all():
    for reactor in list(_running):
        reactor.stop()


cdef tuple address_of(const sockaddr_storage* ss):
    """(ip, port), an IPv4-mapped IPv6 address as the IPv4 it is."""
    cdef const sockaddr_in* v4 = <const sockaddr_in*>ss
    cdef const sockaddr_in6* v6 = <const sockaddr_in6*>ss
    if ss.ss_family == AF_INET:
        return (_socket.inet_ntop(AF_INET, (<const uint8_t*>&v4.sin_addr)[:4]), ntohs(v4.sin_port))
    if ss.ss_family == AF_INET6:
        raw = (<const uint8_t*>&v6.sin6_addr)[:16]
        if raw[:12] == b"\0" * 10 + b"\xff\xff":
            return (_socket.inet_ntop(AF_INET, raw[12:]), ntohs(v6.sin6_port))
        return (_socket.inet_ntop(AF_INET6, raw), ntohs(v6.sin6_port))
    return ("", 0)


cdef void thread_body(loop_t* loop) noexcept nogil:
    cdef sigset_t every
    sigfillset(&every)
    pthread_sigmask(SIG_SETMASK, &every, NULL)       # no EINTR in the data path; signals are the main thread's
    loop_run(loop)


cdef class Reactor:
    """One epoll thread serving *http*, *tftp* and *https*: bound, non-blocking sockets, borrowed descriptors.

    Their options are mappings with the field names of http_options_t, tftp_options_t and tls_options_t, times in
    seconds (``idle_timeout_s``). HTTPS needs *http* beside it. Services are attached before start(); publish() gives
    the first snapshot.
    """

    def __cinit__(self, *args, **kwargs):
        self.loop.epfd = -1
        self.block = CounterBlock()

    def __init__(self, int index=0, *, http=(), tftp=(), https=(), http_options=None, tftp_options=None,
                 https_options=None, double park_limit_s=20.0):
        check(mailbox_init(&self.inbox, INBOX_MAILS), "reactor's inbox")
        check(mailbox_init(&self.outbox, OUTBOX_MAILS), "reactor's outbox")
        check(records_init(&self.ring, RECORDS), "reactor's ring of records")
        self.index = index
        check(loop_init(&self.loop, index, &self.block.c, &self.inbox, &self.outbox, &self.ring,
                        <int64_t>(park_limit_s * 1e9)), "reactor's loop")
        self.opened = True
        if http:
            from bootplane.core.attach import attach_http
            attach_http(self, http, http_options or {})
        if tftp:
            from bootplane.core.attach import attach_tftp
            attach_tftp(self, tftp, tftp_options or {})
        if https:
            from bootplane.core.attach import attach_https
            attach_https(self, https, https_options or {})

    def __dealloc__(self):
        cdef mail_t mail
        if self.thread is not None and not self.finished:
            return                   # a daemon thread outlived the interpreter's patience: leave it what it may touch
        if self.inbox.slots != NULL:
            while mailbox_pop(&self.inbox, &mail):
                mail_drop(&mail)
        if self.outbox.slots != NULL:
            while mailbox_pop(&self.outbox, &mail):
                mail_drop(&mail)
        if self.opened:
            if self.thread is None:  # never ran: the services' sockets and tables are still there
                if self.loop.stop_http != NULL:
                    self.loop.stop_http(&self.loop)
                if self.loop.stop_tftp != NULL:
                    self.loop.stop_tftp(&self.loop)
                if self.loop.stop_tls != NULL:
                    self.loop.stop_tls(&self.loop)
            loop_free(&self.loop)
        mailbox_free(&self.inbox)
        mailbox_free(&self.outbox)
        records_free(&self.ring)

    def start(self):
        """Starts the thread. Call once."""
        if self.thread is not None:
            raise ValueError(f"reactor {self.index} was started before")
        self.pid = os.getpid()
        self.thread = threading.Thread(target=self._run, name=f"reactor-{self.index}", daemon=True)
        _running.add(self)
        self.thread.start()

    def _run(self):
        cdef loop_t* loop = &self.loop
        try:
            with nogil:
                thread_body(loop)
        finally:
            self.finished = True

    @property
    def alive(self):
        return self.thread is not None and self.thread.is_alive()

    def stop(self):
        """Ends the thread and joins it; every connection and transfer is closed. Safe to call twice."""
        cdef mail_t mail
        _running.discard(self)
        if self.thread is None or self.pid != os.getpid() or not self.thread.is_alive():
            return
        memset(&mail, 0, sizeof(mail))
        mail.kind = MAIL_STOP
        self.post(&mail)
        self.thread.join()

    def open(self):
        """Lets clients in although there is no snapshot yet (option ``hold``); the first one does it, too."""
        cdef mail_t mail
        memset(&mail, 0, sizeof(mail))
        mail.kind = MAIL_OPEN
        self.post(&mail)

    def drain(self):
        """Stops accepting; what runs is finished. take() gives ("drained",) when nothing is left."""
        cdef mail_t mail
        memset(&mail, 0, sizeof(mail))
        mail.kind = MAIL_DRAIN
        self.post(&mail)

    def ping(self):
        """Posts a mail that means nothing. Returns a mark: has_read() it is true once the thread has turned."""
        cdef mail_t mail
        memset(&mail, 0, sizeof(mail))
        mailbox_push_locked(&self.inbox, &mail)      # or it is full: what is in it serves as well
        return bp_load_u32(&self.inbox.tail)

    def has_read(self, uint32_t mark):
        """Whether the thread has read all mails up to *mark*, whatever has come since."""
        return <int32_t>(bp_load_u32(&self.inbox.head) - mark) >= 0

    cdef int post(self, const void* mail) except -1:
        """What the mail owns passes to the reactor, or is dropped with the exception."""
        cdef int tries = 0
        while True:
            if mailbox_push_locked(&self.inbox, <const mail_t*>mail) != ST_FULL:
                return 0
            tries += 1
            if tries > POST_TRIES:
                mail_drop(<const mail_t*>mail)
                raise RingFull(f"reactor {self.index} has not read its inbox of {INBOX_MAILS} mails for 2 s", ST_FULL)
            time.sleep(0.001)

    def publish(self, Table table not None):
        """Gives the reactor a new snapshot of names; it lets go of the old one by itself."""
        cdef mail_t mail
        memset(&mail, 0, sizeof(mail))
        mail.kind = MAIL_SNAPSHOT
        mail.p = table.t
        table_retain(table.t)        # passes to the reactor
        self.post(&mail)

    def chunk(self, Blob blob not None, uint64_t index, int status=0):
        """Wakes whoever is parked for chunk *index*: present (0), or the status code why it cannot be had."""
        cdef mail_t mail
        memset(&mail, 0, sizeof(mail))
        mail.kind = MAIL_CHUNK
        mail.status = status
        mail.a = index
        mail.p = blob.b
        blob_retain(blob.b)          # passes to the reactor
        self.post(&mail)

    def answer(self, uint64_t request, Blob blob, int status=0):
        """Answers a question from take(): a blob, or None and the status code why not."""
        cdef mail_t mail
        memset(&mail, 0, sizeof(mail))
        mail.kind = MAIL_ANSWER
        mail.status = status
        mail.a = request
        if blob is not None:
            mail.p = blob.b
            blob_retain(blob.b)      # passes to the reactor
        self.post(&mail)

    def adopt(self, int fd, bytes data=b""):
        """Gives a connection back, with bytes already read from it. The descriptor is the reactor's from here on."""
        cdef mail_t mail
        memset(&mail, 0, sizeof(mail))
        mail.kind = MAIL_ADOPT
        mail.status = fd
        mail.a = len(data)
        mail.p = malloc(len(data) + 1)
        if mail.p == NULL:
            os.close(fd)
            raise MemoryError("no memory for a connection that comes back")
        memcpy(mail.p, <const char*>data, len(data))
        self.post(&mail)

    def fileno(self):
        """The eventfd that is readable when take() has something."""
        return self.outbox.fd

    def take(self, int limit=1024):
        """Returns up to *limit* mails of the reactor as tuples; the kinds stand in reactor.pyi."""
        cdef mail_t mail
        cdef uint64_t one = 1
        cdef ask_t* ask
        cdef handover_t* h
        out = []
        mailbox_begin(&self.outbox)
        while mailbox_pop(&self.outbox, &mail):
            if mail.kind == MAIL_MISS:
                out.append(("miss", mail.a, mail.b))
            elif mail.kind == MAIL_DAMAGED:
                out.append(("damaged", mail.a, mail.b))
            elif mail.kind == MAIL_ASK:
                ask = <ask_t*>mail.p
                out.append(("ask", ask.id, "http" if ask.proto == PROTO_HTTP else "tftp",
                            ask.name[:ask.name_len].decode("latin-1"), address_of(&ask.peer), address_of(&ask.local)))
                free(ask)
            elif mail.kind == MAIL_HANDOVER:
                h = <handover_t*>mail.p
                out.append(("handover", h.fd, (<const char*>h.data)[:h.length], address_of(&h.peer),
                            address_of(&h.local)))
                free(h.data)
                free(h)
            elif mail.kind == MAIL_RETIRED:
                mail_drop(&mail)     # frees the old snapshot here, where it holds up nobody
            elif mail.kind == MAIL_DRAINED:
                out.append(("drained",))
            if len(out) >= limit:
                write(self.outbox.fd, &one, sizeof(one))     # there may be more: come back
                break
        return out

    def records(self, Py_ssize_t limit=1024) -> list[Record]:
        """Returns up to *limit* transfers that have ended, oldest first; never blocks. From one thread at a time.

        Nothing tells when there are some: poll. The ring holds 4096; when it is full the newest are dropped and counted
        as ``records_lost``. What stop() cuts short is there afterwards.
        """
        return records_read(&self.ring, limit)

    def counters(self):
        """Returns name -> count of this reactor since its start."""
        return self.block.read()
