# What a process sheds after its fork, so that little of it is left and all of that is its own: memory, descriptors,
# signal handlers, its title. No call here allocates.
#
# Header only: the functions become part of the module that cimports them. That module must be linked with -z now, for
# the dynamic linker's tables are among what `drop_interpreter` unmaps.

from libc.stdint cimport int64_t, uint64_t, uint8_t, uintptr_t

from pyx.sys cimport (
    AT_BASE, close, dup2, errno, F_DUPFD_CLOEXEC, F_SETFD, fcntl, FD_CLOEXEC, getauxval, MADV_DONTNEED, madvise,
    memcpy, memset, munmap, O_CLOEXEC, O_RDONLY, O_RDWR, O_WRONLY, open, read, recvmsg, SANITIZED, SIG_BLOCK,
    SIG_IGN, sigaction, sigaction_t, SIGCHLD, sigfillset, sigprocmask, sigset_t, strlen, SYS_close_range,
    SYS_rt_sigaction, syscall, write,
)

cdef enum:
    PAGE = 4096


cdef inline char* decimal(char* to, int64_t number) noexcept nogil:
    """Write `number` and a NUL; where the NUL is. stdio would bring a heap."""
    cdef char digits[24]
    cdef int count = 0
    if number < 0:
        to[0] = c'-'
        to += 1
        number = -number
    while True:
        digits[count] = <char>(c'0' + number % 10)
        count += 1
        number = number // 10
        if number == 0:
            break
    while count:
        count -= 1
        to[0] = digits[count]
        to += 1
    to[0] = 0
    return to


cdef inline char* join(char* to, const char* text) noexcept nogil:
    cdef size_t size = strlen(text)
    memcpy(to, text, size + 1)
    return to + size


cdef struct Mapping:
    uintptr_t start
    uintptr_t end
    uint64_t file          # device and inode, 0 when anonymous
    char mark[3]           # the first letters of its name


cdef struct Text:         # a file of /proc, being read
    char buffer[1024]
    int fd
    ssize_t filled
    ssize_t at


cdef inline int next_byte(Text* source) noexcept nogil:
    if source.at == source.filled:
        source.filled = read(source.fd, source.buffer, sizeof(source.buffer))
        source.at = 0
        if source.filled <= 0:
            source.filled = 0
            return -1
    source.at += 1
    return <uint8_t>source.buffer[source.at - 1]


cdef inline uint64_t next_number(Text* source, int base) noexcept nogil:
    """The number at the source; the one byte after it is taken too."""
    cdef uint64_t number = 0
    cdef int byte
    while True:
        byte = next_byte(source)
        if c'0' <= byte <= c'9':
            number = number * base + <uint64_t>(byte - c'0')
        elif base == 16 and c'a' <= byte <= c'f':
            number = number * 16 + <uint64_t>(byte - c'a' + 10)
        else:
            return number


cdef inline bint next_mapping(Text* source, Mapping* mapping) noexcept nogil:
    """One line of /proc/self/maps (proc(5)): start-end mode offset major:minor inode name."""
    cdef uint64_t device
    cdef int byte, count = 0
    mapping.start = next_number(source, 16)
    mapping.end = next_number(source, 16)
    if mapping.end == 0:
        return False
    while next_byte(source) > c' ':
        pass
    next_number(source, 16)
    device = next_number(source, 16) << 20
    device |= next_number(source, 16)
    mapping.file = next_number(source, 10)
    if mapping.file:
        mapping.file ^= device << 32
    memset(mapping.mark, 0, sizeof(mapping.mark))
    while True:
        byte = next_byte(source)
        if byte < 0 or byte == c'\n':
            return True
        if byte != c' ' and count < 3:
            mapping.mark[count] = <char>byte
            count += 1


cdef inline void trim_stack(Mapping* mapping) noexcept nogil:
    """Give back the stack below us, and the frames above that are never returned to."""
    cdef uintptr_t here = <uintptr_t>&mapping & ~<uintptr_t>(PAGE - 1)
    cdef uintptr_t low = here - 4 * PAGE
    cdef uintptr_t high = here + 4 * PAGE
    cdef uintptr_t top = mapping.end - 4 * PAGE  # argv and environment, which ps shows
    if mapping.start < low:
        madvise(<void*>mapping.start, low - mapping.start, MADV_DONTNEED)
    if high < top:
        madvise(<void*>high, top - high, MADV_DONTNEED)


cdef inline bint holds(Mapping* mapping, uintptr_t* anchors, int count) noexcept nogil:
    cdef int i
    for i in range(count):
        if mapping.start <= anchors[i] < mapping.end:
            return True
    return False


