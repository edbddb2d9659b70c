# The system calls and atomics the data path uses: declarations and one-line inlines only.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "<sys/types.h>" nogil:
    ctypedef long ssize_t
    ctypedef long off_t

cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clk, timespec* ts)
    int nanosleep(const timespec* req, timespec* rem)
    enum: CLOCK_MONOTONIC
    enum: CLOCK_REALTIME

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        void* ptr
        int fd
        uint64_t u64
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event* event)
    int epoll_wait(int epfd, epoll_event* events, int maxevents, int timeout)
    enum: EPOLL_CTL_ADD
    enum: EPOLL_CTL_MOD
    enum: EPOLL_CTL_DEL
    enum: EPOLL_CLOEXEC
    enum: EPOLLIN
    enum: EPOLLOUT
    enum: EPOLLRDHUP
    enum: EPOLLHUP
    enum: EPOLLERR
    uint32_t EPOLLET
    uint32_t EPOLLEXCLUSIVE

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int initval, int flags)
    enum: EFD_CLOEXEC
    enum: EFD_NONBLOCK

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void* iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    cdef struct sockaddr:
        uint16_t sa_family
    cdef struct sockaddr_storage:
        uint16_t ss_family
    cdef struct msghdr:
        void* msg_name
        socklen_t msg_namelen
        iovec* msg_iov
        size_t msg_iovlen
        void* msg_control
        size_t msg_controllen
        int msg_flags
    cdef struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    cdef struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    cmsghdr* CMSG_FIRSTHDR(msghdr* m)
    cmsghdr* CMSG_NXTHDR(msghdr* m, cmsghdr* c)
    unsigned char* CMSG_DATA(cmsghdr* c)
    size_t CMSG_SPACE(size_t n)
    size_t CMSG_LEN(size_t n)
    int socket(int domain, int type, int protocol)
    int socketpair(int domain, int type, int protocol, int* fds)
    int bind(int fd, const sockaddr* addr, socklen_t length)
    int connect(int fd, const sockaddr* addr, socklen_t length)
    int accept4(int fd, sockaddr* addr, socklen_t* length, int flags)
    int getsockname(int fd, sockaddr* addr, socklen_t* length)
    int getpeername(int fd, sockaddr* addr, socklen_t* length)
    int setsockopt(int fd, int level, int name, const void* value, socklen_t length)
    int getsockopt(int fd, int level, int name, void* value, socklen_t* length)
    int shutdown(int fd, int how)
    ssize_t send(int fd, const void* buf, size_t n, int flags)
    ssize_t recvmsg(int fd, msghdr* msg, int flags)
    enum: AF_INET
    enum: AF_INET6
    enum: AF_UNIX
    enum: SOCK_STREAM
    enum: SOCK_DGRAM
    enum: SOCK_CLOEXEC
    enum: SOCK_NONBLOCK
    enum: SOL_SOCKET
    enum: SO_REUSEADDR
    enum: SO_REUSEPORT
    enum: SO_ERROR
    enum: SO_DOMAIN
    enum: SO_SNDBUF
    enum: SO_RCVBUF
    enum: SO_LINGER
    enum: SO_MAX_PACING_RATE
    enum: MSG_MORE
    enum: MSG_NOSIGNAL
    enum: MSG_DONTWAIT
    enum: MSG_TRUNC
    enum: MSG_ERRQUEUE
    enum: SHUT_RD
    enum: SHUT_WR
    enum: SHUT_RDWR

cdef extern from "<netinet/in.h>" nogil:
    cdef struct in_addr:
        uint32_t s_addr
    cdef struct in6_addr:
        uint8_t s6_addr[16]
    cdef struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    cdef struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    cdef struct in_pktinfo:
        int ipi_ifindex
        in_addr ipi_spec_dst
        in_addr ipi_addr
    cdef struct in6_pktinfo:
        in6_addr ipi6_addr
        unsigned int ipi6_ifindex
    enum: IPPROTO_IP
    enum: IPPROTO_IPV6
    enum: IPPROTO_TCP
    enum: IPPROTO_UDP
    enum: IP_PKTINFO
    enum: IP_RECVERR
    enum: IPV6_RECVPKTINFO
    enum: IPV6_PKTINFO
    enum: IPV6_RECVERR
    uint16_t htons(uint16_t v)
    uint16_t ntohs(uint16_t v)
    uint32_t htonl(uint32_t v)
    uint32_t ntohl(uint32_t v)

