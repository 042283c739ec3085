// node.c: a scripted mistral.rs node that costs next to nothing, so that what is measured is the
// gateway in front of it. One thread, epoll, no allocation per chunk, no JSON parser.
//
//   node PORT
//
// It speaks what cortex and other routers need of a node: /health, /v1/models with status, the
// lifecycle calls, /v1/system/info, and chat completions, whole or streamed. `max_tokens` of the
// request is the number of chunks; the last one carries finish_reason and usage, as an engine's does.
// Every chunk carries the moment it was sent (see STAMP_BYTES in http.h).
//
//   GET /bench?pause_us=0&bytes=250    the pause between chunks and the size of their events, for
//                                      streams that begin from now on; answers with counters
#include "http.h"

#define MODEL "bench"
#define HEAD_MAX 16384
#define BODY_KEPT 8192    // fields are looked for in the first bytes of a body only
#define CHUNK_MAX 65536

struct conn {
    int fd;
    bool wants_out, ends;       // waits for room to write; closes after its answer
    size_t in_size, body_size;  // of `in` and `body_start`
    struct head head;
    bool in_body;
    enum { TO_CHAT, TO_MODELS, TO_LIFECYCLE, TO_INFO, TO_BENCH, TO_OTHER } route;
    // The stream it gets, if any.
    bool streams;
    long chunks, chunks_left;
    int64_t pause_ns, due_ns;
    int place;                  // in the timers, -1 when not in there
    char *out;                  // what the socket did not take yet
    size_t out_size, out_sent;
    char path[256];
    char body_start[BODY_KEPT];
    char in[HEAD_MAX];
};

static int ep;
static long pause_us = 0, event_bytes = 250;
static struct { uint64_t requests, streams, active, cut, chunks, connections, body_bytes; } seen;

// -------------------------------------------------------------------------------------- timers

static struct conn **timers;
static int timers_count, timers_room;

static void place(struct conn *c, int i) {
    timers[i] = c;
    c->place = i;
}

static void sift(struct conn *c, int i) {
    for (; i && timers[(i - 1) / 2]->due_ns > c->due_ns; i = (i - 1) / 2) place(timers[(i - 1) / 2], i);
    for (int child; (child = 2 * i + 1) < timers_count; i = child) {
        if (child + 1 < timers_count && timers[child + 1]->due_ns < timers[child]->due_ns) child++;
        if (timers[child]->due_ns >= c->due_ns) break;
        place(timers[child], i);
    }
    place(c, i);
}

static void timer_add(struct conn *c) {
    if (timers_count == timers_room) {
        timers_room = timers_room ? 2 * timers_room : 1024;
        timers = checked(realloc(timers, (size_t)timers_room * sizeof *timers));
    }
    sift(c, timers_count++);
}

static void timer_drop(struct conn *c) {
    if (c->place < 0) return;
    struct conn *last = timers[--timers_count];
    if (last != c) sift(last, c->place);
    c->place = -1;
}

// ------------------------------------------------------------------------------------- answers

static char whole[4096];
static size_t whole_size;
static char event[CHUNK_MAX + 64];
static size_t event_size, event_stamp;
static long event_made_for = -1;

#define USAGE                                                                                     \
    "{\"completion_tokens\":%ld,\"prompt_tokens\":200,\"total_tokens\":%ld,\"avg_tok_per_sec\":85.3," \
    "\"avg_prompt_tok_per_sec\":1420.5,\"avg_compl_tok_per_sec\":62.1,\"total_time_sec\":3.75,"   \
    "\"total_prompt_time_sec\":0.14,\"total_completion_time_sec\":3.61}"
#define EVENT_START "data: {\"id\":\"7\",\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"content\":\""
#define EVENT_END                                                                               \
    "\",\"role\":\"assistant\"},\"logprobs\":null}],\"created\":1787000000,\"model\":\"" MODEL \
    "\",\"system_fingerprint\":\"local\",\"object\":\"chat.completion.chunk\"}\n\n"

