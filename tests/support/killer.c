/* Preloaded into a command and all that it starts: kills the whole group just before its k-th write below a folder.
   KILLER_ROOT: the folder. KILLER_AT: k (0: never). KILLER_COUNT: a file of 8 bytes in which all processes count together.
   Writes: opening for writing, write, pwrite, rename, link, unlink, mkdir, rmdir, fsync, ftruncate. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static long *count;
static long at;
static char root[PATH_MAX];

__attribute__((constructor)) static void start(void) {
    const char *file = getenv("KILLER_COUNT"), *folder = getenv("KILLER_ROOT"), *k = getenv("KILLER_AT");
    if (!file || !folder || !k || !realpath(folder, root)) return;
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
    int fd = real(file, O_RDWR);
    if (fd < 0) return;
    void *shared = mmap(0, sizeof(long), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    at = atol(k);
    if (shared != MAP_FAILED) count = shared;
}

static void one(void) {
    if (__atomic_add_fetch(count, 1, __ATOMIC_SEQ_CST) == at) kill(0, SIGKILL);
}

static int below(const char *path) { return !strncmp(path, root, strlen(root)); }

static void at_fd(int fd) {
    char link[64], path[PATH_MAX];
    if (!count) return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0) return;
    path[n] = 0;
    if (below(path)) one();
}

static void at_path(int dir, const char *path) {
    char whole[2 * PATH_MAX], link[64];
    if (!count || !path) return;
    if (path[0] == '/') {
        if (below(path)) one();
        return;
    }
    if (dir == AT_FDCWD) {
        if (!getcwd(whole, PATH_MAX)) return;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
        ssize_t n = readlink(link, whole, PATH_MAX - 1);
        if (n <= 0) return;
        whole[n] = 0;
    }
    if (below(whole)) one();
}

#define REAL(name)                              \
    static __typeof__(&name) real;              \
    if (!real) real = (__typeof__(real))dlsym(RTLD_NEXT, #name)
#define OPEN(name)                                                                       \
    int name(const char *path, int flags, ...) {                                         \
        REAL(name); \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        if (flags & (O_CREAT | O_WRONLY | O_RDWR | O_TRUNC)) at_path(AT_FDCWD, path);    \
        return real(path, flags, mode);                                                  \
    }
#define OPENAT(name)                                                                     \
    int name(int dir, const char *path, int flags, ...) {                                \
        REAL(name); \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        if (flags & (O_CREAT | O_WRONLY | O_RDWR | O_TRUNC)) at_path(dir, path);         \
        return real(dir, path, flags, mode);                                             \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

FILE *fopen(const char *path, const char *mode) {
    REAL(fopen);
    if (mode[0] != 'r' || strchr(mode, '+')) at_path(AT_FDCWD, path);
    return real(path, mode);
}
FILE *fopen64(const char *path, const char *mode) {
    REAL(fopen64);
    if (mode[0] != 'r' || strchr(mode, '+')) at_path(AT_FDCWD, path);
    return real(path, mode);
}
ssize_t write(int fd, const void *from, size_t n) {
    REAL(write);
    at_fd(fd);
    return real(fd, from, n);
}
ssize_t pwrite64(int fd, const void *from, size_t n, off64_t where) {
    REAL(pwrite64);
    at_fd(fd);
    return real(fd, from, n, where);
}
int fsync(int fd) {
    REAL(fsync);
    at_fd(fd);
    return real(fd);
}
int ftruncate64(int fd, off64_t n) {
    REAL(ftruncate64);
    at_fd(fd);
    return real(fd, n);
}
int rename(const char *from, const char *to) {
    REAL(rename);
    at_path(AT_FDCWD, to);
    return real(from, to);
}
int renameat(int a, const char *from, int b, const char *to) {
    REAL(renameat);
    at_path(b, to);
    return real(a, from, b, to);
}
int link(const char *from, const char *to) {
    REAL(link);
    at_path(AT_FDCWD, to);
    return real(from, to);
}
int unlink(const char *path) {
    REAL(unlink);
    at_path(AT_FDCWD, path);
    return real(path);
}
int unlinkat(int dir, const char *path, int flags) {
    REAL(unlinkat);
    at_path(dir, path);
    return real(dir, path, flags);
}
int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    at_path(AT_FDCWD, path);
    return real(path, mode);
}
int rmdir(const char *path) {
    REAL(rmdir);
    at_path(AT_FDCWD, path);
    return real(path);
}
