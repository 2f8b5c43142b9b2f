/* A disk that fails at one of its changes, for a process that asks for it.
 *
 * Preloaded, it counts the calls that change files in one folder: opening for
 * writing, write, rename, unlink, mkdir, rmdir, truncate, of Python, of
 * TensorFlow and of HDF5 alike. At the n-th one it fails, ends the process,
 * asks it to stop, or sets the clock back by a day.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { COUNT, NO_SPACE, HALF, KILL, TERMINATE, READ_ONLY, CLOCK };

static char folder[4096];
static int mode = COUNT, at = 0;
static atomic_int changes = 0;
static char is_ours[65536];

/* Begins to count changes in `path`; called through ctypes. */
void arm(const char *path, int new_mode, int new_at) {
  strncpy(folder, path, sizeof folder - 1);
  mode = new_mode;
  at = new_at;
}

int num_changes(void) { return changes; }

static int inside(const char *path) {
  return folder[0] && path && !strncmp(path, folder, strlen(folder));
}

static int ours(int fd) {
  return folder[0] && fd >= 0 && fd < (int)sizeof is_ours && is_ours[fd];
}

static void mark(int fd, int value) {
  if (fd >= 0 && fd < (int)sizeof is_ours) is_ours[fd] = value;
}

/* Whether this change shall fail for want of space; may not return. A full
 * disk stays full, but to remove something is always possible. */
static int fails(int needs_space, int can_be_halved) {
  int n = ++changes;
  if (mode == NO_SPACE && n >= at && needs_space) {
    errno = ENOSPC;
    return 1;
  }
  if (mode == READ_ONLY && n >= at) {
    errno = EROFS;
    return 1;
  }
  if (mode == TERMINATE && n == at) raise(SIGTERM);
  if ((mode == KILL || (mode == HALF && !can_be_halved)) && n == at) _exit(137);
  return 0;
}

static int halves(void) { return mode == HALF && changes == at; }

#define REAL(type, name, ...) \
  static type (*real)(__VA_ARGS__); \
  if (!real) real = dlsym(RTLD_NEXT, #name)

#define OPENER(name) \
  int name(const char *path, int flags, ...) { \
    REAL(int, name, const char *, int, ...); \
    va_list list; \
    va_start(list, flags); \
    mode_t bits = va_arg(list, mode_t); \
    va_end(list); \
    int counts = inside(path) && (flags & (O_WRONLY | O_RDWR | O_CREAT)); \
    if (counts && fails(1, 0)) return -1; \
    int fd = real(path, flags, bits); \
    mark(fd, counts); \
    return fd; \
  }
OPENER(open)
OPENER(open64)

#define OPENER_AT(name) \
  int name(int dir, const char *path, int flags, ...) { \
    REAL(int, name, int, const char *, int, ...); \
    va_list list; \
    va_start(list, flags); \
    mode_t bits = va_arg(list, mode_t); \
    va_end(list); \
    int counts = inside(path) && (flags & (O_WRONLY | O_RDWR | O_CREAT)); \
    if (counts && fails(1, 0)) return -1; \
    int fd = real(dir, path, flags, bits); \
    mark(fd, counts); \
    return fd; \
  }
OPENER_AT(openat)
OPENER_AT(openat64)

#define FOPENER(name) \
  FILE *name(const char *path, const char *how) { \
    REAL(FILE *, name, const char *, const char *); \
    int counts = inside(path) && strpbrk(how, "wa+"); \
    if (counts && fails(1, 0)) return NULL; \
    FILE *file = real(path, how); \
    if (file) mark(fileno(file), counts); \
    return file; \
  }
FOPENER(fopen)
FOPENER(fopen64)

ssize_t write(int fd, const void *data, size_t size) {
  REAL(ssize_t, write, int, const void *, size_t);
  if (!ours(fd)) return real(fd, data, size);
  if (fails(1, 1)) return -1;
  if (halves()) {
    real(fd, data, size / 2);
    _exit(137);
  }
  return real(fd, data, size);
}

#define PWRITER(name) \
  ssize_t name(int fd, const void *data, size_t size, off_t place) { \
    REAL(ssize_t, name, int, const void *, size_t, off_t); \
    if (!ours(fd)) return real(fd, data, size, place); \
    if (fails(1, 1)) return -1; \
    if (halves()) { \
      real(fd, data, size / 2, place); \
      _exit(137); \
    } \
    return real(fd, data, size, place); \
  }
PWRITER(pwrite)
PWRITER(pwrite64)

size_t fwrite(const void *data, size_t size, size_t count, FILE *file) {
  REAL(size_t, fwrite, const void *, size_t, size_t, FILE *);
  if (!ours(fileno(file))) return real(data, size, count, file);
  if (fails(1, 1)) return 0;
  if (halves()) {
    real(data, 1, size * count / 2, file);
    fflush(file);
    _exit(137);
  }
  return real(data, size, count, file);
}

#define CHANGER(name, needs_space, declared, passed, path) \
  int name declared { \
    REAL(int, name, const char *, ...); \
    if (inside(path) && fails(needs_space, 0)) return -1; \
    return real passed; \
  }
CHANGER(rename, 1, (const char *from, const char *to), (from, to), from)
CHANGER(mkdir, 1, (const char *path, mode_t bits), (path, bits), path)
CHANGER(unlink, 0, (const char *path), (path), path)
CHANGER(remove, 0, (const char *path), (path), path)
CHANGER(rmdir, 0, (const char *path), (path), path)
CHANGER(truncate, 0, (const char *path, off_t size), (path, size), path)

int clock_gettime(clockid_t clock, struct timespec *now) {
  REAL(int, clock_gettime, clockid_t, struct timespec *);
  int status = real(clock, now);
  if (mode == CLOCK && changes >= at && clock == CLOCK_REALTIME)
    now->tv_sec -= 24 * 60 * 60;
  return status;
}
