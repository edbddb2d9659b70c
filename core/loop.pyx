"""What one reactor thread owns: epoll, clock, snapshot, parked waiters, both mailboxes.

Services (HTTP, TFTP) put handlers into epoll, tickers into the list of deadlines, and park waiters here. Everything
runs on the reactor's own thread; the mailboxes are the only doors. Nothing here touches a Python object.

The inbox is read after the other events of a wake-up, tickers after that: both may end connections whose events stand
later in the same batch.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from libc.time cimport gmtime_r, time_t, tm
from bootplane.core.counters cimport C_MAIL_REFUSED, C_PARKED, C_PARK_TIMEOUTS, C_UNREADABLE, count, counters_t
from bootplane.core.linux cimport (
    CLOCK_REALTIME, EPOLLET, EPOLLIN, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, clock_gettime, close, epoll_create1,
    epoll_ctl, epoll_event, epoll_wait, errno, monotonic_ns, sockaddr_storage, timespec,
)
from bootplane.core.mailbox cimport mail_t, mailbox_begin, mailbox_pop, mailbox_push, mailbox_t
from bootplane.core.records cimport records_t
from bootplane.core.segments cimport blob_release, blob_retain, blob_t
from bootplane.core.status cimport ST_NOMEM, ST_OK, ST_TIMEOUT
from bootplane.core.table cimport table_release, table_t

cdef enum:
    BATCH = 256                      # epoll events per wake-up
    PARK_TICK_NS = 100000000         # how often deadlines of parked waiters are looked at, and refused mails sent again

cdef const char** DAYS = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"]
cdef const char** MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


cdef int loop_add(loop_t* loop, int fd, handler_t* handler, uint32_t events) noexcept nogil:
    cdef epoll_event event
    event.events = events
    event.data.ptr = handler
    if epoll_ctl(loop.epfd, EPOLL_CTL_ADD, fd, &event) < 0:
        return -errno
    return ST_OK


cdef void loop_remove(loop_t* loop, int fd) noexcept nogil:
    cdef epoll_event event           # ignored, but kernels before 2.6.9 wanted one
    epoll_ctl(loop.epfd, EPOLL_CTL_DEL, fd, &event)


cdef void loop_add_ticker(loop_t* loop, ticker_t* ticker) noexcept nogil:
    ticker.next = loop.tickers
    loop.tickers = ticker


# -- parked waiters: PARK_BUCKETS doubly linked lists, newest first --------------------------------------------------

cdef inline uint32_t bucket_of(uint64_t key) noexcept nogil:
    return <uint32_t>((key * <uint64_t>0x9E3779B97F4A7C15) >> 54)      # the top 10 bits: PARK_BUCKETS is 1024


cdef void link(loop_t* loop, waiter_t* w, uint64_t key) noexcept nogil:
    w.bucket = bucket_of(key)
    w.prev = NULL
    w.next = loop.parked[w.bucket]
    if w.next != NULL:
        w.next.prev = w
    loop.parked[w.bucket] = w
    w.parked = 1
    w.deadline_ns = loop.now_ns + loop.park_limit_ns
    loop.parked_count += 1
    if loop.park_ticker.due_ns == NEVER:
        loop.park_ticker.due_ns = loop.now_ns + PARK_TICK_NS


cdef void unlink(loop_t* loop, waiter_t* w) noexcept nogil:
    if loop.cursor == w:
        loop.cursor = w.next
    if w.prev != NULL:
        w.prev.next = w.next
    else:
        loop.parked[w.bucket] = w.next
    if w.next != NULL:
        w.next.prev = w.prev
    w.prev = NULL
    w.next = NULL
    w.parked = 0
    loop.parked_count -= 1


cdef bint post(loop_t* loop, const mail_t* mail) noexcept nogil:
    if mailbox_push(loop.outbox, mail) == ST_OK:
        return True
    count(loop.counters, C_MAIL_REFUSED)
    return False


cdef void post_waiter(loop_t* loop, waiter_t* w) noexcept nogil:
    cdef mail_t mail
    memset(&mail, 0, sizeof(mail))
    if w.request != 0:
        mail.kind = MAIL_ASK
        mail.p = w.unposted
        if post(loop, &mail):
            w.unposted = NULL
            w.posted = 1
    else:
        mail.kind = MAIL_DAMAGED if w.damaged else MAIL_MISS
        mail.a = w.blob.id
        mail.b = w.chunk
        w.posted = post(loop, &mail)


cdef void loop_park(loop_t* loop, waiter_t* w, blob_t* blob, uint64_t chunk, bint damaged) noexcept nogil:
    cdef waiter_t* other
    blob_retain(blob)                # released in forget()
    w.blob = blob
    w.chunk = chunk
    w.request = 0
    w.posted = 0
    w.followed = 0
    w.damaged = damaged
    count(loop.counters, C_PARKED)
    if damaged:
        count(loop.counters, C_UNREADABLE)
    other = loop.parked[bucket_of(blob.id)]
    while other != NULL:
        if other.blob == blob and other.chunk == chunk and other.posted:
            w.posted = 1             # that one's mail will wake this one too; if damage is still there, it is told then
            w.followed = 1
            break
        other = other.next
    link(loop, w, blob.id)
    if not w.posted:
        post_waiter(loop, w)


cdef void loop_tell_damaged(loop_t* loop, blob_t* blob, uint64_t chunk) noexcept nogil:
    cdef mail_t mail
    memset(&mail, 0, sizeof(mail))
    mail.kind = MAIL_DAMAGED
    mail.a = blob.id
    mail.b = chunk
    count(loop.counters, C_UNREADABLE)
    post(loop, &mail)


cdef int loop_ask(loop_t* loop, waiter_t* w, int proto, const char* name, size_t n,
                  const sockaddr_storage* peer, const sockaddr_storage* local) noexcept nogil:
    cdef ask_t* ask = <ask_t*>malloc(sizeof(ask_t))
    if ask == NULL or n > sizeof(ask.name):
        free(ask)
        return ST_NOMEM
    loop.next_request += 1
    ask.id = loop.next_request
    ask.proto = proto
    ask.peer = peer[0]
    ask.local = local[0]
    ask.name_len = <uint16_t>n
    memcpy(ask.name, name, n)
    w.blob = NULL
    w.chunk = 0
    w.request = ask.id
    w.unposted = ask                 # owned by the waiter until its mail is accepted
    w.posted = 0
    link(loop, w, ask.id)
    post_waiter(loop, w)
    return ST_OK


cdef void forget(waiter_t* w) noexcept nogil:
    if w.blob != NULL:
        blob_release(w.blob)         # retained in loop_park
        w.blob = NULL
    if w.unposted != NULL:
        free(w.unposted)
        w.unposted = NULL
    w.request = 0


cdef void loop_unpark(loop_t* loop, waiter_t* w) noexcept nogil:
    if w.parked:                     # its question or miss stays asked: others may wait for the same answer
        unlink(loop, w)
        forget(w)


cdef void wake(loop_t* loop, waiter_t* w, int status, blob_t* answer) noexcept nogil:
    unlink(loop, w)
    forget(w)
    w.on_wake(loop, w, status, answer)


cdef void wake_chunk(loop_t* loop, blob_t* blob, uint64_t chunk, int status) noexcept nogil:
    cdef waiter_t* w = loop.parked[bucket_of(blob.id)]
    while w != NULL:
        loop.cursor = w.next         # a callback may park again (at the head) or end other waiters (moves the cursor)
        if w.blob == blob and w.chunk == chunk:
            wake(loop, w, status, NULL)
        w = loop.cursor
    loop.cursor = NULL


cdef void wake_answer(loop_t* loop, uint64_t request, int status, blob_t* answer) noexcept nogil:
    cdef waiter_t* w = loop.parked[bucket_of(request)]
    while w != NULL:
        if w.request == request:
            wake(loop, w, status, answer)
            return
        w = w.next                   # nobody: the asker has gone


cdef int64_t park_tick(loop_t* loop, ticker_t* self) noexcept nogil:
    cdef int i
    cdef waiter_t* w
    for i in range(PARK_BUCKETS):
        w = loop.parked[i]
        while w != NULL:
            loop.cursor = w.next
            if loop.now_ns >= w.deadline_ns:
                count(loop.counters, C_PARK_TIMEOUTS)
                wake(loop, w, ST_TIMEOUT, NULL)
            elif not w.posted:
                post_waiter(loop, w)
            w = loop.cursor
    loop.cursor = NULL
    return NEVER if loop.parked_count == 0 else loop.now_ns + PARK_TICK_NS


cdef int loop_hand_over(loop_t* loop, int fd, const uint8_t* data, size_t n,
                        const sockaddr_storage* peer, const sockaddr_storage* local) noexcept nogil:
    cdef mail_t mail
    cdef handover_t* h = <handover_t*>malloc(sizeof(handover_t))
    loop_remove(loop, fd)            # before the mail: then Python may close it, and the number be somebody else's
    if h == NULL:
        return ST_NOMEM
    h.data = <uint8_t*>malloc(n if n else 1)
    if h.data == NULL:
        free(h)
        return ST_NOMEM
    memcpy(h.data, data, n)
    h.fd = fd
    h.length = n
    h.peer = peer[0]
    h.local = local[0]
    memset(&mail, 0, sizeof(mail))
    mail.kind = MAIL_HANDOVER
    mail.p = h
    cdef int status = mailbox_push(loop.outbox, &mail)
    if status != ST_OK:
        count(loop.counters, C_MAIL_REFUSED)
        free(h.data)
        free(h)
    return status


# -- the inbox -------------------------------------------------------------------------------------------------------

cdef void inbox_event(loop_t* loop, handler_t* self, uint32_t events) noexcept nogil:
    loop.inbox_ready = 1


cdef void open_doors(loop_t* loop) noexcept nogil:
    cdef ticker_t* ticker = loop.tickers
    loop.opened = 1
    while ticker != NULL:
        ticker.due_ns = 0            # a look for each service, in this wake-up
        ticker = ticker.next


cdef void take_snapshot(loop_t* loop, table_t* table) noexcept nogil:
    cdef mail_t mail
    cdef table_t* old = loop.table
    loop.table = table
    if old == NULL:
        open_doors(loop)
        return
    memset(&mail, 0, sizeof(mail))
    mail.kind = MAIL_RETIRED         # freeing thousands of entries is not for this thread
    mail.p = old
    if not post(loop, &mail):
        table_release(old)           # rare; a pause is better than a leak


cdef void begin_drain(loop_t* loop) noexcept nogil:
    loop.draining = 1
    if loop.drain != NULL:
        loop.drain(loop)
    if loop.drain_tftp != NULL:
        loop.drain_tftp(loop)
    if loop.drain_tls != NULL:
        loop.drain_tls(loop)


cdef void read_inbox(loop_t* loop) noexcept nogil:
    cdef mail_t mail
    loop.inbox_ready = 0
    mailbox_begin(loop.inbox)
    while mailbox_pop(loop.inbox, &mail):
        if mail.kind == MAIL_CHUNK:
            wake_chunk(loop, <blob_t*>mail.p, mail.a, mail.status)
            blob_release(<blob_t*>mail.p)
        elif mail.kind == MAIL_ANSWER:
            wake_answer(loop, mail.a, mail.status, <blob_t*>mail.p)
            if mail.p != NULL:
                blob_release(<blob_t*>mail.p)
        elif mail.kind == MAIL_SNAPSHOT:
            take_snapshot(loop, <table_t*>mail.p)
        elif mail.kind == MAIL_ADOPT and loop.adopt != NULL and not loop.draining:
            loop.adopt(loop, mail.status, <uint8_t*>mail.p, mail.a)
        elif mail.kind == MAIL_OPEN:
            open_doors(loop)
        elif mail.kind == MAIL_DRAIN:
            begin_drain(loop)
        elif mail.kind == MAIL_STOP:
            loop.stopping = 1
        else:
            mail_drop(&mail)


cdef void mail_drop(const mail_t* mail) noexcept nogil:
    cdef handover_t* h
    if mail.kind == MAIL_CHUNK or mail.kind == MAIL_ANSWER:
        if mail.p != NULL:
            blob_release(<blob_t*>mail.p)
    elif mail.kind == MAIL_SNAPSHOT or mail.kind == MAIL_RETIRED:
        table_release(<table_t*>mail.p)
    elif mail.kind == MAIL_ADOPT:
        close(mail.status)
        free(mail.p)
    elif mail.kind == MAIL_ASK:
        free(mail.p)
    elif mail.kind == MAIL_HANDOVER:
        h = <handover_t*>mail.p
        close(h.fd)
        free(h.data)
        free(h)


# -- the loop --------------------------------------------------------------------------------------------------------

cdef void renew_date(loop_t* loop) noexcept nogil:
    cdef timespec ts
    cdef tm t
    cdef time_t second
    if loop.now_ns // 1000000000 == loop.date_second:
        return
    loop.date_second = loop.now_ns // 1000000000
    clock_gettime(CLOCK_REALTIME, &ts)
    second = ts.tv_sec
    gmtime_r(&second, &t)
    # IMF-fixdate, RFC 9110 section 5.6.7
    snprintf(loop.date, sizeof(loop.date), "%s, %02d %s %04d %02d:%02d:%02d GMT", DAYS[t.tm_wday], t.tm_mday,
             MONTHS[t.tm_mon], t.tm_year + 1900, t.tm_hour, t.tm_min, t.tm_sec)


cdef int wait_ms(loop_t* loop) noexcept nogil:
    cdef int64_t due = NEVER
    cdef int64_t left
    cdef ticker_t* ticker = loop.tickers
    while ticker != NULL:
        if ticker.due_ns < due:
            due = ticker.due_ns
        ticker = ticker.next
    if due == NEVER:
        return -1
    left = due - monotonic_ns()
    if left <= 0:
        return 0
    return <int>((left + 999999) // 1000000) if left < <int64_t>3600 * 1000000000 else 3600000


cdef void run_tickers(loop_t* loop) noexcept nogil:
    cdef ticker_t* ticker = loop.tickers
    cdef int64_t due
    while ticker != NULL:
        if loop.now_ns >= ticker.due_ns:
            ticker.due_ns = NEVER    # so that a deadline set during the tick is not lost: the earlier of both counts
            due = ticker.tick(loop, ticker)
            if due < ticker.due_ns:
                ticker.due_ns = due
        ticker = ticker.next


cdef int loop_init(loop_t* loop, uint32_t index, counters_t* counters, mailbox_t* inbox, mailbox_t* outbox,
                   records_t* records, int64_t park_limit_ns) noexcept nogil:
    cdef int status
    memset(loop, 0, sizeof(loop_t))
    loop.epfd = epoll_create1(EPOLL_CLOEXEC)
    if loop.epfd < 0:
        return -errno
    loop.scratch = <uint8_t*>calloc(1, SCRATCH_BYTES)
    if loop.scratch == NULL:
        loop_free(loop)
        return ST_NOMEM
    loop.index = index
    loop.counters = counters
    loop.inbox = inbox
    loop.outbox = outbox
    loop.records = records
    loop.park_limit_ns = park_limit_ns
    loop.next_request = <uint64_t>index << 48
    loop.now_ns = monotonic_ns()
    loop.date_second = -1
    renew_date(loop)
    loop.park_ticker.tick = park_tick
    loop.park_ticker.due_ns = NEVER
    loop_add_ticker(loop, &loop.park_ticker)
    loop.inbox_handler.on_event = inbox_event
    status = loop_add(loop, inbox.fd, &loop.inbox_handler, EPOLLIN | EPOLLET)
    if status != ST_OK:
        loop_free(loop)
    return status


cdef void loop_run(loop_t* loop) noexcept nogil:
    cdef epoll_event events[BATCH]
    cdef handler_t* handler
    cdef mail_t mail
    cdef int n, i
    while not loop.stopping:
        n = epoll_wait(loop.epfd, events, BATCH, wait_ms(loop))     # -1 is EINTR: as good as nothing
        loop.now_ns = monotonic_ns()
        renew_date(loop)
        for i in range(n):
            handler = <handler_t*>events[i].data.ptr
            handler.on_event(loop, handler, events[i].events)
        if loop.inbox_ready:
            read_inbox(loop)
        run_tickers(loop)
        if loop.draining and loop.busy == 0 and not loop.drained:
            memset(&mail, 0, sizeof(mail))
            mail.kind = MAIL_DRAINED
            loop.drained = post(loop, &mail)
    if loop.stop_http != NULL:
        loop.stop_http(loop)
    if loop.stop_tftp != NULL:
        loop.stop_tftp(loop)
    if loop.stop_tls != NULL:        # after HTTP: its last bytes are here now
        loop.stop_tls(loop)
    if loop.table != NULL:
        table_release(loop.table)
        loop.table = NULL


cdef void loop_free(loop_t* loop) noexcept nogil:
    if loop.epfd >= 0:
        close(loop.epfd)
        loop.epfd = -1
    free(loop.scratch)
    loop.scratch = NULL
    if loop.table != NULL:
        table_release(loop.table)
        loop.table = NULL
