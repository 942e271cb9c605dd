# What the daemon, the nursery and a shim say to each other, and what a shim writes down.

from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t, uint8_t


# Requests to the nursery, one SOCK_SEQPACKET message each, all numbers little-endian:
#
#   0        1        2        4            8                  12
#   version  1        0 (u16)  id (u32)     oom_score_adj i32  directory NUL
#
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
#
# Answers, in any order, and notices of exits, which have operation 1 and id 0:
#
#   0        1          2            4         8            12
#   version  operation  stage (u16)  id (u32)  errno (i32)  body
#
#   run: status i32, flags u32 (1: timed out), output       fetch: one descriptor       exit: one exit record
#   `stage` says where a run that did not start failed: 1 exec, 2 cwd, 3 a name, 4 descriptors, 5 fork
#
# The exit record file `exits`: records of 32 bytes, the one numbered n at offset 32 n. Old ones become a hole.
#
#   0             8            16         20           24                  28
#   sequence u64  time_ns i64  pid (u32)  status i32   flags (u32)         kills (u32)
#
#   flags: 1 the memory cgroup had killed, 2 by limits of its ancestors only; kills: how often it had

cdef enum:
    VERSION = 1
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
    Header header
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
