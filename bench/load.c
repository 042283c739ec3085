// load.c: the load generator. One thread, epoll, HTTP/1.1 with connections kept open.
//
//   load --url http://127.0.0.1:8000/v1/chat/completions --seconds 4 [options]
//
//   closed loop   --connections N: each asks again as soon as it has its answer
//   open loop     --rate R: a request every 1/R s, whatever the answers do; latency counts from the
//                 moment a request was due, so waiting for a free connection is part of it
//   held streams  --hold: N streams opened over --ramp seconds and kept open to the end; measured once
//                 all of them have come, or --patience seconds later
//
// --stream asks for streams of --chunks chunks; the age of each chunk is read from its stamp.
// --body-bytes adds that much base64 image to the question. A line "measuring" is printed when
// that begins, and at the end one JSON object, times in microseconds.
#include "http.h"

#include <getopt.h>

#define HEAD_MAX 8192
#define CARRY_MAX 32                    // no mark that is looked for is longer
#define LONGEST_NS (10 * SECOND)         // that a closed loop waits for its first answer
#define RETRY_NS (20 * SECOND / 1000)   // between two attempts to connect

enum state { UNUSED, IDLE, CONNECTING, SENDING, IN_HEAD, IN_BODY, BROKEN };

struct conn {
    int fd;
    enum state state;
    bool wants_out, reused, ended;      // `ended`: the stream said that it is complete
    int status;
    size_t sent, head_size, carried;
    long chunks;
    int64_t due_ns, last_ns, retry_ns;
    struct head head;
    char carry[CARRY_MAX];              // the end of what was read: marks may be split
    char in[HEAD_MAX];
};

static struct {
    struct sockaddr_in at;
    char host[128], path[256], headers[2048];
    const char *model;
    int connections;
    double seconds, warmup, ramp, rate, patience;
    bool stream, hold, anthropic;
    long chunks, prompt_bytes, body_bytes;
} want = {.model = "bench", .connections = 1, .seconds = 4, .warmup = 0.5, .chunks = 100, .prompt_bytes = 500};

static struct { uint64_t ok, chunks, bytes, status, connection, truncated, reconnects; int last_status; } seen;
static char *request;
static size_t request_size;
static struct conn *conns;
static int ep;
static int64_t measure_from_ns, measure_to_ns;
static const char *stream_end;

// ----------------------------------------------------------------------------------- histogram

#define STEPS 64    // per power of two: values are kept to 1.6 %

struct histogram { uint64_t count, slots[64 * STEPS]; int64_t highest; double sum; };
static struct histogram latency, first_chunk, chunk_age;

static void note(struct histogram *h, int64_t ns) {
    if (ns < 0) ns = 0;
    int power = ns < STEPS ? 0 : 57 - __builtin_clzll((uint64_t)ns) + 1;
    size_t slot = power ? (size_t)power * STEPS + (size_t)(ns >> (power - 1)) - STEPS : (size_t)ns;
    h->slots[slot]++;
    h->count++;
    h->sum += (double)ns;
    if (ns > h->highest) h->highest = ns;
}

static double quantile_us(const struct histogram *h, double q) {
    uint64_t left = (uint64_t)(q * (double)h->count);
    for (size_t slot = 0; slot < 64 * STEPS; slot++) {
        if (h->slots[slot] > left) {
            size_t power = slot / STEPS;
            double low = power ? (double)((uint64_t)(slot % STEPS + STEPS) << (power - 1)) : (double)slot;
            return low / 1e3;
        }
        left -= h->slots[slot];
    }
    return (double)h->highest / 1e3;
}

static void print_histogram(const char *name, const struct histogram *h) {
    if (!h->count) {
        printf(",\"%s\":null", name);
        return;
    }
    printf(",\"%s\":{\"count\":%lu,\"mean\":%.1f,\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"p999\":%.1f,\"max\":%.1f}",
           name, h->count, h->sum / (double)h->count / 1e3, quantile_us(h, 0.5), quantile_us(h, 0.9),
           quantile_us(h, 0.99), quantile_us(h, 0.999), (double)h->highest / 1e3);
}

