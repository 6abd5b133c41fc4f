/* Preloaded before a program that keeps a SQLite log: tells what is written and synced, and when.
 *
 * SHIM_FOLDER: the folder whose files count. SHIM_EVENTS: the descriptor to which "write NAME\n" and
 * "sync NAME\n" go, where the program itself says what it acknowledges. What a file holds when it is
 * synced is copied to SHIM_FOLDER/durable/NAME: all that a machine without power would still have.
 * While SHIM_FOLDER/broken exists, syncing fails as a broken disk does. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static const char *name_of(int fd, char *path, size_t size) {
    char link[64];
    const char *folder = getenv("SHIM_FOLDER");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, size - 1);
    if (!folder || length <= 0) return NULL;
    path[length] = 0;
    size_t prefix = strlen(folder);
    if (strncmp(path, folder, prefix) || path[prefix] != '/') return NULL;
    const char *name = path + prefix + 1;
    return strchr(name, '/') ? NULL : name;
}

static void tell(const char *what, const char *name) {
    char line[512];
    const char *events = getenv("SHIM_EVENTS");
    int length = snprintf(line, sizeof line, "%s %s\n", what, name);
    if (events && write(atoi(events), line, length) != length) abort();
}

static void keep(int from, const char *name) {
    static char data[1 << 20];
    char part[4300], whole[4200];
    ssize_t count;
    off_t at = 0;
    snprintf(whole, sizeof whole, "%s/durable/%s", getenv("SHIM_FOLDER"), name);
    snprintf(part, sizeof part, "%s.part", whole);
    int to = open(part, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (to < 0) abort();
    /* From the same descriptor: closing another one would let go of SQLite's locks. */
    for (; (count = pread(from, data, sizeof data, at)) > 0; at += count)
        if (write(to, data, count) != count) abort();
    close(to);
    if (rename(part, whole)) abort();
}

static int synced(int fd, const char *function) {
    char path[4096], broken[4096];
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, function);
    const char *name = name_of(fd, path, sizeof path);
    if (!name) return real(fd);
    snprintf(broken, sizeof broken, "%s/broken", getenv("SHIM_FOLDER"));
    if (!access(broken, F_OK)) {
        errno = EIO;
        return -1;
    }
    int result = real(fd);
    if (!result) {
        keep(fd, name);
        tell("sync", name);
    }
    return result;
}

int fsync(int fd) { return synced(fd, "fsync"); }
int fdatasync(int fd) { return synced(fd, "fdatasync"); }

static void written(int fd) {
    char path[4096];
    const char *name = name_of(fd, path, sizeof path);
    if (name) tell("write", name);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    static ssize_t (*real)(int, const void *, size_t, off_t);
    if (!real) real = (ssize_t(*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite");
    written(fd);
    return real(fd, data, size, at);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (!real) real = (ssize_t(*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    written(fd);
    return real(fd, data, size, at);
}

/* SQLite syncs the folder after it has removed a file: the copy goes, too. */
int unlink(const char *path) {
    char copy[4300];
    int (*real)(const char *) = (int (*)(const char *))dlsym(RTLD_NEXT, "unlink");
    const char *folder = getenv("SHIM_FOLDER");
    if (folder && !strncmp(path, folder, strlen(folder))) {
        snprintf(copy, sizeof copy, "%s/durable%s", folder, path + strlen(folder));
        real(copy);
    }
    return real(path);
}
