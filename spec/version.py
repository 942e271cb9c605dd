"""Which release this is: one place for the daemon, ctr and their packages."""

VERSION = "0.1.0"
REVISION = ""
