// COPY_OUT and STAT: what is at a path, as ENTRY and DATA frames, folders before what is in them.
#include "peer.h"
#include "transfer-files.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#define MQUEUE_MAGIC 0x19800202  // ipc/mqueue.c; no header has it

enum follow { NONE, SOURCE, ALL };
struct out {
  const char *source;
  enum follow follow;
  char path[4096];  // below the source; empty: the source itself
};
// The folders that we are in, innermost first.
struct level {
  dev_t dev;
  ino_t ino;
  const struct level *above;
};

const char *special_name(mode_t mode) { return S_ISFIFO(mode) ? "a FIFO" : S_ISSOCK(mode) ? "a socket" : "a device"; }

static int read_request(struct pair_reader *request, struct out *out) {
  char *key, *value;
  int more;
  while ((more = pair_next(request, &key, &value)) > 0) {
    if (!strcmp(key, "path")) out->source = value;
    else if (!strcmp(key, "follow")) out->follow = !strcmp(value, "all") ? ALL : SOURCE;
    else return failx("Cannot read files: init knows no key \"%s\"", key);
  }
  if (more < 0) return -1;
  return out->source && *out->source ? 0 : failx("Cannot read files: no path was given");
}

static int send_entry(const char *path, const char *kind, const struct stat *st, const char *target) {
  struct buffer pairs = {0};
  pair_put(&pairs, "path", path);
  pair_put(&pairs, "kind", kind);
  if (target) pair_put(&pairs, "target", target);
  if (st) {
    pair_put_number(&pairs, "mode", st->st_mode & 07777);
    pair_put_number(&pairs, "uid", st->st_uid);
    pair_put_number(&pairs, "gid", st->st_gid);
    pair_put_number(&pairs, "size", st->st_size);
    pair_put_number(&pairs, "mtime", st->st_mtim.tv_sec);
  }
  return peer_send_pairs(ENTRY, &pairs);
}

// What can't be copied: an error for the source itself, a word for what is below it.
static int skip(const struct out *out, const char *why) {
  if (!*out->path) return failx("Cannot copy %s: %s", out->source, why);
  struct buffer pairs = {0};
  pair_put(&pairs, "path", out->path);
  pair_put(&pairs, "message", why);
  return peer_send_pairs(SKIPPED, &pairs);
}

static int cannot_read(const struct out *out) {
  return *out->path ? fail("Cannot read %s/%s", out->source, out->path) : fail("Cannot read %s", out->source);
}

// No more than it had when it was opened: what grows as fast as it is read would never end. Files of /proc have no size.
static int send_data(const struct out *out, int fd, off_t size) {
  static char chunk[FRAME_PAYLOAD_MAX];
  for (off_t left = size; size == 0 || left > 0;) {
    size_t want = size && left < (off_t)sizeof chunk ? (size_t)left : sizeof chunk;
    ssize_t n = read(fd, chunk, want);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return cannot_read(out);
    if (n == 0) break;
    if (peer_send(DATA, chunk, (size_t)n) < 0) return -1;
    left -= n;
  }
  return peer_send(DATA, NULL, 0);
}

// `name` may have become something else since it was looked at: hence O_NONBLOCK, and the second look.
static int send_file(const struct out *out, int dir, const char *name, int nofollow) {
  struct stat st;
  int fd = openat(dir, name, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | nofollow);
  if (fd < 0 || fstat(fd, &st) < 0) {
    close_fd(&fd);
    return errno == ENOENT ? skip(out, "it has just gone") : cannot_read(out);
  }
  int result = !S_ISREG(st.st_mode) ? skip(out, "it has just become something else") : send_entry(out->path, "file", &st, NULL);
  if (result == 0 && S_ISREG(st.st_mode)) result = send_data(out, fd, st.st_size);
  close(fd);
  return result;
}

static int send_link(const struct out *out, int dir, const char *name, const struct stat *st) {
  char target[4096];
  ssize_t n = readlinkat(dir, name, target, sizeof target - 1);
  if (n < 0) return errno == ENOENT || errno == EINVAL ? skip(out, "it has just gone") : cannot_read(out);
  target[n] = 0;
  return send_entry(out->path, "link", st, target);
}

