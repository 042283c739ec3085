"""Bodies that are no JSON, are two things at once, or are bombs (RFC 8259)."""

import gzip
import zlib

from tests.hostile.corpus.case import A, Case, S, post, said

MESSAGES = b"POST /v1/messages HTTP/1.1"
_GOOD = said()
_END = b'"messages":[{"role":"user","content":"' + A + b'"}]}'
_TWICE = "RFC 8259, 4: readers differ on the second of two, so it is refused"


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def _padded(start: bytes, end: bytes = _END) -> bytes:
    """Above the size that is parsed whole: this one is scanned."""
    return start + b'"pad":"' + b"x" * 300_000 + b'",' + end


INVALID = [
    *(
        Case(
            f"invalid-large-{number}",
            post(body=_padded(b'{"model":"m1",' + field + b",")),
            "400",
            f"scanned, and no JSON all the same; {why}",
            "",
        )
        for number, (field, why) in enumerate(
            [
                (b'"t":NaN', "NaN"),
                (b'"t":-Infinity', "Infinity"),
                (b'"t":[NaN]', "NaN, nested"),
                (b'"t":[' + b"0," * 5_000 + b"Infinity]", "Infinity, far in"),
                (b'"t":[' + b'"",' * 5_000 + b"NaN," + b"0," * 5_000 + b"0]", "NaN, amid"),
                (b'"n":NaN', "NaN where a number is read"),
                (b'"t":True', "another language's literal"),
                (b'"t":/**/1', "a comment"),
            ]
        )
    ),
    *(
        Case(f"invalid-{number}", post(body=body), "400", f"RFC 8259; {why}", "")
        for number, (body, why) in enumerate(
            [
                (b"", "nothing"),
                (b" ", "white space"),
                (b"null", "no object"),
                (b"[]", "no object"),
                (b'"m1"', "no object"),
                (b"1", "no object"),
                (b"{}", "no model"),
                (b"{", "cut"),
                (b"{" + _GOOD, "a bracket too many"),
                (_GOOD + b"}", "a bracket too many"),
                (_GOOD + b"x", "something behind it"),
                (_GOOD + _GOOD, "two objects"),
                (_GOOD + b"\x00", "a NUL behind it"),
                (_GOOD + b"//", "a comment"),
                (b"/**/" + _GOOD, "a comment"),
                (b"\xef\xbb\xbf" + _GOOD, "a byte order mark"),
                (_GOOD.decode().encode("utf-16"), "UTF-16"),
                (_GOOD.decode().encode("utf-16-le"), "UTF-16"),
                (_GOOD.decode().encode("utf-16-be"), "UTF-16"),
                (_GOOD.decode().encode("utf-32"), "UTF-32"),
                (b"{'model':'m1'," + _END, "single quotes"),
                (b'{model:"m1",' + _END, "a bare key"),
                (b'{"model":"m1",' + _END[:-1] + b",}", "a comma too many"),
                (b'{"model":"m1",,' + _END, "a comma too many"),
                (b'{"model":"m1" ' + _END, "a comma too few"),
                (b'{"model" "m1",' + _END, "a colon too few"),
                (b'{"model":"m1","t":NaN,' + _END, "NaN"),
                (b'{"model":"m1","t":Infinity,' + _END, "Infinity"),
                (b'{"model":"m1","t":-Infinity,' + _END, "Infinity"),
                (b'{"model":"m1","t":01,' + _END, "a leading zero"),
                (b'{"model":"m1","t":+1,' + _END, "a sign"),
                (b'{"model":"m1","t":.5,' + _END, "no digit before the point"),
                (b'{"model":"m1","t":0x1,' + _END, "hexadecimal"),
                (b'{"model":"m1","t":True,' + _END, "another language's literal"),
                (b'{"model":"m1","t":undefined,' + _END, "another language's literal"),
                (b'{"model":"m1","t":"a\nb",' + _END, "a line end in a string"),
                (b'{"model":"m1","t":"a\x00b",' + _END, "a NUL in a string"),
                (b'{"model":"m1","t":"a\tb",' + _END, "a tab in a string"),
                (b'{"model":"m1","t":"\\x41",' + _END, "an unknown escape"),
                (b'{"model":"m1","t":"\\u12",' + _END, "an escape that is cut"),
                (b'{"model":"m1","t":"\\', "an escape that is cut"),
                (b'{"model":"m1","t":"\xff",' + _END, "no UTF-8"),
                (b'{"model":"m1","t":"\xc0\xaf",' + _END, "an overlong encoding"),
                (b'{"model":"m1","t":"\xed\xa0\x80",' + _END, "an encoded surrogate"),
                (b'{"model":"m1","t":"\xf4\x90\x80\x80",' + _END, "beyond Unicode"),
                (b'{"model":"m1","\xff":1,' + _END, "no UTF-8 in a key"),
                (b"[" * 100_000 + b"]" * 100_000, "deep, and no object"),
                (b'{"a":' * 20_000 + b"1" + b"}" * 20_000, "deep"),
                (
                    b'{"model":"m1","t":' + b"[" * 100_000 + b"]" * 100_000 + b"," + _END,
                    "deep within the size that is parsed whole",
                ),
                (b'{"model":"m1","t":' + b"[" * 120_000, "deep and never closed"),
                (
                    b'{"model":"m1","t":' + b"[" * 400_000 + b"]" * 400_000 + b"," + _END,
                    "deep within the size that is scanned",
                ),
                (b'{"a":' * 100_000, "deep and never closed, scanned"),
                (_GOOD[:-1] + b" " * 300_000, "cut, scanned"),
                (_GOOD + b" " * 300_000 + b"x", "something behind it, scanned"),
                (b" " * 300_000, "white space, scanned"),
                (b"\x00" * 300_000, "NULs, scanned"),
                (b"x" * 300_000, "a bare word, scanned"),
                (b'"' * 300_001, "strings, scanned"),
                (b"{" + b'"a":1,' * 60_000, "never closed, scanned"),
                (_padded(b'{"model":"m1",')[:-1], "cut, scanned"),
                (
                    b'{"model":"' + b"m" * 300_000 + b'",' + _END,
                    "a model's name without end, scanned",
                ),
                (b"a=b&model=m1", "a form"),
                (
                    b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
                    "XML",
                ),
                (
                    b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nm1\r\n--x--\r\n',
                    "a multipart form",
                ),
            ]
        )
    ),
]

