# cython: cdivision=True
# distutils: extra_link_args = -Wl,-z,now
"""The nursery and the shim: two C loops that never run Python after their fork. Knows no policy and no container.

The nursery gives back the interpreter's memory and forks shims on request. A shim starts programs the daemon names,
reaps and records, holds descriptors, and attaches mounts in its own mount namespace. It is one file because both loops
live in one forked image, and compiled modules do not cimport each other. -z now: see `pyx/lean.pxd`.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t

from pyx.lean cimport PAGE, decimal, drop_interpreter, join, reset_signals, retitle, set_oom_score, settle
from pyx.shimwire cimport (
    Answer, EXIT_OOM, EXIT_OOM_ANCESTOR, ExitRecord, ForkAnswer, ForkRequest, Header, HelloBody, NURSERY_VERSION,
    OLDEST, OomBody, OP_ATTACH, OP_CONSOLE, OP_DROP, OP_EXIT, OP_FETCH, OP_FOLLOW, OP_HELLO, OP_KEEP, OP_KILL, OP_MOUNT,
    OP_OOM, OP_RESIZE, OP_RUN, OP_SHUTDOWN, OP_WATCH_OOM, ResizeBody, RUN_EXPIRED, RunBody, RunResult, SPEAKS_OOM,
    STAGE_CWD, STAGE_DESCRIPTORS, STAGE_EXEC, STAGE_FORK, STAGE_NAME, VERSION,
)
from pyx.sys cimport (
    _exit, accept4, AF_UNIX, AT_FDCWD, bind, chdir, clock_gettime, CLOCK_MONOTONIC, CLOCK_REALTIME, clone,
    CLONE_NEWNS, CLONE_VFORK, CLONE_VM, close, CLOSE_RANGE_CLOEXEC, CMSG_DATA, CMSG_FIRSTHDR, CMSG_LEN, CMSG_NXTHDR,
    CMSG_SPACE, cmsghdr, dup2, E2BIG, EADDRINUSE, EAGAIN, EBADF, EEXIST, EFD_CLOEXEC, EFD_NONBLOCK, EINTR, EINVAL,
    EMFILE, EMSGSIZE, ENAMETOOLONG, ENOENT, ENOSPC, ENOSYS, EPOLL_CLOEXEC, epoll_create1, epoll_ctl, EPOLL_CTL_ADD,
    EPOLL_CTL_DEL, EPOLL_CTL_MOD, epoll_event, epoll_wait, EPOLLET, EPOLLIN, EPOLLOUT, EPOLLPRI, EPROTONOSUPPORT,
    errno, eventfd, execve, F_DUPFD_CLOEXEC, F_SETFL, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, fallocate, fcntl,
    fstat, ftruncate, getpid, ioctl, iovec, kill, listen, MADV_DONTNEED, madvise, MAP_ANONYMOUS, MAP_FAILED,
    MAP_PRIVATE, memcpy, memset, mmap, mount, MOVE_MOUNT_F_EMPTY_PATH, MSG_CMSG_CLOEXEC, MSG_CTRUNC, MSG_DONTWAIT,
    MSG_NOSIGNAL, MSG_TRUNC, msghdr, munmap, O_APPEND, O_CLOEXEC, O_CREAT, O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK,
    O_PATH, O_RDONLY, O_RDWR, O_WRONLY, open, openat, P_ALL, pipe2, poll, pollfd, POLLOUT, PR_SET_CHILD_SUBREAPER,
    PR_SET_NAME, prctl, pread, PROT_READ, PROT_WRITE, read, recvmsg, SCM_RIGHTS, sendmsg, setpgid, setsid,
    setsockopt, SFD_CLOEXEC, SFD_NONBLOCK, SIG_DFL, SIG_SETMASK, sigaction, sigaction_t, sigaddset, SIGCHLD,
    sigemptyset, siginfo_t, SIGKILL, signalfd, sigprocmask, sigset_t, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_SEQPACKET,
    SOCK_STREAM, sockaddr, sockaddr_un, socket, SO_SNDBUFFORCE, SOL_SOCKET, splice, SPLICE_F_NONBLOCK, stat_t,
    strcmp, strerror, strlen, strncmp, SYS_clone, SYS_close_range, SYS_move_mount, syscall, timespec, TIOCSWINSZ,
    umask, unlink, unlinkat, unshare, waitid, waitpid, WEXITED, WEXITSTATUS, WIFSIGNALED, winsize, WNOHANG, WNOWAIT,
    write, WTERMSIG,
)

cdef enum:
    REQUEST_WORDS = 16384  # of 8 bytes: the longest request
    KEEP_MAX = 65536       # with its header it fits a quarter-full default socket buffer
    STRINGS_MAX = 2048     # argv, environment and names of one run
    FDS_MAX = 16           # descriptors of one request
    DESCRIPTORS = 32       # FDS_MAX sent, and as many by name
    CHILD_FD_MAX = 256     # descriptors a program is given lie below
    PROGRAMS_MAX = 256
    CONNECTIONS_MAX = 8
    NAMED_MAX = 512        # with the other tables it stays below the usual limit of 1024 descriptors
    NAME_MAX_ = 128
    CONSOLES_MAX = 64
    PATH_MAX_ = 1024
    RESERVED = 4096        # bytes of the exit record file that are allocated before they are needed
    OOM_SLACK = 65536      # bytes: the most that the kernel asks for at once before it kills
    RETAINED = 32768       # exit records that stay when older ones become a hole
    RETRY_NS = 500000000
    LOOK_NS = 20000000
    LOOKS = 50
    LONELY_NS = 60000000000  # a shim nobody came for within this time was started for a caller that gave up
    HOUR_MS = 3600000
    STACK = 16384

    KIND_SIGNAL = 1
    KIND_LISTENER = 2
    KIND_CONNECTION = 3
    KIND_PROGRAM = 4
    KIND_SINK = 5
    KIND_CONSOLE = 6
    KIND_OOM = 7


cdef struct Cursor:
    char* at
    char* end


cdef struct Connection:
    int fd                 # 0 is a free slot: descriptor 0 is always /dev/null
    bint blocked           # its socket is too full for another answer
    uint64_t next          # sequence of the exit record it is to be told next
    int version            # that is spoken to it; 0 is none yet, and it is told nothing
    uint32_t kills         # for memory, that it was told of


cdef struct Program:
    int pid                # 0 is a free slot
    int connection         # index, -1 when it went away
    uint32_t id
    bint done
    bint expired
    int status
    int pipe               # read end of its captured output, 0 without
    char* ring             # the last `room` bytes of output, mapped at the first one
    size_t room            # whole pages, so that one byte to keep is not read byte by byte
    size_t keep
    uint64_t written
    int64_t deadline_ns


cdef struct Spawn:
    char* cwd
    char** argv
    char** env
    int count
    int sources[DESCRIPTORS]
    uint32_t* targets
    int output             # write end for 1 and 2 where they have no source, 0 without
    int error
    int stage


cdef struct Named:
    int fd                 # 0 is a free slot
    char name[NAME_MAX_]


cdef struct Console:
    int listener           # 0 is a free slot
    int peer
    char name[NAME_MAX_]
    char path[PATH_MAX_]


# A process is either the nursery or one shim, so its state is static: it costs no memory before it is touched.
cdef uint64_t request[REQUEST_WORDS]
cdef char control[256]
cdef int received[FDS_MAX]
cdef int received_count
cdef char* strings[STRINGS_MAX]
cdef char stack[STACK]
cdef Program programs[PROGRAMS_MAX]
cdef Connection connections[CONNECTIONS_MAX]
cdef Named named[NAMED_MAX]
cdef Console consoles[CONSOLES_MAX]
cdef int programs_top
cdef int named_top
cdef int consoles_top
cdef int poller
cdef int signals
cdef int listener
cdef int directory
cdef int exits
cdef uint64_t exits_count
cdef int64_t reserved_to
cdef int64_t retry_ns
cdef int64_t lonely_ns
cdef int oom_counter
cdef int oom_event
cdef int64_t oom_baseline
cdef int64_t oom_seen
cdef int oom_folder        # v1: the cgroup's directory
cdef int64_t oom_hits      # of its own limit, when the watch began
cdef bint oom_own          # it was hit since
cdef int oom_looks         # left, for a kill that is under way
cdef int64_t look_ns
cdef bint ending
cdef int newest = VERSION  # what this shim speaks
cdef int oldest = OLDEST


# Small tools


cdef int64_t now_ns(int clock) noexcept nogil:
    cdef timespec at
    clock_gettime(clock, &at)
    return <int64_t>at.tv_sec * 1000000000 + at.tv_nsec


cdef char* next_string(Cursor* cursor) noexcept nogil:
    """The NUL-terminated string at the cursor, which moves past it; NULL when none ends within the message."""
    cdef char* start = cursor.at
    cdef char* at = start
    while at < cursor.end:
        if at[0] == 0:
            cursor.at = at + 1
            return start
        at += 1
    return NULL


cdef int watch(int fd, uint32_t events, int kind, int index) noexcept nogil:
    cdef epoll_event event
    event.events = events
    event.data.u64 = (<uint64_t>kind << 32) | <uint32_t>index
    if epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0:
        return -errno
    return 0


cdef void rewatch(int fd, uint32_t events, int kind, int index) noexcept nogil:
    cdef epoll_event event
    event.events = events
    event.data.u64 = (<uint64_t>kind << 32) | <uint32_t>index
    epoll_ctl(poller, EPOLL_CTL_MOD, fd, &event)


cdef void unwatch(int fd) noexcept nogil:
    epoll_ctl(poller, EPOLL_CTL_DEL, fd, NULL)


cdef void end_watch(int fd) noexcept nogil:
    # Close alone is not enough: a duplicate held by a program would keep the entry alive.
    unwatch(fd)
    close(fd)


cdef int local_address(sockaddr_un* address, int folder, const char* name) noexcept nogil:
    """The address of `name` in an open folder, whose own path may be longer than an address holds."""
    cdef char* at
    memset(address, 0, sizeof(sockaddr_un))
    address.sun_family = AF_UNIX
    at = decimal(join(address.sun_path, b"/proc/self/fd/"), folder)
    if <size_t>(at - address.sun_path) + 1 + strlen(name) >= sizeof(address.sun_path):
        return -ENAMETOOLONG
    join(join(at, b"/"), name)
    return 0


cdef int listen_at(int folder, const char* name, int type) noexcept nogil:
    """A listening socket that only its owner may connect to, or -errno."""
    cdef sockaddr_un address
    cdef unsigned int mask
    cdef int error = local_address(&address, folder, name)
    cdef int fd
    if error < 0:
        return error
    fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)
    if fd < 0:
        return -errno
    mask = umask(0o177)
    if bind(fd, <sockaddr*>&address, sizeof(address)) < 0 or listen(fd, 64) < 0:
        error = -errno
    umask(mask)
    if error < 0:
        close(fd)
        return error
    return fd


cdef ssize_t receive(int fd, void* buffer, size_t size, int* flags) noexcept nogil:
    """One message and its descriptors (into `received`, at most FDS_MAX); -errno."""
    cdef msghdr message
    cdef iovec part
    cdef cmsghdr* head
    cdef ssize_t got
    global received_count
    received_count = 0
    part.iov_base = buffer
    part.iov_len = size
    memset(&message, 0, sizeof(message))
    message.msg_iov = &part
    message.msg_iovlen = 1
    message.msg_control = control
    message.msg_controllen = CMSG_SPACE(FDS_MAX * sizeof(int))
    while True:
        got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC)
        if got >= 0:
            break
        if errno != EINTR:
            return -errno
    head = CMSG_FIRSTHDR(&message)
    while head != NULL:
        if head.cmsg_level == SOL_SOCKET and head.cmsg_type == SCM_RIGHTS:
            received_count = <int>((head.cmsg_len - CMSG_LEN(0)) // sizeof(int))
            memcpy(received, CMSG_DATA(head), received_count * sizeof(int))
        head = CMSG_NXTHDR(&message, head)
    flags[0] = message.msg_flags
    return got


cdef void close_received() noexcept nogil:
    """Close the descriptors of a request that nobody took over (those are -1)."""
    cdef int i
    global received_count
    for i in range(received_count):
        if received[i] >= 0:
            close(received[i])
    received_count = 0


# Exit records


cdef int reserve() noexcept nogil:
    """Allocate ahead, so that a full filesystem shows when a shim starts and not when a container ends; -errno."""
    global reserved_to
    cdef int error = 0
    cdef int64_t end = <int64_t>exits_count * sizeof(ExitRecord)
    if end + <int64_t>sizeof(ExitRecord) <= reserved_to:
        return 0
    if fallocate(exits, FALLOC_FL_KEEP_SIZE, end, RESERVED) < 0:
        error = -errno
    else:
        reserved_to = end + RESERVED
    if exits_count > RETAINED:
        fallocate(exits, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, end - RETAINED * <int64_t>sizeof(ExitRecord))
    return error


cdef int append_record(int pid, int status) noexcept nogil:
    """Put an exit on file; -1 when it cannot be, and then the kernel keeps it for us."""
    cdef ExitRecord record
    cdef ssize_t wrote
    global exits_count
    reserve()
    memset(&record, 0, sizeof(record))
    record.sequence = exits_count
    record.time_ns = now_ns(CLOCK_REALTIME)
    record.pid = pid
    record.status = status
    if status != 0 and oom_counter:
        refresh_oom()
        record.kills = kills_seen()
        record.flags = kill_flags()
    wrote = write(exits, &record, sizeof(record))
    if wrote != <ssize_t>sizeof(record):
        ftruncate(exits, exits_count * sizeof(record))
        return -1
    exits_count += 1
    return 0


cdef int64_t counted(int fd, const char* key) noexcept nogil:
    """The number behind `key` at the start of a line, of the first where it is empty; -1 when there is none to read."""
    cdef char text[512]
    cdef ssize_t got = pread(fd, text, sizeof(text) - 1, 0)
    cdef char* at = text
    cdef int64_t number = 0
    if got <= 0:
        return -1
    text[got] = 0
    while at[0]:
        if strncmp(at, key, strlen(key)) == 0:
            at += strlen(key)
            while c'0' <= at[0] <= c'9':
                number = number * 10 + (at[0] - c'0')
                at += 1
            return number
        while at[0] and at[0] != c'\n':
            at += 1
        if at[0]:
            at += 1
    return -1


cdef int64_t number_in(const char* name) noexcept nogil:
    """The number in a file of a v1 cgroup, -1 without."""
    cdef int64_t number
    cdef int fd = openat(oom_folder, name, O_RDONLY | O_CLOEXEC)
    if fd < 0:
        return -1
    number = counted(fd, b"")
    close(fd)
    return number


cdef int64_t limit_hits() noexcept nogil:
    """How often the cgroup's own limit was hit: an ancestor's counts in the ancestor. -1 when that cannot be told."""
    return number_in(b"memory.failcnt") if oom_folder else counted(oom_counter, b"oom ")


cdef bint own_limit_hit() noexcept nogil:
    """Linux 6.18 counts no hits of v1's limit of memory and swap together, but how far it came: before it gives up it
    has tried a few pages."""
    if limit_hits() > oom_hits:
        return True
    return oom_folder and (
        number_in(b"memory.memsw.max_usage_in_bytes") + OOM_SLACK > number_in(b"memory.memsw.limit_in_bytes") >= 0
    )


cdef bint refresh_oom() noexcept nogil:
    """Whether the cgroup is still there."""
    global oom_seen, oom_own
    cdef int64_t kills = counted(oom_counter, b"oom_kill ")
    if kills > oom_seen:
        oom_seen = kills
        oom_own = oom_own or own_limit_hit()
    return kills >= 0


cdef uint32_t kills_seen() noexcept nogil:
    return <uint32_t>(oom_seen - oom_baseline) if oom_seen > oom_baseline else 0


cdef uint32_t kill_flags() noexcept nogil:
    if kills_seen() == 0:
        return 0
    return EXIT_OOM if oom_own else EXIT_OOM | EXIT_OOM_ANCESTOR


cdef void end_oom() noexcept nogil:
    global oom_counter, oom_event, oom_folder, oom_looks, look_ns
    if oom_event and oom_event != oom_counter:
        end_watch(oom_event)
    if oom_folder:
        close(oom_folder)
    if oom_counter:
        end_watch(oom_counter)
    oom_counter = oom_event = oom_folder = oom_looks = 0
    look_ns = 0


cdef int register_oom_event(int folder) noexcept nogil:
    """cgroup v1: have `oom_event` signalled by memory.oom_control; -errno."""
    cdef char line[64]
    cdef int pressed, error = 0
    cdef int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    global oom_event
    if event < 0:
        return -errno
    pressed = openat(folder, b"cgroup.event_control", O_WRONLY | O_CLOEXEC)
    if pressed < 0:
        error = -errno
    else:
        decimal(join(decimal(line, event), b" "), oom_counter)
        if write(pressed, line, strlen(line)) < 0:
            error = -errno
        close(pressed)
    if error == 0:
        error = watch(event, EPOLLIN, KIND_OOM, 0)
    if error < 0:
        close(event)
        return error
    oom_event = event
    return 0


cdef int watch_oom(const char* path) noexcept nogil:
    cdef int i, folder, fd, error
    global oom_counter, oom_event, oom_folder, oom_baseline, oom_seen, oom_hits, oom_own
    folder = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC)
    if folder < 0:
        return -errno
    end_oom()
    fd = openat(folder, b"memory.events", O_RDONLY | O_CLOEXEC)
    if fd >= 0:
        oom_counter = oom_event = fd
        error = watch(fd, EPOLLPRI, KIND_OOM, 0)
    else:
        fd = openat(folder, b"memory.oom_control", O_RDONLY | O_CLOEXEC)
        error = -errno
        if fd >= 0:
            oom_counter = fd
            oom_folder = folder
            error = register_oom_event(folder)
    if oom_folder == 0:
        close(folder)
    if error < 0:
        end_oom()
        return error
    oom_baseline = oom_seen = counted(fd, b"oom_kill ")
    oom_hits = limit_hits()
    oom_own = False
    for i in range(CONNECTIONS_MAX):
        connections[i].kills = 0
    return 0


cdef void serve_oom() noexcept nogil:
    cdef uint64_t count
    global oom_looks
    if oom_event != oom_counter:
        if read(oom_event, &count, sizeof(count)) < 0:
            return
        oom_looks = LOOKS  # version 1 of cgroups signals before it kills
    look_for_kills()


cdef void look_for_kills() noexcept nogil:
    cdef int64_t before = oom_seen
    global oom_looks, look_ns
    look_ns = 0
    if not refresh_oom():
        unwatch(oom_event)  # a removed cgroup is readable for ever
        oom_looks = 0
    elif oom_seen > before:
        oom_looks = 0
        flush_all()
    elif oom_looks:
        oom_looks -= 1
        look_ns = now_ns(CLOCK_MONOTONIC) + LOOK_NS


# Named descriptors and consoles


cdef int find_named(const char* name) noexcept nogil:
    cdef int i
    for i in range(named_top):
        if named[i].fd and strcmp(named[i].name, name) == 0:
            return i
    return -1


cdef int keep(const char* name, int fd) noexcept nogil:
    """Steals `fd` when it succeeds; a descriptor already held by that name is closed."""
    cdef int i = find_named(name)
    global named_top
    if name[0] == 0:
        return -EINVAL
    if strlen(name) >= NAME_MAX_:
        return -ENAMETOOLONG
    if i >= 0:
        close(named[i].fd)
        named[i].fd = fd
        return 0
    for i in range(NAMED_MAX):
        if named[i].fd == 0:
            named[i].fd = fd
            join(named[i].name, name)
            if i >= named_top:
                named_top = i + 1
            return 0
    return -EMFILE


cdef int find_console(const char* name) noexcept nogil:
    cdef int i
    for i in range(consoles_top):
        if consoles[i].listener and strcmp(consoles[i].name, name) == 0:
            return i
    return -1


cdef void end_console(int i) noexcept nogil:
    if consoles[i].peer:
        end_watch(consoles[i].peer)
    end_watch(consoles[i].listener)
    unlink(consoles[i].path)
    consoles[i].peer = consoles[i].listener = 0


cdef int drop(const char* name) noexcept nogil:
    cdef int i = find_named(name)
    cdef int j = find_console(name)
    if j >= 0:
        end_console(j)
    if i >= 0:
        close(named[i].fd)
        named[i].fd = 0
    return 0 if i >= 0 or j >= 0 else -ENOENT


cdef int open_console(const char* path, const char* name) noexcept nogil:
    """Listen at `path` for the one descriptor that is to be held as `name`."""
    cdef char parent[PATH_MAX_]
    cdef size_t size = strlen(path)
    cdef size_t cut = size
    cdef int i, folder, fd, error
    global consoles_top
    if path[0] != c'/' or name[0] == 0:
        return -EINVAL
    if size >= PATH_MAX_ or strlen(name) >= NAME_MAX_:
        return -ENAMETOOLONG
    if find_console(name) >= 0:
        return -EEXIST
    for i in range(CONSOLES_MAX + 1):
        if i == CONSOLES_MAX:
            return -EMFILE
        if consoles[i].listener == 0:
            break
    while path[cut - 1] != c'/':
        cut -= 1
    memcpy(parent, path, cut)
    parent[cut] = 0
    folder = open(parent, O_PATH | O_DIRECTORY | O_CLOEXEC)
    if folder < 0:
        return -errno
    fd = listen_at(folder, path + cut, SOCK_STREAM)
    close(folder)
    if fd < 0:
        return -EEXIST if fd == -EADDRINUSE else fd
    error = watch(fd, EPOLLIN, KIND_CONSOLE, i)
    if error < 0:
        close(fd)
        unlink(path)
        return error
    consoles[i].listener = fd
    consoles[i].peer = 0
    join(consoles[i].path, path)
    join(consoles[i].name, name)
    if i >= consoles_top:
        consoles_top = i + 1
    return 0


cdef void serve_console(int i) noexcept nogil:
    cdef char byte[256]
    cdef int flags, peer
    cdef ssize_t got
    if consoles[i].listener == 0:
        return
    if consoles[i].peer == 0:
        peer = accept4(consoles[i].listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)
        if peer < 0:
            return
        if watch(peer, EPOLLIN, KIND_CONSOLE, i) < 0:
            close(peer)
            return
        consoles[i].peer = peer
        unwatch(consoles[i].listener)
    got = receive(consoles[i].peer, byte, sizeof(byte), &flags)
    if got == -EAGAIN:
        return
    if got > 0 and received_count == 0:
        return
    if received_count and keep(consoles[i].name, received[0]) == 0:
        received[0] = -1
    close_received()
    end_console(i)


# Connections


cdef bint polled(int fd, short events) noexcept nogil:
    """Whether one of the events is there now, or the peer has hung up."""
    cdef pollfd query
    query.fd = fd
    query.events = events
    query.revents = 0
    poll(&query, 1, 0)
    return query.revents != 0


cdef bint writable(Connection* to) noexcept nogil:
    """Whether the socket takes another answer of any size; if not, reading from it waits too."""
    cdef int index = <int>(to - connections)
    cdef bint ready = polled(to.fd, POLLOUT)
    if ready == to.blocked:
        to.blocked = not ready
        rewatch(to.fd, EPOLLIN if ready else EPOLLOUT, KIND_CONNECTION, index)
    return ready


cdef bint send_answer(Connection* to, Answer* answer, iovec* body, int parts, int fd) noexcept nogil:
    """Whether it was sent; a peer that is gone is found out when it is read from. `fd` -1 sends none."""
    cdef iovec all_parts[4]
    cdef msghdr message
    cdef cmsghdr* head
    cdef char space[64]
    cdef int i
    all_parts[0].iov_base = answer
    all_parts[0].iov_len = sizeof(Answer)
    for i in range(parts):
        all_parts[i + 1] = body[i]
    memset(&message, 0, sizeof(message))
    message.msg_iov = all_parts
    message.msg_iovlen = parts + 1
    if fd >= 0:
        memset(space, 0, sizeof(space))
        message.msg_control = space
        message.msg_controllen = CMSG_SPACE(sizeof(int))
        head = CMSG_FIRSTHDR(&message)
        head.cmsg_level = SOL_SOCKET
        head.cmsg_type = SCM_RIGHTS
        head.cmsg_len = CMSG_LEN(sizeof(int))
        memcpy(CMSG_DATA(head), &fd, sizeof(int))
    return sendmsg(to.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0


cdef void answer_status(Connection* to, Header* header, int error, int fd) noexcept nogil:
    cdef Answer answer
    answer.header = header[0]
    answer.header.version = spoken(to)
    answer.error = -error if error < 0 else 0
    send_answer(to, &answer, NULL, 0, fd)


cdef int spoken(Connection* to) noexcept nogil:
    return to.version if to.version else newest


cdef void close_connection(int index) noexcept nogil:
    cdef int i
    if connections[index].fd == 0:
        return
    end_watch(connections[index].fd)
    connections[index].fd = 0
    for i in range(programs_top):
        if programs[i].pid and programs[i].connection == index:
            programs[i].connection = -1
            if programs[i].done:
                forget_program(&programs[i])


cdef void accept_connections() noexcept nogil:
    # All of them, for the listener is edge-triggered: without descriptors to spare it must not keep the loop busy.
    cdef int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)
    while fd >= 0:
        admit(fd)
        fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)


cdef void admit(int fd) noexcept nogil:
    """Make `fd` a connection, in place of one that hung up or is furthest behind when there are too many."""
    cdef int i, chosen = 0
    cdef int room = 4 * KEEP_MAX
    global lonely_ns
    for i in range(CONNECTIONS_MAX):
        if connections[i].fd == 0 or polled(connections[i].fd, 0):
            chosen = i
            break
        if connections[i].next < connections[chosen].next:
            chosen = i
    # The newest always gets in: one that stopped reading must not lock the daemon out.
    close_connection(chosen)
    if watch(fd, EPOLLIN, KIND_CONNECTION, chosen) < 0:
        close(fd)
        return
    # Room for the longest answer in a quarter of it, whatever the host's default is.
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room))
    lonely_ns = 0
    connections[chosen].fd = fd
    connections[chosen].blocked = False
    connections[chosen].next = exits_count
    connections[chosen].version = 1 if oldest == 1 else 0
    connections[chosen].kills = 0


cdef bint flush(int index) noexcept nogil:
    """Tell a connection what it is owed: exits in order of their records, then programs. False when it is full."""
    cdef Connection* to = &connections[index]
    cdef ExitRecord record
    cdef Answer answer
    cdef iovec part
    cdef int i
    if to.version == 0:
        return writable(to)
    if to.version >= SPEAKS_OOM and kills_seen() > to.kills and not tell_kills(to):
        return False
    memset(&answer, 0, sizeof(answer))
    answer.header.version = to.version
    answer.header.operation = OP_EXIT
    part.iov_base = &record
    part.iov_len = sizeof(record)
    if exits_count > RETAINED and to.next < exits_count - RETAINED:
        to.next = exits_count - RETAINED
    while to.next < exits_count:
        if not writable(to):
            return False
        if pread(exits, &record, sizeof(record), to.next * sizeof(record)) != <ssize_t>sizeof(record):
            break
        send_answer(to, &answer, &part, 1, -1)
        to.next += 1
    for i in range(programs_top):
        if programs[i].pid and programs[i].done and programs[i].connection == index:
            if not writable(to):
                return False
            send_result(to, &programs[i])
            forget_program(&programs[i])
    return writable(to)


cdef bint tell_kills(Connection* to) noexcept nogil:
    """False when it is full."""
    cdef Answer answer
    cdef OomBody body
    cdef iovec part
    if not writable(to):
        return False
    memset(&answer, 0, sizeof(answer))
    answer.header.version = to.version
    answer.header.operation = OP_OOM
    body.kills = to.kills = kills_seen()
    body.flags = kill_flags()
    part.iov_base = &body
    part.iov_len = sizeof(body)
    send_answer(to, &answer, &part, 1, -1)
    return True


cdef void flush_all() noexcept nogil:
    cdef int i
    for i in range(CONNECTIONS_MAX):
        if connections[i].fd:
            flush(i)


# Programs


cdef int child(void* argument) noexcept nogil:
    """The program's own half between clone and exec. It shares our memory but not our descriptors."""
    cdef Spawn* spawn = <Spawn*>argument
    cdef sigset_t none
    cdef int i, fd
    cdef bint plain[3]
    plain[0] = plain[1] = plain[2] = True
    spawn.stage = STAGE_DESCRIPTORS
    setpgid(0, 0)
    # Above every target first: a target may be another one's source.
    syscall(SYS_close_range, 3, ~<unsigned int>0, CLOSE_RANGE_CLOEXEC)
    for i in range(spawn.count):
        fd = fcntl(spawn.sources[i], F_DUPFD_CLOEXEC, CHILD_FD_MAX)
        if fd < 0:
            spawn.error = errno
            _exit(127)
        spawn.sources[i] = fd
    if spawn.output:
        spawn.output = fcntl(spawn.output, F_DUPFD_CLOEXEC, CHILD_FD_MAX)
    for i in range(spawn.count):
        if dup2(spawn.sources[i], spawn.targets[i]) < 0:
            spawn.error = errno
            _exit(127)
        if spawn.targets[i] < 3:
            plain[spawn.targets[i]] = False
    for i in range(1, 3):
        if plain[i] and spawn.output and dup2(spawn.output, i) < 0:
            spawn.error = errno
            _exit(127)
    spawn.stage = STAGE_CWD
    if chdir(spawn.cwd) < 0:
        spawn.error = errno
        _exit(127)
    spawn.stage = STAGE_EXEC
    sigemptyset(&none)
    sigprocmask(SIG_SETMASK, &none, NULL)
    execve(spawn.argv[0], spawn.argv, spawn.env)
    spawn.error = errno
    _exit(127)
    return 0


