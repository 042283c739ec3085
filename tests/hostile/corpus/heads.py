"""Request lines and header fields that are none (RFC 9112, 2 to 5; RFC 9110, 5)."""

from tests.hostile.corpus.case import CHAT, Case, get, post

_5_1 = "RFC 9112, 5.1: no white space before the colon"
_5_2 = "RFC 9112, 5.2: obs-fold is refused"
_5_5 = "RFC 9110, 5.5: CR, LF and NUL in a value are refused"
_3 = "RFC 9112, 3: a bad request line is refused"
_LONG = b"a" * 9000

LINES = [
    Case(
        "lower-case-method",
        post(line=b"post " + CHAT + b" HTTP/1.1"),
        "400!|405",
        "RFC 9110, 9.1: methods are case-sensitive",
        "",
    ),
    *(
        Case(
            f"method-{method.decode()}",
            post(line=method + b" " + CHAT + b" HTTP/1.1"),
            expect,
            "only POST infers",
            "",
        )
        for method, expect in [
            (b"GET", "405"),
            (b"PUT", "405"),
            (b"DELETE", "405"),
            (b"PATCH", "405"),
            (b"OPTIONS", "405"),
            (b"TRACE", "405"),
            (b"PROPFIND", "405"),
            (b"PURGE", "405"),
            (b"FOO", "400!|405"),
            (b"P0ST", "400!|405"),
            (b"POSTS", "400!|405"),
            (b"POS", "400!|405"),
            (b"DEBUG", "400!|405"),
            (b"M" * 5000, "400!|405"),
        ]
    ),
    Case(
        "method-head",
        b"HEAD " + CHAT + b" HTTP/1.1\r\nHost: h\r\n\r\n",
        "405",
        "only POST infers",
        "",
    ),
    Case(
        "method-connect",
        b"CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n",
        "4xx!|closed",
        "RFC 9110, 9.3.6: no tunnel here",
    ),
    Case(
        "method-connect-path",
        post(line=b"CONNECT " + CHAT + b" HTTP/1.1"),
        "4xx!|400!|closed",
        "no tunnel here",
        "",
    ),
    *(
        Case(f"method-odd-{number}", post(line=line), "400!", f"{_3}; {why}", "")
        for number, (line, why) in enumerate(
            [
                (b"PO ST " + CHAT + b" HTTP/1.1", "a blank in the method"),
                (b"PO\x00ST " + CHAT + b" HTTP/1.1", "a NUL in the method"),
                (b"POST\x00 " + CHAT + b" HTTP/1.1", "a NUL behind the method"),
                (b"POST: " + CHAT + b" HTTP/1.1", "a colon behind the method"),
                (b"P\xc3\x96ST " + CHAT + b" HTTP/1.1", "letters outside ASCII"),
                (b" POST " + CHAT + b" HTTP/1.1", "a blank before the method"),
                (b"\tPOST " + CHAT + b" HTTP/1.1", "a tab before the method"),
                (b"", "nothing"),
                (b"POST", "the method alone"),
                (b"POST ", "no target"),
                (b"POST  HTTP/1.1", "no target"),
                (b"POST " + CHAT + b" x HTTP/1.1", "a blank in the target"),
                (b"POST\t" + CHAT + b"\tHTTP/1.1", "tabs between"),
                (b"POST " + CHAT + b" HTTP/1.1 x", "something behind the version"),
                (b"POST " + CHAT + b"\x00 HTTP/1.1", "a NUL in the target"),
                (b"POST " + CHAT + b"\r HTTP/1.1", "a CR in the target"),
                (b"POST " + CHAT + b"\x7f HTTP/1.1", "a DEL in the target"),
                (b"POST " + CHAT + b"\x1b[2J HTTP/1.1", "an escape in the target"),
            ]
        )
    ),
    Case(
        "two-blanks-before-version",
        post(line=b"POST " + CHAT + b"  HTTP/1.1"),
        "200|400!",
        f"{_3}; one blank separates",
    ),
    Case(
        "two-blanks-before-target",
        post(line=b"POST  " + CHAT + b" HTTP/1.1"),
        "200|400!",
        f"{_3}; one blank separates",
    ),
    Case(
        "crlf-before",
        b"\r\n\r\n" + post(),
        "200",
        "RFC 9112, 2.2: empty lines before a request are skipped",
    ),
    Case("lf-before", b"\n" + post(), "200|400!", "RFC 9112, 2.2"),
    *(
        Case(
            f"version-{number}",
            post(line=b"POST " + CHAT + version),
            "400!|505!",
            f"RFC 9112, 2.3; {why}",
            "",
        )
        for number, (version, why) in enumerate(
            [
                (b" HTTP/2.0", "not spoken here"),
                (b" HTTP/3.0", "not spoken here"),
                (b" HTTP/0.9", "not spoken here"),
                (b" HTTP/1.2", "unknown"),
                (b" HTTP/1.10", "two digits"),
                (b" HTTP/11.1", "two digits"),
                (b" HTTP/1", "no minor number"),
                (b" HTTP/1.", "no minor number"),
                (b" HTTP/.1", "no major number"),
                (b" HTTP/1,1", "a comma"),
                (b" http/1.1", "case-sensitive"),
                (b" Http/1.1", "case-sensitive"),
                (b" HTTP1.1", "no slash"),
                (b" HTTPS/1.1", "another name"),
                (b" ICY/1.1", "another name"),
                (b" HTTP/1.1\x00", "a NUL behind it"),
                (b" HTTP/+1.1", "a sign"),
                (b" HTTP/-1.1", "a sign"),
                (b" HTTP/1. 1", "a blank inside"),
                (b" HTTP/\xd9\xa1.1", "a digit of another script"),
                (b" HTTP/9.9", "unknown"),
            ]
        )
    ),
    # The parser knows this name and tells its version only; no client of ours and no proxy says it.
    Case(
        "version-rtsp",
        post(line=b"POST " + CHAT + b" RTSP/1.0"),
        "200!|400!",
        "another protocol's name",
    ),
    Case(
        "http-0.9", b"GET /health\r\n\r\n", "400!", "RFC 9112, 2.3: HTTP/0.9 is not spoken here"
    ),
    Case(
        "http-0.9-post",
        b"POST " + CHAT + b"\r\n\r\n",
        "400!",
        "RFC 9112, 2.3: HTTP/0.9 is not spoken here",
    ),
    Case(
        "http-1.0",
        post(line=b"POST " + CHAT + b" HTTP/1.0"),
        "200!",
        "RFC 9112, 9.3: answered, then closed",
    ),
    Case(
        "http-1.0-keep-alive",
        post(b"Connection: keep-alive\r\n", line=b"POST " + CHAT + b" HTTP/1.0"),
        "200",
        "RFC 9112, 9.3: may stay open when asked",
    ),
    Case(
        "http-1.0-no-host",
        post(line=b"POST " + CHAT + b" HTTP/1.0", host=b""),
        "200!",
        "RFC 9112, 3.2: Host came with 1.1",
    ),
    Case(
        "http2-preface",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "400!|closed",
        "RFC 9113, 3.4: not spoken here",
    ),
    Case(
        "http2-frames",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        "400!|closed",
        "RFC 9113, 3.4: not spoken here",
    ),
    Case(
        "tls-hello",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
        "400!|closed",
        "TLS to a plain port",
    ),
    Case("socks", b"\x05\x01\x00" + b"\x00" * 8, "400!|closed", "another protocol"),
    Case("ssh", b"SSH-2.0-OpenSSH_9.6\r\n", "400!|closed", "another protocol"),
    Case("smtp", b"EHLO there\r\nMAIL FROM:<a@b>\r\n\r\n", "400!|closed", "another protocol"),
    Case("redis", b"*1\r\n$4\r\nPING\r\n", "400!|closed", "another protocol"),
    Case(
        "response",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "400!|closed",
        "an answer instead of a request",
    ),
    Case("nul-bytes", b"\x00" * 200, "400!|closed", "no protocol"),
    Case("noise", bytes(range(128, 256)) * 4, "400!|closed", "no protocol"),
    Case(
        "proxy-protocol",
        b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n" + post(),
        "400!|closed",
        "the sender's address is not taken from the wire",
        "",
    ),
    Case(
        "line-too-long",
        post(line=b"POST " + CHAT + b"?" + _LONG + b" HTTP/1.1"),
        "400!|414!|431!",
        "a bound on the request line",
        "",
    ),
    Case(
        "line-endless",
        b"GET /" + b"a" * 300_000,
        "400!|414!|431!|closed",
        "a bound on the request line",
    ),
    Case(
        "method-endless", b"A" * 300_000, "400!|414!|431!|closed", "a bound on the request line"
    ),
    Case("nothing-sent", b"", "waits", "an idle connection is no error"),
    Case("only-crlf", b"\r\n" * 100, "waits|400!", "RFC 9112, 2.2: still no request"),
    Case("crlf-endless", b"\r\n" * 100_000, "waits|400!|closed", "still no request"),
    Case("half-a-line", b"POST /v1/cha", "waits", "the rest may come"),
    Case("half-a-head", post().partition(b"\r\n\r\n")[0], "waits", "the rest may come"),
    Case("head-byte-by-byte", tuple(bytes([c]) for c in post()), "200", "pieces mean nothing"),
]

