"""Who may send how much: groups of clients by subnet, with weights, caps, and a total for all of them.

    turn: of the groups that have somebody ready and are below their cap, the one that has had least for its weight
    how much: what 4 ms of the total or of its cap are, 64 KiB to a whole turn
    when: at once, or when the total's and the group's token buckets are above zero again

A group's virtual time is what it has sent, divided by its weight; the least is next, so that over any stretch in which
two groups always have somebody ready, what they sent is as their weights, however many clients each has. A group that
was idle begins where the others are, less a little credit: sockets that are full for a moment lose nothing by it, and
nobody saves up. Within a group it is turn by turn (http_groups, tftp_shares).

Reactors share one table: a group that is ahead of one that waits on another reactor waits for it. A lock covers each
look, in turns of 64 KiB and more; with nothing set nobody looks (`active`).

Without a total, weights decide only what the processor limits; what the network card limits, TCP divides by
connections. So a rack whose link is the bottleneck wants a total a little below it.
"""

import ipaddress
from typing import NamedTuple

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from bootplane.core.linux cimport (
    bp_load_int, bp_store_int, pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock,
)

cdef enum:
    SCALE = 1024                     # of virtual time, so that a weight of 1000 still moves it
    LEAST = 65536                    # bytes of a turn
    CREDIT = 4                       # turns that a group may catch up when it was away
    SLACK = 2                        # turns that a group may be ahead of one that waits elsewhere
    WAIT_NS = 500000                 # for that one
    TURN_NS = 4000000                # a turn is what a rate gives in that time
    BURST_NS = 8000000               # what a bucket holds


cdef int shares_group(shares_t* s, const uint8_t* ip) noexcept nogil:
    cdef int group = SHARE_OTHERS
    cdef const prefix_t* p
    cdef uint64_t i
    cdef int whole
    cdef int rest
    pthread_mutex_lock(&s.lock)
    for i in range(s.prefix_n):
        p = &s.prefixes[i]
        whole = p.bits // 8
        rest = p.bits % 8
        if memcmp(p.ip, ip, whole) == 0 and (rest == 0 or (p.ip[whole] ^ ip[whole]) >> (8 - rest) == 0):
            group = p.group
            break
    pthread_mutex_unlock(&s.lock)
    return group


cdef uint64_t shares_pace(shares_t* s, int group) noexcept nogil:
    cdef uint64_t pace
    pthread_mutex_lock(&s.lock)
    pace = s.groups[group].pace_bytes_s
    pthread_mutex_unlock(&s.lock)
    return pace


