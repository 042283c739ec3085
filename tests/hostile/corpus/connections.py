"""What a connection is used for: many requests, other protocols, waiting (RFC 9112, 9; RFC 9110, 7.6, 7.8, 10.1.1)."""

from tests.hostile.corpus.case import B, Case, S, bare, chunked, get, post, said

_HOP = "RFC 9110, 7.6.1: of one connection only; none reaches the node"
_TWO = post() + post(body=said(B))
_TE = b"Transfer-Encoding: chunked\r\n"

PIPELINES = [
    Case("two", _TWO, "200 200", "each its own answer"),
    Case(
        "two-split-everywhere",
        tuple(_TWO[at : at + 7] for at in range(0, len(_TWO), 7)),
        "200 200",
        "each its own answer",
    ),
    Case(
        "two-cut-in-the-second-head",
        (_TWO[: len(post()) + 10], _TWO[len(post()) + 10 :]),
        "200 200",
        "each its own answer",
    ),
    Case(
        "two-cut-in-the-first-body",
        (_TWO[: len(post()) - 10], _TWO[len(post()) - 10 :]),
        "200 200",
        "each its own answer",
    ),
    Case(
        "chunked-then-length",
        bare(_TE, chunked(said())) + post(body=said(B)),
        "200 200",
        "each its own answer",
    ),
    Case(
        "length-then-chunked",
        post() + bare(_TE, chunked(said(B))),
        "200 200",
        "each its own answer",
    ),
    Case("health-then-chat", get() + post(), "200 200", "each its own answer", "A"),
    Case("chat-then-health", post() + get(), "200 200", "each its own answer", "A"),
    Case(
        "stream-then-chat",
        post(body=said(more=b',"stream":true')) + post(body=said(B)),
        "200 200",
        "each its own answer",
    ),
    Case(
        "chat-then-stream",
        post() + post(body=said(B, more=b',"stream":true')),
        "200 200",
        "each its own answer",
    ),
    Case(
        "messages-then-chat",
        post(body=said(more=b',"max_tokens":5'), line=b"POST /v1/messages HTTP/1.1")
        + post(body=said(B)),
        "200 200",
        "each its own answer",
    ),
    Case(
        "chat-then-messages",
        post()
        + post(body=said(B, more=b',"max_tokens":5'), line=b"POST /v1/messages HTTP/1.1"),
        "200 200",
        "each its own answer",
    ),
    Case(
        "bad-then-chat",
        post(body=b"{}") + post(body=said(B)),
        "400 200",
        "a refused request ends where it ends",
        "B",
    ),
    Case(
        "unknown-model-then-chat",
        post(body=said(model=b"nope")) + post(body=said(B)),
        "404 200",
        "a refused request ends where it ends",
        "B",
    ),
    Case(
        "unknown-path-then-chat",
        post(line=b"POST /nope HTTP/1.1") + post(body=said(B)),
        "404 200",
        "a refused request ends where it ends",
        "B",
    ),
    Case(
        "chat-then-bad-head",
        post() + b"POST / HTTP/9.9\r\n\r\n",
        "200 400!|400!",
        "the first is answered before, or refused with what was read with it",
    ),
    Case(
        "chat-then-noise",
        post() + b"\x00\x01\x02",
        "200 400!|400!",
        "the first is answered before, or refused with what was read with it",
    ),
    Case("chat-then-half", post() + b"POST /v1/ch", "200", "the rest may come"),
    Case(
        "chat-then-conflict",
        post() + bare(_TE + b"Content-Length: 3\r\n", b"0\r\n\r\n" + post(body=said(S))),
        "200 400!|400!",
        "the first is answered before, or refused with what was read with it",
    ),
    Case(
        "close-then-more",
        post(b"Connection: close\r\n") + post(body=said(S)),
        "200!|400!",
        "RFC 9112, 9.6: nothing is read behind a close",
    ),
    Case(
        "http-1.0-then-more",
        post(line=b"POST /v1/chat/completions HTTP/1.0") + post(body=said(S)),
        "200!|400!",
        "RFC 9112, 9.3: nothing is read behind it",
    ),
    Case(
        "expect-then-more",
        post(b"Expect: 100-continue\r\n") + post(body=said(B)),
        "100 200 200",
        "each its own answer",
        "AB",
    ),
    Case("twenty", get() * 20, " ".join(["200"] * 20), "each its own answer", ""),
]

HOPS = [
    *(
        Case(f"hop-{number}", post(headers), expect, _HOP)
        for number, (headers, expect) in enumerate(
            [
                (b"Connection: x-request-id\r\nx-request-id: abc\r\n", "200"),
                (b"Connection: close, x-a\r\nX-A: b\r\n", "200!"),
                (b"Connection: keep-alive\r\nKeep-Alive: timeout=1000, max=1\r\n", "200"),
                (b"Connection: content-length\r\n", "200"),
                (b"Connection: host\r\n", "200"),
                (b"Connection: authorization\r\nAuthorization: Bearer x\r\n", "200"),
                (
                    b"Connection: accept, openai-beta\r\nAccept: a/b\r\nOpenAI-Beta: x\r\n",
                    "200",
                ),
                (b"Connection:\r\n", "200"),
                (b"Connection: ,,,\r\n", "200"),
                (b"Connection: \xff\r\n", "200"),
                (b"Connection: close\r\nConnection: keep-alive\r\n", "200"),
                (b"Connection: keep-alive\r\nConnection: close\r\n", "200"),
                (b"Connection: CLOSE\r\n", "200!"),
                (b"Proxy-Connection: keep-alive\r\n", "200"),
                (b"Proxy-Authorization: Basic eDp5\r\n", "200"),
                (b"Proxy-Authenticate: Basic\r\n", "200"),
                (b"TE: trailers\r\n", "200"),
                (b"TE: gzip, trailers;q=0.5\r\nConnection: TE\r\n", "200"),
                (b"Trailer: X-A\r\n", "200"),
                (b"Trailer: Content-Length\r\n", "200"),
                (b"Via: 1.1 a\r\nMax-Forwards: 0\r\n", "200"),
                (b"Authorization: Bearer secret\r\n", "200"),
                (b"x-api-key: secret\r\n", "200"),
                (b"Cookie: a=b\r\n", "200"),
                (b"Alt-Used: h\r\nEarly-Data: 1\r\n", "200"),
            ]
        )
    ),
]