FIELDS = [
    *(
        Case(f"field-{number}", post(line), "400!", why, "")
        for number, (line, why) in enumerate(
            [
                (b"X-A : b\r\n", _5_1),
                (b"X-A\t: b\r\n", _5_1),
                (b"X-A\x0b: b\r\n", _5_1),
                (b" X-A: b\r\n", _5_2),
                (b"X-A: b\r\n c\r\n", _5_2),
                (b"X-A: b\r\n\tc\r\n", _5_2),
                (b"X-A:\r\n b\r\n", _5_2),
                (b"X-A: b\r\n \r\n", _5_2),
                (b"X-A: b\rc\r\n", _5_5),
                (b"X-A: b\r\r\n", _5_5),
                (b"X-A: b\x00c\r\n", _5_5),
                (b"X-A: \x00\r\n", _5_5),
                (b"\x00X-A: b\r\n", "RFC 9110, 5.1: a name is a token"),
                (b"X\x00A: b\r\n", "RFC 9110, 5.1: a name is a token"),
                (b"X A: b\r\n", "RFC 9110, 5.1: a name is a token"),
                (b"X\xc3\xa4: b\r\n", "RFC 9110, 5.1: a name is a token"),
                (b"X\x7f: b\r\n", "RFC 9110, 5.1: a name is a token"),
                (b"X(A): b\r\n", "RFC 9110, 5.1: a name is a token"),
                (b"X@A: b\r\n", "RFC 9110, 5.1: a name is a token"),
                (b"X/A: b\r\n", "RFC 9110, 5.1: a name is a token"),
                (b"X[A]: b\r\n", "RFC 9110, 5.1: a name is a token"),
                (b'"X": b\r\n', "RFC 9110, 5.1: a name is a token"),
                (b": b\r\n", "RFC 9110, 5.1: a name has a letter"),
                (b"no colon\r\n", "RFC 9112, 5"),
                (b"X-A\r\n", "RFC 9112, 5"),
                (b"\xff\xfe: b\r\n", "RFC 9110, 5.1: a name is a token"),
                (b"X-A: b\x01\r\n", "RFC 9110, 5.5: control characters"),
                (b"X-A: \x1b[31m\r\n", "RFC 9110, 5.5: control characters"),
                (b"X-A: b\x7f\r\n", "RFC 9110, 5.5: control characters"),
            ]
        )
    ),
    *(
        Case(
            f"bare-lf-{number}",
            data,
            "400!",
            f"RFC 9112, 2.2: a bare LF is no line end here; {why}",
            "",
        )
        for number, (data, why) in enumerate(
            [
                (post(b"X-A: b\n"), "behind a field"),
                (post().replace(b"HTTP/1.1\r\n", b"HTTP/1.1\n"), "behind the request line"),
                (post().replace(b"\r\n\r\n", b"\r\n\n"), "as the empty line"),
                (post().replace(b"\r\n\r\n", b"\n\n"), "as the last two line ends"),
                (post().replace(b"\r\n", b"\n"), "everywhere"),
                (post(b"X-A: b\nX-B: c\r\n"), "between two fields"),
            ]
        )
    ),
    *(
        Case(
            f"bare-cr-{number}", data, "400!", f"RFC 9112, 2.2: a bare CR is refused; {why}", ""
        )
        for number, (data, why) in enumerate(
            [
                (post(b"X-A: b\rX-B: c\r\n"), "between two fields"),
                (post().replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r"), "behind the request line"),
                (post().replace(b"\r\n\r\n", b"\r\r\n"), "before the empty line"),
                (post().replace(b"\r\n", b"\r"), "everywhere"),
            ]
        )
    ),
    Case("field-empty", post(b"X-A:\r\n"), "200", "RFC 9110, 5.5: an empty value is one"),
    Case(
        "field-latin1",
        post(b"X-A: \xe4\r\n"),
        "200",
        "RFC 9110, 5.5: obs-text in a value nobody reads",
    ),
    Case(
        "field-utf8",
        post("X-A: ✓\r\n".encode()),
        "200",
        "RFC 9110, 5.5: obs-text in a value nobody reads",
    ),
    Case(
        "field-odd-names",
        post(b"!#$%&'*+-.^_`|~9: b\r\n"),
        "200",
        "RFC 9110, 5.6.2: all of a token",
    ),
    Case(
        "request-id-invalid-utf8", post(b"x-request-id: \xff\xfe\r\n"), "200", "not taken over"
    ),
    Case(
        "request-id-long",
        post(b"x-request-id: " + b"a" * 5000 + b"\r\n"),
        "200",
        "not taken over",
    ),
    Case("request-id-odd", post(b"x-request-id: <script>\r\n"), "200", "not taken over"),
    Case(
        "request-id-twice",
        post(b"x-request-id: a1\r\nx-request-id: b2\r\n"),
        "200",
        "one of them",
    ),
    Case(
        "authorization-invalid-utf8",
        post(b"Authorization: Bearer \xff\xfe\r\n"),
        "200",
        "no keys: not read",
    ),
    Case(
        "accept-invalid-utf8",
        post(b"Accept: \xff\xfe\r\n"),
        "200",
        "nothing that is no text reaches the node",
    ),
    Case(
        "accept-latin1",
        post(b"Accept: \xe4\r\n"),
        "200",
        "nothing that is no text reaches the node",
    ),
    Case(
        "anthropic-version-invalid-utf8",
        post(b"anthropic-version: \xff\r\n"),
        "200",
        "nothing that is no text reaches the node",
    ),
    Case(
        "openai-beta-utf8",
        post("OpenAI-Beta: ✓\r\n".encode()),
        "200",
        "a header that goes to the node",
    ),
    Case("accept-twice", post(b"Accept: a/b\r\nAccept: c/d\r\n"), "200", "the node sees one"),
    Case(
        "session-invalid-utf8",
        post(b"x-session-id: \xff\r\n"),
        "200",
        "a key of stickiness like another",
    ),
    Case("user-agent-invalid-utf8", post(b"User-Agent: \xff\r\n"), "200", "nobody's name"),
    Case(
        "user-agent-escape-utf8",
        post("User-Agent: a\u009b31m\r\n".encode()),
        "200",
        "not printable, nobody's name",
    ),
    Case("user-agent-long", post(b"User-Agent: " + b"a" * 7000 + b"\r\n"), "200", "cut"),
    Case(
        "content-type-other",
        post().replace(b"application/json", b"text/plain"),
        "200",
        "read as JSON, whatever it is called",
    ),
    Case(
        "content-type-odd",
        post().replace(b"application/json", b";;;=\xff"),
        "200|400",
        "read as JSON, whatever it is called",
    ),
    Case(
        "content-type-utf16",
        post().replace(b"application/json", b"application/json; charset=utf-16"),
        "200",
        "JSON is UTF-8, whatever it is called",
    ),
    Case(
        "content-type-unknown-charset",
        post().replace(b"application/json", b"application/json; charset=nope"),
        "200",
        "JSON is UTF-8, whatever it is called",
    ),
    Case(
        "content-type-multipart",
        post().replace(b"application/json", b"multipart/form-data; boundary=x"),
        "200",
        "read as JSON, whatever it is called",
    ),
    Case(
        "header-too-long",
        post(b"X-A: " + _LONG + b"\r\n"),
        "400!|431!",
        "a bound on a field",
        "",
    ),
    Case(
        "header-name-too-long", post(_LONG + b": b\r\n"), "400!|431!", "a bound on a field", ""
    ),
    Case(
        "header-endless",
        get(headers=b"X-A: " + b"a" * 500_000),
        "400!|431!|closed",
        "a bound on a field",
    ),
    Case(
        "header-name-endless",
        get(headers=b"a" * 500_000),
        "400!|431!|closed",
        "a bound on a field",
    ),
    Case(
        "headers-too-many",
        post(b"X-A: b\r\n" * 200),
        "400!|431!",
        "a bound on the number of fields",
        "",
    ),
    Case(
        "headers-without-end",
        get(headers=b"X-A: b\r\n" * 100_000),
        "400!|431!|closed",
        "a bound on the number of fields",
    ),
    Case(
        "headers-large-each-allowed",
        post(b"".join(b"X-%d: %s\r\n" % (n, b"a" * 8000) for n in range(120))),
        "200|400!|431!|closed",
        "bounded by the number and the size of fields: 1 MiB",
    ),
    Case(
        "cookies",
        post(b"Cookie: " + b"a=b; " * 1000 + b"\r\n"),
        "200",
        "not read, and not for the node",
    ),
    Case("cookies-odd", post(b'Cookie: a="\\000; =;;\r\n'), "200", "not read"),
    Case("range", post(b"Range: bytes=0-1\r\n"), "200", "not read"),
    Case("range-odd", post(b"Range: bytes=-,--,9-1\r\n"), "200", "not read"),
    Case("if-modified-odd", post(b"If-Modified-Since: never\r\n"), "200", "not read"),
    Case(
        "forwarded",
        post(
            b"Forwarded: for=evil;host=evil\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Proto: https\r\nX-Real-IP: 1.2.3.4\r\n"
        ),
        "200",
        "nobody is believed, and it is not for the node",
    ),
    Case(
        "method-override",
        post(b"X-HTTP-Method-Override: DELETE\r\nX-Method-Override: PUT\r\n"),
        "200",
        "the method is in the request line",
    ),
    Case(
        "url-override",
        post(b"X-Original-URL: /cortex/v1/status\r\nX-Rewrite-URL: /cortex/v1/status\r\n"),
        "200",
        "the target is in the request line",
    ),
]

HOSTS = [
    Case("host-none", post(host=b""), "400!", "RFC 9112, 3.2: refuse", ""),
    Case("host-none-get", get(host=b""), "400!", "RFC 9112, 3.2: refuse"),
    Case(
        "host-twice", post(host=b"Host: a\r\nHost: b\r\n"), "400!", "RFC 9112, 3.2: refuse", ""
    ),
    Case(
        "host-twice-same",
        post(host=b"Host: a\r\nHost: a\r\n"),
        "400!",
        "RFC 9112, 3.2: refuse",
        "",
    ),
    Case(
        "host-empty",
        post(host=b"Host:\r\n"),
        "200|400!",
        "RFC 9110, 7.2: an empty one is allowed",
    ),
    *(
        Case(
            f"host-odd-{number}",
            post(host=b"Host: " + host + b"\r\n"),
            "200",
            "RFC 3986, 3.2.2: odd, but a name; nothing is decided by it",
        )
        for number, host in enumerate(
            [
                b"a,b",
                b"h:99999",
                b"h:",
                b"[::1]:80",
                b"[fe80::1%25eth0]",
                b"a" * 5000,
                b"..",
                b"%00",
            ]
        )
    ),
    *(
        Case(
            f"host-invalid-{method}-{number}",
            request(host),
            "400!",
            "RFC 9112, 3.2: what is no name of a host is refused",
            "",
        )
        for method, request in (
            ("post", lambda host: post(host=b"Host: " + host + b"\r\n")),
            ("get", lambda host: get(b"/v1/models", host=b"Host: " + host + b"\r\n")),
        )
        for number, host in enumerate(
            [
                b"a b",
                b"h:-1",
                b"h:x",
                b"[::1",
                b"[zz]",
                b"user@h",
                b"h/path",
                b"h?x",
                b"h#x",
                b"http://h",
                b"\xff",
                "bücher.example".encode(),
                b"<script>",
                b"h:80:80",
                b"h\tx",
                b'"h"',
            ]
        )
    ),
    *(
        Case(
            f"host-odd-admin-{number}",
            get(b"/cortex/v1/status", host=b"Host: " + host + b"\r\n"),
            "403|400",
            "a name that is not this machine's",
            "",
        )
        for number, host in enumerate(
            [
                b"evil.example",
                b"127.0.0.1.evil.example",
                b"localhost.evil.example",
                b"evil.example:80",
                b"a b",
                b"[::1",
                b"127.0.0.1@evil.example",
                b"\xff",
                b"localhost evil",
                b"",
                b"0x7f.evil",
                b"evil.example#localhost",
            ]
        )
    ),
    *(
        Case(
            f"host-own-admin-{number}",
            get(b"/cortex/v1/status", host=b"Host: " + host + b"\r\n"),
            "200",
            "this machine",
            "",
        )
        for number, host in enumerate(
            [
                b"localhost",
                b"localhost:8080",
                b"127.0.0.1",
                b"127.0.0.1:80",
                b"[::1]:80",
                b"LOCALHOST",
                b"192.0.2.1:8080",
                b"a.localhost",
            ]
        )
    ),
]

_KEY = b"Authorization: Bearer the-key\r\n"
KEYED = [
    Case("key", post(_KEY), "200", "the good case"),
    Case("key-x-api-key", post(b"x-api-key: the-key\r\n"), "200", "the good case"),
    Case(
        "key-scheme-case",
        post(b"Authorization: bEARER the-key\r\n"),
        "200",
        "RFC 9110, 11.1: case-insensitive",
    ),
    Case(
        "key-in-trailer",
        post(b"Transfer-Encoding: chunked\r\n", b"0\r\n" + _KEY + b"\r\n", length=False),
        "401",
        "RFC 9110, 6.5.1: a trailer is no header",
        "",
    ),
    Case(
        "key-in-query",
        post(line=b"POST " + CHAT + b"?key=the-key&api_key=the-key HTTP/1.1"),
        "401",
        "keys are in headers",
        "",
    ),
    Case(
        "key-open-path-escaped",
        get(b"/%68ealth/../cortex/v1/status"),
        "401|404|400",
        "not a way round",
        "",
    ),
    Case("key-open-path-dots", get(b"/web/../v1/models"), "401|404|400", "not a way round", ""),
    Case(
        "key-open-path-dots-escaped",
        get(b"/web/%2e%2e/v1/models"),
        "401|404|400",
        "not a way round",
        "",
    ),
    Case("key-open-path-slashes", get(b"//v1/models"), "401|404|400", "not a way round", ""),
    Case(
        "key-absolute", get(b"http://127.0.0.1/v1/models"), "401|404|400", "not a way round", ""
    ),
    *(
        Case(f"key-wrong-{number}", post(line), "401", "not the key", "")
        for number, line in enumerate(
            [
                b"",
                b"Authorization: Bearer\r\n",
                b"Authorization: Bearer \r\n",
                b"Authorization: the-key\r\n",
                b"Authorization: Basic the-key\r\n",
                b"Authorization: Bearer the-ke\r\n",
                b"Authorization: Bearer the-key2\r\n",
                b"Authorization: Bearer THE-KEY\r\n",
                b"Authorization: Bearer \xff\xfe\r\n",
                b"x-api-key: \xff\r\n",
                b"x-api-key:\r\n",
                b"x-api-key: the-key, other\r\n",
                b"Authorization: Bearer " + b"k" * 7000 + b"\r\n",
                b"Authorization: Bearer the-key the-key\r\n",
                b"Cookie: Authorization=Bearer the-key\r\n",
                b"X-Authorization: Bearer the-key\r\n",
                b"Proxy-Authorization: Bearer the-key\r\n",
                b"X_Api_Key: the-key\r\n",
            ]
        )
    ),
]
"""For a gateway that has the key `the-key`."""

GROUPS = {"lines": LINES, "fields": FIELDS, "hosts": HOSTS}