// Kernel file systems are no data: they are endless, block, or read other than they are.
static bool is_kernels(int fd) {
  static const unsigned long magic[] = {PROC_SUPER_MAGIC, SYSFS_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, DEVPTS_SUPER_MAGIC, DEBUGFS_MAGIC, TRACEFS_MAGIC, SECURITYFS_MAGIC, BPF_FS_MAGIC, MQUEUE_MAGIC};
  struct statfs fs;
  if (fstatfs(fd, &fs) < 0) return false;
  for (size_t i = 0; i < COUNT(magic); i++)
    if ((unsigned long)fs.f_type == magic[i]) return true;
  return false;
}

static int send_one(struct out *out, int dir, const char *name, const struct level *above);

static int send_entries(struct out *out, int fd, const struct level *here) {
  int own = dup(fd), result = 0;  // closedir closes what it was given
  DIR *dir = own < 0 ? NULL : fdopendir(own);
  if (!dir) return cannot_read(out);
  size_t base = strlen(out->path);
  struct dirent *entry;
  while (result == 0 && (errno = 0, entry = readdir(dir))) {
    if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
    if (base + strlen(entry->d_name) + 2 > sizeof out->path) result = failx("Cannot copy %.200s: the path of something in it is too long", out->source);
    else {
      sprintf(out->path + base, "%s%s", base ? "/" : "", entry->d_name);
      result = send_one(out, fd, entry->d_name, here);
    }
    out->path[base] = 0;
  }
  if (result == 0 && errno) result = cannot_read(out);
  closedir(dir);
  return result;
}

static int send_folder(struct out *out, int dir, const char *name, int nofollow, const struct level *above) {
  struct stat st;
  int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | nofollow), result;
  if (fd < 0 || fstat(fd, &st) < 0) {
    close_fd(&fd);
    return errno == ENOENT || errno == ENOTDIR ? skip(out, "it has just gone") : cannot_read(out);
  }
  struct level here = {st.st_dev, st.st_ino, above};
  const struct level *same = above;
  while (same && (same->dev != here.dev || same->ino != here.ino)) same = same->above;
  if (same) result = skip(out, "its symlink leads back to a folder that it is in");
  else if (is_kernels(fd)) result = skip(out, "it is of the kernel's own file systems");
  else if ((result = send_entry(out->path, "dir", &st, NULL)) == 0) result = send_entries(out, fd, &here);
  close(fd);
  return result;
}

static int send_one(struct out *out, int dir, const char *name, const struct level *above) {
  struct stat st;
  bool follow = out->follow == ALL || (out->follow == SOURCE && !above);
  int nofollow = follow ? 0 : O_NOFOLLOW;
  if (fstatat(dir, name, &st, follow ? 0 : AT_SYMLINK_NOFOLLOW) < 0) {
    if (above && (errno == ENOENT || errno == ELOOP)) return skip(out, follow ? "its symlink leads nowhere" : "it has just gone");
    return cannot_read(out);
  }
  if (S_ISDIR(st.st_mode)) return send_folder(out, dir, name, nofollow, above);
  if (S_ISLNK(st.st_mode)) return send_link(out, dir, name, &st);
  if (S_ISREG(st.st_mode)) return send_file(out, dir, name, nofollow);
  char why[64];
  snprintf(why, sizeof why, "it is %s", special_name(st.st_mode));
  return skip(out, why);
}

int files_out(struct pair_reader *request) {
  static struct out out;
  if (read_request(request, &out) < 0 || send_one(&out, AT_FDCWD, out.source, NULL) < 0) return -1;
  return peer_send(DONE, NULL, 0);
}

int files_stat(struct pair_reader *request) {
  static struct out out;
  struct stat st;
  if (read_request(request, &out) < 0) return -1;
  if (fstatat(AT_FDCWD, out.source, &st, out.follow == NONE ? AT_SYMLINK_NOFOLLOW : 0) < 0)
    return errno == ENOENT || errno == ENOTDIR ? send_entry("", "none", NULL, NULL) : fail("Cannot look at %s", out.source);
  if (S_ISLNK(st.st_mode)) return send_link(&out, AT_FDCWD, out.source, &st);
  return send_entry("", S_ISDIR(st.st_mode) ? "dir" : S_ISREG(st.st_mode) ? "file" : "other", &st, NULL);
}