cdef int take_strings(Cursor* cursor, int from_, int count) noexcept nogil:
    """Point `strings` at the next strings, with a NULL after them; the index after that, or -EINVAL."""
    cdef int i
    for i in range(count):
        strings[from_ + i] = next_string(cursor)
        if strings[from_ + i] == NULL:
            return -EINVAL
    strings[from_ + count] = NULL
    return from_ + count + 1


cdef int read_run(Header* header, Cursor* cursor, RunBody** body, Spawn* spawn) noexcept nogil:
    """What a run's request asks for; -errno, with the stage in the header."""
    cdef RunBody* fixed = <RunBody*>cursor.at
    cdef int i, env, names, held
    memset(spawn, 0, sizeof(Spawn))
    if cursor.end - cursor.at < <ssize_t>sizeof(RunBody):
        return -EINVAL
    cursor.at += sizeof(RunBody)
    body[0] = fixed
    if fixed.fdc != received_count or fixed.namec > FDS_MAX or fixed.argc == 0:
        return -EINVAL
    if fixed.argc + fixed.envc + fixed.namec + 4 > STRINGS_MAX:
        return -E2BIG
    spawn.count = fixed.fdc + fixed.namec
    spawn.targets = <uint32_t*>cursor.at
    if cursor.end - cursor.at < <ssize_t>(spawn.count * sizeof(uint32_t)):
        return -EINVAL
    cursor.at += spawn.count * sizeof(uint32_t)
    spawn.cwd = next_string(cursor)
    env = take_strings(cursor, 0, fixed.argc)
    names = take_strings(cursor, env, fixed.envc) if env > 0 else -1
    if spawn.cwd == NULL or names < 0 or take_strings(cursor, names, fixed.namec) < 0:
        return -EINVAL
    spawn.argv = strings
    spawn.env = strings + env
    for i in range(spawn.count):
        if spawn.targets[i] >= CHILD_FD_MAX:
            header.stage = STAGE_DESCRIPTORS
            return -EBADF
        spawn.sources[i] = received[i] if i < fixed.fdc else -1
    for i in range(fixed.namec):
        held = find_named(strings[names + i])
        if held < 0:
            header.stage = STAGE_NAME
            return -ENOENT
        spawn.sources[fixed.fdc + i] = named[held].fd
    return 0


