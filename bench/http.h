// What the scripted node and the load generator share: the clock, the stamp that tells when a
// chunk was sent, waiting with nanosecond deadlines, and the framing of HTTP/1.1 messages.
#ifndef BENCH_HTTP_H
#define BENCH_HTTP_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SECOND INT64_C(1000000000)
// A stamp is '@' and the sender's monotonic clock in 19 digits. It is plain text inside
// `delta.content`, so it survives gateways that rewrite the JSON around it.
#define STAMP_DIGITS 19
#define STAMP_BYTES (1 + STAMP_DIGITS)

static inline int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

static inline void *checked(void *memory) {
    if (!memory) {
        perror("memory");
        exit(1);
    }
    return memory;
}

static inline void prepare_process(void) {
    struct rlimit files;
    signal(SIGPIPE, SIG_IGN);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    prctl(PR_SET_TIMERSLACK, 1UL);       // the default lets every wait end 50 us late
    prctl(PR_SET_PDEATHSIG, SIGTERM);    // never outlive the driver
}

// Wait for events until `wake_ns`; a wait in nanoseconds that needs no newer libc than poll does.
static inline int wait_events(int ep, struct epoll_event *events, int room, int64_t wake_ns) {
    int64_t left = wake_ns - now_ns();
    if (left > 0) {
        struct timespec t = {left / SECOND, left % SECOND};
        struct pollfd one = {.fd = ep, .events = POLLIN};
        if (ppoll(&one, 1, &t, NULL) <= 0) return 0;
    }
    return epoll_wait(ep, events, room, 0);
}

// ---------------------------------------------------------------------------------------- body

enum framing { BODY_NONE, BODY_LENGTH, BODY_CHUNKED, BODY_TO_EOF };
enum chunk_part { CHUNK_SIZE, CHUNK_EXTENSION, CHUNK_BYTES, CHUNK_END, TRAILER_START, TRAILER };

struct body {
    enum framing framing;
    enum chunk_part part;
    uint64_t left;
    bool done;
};

static inline int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

// One byte of chunked framing; false when it makes no sense.
static inline bool frame_byte(struct body *b, char c) {
    switch (b->part) {
    case CHUNK_SIZE:
        if (c == ';') b->part = CHUNK_EXTENSION;
        else if (c == '\n') b->part = b->left ? CHUNK_BYTES : TRAILER_START;
        else if (c != '\r') {
            if (hex_digit(c) < 0) return false;
            b->left = b->left * 16 + (uint64_t)hex_digit(c);
        }
        return true;
    case CHUNK_EXTENSION:
        if (c == '\n') b->part = b->left ? CHUNK_BYTES : TRAILER_START;
        return true;
    case CHUNK_END:
        if (c == '\n') b->part = CHUNK_SIZE;
        return true;
    case TRAILER_START:
        if (c == '\n') b->done = true;
        else if (c != '\r') b->part = TRAILER;
        return true;
    case TRAILER:
        if (c == '\n') b->part = TRAILER_START;
        return true;
    default:
        return false;
    }
}

// The next run of payload in `p`: `*data` and `*size` are set to it, possibly empty.
// Returns how many bytes were used, or -1 when the framing makes no sense.
static inline ptrdiff_t body_next(struct body *b, const char *p, size_t n, const char **data,
                                  size_t *size) {
    size_t used = 0;
    *size = 0;
    if (b->framing == BODY_CHUNKED) {
        while (used < n && !b->done && b->part != CHUNK_BYTES)
            if (!frame_byte(b, p[used++])) return -1;
        if (b->done || used == n) return (ptrdiff_t)used;
    }
    *data = p + used;
    *size = n - used;
    if (b->framing != BODY_TO_EOF) {
        if (*size > b->left) *size = b->left;
        b->left -= *size;
        if (!b->left && b->framing == BODY_CHUNKED) b->part = CHUNK_END;
        if (!b->left && b->framing == BODY_LENGTH) b->done = true;
    }
    return (ptrdiff_t)(used + *size);
}

// ---------------------------------------------------------------------------------------- head

struct head {
    bool close;     // the peer ends the connection after this message
    bool expects;   // it waits for "100 Continue"
    struct body body;
};

// What the lines of a complete head say about its message; `otherwise` frames a body of no known
// length.
static inline struct head read_head(const char *p, size_t n, enum framing otherwise) {
    struct head h = {.body.framing = otherwise};
    const char *end = p + n;
    for (p = memchr(p, '\n', n); p && ++p < end && *p != '\r'; p = memchr(p, '\n', (size_t)(end - p))) {
        if (!strncasecmp(p, "content-length:", 15)) {
            h.body.framing = BODY_LENGTH;
            h.body.left = strtoull(p + 15, NULL, 10);
        } else if (!strncasecmp(p, "transfer-encoding: chunked", 26)) {
            h.body.framing = BODY_CHUNKED;
            h.body.left = 0;
        } else if (!strncasecmp(p, "connection: close", 17)) {
            h.close = true;
        } else if (!strncasecmp(p, "expect:", 7)) {
            h.expects = true;
        }
    }
    h.body.done = h.body.framing == BODY_NONE || (h.body.framing == BODY_LENGTH && !h.body.left);
    return h;
}

#endif