cdef extern from "<netinet/tcp.h>" nogil:
    enum: TCP_NODELAY
    enum: TCP_CORK
    enum: TCP_NOTSENT_LOWAT

cdef extern from "<netinet/udp.h>" nogil:
    enum: UDP_SEGMENT

cdef extern from "<sys/sendfile.h>" nogil:
    ssize_t sendfile(int out_fd, int in_fd, off_t* offset, size_t count)

cdef extern from "<sys/mman.h>" nogil:
    void* mmap(void* addr, size_t length, int prot, int flags, int fd, off_t offset)
    int munmap(void* addr, size_t length)
    enum: PROT_READ
    enum: MAP_SHARED
    enum: MAP_PRIVATE
    void* MAP_FAILED

cdef extern from "<unistd.h>" nogil:
    int close(int fd)
    ssize_t read(int fd, void* buf, size_t n)
    ssize_t write(int fd, const void* buf, size_t n)
    ssize_t pread(int fd, void* buf, size_t n, off_t offset)
    ssize_t pwrite(int fd, const void* buf, size_t n, off_t offset)
    int ftruncate(int fd, off_t length)
    int unlinkat(int dirfd, const char* path, int flags)
    int fsync(int fd)

cdef extern from "<fcntl.h>" nogil:
    int openat(int dirfd, const char* path, int flags, ...)
    enum: O_RDONLY
    enum: O_RDWR
    enum: O_CREAT
    enum: O_EXCL
    enum: O_CLOEXEC
    enum: O_NOFOLLOW

cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd* fds, unsigned long n, int timeout)
    enum: POLLIN
    enum: POLLOUT
    enum: POLLERR

cdef extern from "<errno.h>" nogil:
    int errno
    enum: EAGAIN
    enum: EINTR
    enum: EMFILE
    enum: ENFILE
    enum: ENOENT
    enum: EEXIST
    enum: ENOMEM
    enum: ESTALE
    enum: ENXIO
    enum: EROFS
    enum: ENOSPC
    enum: EIO
    enum: EINVAL
    enum: EMSGSIZE
    enum: ECONNABORTED
    enum: ECONNREFUSED
    enum: EPIPE
    enum: ECONNRESET
    enum: EINPROGRESS

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    int sigfillset(sigset_t* s)
    int pthread_sigmask(int how, const sigset_t* s, sigset_t* old)
    enum: SIG_SETMASK

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t* m, void* attr)
    int pthread_mutex_destroy(pthread_mutex_t* m)
    int pthread_mutex_lock(pthread_mutex_t* m)
    int pthread_mutex_unlock(pthread_mutex_t* m)

# The calls that are made for each request and each batch of datagrams, straight into the kernel: in a process with
# threads glibc's own are cancellation points, which cost two atomic operations each (1.3 % of a request for 4 KiB).
# Sanitizers keep glibc's, whose buffers they watch; but of a recv into nothing they would believe that it wrote.
cdef extern from * nogil:
    """
    #include <sys/socket.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    #define bp_discard(fd, n) ((ssize_t)syscall(SYS_recvfrom, (fd), NULL, (n), MSG_TRUNC, NULL, NULL))
    #if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(SYS_recvmmsg)
    #define bp_recv recv
    #define bp_sendmsg sendmsg
    #define bp_sendmmsg sendmmsg
    #define bp_recvmmsg recvmmsg
    #else
    #define bp_recv(fd, buf, n, flags) ((ssize_t)syscall(SYS_recvfrom, (fd), (buf), (n), (flags), NULL, NULL))
    #define bp_sendmsg(fd, message, flags) ((ssize_t)syscall(SYS_sendmsg, (fd), (message), (flags)))
    #define bp_sendmmsg(fd, vec, n, flags) ((int)syscall(SYS_sendmmsg, (fd), (vec), (n), (flags)))
    #define bp_recvmmsg(fd, vec, n, flags, timeout) ((int)syscall(SYS_recvmmsg, (fd), (vec), (n), (flags), (timeout)))
    #endif
    """
    ssize_t discard "bp_discard"(int fd, size_t n) # from a TCP socket, into nothing; as recv
    ssize_t recv "bp_recv"(int fd, void* buf, size_t n, int flags)
    ssize_t sendmsg "bp_sendmsg"(int fd, const msghdr* msg, int flags)
    int sendmmsg "bp_sendmmsg"(int fd, mmsghdr* vec, unsigned int n, int flags)
    int recvmmsg "bp_recvmmsg"(int fd, mmsghdr* vec, unsigned int n, int flags, timespec* timeout)

