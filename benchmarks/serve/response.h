/* An HTTP/1.1 answer, read as its bytes come in: status and length matter, the body is passed over. */
#ifndef RESPONSE_H
#define RESPONSE_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum phase { HEAD, BODY, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER, DONE };

struct response {
    char head[8192];
    int head_length, status, close_after, line_length;
    enum phase phase;
    uint64_t remaining;
};

static void start_response(struct response *answer) {
    answer->head_length = answer->status = answer->close_after = answer->line_length = 0;
    answer->remaining = 0;
    answer->phase = HEAD;
}

/* The value of a header in a head that ends in a zero byte, or NULL; `name` with its colon. */
static const char *header(const char *head, const char *name) {
    size_t length = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line + 2, "\r\n"))
        if (!strncasecmp(line + 2, name, length)) {
            const char *value = line + 2 + length;
            return value + strspn(value, " \t");
        }
    return NULL;
}

/* 0, or -1 where the answer's length cannot be told. */
static int read_head(struct response *answer) {
    char *head = answer->head;
    head[answer->head_length] = 0;
    if (strncmp(head, "HTTP/1.", 7)) return -1;
    answer->status = atoi(head + 9);
    if (answer->status < 100 || answer->status > 599) return -1;
    if (answer->status < 200) { /* 1xx announces the answer proper */
        start_response(answer);
        return 0;
    }
    const char *connection = header(head, "connection:");
    answer->close_after = connection && !strncasecmp(connection, "close", 5);
    const char *encoding = header(head, "transfer-encoding:");
    const char *length = header(head, "content-length:");
    if (encoding && !strncasecmp(encoding, "chunked", 7)) {
        answer->phase = CHUNK_SIZE;
    } else if (length) {
        answer->remaining = strtoull(length, NULL, 10);
        answer->phase = answer->remaining ? BODY : DONE;
    } else if (answer->status == 204 || answer->status == 304) {
        answer->phase = DONE;
    } else {
        return -1;
    }
    return 0;
}

/* One byte of a head; -1 for a head that is too long or wrong. */
static int take_head(struct response *answer, char byte) {
    if (answer->head_length >= (int)sizeof answer->head - 1) return -1;
    answer->head[answer->head_length++] = byte;
    int length = answer->head_length;
    if (byte == '\n' && length >= 4 && !memcmp(answer->head + length - 4, "\r\n\r\n", 4))
        return read_head(answer);
    return 0;
}

/* One byte of what stands between chunks; -1 where it is no such thing. */
static int take_between(struct response *answer, char byte) {
    if (answer->phase == CHUNK_END) {
        if (byte == '\n') answer->phase = CHUNK_SIZE;
        return byte == '\n' || byte == '\r' ? 0 : -1;
    }
    if (answer->phase == TRAILER) { /* ends with an empty line */
        if (byte == '\n') {
            if (answer->line_length == 0) answer->phase = DONE;
            answer->line_length = 0;
        } else if (byte != '\r') {
            answer->line_length++;
        }
        return 0;
    }
    if (byte != '\n') { /* the size, in hexadecimal; what follows it on the line is no matter */
        if (answer->line_length < 32) answer->head[answer->line_length++] = byte;
        return 0;
    }
    answer->head[answer->line_length] = 0;
    char *rest;
    answer->remaining = strtoull(answer->head, &rest, 16);
    if (rest == answer->head) return -1;
    answer->line_length = 0;
    answer->phase = answer->remaining ? CHUNK_DATA : TRAILER;
    return 0;
}

/* Takes what came in, 0 or -1 for what is no HTTP; done when `phase` is DONE. */
static int take(struct response *answer, const char *data, size_t length) {
    size_t place = 0;
    while (place < length) {
        if (answer->phase == DONE) return -1; /* more than was asked for */
        if (answer->phase == BODY || answer->phase == CHUNK_DATA) {
            uint64_t part = length - place;
            if (part > answer->remaining) part = answer->remaining;
            place += part;
            answer->remaining -= part;
            if (!answer->remaining) answer->phase = answer->phase == BODY ? DONE : CHUNK_END;
        } else if (answer->phase == HEAD) {
            if (take_head(answer, data[place++])) return -1;
        } else if (take_between(answer, data[place++])) {
            return -1;
        }
    }
    return 0;
}

#endif