UPGRADES = [
    *(
        Case(
            f"upgrade-{number}",
            post(headers),
            "200|400!",
            "RFC 9110, 7.8: an upgrade may be passed over, and nothing else is spoken",
        )
        for number, headers in enumerate(
            [
                b"Upgrade: websocket\r\n",
                b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n",
                b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
                b"Connection: Upgrade\r\nUpgrade: TLS/1.2\r\n",
                b"Connection: Upgrade\r\nUpgrade: foo, bar\r\n",
                b"Connection: Upgrade\r\n",
            ]
        )
    ),
    Case(
        "upgrade-get",
        get(
            headers=b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        ),
        "200",
        "no socket here",
    ),
    Case(
        "upgrade-then-smuggled",
        get(headers=b"Connection: Upgrade\r\nUpgrade: websocket\r\n") + post(body=said(B)),
        "200|200 200",
        "what follows is a request like another, or not read at all",
    ),
    Case("expect", post(b"Expect: 100-continue\r\n"), "100 200", "RFC 9110, 10.1.1"),
    Case(
        "expect-upper",
        post(b"Expect: 100-Continue\r\n"),
        "100 200",
        "RFC 9110, 10.1.1: case-insensitive",
    ),
    Case("expect-unknown", post(b"Expect: the-unexpected\r\n"), "417", "RFC 9110, 10.1.1", ""),
    Case(
        "expect-list",
        post(b"Expect: 100-continue, x\r\n"),
        "417|100 200",
        "RFC 9110, 10.1.1",
        None,
    ),
    Case(
        "expect-http-1.0",
        post(b"Expect: 100-continue\r\n", line=b"POST /v1/chat/completions HTTP/1.0"),
        "200!",
        "RFC 9110, 10.1.1: not for HTTP/1.0",
    ),
    Case(
        "expect-too-large",
        bare(b"Expect: 100-continue\r\nContent-Length: 3000000\r\n"),
        "413",
        "refused before it is sent, and not asked for",
        "",
    ),
    Case(
        "expect-admin-too-large",
        post(
            b"Expect: 100-continue\r\n",
            b"x" * 100_000,
            line=b"POST /cortex/v1/models/pin HTTP/1.1",
            host=b"Host: localhost\r\n",
        ),
        "400",
        "refused before it is sent, and not asked for",
        "",
    ),
    Case(
        "expect-elsewhere",
        post(
            b"Expect: 100-continue\r\n",
            line=b"POST /cortex/v1/models/pin HTTP/1.1",
            host=b"Host: elsewhere\r\n",
        ),
        "403",
        "whoever may not ask is told so before the body is sent",
        "",
    ),
]

SLOW = [
    Case("body-stalls", post()[:-5], "waits 408", "limits.idle_timeout_s bounds a body", ""),
    Case(
        "body-never-comes",
        bare(b"Content-Length: 50\r\n"),
        "waits 408",
        "limits.idle_timeout_s bounds a body",
        "",
    ),
    Case(
        "chunks-stall",
        bare(_TE, chunked(said(), last=b"")),
        "waits 408",
        "limits.idle_timeout_s bounds a body",
        "",
    ),
    Case(
        "body-drips",
        (post()[:-40], *[b" "] * 30),
        "waits 408",
        "the whole body has its time, not each byte",
        "",
        0.1,
    ),
    Case(
        "messages-body-stalls",
        post(line=b"POST /v1/messages HTTP/1.1")[:-5],
        "waits 408",
        "limits.idle_timeout_s bounds a body",
        "",
    ),
    Case(
        "admin-body-stalls",
        post(line=b"POST /cortex/v1/models/pin HTTP/1.1", host=b"Host: localhost\r\n")[:-5],
        "waits 408",
        "an admin's body is bounded too",
        "",
    ),
]

HEADS_STALL = [
    Case(
        "head-nothing",
        b"",
        "waits closed|waits 408!",
        "an idle connection is closed in the end",
    ),
    Case(
        "head-half-a-line",
        b"POST /v1/cha",
        "waits 408!|waits closed",
        "limits.head_timeout_s bounds a head",
    ),
    Case(
        "head-half",
        post().partition(b"\r\n\r\n")[0],
        "waits 408!|waits closed",
        "limits.head_timeout_s bounds a head",
    ),
    Case(
        "head-drips",
        (post().partition(b"\r\n\r\n")[0], *[b"\r\nX-A: b"] * 30),
        "waits 408!|waits closed",
        "the whole head has its time, not each byte",
        None,
        0.1,
    ),
    Case(
        "head-crlf-drips",
        (b"\r\n",) * 30,
        "waits 408!|waits closed",
        "empty lines are no request",
        None,
        0.1,
    ),
]
"""For `limits.head_timeout_s`; see `HEAD_TIMEOUT` of the runner."""

GROUPS = {"pipelines": PIPELINES, "hops": HOPS, "upgrades": UPGRADES, "slow bodies": SLOW}