MODEL_TWICE = [
    b'{"model":"m1","model":"m2",' + _END,
    b'{"model":"m2","model":"m1",' + _END,
    b'{"model":"m1","model":"m1",' + _END,
    b'{"model":"alias","model":"m1",' + _END,
    b'{"model":"m1","model":"alias",' + _END,
    b'{"model":"m1",' + _END[:-1] + b',"model":"m2"}',
    b'{"model":"m1","\\u006dodel":"m2",' + _END,
    b'{"\\u006dodel":"m2","model":"m1",' + _END,
    b'{"\\u006d\\u006f\\u0064\\u0065\\u006c":"m2","mode\\u006c":"m1",' + _END,
    b'{"model":"m1","\\u006Dodel":"m2",' + _END,
    b'{"model":null,"model":"m1",' + _END,
    b'{"model":"m1","model":null,' + _END,
    b'{"model":{"model":"m1"},"model":"m1",' + _END,
    b'{"model":1,"model":"m1",' + _END,
    _padded(b'{"model":"m2","model":"m1",'),
    _padded(b'{"model":"m1","\\u006dodel":"m2",'),
    _padded(b'{"model":"m1",', b'"model":"m2",' + _END),
]
STREAM_TWICE = [
    b'{"model":"m1","stream":false,"stream":true,' + _END,
    b'{"model":"m1","stream":true,"stream":true,' + _END,
    b'{"stream":null,"model":"m1","stream":true,' + _END,
    b'{"model":"m1","stream":true,"\\u0073tream":false,' + _END,
    b'{"model":"m1","s\\u0074\\u0072eam":true,"stre\\u0061m":false,' + _END,
    b'{"model":"m1","stream":{"stream":true},"stream":true,' + _END,
    _padded(b'{"model":"m1","stream":true,"stream":false,'),
    _padded(b'{"model":"m1","stream":true,', b'"stream":false,' + _END),
]
MODELS = [
    *(
        Case(f"model-{number}", post(body=b'{"model":' + value + b"," + _END), expect, why, "")
        for number, (value, expect, why) in enumerate(
            [
                (b"null", "400", "no name"),
                (b"1", "400", "no string"),
                (b"true", "400", "no string"),
                (b"[]", "400", "no string"),
                (b'["m1"]', "400", "no string"),
                (b'{"id":"m1"}', "400", "no string"),
                (b'""', "400", "empty"),
                (b'" "', "404", "another name"),
                (b'"m1 "', "404", "another name"),
                (b'" m1"', "404", "another name"),
                (b'"M1"', "404", "another name"),
                (b'"m1\\u0000"', "404", "a NUL"),
                (b'"\\u0000"', "404", "a NUL"),
                (b'"\\u001b[31mm1"', "404", "an escape"),
                (b'"m1\\r\\nX: y"', "404", "a line end"),
                (b'"\\ud800"', "400|404", "a lone surrogate"),
                (b'"m1\\udc00"', "400|404", "a lone surrogate"),
                (b'"\\ude00\\ud83d"', "400|404", "surrogates in the wrong order"),
                (b'"\\ufeffm1"', "404", "a byte order mark"),
                (b'"m\\u200b1"', "404", "a blank of no width"),
                ('"\uff4d1"'.encode(), "404", "a full-width letter"),
                (b'"../../etc/passwd"', "404", "a path"),
                (b'"http://evil.example/m1"', "404", "an address"),
                (b'"<script>alert(1)</script>"', "404", "markup"),
                (b'"\'; drop table requests; --"', "404", "SQL"),
                (b'"%s%n%d{0}{__class__}$(id)`id`"', "404", "formats"),
                (b'"' + b"m" * 100_000 + b'"', "404", "long"),
                (b'"' + b"\\u0041" * 30_000 + b'"', "404", "long"),
            ]
        )
    ),
    Case(
        "model-escaped-value",
        post(body=b'{"model":"\\u006d\\u0031",' + _END),
        "200",
        "RFC 8259, 7: the same name",
    ),
    Case(
        "model-escaped-key",
        post(body=b'{"\\u006dodel":"m1",' + _END),
        "200",
        "RFC 8259, 7: the same key",
    ),
    Case(
        "model-nested-only",
        post(body=b'{"x":{"model":"m1"},' + _END),
        "400",
        "not the body's own",
        "",
    ),
    Case(
        "model-nested-too",
        post(body=b'{"x":{"model":"m2"},"model":"m1",' + _END),
        "200",
        "the body's own counts",
    ),
    Case(
        "model-in-text",
        post(body=b'{"model":"m1","x":"\\"model\\":\\"m2\\"",' + _END),
        "200",
        "text is text",
    ),
    Case("model-alias", post(body=said(model=b"alias")), "200", "the node is sent the id"),
    Case(
        "model-twice-messages",
        post(body=b'{"model":"m2","model":"m1","max_tokens":5,' + _END, line=MESSAGES),
        "400",
        _TWICE,
        "",
    ),
    *(
        Case(f"{field}-twice-{number}", post(body=body), "400", _TWICE, "")
        for field, bodies in (("model", MODEL_TWICE), ("stream", STREAM_TWICE))
        for number, body in enumerate(bodies)
    ),
    Case(
        "stream-nested-too",
        post(body=b'{"x":{"stream":true},"model":"m1","stream":false,' + _END),
        "200",
        "the body's own counts",
    ),
    Case(
        "model-and-other-case",
        post(body=b'{"model":"m1","Model":"m2",' + _END),
        "200",
        "RFC 8259: keys are case-sensitive",
    ),
    Case(
        "stream-word",
        post(body=b'{"model":"m1","stream":"true",' + _END),
        "400",
        "no boolean",
        "",
    ),
    Case(
        "stream-number", post(body=b'{"model":"m1","stream":1,' + _END), "400", "no boolean", ""
    ),
    Case(
        "previous-response-surrogate",
        post(body=b'{"model":"m1","previous_response_id":"\\ud800",' + _END),
        "400",
        "no text",
        "",
    ),
    Case(
        "previous-response-surrogate-scanned",
        post(body=_padded(b'{"model":"m1","previous_response_id":"\\ud800",')),
        "400",
        "no text",
        "",
    ),
    Case(
        "previous-response-nul",
        post(body=b'{"model":"m1","previous_response_id":"\\u0000",' + _END),
        "400",
        "unknown",
        "",
    ),
    Case(
        "previous-response-long",
        post(body=b'{"model":"m1","previous_response_id":"' + b"r" * 100_000 + b'",' + _END),
        "400",
        "unknown",
        "",
    ),
    Case(
        "cache-key-surrogate-scanned",
        post(body=_padded(b'{"model":"m1","prompt_cache_key":"\\ud800",')),
        "200|400",
        "only a key of stickiness",
        None,
    ),
    Case(
        "model-surrogate-scanned",
        post(body=_padded(b'{"model":"m1\\ud800",')),
        "400|404",
        "a lone surrogate",
        "",
    ),
]

