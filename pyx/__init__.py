"""System calls and hot loops in Cython: bytes, integers and file descriptors in and out. Knows no Struct."""
