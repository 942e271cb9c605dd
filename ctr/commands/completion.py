"""ctr completion.

Each shell's script asks `ctr completion candidates WORD...` what may stand for the last word. It answers with a line
for each: the word, a tab, and what it is for; or `:files` or `:directories` for what the shell finds itself.
"""

import argparse

from ctr import completion
from ctr.output import Out
from daemon.client.client import Client

BASH = r"""# bash completion for ctr: source it, or put it into /usr/share/bash-completion/completions/ctr
_ctr() {
    local line="${COMP_LINE:0:COMP_POINT}" whole="" prefix="" value=""
    local -a words=()
    read -ra words <<<"$line"
    [[ "$line" == *[[:space:]] ]] && words+=("")
    whole="${words[${#words[@]} - 1]}"
    # Bash replaces what follows the last of its word breaks only.
    [[ "$COMP_WORDBREAKS" == *:* && "$whole" == *:* ]] && prefix="${whole%"${whole##*:}"}"
    [[ "$COMP_WORDBREAKS" == *=* && "${whole#"$prefix"}" == *=* ]] && prefix="${whole%"${whole##*=}"}"
    COMPREPLY=()
    while IFS=$'\t' read -r value _; do
        case "$value" in
            :files) compopt -o filenames; while read -r value; do COMPREPLY+=("$value"); done \
                < <(compgen -f -- "${whole#"$prefix"}") ;;
            :directories) compopt -o filenames; while read -r value; do COMPREPLY+=("$value"); done \
                < <(compgen -d -- "${whole#"$prefix"}") ;;
            *) COMPREPLY+=("${value#"$prefix"}") ;;
        esac
    done < <("${words[0]}" completion candidates "${words[@]}" 2>/dev/null)
}
complete -F _ctr ctr
"""

ZSH = r"""#compdef ctr
# zsh completion for ctr: put it as _ctr into a directory of fpath
_ctr() {
    local line value
    local -a found
    for line in "${(@f)$(${words[1]} completion candidates "${(@)words[1,CURRENT]}" 2>/dev/null)}"; do
        value="${line%%$'\t'*}"
        case "$value" in
            '') ;;
            :files) compset -P '--*='; _files ;;
            :directories) compset -P '--*='; _files -/ ;;
            *) found+=("${value//:/\\:}:${line#*$'\t'}") ;;
        esac
    done
    (( $#found )) && _describe 'ctr' found
}
if [ "$funcstack[1]" = _ctr ]; then _ctr "$@"; else compdef _ctr ctr; fi
"""

FISH = r"""# fish completion for ctr: put it into ~/.config/fish/completions/ctr.fish
function __ctr_candidates
    set -l words (commandline -opc) (commandline -ct)
    set -l current (commandline -ct)
    for line in ($words[1] completion candidates $words 2>/dev/null)
        switch $line
            case ':files*'
                __fish_complete_path (string replace -r -- '^--[^=]*=' '' "$current")
            case ':directories*'
                __fish_complete_directories (string replace -r -- '^--[^=]*=' '' "$current")
            case '*'
                echo -- $line
        end
    end
end
complete -c ctr -f -a '(__ctr_candidates)'
"""

SHELLS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def register(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(metavar="SHELL", required=True)
    for shell in SHELLS:
        verbs.add_parser(shell, help=f"for {shell}").set_defaults(shell=shell)
    words = verbs.add_parser("candidates")
    words.add_argument("words", nargs=argparse.REMAINDER)
    words.set_defaults(shell=None)


def run(args: argparse.Namespace, client: Client, out: Out) -> int:
    """No daemon is needed, but for the ids in what it runs."""
    if args.shell is not None:
        out.line(SHELLS[args.shell].rstrip())
        return 0
    for candidate in completion.candidates(args.words[1:]):
        out.line(f"{candidate.text}\t{candidate.help}".rstrip("\n"))
    return 0
