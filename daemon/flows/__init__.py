"""One file a journey, over ports only: a flow runs in the daemon or in any client process."""