cdef inline void drop_interpreter() noexcept nogil:
    """Unmap all but this module, the C library, the dynamic linker, the stack and thread-local storage.

    Otherwise the interpreter's pages, shared at first, would be charged to the last shim that shares them.
    """
    cdef uintptr_t anchors[5]
    cdef uint64_t files[5]
    cdef int i, count = 0
    cdef Text source
    cdef Mapping mapping
    cdef uintptr_t kept_end = 0
    cdef bint kept
    if SANITIZED:
        return
    anchors[0] = <uintptr_t>&drop_interpreter
    anchors[1] = <uintptr_t>&recvmsg
    anchors[2] = <uintptr_t>getauxval(AT_BASE)
    anchors[3] = <uintptr_t>&errno
    anchors[4] = <uintptr_t>&mapping
    source.at = source.filled = 0
    source.fd = open(b"/proc/self/maps", O_RDONLY | O_CLOEXEC)
    if source.fd < 0:
        return
    while next_mapping(&source, &mapping):
        if mapping.file and count < 5 and holds(&mapping, anchors, 3):
            files[count] = mapping.file
            count += 1
    close(source.fd)
    source.at = source.filled = 0
    source.fd = open(b"/proc/self/maps", O_RDONLY | O_CLOEXEC)
    while next_mapping(&source, &mapping):
        kept = holds(&mapping, anchors, 5) or (mapping.mark[0] == c'[' and mapping.mark[1] == c'v')
        for i in range(count):
            kept = kept or mapping.file == files[i]
        if mapping.file == 0 and mapping.start == kept_end:
            kept = True  # zero-initialised data follows its file
        if kept:
            kept_end = mapping.end
        else:
            munmap(<void*>mapping.start, mapping.end - mapping.start)
        if mapping.mark[0] == c'[' and mapping.mark[1] == c's':
            trim_stack(&mapping)
    close(source.fd)


cdef inline void reset_signals() noexcept nogil:
    """Block all signals, so that none is acted on, and have none of Python's handlers."""
    cdef sigset_t every
    cdef sigaction_t plain
    cdef uint64_t default[4]  # the kernel's struct sigaction, all zeros: SIG_DFL, no flags, nothing masked
    cdef int number
    sigfillset(&every)
    sigprocmask(SIG_BLOCK, &every, NULL)
    memset(default, 0, sizeof(default))
    for number in range(1, 65):  # by the kernel's call: libc refuses 32 and 33, which its posix_spawn leaves ignored
        syscall(SYS_rt_sigaction, number, default, NULL, sizeof(uint64_t))
    memset(&plain, 0, sizeof(plain))
    plain.sa_handler = SIG_IGN
    sigaction(SIGCHLD, &plain, NULL)  # the kernel reaps shims


cdef inline int settle(int fd) noexcept nogil:
    """Keep `fd`, as 3, and /dev/null as 0, 1 and 2; close the rest."""
    cdef int null
    cdef int i
    fd = fcntl(fd, F_DUPFD_CLOEXEC, 10)
    null = open(b"/dev/null", O_RDWR | O_CLOEXEC)
    for i in range(3):
        dup2(null, i)
    dup2(fd, 3)
    fcntl(3, F_SETFD, FD_CLOEXEC)
    if syscall(SYS_close_range, 4, ~<unsigned int>0, 0) < 0:
        for i in range(4, 65536):
            close(i)
    return 3


cdef inline void set_oom_score(int score) noexcept nogil:
    cdef char text[16]
    cdef int fd = open(b"/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC)
    if fd >= 0:
        decimal(text, score)
        write(fd, text, strlen(text))  # advice: without the privilege it stays as inherited
        close(fd)


cdef inline void retitle(const char* path) noexcept nogil:
    """Have ps show which shim this is, in place of our argv and environment (proc(5): fields 48 to 51 of stat).

    A title longer than argv may run into the environment, which the kernel allows for setproctitle's sake.
    """
    cdef Text source
    cdef uintptr_t argv, argv_end, env, end
    cdef size_t size = strlen(path)
    cdef int blanks = 47, byte = 0
    source.at = source.filled = 0
    source.fd = open(b"/proc/self/stat", O_RDONLY | O_CLOEXEC)
    if source.fd < 0:
        return
    while blanks and byte >= 0:
        byte = next_byte(&source)
        blanks -= byte == c' '  # the name, which is ours, has none
    argv = next_number(&source, 10)
    argv_end = next_number(&source, 10)
    env = next_number(&source, 10)
    end = next_number(&source, 10)
    close(source.fd)
    if argv == 0 or argv_end < argv + 12:
        return
    if env != argv_end:
        end = argv_end
    memset(<void*>argv, 0, argv_end - argv)
    join(<char*>argv, b"holdd-shim")
    if argv + 12 + size < end:
        join(join(<char*>argv + 10, b" "), path)
