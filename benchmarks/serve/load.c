/* Load for a server on this machine, in one thread that costs little of the cores it shares.
 *
 *   load REQUESTS --port P [--connections N] [--seconds S] [--warmup S] [--rate R] [--ordered]
 *        [--timeout S] [--grace S] [--patience S] [--within MS]
 *
 * Without --rate a closed loop: every connection asks again as soon as it is answered. With it an
 * open loop: request k is due at k / R, whatever became of those before it, goes to a connection
 * that is free or the first to become so, and its latency counts from when it was due. A request
 * that found no connection within --patience is given up (`unsent`).
 *
 * REQUESTS are whole HTTP requests, each after two numbers of 4 bytes (its lane, its length) in the
 * byte order of this machine. Connection i sends those of lane i modulo the lanes, over and over;
 * with --ordered it sends each of them once, the next only after a 2xx: what was shed (429, 503) or
 * lost with its connection is sent again, anything else ends the lane.
 *
 * Prints one JSON object. Only 127.0.0.1 is ever spoken to. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "counts.h"
#include "requests.h"
#include "response.h"

enum { RECEIVED = 1 << 18 };
static const uint64_t PAUSE = 50000000ull;

enum state { CLOSED, CONNECTING, IDLE, SENDING, WAITING, PAUSED };
struct connection {
    int fd, number, resent;
    enum state state;
    struct lane *lane;
    struct request *current; /* NULL: none to be answered */
    size_t written;
    uint64_t due, sent, wake, answers, received;
    struct response answer;
};

static int port, connections = 64;
static double seconds = 10, warmup, rate, timeout = 10, grace = 10, patience = 1e9, within = 100;
static struct connection *all;
static int *idle, idle_first, idle_count, epoll;
static uint64_t scheduled;
static volatile sig_atomic_t stopped;

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

static void stop(int number) {
    (void)number;
    stopped = 1;
}

/* ---- connections ---- */

static void connect_again(struct connection *one) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int yes = 1;
    one->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (one->fd < 0) fail("socket");
    setsockopt(one->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET};
    event.data.u32 = (uint32_t)one->number;
    one->state = CONNECTING;
    one->answers = 0;
    int failed = connect(one->fd, (struct sockaddr *)&address, sizeof address);
    if (failed && errno != EINPROGRESS) {
        seen.refused++;
        close(one->fd);
        one->state = CLOSED;
        one->wake = now_ns() + PAUSE;
    } else if (epoll_ctl(epoll, EPOLL_CTL_ADD, one->fd, &event)) {
        fail("epoll_ctl");
    }
}

static void close_down(struct connection *one, uint64_t wake) {
    if (one->state == IDLE) { /* leaves the queue of idle ones */
        for (int kept = 0, place = 0, all_idle = idle_count; place < all_idle; place++) {
            int number = idle[(idle_first + place) % connections];
            if (number == one->number) idle_count--;
            else idle[(idle_first + kept++) % connections] = number;
        }
    }
    close(one->fd);
    one->fd = -1;
    one->state = CLOSED;
    one->wake = wake;
}

static void lost(struct connection *one, uint64_t now, uint64_t *why);

static void write_on(struct connection *one, uint64_t now) {
    while (one->written < one->current->length) {
        size_t left = one->current->length - one->written;
        ssize_t done = send(one->fd, one->current->data + one->written, left, MSG_NOSIGNAL);
        if (done < 0 && errno == EAGAIN) return;
        if (done < 0) {
            lost(one, now, &seen.dropped);
            return;
        }
        one->written += (size_t)done;
    }
    one->state = WAITING;
}

/* Sends `current`, new or once more. */
static void ask(struct connection *one, uint64_t now) {
    one->written = one->received = 0;
    one->sent = now;
    one->state = SENDING;
    start_response(&one->answer);
    write_on(one, now);
}

static int begin_request(struct connection *one, uint64_t due, uint64_t now) {
    one->current = next_request(one->lane);
    if (!one->current) return 0;
    one->due = due;
    one->resent = 0;
    flying++;
    ask(one, now);
    return 1;
}

/* What a connection does that has nothing to be answered, or has it to be asked again. */
static void go_on(struct connection *one, uint64_t now) {
    if (one->current) {
        ask(one, now);
    } else if (rate > 0 || now >= end) {
        one->state = IDLE;
        idle[(idle_first + idle_count++) % connections] = one->number;
    } else if (!begin_request(one, now, now)) {
        one->state = IDLE; /* an ordered lane at its end: it is never taken again */
        idle[(idle_first + idle_count++) % connections] = one->number;
    }
}

