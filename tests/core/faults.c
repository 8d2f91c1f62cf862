/* Lets system calls fail as disks and file systems do: preloaded into children by test_faults.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
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

/* Whether FAULT_FOLDER is one in which nothing can be changed: FAULT_READONLY says with which error. */
static int refused(const char *path)
{
    const char *folder = getenv("FAULT_FOLDER");
    char real[PATH_MAX];
    if (!folder || !number("FAULT_READONLY")) return 0;
    if (path[0] != '/' && getcwd(real, sizeof real - 1)) { strcat(real, "/"); path = strncat(real, path, sizeof real - strlen(real) - 1); }
    if (strncmp(path, folder, strlen(folder))) return 0;
    errno = number("FAULT_READONLY");
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

/* Where FAULT_RECORD names a file: what is done below FAULT_FOLDER, in order, for crashes to be made of. */
static pthread_mutex_t recording = PTHREAD_MUTEX_INITIALIZER;
static int operations = 0;

static int recorded_path(const char *path)
{
    const char *folder = getenv("FAULT_FOLDER");
    return getenv("FAULT_RECORD") && folder && !strncmp(path, folder, strlen(folder)) && !strstr(path, "-log");
}

static void note(const char *head, const void *data, size_t size)
{
    ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    int (*real_open)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
    static int log = -1;
    pthread_mutex_lock(&recording);
    if (log < 0) log = real_open(getenv("FAULT_RECORD"), O_CREAT | O_WRONLY | O_TRUNC, 0666);
    operations++;
    if (real(log, head, strlen(head)) < 0 || (size && real(log, data, size) < 0)) abort();
    pthread_mutex_unlock(&recording);
}

static int recorded_fd(int fd, struct stat *status)
{
    char link[64], path[PATH_MAX];
    if (!getenv("FAULT_RECORD")) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return recorded_path(path) && !fstat(fd, status);
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
    if (fails_of(fd)) return -1;
    struct stat status;
    char head[128];
    if (!recorded_fd(fd, &status)) return real(fd, data, size);
    off_t offset = lseek(fd, 0, SEEK_CUR);
    ssize_t done = real(fd, data, size);
    snprintf(head, sizeof head, "W %lu %ld %ld\n", status.st_ino, offset, done);
    if (done > 0) note(head, data, done);
    return done;
}

int fsync(int fd)
{
    REAL(int, fsync, int);
    if (fails_of(fd)) return -1;
    struct stat status;
    char head[128];
    int before = operations, done = real(fd);
    if (recorded_fd(fd, &status)) {
        snprintf(head, sizeof head, "%c %lu %d\n", S_ISDIR(status.st_mode) ? 'D' : 'F', status.st_ino, before);
        note(head, NULL, 0);
    }
    return done;
}

static int cut(int (*real)(int, off_t), int fd, off_t size)
{
    struct stat status;
    char head[128];
    if (fails_of(fd)) return -1;
    int done = real(fd, size);
    snprintf(head, sizeof head, "T %lu %ld\n", recorded_fd(fd, &status) ? status.st_ino : 0, size);
    if (recorded_fd(fd, &status)) note(head, NULL, 0);
    return done;
}

int ftruncate(int fd, off_t size)
{
    REAL(int, ftruncate, int, off_t);
    return cut(real, fd, size);
}

int ftruncate64(int fd, off_t size)
{
    REAL(int, ftruncate64, int, off_t);
    return cut(real, fd, size);
}

int rename(const char *old, const char *new)
{
    REAL(int, rename, const char *, const char *);
    char head[2 * PATH_MAX + 16];
    if (refused(old) || refused(new) || fails(old)) return -1;
    int done = real(old, new);
    snprintf(head, sizeof head, "R %s\t%s\n", old, new);
    if (!done && recorded_path(old)) note(head, NULL, 0);
    return done;
}

int unlink(const char *path)
{
    REAL(int, unlink, const char *);
    char head[PATH_MAX + 16];
    if (refused(path) || fails(path)) return -1;
    int done = real(path);
    snprintf(head, sizeof head, "U %s\n", path);
    if (!done && recorded_path(path)) note(head, NULL, 0);
    return done;
}

int mkdir(const char *path, mode_t mode)
{
    REAL(int, mkdir, const char *, mode_t);
    struct stat status;
    /* As the system does: what is there is told first. */
    return stat(path, &status) && refused(path) ? -1 : real(path, mode);
}

static int opened(const char *name, const char *path, int flags, mode_t mode)
{
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, name);
    struct stat status;
    char head[PATH_MAX + 64];
    int is_new = stat(path, &status);
    if (((flags & O_ACCMODE) != O_RDONLY || (is_new && flags & O_CREAT)) && refused(path)) return -1;
    if (flags & O_CREAT && fails(path)) return -1;
    int fd = real(path, flags, mode);
    if (fd >= 0 && flags & O_CREAT && recorded_fd(fd, &status) && S_ISREG(status.st_mode)) {
        if (is_new) snprintf(head, sizeof head, "C %lu %s\n", status.st_ino, path);
        else snprintf(head, sizeof head, "T %lu 0\n", status.st_ino);
        if (is_new || flags & O_TRUNC) note(head, NULL, 0);
    }
    return fd;
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
