/*
 * A disk with a cache that is lost when the machine fails. Files under $UNSYNCED_DISK are opened as copies under
 * $UNSYNCED_CACHE, and written back to the disk by fsync and fdatasync alone. Whoever removes the cache while the process
 * is dead has the disk as it would be after a power failure.
 *
 * What is made, cut or removed in a folder is taken to be durable at once where that only makes the failure milder:
 * a database's write-ahead log that comes into being is empty on the disk until it is synced.
 *
 * SQLite's shared-memory file (-shm) is no part of the disk: it is made anew after a crash.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILES 1024

static char *paths[FILES]; /* of the file on the disk, by descriptor */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void *next(const char *name) { return dlsym(RTLD_NEXT, name); }

/* Whether the file is on the disk; if so, where its copy is. */
static int cached(const char *path, char *copy, size_t size) {
    const char *disk = getenv("UNSYNCED_DISK"), *cache = getenv("UNSYNCED_CACHE");
    if (!disk || !cache || strncmp(path, disk, strlen(disk)) != 0 || path[strlen(disk)] != '/') return 0;
    size_t length = strlen(path);
    if (length > 4 && strcmp(path + length - 4, "-shm") == 0) return 0;
    snprintf(copy, size, "%s/%s", cache, path + strlen(disk) + 1);
    return 1;
}

static void copy_file(const char *from, const char *to) {
    int (*real_open)(const char *, int, ...) = next("open");
    int in = real_open(from, O_RDONLY | O_CLOEXEC);
    if (in < 0) return;
    char temporary[4096];
    snprintf(temporary, sizeof temporary, "%s.part", to);
    int out = real_open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (out >= 0) {
        char buffer[65536];
        ssize_t length;
        while ((length = read(in, buffer, sizeof buffer)) > 0)
            if (write(out, buffer, (size_t)length) != length) abort();
        close(out);
        /* As a whole or not at all: a disk that tears a file to pieces is another test's. */
        if (rename(temporary, to) != 0) abort();
    }
    close(in);
}

static int open_at(const char *name, int folder, const char *path, int flags, mode_t mode) {
    char copy[4096];
    int is_at = strncmp(name, "openat", 6) == 0;
    const char *opened = path;
    if (cached(path, copy, sizeof copy)) {
        pthread_mutex_lock(&lock);
        if (access(copy, F_OK) != 0) {
            if (access(path, F_OK) == 0) {
                copy_file(path, copy);
            } else if (flags & O_CREAT) {
                int (*real_open)(const char *, int, ...) = next("open");
                int made = real_open(path, O_WRONLY | O_CREAT | O_CLOEXEC, mode);
                if (made >= 0) close(made);
            }
        }
        pthread_mutex_unlock(&lock);
        opened = copy;
    }
    int descriptor;
    if (is_at) {
        int (*real)(int, const char *, int, ...) = next(name);
        descriptor = real(folder, opened, flags, mode);
    } else {
        int (*real)(const char *, int, ...) = next(name);
        descriptor = real(opened, flags, mode);
    }
    if (descriptor >= 0 && descriptor < FILES) {
        pthread_mutex_lock(&lock);
        free(paths[descriptor]);
        paths[descriptor] = opened == copy ? strdup(path) : NULL;
        pthread_mutex_unlock(&lock);
    }
    return descriptor;
}

#define OPEN(name)                                        \
    int name(const char *path, int flags, ...) {          \
        va_list arguments;                                \
        va_start(arguments, flags);                       \
        mode_t mode = va_arg(arguments, mode_t);          \
        va_end(arguments);                                \
        return open_at(#name, -1, path, flags, mode);     \
    }
#define OPEN_AT(name)                                             \
    int name(int folder, const char *path, int flags, ...) {      \
        va_list arguments;                                        \
        va_start(arguments, flags);                               \
        mode_t mode = va_arg(arguments, mode_t);                  \
        va_end(arguments);                                        \
        return open_at(#name, folder, path, flags, mode);         \
    }
OPEN(open)
OPEN(open64)
OPEN_AT(openat)
OPEN_AT(openat64)

static int write_back(const char *name, int descriptor) {
    if (descriptor >= 0 && descriptor < FILES) {
        pthread_mutex_lock(&lock);
        char copy[4096];
        if (paths[descriptor] && cached(paths[descriptor], copy, sizeof copy)) copy_file(copy, paths[descriptor]);
        pthread_mutex_unlock(&lock);
    }
    int (*real)(int) = next(name);
    return real(descriptor);
}

int fsync(int descriptor) { return write_back("fsync", descriptor); }
int fdatasync(int descriptor) { return write_back("fdatasync", descriptor); }

int unlink(const char *path) {
    char copy[4096];
    int (*real)(const char *) = next("unlink");
    if (cached(path, copy, sizeof copy)) real(copy);
    return real(path);
}

int access(const char *path, int mode) {
    int (*real)(const char *, int) = next("access");
    return real(path, mode);
}

#define STAT(name, type)                                              \
    int name(const char *path, struct type *result) {                 \
        char copy[4096];                                              \
        int (*real)(const char *, struct type *) = next(#name);       \
        if (cached(path, copy, sizeof copy) && access(copy, F_OK) == 0) return real(copy, result); \
        return real(path, result);                                    \
    }
STAT(stat, stat)
STAT(lstat, stat)
STAT(stat64, stat64)
STAT(lstat64, stat64)