# Atomics, named for their order: acquire loads pair with release stores, counts are acq_rel.
cdef extern from * nogil:
    """
    #define bp_fence()            __atomic_thread_fence(__ATOMIC_SEQ_CST)
    #define bp_load_int(p)        __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define bp_store_int(p, v)    __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    #define bp_add_int(p, v)      __atomic_add_fetch((p), (v), __ATOMIC_ACQ_REL)
    #define bp_load_u8(p)         __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define bp_store_u8(p, v)     __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    #define bp_load_u32(p)        __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define bp_store_u32(p, v)    __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    #define bp_load_u64(p)        __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define bp_store_u64(p, v)    __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    #define bp_add_u64(p, v)      __atomic_add_fetch((p), (v), __ATOMIC_RELAXED)
    #define bp_relaxed_u64(p)     __atomic_load_n((p), __ATOMIC_RELAXED)
    #define bp_store_relaxed_u64(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
    #define bp_load_ptr(p)        ((void*)__atomic_load_n((void**)(p), __ATOMIC_ACQUIRE))
    #define bp_store_ptr(p, v)    __atomic_store_n((void**)(p), (void*)(v), __ATOMIC_RELEASE)
    #define bp_prefetch_write(p)  __builtin_prefetch((p), 1)
    #define bp_swap_ptr(p, v)     ((void*)__atomic_exchange_n((void**)(p), (void*)(v), __ATOMIC_ACQ_REL))
    static inline int bp_cas_int(int* p, int old, int desired) {
        return __atomic_compare_exchange_n(p, &old, desired, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE); }
    static inline int bp_cas_u8(unsigned char* p, unsigned char old, unsigned char desired) {
        return __atomic_compare_exchange_n(p, &old, desired, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE); }
    static inline int bp_cas_ptr(void** p, void* old, void* desired) {
        return __atomic_compare_exchange_n(p, &old, desired, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE); }
    """
    int bp_load_int(int* p)
    void bp_store_int(int* p, int v)
    int bp_add_int(int* p, int v)           # returns the new value
    uint8_t bp_load_u8(uint8_t* p)
    void bp_store_u8(uint8_t* p, uint8_t v)
    uint32_t bp_load_u32(uint32_t* p)
    void bp_store_u32(uint32_t* p, uint32_t v)
    uint64_t bp_load_u64(uint64_t* p)
    void bp_store_u64(uint64_t* p, uint64_t v)
    uint64_t bp_add_u64(uint64_t* p, uint64_t v)
    uint64_t bp_relaxed_u64(uint64_t* p)
    void bp_store_relaxed_u64(uint64_t* p, uint64_t v)
    void* bp_load_ptr(void* p)              # p is the address of a pointer
    void bp_store_ptr(void* p, void* v)
    void* bp_swap_ptr(void* p, void* v)     # returns the old value
    void bp_prefetch_write(void* p)         # the cache line of *p is about to be written
    void bp_fence()                         # full barrier: a store before it is seen before a load after it
    bint bp_cas_int(int* p, int old, int desired)
    bint bp_cas_u8(uint8_t* p, uint8_t old, uint8_t desired)
    bint bp_cas_ptr(void** p, void* old, void* desired)

cdef inline int64_t monotonic_ns() noexcept nogil:
    cdef timespec ts
    clock_gettime(CLOCK_MONOTONIC, &ts)
    return <int64_t>ts.tv_sec * 1000000000 + ts.tv_nsec
