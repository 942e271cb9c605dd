# The only externs of libc and kernel headers. One block a header; constants beside the calls that take them.
#
# Append to the block of the header that declares a symbol; a constant that an old header may lack gets a verbatim
# #ifndef in the include block at the top.

cdef extern from *:
    """
    #include <sys/syscall.h>
    #ifdef __SANITIZE_ADDRESS__
    #define SANITIZED 1
    #else
    #define SANITIZED 0
    #endif
    #ifndef CLOSE_RANGE_CLOEXEC
    #define CLOSE_RANGE_CLOEXEC 4
    #endif
    #ifndef MOVE_MOUNT_F_EMPTY_PATH
    #define MOVE_MOUNT_F_EMPTY_PATH 4
    #endif
    #ifndef FICLONE
    #define FICLONE _IOW(0x94, 9, int)
    #endif
    #ifndef STATX_ATTR_MOUNT_ROOT
    #define STATX_ATTR_MOUNT_ROOT 0x2000
    #endif
    """
    const int SANITIZED  # whether this is a HOLDD_SANITIZE build
    const unsigned int CLOSE_RANGE_CLOEXEC
    const unsigned int MOVE_MOUNT_F_EMPTY_PATH
    const unsigned long FICLONE
    const unsigned long long STATX_ATTR_MOUNT_ROOT

cdef extern from "<sys/types.h>" nogil:
    ctypedef long off_t

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* at)
    const int CLOCK_MONOTONIC, CLOCK_REALTIME

cdef extern from "<errno.h>" nogil:
    int errno
    const int E2BIG, EADDRINUSE, ENODATA, ENOMEM, ENOTDIR, ENOTEMPTY, ENOTSUP, EOPNOTSUPP, EOVERFLOW, EPERM, ERANGE
    const int EXDEV
    const int EBUSY, EISDIR, ELOOP, EMLINK, ENFILE, ENODEV, ENOTTY, ENXIO, ESTALE
    const int EAGAIN, EBADF, EEXIST, EINTR, EINVAL, EMFILE, EMSGSIZE, ENAMETOOLONG, ENOENT
    const int ENOSPC, ENOSYS, EPROTONOSUPPORT

cdef extern from "<fcntl.h>" nogil:
    int open(const char* path, int flags, ...)
    int openat(int folder, const char* path, int flags, ...)
    int fcntl(int fd, int command, ...)
    int fallocate(int fd, int mode, long long offset, long long size)
    ssize_t splice(int source, long long* source_at, int target, long long* target_at, size_t size, unsigned int flags)
    const int AT_EMPTY_PATH, AT_FDCWD, AT_REMOVEDIR, AT_SYMLINK_FOLLOW, AT_SYMLINK_NOFOLLOW
    const int O_APPEND, O_CLOEXEC, O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_PATH, O_RDONLY, O_RDWR
    const int O_WRONLY
    const int F_DUPFD_CLOEXEC, F_SETFD, F_SETFL, FD_CLOEXEC
    const int FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE
    const unsigned int SPLICE_F_NONBLOCK

cdef extern from "<linux/openat2.h>" nogil:
    struct open_how:
        unsigned long long flags
        unsigned long long mode
        unsigned long long resolve
    const int RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd* fds, unsigned long count, int timeout_ms)
    const short POLLIN, POLLOUT

cdef extern from "<sched.h>" nogil:
    int clone(int (*function)(void*) noexcept nogil, void* stack, int flags, void* argument, ...)
    int setns(int fd, int kind)
    int unshare(int flags)
    const int CLONE_FILES, CLONE_NEWNS, CLONE_NEWUSER, CLONE_VFORK, CLONE_VM

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    ctypedef struct siginfo_t:
        int si_code
        int si_pid
        int si_status
    ctypedef void (*sighandler_t)(int)
    ctypedef struct sigaction_t "struct sigaction":
        sighandler_t sa_handler
    int kill(int pid, int number)
    int sigaction(int number, const sigaction_t* action, sigaction_t* old)
    int sigaddset(sigset_t* set, int number)
    int sigemptyset(sigset_t* set)
    int sigfillset(sigset_t* set)
    int sigprocmask(int how, const sigset_t* set, sigset_t* old)
    const int SIGCHLD, SIGKILL, SIG_BLOCK, SIG_SETMASK
    const sighandler_t SIG_DFL, SIG_IGN

