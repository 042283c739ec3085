"""Every code that the product can raise has a status, and every status a code that is raised."""

import ast
from collections.abc import Iterator
from pathlib import Path

import cortex
from cortex.core.errors import CortexError, NodeError, NodeUntriedError, RequestError
from cortex.core.nodefaults import _RULES, classify
from cortex.gateway.errors import STATUS, anthropic_error, openai_error

ROOT = Path(cortex.__file__).parent
SOURCES = [
    source
    for package in ("core", "fleet", "gateway", "node", "store", "config")
    for source in (ROOT / package).glob("*.py")
]


def codes_in(tree: ast.AST) -> Iterator[str]:
    """What is given as a `code=…` of an error, or put into a variable of that name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "code":
            yield from texts(node.value)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                names = target.elts if isinstance(target, ast.Tuple) else [target]
                values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
                for name, value in zip(names, values, strict=False):
                    if isinstance(name, ast.Name) and name.id == "code":
                        yield from texts(value)


def texts(tree: ast.AST) -> Iterator[str]:
    return (
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def subclasses(of: type) -> Iterator[type]:
    for kind in of.__subclasses__():
        yield kind
        yield from subclasses(kind)


def test_every_code_has_a_status() -> None:
    used = {code for source in SOURCES for code in codes_in(ast.parse(source.read_text()))}
    used |= {kind.code for kind in subclasses(CortexError) if kind.__module__ in _modules()}
    used |= {rule.code for rule in _RULES}
    assert len(used) > 30
    assert used - STATUS.keys() == set()


def _modules() -> set[str]:
    return {f"cortex.{source.parent.name}.{source.stem}" for source in SOURCES}


def test_every_status_has_a_code_that_is_used() -> None:
    elsewhere = {
        text
        for source in SOURCES
        if source.name != "errors.py" or source.parent.name != "gateway"
        for text in texts(ast.parse(source.read_text()))
    }
    assert STATUS.keys() - elsewhere <= {"client_stalled"}  # raised in the file of the table


def test_every_status_is_an_error_and_those_of_callers_are_4xx() -> None:
    assert set(STATUS.values()) <= {
        400,
        401,
        403,
        404,
        405,
        408,
        409,
        413,
        415,
        429,
        431,
        500,
        502,
        503,
        504,
    }
    blamed = set(subclasses(NodeError)) - {NodeUntriedError}
    assert {STATUS[kind.code] for kind in blamed if kind.code in STATUS} <= {502, 504}


def test_a_rule_of_a_nodes_words_and_the_table_agree() -> None:
    assert [STATUS[rule.code] for rule in _RULES] == [rule.status for rule in _RULES]
    for status in range(400, 600):
        fault = classify(status, b'{"message":"no"}')
        assert fault.code in STATUS
        assert 400 <= fault.status <= 599


def test_an_openai_envelope_has_its_four_fields() -> None:
    error = RequestError("no such thing", code="model_not_found", param="model")
    assert openai_error(error) == {
        "error": {
            "message": "no such thing",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }
    assert openai_error(NodeError("n0 fell"))["error"] == {
        "message": "n0 fell",
        "type": "server_error",
        "param": None,
        "code": "node_error",
    }


def test_an_anthropic_envelope_has_its_kind_and_the_request_id() -> None:
    kinds = {
        code: anthropic_error(RequestError("x", code=code), "req_1")["error"]["type"]
        for code in STATUS
    }
    assert kinds["invalid_json"] == "invalid_request_error"
    assert kinds["invalid_api_key"] == "authentication_error"
    assert kinds["permission_denied"] == "permission_error"
    assert kinds["model_not_found"] == "not_found_error"
    assert kinds["request_too_large"] == "request_too_large"
    assert kinds["queue_full"] == "rate_limit_error"
    assert kinds["no_healthy_node"] == "overloaded_error"
    assert kinds["node_timeout"] == "timeout_error"
    assert kinds["node_error"] == kinds["internal_error"] == "api_error"
    whole = anthropic_error(RequestError("x"), "req_1")
    assert whole == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "x"},
        "request_id": "req_1",
    }