cdef int64_t turn_bytes(const shares_t* s, const share_t* g, int64_t most) noexcept nogil:
    cdef uint64_t rate = s.total_bytes_s
    cdef int64_t n
    if g.cap_bytes_s and (rate == 0 or g.cap_bytes_s < rate):
        rate = g.cap_bytes_s
    if rate == 0:
        return most
    n = <int64_t>(rate * (TURN_NS // 1000) // 1000000)
    if n < LEAST:
        n = LEAST
    return n if n < most else most


cdef uint64_t virtual_of(const share_t* g, int64_t n) noexcept nogil:
    return <uint64_t>n * SCALE // g.weight


cdef void fill_bucket(int64_t* tokens, uint64_t rate, int64_t passed_ns) noexcept nogil:
    cdef int64_t most = <int64_t>(rate * (BURST_NS // 1000) // 1000000)
    if rate == 0:
        return
    if most < LEAST:
        most = LEAST
    tokens[0] += <int64_t>(rate * <uint64_t>(passed_ns // 1000) // 1000000)
    if tokens[0] > most:
        tokens[0] = most


cdef void refill(shares_t* s, int64_t now_ns) noexcept nogil:
    cdef int64_t passed_ns = now_ns - s.refilled_ns
    cdef int i
    if passed_ns < 1000000:          # in steps that a rate of 1 kB/s gives a byte in
        return
    if passed_ns > 1000000000:
        passed_ns = 1000000000
    s.refilled_ns = now_ns
    fill_bucket(&s.tokens, s.total_bytes_s, passed_ns)
    for i in range(SHARE_GROUPS):
        if s.groups[i].used:
            fill_bucket(&s.groups[i].tokens, s.groups[i].cap_bytes_s, passed_ns)


cdef void shares_ready(shares_t* s, int group, int64_t now_ns) noexcept nogil:
    cdef share_t* g = &s.groups[group]
    cdef uint64_t credit
    pthread_mutex_lock(&s.lock)
    if g.ready == 0:
        credit = virtual_of(g, CREDIT * turn_bytes(s, g, 2097152))
        if g.virtual + credit < s.passed:
            g.virtual = s.passed - credit
    g.ready += 1
    pthread_mutex_unlock(&s.lock)


cdef void shares_unready(shares_t* s, int group) noexcept nogil:
    pthread_mutex_lock(&s.lock)
    s.groups[group].ready -= 1
    pthread_mutex_unlock(&s.lock)


cdef int64_t until(int64_t tokens, uint64_t rate) noexcept nogil:
    """How long until a bucket is above zero, in ns."""
    return <int64_t>(<uint64_t>(1 - tokens) * 1000000 // rate + 1) * 1000


cdef bint choose(shares_t* s, uint64_t mask, int64_t most, int64_t now_ns, turn_t* turn) noexcept nogil:
    cdef share_t* best = NULL
    cdef uint64_t least = <uint64_t>-1       # of all that could send, here or on another reactor
    cdef share_t* g
    cdef int64_t wait
    cdef int i
    turn.retry_ns = now_ns + TURN_NS
    if s.total_bytes_s and s.tokens <= 0:
        turn.retry_ns = now_ns + until(s.tokens, s.total_bytes_s)
        return False
    for i in range(SHARE_GROUPS):
        g = &s.groups[i]
        if g.ready == 0:
            continue
        if g.cap_bytes_s and g.tokens <= 0:
            wait = now_ns + until(g.tokens, g.cap_bytes_s)
            if mask >> i & 1 and wait < turn.retry_ns:
                turn.retry_ns = wait
            continue
        if g.virtual < least:
            least = g.virtual
        if mask >> i & 1 and (best == NULL or g.virtual < best.virtual):
            best = g
            turn.group = i
    if best == NULL:
        return False
    turn.bytes = turn_bytes(s, best, most)
    if best.virtual > least + virtual_of(best, SLACK * turn.bytes):
        turn.retry_ns = now_ns + WAIT_NS
        return False
    if best.virtual > s.passed:
        s.passed = best.virtual
    s.tokens -= turn.bytes
    best.tokens -= turn.bytes
    best.virtual += virtual_of(best, turn.bytes)
    best.bytes += turn.bytes
    return True


cdef bint shares_turn(shares_t* s, uint64_t mask, int64_t most, int64_t now_ns, turn_t* turn) noexcept nogil:
    cdef bint found
    pthread_mutex_lock(&s.lock)
    refill(s, now_ns)
    found = choose(s, mask, most, now_ns, turn)
    pthread_mutex_unlock(&s.lock)
    return found


cdef void shares_settle(shares_t* s, const turn_t* turn, int64_t sent) noexcept nogil:
    cdef share_t* g = &s.groups[turn.group]
    cdef int64_t left = turn.bytes - sent
    if left == 0:
        return
    pthread_mutex_lock(&s.lock)
    s.tokens += left
    g.tokens += left
    g.bytes -= <uint64_t>left if <uint64_t>left <= g.bytes else g.bytes      # set() may have begun to count anew
    if g.virtual >= virtual_of(g, left):
        g.virtual -= virtual_of(g, left)
    pthread_mutex_unlock(&s.lock)


# -- for Python ------------------------------------------------------------------------------------------------------

class Group(NamedTuple):
    """Clients that share. *subnets* as ipaddress writes them; without any it is everybody who is in no other group."""

    name: str
    subnets: tuple[str, ...] = ()
    weight: int = 1
    cap_bytes_s: int = 0
    pace_bytes_s: int = 0


cdef class Shares:
    """The table, given to each reactor that has a part in it (option ``shares``). Any thread may set it at any time."""

    def __cinit__(self):
        memset(&self.s, 0, sizeof(self.s))
        pthread_mutex_init(&self.s.lock, NULL)
        self._groups = {}            # index -> Group

    def __dealloc__(self):
        pthread_mutex_destroy(&self.s.lock)

    def set(self, groups, uint64_t total_bytes_s=0):
        """Puts *groups* in place of those before; one of the same name keeps its counts. Nothing at all turns it off.

        Raises ValueError: too many groups or subnets, two of one name, a weight below 1, no subnet.
        """
        wanted = {group.name: group for group in groups}
        others = next((group.name for group in wanted.values() if not group.subnets), "others")
        is_active = bool(groups) or total_bytes_s > 0
        if len(wanted) != len(groups):
            raise ValueError("shares: expected each name once")
        if sum(not group.subnets for group in groups) > 1:
            raise ValueError("shares: expected at most one group without subnets")
        if len(wanted) >= <int>SHARE_GROUPS:
            raise ValueError(f"shares: expected fewer than {<int>SHARE_GROUPS} groups, got {len(wanted)}")
        if any(group.weight < 1 for group in groups):
            raise ValueError("shares: expected weights of 1 and more")
        prefixes = []
        for group in groups:
            for subnet in group.subnets:
                network = ipaddress.ip_network(subnet)
                raw = network.network_address.packed
                bits = network.prefixlen + (96 if network.version == 4 else 0)
                prefixes.append((bits, b"\0" * 10 + b"\xff\xff" + raw if network.version == 4 else raw, group.name))
        if len(prefixes) > <int>SHARE_PREFIXES:
            raise ValueError(f"shares: expected at most {<int>SHARE_PREFIXES} subnets, got {len(prefixes)}")
        prefixes.sort(key=lambda prefix: -prefix[0])
        places = {group.name: index for index, group in self._groups.items() if index != <int>SHARE_OTHERS}
        kept = {index: wanted[name] for name, index in places.items() if name in wanted and name != others}
        free = iter(index for index in range(1, <int>SHARE_GROUPS) if index not in kept)
        at = {group.name: index for index, group in kept.items()}
        for name in wanted:
            if name != others and name not in at:
                at[name] = next(free)
        before = set(self._groups)
        self._groups = {index: wanted[name] for name, index in at.items()}
        self._groups[<int>SHARE_OTHERS] = wanted.get(others, Group("others"))
        self._put([(bits, raw, at[name]) for bits, raw, name in prefixes], total_bytes_s, before & set(kept))
        bp_store_int(&self.s.version, self.s.version + 1)
        bp_store_int(&self.s.active, <int>(1 if is_active else 0))

    cdef object _put(self, object prefixes, uint64_t total_bytes_s, object kept):
        cdef shares_t* s = &self.s
        cdef share_t* g
        cdef const uint8_t* ip
        cdef int i
        pthread_mutex_lock(&s.lock)
        s.total_bytes_s = total_bytes_s
        s.tokens = 0
        for i in range(SHARE_GROUPS):
            g = &s.groups[i]
            if i not in kept and i != SHARE_OTHERS:      # `ready` stays: reactors count out what they counted in
                g.virtual = s.passed
                g.bytes = 0
            group = self._groups.get(i)
            g.used = group is not None
            g.weight = group.weight if g.used else 1
            g.cap_bytes_s = group.cap_bytes_s if g.used else 0
            g.pace_bytes_s = group.pace_bytes_s if g.used else 0
            g.tokens = 0
        s.prefix_n = len(prefixes)
        for i, (bits, raw, index) in enumerate(prefixes):
            ip = raw
            memcpy(s.prefixes[i].ip, ip, 16)
            s.prefixes[i].bits = bits
            s.prefixes[i].group = index
        pthread_mutex_unlock(&s.lock)

    def counts(self):
        """Returns name -> (bytes sent, connections and transfers that wait for a turn)."""
        cdef share_t* g
        out = {}
        for index, group in list(self._groups.items()):
            g = &self.s.groups[<int>index]
            pthread_mutex_lock(&self.s.lock)
            told = (g.bytes, g.ready)
            pthread_mutex_unlock(&self.s.lock)
            out[group.name] = told
        return out

    @property
    def active(self):
        return bp_load_int(&self.s.active) != 0

    # for tests: a sender by hand

    def group_of(self, str ip not None):
        address = ipaddress.ip_address(ip)
        packed = address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed
        return self._groups[shares_group(&self.s, <const uint8_t*><const char*>packed)].name

    def ready(self, str name not None, int64_t now_ns):
        shares_ready(&self.s, self._index(name), now_ns)

    def unready(self, str name not None):
        shares_unready(&self.s, self._index(name))

    def turn(self, names, int64_t most, int64_t now_ns, sent=None):
        """(name, bytes) of a turn that was settled with *sent* bytes (None: all), or when to ask again, in ns."""
        turn = self.begin_turn(names, most, now_ns)
        if isinstance(turn, int):
            return turn
        group, n = turn
        self.settle(turn, n if sent is None else sent)
        return self._groups[group].name, n

    def begin_turn(self, names, int64_t most, int64_t now_ns):
        """(number of the group, bytes) of a turn that is to be settled, or when to ask again, in ns."""
        cdef turn_t turn
        cdef uint64_t mask = 0
        for name in names:
            mask |= <uint64_t>1 << <int>self._index(name)
        if not shares_turn(&self.s, mask, most, now_ns, &turn):
            return turn.retry_ns
        return turn.group, turn.bytes

    def settle(self, tuple begun not None, int64_t sent):
        cdef turn_t turn
        turn.group, turn.bytes = begun
        shares_settle(&self.s, &turn, sent)

    def _index(self, name):
        return next(index for index, group in self._groups.items() if group.name == name)
