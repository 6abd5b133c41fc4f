/* What is to be sent: whole requests in lanes, mapped from a file. */
#ifndef REQUESTS_H
#define REQUESTS_H

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

struct request { const char *data; uint32_t length; };
struct lane { struct request *items; uint32_t count, next, acknowledged; int ended; };

static struct lane *lanes;
static uint32_t lane_count;
static int ordered;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void read_requests(const char *path) {
    int file = open(path, O_RDONLY);
    struct stat facts;
    if (file < 0 || fstat(file, &facts)) fail(path);
    char *data = mmap(NULL, (size_t)facts.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    if (data == MAP_FAILED) fail(path);
    uint32_t part[2];
    for (int pass = 0; pass < 2; pass++) {
        for (off_t place = 0; place + 8 <= facts.st_size; place += 8 + (off_t)part[1]) {
            memcpy(part, data + place, 8);
            if (place + 8 + (off_t)part[1] > facts.st_size) exit(fprintf(stderr, "cut short\n"));
            if (pass == 0 && part[0] >= lane_count) {
                lanes = realloc(lanes, (part[0] + 1) * sizeof *lanes);
                memset(lanes + lane_count, 0, (part[0] + 1 - lane_count) * sizeof *lanes);
                lane_count = part[0] + 1;
            }
            struct lane *lane = lanes + part[0];
            if (pass) lane->items[lane->next++] = (struct request){data + place + 8, part[1]};
            else lane->count++;
        }
        for (uint32_t number = 0; number < lane_count; number++) {
            if (!lanes[number].count) exit(fprintf(stderr, "lane %u is empty\n", number));
            if (!pass) lanes[number].items = calloc(lanes[number].count, sizeof(struct request));
            lanes[number].next = 0;
        }
    }
    if (!lane_count) exit(fprintf(stderr, "%s: no requests\n", path));
}

/* The next request of a lane; NULL where an ordered one is at its end. */
static struct request *next_request(struct lane *lane) {
    if (lane->ended) return NULL;
    if (ordered && lane->next >= lane->count) return NULL;
    return lane->items + lane->next++ % lane->count;
}

static int lanes_left(void) {
    for (uint32_t number = 0; number < lane_count; number++)
        if (!lanes[number].ended && lanes[number].next < lanes[number].count) return 1;
    return 0;
}

#endif