VALUES = [
    *(
        Case(
            f"value-{number}",
            post(body=b'{"model":"m1","x":' + value + b"," + _END),
            expect,
            why,
        )
        for number, (value, expect, why) in enumerate(
            [
                (b"1" * 400, "200|400", "a number beyond every type"),
                (b"1" * 5000, "200|400", "a number beyond what Python converts"),
                (b"1e400", "200|400", "a number beyond a double"),
                (b"-1e400", "200|400", "a number beyond a double"),
                (b"1e-400", "200|400", "a number below a double"),
                (b"1e999999999999999", "200|400", "an exponent beyond every type"),
                (b"0." + b"0" * 100_000 + b"1", "200|400", "digits without end"),
                (b"-0", "200", "a zero"),
                (b"18446744073709551616", "200|400", "2 to the 64th"),
                (b'"\\ud800"', "200|400", "a lone surrogate"),
                (b'"\\u0000"', "200", "a NUL, escaped"),
                (b'"' + b"\\\\" * 50_000 + b'"', "200", "backslashes"),
                (b'"' + b'\\"' * 50_000 + b'"', "200", "quotes"),
                (b'"\xf4\x8f\xbf\xbf"', "200", "the last code point"),
                (b"[" * 100 + b"]" * 100, "200", "deep within reason"),
                (b"[" + b"1," * 50_000 + b"1]", "200", "many numbers"),
                (
                    b"{" + b",".join(b'"k%d":0' % n for n in range(20_000)) + b"}",
                    "200",
                    "many keys",
                ),
                (
                    b"{" + b",".join(b'"k":0' for _ in range(20_000)) + b"}",
                    "200|400",
                    "one key many times: the node's to judge",
                ),
                (b'{"__proto__":{"a":1},"constructor":{}}', "200", "keys of another language"),
            ]
        )
    ),
    Case(
        "large", post(body=_padded(b'{"model":"m1",')), "200", "scanned, and sent on as it came"
    ),
    Case(
        "large-backslashes",
        post(body=b'{"model":"m1","x":"' + b"\\\\" * 200_000 + b'",' + _END),
        "200",
        "scanned in linear time",
    ),
    Case(
        "large-quotes",
        post(body=b'{"model":"m1","x":"' + b'\\"' * 200_000 + b'",' + _END),
        "200",
        "scanned in linear time",
    ),
    Case(
        "large-brackets",
        post(body=b'{"model":"m1","x":[' + b"[]," * 150_000 + b"[]]," + _END),
        "200",
        "scanned in linear time",
    ),
    Case(
        "large-keys",
        post(
            body=b'{"model":"m1",'
            + b",".join(b'"k%d":0' % n for n in range(50_000))
            + b","
            + _END
        ),
        "200",
        "scanned in linear time",
    ),
    Case(
        "beyond-limit",
        post(body=b'{"model":"m1","x":"' + b"x" * 2_200_000 + b'",' + _END),
        "413",
        "limits.max_body_mb",
        "",
    ),
    Case(
        "messages-deep",
        post(
            body=b'{"model":"m1","max_tokens":5,"messages":[{"role":"user","content":'
            + b"[" * 50_000
            + b"]" * 50_000
            + b"}]}",
            line=MESSAGES,
        ),
        "400",
        "deep, and to be translated",
        "",
    ),
    Case(
        "messages-deep-within-reason",
        post(
            body=b'{"model":"m1","max_tokens":5,"metadata":'
            + b"[" * 900
            + b"]" * 900
            + b","
            + _END,
            line=MESSAGES,
        ),
        "200|400",
        "deep, and to be translated",
    ),
    *(
        Case(
            f"messages-tool-deep-{depth}",
            post(
                body=b'{"model":"m1","max_tokens":5,"tools":[{"name":"t","input_schema":'
                + b'{"a":' * depth
                + b"{}"
                + b"}" * depth
                + b"}],"
                + _END,
                line=MESSAGES,
            ),
            "200|400",
            "deep, and to be translated and written again, which may recurse where reading did not",
        )
        for depth in (100, 500, *range(860, 1030, 10))
    ),
    Case(
        "messages-tool-deep",
        post(
            body=b'{"model":"m1","max_tokens":5,"tools":[{"name":"t","input_schema":'
            + b'{"a":' * 900
            + b"{}"
            + b"}" * 900
            + b"}],"
            + _END,
            line=MESSAGES,
        ),
        "200|400",
        "deep, and to be translated and written again",
    ),
    Case(
        "messages-surrogate",
        post(body=b'{"model":"m1","max_tokens":5,"system":"\\ud800",' + _END, line=MESSAGES),
        "200|400",
        "to be written again as UTF-8",
    ),
    Case(
        "messages-surrogate-scanned",
        post(body=_padded(b'{"model":"m1","max_tokens":5,"system":"\\ud800",'), line=MESSAGES),
        "200|400",
        "to be written again as UTF-8",
    ),
    Case(
        "messages-nan",
        post(body=b'{"model":"m1","max_tokens":5,"temperature":NaN,' + _END, line=MESSAGES),
        "400",
        "RFC 8259, 6",
        "",
    ),
    Case(
        "messages-huge-number",
        post(body=b'{"model":"m1","max_tokens":5,"temperature":1e400,' + _END, line=MESSAGES),
        "200|400",
        "a number beyond a double is not written as Infinity",
    ),
    Case(
        "messages-types",
        post(body=b'{"model":"m1","max_tokens":"x","messages":{"a":1}}', line=MESSAGES),
        "400",
        "every field is looked at",
        "",
    ),
    Case(
        "admin-deep",
        post(
            body=b"[" * 30_000 + b"]" * 30_000,
            line=b"POST /cortex/v1/models/load HTTP/1.1",
            host=b"Host: localhost\r\n",
        ),
        "400",
        "deep",
        "",
    ),
    Case(
        "admin-utf16",
        post(
            body='{"model":"m1"}'.encode("utf-16"),
            line=b"POST /cortex/v1/models/pin HTTP/1.1",
            host=b"Host: localhost\r\n",
        ),
        "400",
        "RFC 8259, 8.1: JSON is UTF-8",
        "",
    ),
    Case(
        "admin-surrogate",
        post(
            body=b'{"model":"\\ud800"}',
            line=b"POST /cortex/v1/models/pin HTTP/1.1",
            host=b"Host: localhost\r\n",
        ),
        "400|404",
        "no text",
        "",
    ),
    Case(
        "admin-node-surrogate",
        post(
            body=b'{"model":"m1","node":"\\ud800"}',
            line=b"POST /cortex/v1/models/pin HTTP/1.1",
            host=b"Host: localhost\r\n",
        ),
        "400|404",
        "no text",
        "",
    ),
    Case(
        "admin-too-large",
        post(
            body=b'{"model":"' + b"m" * 70_000 + b'"}',
            line=b"POST /cortex/v1/models/load HTTP/1.1",
            host=b"Host: localhost\r\n",
        ),
        "400|413",
        "64 KiB",
        "",
    ),
    Case(
        "admin-twice",
        post(
            body=b'{"model":"nope","model":"nope2"}',
            line=b"POST /cortex/v1/models/load HTTP/1.1",
            host=b"Host: localhost\r\n",
        ),
        "400|404",
        "one reader only",
        "",
    ),
]

