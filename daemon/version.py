"""Which holdd this is."""

VERSION = "0.1.0"
REVISION = ""
