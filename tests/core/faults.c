/* Lets system calls fail as disks and file systems do: preloaded into children by test_faults.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int number(const char *name) { const char *text = getenv(name); return text ? atoi(text) : 0; }

/* Whether this call, of those that change something below FAULT_FOLDER, is the one to fail: FAULT_AT, and with FAULT_ON all after it. */
static int fails(const char *path)
{
    static int calls = 0;
    const char *folder = getenv("FAULT_FOLDER");
    if (!folder) calls = 0;
    if (!folder || strncmp(path, folder, strlen(folder)) || strstr(path, "-log")) return 0;
    calls++;
    if (calls != number("FAULT_AT") && !(getenv("FAULT_ON") && calls > number("FAULT_AT"))) return 0;
    errno = number("FAULT_ERRNO");
    return 1;
}

static int fails_of(int fd)
{
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return fails(path);
}

#define REAL(type, name, ...) static type (*real)(__VA_ARGS__); if (!real) real = dlsym(RTLD_NEXT, #name)

int flock(int fd, int operation)
{
    REAL(int, flock, int, int);
    if (number("FAULT_FLOCK")) { errno = number("FAULT_FLOCK"); return -1; }
    return real(fd, operation);
}

ssize_t write(int fd, const void *data, size_t size)
{
    REAL(ssize_t, write, int, const void *, size_t);
    return fails_of(fd) ? -1 : real(fd, data, size);
}

int fsync(int fd)
{
    REAL(int, fsync, int);
    return fails_of(fd) ? -1 : real(fd);
}

int ftruncate(int fd, off_t size)
{
    REAL(int, ftruncate, int, off_t);
    return fails_of(fd) ? -1 : real(fd, size);
}

int ftruncate64(int fd, off_t size)
{
    REAL(int, ftruncate64, int, off_t);
    return fails_of(fd) ? -1 : real(fd, size);
}

int rename(const char *old, const char *new)
{
    REAL(int, rename, const char *, const char *);
    return fails(old) ? -1 : real(old, new);
}

int unlink(const char *path)
{
    REAL(int, unlink, const char *);
    return fails(path) ? -1 : real(path);
}

static int opened(const char *name, const char *path, int flags, mode_t mode)
{
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, name);
    if (flags & O_CREAT && fails(path)) return -1;
    return real(path, flags, mode);
}

int open(const char *path, int flags, ...)
{
    va_list more; va_start(more, flags); mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0; va_end(more);
    return opened("open", path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    va_list more; va_start(more, flags); mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0; va_end(more);
    return opened("open64", path, flags, mode);
}
