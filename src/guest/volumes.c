// On the writable disk: volumes/<path with / as %2F> and, once it is filled from the image, volumes/ok<same>.
#include "volumes.h"
#include "copy.h"
#include "mounts.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NAME_LIMIT 250  // of 255, less "ok"

int tree_open(const char *path) {
  int tree = (int)syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  return tree < 0 ? fail("Cannot take a mount of %s", path) : tree;
}

int tree_attach(int tree, const char *target) {
  if (syscall(SYS_move_mount, tree, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) < 0) return fail("Cannot mount on %s", target);
  close(tree);
  return 0;
}

static int escape(const char *path, char *name) {
  size_t n = 0;
  for (; *path; path++) {
    bool special = *path == '/' || *path == '%';
    if (n + (special ? 3 : 1) > NAME_LIMIT) return failx("Cannot make a volume: its path is too long");
    n += (size_t)sprintf(name + n, special ? "%%%02X" : "%c", *path);
  }
  name[n] = 0;
  return 0;
}

static void add_path(struct volumes *volumes, char *path) {
  size_t n = strlen(path);
  while (n > 1 && path[n - 1] == '/') path[--n] = 0;
  for (size_t i = 0; i < volumes->paths.n; i++)
    if (!strcmp(volumes->paths.items[i], path)) return;
  list_add(&volumes->paths, path);
}

static int by_path(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

int volumes_open(const struct config *config, struct volumes *volumes) {
  static char docker[] = "/var/lib/docker", containerd[] = "/var/lib/containerd";
  *volumes = (struct volumes){0};
  for (size_t i = 0; i < config->volumes.n; i++) {
    char *path = config->volumes.items[i];
    if (*path != '/' || !strcmp(path, "/")) return failx("Cannot make volume \"%s\": it is not an absolute path below /", path);
    add_path(volumes, path);
  }
  add_path(volumes, docker);
  add_path(volumes, containerd);
  qsort(volumes->paths.items, volumes->paths.n, sizeof *volumes->paths.items, by_path);  // a parent is mounted before its children
  volumes->trees = must_alloc(calloc(volumes->paths.n, sizeof *volumes->trees));
  volumes->disk = open_cloexec(DISK_DIR "/volumes", O_RDONLY | O_DIRECTORY);
  if (volumes->disk < 0) return -1;
  for (size_t i = 0; i < volumes->paths.n; i++) {
    char name[NAME_LIMIT + 1], path[sizeof DISK_DIR + NAME_LIMIT + 16];
    if (escape(volumes->paths.items[i], name) < 0) return -1;
    snprintf(path, sizeof path, DISK_DIR "/volumes/%s", name);
    if (make_dirs(path) < 0 || (volumes->trees[i] = tree_open(path)) < 0) return -1;
  }
  return 0;
}

// The mark is made once the copy is on disk: a power cut in between repeats the copy over what is there.
static int fill(const struct volumes *volumes, size_t i) {
  char mark[NAME_LIMIT + 3] = "ok";
  const char *path = volumes->paths.items[i];
  if (escape(path, mark + 2) < 0) return -1;
  struct stat st;
  if (fstatat(volumes->disk, mark, &st, 0) == 0) return 0;
  int from = open_cloexec(path, O_RDONLY | O_DIRECTORY);
  if (from < 0) return -1;
  int to = openat(volumes->trees[i], ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int result = to < 0 ? fail("Cannot open volume %s", path) : copy_tree(from, to);
  if (result == 0 && syncfs(to) < 0) result = fail("Cannot write volume %s to disk", path);
  close(from);
  close_fd(&to);
  if (result < 0) return -1;
  int fd = openat(volumes->disk, mark, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return fail("Cannot mark volume %s as filled", path);
  close(fd);
  return 0;
}

int volumes_attach(struct volumes *volumes) {
  for (size_t i = 0; i < volumes->paths.n; i++) {
    const char *path = volumes->paths.items[i];
    if (make_dirs(path) < 0 || fill(volumes, i) < 0 || tree_attach(volumes->trees[i], path) < 0) return -1;
  }
  close_fd(&volumes->disk);
  free(volumes->trees);
  return 0;
}