cdef int start(Spawn* spawn, int* output) noexcept nogil:
    """The pid of the program, which has begun, and the read end of its captured output, 0 without; -errno."""
    cdef int pipes[2]
    cdef int pid
    output[0] = 0
    if not (gives(spawn, 1) and gives(spawn, 2)):
        spawn.stage = STAGE_DESCRIPTORS
        if pipe2(pipes, O_CLOEXEC) < 0:
            return -errno
        fcntl(pipes[0], F_SETFL, O_NONBLOCK)  # the writing end stays as programs expect it
        output[0] = pipes[0]
        spawn.output = pipes[1]
    pid = clone(child, stack + STACK, CLONE_VM | CLONE_VFORK | SIGCHLD, spawn)
    if pid < 0:
        spawn.stage = STAGE_FORK
        pid = -errno
    elif spawn.error:
        waitpid(pid, NULL, 0)
        pid = -spawn.error
    if output[0]:
        close(pipes[1])
        if pid < 0:
            close(pipes[0])
    return pid


cdef int run(int index, Header* header, Cursor* cursor) noexcept nogil:
    """Start the program a request describes; -errno, with the stage in the header."""
    cdef RunBody* body
    cdef Spawn spawn
    cdef Program* program
    cdef int slot, pid, output
    cdef int error = read_run(header, cursor, &body, &spawn)
    global programs_top
    if error < 0:
        return error
    for slot in range(PROGRAMS_MAX + 1):
        if slot == PROGRAMS_MAX:
            header.stage = STAGE_FORK
            return -EAGAIN
        if programs[slot].pid == 0:
            break
    pid = start(&spawn, &output)
    if pid < 0:
        header.stage = spawn.stage
        return pid
    program = &programs[slot]
    memset(program, 0, sizeof(Program))
    program.pid = pid
    program.connection = index
    program.id = header.id
    program.keep = body.keep if body.keep < KEEP_MAX else KEEP_MAX
    program.room = (program.keep + PAGE - 1) & ~<size_t>(PAGE - 1)
    if body.timeout_ns and body.timeout_ns >> 62 == 0:  # past that it is for ever, and would overflow
        program.deadline_ns = now_ns(CLOCK_MONOTONIC) + <int64_t>body.timeout_ns
    if output:
        program.pipe = output
        watch(output, EPOLLIN, KIND_PROGRAM, slot)
    if slot >= programs_top:
        programs_top = slot + 1
    return 0