static void given_up(struct connection *one) {
    one->current = NULL;
    flying--;
}

/* A connection that broke. A request on one that the server had closed meanwhile is sent again, as
   any client would; an ordered one always is; any other is lost, and counted in `why`. */
static void lost(struct connection *one, uint64_t now, uint64_t *why) {
    int stale = one->answers && !one->received && !one->resent && why == &seen.dropped;
    if (one->current) {
        if (stale) {
            one->resent = 1;
            seen.resent++;
        } else {
            (*why)++;
            if (!ordered) given_up(one);
        }
    }
    close_down(one, stale ? now : now + PAUSE / 10);
}

static void count_answer(struct connection *one, uint64_t now) {
    int status = one->answer.status, good = status >= 200 && status < 300;
    if (good && now >= measured && now < end) {
        seen.rate_good++;
        seen.in_time += (double)(now - one->due) <= within * 1e6;
    }
    if (good) seen.per_second[(now - begin) / SECOND]++;
    if (one->due < measured) return;
    seen.status[status]++;
    if (good) add(&seen.good, now - one->due), add(&seen.good_sent, now - one->sent);
    if (status == 429 || status == 503) add(&seen.shed, now - one->due);
}

static void answered(struct connection *one, uint64_t now) {
    int status = one->answer.status, good = status >= 200 && status < 300;
    int again = ordered && (status == 429 || status == 503);
    one->answers++;
    count_answer(one, now);
    if (good) one->lane->acknowledged++;
    if (ordered && !good && !again) one->lane->ended = 1;
    seen.pauses += (uint64_t)again;
    if (!again) given_up(one);
    if (one->answer.close_after) {
        one->state = WAITING;
        close_down(one, again ? now + PAUSE : now);
    } else if (again) {
        one->state = PAUSED;
        one->wake = now + PAUSE;
    } else {
        go_on(one, now);
    }
}

static void read_on(struct connection *one, uint64_t now) {
    static char buffer[RECEIVED];
    for (;;) {
        ssize_t got = recv(one->fd, buffer, sizeof buffer, 0);
        if (got < 0 && errno == EAGAIN) return;
        if (got <= 0) {
            lost(one, now, &seen.dropped);
            return;
        }
        seen.bytes += (uint64_t)got;
        one->received += (uint64_t)got;
        if (!one->current || take(&one->answer, buffer, (size_t)got)) {
            lost(one, now, &seen.nonsense);
            return;
        }
        if (one->answer.phase == DONE) {
            one->answer.close_after |= one->state == SENDING; /* it would not hear the rest */
            answered(one, now);
            if (one->state == CLOSED) return;
        }
        if (got < (ssize_t)sizeof buffer) return; /* all there was: more comes with a new event */
    }
}

static void handle(struct connection *one, uint32_t events, uint64_t now) {
    if (one->state == CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        if (!(events & (EPOLLOUT | EPOLLERR | EPOLLHUP))) return;
        getsockopt(one->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) {
            seen.refused++;
            close_down(one, now + PAUSE);
            return;
        }
        go_on(one, now);
    } else if (one->state == SENDING && (events & EPOLLOUT)) {
        write_on(one, now);
    }
    if (one->state == CLOSED || one->state == CONNECTING) return;
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLERR | EPOLLHUP)) read_on(one, now);
    /* A server that is gone may leave bytes to read before the end that follows them. */
    if (one->state != CLOSED && events & (EPOLLRDHUP | EPOLLERR | EPOLLHUP)) read_on(one, now);
}

/* ---- the run ---- */

static void send_due(uint64_t now) {
    uint64_t last = now < end ? now : end;
    for (;;) {
        uint64_t due = begin + (uint64_t)((double)scheduled * 1e9 / rate);
        if (due >= end || due > last) return;
        if ((double)(now - due) > patience * 1e9) {
            seen.unsent += due >= measured;
            scheduled++;
        } else if (idle_count) {
            struct connection *one = all + idle[idle_first];
            idle_first = (idle_first + 1) % connections;
            idle_count--;
            one->state = WAITING;
            scheduled += (uint64_t)begin_request(one, due, now); /* else its lane is at its end */
        } else {
            return;
        }
    }
}

