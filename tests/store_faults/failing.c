/* Makes one call on files of a store fail: loaded into the program with LD_PRELOAD.
 *
 * FAIL_PATH   part of the paths that are meant
 * FAIL_CALL   read or write
 * FAIL_AT     which of these calls fails, from 1
 * FAIL_ERRNO  with which error
 * FAIL_ALL    all later ones fail as well
 * FAIL_MARK   file that is made when a call fails
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static long calls;

static int fails(int fd, const char *call)
{
	const char *part = getenv("FAIL_PATH"), *which = getenv("FAIL_CALL");
	const char *at = getenv("FAIL_AT"), *error = getenv("FAIL_ERRNO");
	const char *mark = getenv("FAIL_MARK");
	char link[64], path[4096];
	ssize_t length;
	long n;

	if (!part || !which || !at || !error || strcmp(which, call))
		return 0;
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	length = readlink(link, path, sizeof path - 1);
	if (length <= 0)
		return 0;
	path[length] = 0;
	if (!strstr(path, part))
		return 0;
	n = __sync_add_and_fetch(&calls, 1);
	if (n != atol(at) && !(n > atol(at) && getenv("FAIL_ALL")))
		return 0;
	if (mark)
		close(open(mark, O_CREAT | O_WRONLY, 0600));
	errno = atoi(error);
	return 1;
}

#define NEXT(name) ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))

ssize_t read(int fd, void *to, size_t n)
{
	return fails(fd, "read") ? -1 : NEXT(read)(fd, to, n);
}

ssize_t pread(int fd, void *to, size_t n, off_t at)
{
	return fails(fd, "read") ? -1 : NEXT(pread)(fd, to, n, at);
}

ssize_t pread64(int fd, void *to, size_t n, off64_t at)
{
	return fails(fd, "read") ? -1 : NEXT(pread64)(fd, to, n, at);
}

ssize_t write(int fd, const void *from, size_t n)
{
	return fails(fd, "write") ? -1 : NEXT(write)(fd, from, n);
}

ssize_t pwrite(int fd, const void *from, size_t n, off_t at)
{
	return fails(fd, "write") ? -1 : NEXT(pwrite)(fd, from, n, at);
}

ssize_t pwrite64(int fd, const void *from, size_t n, off64_t at)
{
	return fails(fd, "write") ? -1 : NEXT(pwrite64)(fd, from, n, at);
}

int fsync(int fd)
{
	return fails(fd, "write") ? -1 : NEXT(fsync)(fd);
}

int fdatasync(int fd)
{
	return fails(fd, "write") ? -1 : NEXT(fdatasync)(fd);
}

int ftruncate64(int fd, off64_t length)
{
	return fails(fd, "write") ? -1 : NEXT(ftruncate64)(fd, length);
}
