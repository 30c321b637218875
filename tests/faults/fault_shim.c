/* Loaded before libc (LD_PRELOAD): the N-th change of a file below one directory kills the process or fails.

   Counted are creating, writing, truncating, syncing, renaming, linking, deleting and making directories, whoever asks
   for them: Python, SQLite, safetensors. A write that fails has written its first half. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[4096];
static size_t root_length;
static long at, count;
static int fault_errno, only_once;

/* From now on: the at-th change below root_path meets fault_errno (0: SIGKILL), and all behind it unless only once. */
void fault_arm(const char *root_path, long at_, int errno_, int only_once_) {
    strncpy(root, root_path, sizeof root - 1);
    root_length = strlen(root);
    at = at_;
    fault_errno = errno_;
    only_once = only_once_;
    count = 0;
}

long fault_count(void) { return count; }

static int below(const char *path) {
    return root_length && strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || !path[root_length]);
}

static int names_of(int descriptor, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, size - 1);
    path[length > 0 ? length : 0] = 0;
    return length > 0;
}

static int below_descriptor(int descriptor) {
    char path[4096];
    return root_length && names_of(descriptor, path, sizeof path) && below(path);
}

static int below_at(int directory, const char *path) {
    char whole[8192];
    if (!root_length || !path) return 0;
    if (path[0] == '/') return below(path);
    if (directory == AT_FDCWD) {
        if (!getcwd(whole, 4096)) return 0;
    } else if (!names_of(directory, whole, 4096)) {
        return 0;
    }
    strncat(whole, "/", 2);
    strncat(whole, path, 4000);
    return below(whole);
}

/* Whether this change, one below the root, is to fail. */
static int meets(void) {
    count++;
    return at > 0 && (count == at || (count > at && !only_once));
}

static int fault(void) {
    if (!fault_errno) {
        kill(getpid(), SIGKILL);
        pause();
    }
    errno = fault_errno;
    return -1;
}

#define REAL(name) ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))
#define GUARD(is_below) if ((is_below) && meets()) return fault()

#define CHANGES(flags) ((flags) & (O_CREAT | O_TRUNC | (O_TMPFILE & ~O_DIRECTORY)))
#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...) {                                                                       \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = va_arg(rest, mode_t);                                                                            \
        va_end(rest);                                                                                                  \
        GUARD(CHANGES(flags) && below_at(AT_FDCWD, path));                                                             \
        return REAL(name)(path, flags, mode);                                                                          \
    }
#define OPENAT(name)                                                                                                   \
    int name(int directory, const char *path, int flags, ...) {                                                        \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = va_arg(rest, mode_t);                                                                            \
        va_end(rest);                                                                                                  \
        GUARD(CHANGES(flags) && below_at(directory, path));                                                            \
        return REAL(name)(directory, path, flags, mode);                                                               \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int descriptor, const void *bytes, size_t size) {
    if (below_descriptor(descriptor) && meets()) {
        if (size > 1) REAL(write)(descriptor, bytes, size / 2);
        return fault();
    }
    return REAL(write)(descriptor, bytes, size);
}

#define PWRITE(name, offset_t)                                                                                         \
    ssize_t name(int descriptor, const void *bytes, size_t size, offset_t offset) {                                    \
        if (below_descriptor(descriptor) && meets()) {                                                                 \
            if (size > 1) REAL(name)(descriptor, bytes, size / 2, offset);                                             \
            return fault();                                                                                            \
        }                                                                                                              \
        return REAL(name)(descriptor, bytes, size, offset);                                                            \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int descriptor, const struct iovec *parts, int parts_count) {
    GUARD(below_descriptor(descriptor));
    return REAL(writev)(descriptor, parts, parts_count);
}

/* stdio's own writes cannot be reached: numpy writes so */
size_t fwrite(const void *bytes, size_t size, size_t items, FILE *stream) {
    if (below_descriptor(fileno(stream)) && meets()) {
        REAL(fwrite)(bytes, size, items / 2, stream);
        fflush(stream);
        fault();
        return items / 2;
    }
    return REAL(fwrite)(bytes, size, items, stream);
}

int fsync(int descriptor) {
    GUARD(below_descriptor(descriptor));
    return REAL(fsync)(descriptor);
}
int fdatasync(int descriptor) {
    GUARD(below_descriptor(descriptor));
    return REAL(fdatasync)(descriptor);
}
int ftruncate(int descriptor, off_t size) {
    GUARD(below_descriptor(descriptor));
    return REAL(ftruncate)(descriptor, size);
}
int ftruncate64(int descriptor, off64_t size) {
    GUARD(below_descriptor(descriptor));
    return REAL(ftruncate64)(descriptor, size);
}
int rename(const char *from, const char *to) {
    GUARD(below_at(AT_FDCWD, to));
    return REAL(rename)(from, to);
}
int renameat(int from_directory, const char *from, int to_directory, const char *to) {
    GUARD(below_at(to_directory, to));
    return REAL(renameat)(from_directory, from, to_directory, to);
}
int link(const char *from, const char *to) {
    GUARD(below_at(AT_FDCWD, to));
    return REAL(link)(from, to);
}
int unlink(const char *path) {
    GUARD(below_at(AT_FDCWD, path));
    return REAL(unlink)(path);
}
int unlinkat(int directory, const char *path, int flags) {
    GUARD(below_at(directory, path));
    return REAL(unlinkat)(directory, path, flags);
}
int mkdir(const char *path, mode_t mode) {
    GUARD(below_at(AT_FDCWD, path));
    return REAL(mkdir)(path, mode);
}
int mkdirat(int directory, const char *path, mode_t mode) {
    GUARD(below_at(directory, path));
    return REAL(mkdirat)(directory, path, mode);
}
int rmdir(const char *path) {
    GUARD(below_at(AT_FDCWD, path));
    return REAL(rmdir)(path);
}