cdef extern from "<string.h>" nogil:
    void* memcpy(void* to, const void* source, size_t size)
    void* memset(void* to, int byte, size_t size)
    int memcmp(const void* a, const void* b, size_t size)
    int strcmp(const char* a, const char* b)
    int strncmp(const char* a, const char* b, size_t size)
    char* strerror(int number)
    size_t strlen(const char* text)

cdef extern from "<sys/auxv.h>" nogil:
    unsigned long getauxval(unsigned long type)
    const unsigned long AT_BASE

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        unsigned long long u64
    struct epoll_event:
        unsigned int events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int poller, int operation, int fd, epoll_event* event)
    int epoll_wait(int poller, epoll_event* events, int count, int timeout_ms)
    const int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD
    const unsigned int EPOLLET, EPOLLIN, EPOLLOUT, EPOLLPRI

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int value, int flags)
    const int EFD_CLOEXEC, EFD_NONBLOCK

cdef extern from "<sys/ioctl.h>" nogil:
    struct winsize:
        unsigned short ws_row
        unsigned short ws_col
    int ioctl(int fd, unsigned long request, ...)
    const unsigned long TIOCSWINSZ

cdef extern from "<sys/mman.h>" nogil:
    void* mmap(void* at, size_t size, int protection, int flags, int fd, long long offset)
    int munmap(void* at, size_t size)
    int madvise(void* at, size_t size, int advice)
    const int MADV_DONTNEED, MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE
    void* const MAP_FAILED

cdef extern from "<sys/mount.h>" nogil:
    int umount2(const char* target, int flags)
    int mount(const char* source, const char* target, const char* type, unsigned long flags, const void* data)

cdef extern from "<sys/prctl.h>" nogil:
    int prctl(int option, ...)
    const int PR_SET_CHILD_SUBREAPER, PR_SET_NAME, PR_SET_PDEATHSIG

cdef extern from "<sys/signalfd.h>" nogil:
    int signalfd(int fd, const sigset_t* set, int flags)
    const int SFD_CLOEXEC, SFD_NONBLOCK

cdef extern from "<sys/socket.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len
    struct sockaddr:
        pass
    struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
        void* msg_control
        size_t msg_controllen
        int msg_flags
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    int socket(int family, int type, int protocol)
    int bind(int fd, const sockaddr* address, unsigned int size)
    int listen(int fd, int backlog)
    int accept4(int fd, sockaddr* address, unsigned int* size, int flags)
    int setsockopt(int fd, int level, int name, const void* value, unsigned int size)
    ssize_t recvmsg(int fd, msghdr* message, int flags)
    ssize_t sendmsg(int fd, const msghdr* message, int flags)
    unsigned char* CMSG_DATA(cmsghdr* head)
    cmsghdr* CMSG_FIRSTHDR(msghdr* message)
    cmsghdr* CMSG_NXTHDR(msghdr* message, cmsghdr* head)
    size_t CMSG_LEN(size_t size)
    size_t CMSG_SPACE(size_t size)
    const int AF_UNIX, SCM_RIGHTS, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_SEQPACKET, SOCK_STREAM, SOL_SOCKET
    const int SO_SNDBUFFORCE
    const int MSG_CMSG_CLOEXEC, MSG_CTRUNC, MSG_DONTWAIT, MSG_NOSIGNAL, MSG_TRUNC

cdef extern from "<sys/stat.h>" nogil:
    int fstatat(int folder, const char* path, stat_t* info, int flags)
    int mkdirat(int folder, const char* path, unsigned int mode)
    int mknodat(int folder, const char* path, unsigned int mode, unsigned long device)
    int fchmod(int fd, unsigned int mode)
    int fchmodat(int folder, const char* path, unsigned int mode, int flags)
    int utimensat(int folder, const char* path, const timespec* times, int flags)
    int futimens(int fd, const timespec* times)
    bint S_ISDIR(unsigned int mode)
    bint S_ISREG(unsigned int mode)
    bint S_ISLNK(unsigned int mode)
    bint S_ISBLK(unsigned int mode)
    bint S_ISCHR(unsigned int mode)
    bint S_ISFIFO(unsigned int mode)
    bint S_ISSOCK(unsigned int mode)
    ctypedef struct stat_t "struct stat":
        unsigned long st_dev
        unsigned long st_ino
        unsigned int st_mode
        unsigned long st_nlink
        unsigned int st_uid
        unsigned int st_gid
        unsigned long st_rdev
        long long st_size
        long long st_blocks
        timespec st_atim
        timespec st_mtim
    ctypedef struct statx_t "struct statx":
        unsigned long long stx_attributes
        unsigned long long stx_attributes_mask
    int fstat(int fd, stat_t* info)
    int statx(int folder, const char* path, int flags, unsigned int mask, statx_t* info)
    unsigned int umask(unsigned int mask)