static bool measured(int64_t t) { return t >= measure_from_ns && t < measure_to_ns; }

// -------------------------------------------------------------------------- requests under way

// Requests of the open loop that no connection was free for, by the moment they were due.
static int64_t *waiting;
static size_t waiting_first, waiting_count, waiting_room, waiting_most;
static int *idle, idle_count;

static void send_request(struct conn *c);

static void watch(struct conn *c, int operation, bool out) {
    struct epoll_event e = {.events = EPOLLIN | (out ? EPOLLOUT : 0), .data.ptr = c};
    c->wants_out = out;
    epoll_ctl(ep, operation, c->fd, &e);
}

static void hang_up(struct conn *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
}

static void fail(struct conn *c, uint64_t *kind) {
    hang_up(c);
    ++*kind;
    c->state = BROKEN;
    c->retry_ns = now_ns() + RETRY_NS;
}

static void open_conn(struct conn *c) {
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    c->reused = false;
    c->sent = 0;
    if (c->fd < 0 || (connect(c->fd, (void *)&want.at, sizeof want.at) && errno != EINPROGRESS)) {
        fail(c, &seen.connection);
        return;
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    c->state = CONNECTING;
    watch(c, EPOLL_CTL_ADD, true);
}

static void ask(struct conn *c, int64_t due_ns) {
    c->due_ns = due_ns;
    c->sent = c->head_size = c->carried = 0;
    c->chunks = 0;
    c->status = 0;
    c->ended = false;
    if (c->fd < 0) {
        open_conn(c);
    } else {
        c->reused = true;
        send_request(c);
    }
}

static void ask_next(struct conn *c) {
    int64_t t = now_ns();
    if (t >= measure_to_ns) {
        c->state = IDLE;
    } else if (want.rate <= 0) {
        ask(c, t);
    } else if (waiting_count) {
        int64_t due_ns = waiting[waiting_first];
        waiting_first = (waiting_first + 1) % waiting_room;
        waiting_count--;
        ask(c, due_ns);
    } else {
        c->state = IDLE;
        idle[idle_count++] = (int)(c - conns);
    }
}

// A kept connection that was closed before our request arrived is nobody's failure.
static bool reopen(struct conn *c) {
    if (!c->reused || c->head_size) return false;
    hang_up(c);
    seen.reconnects++;
    open_conn(c);
    return true;
}

static void send_request(struct conn *c) {
    c->state = SENDING;
    while (c->sent < request_size) {
        ssize_t n = send(c->fd, request + c->sent, request_size - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            if (!c->wants_out) watch(c, EPOLL_CTL_MOD, true);
            return;
        }
        if (n < 0) {
            if (!reopen(c)) fail(c, &seen.connection);
            return;
        }
        c->sent += (size_t)n;
    }
    if (c->wants_out) watch(c, EPOLL_CTL_MOD, false);
    c->state = IN_HEAD;
}

static void answered(struct conn *c, int64_t t) {
    if (c->status < 200 || c->status > 299) {
        seen.status++;
        seen.last_status = c->status;
    } else if (want.stream && (want.hold || !c->ended || c->chunks != want.chunks)) {
        seen.truncated++;
    } else if (measured(t)) {
        seen.ok++;
        note(&latency, t - c->due_ns);
    }
    if (c->head.close) {
        hang_up(c);
        seen.reconnects++;
    }
    ask_next(c);
}

// -------------------------------------------------------------------------------------- chunks

static void stamped(struct conn *c, const char *digits, int64_t t) {
    int64_t sent_ns = 0;
    for (int i = 0; i < STAMP_DIGITS; i++) {
        if (digits[i] < '0' || digits[i] > '9') return;
        sent_ns = sent_ns * 10 + (digits[i] - '0');
    }
    if (measured(t)) {
        if (!c->chunks) note(&first_chunk, t - c->due_ns);
        note(&chunk_age, t - sent_ns);
        seen.chunks++;
    }
    c->chunks++;
    c->last_ns = t;
}

// Every mark that begins before `until` and is whole within `n`, unless it was whole within `old`.
static void find_marks(struct conn *c, const char *p, size_t n, size_t until, size_t old, int64_t t) {
    size_t end_size = strlen(stream_end);
    for (const char *at = p; (at = memchr(at, '@', until - (size_t)(at - p))); at++) {
        size_t whole = (size_t)(at - p) + STAMP_BYTES;
        if (whole <= n && whole > old) stamped(c, at + 1, t);
        if ((size_t)(at - p) + 1 >= until) break;
    }
    // The end is in the last bytes or nowhere, so that the rest need not be searched.
    size_t tail = n < 96 ? n : 96;
    if (!c->ended && memmem(p + n - tail, tail, stream_end, end_size)) c->ended = true;
}

static void take_data(struct conn *c, const char *p, size_t n, int64_t t) {
    if (measured(t)) seen.bytes += n;
    if (!want.stream) return;
    if (c->carried) {
        char seam[2 * CARRY_MAX];
        size_t more = n < CARRY_MAX ? n : CARRY_MAX;
        memcpy(seam, c->carry, c->carried);
        memcpy(seam + c->carried, p, more);
        find_marks(c, seam, c->carried + more, c->carried, c->carried, t);
    }
    find_marks(c, p, n, n, 0, t);
    size_t keep = n < CARRY_MAX ? n : CARRY_MAX, older = CARRY_MAX - keep;
    if (older > c->carried) older = c->carried;
    memmove(c->carry, c->carry + c->carried - older, older);
    memcpy(c->carry + older, p + n - keep, keep);
    c->carried = older + keep;
}

// Bytes of an answer; sets `used`, and is false when more than this one connection can go on with.
static bool take_head(struct conn *c, const char *p, size_t n, size_t *used) {
    size_t room = HEAD_MAX - 1 - c->head_size, part = n < room ? n : room, before = c->head_size;
    memcpy(c->in + c->head_size, p, part);
    c->head_size += part;
    *used = part;
    char *end = memmem(c->in, c->head_size, "\r\n\r\n", 4);
    if (!end) return part == n;
    *used = (size_t)(end - c->in) + 4 - before;
    c->in[end - c->in + 3] = 0;
    c->status = c->head_size > 12 ? atoi(c->in + 9) : 0;
    if (c->status == 100) {
        c->head_size = 0;
        return true;
    }
    c->head = read_head(c->in, (size_t)(end - c->in) + 3, BODY_TO_EOF);
    if (c->status == 204) c->head.body.done = true;
    c->state = IN_BODY;
    return true;
}

static void take(struct conn *c, const char *p, size_t n, int64_t t) {
    while (n && c->state == IN_HEAD) {
        size_t used;
        if (!take_head(c, p, n, &used)) {
            fail(c, &seen.truncated);
            return;
        }
        p += used;
        n -= used;
    }
    if (c->state != IN_BODY) return;
    while (n && !c->head.body.done) {
        const char *data;
        size_t size;
        ptrdiff_t used = body_next(&c->head.body, p, n, &data, &size);
        if (used < 0) {
            fail(c, &seen.truncated);
            return;
        }
        if (size) take_data(c, data, size, t);
        p += used;
        n -= (size_t)used;
    }
    if (c->head.body.done) answered(c, t);
}

static void closed(struct conn *c, int64_t t) {
    if (c->state == IDLE) {
        hang_up(c);
        seen.reconnects++;
    } else if (c->state == IN_BODY && c->head.body.framing == BODY_TO_EOF) {
        c->head.close = true;
        answered(c, t);
    } else if (c->state == IN_BODY || !reopen(c)) {
        fail(c, c->state == IN_BODY ? &seen.truncated : &seen.connection);
    }
}

static void on_event(struct conn *c, uint32_t events) {
    static char input[262144];
    if (c->state == CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) fail(c, &seen.connection);
        else if (events & EPOLLOUT) send_request(c);
        return;
    }
    if (c->state == SENDING && events & EPOLLOUT) send_request(c);
    if (c->fd < 0 || !(events & (EPOLLIN | EPOLLHUP | EPOLLERR))) return;
    ssize_t n = recv(c->fd, input, sizeof input, 0);
    int64_t t = now_ns();
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        closed(c, t);
        return;
    }
    if (c->state == SENDING) {   // an answer before the end of the question: a refusal
        c->state = IN_HEAD;
        watch(c, EPOLL_CTL_MOD, false);
        take(c, input, (size_t)n, t);
        c->head.close = true;
        return;
    }
    take(c, input, (size_t)n, t);
}

