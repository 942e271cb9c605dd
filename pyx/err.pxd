# errno -> OSError. A wrapper saves errno inside its `nogil` block and raises here, with the object it was about.

cdef inline object failed(int number, object about):
    """The OSError (of the right subclass) for errno `number`; `about` is its filename."""
    import os

    return OSError(number, os.strerror(number), about)
