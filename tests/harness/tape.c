/* Laid before a program of ours (LD_PRELOAD), it writes down every change to files below a folder, in order, with what makes
 * changes durable; and while a file says so, the disk is full. tests/harness/tape.py reads it and makes what a power cut leaves.
 *
 * TWOFOLD_TAPE_BELOW: the folder. TWOFOLD_TAPE: where to write; nothing is written while it is not there.
 * TWOFOLD_TAPE_FULL: while this is there, nothing that takes room succeeds.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static const char *below, *tape, *full;
static size_t length;

#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name) {
  void *found = dlsym(RTLD_NEXT, name);
  if (!found) abort();
  return found;
}

/* Again in a process that was forked with another environment (mold.py). */
__attribute__((constructor)) void tape_begin(void) {
  below = getenv("TWOFOLD_TAPE_BELOW");
  tape = getenv("TWOFOLD_TAPE");
  full = getenv("TWOFOLD_TAPE_FULL");
  length = below ? strlen(below) : 0;
}

static int there(const char *flag) { return flag && access(flag, F_OK) == 0; }

/* Whether a path is one of ours; logs are not worth it. */
static int ours(const char *path) {
  size_t size = strlen(path);
  if (!below || strncmp(path, below, length) || (path[length] && path[length] != '/')) return 0;
  return !(size > 4 && !strcmp(path + size - 4, ".log"));
}

static int place(int fd, char *path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t size = readlink(link, path, PATH_MAX - 1);
  if (size < 0) return 0;
  path[size] = 0;
  return ours(path);
}

/* The path that a name in a folder has, whatever links lead there. */
static int named(int folder, const char *name, char *path) {
  char start[PATH_MAX], given[PATH_MAX * 2];
  if (name[0] == '/') snprintf(given, sizeof given, "%s", name);
  else if (folder == AT_FDCWD) {
    if (!getcwd(start, sizeof start)) return 0;
    snprintf(given, sizeof given, "%s/%s", start, name);
  } else snprintf(given, sizeof given, "/proc/self/fd/%d/%s", folder, name);
  char *last = strrchr(given, '/');
  *last = 0;
  char whole[PATH_MAX];
  if (!realpath(*given ? given : "/", whole)) return 0;
  if ((size_t)snprintf(path, PATH_MAX, "%s/%s", whole, last + 1) >= PATH_MAX) return 0;
  return ours(path);
}

static void say(char kind, uint64_t inode, uint64_t at, const char *one, const char *two, const void *data, size_t size) {
  int kept = errno, out = there(tape) ? REAL(open)(tape, O_WRONLY | O_APPEND | O_CLOEXEC) : -1;
  if (out >= 0) {
    uint32_t sizes[3] = {(uint32_t)strlen(one), (uint32_t)strlen(two), (uint32_t)size};
    struct iovec parts[7] = {{&kind, 1}, {&inode, 8}, {&at, 8}, {sizes, 12}, {(void *)one, sizes[0]}, {(void *)two, sizes[1]},
                             {(void *)data, size}};
    REAL(writev)(out, parts, 7);
    close(out);
  }
  errno = kept;
}

/* Whether writing there takes room that the file does not have yet. */
static int refused(int fd, const struct stat *about, uint64_t end) {
  (void)fd;
  if (!there(full) || end <= (uint64_t)about->st_blocks * 512) return 0;
  errno = ENOSPC;
  return 1;
}

static int regular(int fd, struct stat *about, char *path) {
  int kept = errno, found = fstat(fd, about) == 0 && S_ISREG(about->st_mode) && place(fd, path);
  errno = kept;
  return found;
}

