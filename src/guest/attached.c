// Below ATTACHED_DIR/<n>: `disk`, and where the key has `overlay=DEVICE` also `over` (that disk) and `both`, the overlay of the two.
#include "attached.h"
#include "mounts.h"
#include "volumes.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define PLACE_MAX 64

struct attached {
  const char *path;  // in the workload's root
  bool layered, writable;
  int tree;
};
static struct attached *all;
static size_t count;

static const char *place(char at[PLACE_MAX], size_t n, const char *part) {
  snprintf(at, PLACE_MAX, ATTACHED_DIR "/%zu/%s", n, part);
  return at;
}

struct options {
  unsigned long flags;
  char rest[256];     // for the file system
  char overlay[41];   // device of the layer that is written to; empty: none
};

// mount(8)'s options: those that are flags of mount(2), our own, the rest for the file system. `text` is cut up.
static void split_options(char *text, struct options *options) {
  const struct { const char *name; unsigned long flag; } flags[] = {
    {"ro", MS_RDONLY}, {"rw", 0}, {"-", 0}, {"defaults", 0}, {"nosuid", MS_NOSUID}, {"nodev", MS_NODEV}, {"noexec", MS_NOEXEC},
    {"noatime", MS_NOATIME}, {"relatime", MS_RELATIME}, {"nodiratime", MS_NODIRATIME}, {"sync", MS_SYNCHRONOUS},
  };
  char *save;
  *options = (struct options){0};
  for (char *option = strtok_r(text, ",", &save); option; option = strtok_r(NULL, ",", &save)) {
    size_t i = 0, n = strlen(options->rest);
    while (i < COUNT(flags) && strcmp(option, flags[i].name) != 0) i++;
    if (i < COUNT(flags)) options->flags |= flags[i].flag;
    else if (!strncmp(option, "overlay=", 8)) snprintf(options->overlay, sizeof options->overlay, "%s", option + 8);
    else snprintf(options->rest + n, sizeof options->rest - n, "%s%s", n ? "," : "", option);
  }
}

static int mount_layers(size_t n, const char *disk, const char *type, const struct options *options) {
  char lower[PLACE_MAX], over[PLACE_MAX], both[PLACE_MAX], upper[PLACE_MAX], work[PLACE_MAX], layers[4 * PLACE_MAX];
  struct stat st;
  if (mount_disk(disk, place(lower, n, "disk"), type, options->flags | MS_RDONLY, options->rest) < 0) return -1;
  if (mount_disk(options->overlay, place(over, n, "over"), "ext4", MS_NOATIME, "") < 0) return -1;
  if (make_dirs(place(upper, n, "over/upper")) < 0 || make_dirs(place(work, n, "over/work")) < 0 || make_dirs(place(both, n, "both")) < 0) return -1;
  // The root of both takes owner and mode from the upper folder, once: what the workload makes of them stays.
  if (stat(lower, &st) < 0) return fail("Cannot stat the volume %s", disk);
  char mark[PLACE_MAX];
  if (mkdir(place(mark, n, "over/made"), 0700) == 0 && (chown(upper, st.st_uid, st.st_gid) < 0 || chmod(upper, st.st_mode & 07777) < 0))
    return fail("Cannot prepare the layer over the volume %s", disk);
  snprintf(layers, sizeof layers, "lowerdir=%s,upperdir=%s,workdir=%s,redirect_dir=on", lower, upper, work);
  return mount("overlay", both, "overlay", 0, layers) < 0 ? fail("Cannot mount the layer over the volume %s", disk) : 0;
}

// "DEVICE FSTYPE OPTIONS PATH" of the README's key `mount`.
static int mount_line(size_t n, const char *line) {
  char disk[41], type[32], text[256], at[PLACE_MAX];
  struct options options;
  int path = 0;
  if (sscanf(line, "%40s %31s %255s %n", disk, type, text, &path) < 3 || line[path] != '/') return failx("Cannot use mount \"%s\": it is not DEVICE FSTYPE OPTIONS PATH", line);
  split_options(text, &options);
  bool layered = *options.overlay;
  all[n] = (struct attached){.path = line + path, .layered = layered, .writable = layered || !(options.flags & MS_RDONLY), .tree = -1};
  int mounted = layered ? mount_layers(n, disk, type, &options) : mount_disk(disk, place(at, n, "disk"), type, options.flags, options.rest);
  if (mounted < 0) {
    char why[FAILURE_MAX];
    snprintf(why, sizeof why, "%s", failure);
    return failx("Cannot use the volume at %.200s: %.250s", all[n].path, why);
  }
  // mkfs makes it, and programs that want an empty folder (databases) refuse one with it. e2fsck makes it anew where it needs it.
  rmdir(place(at, n, all[n].layered ? "both/lost+found" : "disk/lost+found"));
  return 0;
}

int attached_mount(const struct config *config) {
  if (!config->mounts.n) return 0;
  all = must_alloc(calloc(config->mounts.n, sizeof *all));
  // A file system of its own, so that one unmount hides all from the workload.
  if (make_dirs(ATTACHED_DIR) < 0) return -1;
  if (mount("tmpfs", ATTACHED_DIR, "tmpfs", 0, "mode=700") < 0) return fail("Cannot mount " ATTACHED_DIR);
  for (; count < config->mounts.n; count++)
    if (mount_line(count, config->mounts.items[count]) < 0) return count++, -1;
  return 0;
}

bool attached_any(void) { return count > 0; }

int attached_open(void) {
  char at[PLACE_MAX];
  for (size_t i = 0; i < count; i++)
    if ((all[i].tree = tree_open(place(at, i, all[i].layered ? "both" : "disk"))) < 0) return -1;
  return 0;
}

static bool is_empty(int folder) {
  DIR *dir = fdopendir(folder);
  if (!dir) return close(folder), false;
  struct dirent *entry = readdir(dir);
  while (entry && (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))) entry = readdir(dir);
  closedir(dir);
  return !entry;
}

// One with nothing in it yet takes owner and mode of what the image has there, as in Docker: or a program that is not root could not write it.
static int adopt(const struct attached *one) {
  struct stat st;
  int folder = openat(one->tree, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return fail("Cannot open the volume at %s", one->path);
  if (!is_empty(folder)) return 0;
  if (stat(one->path, &st) < 0 || fchownat(one->tree, ".", st.st_uid, st.st_gid, 0) < 0 || fchmodat(one->tree, ".", st.st_mode & 07777, 0) < 0)
    return fail("Cannot give the volume at %s owner and mode of the image's folder", one->path);
  return 0;
}

int attached_attach(void) {
  for (size_t i = 0; i < count; i++)
    if (make_dirs(all[i].path) < 0 || (all[i].writable && adopt(&all[i]) < 0) || tree_attach(all[i].tree, all[i].path) < 0) return -1;
  return 0;
}

// Read-only first: that goes for the file system wherever it is mounted, so also where a namespace that is about to go still has it.
static void unmount(const char *target) {
  bool mounted = mount(NULL, target, NULL, MS_REMOUNT | MS_RDONLY, NULL) == 0;
  if (!mounted && (errno == EINVAL || errno == ENOENT)) return;  // it never was
  if (!mounted) say("Cannot make %s read-only: %s", target, strerror(errno));
  if (umount2(target, 0) < 0) say("Cannot unmount %s: %s", target, strerror(errno));
}

void attached_end(void) {
  const char *const parts[] = {"both", "over", "disk"};
  char at[PLACE_MAX];
  for (size_t i = count; i-- > 0;)
    for (size_t j = 0; j < COUNT(parts); j++) unmount(place(at, i, parts[j]));
}
