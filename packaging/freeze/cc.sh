#!/bin/sh
# The compiler for setup scripts: no path of where they happen to be built gets into what they make.
exec gcc "-ffile-prefix-map=$PWD=." "$@"
