"""Subvolumes of btrfs: made, snapshotted, destroyed, and what was written to one since (btrfs-ioctl(2)).

All take directory descriptors. Who is not root may not destroy or search. A subvolume is named by its id, the number of
its tree, which no other ever takes.
"""

from pyx cimport sys
from pyx.err cimport failed, text

cdef extern from *:
    """
    #include <sys/vfs.h>
    #include <linux/magic.h>
    #include <linux/btrfs.h>
    #include <linux/btrfs_tree.h>
    static int pyx_is_btrfs(int fd)
    {
        struct statfs info;
        return fstatfs(fd, &info) < 0 ? -1 : info.f_type == BTRFS_SUPER_MAGIC;
    }
    /* Items lie in the kernel's buffer as they do on disk: little-endian, unaligned. */
    static unsigned long long pyx_le64(const char* at)
    {
        const unsigned char* b = (const unsigned char*)at;
        unsigned long long value = 0;
        int i;
        for (i = 7; i >= 0; i--)
            value = value << 8 | b[i];
        return value;
    }
    static unsigned pyx_le32(const char* at) { return (unsigned)(pyx_le64(at) & 0xffffffff); }
    #define PYX_EXTENT(field) offsetof(struct btrfs_file_extent_item, field)
    #define PYX_INODE(field) offsetof(struct btrfs_inode_item, field)
    enum { EXTENT_GENERATION = PYX_EXTENT(generation), EXTENT_RAM = PYX_EXTENT(ram_bytes),
           EXTENT_TYPE = PYX_EXTENT(type), EXTENT_AT = PYX_EXTENT(disk_bytenr),
           EXTENT_DISK = PYX_EXTENT(disk_num_bytes), EXTENT_NUM = PYX_EXTENT(num_bytes),
           INODE_GENERATION = PYX_INODE(generation), INODE_NLINK = PYX_INODE(nlink) };
    """
    const int EXTENT_GENERATION, EXTENT_RAM, EXTENT_TYPE, EXTENT_AT, EXTENT_DISK, EXTENT_NUM
    const int INODE_GENERATION, INODE_NLINK
    int is_btrfs_ "pyx_is_btrfs"(int fd) nogil
    unsigned long long le64 "pyx_le64"(const char* at) nogil
    unsigned int le32 "pyx_le32"(const char* at) nogil
    struct vol_args "btrfs_ioctl_vol_args":
        char name[1]
    struct vol_args_v2 "btrfs_ioctl_vol_args_v2":
        long long fd
        unsigned long long flags
        char name[1]
        unsigned long long subvolid
    struct subvol_info "btrfs_ioctl_get_subvol_info_args":
        unsigned long long treeid
        unsigned long long otransid
        unsigned char parent_uuid[16]
    struct search_key "btrfs_ioctl_search_key":
        unsigned long long tree_id
        unsigned long long min_objectid
        unsigned long long max_objectid
        unsigned long long min_offset
        unsigned long long max_offset
        unsigned long long min_transid
        unsigned long long max_transid
        unsigned int min_type
        unsigned int max_type
        unsigned int nr_items
    struct search_args "btrfs_ioctl_search_args_v2":
        search_key key
        unsigned long long buf_size
    struct search_header "btrfs_ioctl_search_header":
        unsigned long long objectid
        unsigned long long offset
        unsigned int type
        unsigned int len
    const unsigned long BTRFS_IOC_SUBVOL_CREATE, BTRFS_IOC_SNAP_CREATE_V2, BTRFS_IOC_SNAP_DESTROY
    const unsigned long BTRFS_IOC_SNAP_DESTROY_V2, BTRFS_IOC_SUBVOL_GETFLAGS, BTRFS_IOC_SUBVOL_SETFLAGS
    const unsigned long BTRFS_IOC_GET_SUBVOL_INFO, BTRFS_IOC_TREE_SEARCH_V2
    const unsigned long long BTRFS_SUBVOL_RDONLY, BTRFS_SUBVOL_SPEC_BY_ID
    const unsigned long long BTRFS_ROOT_TREE_OBJECTID, BTRFS_FIRST_FREE_OBJECTID
    const int BTRFS_INODE_ITEM_KEY, BTRFS_EXTENT_DATA_KEY, BTRFS_ROOT_REF_KEY
    const int BTRFS_FILE_EXTENT_INLINE, BTRFS_SUBVOL_NAME_MAX

cdef enum:
    FOUND = 128 << 10              # bytes of items that one search brings: more than the largest one has

cdef unsigned long long LAST = <unsigned long long>-1


def is_btrfs(int fd):
    """Whether `fd` is on a btrfs."""
    cdef int result, number
    with nogil:
        result = is_btrfs_(fd)
        number = sys.errno
    if result < 0:
        raise failed(number, None)
    return result == 1


