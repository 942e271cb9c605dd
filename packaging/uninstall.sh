#!/bin/sh
# Removes holdd as `make install` or the archive put it here, unless containers run. Configuration and what is stored
# stay. usage: uninstall [STATE]
set -eu
prefix=$(cd "$(dirname "$0")/../.." && pwd)
@RUNNING@
refuse_if_running "$prefix/bin/holdd" "${1:-}"
if [ -d /run/systemd/system ] && [ "$prefix" != "${prefix#/usr}" ]; then
    systemctl disable --now holdd.socket holdd.service 2>/dev/null || true
fi
cd "$prefix"
sed 's/^[0-9a-f]*  //' share/doc/holdd/SHA256SUMS | xargs rm -f share/doc/holdd/SHA256SUMS
rmdir share/doc/holdd lib/holdd 2>/dev/null || true
echo "removed from $prefix; /etc/holdd and /var/lib/holdd are left, if they were there"