// --------------------------------------------------------------------------------------- start

static void fill(char **p, long n, const char *from) {
    size_t period = strlen(from);
    for (long i = 0; i < n; i++) *(*p)++ = from[(size_t)i % period];
}

static void write_request(void) {
    size_t room = (size_t)(want.prompt_bytes + want.body_bytes) + 8192;
    char *body = checked(malloc(room)), *p = body;
    // A held stream is asked for just enough chunks to outlast the run, so that a gateway which
    // does not cancel its node's work is not still at it in the next measurement.
    p += sprintf(p, "{\"model\":\"%s\",", want.model);
    if (want.chunks) p += sprintf(p, "\"max_tokens\":%ld,", want.chunks);
    if (want.stream) p += sprintf(p, "\"stream\":true,");
    if (want.stream && !want.anthropic) p += sprintf(p, "\"stream_options\":{\"include_usage\":true},");
    p += sprintf(p, "%s\"messages\":[%s{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"",
                 want.anthropic ? "\"system\":\"Answer briefly.\"," : "",
                 want.anthropic ? "" : "{\"role\":\"system\",\"content\":\"Answer briefly.\"},");
    fill(&p, want.prompt_bytes, "How does a gateway spread its load over nodes? ");
    p += sprintf(p, "\"}");
    if (want.body_bytes) {
        p += sprintf(p, ",{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:image/png;base64,");
        fill(&p, want.body_bytes, "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk");
        p += sprintf(p, "\"}}");
    }
    p += sprintf(p, "]}]}");
    size_t size = (size_t)(p - body);
    request = checked(malloc(size + 4096));
    request_size = (size_t)sprintf(request,
        "POST %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nAccept: */*\r\n"
        "Content-Type: application/json\r\n%sContent-Length: %zu\r\n\r\n",
        want.path, want.host, want.headers, size);
    memcpy(request + request_size, body, size);
    request_size += size;
    free(body);
}