cdef bint gives(Spawn* spawn, uint32_t target) noexcept nogil:
    cdef int i
    for i in range(spawn.count):
        if spawn.targets[i] == target:
            return True
    return False


cdef ssize_t discard(int fd) noexcept nogil:
    # Descriptor 0 is /dev/null, open for both.
    return splice(fd, NULL, 0, NULL, 1 << 20, SPLICE_F_NONBLOCK)


cdef ssize_t collect(Program* program, int fd) noexcept nogil:
    """Read output once; what read(2) returned."""
    cdef size_t at
    cdef ssize_t got
    cdef void* ring
    if program.keep and program.ring == NULL:
        ring = mmap(NULL, program.room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if ring == MAP_FAILED:
            program.keep = 0
        else:
            program.ring = <char*>ring
    if program.keep == 0:
        return discard(fd)
    at = program.written % program.room
    got = read(fd, program.ring + at, program.room - at)
    if got > 0:
        program.written += got
    return got


cdef void serve_output(int slot) noexcept nogil:
    cdef Program* program = &programs[slot]
    cdef ssize_t got
    if program.pid == 0 or program.pipe == 0:
        return
    got = collect(program, program.pipe)
    if got == 0 or (got < 0 and errno != EAGAIN and errno != EINTR):
        end_watch(program.pipe)
        program.pipe = 0


cdef void serve_sink(int fd) noexcept nogil:
    cdef ssize_t got = discard(fd)
    if got == 0 or (got < 0 and errno != EAGAIN and errno != EINTR):
        end_watch(fd)


cdef void finish(Program* program, int status) noexcept nogil:
    """The program ended: take what is in its pipe, and leave the pipe to whoever still holds it."""
    cdef int left = 1024  # what one pipe can hold, not what a grandchild goes on to write
    cdef ssize_t got = 1
    cdef int fd = program.pipe
    program.status = status
    program.done = True
    program.pipe = 0
    while fd and got > 0 and left:
        got = collect(program, fd)
        left -= 1
    if fd and got == 0:
        end_watch(fd)
    elif fd:
        # A grandchild holds the other end; closing ours would kill it with SIGPIPE.
        rewatch(fd, EPOLLIN, KIND_SINK, fd)
    if program.connection < 0:
        forget_program(program)


cdef void send_result(Connection* to, Program* program) noexcept nogil:
    cdef Answer answer
    cdef RunResult result
    cdef iovec parts[3]
    cdef size_t size = program.written if program.written < program.keep else program.keep
    cdef size_t at = (program.written - size) % program.room if size else 0
    cdef size_t first = program.room - at if size > program.room - at else size
    memset(&answer, 0, sizeof(answer))
    answer.header.version = to.version
    answer.header.operation = OP_RUN
    answer.header.id = program.id
    result.status = program.status
    result.flags = RUN_EXPIRED if program.expired else 0
    parts[0].iov_base = &result
    parts[0].iov_len = sizeof(result)
    parts[1].iov_base = program.ring + at
    parts[1].iov_len = first
    parts[2].iov_base = program.ring
    parts[2].iov_len = size - first
    if not send_answer(to, &answer, parts, 3, -1):
        send_answer(to, &answer, parts, 1, -1)  # without its output rather than not at all


cdef void forget_program(Program* program) noexcept nogil:
    global programs_top
    if program.ring != NULL:
        munmap(program.ring, program.room)
    memset(program, 0, sizeof(Program))
    while programs_top and programs[programs_top - 1].pid == 0:
        programs_top -= 1


cdef int signal_program(int index, uint32_t id, int number) noexcept nogil:
    cdef int i
    for i in range(programs_top):
        if programs[i].pid and programs[i].connection == index and programs[i].id == id and not programs[i].done:
            if kill(-programs[i].pid, number) < 0:
                return -errno
            return 0
    return -ENOENT


cdef int wait_ms() noexcept nogil:
    """Kill what is overdue; milliseconds to the next thing that will be, -1 for never."""
    cdef int64_t now, nearest = retry_ns if retry_ns else lonely_ns
    cdef int i
    if look_ns and (nearest == 0 or look_ns < nearest):
        nearest = look_ns
    for i in range(programs_top):
        if programs[i].pid and programs[i].deadline_ns and not programs[i].done and not programs[i].expired:
            if programs[i].deadline_ns <= now_ns(CLOCK_MONOTONIC):
                programs[i].expired = True
                kill(-programs[i].pid, SIGKILL)
            elif nearest == 0 or programs[i].deadline_ns < nearest:
                nearest = programs[i].deadline_ns
    if nearest == 0:
        return -1
    now = now_ns(CLOCK_MONOTONIC)
    if nearest <= now:
        return 0
    return <int>min((nearest - now) // 1000000 + 1, <int64_t>HOUR_MS)


cdef Program* program_of(int pid) noexcept nogil:
    cdef int i
    for i in range(programs_top):
        if programs[i].pid == pid and not programs[i].done:
            return &programs[i]
    return NULL


cdef void reap_programs() noexcept nogil:
    cdef int i, status
    for i in range(programs_top):
        if programs[i].pid and not programs[i].done and waitpid(programs[i].pid, &status, WNOHANG) > 0:
            finish(&programs[i], 128 + WTERMSIG(status) if WIFSIGNALED(status) else WEXITSTATUS(status))


cdef void reap() noexcept nogil:
    """Reap everyone. An exit is put on file before the kernel is let forget it."""
    cdef siginfo_t info
    cdef Program* program
    cdef int i, status, pid
    global retry_ns
    retry_ns = 0
    for i in range(consoles_top):
        serve_console(i)  # so that when a program's end is told, the pty it sent is held
    while True:
        info.si_pid = 0
        if waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 or info.si_pid == 0:
            break
        pid = info.si_pid
        program = program_of(pid)
        status = info.si_status if info.si_code == 1 else 128 + info.si_status  # CLD_EXITED, CLD_KILLED, CLD_DUMPED
        if program == NULL and append_record(pid, status) < 0:
            retry_ns = now_ns(CLOCK_MONOTONIC) + RETRY_NS
            reap_programs()
            break
        waitpid(pid, NULL, 0)
        if program != NULL:
            finish(program, status)
    flush_all()


# Requests


cdef int attach(const char* target, int fd) noexcept nogil:
    if syscall(SYS_move_mount, fd, b"", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) < 0:
        return -errno
    return 0


cdef int mount_old(Cursor* cursor) noexcept nogil:
    cdef uint64_t flags
    cdef char* type
    cdef char* source
    cdef char* target
    cdef char* data
    if cursor.end - cursor.at < 8:
        return -EINVAL
    flags = (<uint64_t*>cursor.at)[0]
    cursor.at += 8
    type = next_string(cursor)
    source = next_string(cursor)
    target = next_string(cursor)
    data = next_string(cursor)
    if type == NULL or source == NULL or target == NULL or data == NULL:
        return -EINVAL
    if mount(source, target, type, flags, data) < 0:
        return -errno
    return 0


cdef int resize(Cursor* cursor) noexcept nogil:
    cdef ResizeBody* body = <ResizeBody*>cursor.at
    cdef winsize size
    cdef char* name
    cdef int held
    if cursor.end - cursor.at < <ssize_t>sizeof(ResizeBody):
        return -EINVAL
    cursor.at += sizeof(ResizeBody)
    name = next_string(cursor)
    if name == NULL:
        return -EINVAL
    held = find_named(name)
    if held < 0:
        return -ENOENT
    memset(&size, 0, sizeof(size))
    size.ws_col = body.width
    size.ws_row = body.height
    if ioctl(named[held].fd, TIOCSWINSZ, &size) < 0:
        return -errno
    return 0


cdef int follow(int index, Cursor* cursor) noexcept nogil:
    """Go back to the record that the peer has not read: one may have been written before the connection was taken."""
    cdef uint64_t sequence
    if cursor.end - cursor.at < 8:
        return -EINVAL
    sequence = (<uint64_t*>cursor.at)[0]
    if sequence > exits_count:
        return -EINVAL
    connections[index].next = sequence
    flush(index)
    return 0


cdef void greet(int index, Header* header, Cursor* cursor) noexcept nogil:
    """Answer hello, and tell what the peer did not know that it is told of."""
    cdef HelloBody* theirs = <HelloBody*>cursor.at
    cdef HelloBody ours
    cdef Answer answer
    cdef iovec part
    cdef Connection* to = &connections[index]
    memset(&answer, 0, sizeof(answer))
    answer.header = header[0]
    answer.header.version = newest
    if cursor.end - cursor.at < <ssize_t>sizeof(HelloBody):
        answer.error = EINVAL
        send_answer(to, &answer, NULL, 0, -1)
        return
    ours.version = newest
    ours.oldest = oldest
    ours.zero = 0
    part.iov_base = &ours
    part.iov_len = sizeof(ours)
    send_answer(to, &answer, &part, 1, -1)
    if theirs.version >= oldest and theirs.oldest <= newest:
        to.version = theirs.version if theirs.version < newest else newest
        flush(index)


cdef int keep_received(const char* name) noexcept nogil:
    cdef int error
    if received_count != 1:
        return -EINVAL
    error = keep(name, received[0])
    if error == 0:
        received[0] = -1
    return error


cdef int named_request(int operation, Cursor* cursor, int* fd) noexcept nogil:
    """Requests whose body is one string, or two."""
    cdef char* text = next_string(cursor)
    cdef char* second
    cdef int held
    if text == NULL:
        return -EINVAL
    if operation == OP_KEEP:
        return keep_received(text)
    if operation == OP_DROP:
        return drop(text)
    if operation == OP_WATCH_OOM:
        return watch_oom(text)
    if operation == OP_ATTACH:
        return attach(text, received[0]) if received_count == 1 else -EINVAL
    if operation == OP_CONSOLE:
        second = next_string(cursor)
        return open_console(text, second) if second != NULL else -EINVAL
    if operation == OP_FETCH:
        held = find_named(text)
        if held < 0:
            return -ENOENT
        fd[0] = named[held].fd
        return 0
    return -ENOSYS


cdef void handle(int index, ssize_t size, int flags) noexcept nogil:
    """Carry one request out and answer it; only a run that started is answered later."""
    cdef Header header
    cdef Cursor cursor
    cdef int error, fd = -1
    cdef uint32_t* words
    global ending
    memset(&header, 0, sizeof(header))
    memcpy(&header, request, sizeof(header) if size >= <ssize_t>sizeof(header) else size)
    header.stage = 0
    cursor.at = <char*>request + sizeof(header)
    cursor.end = <char*>request + size
    if flags & (MSG_TRUNC | MSG_CTRUNC):
        error = -EMSGSIZE
    elif size < <ssize_t>sizeof(header):
        error = -EINVAL
    elif header.operation == OP_HELLO and newest > 1:
        greet(index, &header, &cursor)
        return
    elif not oldest <= header.version <= newest and not (header.operation == OP_SHUTDOWN and newest > 1):
        error = -EPROTONOSUPPORT
    elif header.operation == OP_RUN:
        error = run(index, &header, &cursor)
        if error == 0:
            return
    elif header.operation == OP_KILL:
        words = <uint32_t*>cursor.at
        error = signal_program(index, words[0], words[1]) if cursor.end - cursor.at >= 8 else -EINVAL
    elif header.operation == OP_MOUNT:
        error = mount_old(&cursor)
    elif header.operation == OP_RESIZE:
        error = resize(&cursor)
    elif header.operation == OP_FOLLOW:
        error = follow(index, &cursor)
    elif header.operation == OP_SHUTDOWN:
        ending = True
        error = 0
    else:
        error = named_request(header.operation, &cursor, &fd)
    answer_status(&connections[index], &header, error, fd)


cdef void serve_connection(int index) noexcept nogil:
    cdef int flags
    cdef ssize_t got
    cdef uintptr_t second_page, end
    if connections[index].fd == 0 or not flush(index):
        return
    got = receive(connections[index].fd, request, sizeof(request), &flags)
    if got == -EAGAIN:
        return
    if got <= 0:
        close_received()
        close_connection(index)
        return
    handle(index, got, flags)
    close_received()
    if got > PAGE:
        # A long environment must not stay in memory for the life of the container.
        second_page = (<uintptr_t>request + 2 * PAGE - 1) & ~<uintptr_t>(PAGE - 1)
        end = (<uintptr_t>request + sizeof(request)) & ~<uintptr_t>(PAGE - 1)
        madvise(<void*>second_page, end - second_page, MADV_DONTNEED)


# The shim


cdef int open_exits() noexcept nogil:
    cdef stat_t info
    global exits, exits_count
    exits = openat(directory, b"exits", O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0o600)
    if exits < 0 or fstat(exits, &info) < 0:
        return -errno
    exits_count = info.st_size // sizeof(ExitRecord)
    if ftruncate(exits, exits_count * sizeof(ExitRecord)) < 0:
        return -errno
    # A filesystem without fallocate is no reason not to start; a full one is.
    return -ENOSPC if reserve() == -ENOSPC else 0


cdef int open_shim(const char* path, int oom_score_adj) noexcept nogil:
    """Become a shim serving the directory `path`; -errno."""
    cdef sigset_t children
    cdef sigaction_t plain
    cdef int error
    global directory, poller, signals, listener
    setsid()
    memset(&plain, 0, sizeof(plain))
    plain.sa_handler = SIG_DFL
    sigaction(SIGCHLD, &plain, NULL)
    prctl(PR_SET_NAME, b"holdd-shim", 0, 0, 0)
    set_oom_score(oom_score_adj)
    if prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0 or unshare(CLONE_NEWNS) < 0:
        return -errno
    directory = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC)
    if directory < 0:
        return -errno
    error = open_exits()
    if error < 0:
        return error
    sigemptyset(&children)
    sigaddset(&children, SIGCHLD)
    poller = epoll_create1(EPOLL_CLOEXEC)
    signals = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK)
    if poller < 0 or signals < 0:
        return -errno
    listener = listen_at(directory, b"shim.sock", SOCK_SEQPACKET)
    if listener < 0:
        return -EEXIST if listener == -EADDRINUSE else listener
    error = watch(signals, EPOLLIN, KIND_SIGNAL, 0)
    if error == 0:
        error = watch(listener, EPOLLIN | EPOLLET, KIND_LISTENER, 0)
    if error < 0:
        unlinkat(directory, b"shim.sock", 0)
    return error


