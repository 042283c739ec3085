"""Where a body ends: every way to have two readers disagree (RFC 9112, 6 and 7)."""

from tests.hostile.corpus.case import SMUGGLED, A, B, Case, bare, chunked, get, post, said

_TE = b"Transfer-Encoding: chunked\r\n"
_BODY = said()
_N = b"%d" % len(_BODY)
_CHUNKS = chunked(_BODY)
_6_1 = "RFC 9112, 6.1: both headers are an attack, refuse or close"
_6_3 = "RFC 9112, 6.3: an invalid length cannot be recovered from"
_7_1 = "RFC 9112, 7.1: a chunk's size is hexadecimal digits, ended by CRLF"


def _both(te: bytes, cl: bytes = b"6") -> bytes:
    return bare(te + b"Content-Length: " + cl + b"\r\n", b"0\r\n\r\n" + SMUGGLED)


CONFLICTS = [
    Case("cl.te", bare(b"Content-Length: 6\r\n" + _TE, b"0\r\n\r\nG"), "400!", _6_1),
    Case("te.cl", _both(_TE), "400!", _6_1),
    Case(
        "cl-and-te-agree",
        bare(b"Content-Length: %d\r\n" % len(_CHUNKS) + _TE, _CHUNKS),
        "400!",
        _6_1,
    ),
    Case("te-cl-zero", _both(_TE, b"0"), "400!", _6_1),
    *(
        Case(f"te-cl-disguised-{number}", _both(te), "400!", f"{_6_1}; {why}")
        for number, (te, why) in enumerate(
            [
                (b"Transfer-Encoding: Chunked\r\n", "codings are case-insensitive"),
                (b"Transfer-Encoding: CHUNKED\r\n", "codings are case-insensitive"),
                (b"transfer-encoding: chunked\r\n", "names are case-insensitive"),
                (b"TRANSFER-ENCODING:chunked\r\n", "no blank is needed"),
                (b"Transfer-Encoding:\tchunked\r\n", "a tab is white space"),
                (b"Transfer-Encoding: chunked \r\n", "a blank behind it"),
                (b"Transfer-Encoding: chunked\t\r\n", "a tab behind it"),
                (b"Transfer-Encoding: \x0bchunked\r\n", "a vertical tab"),
                (b"Transfer-Encoding: xchunked\r\n", "an unknown coding"),
                (b"Transfer-Encoding: chunked, identity\r\n", "chunked is not last"),
                (b"Transfer-Encoding: identity, chunked\r\n", "identity is no coding"),
                (b"Transfer-Encoding: gzip, chunked\r\n", "a coding nobody reads"),
                (b"Transfer-Encoding: chunked, chunked\r\n", "chunked twice"),
                (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "two lines"),
                (b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", "two lines"),
                (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", "two lines"),
                (b'Transfer-Encoding: "chunked"\r\n', "quoted"),
                (b"Transfer-Encoding: chunked;q=1\r\n", "a parameter"),
                (b"Transfer-Encoding: 'chunked'\r\n", "quoted"),
                (b"Transfer-Encoding : chunked\r\n", "a blank before the colon"),
                (b"Transfer-Encoding\t: chunked\r\n", "a tab before the colon"),
                (b" Transfer-Encoding: chunked\r\n", "a blank before the name"),
                (b"X: y\r\n Transfer-Encoding: chunked\r\n", "a folded line"),
                (b"Transfer-Encoding:\r\n chunked\r\n", "a folded value"),
                (
                    b"Transfer_Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                    "underscore too",
                ),
                (b"X: y\nTransfer-Encoding: chunked\r\n", "behind a bare LF"),
                (b"X: y\rTransfer-Encoding: chunked\r\n", "behind a bare CR"),
                (b"X: y\x00\r\nTransfer-Encoding: chunked\r\n", "behind a NUL"),
                (b"Transfer-Encoding: chun\x00ked\r\n", "a NUL inside"),
                (b"Transfer-Encoding: chunked\x00\r\n", "a NUL at the end"),
                (b"Transfer-Encoding: \xffchunked\r\n", "a byte that is no text"),
                (b"Transfer-Encoding:\xa0chunked\r\n", "a no-break space"),
                (b"Transfer-Encoding: ,chunked\r\n", "an empty element"),
                (b"Transfer-Encoding: chunked,\r\n", "an empty element"),
                (b"Transfer-Encoding: \r\n", "empty"),
            ]
        )
    ),
]

TRANSFER_ENCODINGS = [
    Case("te-chunked", bare(_TE, _CHUNKS), "200", "the good case"),
    Case(
        "te-upper",
        bare(b"TRANSFER-ENCODING: CHUNKED\r\n", _CHUNKS),
        "200",
        "RFC 9112, 7: case-insensitive",
    ),
    Case(
        "te-split-everywhere",
        tuple(bytes([c]) for c in bare(_TE, _CHUNKS)),
        "200",
        "pieces mean nothing",
    ),
    Case("te-two-chunks", bare(_TE, chunked(_BODY[:9], _BODY[9:])), "200", "the good case"),
    *(
        Case(
            f"te-alone-{number}",
            bare(b"Transfer-Encoding: " + te + b"\r\n", _CHUNKS),
            "400!",
            why,
        )
        for number, (te, why) in enumerate(
            [
                (b"identity", "RFC 9112, 6.3: a request's last coding must be chunked"),
                (b"gzip", "RFC 9112, 6.3: a request's last coding must be chunked"),
                (b"xchunked", "an unknown coding"),
                (b"chunkedx", "an unknown coding"),
                (b"chunked, identity", "chunked is not last"),
                (b"chunked, gzip", "chunked is not last"),
                (b"chunked, chunked", "RFC 9112, 6.1: chunked must not be applied twice"),
                (b"gzip, chunked", "a coding that nobody here reads"),
                (b"identity, chunked", "identity is no coding any more"),
                (b"chun ked", "a blank inside"),
                (b"chunked;foo=bar", "parameters are not defined for chunked"),
                (b"", "an empty list of codings"),
                (b"\x0bchunked", "a vertical tab is no white space"),
                (b"chunked\x0c", "a form feed is no white space"),
            ]
        )
    ),
    Case(
        "te-twice",
        bare(_TE + _TE, _CHUNKS),
        "400!",
        "RFC 9112, 6.1: chunked must not be applied twice",
    ),
    Case(
        "te-http-1.0",
        post(_TE, _CHUNKS, line=b"POST /v1/chat/completions HTTP/1.0", length=False),
        "400!",
        "RFC 9112, 6.1: in HTTP/1.0 its framing is faulty",
    ),
]

LENGTHS = [
    Case("cl", post(), "200", "the good case"),
    Case(
        "cl-leading-zeros",
        bare(b"Content-Length: 000%s\r\n" % _N, _BODY),
        "200",
        "RFC 9110, 8.6: 1*DIGIT",
    ),
    Case(
        "cl-blanks-around",
        bare(b"Content-Length: \t %s \t\r\n" % _N, _BODY),
        "200",
        "RFC 9110, 5.5: OWS",
    ),
    Case(
        "cl-duplicate-same",
        bare(b"Content-Length: %s\r\nContent-Length: %s\r\n" % (_N, _N), _BODY),
        "400!",
        _6_3,
    ),
    Case(
        "cl-duplicate-other",
        bare(b"Content-Length: %s\r\nContent-Length: 5\r\n" % _N, _BODY),
        "400!",
        _6_3,
    ),
    Case(
        "cl-duplicate-other-first",
        bare(b"Content-Length: 5\r\nContent-Length: %s\r\n" % _N, _BODY),
        "400!",
        _6_3,
    ),
    Case(
        "cl-duplicate-in-case",
        bare(b"Content-Length: 5\r\ncontent-length: %s\r\n" % _N, _BODY),
        "400!",
        _6_3,
    ),
    Case(
        "cl-then-te-smuggling",
        bare(b"Content-Length: 0\r\n", SMUGGLED),
        "400 200",
        "an empty body is no JSON; what follows is another request, not smuggled",
        "S",
    ),
    *(
        Case(
            f"cl-odd-{number}",
            bare(b"Content-Length: " + cl + b"\r\n", _BODY),
            "400!",
            f"{_6_3}; {why}",
        )
        for number, (cl, why) in enumerate(
            [
                (b"+" + _N, "a sign"),
                (b"-" + _N, "a sign"),
                (b"-1", "negative"),
                (b"-0", "a sign"),
                (b"0x" + b"%x" % len(_BODY), "hexadecimal"),
                (b"%x" % 0xABC, "hexadecimal without a prefix"),
                (_N + b", " + _N, "a list"),
                (_N + b",", "an empty element"),
                (b", " + _N, "an empty element"),
                (_N + b" " + _N, "two numbers"),
                (_N[:1] + b" " + _N[1:], "a blank inside"),
                (_N[:1] + b"_" + _N[1:], "an underscore, which Python's int takes"),
                (_N + b".0", "a fraction"),
                (_N + b"e0", "an exponent"),
                (_N + b";", "a semicolon"),
                (b'"' + _N + b'"', "quoted"),
                (b"", "empty"),
                (b" ", "blank"),
                (b"x", "no number"),
                (b"\xd9\xa1\xd9\xa2", "digits of another script, which Python's int takes"),
                (b"\xc2\xb2", "a superscript digit"),
                (_N + b"\x00", "a NUL"),
                (b"\x0b" + _N, "a vertical tab"),
                (b"18446744073709551616", "2 to the 64th"),
                (b"9" * 4400, "beyond what Python converts"),
                (b"NaN", "no number"),
                (b"Infinity", "no number"),
            ]
        )
    ),
    Case(
        "cl-huge",
        bare(b"Content-Length: 9223372036854775807\r\n", _BODY),
        "413|400!",
        "beyond max_body_mb, said before it is read",
    ),
    Case(
        "cl-64-bits",
        bare(b"Content-Length: 18446744073709551615\r\n", _BODY),
        "413|400!",
        "beyond max_body_mb, said before it is read",
    ),
    Case(
        "cl-beyond-limit",
        bare(b"Content-Length: 3000000\r\n", _BODY),
        "413",
        "beyond max_body_mb, said before it is read",
    ),
    Case(
        "cl-underscore",
        bare(b"Content_Length: %s\r\n" % _N, _BODY),
        "400!",
        "another header: no body, and what follows is no request",
    ),
    Case(
        "cl-space-before-colon",
        bare(b"Content-Length : %s\r\n" % _N, _BODY),
        "400!",
        "RFC 9112, 5.1",
    ),
    Case(
        "cl-folded",
        bare(b"Content-Length:\r\n %s\r\n" % _N, _BODY),
        "400!",
        "RFC 9112, 5.2: obs-fold",
    ),
    Case(
        "cl-none",
        post(length=False),
        "400!",
        "no body without a length; what follows is no request",
    ),
    Case(
        "body-shorter",
        post()[:-5],
        "waits",
        "the rest may come; nothing goes to the node before",
    ),
    Case(
        "body-longer",
        post() + b"xxxxx",
        "200 400!|400!",
        "the surplus is a bad request; refused with it when both are read at once",
    ),
    Case(
        "body-longer-crlf",
        post() + b"\r\n\r\n" + post(body=said(B)),
        "200 200",
        "RFC 9112, 2.2: empty lines before a request are skipped",
    ),
    Case(
        "get-with-body",
        b"GET /health HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nGET " + post(),
        "200 200",
        "a GET's body is read over, and is no request",
        "A",
    ),
    Case(
        "get-with-smuggled-body",
        b"GET /health HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s"
        % (len(SMUGGLED), SMUGGLED),
        "200",
        "the body of a GET is not the next request",
        "",
    ),
    Case(
        "get-with-chunked-body",
        b"GET /health HTTP/1.1\r\nHost: h\r\n" + _TE + b"\r\n" + chunked(SMUGGLED),
        "200",
        "the body of a GET is not the next request",
        "",
    ),
    Case(
        "refused-with-smuggled-body",
        b"POST /nowhere HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s"
        % (len(SMUGGLED), SMUGGLED),
        "404",
        "the body of a refused request is not the next one",
        "",
    ),
    Case(
        "405-with-smuggled-body",
        b"PUT /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s"
        % (len(SMUGGLED), SMUGGLED),
        "405",
        "the body of a refused request is not the next one",
        "",
    ),
    Case(
        "400-with-smuggled-body",
        post(body=SMUGGLED),
        "400",
        "a body that is no JSON is still a body",
        "",
    ),
    Case(
        "413-with-smuggled-body",
        bare(b"Content-Length: 3000000\r\n", SMUGGLED),
        "413",
        "the start of a body that is too large is not the next request",
        "",
    ),
    Case(
        "head-request",
        b"HEAD /health HTTP/1.1\r\nHost: h\r\n\r\n" + get(),
        "200 200",
        "an answer to HEAD has no body",
        "",
    ),
]

CHUNKS = [
    *(
        Case(f"chunk-good-{number}", bare(_TE, chunks), "200", why)
        for number, (chunks, why) in enumerate(
            [
                (b"%X\r\n%s\r\n0\r\n\r\n" % (len(_BODY), _BODY), "upper case"),
                (b"000%x\r\n%s\r\n0\r\n\r\n" % (len(_BODY), _BODY), "leading zeros"),
                (b"%x\r\n%s\r\n000\r\n\r\n" % (len(_BODY), _BODY), "several zeros"),
                (
                    b"%x;a=b\r\n%s\r\n0;c\r\n\r\n" % (len(_BODY), _BODY),
                    "RFC 9112, 7.1.1: extensions are read over",
                ),
                (b'%x;a="b;c"\r\n%s\r\n0\r\n\r\n' % (len(_BODY), _BODY), "a quoted extension"),
                (
                    _CHUNKS[:-2] + b"X-Trailer: y\r\n\r\n",
                    "RFC 9112, 7.1.2: trailers are read over",
                ),
            ]
        )
    ),
    Case(
        "trailer-content-length",
        bare(_TE, _CHUNKS[:-2] + b"Content-Length: 5\r\n\r\n"),
        "200|400!",
        "RFC 9110, 6.5.1: a trailer frames nothing",
    ),
    Case(
        "trailer-te",
        bare(_TE, _CHUNKS[:-2] + b"Transfer-Encoding: chunked\r\n\r\n"),
        "200|400!",
        "RFC 9110, 6.5.1: a trailer frames nothing",
    ),
    Case(
        "trailer-authorization",
        bare(_TE, _CHUNKS[:-2] + b"Authorization: Bearer x\r\n\r\n"),
        "200|400!",
        "RFC 9110, 6.5.1: not as a header",
    ),
    Case(
        "trailer-smuggled",
        bare(_TE, _CHUNKS + SMUGGLED),
        "200 200",
        "what follows the last chunk is a request, seen once",
        "AS",
    ),
    *(
        Case(f"chunk-odd-{number}", bare(_TE, chunks), "400!", f"{_7_1}; {why}")
        for number, (chunks, why) in enumerate(
            [
                (b"0x%x\r\n%s\r\n0\r\n\r\n" % (len(_BODY), _BODY), "a prefix"),
                (b"+%x\r\n%s\r\n0\r\n\r\n" % (len(_BODY), _BODY), "a sign"),
                (b"-%x\r\n%s\r\n0\r\n\r\n" % (len(_BODY), _BODY), "a sign"),
                (b" %x\r\n%s\r\n0\r\n\r\n" % (len(_BODY), _BODY), "a blank before it"),
                (b"%x \r\n%s\r\n0\r\n\r\n" % (len(_BODY), _BODY), "a blank behind it"),
                (b"\t%x\r\n%s\r\n0\r\n\r\n" % (len(_BODY), _BODY), "a tab before it"),
                (b"%x\n%s\r\n0\r\n\r\n" % (len(_BODY), _BODY), "a bare LF behind the size"),
                (b"%x\r%s\r\n0\r\n\r\n" % (len(_BODY), _BODY), "a bare CR behind the size"),
                (b"%x\r\n%s\n0\r\n\r\n" % (len(_BODY), _BODY), "a bare LF behind the data"),
                (b"%x\r\n%s\r0\r\n\r\n" % (len(_BODY), _BODY), "a bare CR behind the data"),
                (b"%x\r\n%s0\r\n\r\n" % (len(_BODY), _BODY), "nothing behind the data"),
                (b"%x\r\n%sxx0\r\n\r\n" % (len(_BODY), _BODY), "other bytes behind the data"),
                (b"%x;\x00\r\n%s\r\n0\r\n\r\n" % (len(_BODY), _BODY), "a NUL in an extension"),
                (b"%x;a=b\n%s\r\n0\r\n\r\n" % (len(_BODY), _BODY), "an extension ended by LF"),
                (
                    b"%x;a\rb\r\n%s\r\n0\r\n\r\n" % (len(_BODY), _BODY),
                    "a bare CR in an extension",
                ),
                (
                    b"%x_0\r\n%s\r\n0\r\n\r\n" % (len(_BODY), _BODY),
                    "an underscore, which Python's int takes",
                ),
                (b"\r\n%s\r\n0\r\n\r\n" % _BODY, "no size"),
                (b";a=b\r\n%s\r\n0\r\n\r\n" % _BODY, "no size but an extension"),
                (b"g\r\n%s\r\n0\r\n\r\n" % _BODY, "no digit"),
                (b"fffffffffffffffff\r\n%s\r\n0\r\n\r\n" % _BODY, "beyond 64 bits"),
                (b"10000000000000000\r\n%s\r\n0\r\n\r\n" % _BODY, "2 to the 64th"),
                (b"\xef\xbc\x95\r\n%s\r\n0\r\n\r\n" % _BODY, "a digit of another script"),
                (_CHUNKS[:-2] + b"X : y\r\n\r\n", "a bad trailer"),
                (_CHUNKS[:-2] + b"no colon\r\n\r\n", "a bad trailer"),
                (_CHUNKS[:-2] + b"X: a\r\n b\r\n\r\n", "a folded trailer"),
                (_CHUNKS[:-2] + b"X: a\r\n" * 20_000 + b"\r\n", "trailers without end"),
            ]
        )
    ),
    Case(
        "trailer-endless",
        bare(_TE, _CHUNKS[:-2] + b"X: " + b"a" * 70_000 + b"\r\n\r\n"),
        "400!|431!",
        f"{_7_1}; a trailer without end",
    ),
    # Laxer than could be: the parser reads over both without keeping them, and the body's time bounds them.
    Case(
        "chunk-zeros",
        bare(_TE, b"%s%x\r\n%s\r\n0\r\n\r\n" % (b"0" * 70_000, len(_BODY), _BODY)),
        "200|400!",
        "zeros without end",
    ),
    Case(
        "chunk-extension-long",
        bare(_TE, b"%x;%s\r\n%s\r\n0\r\n\r\n" % (len(_BODY), b"a" * 70_000, _BODY)),
        "200|400!",
        "an extension without end",
    ),
    Case(
        "chunk-size-huge",
        bare(_TE, b"7fffffffffffffff\r\n" + _BODY),
        "waits",
        "nothing is reserved for what is announced",
    ),
    Case("chunk-unfinished", bare(_TE, _CHUNKS[:-5]), "waits", "no last chunk, no request"),
    Case(
        "chunk-last-unfinished",
        bare(_TE, _CHUNKS[:-2]),
        "waits",
        "no end of the trailers, no request",
    ),
    Case(
        "chunk-zero-first",
        bare(_TE, b"0\r\n\r\n" + post(body=said(A))),
        "400 200",
        "an empty body is no JSON; what follows is the next request",
        "A",
    ),
    Case(
        "chunks-of-one-byte",
        bare(_TE, chunked(*(bytes([c]) for c in _BODY))),
        "200",
        "many small chunks are one body",
    ),
    Case(
        "chunks-beyond-limit",
        bare(_TE, chunked(*[b" " * 60_000] * 40)),
        "413",
        "beyond max_body_mb, as it comes",
    ),
    Case(
        "chunks-endless",
        bare(_TE, chunked(*[b" " * 60_000] * 40, last=b"")),
        "413",
        "an endless body ends at max_body_mb",
    ),
]

GROUPS = {
    "conflicts": CONFLICTS,
    "transfer encodings": TRANSFER_ENCODINGS,
    "lengths": LENGTHS,
    "chunks": CHUNKS,
}
