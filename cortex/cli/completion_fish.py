"""The completion script for fish."""

from cortex.cli.completion_spec import Source, Taking, Values, Verb

HEAD = """\
# fish completion of cortex; made by `cortex completion fish`.
complete -c cortex -f
"""


def script(top: Verb, verbs: list[Verb]) -> str:
    """What `cortex completion fish | source` runs."""
    lines = [_option("__fish_use_subcommand", option) for option in top.options]
    for verb in verbs:
        lines.append(
            f"complete -c cortex -n __fish_use_subcommand -a {verb.name} -d {_quoted(verb.summary)}"
        )
        seen = f"'__fish_seen_subcommand_from {verb.name}'"
        lines += [_option(seen, option) for option in verb.options]
        for positional in verb.positionals:
            lines.append(f"complete -c cortex -n {seen} {_values(positional.values)}")
    return HEAD + "\n".join(lines) + "\n"


def _option(condition: str, option: Taking) -> str:
    words = [f"complete -c cortex -n {condition}"]
    words += [
        f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags
    ]
    if option.values is not Source.NOTHING:
        words += ["-r" if option.values is Source.FILES else "-x", _values(option.values)]
    words.append(f"-d {_quoted(option.summary)}")
    return " ".join(word for word in words if word)


def _values(values: Values) -> str:
    match values:
        case Source.FILES:
            return "-F"
        case Source.MODELS | Source.NODES:
            return f"-a '(cortex completion --values {values.value} 2>/dev/null)'"
        case Source.NOTHING | Source.ANYTHING:
            return ""
        case words:
            return f"-a '{' '.join(words)}'"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