static int opened(int folder, const char *name, int flags, mode_t mode) {
  char path[PATH_MAX];
  struct stat about;
  int watch = (flags & (O_CREAT | O_TRUNC)) && named(folder, name, path);
  int was = watch && stat(path, &about) == 0;
  if (watch && !was && (flags & O_CREAT) && there(full)) return errno = ENOSPC, -1;
  int fd = REAL(openat)(folder, name, flags, mode);
  if (fd >= 0 && watch && fstat(fd, &about) == 0) {
    if (!was) say('C', about.st_ino, 0, path, "", "", 0);
    else if (flags & O_TRUNC) say('L', about.st_ino, 0, path, "", "", 0);
  }
  return fd;
}

#define OPEN(name, ...)                                                                                                       \
  {                                                                                                                           \
    mode_t mode = 0;                                                                                                          \
    if (flags & (O_CREAT | O_TMPFILE)) {                                                                                      \
      va_list rest;                                                                                                           \
      va_start(rest, flags);                                                                                                  \
      mode = va_arg(rest, mode_t);                                                                                            \
      va_end(rest);                                                                                                           \
    }                                                                                                                         \
    return opened(__VA_ARGS__, name, flags, mode);                                                                            \
  }
int open(const char *name, int flags, ...) OPEN(name, AT_FDCWD)
int open64(const char *name, int flags, ...) OPEN(name, AT_FDCWD)
int openat(int folder, const char *name, int flags, ...) OPEN(name, folder)
int openat64(int folder, const char *name, int flags, ...) OPEN(name, folder)

ssize_t write(int fd, const void *data, size_t size) {
  char path[PATH_MAX];
  struct stat about;
  int watch = regular(fd, &about, path);
  uint64_t at = watch ? (uint64_t)lseek(fd, 0, SEEK_CUR) : 0;
  if (watch && refused(fd, &about, at + size)) return -1;
  ssize_t done = REAL(write)(fd, data, size);
  if (watch && done > 0) say('W', about.st_ino, (uint64_t)lseek(fd, 0, SEEK_CUR) - (uint64_t)done, path, "", data, (size_t)done);
  return done;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
  char path[PATH_MAX];
  struct stat about;
  if (!regular(fd, &about, path)) return REAL(writev)(fd, parts, count);
  ssize_t all = 0;
  for (int each = 0; each < count; each++) {
    ssize_t done = parts[each].iov_len ? write(fd, parts[each].iov_base, parts[each].iov_len) : 0;
    if (done < 0) return all ? all : -1;
    all += done;
    if ((size_t)done < parts[each].iov_len) break;
  }
  return all;
}