cdef extern from "<sys/syscall.h>" nogil:
    const long SYS_clone, SYS_close_range, SYS_fsconfig, SYS_fsmount, SYS_fsopen, SYS_mount_setattr, SYS_move_mount
    const long SYS_getdents64, SYS_open_tree, SYS_openat2, SYS_renameat2, SYS_rt_sigaction

cdef extern from "<sys/sysmacros.h>" nogil:
    unsigned long makedev(unsigned int major, unsigned int minor)
    unsigned int major(unsigned long device)
    unsigned int minor(unsigned long device)

cdef extern from "<sys/un.h>" nogil:
    struct sockaddr_un:
        unsigned short sun_family
        char sun_path[108]

cdef extern from "<sys/wait.h>" nogil:
    ctypedef enum idtype_t:
        P_ALL
    int waitid(idtype_t type, unsigned int id, siginfo_t* info, int options)
    int waitpid(int pid, int* status, int options)
    bint WIFSIGNALED(int status)
    int WEXITSTATUS(int status)
    int WTERMSIG(int status)
    const int WEXITED, WNOHANG, WNOWAIT, __WALL

cdef extern from "<unistd.h>" nogil:
    void _exit(int status)
    int chdir(const char* path)
    int close(int fd)
    int dup2(int fd, int target)
    int execve(const char* path, char* const argv[], char* const env[])
    int ftruncate(int fd, long long size)
    long long lseek(int fd, long long offset, int whence)
    int pause()
    ssize_t pwrite(int fd, const void* buffer, size_t size, long long offset)
    const int SEEK_DATA, SEEK_HOLE
    int getpid()
    int pipe2(int fds[2], int flags)
    ssize_t pread(int fd, void* buffer, size_t size, long long offset)
    ssize_t read(int fd, void* buffer, size_t size)
    int setpgid(int pid, int group)
    int setsid()
    long syscall(long number, ...)
    ssize_t copy_file_range(int source, off_t* source_at, int target, off_t* target_at, size_t size,
                            unsigned int flags)
    int fchown(int fd, unsigned int uid, unsigned int gid)
    int fchownat(int folder, const char* path, unsigned int uid, unsigned int gid, int flags)
    int linkat(int folder, const char* path, int to_folder, const char* to, int flags)
    ssize_t readlinkat(int folder, const char* path, char* buffer, size_t size)
    int symlinkat(const char* target, int folder, const char* path)
    int syncfs(int fd)
    int unlink(const char* path)
    int unlinkat(int folder, const char* path, int flags)
    ssize_t write(int fd, const void* buffer, size_t size)

cdef extern from "<dirent.h>" nogil:
    ctypedef struct DIR:
        pass
    struct dirent:
        unsigned char d_type
        char d_name[256]
    int dirfd(DIR* folder)
    DIR* fdopendir(int fd)
    dirent* readdir(DIR* folder)
    int closedir(DIR* folder)
    const unsigned char DT_DIR, DT_UNKNOWN

cdef extern from "<stdlib.h>" nogil:
    void* malloc(size_t size)
    void* calloc(size_t count, size_t size)
    void* realloc(void* at, size_t size)
    void free(void* at)
    void qsort(void* at, size_t count, size_t size, int (*order)(const void*, const void*) noexcept nogil)

cdef extern from "<sys/xattr.h>" nogil:
    ssize_t flistxattr(int fd, char* names, size_t size)
    ssize_t fgetxattr(int fd, const char* name, void* value, size_t size)
    int fremovexattr(int fd, const char* name)
    int fsetxattr(int fd, const char* name, const void* value, size_t size, int flags)
    ssize_t llistxattr(const char* path, char* names, size_t size)
    ssize_t lgetxattr(const char* path, const char* name, void* value, size_t size)
    int lsetxattr(const char* path, const char* name, const void* value, size_t size, int flags)

cdef extern from "<sys/sendfile.h>" nogil:
    ssize_t sendfile(int target, int source, off_t* source_at, size_t size)

cdef extern from "<stdio.h>" nogil:
    int snprintf(char* text, size_t size, const char* form, ...)
