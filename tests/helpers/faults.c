/* Makes chosen calls of a process fail or hang, for paths that match: loaded with LD_PRELOAD (see faults.py).
 *
 * DEFOCUS_FAULTS names the file of rules, read anew at each call, so that a fault can begin and end while the process
 * runs. A rule is a line: CALL ERRNO MILLISECONDS PATTERN. CALL is open, read, bulk (a read of over 100 KiB: of
 * pixels, not of headers), write, fsync, rename, scandir, readdir, stat,
 * mkdir or unlink; or any: each of them, as on a share that is away. ERRNO is a number, 0 for a call that is only slow;
 * PATTERN is matched by fnmatch(3) against the whole path.
 * CALL may also be clock: MILLISECONDS are then added to the time of day, as when somebody sets the clock.
 * DEFOCUS_FAULTS_HITS names a file to which each fault that was met is appended: CALL and path.
 *
 * Our own look at the rules goes past the C library, so that it does not meet itself.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static void note(const char *call, const char *path)
{
    const char *name = getenv("DEFOCUS_FAULTS_HITS");
    char line[4200];
    int length, file;
    if (name == NULL)
        return;
    file = syscall(SYS_openat, AT_FDCWD, name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (file < 0)
        return;
    length = snprintf(line, sizeof line, "%s %s\n", call, path);
    syscall(SYS_write, file, line, (size_t)length);
    syscall(SYS_close, file);
}

static int rule_for(const char *call, const char *path, int *milliseconds)
{
    const char *name = getenv("DEFOCUS_FAULTS");
    char text[4096], *line, *rest = text;
    long size;
    int file;
    if (name == NULL || path == NULL)
        return 0;
    file = syscall(SYS_openat, AT_FDCWD, name, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return 0;
    size = syscall(SYS_read, file, text, sizeof text - 1);
    syscall(SYS_close, file);
    if (size <= 0)
        return 0;
    text[size] = 0;
    while ((line = strsep(&rest, "\n")) != NULL) {
        char which[16];
        int number, at;
        if (sscanf(line, "%15s %d %d %n", which, &number, milliseconds, &at) < 3)
            continue;
        if (strcmp(which, call) != 0 && (strcmp(which, "any") != 0 || strcmp(call, "clock") == 0))
            continue;
        if (fnmatch(line + at, path, 0) != 0)
            continue;
        note(call, path);
        return number;
    }
    *milliseconds = 0;
    return 0;
}

/* The errno that a call should fail with, after a pause if the rule has one; 0: let it through, errno as it was. */
static int fault(const char *call, const char *path)
{
    int before = errno, milliseconds = 0, number = rule_for(call, path, &milliseconds);
    if (milliseconds > 0) {
        struct timespec pause = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
        nanosleep(&pause, NULL); /* a share that hangs */
    }
    errno = before;
    return number;
}

static int fault_of_file(const char *call, int file)
{
    char link[64], path[4096];
    int before = errno;
    long size;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    size = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    errno = before;
    if (size <= 0)
        return 0;
    path[size] = 0;
    return fault(call, path);
}

