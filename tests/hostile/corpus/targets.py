"""Paths and targets (RFC 9112, 3.2; RFC 3986), and what other sites may ask for (Fetch, CORS)."""

from tests.hostile.corpus.case import CHAT, Case, get, post


def _to(target: bytes) -> bytes:
    return post(line=b"POST " + target + b" HTTP/1.1")


_SLIP = "a slip of a client's base URL, known by its letters"
_NOT = "another path than the route's; nothing is normalized into one"

TARGETS = [
    *(
        Case(f"target-slip-{number}", _to(target), "200", _SLIP)
        for number, target in enumerate(
            [
                CHAT + b"/",
                b"/" + CHAT,
                b"/v1//chat/completions",
                b"/v1/v1/chat/completions",
                b"/chat/completions",
            ]
        )
    ),
    *(
        Case(f"target-{number}", _to(target), expect, why)
        for number, (target, expect, why) in enumerate(
            [
                (CHAT + b"?x=y", "200", "a query that nobody reads"),
                (CHAT + b"?", "200", "an empty query"),
                (CHAT + b"?\xff", "200|400!", "a query that is no text"),
                (CHAT + b"?%", "200", "a broken escape in a query"),
                (CHAT + b"?a=%00", "200", "a NUL in a query"),
                (CHAT + b"#x", "200|400|404", "a fragment has no place in a request"),
                (
                    b"http://h" + CHAT,
                    "200|400|404",
                    "RFC 9112, 3.2.2: the absolute form is accepted",
                ),
                (b"HTTP://H" + CHAT, "200|400|404", "RFC 9112, 3.2.2"),
                (b"https://h" + CHAT, "200|400|404", "RFC 9112, 3.2.2"),
                (
                    b"http://other.example" + CHAT,
                    "200|400|404",
                    "no forward proxy: served here or not at all",
                ),
            ]
        )
    ),
    *(
        Case(f"target-not-{number}", _to(target), "404|400|405", why, "")
        for number, (target, why) in enumerate(
            [
                (b"/V1/chat/completions", _NOT),
                (b"/v1/chat/Completions", _NOT),
                (b"/v1\\chat\\completions", _NOT),
                (b"/v1%2fchat%2fcompletions", _NOT),
                (b"/v1%5cchat%5ccompletions", _NOT),
                (CHAT + b";a=b", _NOT),
                (CHAT + b"%20", _NOT),
                (CHAT + b"%00", _NOT),
                (CHAT + b"%0d%0aX:y", _NOT),
                (CHAT + b"%", _NOT),
                (CHAT + b"%zz", _NOT),
                (CHAT + b"%c0%af", "an overlong encoding"),
                (CHAT + b"%ff", "no text"),
                (CHAT + b"\xff", "no text"),
                (CHAT + "é".encode(), _NOT),
                (b"/v1/chat/completion\xef\xbd\x93", "a full-width letter"),
                (b"*", "RFC 9112, 3.2.4: only for OPTIONS"),
                (b"h:80", "RFC 9112, 3.2.3: only for CONNECT"),
                (b"v1/chat/completions", "RFC 9112, 3.2.1: a path begins with a slash"),
                (b"?x", "no path"),
                (b"http://", "no host"),
                (b"http:", "no host"),
                (b"ftp://h/x", "another scheme"),
                (b"javascript:alert(1)", "another scheme"),
                (b"file:///etc/passwd", "another scheme"),
                (b"http://h", "no path"),
                (b"http://[::1", "a broken address"),
                (b"http://h:99999/", "a broken port"),
                (b"http://h:x/", "a broken port"),
                (b"http://a@b@c/", "a broken authority"),
                (b"///", _NOT),
                (b"/%2e%2e/%2e%2e/etc/passwd", "traversal"),
                (b"/../../etc/passwd", "traversal"),
                (b"/v1/models/../../etc/passwd", "traversal"),
                (b"/web/../../cortex.toml", "traversal"),
                (b"/<script>alert(1)</script>", _NOT),
                (b"/" + b"a" * 7000, _NOT),
                (b"/" + b"../" * 2000, _NOT),
                (b"/" + b"%2e%2e%2f" * 700, _NOT),
            ]
        )
    ),
    *(
        Case(
            f"web-file-{number}",
            get(b"/web/" + path),
            "404|400",
            "only the page's own files",
            "",
        )
        for number, path in enumerate(
            [
                b"../../cortex.toml",
                b"..%2f..%2fcortex.toml",
                b"%2e%2e/%2e%2e/app.py",
                b"....//app.py",
                b"..\\app.py",
                b"%5c..%5capp.py",
                b"/etc/passwd",
                b"%2fetc%2fpasswd",
                b"index.html%00.js",
                b"./index.html/.",
                b"%",
                b"%ff",
                b"\xff",
                b"..;/app.py",
                b"store.js/",
                b"C:%5cx",
                b"a" * 3000,
            ]
        )
    ),
    *(
        Case(
            f"model-path-{number}",
            get(b"/v1/models/" + path),
            "404|400",
            "a model of that name does not exist",
            "",
        )
        for number, path in enumerate(
            [
                b"..%2f..%2fetc",
                b"%00",
                b"%ff",
                b"%0d%0aSet-Cookie:%20a=b",
                b"%1b%5b31m",
                b"\xff",
                b"<script>",
                b"a" * 7000,
                b"m1%20",
                b"m1/",
                b"%ed%a0%80",
            ]
        )
    ),
    *(
        Case(
            f"admin-path-{number}",
            get(path, host=b"Host: localhost\r\n"),
            "404|400|403|405",
            "not a way round the admin API's checks",
            "",
        )
        for number, path in enumerate(
            [
                b"//cortex/v1/status",
                b"/./cortex/v1/status/",
                b"/CORTEX/v1/status",
                b"/%63ortex//v1/status",
                b"/web/../cortex/v1/statuses",
                b"/cortex/v1/nodes/%2e%2e/drain",
                b"/cortex/v1/nodes/n0%00/drain",
                b"/v1/responses/..%2f..%2fcortex",
                b"/v1/responses/%ff",
                b"/v1/responses/%00",
            ]
        )
    ),
    Case("models-slip", get(b"/v1/models/?m1"), "200", _SLIP, ""),
    Case(
        "escaped-path",
        _to(b"/v1/chat/%63ompletions"),
        "200|404",
        "RFC 3986, 6.2.2.2: an escaped letter is that letter",
    ),
    Case(
        "dots-to-route",
        _to(b"/x/../v1/chat/completions"),
        "200|404",
        "RFC 3986, 5.2.4: dots are taken out, or not there",
    ),
    Case(
        "admin-escaped-rebound",
        get(b"/%63ortex/v1/status", host=b"Host: evil.example\r\n"),
        "403|404",
        "the checks see the path that the router sees",
        "",
    ),
    Case(
        "admin-dots-rebound",
        get(b"/web/../cortex/v1/status", host=b"Host: evil.example\r\n"),
        "403|404",
        "the checks see the path that the router sees",
        "",
    ),
    Case(
        "admin-absolute-rebound",
        get(b"http://evil.example/cortex/v1/status", host=b"Host: localhost\r\n"),
        "403|404|400",
        "RFC 9112, 3.2.2: the target's host counts, the header does not",
        "",
    ),
    Case(
        "options-asterisk",
        b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
        "404|400|405",
        "nothing to say of the server as a whole",
    ),
    Case(
        "trace",
        b"TRACE /health HTTP/1.1\r\nHost: h\r\nCookie: secret\r\n\r\n",
        "405|400",
        "RFC 9110, 9.3.8: nothing is echoed",
    ),
    *(
        Case(
            f"query-{number}",
            get(b"/cortex/v1/history?" + query, host=b"Host: localhost\r\n"),
            expect,
            "a filter is a number within bounds, or text",
            "",
        )
        for number, (query, expect) in enumerate(
            [
                (b"limit=0", "400"),
                (b"limit=-1", "400"),
                (b"limit=99999999999999999999", "400"),
                (b"limit=1e9", "400"),
                (b"limit=NaN", "400"),
                (b"since_ms=99999999999999999999999999", "400|200"),
                (b"since_ms=-99999999999999999999", "400|200"),
                (b"after_id=9223372036854775808", "400|200"),
                (b"slow_ms=1e400", "400|200"),
                (b"slow_ms=NaN", "400|200"),
                (b"slow_ms=Infinity", "400|200"),
                (b"model=%00", "200"),
                (b"model=%ff", "200"),
                (b"model=%ed%a0%80", "200"),
                (b"model='%3bdrop%20table%20requests", "200"),
                (b"model=%25", "200"),
                (b"nope=1", "400"),
                (b"limit=1&limit=2", "200|400"),
                (b"limit=" + b"9" * 5000, "400"),
            ]
        )
    ),
]

