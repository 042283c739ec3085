"""The completion script for zsh."""

from cortex.cli.completion_spec import Source, Taking, Values, Verb

SCRIPT = """\
#compdef cortex
# zsh completion of cortex; made by `cortex completion zsh`.

_cortex_asked() {
    local -a found
    found=(${(f)"$($cortex_command completion --values $1 2>/dev/null)"})
    compadd "${@:2}" -a found
}

# _arguments puts options for compadd after the first word of an action.
_cortex_models() { _cortex_asked models "$@" }
_cortex_nodes() { _cortex_asked nodes "$@" }

_cortex() {
    local cortex_command=$words[1] curcontext=$curcontext state line
    typeset -A opt_args
    local -a verbs=(
@VERBS@
    )
    _arguments -C \\
@TOP@ \\
        '1:command:->verb' \\
        '*::argument:->arguments' && return
    case $state in
        verb) _describe -t commands command verbs ;;
        arguments)
            case $line[1] in
@CASES@
            esac
            ;;
    esac
}

if [[ $funcstack[1] == _cortex ]]; then
    _cortex "$@"
else
    compdef _cortex cortex
fi
"""


def script(top: Verb, verbs: list[Verb]) -> str:
    """A file `_cortex` for $fpath; `source <(cortex completion zsh)` works as well."""
    described = [f"        {_quoted(f'{verb.name}:{verb.summary}')}" for verb in verbs]
    tops = [f"        {spec}" for option in top.options for spec in _option(option)]
    cases = []
    for verb in verbs:
        specs = [spec for option in verb.options for spec in _option(option)]
        specs += [
            _quoted(f"{place}:{each.metavar}:{_values(each.values)}")
            for place, each in enumerate(verb.positionals, 1)
        ]
        body = " \\\n".join(f"                        {spec}" for spec in specs)
        cases.append(
            f"                {verb.name})\n                    _arguments \\\n{body} ;;"
        )
    return (
        SCRIPT.replace("@VERBS@", "\n".join(described))
        .replace("@TOP@", " \\\n".join(tops))
        .replace("@CASES@", "\n".join(cases))
    )


def _option(option: Taking) -> list[str]:
    """One spec per flag."""
    takes = ""
    if option.values is not Source.NOTHING:
        takes = f"{'::' if option.optional else ':'}{option.metavar}:{_values(option.values)}"
    summary = option.summary.replace("[", "(").replace("]", ")").replace(":", "\\:")
    equals = "=" if takes else ""
    return [
        _quoted(f"{flag}{equals if flag.startswith('--') else ''}[{summary}]{takes}")
        for flag in option.flags
    ]


def _values(values: Values) -> str:
    match values:
        case Source.FILES:
            return "_files"
        case Source.MODELS | Source.NODES:
            return f"_cortex_{values.value}"
        case Source.NOTHING | Source.ANYTHING:
            return ""
        case words:
            return f"({' '.join(words)})"


def _quoted(text: str) -> str:
    escaped = text.replace("'", "'\\''")
    return f"'{escaped}'"
