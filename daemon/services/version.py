"""Version: what answers on this socket."""

from spec.api import version as api


class Version:
    def __init__(self, version: str, revision: str) -> None:
        self._reply = api.VersionReply(version=version, revision=revision)

    def version(self, request: api.VersionRequest) -> api.VersionReply:
        return self._reply