_CORS = "Fetch, 3.2: no permission for other sites"
SITES = [
    *(
        Case(
            f"preflight-{number}",
            b"OPTIONS "
            + path
            + b" HTTP/1.1\r\nHost: localhost\r\nOrigin: "
            + origin
            + b"\r\nAccess-Control-Request-Method: "
            + method
            + b"\r\nAccess-Control-Request-Headers: authorization, content-type\r\n\r\n",
            "403",
            _CORS,
            "",
        )
        for number, (path, origin, method) in enumerate(
            [
                (CHAT, b"http://evil.example", b"POST"),
                (CHAT, b"null", b"POST"),
                (b"/v1/models", b"http://evil.example", b"GET"),
                (b"/cortex/v1/models/unload", b"http://evil.example", b"POST"),
                (b"/cortex/v1/status", b"http://localhost", b"GET"),
                (b"/v1/messages", b"http://evil.example", b"POST"),
                (b"/health", b"http://evil.example", b"GET"),
            ]
        )
    ),
    Case(
        "private-network-preflight",
        b"OPTIONS "
        + CHAT
        + b" HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Private-Network: true\r\n\r\n",
        "403",
        _CORS,
        "",
    ),
    Case(
        "simple-request",
        post(b"Origin: http://evil.example\r\n").replace(b"application/json", b"text/plain"),
        "403",
        "a browser sends text unasked; the page may not read the answer, but a model would be loaded",
        "",
    ),
    *(
        Case(
            f"simple-request-{number}",
            post(headers, line=line, host=host).replace(b"application/json", b"text/plain"),
            "403",
            "whatever the page is of, and whatever it asks",
            "",
        )
        for number, (line, host, headers) in enumerate(
            [
                (b"POST " + CHAT + b" HTTP/1.1", b"Host: x\r\n", b"Origin: null\r\n"),
                (b"POST /v1/messages HTTP/1.1", b"Host: x\r\n", b"Origin: http://a.b\r\n"),
                (b"POST /v1/completions HTTP/1.1", b"Host: x\r\n", b"Origin: \xff\r\n"),
                (b"POST /v1/embeddings HTTP/1.1", b"Host: x\r\n", b"Origin: \r\n"),
                (b"POST /v1//responses HTTP/1.1", b"Host: x\r\n", b"Origin: http://a.b\r\n"),
                (
                    b"POST " + CHAT + b" HTTP/1.1",
                    b"Host: rebound.example\r\n",
                    b"Origin: http://rebound.example\r\n",
                ),
                (
                    b"POST " + CHAT + b" HTTP/1.1",
                    b"Host: localhost\r\n",
                    b"Sec-Fetch-Site: cross-site\r\n",
                ),
                (
                    b"POST /v1/models/reload HTTP/1.1",
                    b"Host: localhost\r\n",
                    b"Origin: http://a.b\r\n",
                ),
            ]
        )
    ),
    *(
        Case(
            f"proxied-{number}",
            get(b"/cortex/v1/status", header, host=b"Host: localhost\r\n"),
            "403",
            "a proxy on this machine asks for somebody else, and says so",
            "",
        )
        for number, header in enumerate(
            [
                b"Forwarded: for=127.0.0.1\r\n",
                b"X-Forwarded-For: 127.0.0.1\r\n",
                b"x-forwarded-for:\r\n",
                b"X-Real-IP: ::1\r\n",
                b"X-Forwarded-Host: localhost\r\n",
                b"Via: 1.1 proxy\r\n",
                b"CF-Connecting-IP: 127.0.0.1\r\n",
                b"Sec-Fetch-Site: cross-site\r\n",
                b"Sec-Fetch-Site: same-site\r\n",
            ]
        )
    ),
    Case(
        "simple-read",
        get(b"/v1/models", b"Origin: http://evil.example\r\n"),
        "200",
        "served, but the other site may not read it",
        "",
    ),
    Case(
        "simple-admin-read",
        get(
            b"/cortex/v1/status",
            b"Origin: http://evil.example\r\n",
            host=b"Host: localhost\r\n",
        ),
        "403",
        "the fleet is this machine's user's to see",
        "",
    ),
    *(
        Case(
            f"change-{number}",
            post(
                headers,
                b'{"model":"m1"}',
                line=b"POST /cortex/v1/models/pin HTTP/1.1",
                host=host,
            ),
            "403",
            "no change from another site",
            "",
        )
        for number, (host, headers) in enumerate(
            [
                (b"Host: localhost\r\n", b"Origin: http://evil.example\r\n"),
                (b"Host: localhost\r\n", b"Origin: null\r\n"),
                (b"Host: localhost\r\n", b"Origin: \r\n"),
                (b"Host: evil.example\r\n", b"Origin: http://evil.example\r\n"),
                (b"Host: evil.example\r\n", b""),
                (b"Host: localhost\r\n", b"Origin: http://localhost.evil.example\r\n"),
                (b"Host: localhost\r\n", b"Origin: http://localhost:1\r\n"),
                (b"Host: localhost:80\r\n", b"Origin: http://localhost:80.evil\r\n"),
                (b"Host: localhost\r\n", b"Origin: \xff\r\n"),
            ]
        )
    ),
]

GROUPS = {"targets": TARGETS, "other sites": SITES}
