"""The completion script for bash (3.2 and later)."""

from cortex.cli.completion_spec import Source, Values, Verb

SCRIPT = """\
# bash completion of cortex; made by `cortex completion bash`.

# Offer the lines of stdin that begin with $cur. Never `compgen -W`: it would expand them.
_cortex_offer() {
    local value
    while IFS= read -r value; do
        [[ $value == "$cur"* ]] && COMPREPLY+=("$lead${value#"$known"}")
    done
}

_cortex_words() { _cortex_offer < <(printf '%s\\n' "$@"); }
_cortex_files() { _cortex_offer < <(compgen -f -- "$cur"); compopt -o filenames 2>/dev/null; }
_cortex_asked() { _cortex_offer < <("${words[0]}" completion --values "$1" 2>/dev/null); }

_cortex() {
    local line=${COMP_LINE:0:${COMP_POINT:-0}} cur prev='' verb='' lead='' known='' i
    local -a words=()
    # Not COMP_WORDS: it is split at the colons of model names.
    if [[ -n $line ]]; then
        read -ra words <<< "$line"
        [[ $line == *[[:space:]] ]] && words+=('')
    else
        words=("${COMP_WORDS[@]:0:COMP_CWORD+1}")
    fi
    local last=$((${#words[@]} - 1))
    cur=${words[last]}
    ((last > 0)) && prev=${words[last-1]}
    for ((i = 1; i < last; i++)); do
        [[ ${words[i]} != -* ]] && { verb=${words[i]}; break; }
    done
    if [[ $cur == --*=* ]]; then
        prev=${cur%%=*} cur=${cur#*=}
        [[ $COMP_WORDBREAKS == *=* ]] || lead=$prev=
    elif [[ $cur == -* ]]; then
        prev=''
    fi
    # bash replaces only what follows the last colon.
    [[ $COMP_WORDBREAKS == *:* && $cur == *:* ]] && known=${cur%"${cur##*:}"}
    COMPREPLY=()
    case $verb in
@CASES@
    esac
}

complete -F _cortex cortex
"""


def script(top: Verb, verbs: list[Verb]) -> str:
    """What `source <(cortex completion bash)` runs."""
    cases = [_case(verb) for verb in verbs]
    names = [verb.name for verb in verbs] + _flags(top)
    cases.append(f"        '') {_offer(tuple(names))} ;;")
    return SCRIPT.replace("@CASES@", "\n".join(cases))


def _case(verb: Verb) -> str:
    lines = [f"        {verb.name})", "            case $prev in"]
    for option in verb.options:
        if option.values is not Source.NOTHING:
            pattern = "|".join(option.flags)
            lines.append(f"                {pattern}) {_offer(option.values)} ;;")
    rest = [_offer(tuple(_flags(verb)))]
    rest += [_offer(each.values) for each in verb.positionals]
    lines.append(f"                *) {'; '.join(rest)} ;;")
    return "\n".join([*lines, "            esac", "            ;;"])


def _flags(verb: Verb) -> list[str]:
    return [flag for option in verb.options for flag in option.flags]


def _offer(values: Values) -> str:
    match values:
        case Source.FILES:
            return "_cortex_files"
        case Source.MODELS | Source.NODES:
            return f"_cortex_asked {values.value}"
        case Source.NOTHING | Source.ANYTHING:
            return ":"
        case words:
            return f"_cortex_words {' '.join(words)}"
