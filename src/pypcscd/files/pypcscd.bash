# Completion for bash. The program itself is asked which options there are, so that they are those of the
# version that is installed.

# Prints one word per line: the options in a help text.
_pypcscd_options() {
    "$@" --help 2>/dev/null | grep -oE '(^|[ ,[])--?[A-Za-z][A-Za-z-]*' | grep -oE -- '--?[A-Za-z][A-Za-z-]*' | sort -u
}

# Prints one word per line: the tools that the help text lists at its end.
_pypcscd_tools() {
    "$1" --help 2>/dev/null | sed -n '/^tools /,$ s/^  \([a-z]*\)  *[^ ].*/\1/p'
}

_pypcscd() {
    local program=$1 word=$2 before=$3 tool='' index
    COMPREPLY=()
    for ((index = 1; index < COMP_CWORD; index++)); do
        case ${COMP_WORDS[index]} in
        --) return ;; # the rest is somebody else's command
        esac
    done
    if ((COMP_CWORD > 1)) && [[ ${COMP_WORDS[1]} != -* ]]; then
        tool=${COMP_WORDS[1]}
    fi
    case $before in
    --virtual | --card) mapfile -t COMPREPLY < <(compgen -W 'hello sle4442 echo none' -- "$word") && return ;;
    esac
    if [[ $word == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$(_pypcscd_options "$program" $tool)" -- "$word")
    elif ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W "$(_pypcscd_tools "$program")" -- "$word")
    fi
    # Nothing so far: a file, which -o default adds.
}

complete -o default -F _pypcscd pypcscd
