/*
 * A disk whose fsync and fdatasync take at least SLOW_DISK_US microseconds; loaded before the C library.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

static long long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static int slowly(const char *name, int descriptor) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    long long end = now() + SLOW_DISK_US * 1000LL;
    int result = real(descriptor);
    long long left = end - now();
    if (left > 0) {
        struct timespec rest = { left / 1000000000, left % 1000000000 };
        nanosleep(&rest, NULL);
    }
    return result;
}

int fsync(int descriptor) { return slowly("fsync", descriptor); }
int fdatasync(int descriptor) { return slowly("fdatasync", descriptor); }