def create(int folder, name):
    """An empty subvolume `name` in `folder`."""
    cdef vol_args args
    cdef int result, number
    cdef bytes name_b = _checked(name)
    sys.memset(&args, 0, sizeof(args))
    sys.memcpy(args.name, <const char*>name_b, len(name_b))
    with nogil:
        result = sys.ioctl(folder, BTRFS_IOC_SUBVOL_CREATE, &args)
        number = sys.errno
    if result < 0:
        raise failed(number, name)


def snapshot(int source, int folder, name, bint readonly=False):
    """Subvolume `name` in `folder` that is what the subvolume `source` is now, as durable as after syncfs(2). A
    subvolume inside `source` is not part of it: an empty directory takes its place."""
    cdef vol_args_v2 args
    cdef int result, number
    cdef bytes name_b = _checked(name)
    sys.memset(&args, 0, sizeof(args))
    sys.memcpy(args.name, <const char*>name_b, len(name_b))
    args.fd = source
    if readonly:
        args.flags = BTRFS_SUBVOL_RDONLY
    with nogil:
        result = sys.ioctl(folder, BTRFS_IOC_SNAP_CREATE_V2, &args)
        number = sys.errno
    if result < 0:
        raise failed(number, name)


def destroy(int folder, name):
    """Destroy the subvolume `name` in `folder`: ENOTEMPTY while others are inside, ENOTDIR when it is no directory,
    EINVAL when it is a plain one. Its space is free some time later."""
    cdef vol_args args
    cdef int result, number
    cdef bytes name_b = _checked(name)
    sys.memset(&args, 0, sizeof(args))
    sys.memcpy(args.name, <const char*>name_b, len(name_b))
    with nogil:
        result = sys.ioctl(folder, BTRFS_IOC_SNAP_DESTROY, &args)
        number = sys.errno
    if result < 0:
        raise failed(number, name)


def destroy_id(int fd, unsigned long long id):
    """Destroy the subvolume `id` of the filesystem that `fd` is on, wherever it is (Linux 5.7)."""
    cdef vol_args_v2 args
    cdef int result, number
    sys.memset(&args, 0, sizeof(args))
    args.flags, args.subvolid = BTRFS_SUBVOL_SPEC_BY_ID, id
    with nogil:
        result = sys.ioctl(fd, BTRFS_IOC_SNAP_DESTROY_V2, &args)
        number = sys.errno
    if result < 0:
        raise failed(number, f"subvolume {id}")


def readonly(int fd):
    """Whether the subvolume `fd` can only be read; EINVAL when `fd` is no subvolume's root."""
    cdef unsigned long long flags = 0
    cdef int result, number
    with nogil:
        result = sys.ioctl(fd, BTRFS_IOC_SUBVOL_GETFLAGS, &flags)
        number = sys.errno
    if result < 0:
        raise failed(number, None)
    return flags & BTRFS_SUBVOL_RDONLY != 0


def set_readonly(int fd, bint value):
    """Let the subvolume `fd` be only read, or written again. Descriptors that are open for writing keep that."""
    cdef unsigned long long flags = 0
    cdef int result, number
    with nogil:
        result = sys.ioctl(fd, BTRFS_IOC_SUBVOL_GETFLAGS, &flags)
        if result == 0:
            flags = flags | BTRFS_SUBVOL_RDONLY if value else flags & ~BTRFS_SUBVOL_RDONLY
            result = sys.ioctl(fd, BTRFS_IOC_SUBVOL_SETFLAGS, &flags)
        number = sys.errno
    if result < 0:
        raise failed(number, None)


def subvolume(int fd):
    """Of the subvolume that `fd` is in: its id, and the generation of the filesystem that it is a snapshot of; 0 when
    it was made empty (Linux 4.18)."""
    cdef subvol_info info
    cdef int result, number, byte, snapshotted = 0
    with nogil:
        result = sys.ioctl(fd, BTRFS_IOC_GET_SUBVOL_INFO, &info)
        number = sys.errno
    if result < 0:
        raise failed(number, None)
    for byte in range(16):
        snapshotted |= info.parent_uuid[byte]
    return info.treeid, info.otransid if snapshotted else 0


def inside(int fd, unsigned long long id):
    """Ids of the subvolumes right inside the subvolume `id` of the filesystem that `fd` is on."""
    cdef search_args* args = <search_args*>sys.malloc(sizeof(search_args) + FOUND)
    cdef search_header head
    cdef int number
    cdef size_t at
    cdef unsigned int _item
    found = []
    if args == NULL:
        raise MemoryError
    try:
        _begin(args, BTRFS_ROOT_TREE_OBJECTID, id, BTRFS_ROOT_REF_KEY, 0)
        while True:
            with nogil:
                number = _search(fd, args)
            if number:
                raise failed(number, f"subvolume {id}")
            if args.key.nr_items == 0:
                return found
            at = 0
            for _item in range(args.key.nr_items):
                sys.memcpy(&head, _found(args) + at, sizeof(head))
                at += sizeof(head) + head.len
                if head.objectid == id and head.type == <unsigned int>BTRFS_ROOT_REF_KEY:
                    found.append(head.offset)
            if not _on(args, &head) or head.objectid > id:
                return found
    finally:
        sys.free(args)


