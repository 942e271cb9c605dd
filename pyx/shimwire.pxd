# What the daemon, the nursery and a shim say to each other, and what a shim writes down.
#
# Versions. A shim outlives the daemon that started it, and may meet an older one or a newer one: each end speaks all
# versions from OLDEST to VERSION, and the two speak the highest that both do. So
#
# - a version adds: operations, notices, and fields at the end of a body. What is there keeps its place and its meaning;
#   what follows what is known is skipped, and a notice or an answer that is not known is dropped.
# - the headers, the exit record file, hello and shutdown never change, and hello and shutdown are taken in any version:
#   two that have no version in common find that out by them, and the shim can be ended.
# - a shim begins with version 1, and tells of later ones only whom it knows to speak them, by its hello. The answer to
#   hello has the shim's own version in its header, all else the version that is spoken.
# - a request of a version that the shim does not speak is answered EPROTONOSUPPORT, an operation that it does not know
#   ENOSYS; a shim of version 1 knows no hello, and answers that so. Any other answer of version 1's stays as it is.
# - OLDEST goes up only with a release that says so: containers that shims below it keep can then only be ended.
#
# Version 2 has hello and oom.

from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t, uint8_t


# Requests to the nursery, one SOCK_SEQPACKET message each, all numbers little-endian:
#
#   0        1        2             4            8                  12
#   1        1        speaks (u16)  id (u32)     oom_score_adj i32  directory NUL
#
# (`speaks` is what the shim shall claim to speak, for tests: the highest version + 256 x the oldest; 0 is what it does)
# and its answers, sent by the new shim itself when it can be connected to, or by the nursery when it cannot fork:
#
#   id (u32)   errno (i32)   pid (u32)
#
# Requests to a shim, one SOCK_SEQPACKET message each; strings end in NUL; descriptors ride along by SCM_RIGHTS:
#
#   0        1          2        4         8
#   version  operation  0 (u16)  id (u32)  body
#
#   operation     body                                                                            descriptors
#    2 run        timeout_ns u64 (0: none), keep u32, argc u16, envc u16, fdc u16, namec u16,     fdc
#                 0 u32, child fd u32 x (fdc + namec), cwd, argv x argc, env x envc, name x namec
#    3 kill       id u32 of a run of this connection, signal u32
#    4 keep       name                                                                            1
#    5 fetch      name
#    6 drop       name
#    7 attach     target                                                                          1
#    8 mount      flags u64, type, source, target, data
#    9 console    path, name
#   10 resize     width u16, height u16, 0 u32, name
#   11 watch oom  directory
#   12 shutdown
#   13 follow     sequence u64: exits from that record on are told, of those before it was connected, too
#   14 hello      version u8, oldest u8, 0 u16: what the daemon speaks
#
# Answers, in any order, and notices, which have id 0: of exits, operation 1, and of kills for memory, operation 15:
#
#   0        1          2            4         8            12
#   version  operation  stage (u16)  id (u32)  errno (i32)  body
#
#   run: status i32, flags u32 (1: timed out), output       fetch: one descriptor       exit: one exit record
#   hello: version u8, oldest u8, 0 u16     oom: kills u32 since the watch began, flags u32 as in exit records
#   `stage` says where a run that did not start failed: 1 exec, 2 cwd, 3 a name, 4 descriptors, 5 fork
#
# The exit record file `exits`: records of 32 bytes, the one numbered n at offset 32 n. Old ones become a hole.
#
#   0             8            16         20           24                  28
#   sequence u64  time_ns i64  pid (u32)  status i32   flags (u32)         kills (u32)
#
#   flags: 1 the memory cgroup had killed, 2 by limits of its ancestors only; kills: how often it had

cdef enum:
    VERSION = 2
    OLDEST = 1
    NURSERY_VERSION = 1
    OP_EXIT = 1
    OP_RUN = 2
    OP_KILL = 3
    OP_KEEP = 4
    OP_FETCH = 5
    OP_DROP = 6
    OP_ATTACH = 7
    OP_MOUNT = 8
    OP_CONSOLE = 9
    OP_RESIZE = 10
    OP_WATCH_OOM = 11
    OP_SHUTDOWN = 12
    OP_FOLLOW = 13
    OP_HELLO = 14
    OP_OOM = 15

    SPEAKS_OOM = 2  # from this version on

    STAGE_EXEC = 1
    STAGE_CWD = 2
    STAGE_NAME = 3
    STAGE_DESCRIPTORS = 4
    STAGE_FORK = 5

    RUN_EXPIRED = 1
    EXIT_OOM = 1
    EXIT_OOM_ANCESTOR = 2


cdef struct Header:
    uint8_t version
    uint8_t operation
    uint16_t stage
    uint32_t id


cdef struct Answer:
    Header header
    int32_t error


cdef struct ForkRequest:
    Header header          # its stage is `speaks`
    int32_t oom_score_adj


cdef struct ForkAnswer:
    uint32_t id
    int32_t error
    uint32_t pid


cdef struct RunBody:
    uint64_t timeout_ns
    uint32_t keep
    uint16_t argc
    uint16_t envc
    uint16_t fdc
    uint16_t namec
    uint32_t zero


cdef struct RunResult:
    int32_t status
    uint32_t flags


cdef struct HelloBody:
    uint8_t version
    uint8_t oldest
    uint16_t zero


cdef struct OomBody:
    uint32_t kills
    uint32_t flags


cdef struct ResizeBody:
    uint16_t width
    uint16_t height
    uint32_t zero


cdef struct ExitRecord:
    uint64_t sequence
    int64_t time_ns
    uint32_t pid
    int32_t status
    uint32_t flags
    uint32_t kills