cdef void serve(uint64_t what) noexcept nogil:
    cdef int kind = <int>(what >> 32)
    cdef int index = <int><uint32_t>what
    cdef char drained[256]
    if kind == KIND_CONNECTION:
        serve_connection(index)
    elif kind == KIND_SIGNAL:
        while read(signals, drained, sizeof(drained)) > 0:
            pass
        reap()
    elif kind == KIND_PROGRAM:
        serve_output(index)
    elif kind == KIND_SINK:
        serve_sink(index)
    elif kind == KIND_LISTENER:
        accept_connections()
    elif kind == KIND_CONSOLE:
        serve_console(index)
    elif kind == KIND_OOM:
        serve_oom()


cdef void end_shim() noexcept nogil:
    cdef int i
    unlinkat(directory, b"shim.sock", 0)
    for i in range(consoles_top):
        if consoles[i].listener:
            unlink(consoles[i].path)
    for i in range(programs_top):
        if programs[i].pid and not programs[i].done:
            kill(-programs[i].pid, SIGKILL)
    _exit(0)


cdef void shim(const char* path, int oom_score_adj, int nursery_fd, uint32_t id, int speaks) noexcept nogil:
    cdef ForkAnswer answer
    cdef epoll_event event
    cdef int got
    global ending, lonely_ns, newest, oldest
    if speaks:
        newest = speaks & 255
        oldest = speaks >> 8
    answer.id = id
    answer.error = -open_shim(path, oom_score_adj)
    answer.pid = getpid()
    retitle(path)
    tell(nursery_fd, &answer)
    close(nursery_fd)
    if answer.error:
        _exit(1)
    lonely_ns = now_ns(CLOCK_MONOTONIC) + LONELY_NS
    while not ending:
        # One at a time: what serving one event closes cannot be in a batch behind it.
        got = epoll_wait(poller, &event, 1, wait_ms())
        if got > 0:
            serve(event.data.u64)
        if retry_ns and retry_ns <= now_ns(CLOCK_MONOTONIC):
            reap()
        if look_ns and look_ns <= now_ns(CLOCK_MONOTONIC):
            look_for_kills()
        if lonely_ns and lonely_ns <= now_ns(CLOCK_MONOTONIC):
            ending = True
    end_shim()


