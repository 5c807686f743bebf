/* base_file: files that are whole or absent. */
#define _GNU_SOURCE
#include "host/base.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { BUFFER = 1 << 20 };

/* A place that cannot be created is the user's choice of name; a file that cannot be read is input. */
static int io_error(whit_err *e, const char *verb, const char *path) {
	int no = errno, code = WHIT_EINPUT;
	if (no == ENOSPC || no == EDQUOT || no == EFBIG || no == EIO || no == EMFILE || no == ENOMEM)
		code = WHIT_ERESOURCE;
	else if (!strcmp(verb, "create"))
		code = WHIT_EUSAGE;
	return whit_fail(e, code, "%s: cannot %s: %s", path, verb, strerror(no));
}

/* ---- reading ---- */

static int64_t stat_mtime(const struct stat *s) { return (int64_t)s->st_mtim.tv_sec * 1000000000 + s->st_mtim.tv_nsec; }

static const char *kind_of(mode_t m) { return S_ISDIR(m) ? "directory" : S_ISFIFO(m) ? "pipe" : "device or socket"; }

int whit_map_open(whit_map *m, const char *path, whit_err *e) {
	memset(m, 0, sizeof *m);
	/* Nonblocking, so that a FIFO is refused and not waited for. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0) return io_error(e, "open", path);
	struct stat s;
	int rc = 0;
	if (fstat(fd, &s))
		rc = io_error(e, "stat", path);
	else if (!S_ISREG(s.st_mode))
		rc = whit_fail(e, WHIT_EINPUT, "%s: is a %s, need a regular file", path, kind_of(s.st_mode));
	else if (s.st_size) {
		void *p = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (p == MAP_FAILED)
			rc = io_error(e, "map", path);
		else
			m->data = p;
	} else
		m->data = (const uint8_t *)"";
	close(fd);
	if (rc) return rc;
	m->bytes = (size_t)s.st_size;
	m->mtime_ns = stat_mtime(&s);
	m->path = whit_strdup(path);
	return 0;
}

int whit_map_check(const whit_map *m, whit_err *e) {
	struct stat s;
	if (stat(m->path, &s)) return io_error(e, "stat", m->path);
	if ((size_t)s.st_size != m->bytes || stat_mtime(&s) != m->mtime_ns)
		return whit_fail(e, WHIT_EINPUT, "%s: changed while it was being read: is %lld bytes, was %zu", m->path,
		                 (long long)s.st_size, m->bytes);
	return 0;
}

void whit_map_close(whit_map *m) {
	if (m->data && m->bytes) munmap((void *)(uintptr_t)m->data, m->bytes);
	whit_free(m->path);
	memset(m, 0, sizeof *m);
}

/* ---- writing ---- */

static int sync_parent(const char *path, whit_err *e) {
	char *dir = whit_strdup(path), *slash = strrchr(dir, '/');
	if (slash == dir) slash++;
	if (slash) *slash = 0;
	const char *name = slash ? dir : ".";
	int fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;
	/* Some file systems cannot sync a directory (EINVAL): the rename has happened all the same. */
	if (fd < 0 || (fsync(fd) && errno != EINVAL)) rc = io_error(e, "sync", name);
	if (fd >= 0) close(fd);
	whit_free(dir);
	return rc;
}

static int write_all(int fd, const char *path, const void *p, size_t n, whit_err *e) {
	const uint8_t *b = p;
	while (n) {
		ssize_t k = write(fd, b, n);
		if (k < 0 && errno == EINTR) continue;
		if (k < 0) return io_error(e, "write", path);
		b += k;
		n -= (size_t)k;
	}
	return 0;
}

int whit_out_open(whit_out *o, const char *path, whit_err *e) {
	struct stat s;
	memset(o, 0, sizeof *o);
	/* The rename at the end would put a file where a device was, or fail on a directory after all the work. */
	if (!stat(path, &s) && !S_ISREG(s.st_mode))
		return whit_fail(e, WHIT_EUSAGE, "%s: is a %s, need a regular file or a new name", path,
		                 kind_of(s.st_mode));
	o->tmp = whit_format_text("%s.%ld.partial", path, (long)getpid());
	o->fd = open(o->tmp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (o->fd < 0) {
		int rc = io_error(e, "create", o->tmp);
		whit_free(o->tmp);
		memset(o, 0, sizeof *o);
		return rc;
	}
	o->path = whit_strdup(path);
	o->buf = whit_alloc(BUFFER);
	return 0;
}

static int out_flush(whit_out *o, whit_err *e) {
	size_t n = o->fill;
	o->fill = 0;
	return write_all(o->fd, o->tmp, o->buf, n, e);
}

int whit_out_write(whit_out *o, const void *p, size_t n, whit_err *e) {
	int rc;
	o->bytes += n;
	if (o->fill + n > BUFFER && (rc = out_flush(o, e))) return rc;
	if (n >= BUFFER) return write_all(o->fd, o->tmp, p, n, e);
	if (n) memcpy(o->buf + o->fill, p, n);
	o->fill += n;
	return 0;
}

int whit_out_write_at(whit_out *o, uint64_t offset, const void *p, size_t n, whit_err *e) {
	int rc = out_flush(o, e);
	const uint8_t *b = p;
	while (!rc && n) {
		ssize_t k = pwrite(o->fd, b, n, (off_t)offset);
		if (k < 0 && errno == EINTR) continue;
		if (k < 0) return io_error(e, "write", o->tmp);
		b += k;
		offset += (uint64_t)k;
		n -= (size_t)k;
	}
	return rc;
}

static void out_clear(whit_out *o) {
	whit_free(o->path);
	whit_free(o->tmp);
	whit_free(o->buf);
	memset(o, 0, sizeof *o);
	o->fd = -1;
}

int whit_out_commit(whit_out *o, whit_err *e) {
	int rc = out_flush(o, e);
	if (!rc && fsync(o->fd)) rc = io_error(e, "sync", o->tmp);
	if (close(o->fd) && !rc) rc = io_error(e, "close", o->tmp);
	if (!rc && rename(o->tmp, o->path)) rc = io_error(e, "rename", o->tmp);
	if (rc) unlink(o->tmp);
	if (!rc) rc = sync_parent(o->path, e);
	out_clear(o);
	return rc;
}

void whit_out_abort(whit_out *o) {
	if (!o->tmp) return;
	close(o->fd);
	unlink(o->tmp);
	out_clear(o);
}

int whit_out_try(const char *path, whit_err *e) {
	whit_out o;
	int rc = whit_out_open(&o, path, e);
	if (!rc) whit_out_abort(&o);
	return rc;
}

int whit_write_file(const char *path, const void *p, size_t n, whit_err *e) {
	whit_out o;
	int rc = whit_out_open(&o, path, e);
	if (rc) return rc;
	if ((rc = whit_out_write(&o, p, n, e))) {
		whit_out_abort(&o);
		return rc;
	}
	return whit_out_commit(&o, e);
}

int whit_copy_file(const char *from, const char *to, whit_err *e) {
	whit_map m;
	int rc = whit_map_open(&m, from, e);
	if (rc) return rc;
	rc = whit_write_file(to, m.data, m.bytes, e);
	whit_map_close(&m);
	return rc;
}

int whit_file_exists(const char *path) {
	struct stat s;
	return lstat(path, &s) == 0;
}

int whit_is_dir(const char *path) {
	struct stat s;
	return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

int whit_same_file(const char *a, const char *b) {
	struct stat s, t;
	if (stat(a, &s) || stat(b, &t)) return !strcmp(a, b);
	return S_ISREG(s.st_mode) && s.st_dev == t.st_dev && s.st_ino == t.st_ino;
}

/* ---- output directories ---- */

static int is_partial(const char *name) {
	size_t n = strlen(name), k = strlen(".partial");
	return n > k && !strcmp(name + n - k, ".partial");
}

/* Removes the plain files of a directory but one (all that whit writes is flat); or only what a killed writer left
 * half-written there. */
static void remove_files(const char *path, const char *but, int partial) {
	DIR *d = opendir(path);
	if (!d) return;
	for (struct dirent *f; (f = readdir(d));)
		if (strcmp(f->d_name, ".") && strcmp(f->d_name, "..") && strcmp(f->d_name, but) &&
		    (!partial || is_partial(f->d_name)))
			unlinkat(dirfd(d), f->d_name, 0);
	closedir(d);
}

void whit_dir_remove(const char *path) {
	remove_files(path, "", 0);
	rmdir(path);
}

/* Makes d->tmp, or takes it over from a writer that was killed: such a one left its .lock there, or nothing. */
static int make_tmp(const whit_outdir *d, whit_err *e) {
	if (!mkdir(d->tmp, 0777)) return 0;
	if (errno != EEXIST) return io_error(e, "create", d->tmp);
	char *lock = whit_outdir_file(d, ".lock");
	int ours = whit_file_exists(lock), files = 0;
	whit_free(lock);
	DIR *in = opendir(d->tmp);
	if (!in) return whit_fail(e, WHIT_EUSAGE, "%s: cannot open as a directory: %s", d->tmp, strerror(errno));
	for (struct dirent *f; (f = readdir(in));) files += strcmp(f->d_name, ".") && strcmp(f->d_name, "..");
	closedir(in);
	return ours || !files ? 0 : whit_fail(e, WHIT_EUSAGE, "%s: is in the way, and not a leftover of whit", d->tmp);
}

static int lock_dir(whit_outdir *d, whit_err *e) {
	char *name = whit_outdir_file(d, ".lock");
	int rc = 0;
	d->lock = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	if (d->lock < 0)
		rc = io_error(e, "create", name);
	else if (flock(d->lock, LOCK_EX | LOCK_NB)) {
		char who[32] = "";
		ssize_t k = read(d->lock, who, sizeof who - 1);
		who[WHIT_MAX(k, 0)] = 0;
		rc = whit_fail(e, WHIT_EUSAGE, "%s: is being written by process %s", d->tmp,
		               who[0] ? who : "(unknown)");
		close(d->lock);
		d->lock = -1;
	} else {
		char who[32];
		int n = snprintf(who, sizeof who, "%ld", (long)getpid());
		if (ftruncate(d->lock, 0) || write(d->lock, who, (size_t)n) != n) rc = io_error(e, "write", name);
	}
	whit_free(name);
	return rc;
}

int whit_outdir_resume(whit_outdir *d, const char *path, int replace, whit_err *e) {
	memset(d, 0, sizeof *d);
	d->lock = -1;
	d->replace = replace;
	d->path = whit_strdup(path);
	for (size_t n = strlen(d->path); n > 1 && d->path[n - 1] == '/'; n--) d->path[n - 1] = 0;
	d->tmp = whit_format_text("%s.partial", d->path);
	int rc = 0;
	if (whit_file_exists(d->path) && !replace)
		rc = whit_fail(e, WHIT_EUSAGE, "%s: exists; give another name, or --force to replace it", d->path);
	else if (whit_file_exists(d->path) && !whit_is_dir(d->path))
		rc = whit_fail(e, WHIT_EUSAGE, "%s: is a file, need a directory to replace", d->path);
	else if (!(rc = make_tmp(d, e)) && !(rc = lock_dir(d, e))) {
		remove_files(d->tmp, ".lock", 1);
		return 0;
	}
	whit_free(d->path);
	whit_free(d->tmp);
	memset(d, 0, sizeof *d);
	return rc;
}

int whit_outdir_open(whit_outdir *d, const char *path, int replace, whit_err *e) {
	int rc = whit_outdir_resume(d, path, replace, e);
	if (!rc) remove_files(d->tmp, ".lock", 0);
	return rc;
}

char *whit_outdir_file(const whit_outdir *d, const char *name) { return whit_format_text("%s/%s", d->tmp, name); }

static void outdir_clear(whit_outdir *d) {
	if (d->lock >= 0) close(d->lock);
	whit_free(d->path);
	whit_free(d->tmp);
	memset(d, 0, sizeof *d);
	d->lock = -1;
}

int whit_outdir_commit(whit_outdir *d, whit_err *e) {
	char *lock = whit_outdir_file(d, ".lock"), *old = whit_format_text("%s.old.partial", d->path);
	int rc = 0;
	unlink(lock);
	if (d->replace && whit_file_exists(d->path)) {
		whit_dir_remove(old); /* of a writer that was killed while it removed this */
		if (rename(d->path, old)) rc = io_error(e, "rename", d->path);
	}
	if (!rc && rename(d->tmp, d->path)) {
		rc = io_error(e, "rename", d->tmp);
		if (d->replace && rename(old, d->path)) whit_fail_in(e, "%s: the replaced directory stays there", old);
	}
	if (!rc) rc = sync_parent(d->path, e);
	if (rc)
		whit_dir_remove(d->tmp);
	else
		whit_dir_remove(old);
	whit_free(lock);
	whit_free(old);
	outdir_clear(d);
	return rc;
}

void whit_outdir_keep(whit_outdir *d) {
	if (d->tmp) outdir_clear(d);
}

void whit_outdir_abort(whit_outdir *d) {
	if (!d->tmp) return;
	whit_dir_remove(d->tmp);
	outdir_clear(d);
}