static ssize_t put(int fd, const void *data, size_t size, off64_t at) {
  char path[PATH_MAX];
  struct stat about;
  int watch = regular(fd, &about, path);
  if (watch && refused(fd, &about, (uint64_t)at + size)) return -1;
  ssize_t done = REAL(pwrite64)(fd, data, size, at);
  if (watch && done > 0) say('W', about.st_ino, (uint64_t)at, path, "", data, (size_t)done);
  return done;
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return put(fd, data, size, at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { return put(fd, data, size, at); }

static void copied(int fd, const struct stat *about, const char *path, uint64_t at, size_t size) {
  char *data = malloc(size);
  ssize_t got = data ? pread(fd, data, size, (off_t)at) : -1;
  if (got > 0) say('W', about->st_ino, at, path, "", data, (size_t)got);
  free(data);
}

ssize_t copy_file_range(int from, off64_t *source, int to, off64_t *target, size_t size, unsigned flags) {
  char path[PATH_MAX];
  struct stat about;
  int watch = regular(to, &about, path);
  uint64_t at = watch ? (uint64_t)(target ? *target : lseek(to, 0, SEEK_CUR)) : 0;
  if (watch && refused(to, &about, at + size)) return -1;
  ssize_t done = REAL(copy_file_range)(from, source, to, target, size, flags);
  if (watch && done > 0) copied(to, &about, path, at, (size_t)done);
  return done;
}

static ssize_t sent(int to, int from, off64_t *source, size_t size) {
  char path[PATH_MAX];
  struct stat about;
  int watch = regular(to, &about, path);
  uint64_t at = watch ? (uint64_t)lseek(to, 0, SEEK_CUR) : 0;
  if (watch && refused(to, &about, at + size)) return -1;
  ssize_t done = REAL(sendfile64)(to, from, source, size);
  if (watch && done > 0) copied(to, &about, path, at, (size_t)done);
  return done;
}
ssize_t sendfile(int to, int from, off_t *source, size_t size) { return sent(to, from, (off64_t *)source, size); }
ssize_t sendfile64(int to, int from, off64_t *source, size_t size) { return sent(to, from, source, size); }

static int cut(int fd, off64_t size) {
  char path[PATH_MAX];
  struct stat about;
  int watch = regular(fd, &about, path), done = REAL(ftruncate64)(fd, size);
  if (watch && done == 0) say('L', about.st_ino, (uint64_t)size, path, "", "", 0);
  return done;
}
int ftruncate(int fd, off_t size) { return cut(fd, size); }
int ftruncate64(int fd, off64_t size) { return cut(fd, size); }

static void synced(int fd) {
  char path[PATH_MAX];
  struct stat about;
  if (fstat(fd, &about) || !place(fd, path)) return;
  if (S_ISDIR(about.st_mode)) say('N', about.st_ino, 0, path, "", "", 0);
  else if (S_ISREG(about.st_mode)) say('S', about.st_ino, 0, path, "", "", 0);
}
int fsync(int fd) {
  int done = REAL(fsync)(fd);
  if (done == 0) synced(fd);
  return done;
}
int fdatasync(int fd) {
  int done = REAL(fdatasync)(fd);
  if (done == 0) synced(fd);
  return done;
}

static int moved(int folder, const char *from, int target, const char *to) {
  char one[PATH_MAX], two[PATH_MAX];
  int first = named(folder, from, one), second = named(target, to, two), done = REAL(renameat)(folder, from, target, to);
  if (done == 0 && first && second) say('R', 0, 0, one, two, "", 0);
  return done;
}
int rename(const char *from, const char *to) { return moved(AT_FDCWD, from, AT_FDCWD, to); }
int renameat(int folder, const char *from, int target, const char *to) { return moved(folder, from, target, to); }

static int linked(int folder, const char *from, int target, const char *to, int flags) {
  char one[PATH_MAX], two[PATH_MAX];
  int first = named(folder, from, one), second = named(target, to, two);
  if (second && there(full)) return errno = ENOSPC, -1;
  int done = REAL(linkat)(folder, from, target, to, flags);
  if (done == 0 && first && second) say('K', 0, 0, one, two, "", 0);
  return done;
}
int link(const char *from, const char *to) { return linked(AT_FDCWD, from, AT_FDCWD, to, 0); }
int linkat(int folder, const char *from, int target, const char *to, int flags) {
  return linked(folder, from, target, to, flags);
}

static int gone(int folder, const char *name, int flags) {
  char path[PATH_MAX];
  int watch = named(folder, name, path), done = REAL(unlinkat)(folder, name, flags);
  if (done == 0 && watch) say('U', 0, 0, path, "", "", 0);
  return done;
}
int unlink(const char *name) { return gone(AT_FDCWD, name, 0); }
int unlinkat(int folder, const char *name, int flags) { return gone(folder, name, flags); }
int rmdir(const char *name) { return gone(AT_FDCWD, name, AT_REMOVEDIR); }

static int folder_made(int folder, const char *name, mode_t mode) {
  char path[PATH_MAX];
  int watch = named(folder, name, path);
  if (watch && there(full) && access(path, F_OK)) return errno = ENOSPC, -1;
  int done = REAL(mkdirat)(folder, name, mode);
  if (done == 0 && watch) say('D', 0, 0, path, "", "", 0);
  return done;
}
int mkdir(const char *name, mode_t mode) { return folder_made(AT_FDCWD, name, mode); }
int mkdirat(int folder, const char *name, mode_t mode) { return folder_made(folder, name, mode); }