# The nursery


cdef void tell(int fd, ForkAnswer* answer) noexcept nogil:
    cdef msghdr message
    cdef iovec part
    part.iov_base = answer
    part.iov_len = sizeof(ForkAnswer)
    memset(&message, 0, sizeof(message))
    message.msg_iov = &part
    message.msg_iovlen = 1
    sendmsg(fd, &message, MSG_NOSIGNAL)


cdef void nursery(int fd) noexcept nogil:
    """Fork a shim at each request until the daemon is gone. Never returns."""
    cdef ForkRequest* asked = <ForkRequest*>request
    cdef ForkAnswer answer
    cdef ssize_t got
    cdef int flags
    cdef long pid
    reset_signals()
    setsid()
    fd = settle(fd)
    chdir(b"/")
    prctl(PR_SET_NAME, b"holdd-nursery", 0, 0, 0)
    drop_interpreter()
    while True:
        got = receive(fd, request, sizeof(request) - 1, &flags)
        close_received()
        if got <= 0:
            _exit(0)
        (<char*>request)[got] = 0
        answer.id = asked.header.id
        answer.pid = 0
        answer.error = EINVAL
        if got > <ssize_t>sizeof(ForkRequest) and asked.header.version == NURSERY_VERSION:
            # The system call itself: libc's fork runs handlers of libraries that are not here any more.
            pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0)
            if pid == 0:
                shim(<char*>request + sizeof(ForkRequest), asked.oom_score_adj, fd, answer.id, asked.header.stage)
            if pid > 0:
                continue
            answer.error = errno
        tell(fd, &answer)


def fork_nursery(int fd):
    """Fork a nursery that serves the socket `fd` until its peer closes; its pid. Its descriptor stays the caller's."""
    cdef long pid
    cdef int error = 0
    with nogil:
        pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0)
        if pid == 0:
            nursery(fd)
        if pid < 0:
            error = errno
    if error:
        raise OSError(error, strerror(error).decode())
    return pid


def serve_nursery(int fd):
    """Become the nursery that serves the socket `fd`; never returns."""
    with nogil:
        nursery(fd)
