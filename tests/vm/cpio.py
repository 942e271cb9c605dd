"""Archives that the kernel unpacks before its first process: cpio, format newc (the kernel's
driver-api/early-userspace/buffer-format.rst).

    070701, and 13 fields of 8 hexadecimal digits: ino mode uid gid nlink mtime filesize devmajor devminor
    rdevmajor rdevminor namesize check; the name and a NUL; zeros up to 4; the data; zeros up to 4; and so on

Archives after one another in one file are unpacked over one another.
"""

import os
import shutil
import stat

ALIGN = 4
TRAILER = "TRAILER!!!"


class Archive:
    """An archive being written to the binary file `file`. Names are paths below the root, without a slash in front."""

    def __init__(self, file):
        self._file = file
        self._inode = 0

    def directory(self, name, mode=0o755):
        self._header(name, stat.S_IFDIR | mode)

    def symlink(self, name, target):
        data = os.fsencode(target)
        self._header(name, stat.S_IFLNK | 0o777, size=len(data))
        self._body(data)

    def data(self, name, data, mode=0o644):
        self._header(name, stat.S_IFREG | mode, size=len(data))
        self._body(data)

    def copy(self, name, path):
        """A regular file of the host, with its mode and its time: Python's caches are good for one time of a source."""
        with open(path, "rb") as source:
            info = os.fstat(source.fileno())
            self._header(name, info.st_mode, int(info.st_mtime), info.st_size)
            shutil.copyfileobj(source, self._file, 1 << 20)
        self._pad(info.st_size)

    def close(self):
        self._inode = -1
        self._header(TRAILER, 0)

    def _header(self, name, mode, mtime=0, size=0):
        self._inode += 1
        encoded = os.fsencode(name) + b"\0"
        fields = (self._inode, mode, 0, 0, 1, mtime, size, 0, 0, 0, 0, len(encoded), 0)
        head = b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
        self._file.write(head)
        self._pad(len(head))

    def _body(self, data):
        self._file.write(data)
        self._pad(len(data))

    def _pad(self, size):
        self._file.write(bytes(-size % ALIGN))