static bool read_url(const char *url) {
    int port = 80, used = 0;
    char ip[64];
    if (sscanf(url, "http://%63[0-9.]:%d%n", ip, &port, &used) != 2) return false;
    snprintf(want.host, sizeof want.host, "%s:%d", ip, port);
    snprintf(want.path, sizeof want.path, "%s", url[used] ? url + used : "/");
    want.at.sin_family = AF_INET;
    want.at.sin_port = htons((uint16_t)port);
    return inet_pton(AF_INET, ip, &want.at.sin_addr) == 1;
}

static bool read_options(int argc, char **argv) {
    static const struct option options[] = {
        {"url", 1, 0, 'u'}, {"model", 1, 0, 'm'}, {"header", 1, 0, 'H'}, {"connections", 1, 0, 'c'},
        {"seconds", 1, 0, 's'}, {"warmup", 1, 0, 'w'}, {"ramp", 1, 0, 'a'}, {"rate", 1, 0, 'r'},
        {"patience", 1, 0, 'P'}, {"stream", 0, 0, 'S'}, {"hold", 0, 0, 'h'}, {"anthropic", 0, 0, 'A'},
        {"chunks", 1, 0, 'n'}, {"prompt-bytes", 1, 0, 'p'}, {"body-bytes", 1, 0, 'b'}, {0}};
    bool url = false;
    for (int k; (k = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        size_t used = strlen(want.headers);
        switch (k) {
        case 'u': url = read_url(optarg); break;
        case 'm': want.model = optarg; break;
        case 'H': snprintf(want.headers + used, sizeof want.headers - used, "%s\r\n", optarg); break;
        case 'c': want.connections = atoi(optarg); break;
        case 's': want.seconds = atof(optarg); break;
        case 'w': want.warmup = atof(optarg); break;
        case 'a': want.ramp = atof(optarg); break;
        case 'r': want.rate = atof(optarg); break;
        case 'P': want.patience = atof(optarg); break;
        case 'S': want.stream = true; break;
        case 'h': want.hold = want.stream = true; break;
        case 'A': want.anthropic = true; break;
        case 'n': want.chunks = atol(optarg); break;
        case 'p': want.prompt_bytes = atol(optarg); break;
        case 'b': want.body_bytes = atol(optarg); break;
        default: return false;
        }
    }
    return url && want.connections > 0 && want.seconds > 0;
}

// ---------------------------------------------------------------------------------------- loop

static int opened;
static int64_t next_due_ns;

// Ask what is due by `t`; returns when to look again.
static int64_t ask_due(int64_t started_ns, int64_t t) {
    int64_t wake_ns = t + 5 * SECOND / 1000;
    if (want.rate > 0) {
        for (; next_due_ns <= t && next_due_ns < measure_to_ns; next_due_ns += (int64_t)(1e9 / want.rate)) {
            if (idle_count) {
                ask(&conns[idle[--idle_count]], next_due_ns);
            } else if (waiting_count < waiting_room) {
                waiting[(waiting_first + waiting_count++) % waiting_room] = next_due_ns;
                if (waiting_count > waiting_most) waiting_most = waiting_count;
            }
        }
        return next_due_ns < wake_ns ? next_due_ns : wake_ns;
    }
    int due = want.connections;
    if (want.hold && want.ramp > 0) {
        double part = (double)(t - started_ns) / (want.ramp * 1e9);
        if (part < 1) due = (int)(part * want.connections) + 1;
    }
    while (opened < due) ask(&conns[opened++], t);
    return opened < want.connections ? t + SECOND / 1000 : wake_ns;
}

static int count_conns(bool (*is)(const struct conn *)) {
    int count = 0;
    for (int i = 0; i < want.connections; i++) count += is(&conns[i]);
    return count;
}

static bool busy(const struct conn *c) { return c->state >= CONNECTING && c->state <= IN_BODY; }

static bool alive(const struct conn *c) {
    return c->state == IN_BODY && c->chunks && now_ns() - c->last_ns < 3 * SECOND;
}

static void measure_from(int64_t t) {
    measure_from_ns = t;
    measure_to_ns = t + (int64_t)(want.seconds * 1e9);
}

// Begin to measure when it is time; held streams that are still to come put it off until `latest_ns`.
static bool begin(int64_t t, int64_t latest_ns) {
    if (t < measure_from_ns) return false;
    if (want.hold && t < latest_ns && count_conns(alive) < want.connections) {
        measure_from(t + SECOND / 20);
        return false;
    }
    measure_from(t);
    printf("measuring\n");
    fflush(stdout);
    return true;
}

// Until the end of the measured time. Where nothing at all was answered, for the machine was busy elsewhere, a
// rate of 0 would say nothing: a closed loop goes on for as long again.
static bool goes_on(int64_t t) {
    bool closed_loop = !want.hold && want.rate <= 0;
    if (t >= measure_to_ns && closed_loop && !seen.ok && t < measure_from_ns + LONGEST_NS)
        measure_to_ns = t + (int64_t)(want.seconds * 1e9);
    // The open loop may wait a second for what it asked at the very end.
    return t < measure_to_ns + (want.rate > 0 ? SECOND : 0);
}

static void run(void) {
    static struct epoll_event events[512];
    bool begun = false;
    int64_t started_ns = now_ns(), mended_ns = started_ns;
    measure_from(started_ns + (int64_t)((want.warmup + (want.hold ? want.ramp : 0)) * 1e9));
    int64_t latest_ns = measure_from_ns + (int64_t)(want.patience * 1e9);
    next_due_ns = started_ns;
    for (int64_t t; t = now_ns(), !begun || goes_on(t);) {
        begun = begun || begin(t, latest_ns);
        if (t >= measure_to_ns && !count_conns(busy)) break;
        int64_t wake_ns = ask_due(started_ns, t);
        if (t - mended_ns > RETRY_NS) {
            mended_ns = t;
            for (int i = 0; i < want.connections; i++)
                if (conns[i].state == BROKEN && conns[i].retry_ns < t) ask_next(&conns[i]);
        }
        int count = wait_events(ep, events, 512, wake_ns);
        for (int i = 0; i < count; i++) {
            struct conn *c = events[i].data.ptr;
            if (c->fd >= 0) on_event(c, events[i].events);
        }
    }
}

static void report(void) {
    struct rusage used;
    int live = want.stream ? count_conns(alive) : 0;
    getrusage(RUSAGE_SELF, &used);
    double cpu_s = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec)
                 + (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    double measured_s = (double)(measure_to_ns - measure_from_ns) / 1e9;
    uint64_t errors = seen.status + seen.connection + seen.truncated;
    printf("{\"connections\":%d,\"seconds\":%.3f,\"answers\":%lu,\"answers_per_s\":%.2f,\"errors\":%lu,"
           "\"bad_status\":%lu,\"last_status\":%d,\"bad_connection\":%lu,\"truncated\":%lu,\"reconnects\":%lu,"
           "\"live\":%d,\"late\":%zu,\"waiting_most\":%zu,\"chunks\":%lu,\"chunks_per_s\":%.1f,\"bytes\":%lu,"
           "\"request_bytes\":%zu,\"cpu_s\":%.4f",
           want.connections, measured_s, seen.ok, (double)seen.ok / measured_s, errors, seen.status,
           seen.last_status, seen.connection, seen.truncated, seen.reconnects, live, waiting_count,
           waiting_most, seen.chunks, (double)seen.chunks / measured_s, seen.bytes, request_size, cpu_s);
    print_histogram("latency_us", &latency);
    print_histogram("first_chunk_us", &first_chunk);
    print_histogram("chunk_age_us", &chunk_age);
    printf("}\n");
}

int main(int argc, char **argv) {
    if (!read_options(argc, argv)) {
        fprintf(stderr, "usage: load --url http://IP:PORT/PATH [options]; see the head of load.c\n");
        return 2;
    }
    prepare_process();
    write_request();
    stream_end = want.anthropic ? "\"message_stop\"" : "[DONE]";
    conns = checked(calloc((size_t)want.connections, sizeof *conns));
    idle = checked(malloc((size_t)want.connections * sizeof *idle));
    waiting_room = 1 << 20;
    waiting = checked(malloc(waiting_room * sizeof *waiting));
    ep = epoll_create1(EPOLL_CLOEXEC);
    for (int i = want.connections - 1; i >= 0; i--) {
        conns[i].fd = -1;
        if (want.rate > 0) {
            conns[i].state = IDLE;
            idle[idle_count++] = i;
        }
    }
    run();
    report();
    return 0;
}
