# llmos in bash. In ~/.bashrc:  eval "$(llmos init bash)"
#
#   Alt-i      turns the sentence on the line into a command, in place; again: back to the sentence
#   a sentence that is no command becomes a request (three words or more)
#   why        says why the last command failed
#   Tab        completes llmos' own verbs, options, tools and ids
#
# Before the eval:  LLMOS_KEY='\C-x\C-i' another key ('' none),  LLMOS_NOT_FOUND=0  no requests from the prompt.
# Nothing here runs a command of its own accord: what the key wrote waits for Enter.

__llmos() { @LLMOS@ "$@"; }

__llmos_translate() {
    local sentence=$READLINE_LINE command
    [[ -n ${sentence//[[:space:]]/} ]] || return 0
    if [[ $sentence == "${__llmos_command-}" ]]; then # once more: back
        READLINE_LINE=$__llmos_sentence READLINE_POINT=${#__llmos_sentence} __llmos_command=
        return 0
    fi
    printf '\r\e[2mllmos: thinking …\e[0m' >&2
    if command=$(__llmos translate --json -- "$sentence" </dev/null 2>/dev/null | __llmos_field command) &&
        [[ -n $command ]]; then
        printf '\r\e[K' >&2
        __llmos_sentence=$sentence __llmos_command=$command
        READLINE_LINE=$command READLINE_POINT=${#command}
    else
        printf '\r\e[Kllmos: no command was found for that (llmos translate says why)\n' >&2
    fi
}

# The value of one text key of a JSON object on stdin; empty when it is missing or holds a control character.
__llmos_field() { @PYTHON@ -I -S -c '
import json, sys
value = json.load(sys.stdin).get(sys.argv[1])
print(value if isinstance(value, str) and value.isprintable() else "")' "$1" 2>/dev/null; }

# What failed last, for `why`; $? is left as it was, and so is what PROMPT_COMMAND held.
__llmos_precmd() {
    local code=$? number line
    line=$(HISTTIMEFORMAT='' builtin history 1)
    number=${line#"${line%%[![:space:]]*}"}
    number=${number%%[!0-9]*}
    if [[ -n $number && $number != "${__llmos_seen-}" ]]; then
        __llmos_seen=$number
        line=${line#*"$number"}
        line=${line#"${line%%[!*[:space:]]*}"}
        [[ $line == why || $line == "why "* ]] || __llmos_last=$line __llmos_code=$code
    fi
    return "$code"
}

if ! type why >/dev/null 2>&1; then
    why() {
        if [[ -z ${__llmos_last-} ]]; then
            echo 'llmos: nothing has been run here yet' >&2
            return 2
        fi
        __llmos why --code "${__llmos_code:-0}" "$@" -- "$__llmos_last"
    }
fi

if [[ ${LLMOS_NOT_FOUND-1} != 0 ]]; then
    if declare -F command_not_found_handle >/dev/null && ! declare -F __llmos_not_found_before >/dev/null; then
        eval "__llmos_not_found_before() $(declare -f command_not_found_handle | tail -n +2)"
    fi
    command_not_found_handle() {
        if [[ $# -ge 3 && -t 0 && -t 2 && $1 != */* && $1 != -* ]]; then
            printf 'llmos: %s is no command; taken as a request\n' "$1" >&2
            __llmos ask -- "$*"
        elif declare -F __llmos_not_found_before >/dev/null; then
            __llmos_not_found_before "$@"
        else
            printf 'bash: %s: command not found\n' "$1" >&2
            return 127
        fi
    }
fi

if [[ $- == *i* ]]; then
    [[ -z ${LLMOS_KEY-\\ei} ]] || bind -x "\"${LLMOS_KEY-\\ei}\": __llmos_translate"
    if [[ ${PROMPT_COMMAND[*]-} != *__llmos_precmd* ]]; then
        PROMPT_COMMAND="__llmos_precmd${PROMPT_COMMAND:+; $PROMPT_COMMAND}"
    fi
fi

