# llmos in zsh. In ~/.zshrc, after compinit:  eval "$(llmos init zsh)"
#
#   Alt-i      turns the sentence on the line into a command, in place; again: back to the sentence
#   a sentence that is no command becomes a request (three words or more)
#   why        says why the last command failed
#   Tab        completes llmos' own verbs, options, tools and ids
#
# Before the eval:  LLMOS_KEY='^X^I' another key ('' none),  LLMOS_NOT_FOUND=0  no requests from the prompt.
# Nothing here runs a command of its own accord: what the key wrote waits for Enter.

__llmos() { @LLMOS@ "$@" }

__llmos_translate() {
    emulate -L zsh
    local sentence=$BUFFER command
    [[ -n ${sentence//[[:space:]]/} ]] || return 0
    if [[ $sentence == "${__llmos_command-}" ]]; then # once more: back
        BUFFER=$__llmos_sentence CURSOR=${#__llmos_sentence}
        typeset -g __llmos_command=
        return 0
    fi
    zle -R 'llmos: thinking …'
    if command=$(__llmos translate --json -- "$sentence" </dev/null 2>/dev/null | __llmos_field command) &&
        [[ -n $command ]]; then
        typeset -g __llmos_sentence=$sentence __llmos_command=$command
        BUFFER=$command CURSOR=${#command}
    else
        zle -M 'llmos: no command was found for that (llmos translate says why)'
    fi
}

# The value of one text key of a JSON object on stdin; empty when it is missing or holds a control character.
__llmos_field() { @PYTHON@ -I -S -c '
import json, sys
value = json.load(sys.stdin).get(sys.argv[1])
print(value if isinstance(value, str) and value.isprintable() else "")' "$1" 2>/dev/null }

# What failed last, for `why`.
__llmos_preexec() {
    typeset -g __llmos_running=$1
}
__llmos_precmd() {
    local code=$?
    if [[ -n ${__llmos_running-} && $__llmos_running != (why|why *) ]]; then
        typeset -g __llmos_last=$__llmos_running __llmos_code=$code
    fi
    typeset -g __llmos_running=
}

if ! whence why >/dev/null; then
    why() {
        if [[ -z ${__llmos_last-} ]]; then
            print -u2 'llmos: nothing has been run here yet'
            return 2
        fi
        __llmos why --code "${__llmos_code:-0}" "$@" -- "$__llmos_last"
    }
fi

if [[ ${LLMOS_NOT_FOUND-1} != 0 ]]; then
    if (( $+functions[command_not_found_handler] )) && (( ! $+functions[__llmos_not_found_before] )); then
        functions -c command_not_found_handler __llmos_not_found_before
    fi
    command_not_found_handler() {
        if [[ $# -ge 3 && -t 0 && -t 2 && $1 != */* && $1 != -* ]]; then
            print -ru2 "llmos: $1 is no command; taken as a request"
            __llmos ask -- "$*"
        elif (( $+functions[__llmos_not_found_before] )); then
            __llmos_not_found_before "$@"
        else
            print -ru2 "zsh: command not found: $1"
            return 127
        fi
    }
fi

if [[ -o interactive ]]; then
    zle -N __llmos_translate
    [[ -z ${LLMOS_KEY-^[i} ]] || bindkey "${LLMOS_KEY-^[i}" __llmos_translate
    autoload -Uz add-zsh-hook
    add-zsh-hook preexec __llmos_preexec
    # First, while $? is still that of the command.
    precmd_functions=(__llmos_precmd ${precmd_functions:#__llmos_precmd})
fi