static void housekeeping(uint64_t now) {
    for (int number = 0; number < connections; number++) {
        struct connection *one = all + number;
        if (one->state == CLOSED && now >= one->wake && (now < end || one->current))
            connect_again(one);
        else if (one->state == PAUSED && now >= one->wake)
            go_on(one, now);
        else if (one->current && one->state != CLOSED && one->state != CONNECTING &&
                 (double)(now - one->sent) > timeout * 1e9)
            lost(one, now, &seen.timeouts);
    }
}

static int finished(uint64_t now) {
    if (stopped && now < end) end = now;
    if (ordered && !flying && !lanes_left()) {
        if (now < end) end = now;
        return 1;
    }
    return now >= end && (!flying || (double)(now - end) > grace * 1e9);
}

static void run(void) {
    struct epoll_event events[512];
    struct itimerspec tick = {{0, 0}, {0, 0}};
    uint64_t step = rate > 2000 ? 500000 : rate > 0 && rate > 100 ? (uint64_t)(1e9 / rate) : 10000000;
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), count;
    tick.it_interval.tv_nsec = tick.it_value.tv_nsec = (long)step;
    struct epoll_event ticking = {.events = EPOLLIN | EPOLLET, .data.u32 = UINT32_MAX};
    timerfd_settime(timer, 0, &tick, NULL);
    epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &ticking);
    begin = now_ns();
    end = begin + (uint64_t)(seconds * 1e9);
    measured = begin + (uint64_t)(warmup * 1e9);
    for (int number = 0; number < connections; number++) connect_again(all + number);
    uint64_t now = begin, swept = begin, ticks;
    while (!finished(now)) {
        if ((count = epoll_wait(epoll, events, 512, 20)) < 0 && errno != EINTR) fail("epoll_wait");
        now = now_ns();
        for (int place = 0; place < count; place++)
            if (events[place].data.u32 != UINT32_MAX)
                handle(all + events[place].data.u32, events[place].events, now);
            else if (read(timer, &ticks, sizeof ticks) < 0) /* it ticks again only when read */
                continue;
        if (rate > 0) send_due(now);
        if (now - swept > 10000000) housekeeping(swept = now);
    }
}

static const struct option options[] = {
    {"port", 1, 0, 'p'},     {"connections", 1, 0, 'c'}, {"seconds", 1, 0, 's'},
    {"warmup", 1, 0, 'w'},   {"rate", 1, 0, 'r'},        {"ordered", 0, 0, 'o'},
    {"timeout", 1, 0, 't'},  {"grace", 1, 0, 'g'},       {"patience", 1, 0, 'a'},
    {"within", 1, 0, 'i'},   {0, 0, 0, 0}};

static int read_options(int count, char **words) {
    for (int one; (one = getopt_long(count, words, "", options, NULL)) != -1;) {
        if (one == 'p') port = atoi(optarg);
        else if (one == 'c') connections = atoi(optarg);
        else if (one == 's') seconds = atof(optarg);
        else if (one == 'w') warmup = atof(optarg);
        else if (one == 'r') rate = atof(optarg);
        else if (one == 'o') ordered = 1;
        else if (one == 't') timeout = atof(optarg);
        else if (one == 'g') grace = atof(optarg);
        else if (one == 'a') patience = atof(optarg);
        else if (one == 'i') within = atof(optarg);
        else return 0;
    }
    return optind == count - 1 && port > 0 && connections > 0 && seconds + grace < MOST_SECONDS;
}

int main(int count, char **words) {
    if (!read_options(count, words)) exit(fprintf(stderr, "see the top of load.c\n") && 2);
    read_requests(words[optind]);
    if (ordered && lane_count != (uint32_t)connections)
        exit(fprintf(stderr, "--ordered needs a lane for every connection\n") && 2);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGINT, stop);
    signal(SIGTERM, stop);
    all = calloc((size_t)connections, sizeof *all);
    idle = calloc((size_t)connections, sizeof *idle);
    epoll = epoll_create1(0);
    for (int number = 0; number < connections; number++) {
        all[number] = (struct connection){.fd = -1, .number = number};
        all[number].lane = lanes + (uint32_t)number % lane_count;
    }
    run();
    print_counts();
    print_lists();
    return 0;
}