def changed(int fd, unsigned long long since):
    """Bytes on disk and inodes of the subvolume that `fd` is in which came after generation `since`: what is still
    shared with what it is a snapshot of does not count, nor its root directory, nor what has not been written out."""
    cdef search_args* args = <search_args*>sys.malloc(sizeof(search_args) + FOUND)
    cdef unsigned long long bytes_ = 0, inodes = 0
    cdef int number
    if args == NULL:
        raise MemoryError
    with nogil:
        _begin(args, 0, BTRFS_FIRST_FREE_OBJECTID, BTRFS_INODE_ITEM_KEY, since + 1)
        args.key.max_objectid = LAST
        args.key.max_type = 255
        while True:
            number = _search(fd, args)
            if number or args.key.nr_items == 0 or not _count(args, since, &bytes_, &inodes):
                break
        sys.free(args)
    if number:
        raise failed(number, None)
    return bytes_, inodes


cdef bytes _checked(object name):
    """The name of a directory's entry."""
    cdef bytes name_b = text(name)
    if not name_b or b"/" in name_b or name_b in (b".", b".."):
        raise failed(sys.EINVAL, name)
    if len(name_b) > BTRFS_SUBVOL_NAME_MAX:
        raise failed(sys.ENAMETOOLONG, name)
    return name_b


# Searches: the kernel gives items from the least key on, as many as there is room for, and takes keys as one number of
# three digits: object, type, offset (kernel source, ioctl.c: key_in_sk()).

cdef void _begin(search_args* args, unsigned long long tree, unsigned long long object_, unsigned int type,
                 unsigned long long transaction) noexcept nogil:
    sys.memset(args, 0, sizeof(args[0]))
    args.key.tree_id = tree
    args.key.min_objectid = args.key.max_objectid = object_
    args.key.min_type = args.key.max_type = type
    args.key.max_offset = args.key.max_transid = LAST
    args.key.min_transid = transaction
    args.buf_size = FOUND


cdef int _search(int fd, search_args* args) noexcept nogil:
    """0, or the error's number."""
    args.key.nr_items = <unsigned int>-1
    while sys.ioctl(fd, BTRFS_IOC_TREE_SEARCH_V2, args) < 0:
        if sys.errno != sys.EINTR:
            return sys.errno
    return 0


cdef const char* _found(search_args* args) noexcept nogil:
    return <const char*>args + sizeof(search_args)


cdef bint _on(search_args* args, search_header* last) noexcept nogil:
    """Go on behind the item that came last; whether there can be more."""
    args.key.min_objectid, args.key.min_type, args.key.min_offset = last.objectid, last.type, last.offset + 1
    if last.offset == LAST:
        args.key.min_type += 1
        if last.type == 255:
            args.key.min_type = 0
            args.key.min_objectid += 1
            return last.objectid != LAST
    return True


cdef bint _count(search_args* args, unsigned long long since, unsigned long long* bytes_,
                 unsigned long long* inodes) noexcept nogil:
    """Add up what was found; whether there can be more."""
    cdef search_header head
    cdef const char* item
    cdef size_t at = 0
    cdef unsigned int _number
    for _number in range(args.key.nr_items):
        sys.memcpy(&head, _found(args) + at, sizeof(head))
        item = _found(args) + at + sizeof(head)
        at += sizeof(head) + head.len
        if head.type == <unsigned int>BTRFS_INODE_ITEM_KEY:
            if (head.objectid != BTRFS_FIRST_FREE_OBJECTID and le32(item + INODE_NLINK) > 0
                    and le64(item + INODE_GENERATION) > since):
                inodes[0] += 1
        elif head.type == <unsigned int>BTRFS_EXTENT_DATA_KEY and le64(item + EXTENT_GENERATION) > since:
            bytes_[0] += _extent(item, head.len)
    return _on(args, &head)


cdef unsigned long long _extent(const char* item, unsigned int size) noexcept nogil:
    """Bytes on disk that a file extent item stands for: its part of what may be compressed; a hole has none."""
    cdef unsigned long long raw
    if item[EXTENT_TYPE] == BTRFS_FILE_EXTENT_INLINE:
        return size - EXTENT_AT  # the data take the place of where they are
    raw = le64(item + EXTENT_RAM)
    if raw == 0 or le64(item + EXTENT_AT) == 0:
        return 0
    # As floating point: the product of two sizes may be more than 64 bits hold.
    return <unsigned long long>(<double>le64(item + EXTENT_DISK) * <double>le64(item + EXTENT_NUM) / <double>raw)
