# running STATE: prints the containers that run, as NAMESPACE/ID, whether a daemon is there or not: those whose first
# process is a shim's child.
running() {
    for file in "$1"/tasks/*/*/init.pid; do
        pid=$(cat "$file" 2>/dev/null) || continue
        parent=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$pid/status" 2>/dev/null) || continue
        [ "$(cat "/proc/$parent/comm" 2>/dev/null)" = holdd-shim ] || continue
        task=${file%/init.pid}
        namespace=${task%/*}
        echo "${namespace##*/}/${task##*/}"
    done
}

# refuse_if_running HOLDD [STATE]: fails, and says which, while containers run below STATE, else the configured one.
refuse_if_running() {
    state=${2:-$("$1" config dump 2>/dev/null | sed -n 's/^state = "\(.*\)"$/\1/p')}
    found=$(running "${state:-/run/holdd}")
    [ -z "$found" ] && return
    echo "holdd: not removed, for these containers run:" $found >&2
    echo "holdd: end them first, with: ctr -n NAMESPACE tasks rm --force CONTAINER" >&2
    return 1
}
