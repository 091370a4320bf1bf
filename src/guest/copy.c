// A copy of a tree with owner, mode, times, extended attributes (capabilities, ACLs), devices and hard links.
#include "copy.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

// Files with more than one name that were copied: where their first copy is.
struct link {
  dev_t dev;
  ino_t ino;
  struct link *next;
  char path[];
};
struct copy {
  int root;  // `to` of the whole tree; link paths are relative to it
  struct link *links;
  char path[4096];
};

static int copy_attributes(int from, int to, const char *name) {
  char list[4096], value[65536];
  ssize_t n = flistxattr(from, list, sizeof list);
  if (n < 0) return errno == ENOTSUP ? 0 : fail("Cannot list the attributes of %s", name);
  for (char *key = list; key < list + n; key += strlen(key) + 1) {
    ssize_t length = fgetxattr(from, key, value, sizeof value);
    if (length < 0) return fail("Cannot read attribute %s of %s", key, name);
    if (fsetxattr(to, key, value, (size_t)length, 0) < 0 && errno != ENOTSUP) return fail("Cannot set attribute %s of %s", key, name);
  }
  return 0;
}

// Owner before mode and attributes: chown clears set-id bits and capabilities.
static int copy_metadata(int from, int to, const struct stat *st, const char *name) {
  if (fchown(to, st->st_uid, st->st_gid) < 0 || fchmod(to, st->st_mode & 07777) < 0) return fail("Cannot set owner and mode of %s", name);
  if (copy_attributes(from, to, name) < 0) return -1;
  const struct timespec times[2] = {st->st_atim, st->st_mtim};
  return futimens(to, times) < 0 ? fail("Cannot set the times of %s", name) : 0;
}

static int copy_file(int from_dir, int to_dir, const char *name, const struct stat *st) {
  int from = openat(from_dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  int to = from < 0 ? -1 : openat(to_dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  int result = to < 0 ? fail("Cannot copy %s", name) : 0;
  for (off_t left = st->st_size; result == 0 && left > 0;) {
    ssize_t n = sendfile(to, from, NULL, left > 1 << 30 ? 1 << 30 : (size_t)left);
    if (n < 0) result = fail("Cannot copy %s", name);
    if (n <= 0) break;
    left -= n;
  }
  if (result == 0) result = copy_metadata(from, to, st, name);
  close_fd(&from);
  close_fd(&to);
  return result;
}

static int copy_special(int from_dir, int to_dir, const char *name, const struct stat *st) {
  char target[4096];
  if (!S_ISLNK(st->st_mode)) {
    if (mknodat(to_dir, name, st->st_mode & (S_IFMT | 07777), st->st_rdev) < 0) return fail("Cannot make %s", name);
    if (fchownat(to_dir, name, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) < 0 || fchmodat(to_dir, name, st->st_mode & 07777, 0) < 0)
      return fail("Cannot set owner and mode of %s", name);
    return 0;
  }
  ssize_t n = readlinkat(from_dir, name, target, sizeof target - 1);
  if (n < 0) return fail("Cannot read symlink %s", name);
  target[n] = 0;
  if (symlinkat(target, to_dir, name) < 0 || fchownat(to_dir, name, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) < 0) return fail("Cannot make symlink %s", name);
  return 0;
}

// 1: made as a link to an earlier copy, 0: not seen before (now remembered), -1.
static int copy_link(struct copy *copy, int to_dir, const char *name, const struct stat *st) {
  if (st->st_nlink < 2) return 0;
  for (struct link *link = copy->links; link; link = link->next)
    if (link->ino == st->st_ino && link->dev == st->st_dev)
      return linkat(copy->root, link->path, to_dir, name, 0) < 0 ? fail("Cannot link %s", copy->path) : 1;
  struct link *link = must_alloc(malloc(sizeof *link + strlen(copy->path) + 1));
  *link = (struct link){st->st_dev, st->st_ino, copy->links};
  strcpy(link->path, copy->path);
  copy->links = link;
  return 0;
}

static int copy_directory(struct copy *copy, int from, int to);

static int copy_entry(struct copy *copy, int from_dir, int to_dir, const char *name) {
  struct stat st;
  if (fstatat(from_dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0) return fail("Cannot stat %s", copy->path);
  if (S_ISDIR(st.st_mode)) {
    if (mkdirat(to_dir, name, 0700) < 0 && errno != EEXIST) return fail("Cannot create directory %s", copy->path);
    int from = openat(from_dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int to = from < 0 ? -1 : openat(to_dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int result = to < 0 ? fail("Cannot open directory %s", copy->path) : copy_directory(copy, from, to);
    close_fd(&from);
    close_fd(&to);
    return result;
  }
  if (unlinkat(to_dir, name, 0) < 0 && errno != ENOENT) return fail("Cannot replace %s", copy->path);
  int linked = copy_link(copy, to_dir, name, &st);
  if (linked) return linked < 0 ? -1 : 0;
  return S_ISREG(st.st_mode) ? copy_file(from_dir, to_dir, name, &st) : copy_special(from_dir, to_dir, name, &st);
}

static int copy_directory(struct copy *copy, int from, int to) {
  struct stat st;
  int own = dup(from);  // closedir closes what it was given
  DIR *dir = own < 0 ? NULL : fdopendir(own);
  if (!dir || fstat(from, &st) < 0) return fail("Cannot read directory %s", copy->path);
  size_t base = strlen(copy->path);
  struct dirent *entry;
  int result = 0;
  while (result == 0 && (errno = 0, entry = readdir(dir))) {
    if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
    size_t n = strlen(entry->d_name);
    if (base + n + 2 > sizeof copy->path) result = failx("Cannot copy %s: its path is too long", entry->d_name);
    else {
      sprintf(copy->path + base, "%s%s", base ? "/" : "", entry->d_name);
      result = copy_entry(copy, from, to, entry->d_name);
    }
    copy->path[base] = 0;
  }
  if (result == 0 && errno) result = fail("Cannot read directory %s", copy->path);
  closedir(dir);
  return result == 0 ? copy_metadata(from, to, &st, copy->path) : result;
}

int copy_tree(int from, int to) {
  struct copy copy = {.root = to};
  int result = copy_directory(&copy, from, to);
  while (copy.links) {
    struct link *next = copy.links->next;
    free(copy.links);
    copy.links = next;
  }
  return result;
}