_ZIP = b"Content-Encoding: gzip\r\n"
_BOMB = _gzip(b'{"model":"m1","x":"' + b"x" * 60_000_000 + b'"}')
ENCODINGS = [
    Case(
        "gzip", post(_ZIP, _gzip(_GOOD)), "200", "RFC 9110, 8.4: decoded, and sent on without"
    ),
    Case(
        "deflate",
        post(b"Content-Encoding: deflate\r\n", zlib.compress(_GOOD)),
        "200",
        "RFC 9110, 8.4.1.2",
    ),
    Case(
        "gzip-upper",
        post(b"Content-Encoding: GZIP\r\n", _gzip(_GOOD)),
        "200",
        "codings are case-insensitive",
    ),
    Case(
        "gzip-bomb",
        post(_ZIP, _BOMB),
        "413|400",
        "limits.max_body_mb counts what comes out",
        "",
    ),
    Case(
        "gzip-bomb-messages",
        post(_ZIP, _BOMB, line=MESSAGES),
        "413|400",
        "limits.max_body_mb counts what comes out",
        "",
    ),
    Case(
        "gzip-bomb-twice",
        post(b"Content-Encoding: gzip, gzip\r\n", _gzip(_BOMB)),
        "400|415",
        "one coding at most",
        "",
    ),
    Case(
        "gzip-bomb-admin",
        post(
            _ZIP,
            _gzip(b" " * 40_000_000),
            line=b"POST /cortex/v1/models/load HTTP/1.1",
            host=b"Host: localhost\r\n",
        ),
        "400|413",
        "64 KiB counts what comes out",
        "",
    ),
    Case("gzip-cut", post(_ZIP, _gzip(_GOOD)[:-30]), "400", "broken off", ""),
    Case("gzip-no-trailer", post(_ZIP, _gzip(_GOOD)[:-4]), "400|200", "broken off", None),
    Case(
        "gzip-bad-checksum",
        post(_ZIP, _gzip(_GOOD)[:-8] + b"\x00" * 8),
        "400",
        "what came is not what was sent",
        "",
    ),
    Case("gzip-not", post(_ZIP, _GOOD), "400", "no gzip", ""),
    Case("gzip-empty", post(_ZIP, b""), "400", "nothing", ""),
    Case(
        "gzip-surplus",
        post(_ZIP, _gzip(_GOOD) + b"xxxx"),
        "400|200",
        "something behind it",
        None,
    ),
    Case(
        "gzip-two-members",
        post(_ZIP, _gzip(_GOOD[:20]) + _gzip(_GOOD[20:])),
        "200|400",
        "RFC 1952, 2.2: members follow each other",
        None,
    ),
    Case(
        "gzip-smuggled",
        post(_ZIP, _gzip(_GOOD + post(body=said(S)))),
        "400",
        "what is inside is body",
        "",
    ),
    Case("deflate-not", post(b"Content-Encoding: deflate\r\n", _GOOD), "400", "no deflate", ""),
    Case(
        "unknown-encoding",
        post(b"Content-Encoding: rot13\r\n", _GOOD),
        "415|400|200",
        "read as it came, and nothing said of it to the node",
        None,
    ),
    Case(
        "identity-encoding", post(b"Content-Encoding: identity\r\n", _GOOD), "200", "no coding"
    ),
    Case(
        "encoding-twice", post(_ZIP + _ZIP, _gzip(_GOOD)), "200|400", "one coding at most", None
    ),
    Case(
        "encoding-conflict",
        post(_ZIP + b"Content-Encoding: deflate\r\n", _gzip(_GOOD)),
        "200|400",
        "one coding at most",
        None,
    ),
    Case(
        "accept-encoding",
        post(b"Accept-Encoding: gzip, br, zstd\r\n", _GOOD),
        "200",
        "the node is asked for none",
    ),
    *(
        Case(
            f"encoding-other-{number}",
            post(b"Content-Encoding: " + coding + b"\r\n", data),
            "400|415",
            why,
            "",
        )
        for number, (coding, data, why) in enumerate(
            [
                (b"br", b"\x8b\x00\x80", "a coding that may not be there, and no body of it"),
                (b"zstd", b"\x28\xb5\x2f\xfd", "a coding that may not be there, and cut"),
                (b"compress", b"\x1f\x9d\x90", "a coding nobody reads"),
                (b"x-gzip", _gzip(_GOOD), "an old name, not undone, so no JSON"),
                (b"gzip;q=1", _gzip(_GOOD), "no name of a coding, so no JSON"),
                (
                    b"deflate, gzip",
                    _gzip(zlib.compress(_GOOD)),
                    "one coding at most, so no JSON",
                ),
            ]
        )
    ),
]

GROUPS = {"invalid": INVALID, "models": MODELS, "values": VALUES, "encodings": ENCODINGS}