/* The function that we stand before. */
#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name) \
    int name(const char *path, int flags, ...) \
    { \
        va_list rest; \
        mode_t mode; \
        int number = fault("open", path); \
        if (number) { \
            errno = number; \
            return -1; \
        } \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
        return NEXT(name)(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) \
    { \
        va_list rest; \
        mode_t mode; \
        int number = fault("open", path); \
        if (number) { \
            errno = number; \
            return -1; \
        } \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
        return NEXT(name)(folder, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

/* Calls on an open file: RESULT NAME(PARAMETERS), what it is called in the rules, its file, what it returns on failure. */
#define ON_FILE(result, name, call, file, failed, parameters, arguments) \
    result name parameters \
    { \
        int number = fault_of_file(call, file); \
        if (number) { \
            errno = number; \
            return failed; \
        } \
        return NEXT(name) arguments; \
    }
ON_FILE(ssize_t, read, size > 100 << 10 ? "bulk" : "read", file, -1, (int file, void *data, size_t size), (file, data, size))
ON_FILE(ssize_t, readv, "read", file, -1, (int file, const struct iovec *data, int count), (file, data, count))
ON_FILE(ssize_t, pread, "read", file, -1, (int file, void *data, size_t size, off_t at), (file, data, size, at))
ON_FILE(ssize_t, pread64, "read", file, -1, (int file, void *data, size_t size, off64_t at), (file, data, size, at))
ON_FILE(size_t, fread, "read", fileno(stream), 0, (void *data, size_t size, size_t count, FILE *stream),
        (data, size, count, stream))
ON_FILE(ssize_t, write, "write", file, -1, (int file, const void *data, size_t size), (file, data, size))
ON_FILE(ssize_t, writev, "write", file, -1, (int file, const struct iovec *data, int count), (file, data, count))
ON_FILE(ssize_t, pwrite, "write", file, -1, (int file, const void *data, size_t size, off_t at), (file, data, size, at))
ON_FILE(ssize_t, pwrite64, "write", file, -1, (int file, const void *data, size_t size, off64_t at),
        (file, data, size, at))
ON_FILE(size_t, fwrite, "write", fileno(stream), 0, (const void *data, size_t size, size_t count, FILE *stream),
        (data, size, count, stream))
ON_FILE(int, fsync, "fsync", file, -1, (int file), (file))
ON_FILE(int, fdatasync, "fsync", file, -1, (int file), (file))

/* The rule names the path that the file is to have. */
int rename(const char *from, const char *to)
{
    int number = fault("rename", to);
    if (number) {
        errno = number;
        return -1;
    }
    return NEXT(rename)(from, to);
}

int renameat(int from_folder, const char *from, int to_folder, const char *to)
{
    int number = fault("rename", to);
    if (number) {
        errno = number;
        return -1;
    }
    return NEXT(renameat)(from_folder, from, to_folder, to);
}

DIR *opendir(const char *path)
{
    int number = fault("scandir", path);
    if (number) {
        errno = number;
        return NULL;
    }
    return NEXT(opendir)(path);
}

/* Calls on a path. */
#define ON_PATH(name, call, parameters, arguments) \
    int name parameters \
    { \
        int number = fault(call, path); \
        if (number) { \
            errno = number; \
            return -1; \
        } \
        return NEXT(name) arguments; \
    }
ON_PATH(stat, "stat", (const char *path, struct stat *found), (path, found))
ON_PATH(stat64, "stat", (const char *path, struct stat64 *found), (path, found))
ON_PATH(lstat, "stat", (const char *path, struct stat *found), (path, found))
ON_PATH(lstat64, "stat", (const char *path, struct stat64 *found), (path, found))
ON_PATH(statx, "stat", (int folder, const char *path, int flags, unsigned mask, struct statx *found),
        (folder, path, flags, mask, found))
ON_PATH(fstatat, "stat", (int folder, const char *path, struct stat *found, int flags), (folder, path, found, flags))
ON_PATH(fstatat64, "stat", (int folder, const char *path, struct stat64 *found, int flags), (folder, path, found, flags))
ON_PATH(statvfs, "stat", (const char *path, struct statvfs *found), (path, found))
ON_PATH(statvfs64, "stat", (const char *path, struct statvfs64 *found), (path, found))
ON_PATH(mkdir, "mkdir", (const char *path, mode_t mode), (path, mode))
ON_PATH(unlink, "unlink", (const char *path), (path))

/* A folder that opens, and fails while it is listed. */
#define READDIR(entry, name) \
    entry *name(DIR *folder) \
    { \
        int number = fault_of_file("readdir", dirfd(folder)); \
        if (number) { \
            errno = number; \
            return NULL; \
        } \
        return NEXT(name)(folder); \
    }
READDIR(struct dirent, readdir)
READDIR(struct dirent64, readdir64)

int clock_gettime(clockid_t clock, struct timespec *time)
{
    int before = errno, milliseconds = 0, result = NEXT(clock_gettime)(clock, time);
    if (result == 0 && clock == CLOCK_REALTIME) {
        rule_for("clock", "", &milliseconds);
        time->tv_sec += milliseconds / 1000;
        errno = before;
    }
    return result;
}