static void make_whole(void) {
    char body[3072], text[640];
    for (size_t i = 0; i < sizeof text; i++) text[i] = "words of an answer, "[i % 20];
    int size = snprintf(body, sizeof body,
        "{\"id\":\"7\",\"object\":\"chat.completion\",\"created\":1787000000,\"model\":\"" MODEL "\","
        "\"system_fingerprint\":\"local\",\"choices\":[{\"index\":0,\"finish_reason\":\"stop\","
        "\"message\":{\"role\":\"assistant\",\"content\":\"%.*s\",\"tool_calls\":null},"
        "\"logprobs\":null}],\"usage\":" USAGE "}", (int)sizeof text, text, 120L, 320L);
    whole_size = (size_t)snprintf(whole, sizeof whole,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s", size, body);
}

// One event in its chunk, padded to the wanted size; only the stamp changes from then on.
static void make_event(void) {
    size_t bare = strlen(EVENT_START) + STAMP_BYTES + strlen(EVENT_END);
    size_t size = (size_t)event_bytes < bare ? bare : (size_t)event_bytes;
    if (size > CHUNK_MAX) size = CHUNK_MAX;
    char *p = event;
    p += sprintf(p, "%zx\r\n%s", size, EVENT_START);
    event_stamp = (size_t)(p - event);
    memset(p, ' ', size - bare + STAMP_BYTES);
    p += size - bare + STAMP_BYTES;
    p += sprintf(p, "%s\r\n", EVENT_END);
    event_size = (size_t)(p - event);
    event_made_for = event_bytes;
}

static void stamp_event(int64_t t) {
    char *p = event + event_stamp;
    *p = '@';
    for (int i = STAMP_DIGITS; i; i--, t /= 10) p[i] = (char)('0' + t % 10);
}

static void close_conn(struct conn *c) {
    if (c->streams) {
        seen.cut++;
        seen.active--;
    }
    timer_drop(c);
    close(c->fd);
    free(c->out);
    free(c);
    seen.connections--;
}

static void listen_for_room(struct conn *c, bool on) {
    if (c->wants_out == on) return;
    struct epoll_event e = {.events = EPOLLIN | (on ? EPOLLOUT : 0), .data.ptr = c};
    c->wants_out = on;
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
}

// Send, or keep what the socket does not take; false when the peer is gone.
static bool say(struct conn *c, const char *p, size_t n) {
    if (!c->out_size) {
        ssize_t sent = send(c->fd, p, n, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) return false;
        if (sent > 0) {
            p += sent;
            n -= (size_t)sent;
        }
        if (!n) return true;
    }
    c->out = checked(realloc(c->out, c->out_size + n));
    memcpy(c->out + c->out_size, p, n);
    c->out_size += n;
    listen_for_room(c, true);
    return true;
}

static bool say_rest(struct conn *c) {
    while (c->out_sent < c->out_size) {
        ssize_t sent = send(c->fd, c->out + c->out_sent, c->out_size - c->out_sent, MSG_NOSIGNAL);
        if (sent < 0) return errno == EAGAIN;
        c->out_sent += (size_t)sent;
    }
    c->out_size = c->out_sent = 0;
    listen_for_room(c, false);
    if (c->streams && c->place < 0) timer_add(c);
    return true;
}

static bool say_json(struct conn *c, const char *body) {
    char answer[2048];
    int n = snprintf(answer, sizeof answer,
                     "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s",
                     strlen(body), body);
    return say(c, answer, (size_t)n);
}

static bool say_stream_end(struct conn *c) {
    char last[1024], framed[1100];
    int n = snprintf(last, sizeof last,
        "data: {\"id\":\"7\",\"choices\":[{\"finish_reason\":\"stop\",\"index\":0,\"delta\":{\"content\":\"\","
        "\"role\":\"assistant\"},\"logprobs\":null}],\"created\":1787000000,\"model\":\"" MODEL "\","
        "\"system_fingerprint\":\"local\",\"object\":\"chat.completion.chunk\",\"usage\":" USAGE "}\n\n",
        c->chunks, c->chunks + 200);
    n = snprintf(framed, sizeof framed, "%x\r\n%s\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n", (unsigned)n, last);
    c->streams = false;
    seen.active--;
    return say(c, framed, (size_t)n);
}

// The chunk that is due; false when the peer is gone.
static bool say_chunk(struct conn *c, int64_t t) {
    if (c->chunks_left) {
        if (event_made_for != event_bytes) make_event();
        stamp_event(t);
        c->chunks_left--;
        seen.chunks++;
        if (!say(c, event, event_size)) return false;
    }
    if (!c->chunks_left) return say_stream_end(c);
    c->due_ns = c->pause_ns ? c->due_ns + c->pause_ns : t;
    if (!c->out_size) timer_add(c);   // a full socket ends the pause, see say_rest
    return true;
}

// ------------------------------------------------------------------------------------ requests

static const char *find(const char *p, size_t n, const char *what) {
    const char *at = memmem(p, n, what, strlen(what));
    return at ? at + strlen(what) : NULL;
}

// The number after `key`, whatever separates them.
static long number(const char *p, size_t n, const char *key, long otherwise) {
    const char *at = find(p, n, key), *end = p + n;
    while (at && at < end && strchr("\": =", *at)) at++;
    return at && at < end && *at >= '0' && *at <= '9' ? strtol(at, NULL, 10) : otherwise;
}

static bool wants_stream(const struct conn *c) {
    const char *p = find(c->body_start, c->body_size, "\"stream\":");
    while (p && *p == ' ') p++;
    return p && !strncmp(p, "true", 4);
}

static bool begin_stream(struct conn *c) {
    static const char head[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
                               "cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";
    c->chunks = number(c->body_start, c->body_size, "\"max_tokens\"", -1);
    if (c->chunks < 0) c->chunks = number(c->body_start, c->body_size, "\"max_completion_tokens\"", 200);
    c->chunks_left = c->chunks;
    c->pause_ns = pause_us * 1000;
    c->due_ns = now_ns();
    c->streams = true;
    seen.streams++;
    seen.active++;
    if (!say(c, head, sizeof head - 1)) return false;
    timer_add(c);
    return true;
}

static bool say_bench(struct conn *c) {
    char body[512];
    pause_us = number(c->path, strlen(c->path), "pause_us=", pause_us);
    event_bytes = number(c->path, strlen(c->path), "bytes=", event_bytes);
    snprintf(body, sizeof body,
             "{\"requests\":%lu,\"streams\":%lu,\"active\":%lu,\"cut\":%lu,\"chunks\":%lu,"
             "\"connections\":%lu,\"body_bytes\":%lu}",
             seen.requests, seen.streams, seen.active, seen.cut, seen.chunks, seen.connections,
             seen.body_bytes);
    return say_json(c, body);
}

static bool answer(struct conn *c) {
    seen.requests++;
    c->body_start[c->body_size] = 0;
    switch (c->route) {
    case TO_CHAT:
        return wants_stream(c) ? begin_stream(c) : say(c, whole, whole_size);
    case TO_MODELS:
        return say_json(c, "{\"object\":\"list\",\"data\":[{\"id\":\"default\",\"object\":\"model\","
                           "\"created\":1787000000,\"owned_by\":\"local\"},{\"id\":\"" MODEL
                           "\",\"object\":\"model\",\"created\":1787000000,\"owned_by\":\"local\","
                           "\"status\":\"loaded\"}]}");
    case TO_LIFECYCLE:
        return say_json(c, "{\"model_id\":\"" MODEL "\",\"status\":\"loaded\"}");
    case TO_INFO:
        return say_json(c, "{\"devices\":[{\"kind\":\"cuda\",\"ordinal\":0,\"name\":\"scripted\","
                           "\"total_memory_bytes\":51539607552,\"available_memory_bytes\":25769803776}],"
                           "\"build\":{\"version\":\"0.9.2\",\"cuda\":true}}");
    case TO_BENCH:
        return say_bench(c);
    default:   // health, and what routers ask of an engine before they believe in it
        return say_json(c, "{\"status\":\"ok\",\"model_path\":\"" MODEL "\",\"served_model_name\":\"" MODEL
                           "\",\"tp_size\":1,\"dp_size\":1,\"version\":\"0\"}");
    }
}

static bool begins(const char *p, const char *with) { return !strncmp(p, with, strlen(with)); }

static bool take_head(struct conn *c, size_t size) {
    const char *path = memchr(c->in, ' ', size);
    if (!path++) return false;
    size_t length = strcspn(path, " \r\n");
    if (length >= sizeof c->path) return false;
    memcpy(c->path, path, length);
    c->path[length] = 0;
    c->route = begins(c->path, "/v1/chat/completions") ? TO_CHAT
        : begins(c->path, "/v1/models/")               ? TO_LIFECYCLE
        : begins(c->path, "/v1/models")                ? TO_MODELS
        : begins(c->path, "/v1/system/info")           ? TO_INFO
        : begins(c->path, "/bench")                    ? TO_BENCH
                                                       : TO_OTHER;
    c->head = read_head(c->in, size, BODY_NONE);
    c->ends = c->head.close;
    c->body_size = 0;
    c->in_body = true;
    return !c->head.expects || say(c, "HTTP/1.1 100 Continue\r\n\r\n", 25);
}

// Payload of a request; only its start is kept.
static void take_body(struct conn *c, const char *p, size_t n) {
    size_t room = BODY_KEPT - 1 - c->body_size;
    seen.body_bytes += n;
    if (n > room) n = room;
    memcpy(c->body_start + c->body_size, p, n);
    c->body_size += n;
}

// Bytes of a request; false when the connection has to end.
static bool take(struct conn *c, const char *p, size_t n) {
    for (;;) {
        if (!c->in_body) {
            size_t room = HEAD_MAX - 1 - c->in_size, before = c->in_size, part = n < room ? n : room;
            memcpy(c->in + c->in_size, p, part);
            c->in_size += part;
            char *end = memmem(c->in, c->in_size, "\r\n\r\n", 4);
            if (!end) return part == n;   // else the head is too long
            size_t size = (size_t)(end - c->in) + 4, used = size - before;
            c->in[end - c->in + 3] = 0;
            if (!take_head(c, size - 1)) return false;
            c->in_size = 0;
            p += used;
            n -= used;
        }
        while (n && !c->head.body.done) {
            const char *data;
            size_t size;
            ptrdiff_t used = body_next(&c->head.body, p, n, &data, &size);
            if (used < 0) return false;
            if (size) take_body(c, data, size);
            p += used;
            n -= (size_t)used;
        }
        if (!c->head.body.done) return true;
        c->in_body = false;
        if (!answer(c) || (c->ends && !c->streams && !c->out_size)) return false;
        if (!n) return true;
    }
}

// ---------------------------------------------------------------------------------------- loop

static char input[262144];

static void on_event(struct conn *c, uint32_t events) {
    if (events & EPOLLOUT && !say_rest(c)) {
        close_conn(c);
        return;
    }
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR))) return;
    ssize_t n = recv(c->fd, input, sizeof input, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0 || !take(c, input, (size_t)n)) close_conn(c);
}

static void welcome(int listener) {
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        struct conn *c = checked(calloc(1, sizeof *c));
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        c->fd = fd;
        c->place = -1;
        epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
        seen.connections++;
    }
}

static int listen_on(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (fd < 0 || bind(fd, (void *)&at, sizeof at) || listen(fd, 4096)) {
        perror("node: listen");
        exit(1);
    }
    return fd;
}

static void run_timers(void) {
    int64_t t = now_ns();
    // Bounded by those that were there: a stream without a pause is due again at once.
    for (int left = timers_count; left && timers_count && timers[0]->due_ns <= t; left--) {
        struct conn *c = timers[0];
        timer_drop(c);
        bool alive = say_chunk(c, now_ns());
        if (!alive || (c->ends && !c->streams && !c->out_size)) close_conn(c);
    }
}

int main(int argc, char **argv) {
    static struct epoll_event events[512];
    if (argc != 2) {
        fprintf(stderr, "usage: node PORT\n");
        return 2;
    }
    prepare_process();
    make_whole();
    int listener = listen_on(atoi(argv[1]));
    ep = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(ep, EPOLL_CTL_ADD, listener, &(struct epoll_event){.events = EPOLLIN, .data.ptr = NULL});
    for (;;) {
        int count = wait_events(ep, events, 512, timers_count ? timers[0]->due_ns : now_ns() + SECOND);
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr) on_event(events[i].data.ptr, events[i].events);
            else welcome(listener);
        }
        run_timers();
    }
}
