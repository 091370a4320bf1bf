// Mounts of init and of the root; volumes.c has what lies on the writable disk itself, attached.c other disks.
#include "mounts.h"
#include "attached.h"
#include "volumes.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

struct mount_entry {
  const char *type, *target, *options;
  unsigned long flags;
};

static int mount_one(const struct mount_entry *entry) {
  if (make_dirs(entry->target) < 0) return -1;
  return mount(entry->type, entry->target, entry->type, entry->flags, entry->options) < 0 ? fail("Cannot mount %s on %s", entry->type, entry->target) : 0;
}

int mounts_early(void) {
  const struct mount_entry entries[] = {
    {"proc", "/proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
    {"sysfs", "/sys", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
    {"devtmpfs", "/dev", "mode=755", MS_NOSUID},
    {"devpts", "/dev/pts", "gid=5,mode=620,ptmxmode=666", MS_NOSUID | MS_NOEXEC},
    // nsdelegate: the workload may divide its own cgroup, and not lift its limits.
    {"cgroup2", "/sys/fs/cgroup", "nsdelegate", MS_NOSUID | MS_NODEV | MS_NOEXEC},
  };
  for (size_t i = 0; i < COUNT(entries); i++)
    if (mount_one(&entries[i]) < 0) return -1;
  return 0;
}

// Discarded blocks become holes in the host's file; asking for it where the disk can't makes ext4 complain.
static bool can_discard(const char *disk) {
  char path[64], text[32];
  snprintf(path, sizeof path, "/sys/block/%.20s/queue/discard_max_bytes", disk);
  return read_file(path, text, sizeof text) > 0 && strcmp(text, "0\n") != 0;
}

int mount_disk(const char *disk, const char *target, const char *type, unsigned long flags, const char *options) {
  char device[64], all[300];
  snprintf(device, sizeof device, "/dev/%.40s", disk);
  bool discard = !(flags & MS_RDONLY) && can_discard(disk);
  snprintf(all, sizeof all, "%s%s%s", options, *options && discard ? "," : "", discard ? "discard" : "");
  if (make_dirs(target) < 0) return -1;
  return mount(device, target, type, flags, all) < 0 ? fail("Cannot mount %s (%s) on %s", device, type, target) : 0;
}

int mounts_root(const struct config *config) {
  if (mount_disk(config->disk_root, IMAGE_DIR, "erofs", MS_RDONLY, "") < 0) return -1;
  const struct mount_entry memory = {"tmpfs", DISK_DIR, "mode=755", 0};
  int mounted = config->disk_upper
    ? mount_disk(config->disk_upper, DISK_DIR, "ext4", MS_NOATIME, "")
    : mount_one(&memory);
  if (mounted < 0) return -1;
  const char *const folders[] = {DISK_DIR "/upper", DISK_DIR "/work", DISK_DIR "/volumes", ROOT_DIR};
  for (size_t i = 0; i < COUNT(folders); i++)
    if (make_dirs(folders[i]) < 0) return -1;
  // The merged root takes owner and mode from the upper directory, which must not be mkfs's.
  struct stat st;
  if (stat(IMAGE_DIR, &st) < 0 || chown(DISK_DIR "/upper", st.st_uid, st.st_gid) < 0 || chmod(DISK_DIR "/upper", st.st_mode & 07777) < 0)
    return fail("Cannot prepare the writable layer");
  // redirect_dir: a folder of the image can be renamed, as on any disk; the layers below never change.
  const char *options = "lowerdir=" IMAGE_DIR ",upperdir=" DISK_DIR "/upper,workdir=" DISK_DIR "/work,redirect_dir=on";
  if (mount("overlay", ROOT_DIR, "overlay", 0, options) < 0) return fail("Cannot mount the image's root");
  return attached_mount(config);
}

// The initramfs stays below, unreachable: ".." of a mount's root leads up to the mount that covers it.
static int switch_root(void) {
  const char *const hidden[] = {"/sys/fs/cgroup", "/sys", "/proc", "/dev/pts", "/dev", DISK_DIR, IMAGE_DIR, ATTACHED_DIR};
  const size_t last = COUNT(hidden) - (attached_any() ? 0 : 1);
  if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) return fail("Cannot make the mounts private");
  for (size_t i = 0; i < last; i++)
    if (umount2(hidden[i], MNT_DETACH) < 0) return fail("Cannot hide %s from the workload", hidden[i]);
  if (chdir(ROOT_DIR) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0) return fail("Cannot enter the image's root");
  return 0;
}

// What udev would do where it runs.
static int link_devices(void) {
  const char *const for_all[] = {"/dev/fuse", "/dev/vsock"};
  for (size_t i = 0; i < COUNT(for_all); i++)
    if (chmod(for_all[i], 0666) < 0 && errno != ENOENT) return fail("Cannot open %s to all", for_all[i]);
  const char *const links[][2] = {
    {"/proc/self/fd", "/dev/fd"}, {"/proc/self/fd/0", "/dev/stdin"}, {"/proc/self/fd/1", "/dev/stdout"},
    {"/proc/self/fd/2", "/dev/stderr"}, {"/proc/kcore", "/dev/core"},
  };
  for (size_t i = 0; i < COUNT(links); i++)
    if (symlink(links[i][0], links[i][1]) < 0 && errno != EEXIST) return fail("Cannot create %s", links[i][1]);
  return 0;
}

int mounts_enter(const struct config *config) {
  const struct mount_entry entries[] = {
    {"proc", "/proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
    {"sysfs", "/sys", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
    {"cgroup2", "/sys/fs/cgroup", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
    // The kernel's own device nodes, so that FUSE, TUN, loop devices and disks that are attached later work; see README.md.
    {"devtmpfs", "/dev", "mode=755", MS_NOSUID},
    {"tmpfs", "/dev/shm", "mode=1777", MS_NOSUID | MS_NODEV},
    {"mqueue", "/dev/mqueue", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
  };
  struct volumes volumes;
  // init's devpts and not a new one: init opens the terminals of execs in it.
  int terminals = tree_open("/dev/pts");
  if (terminals < 0 || volumes_open(config, &volumes) < 0 || attached_open() < 0 || switch_root() < 0) return -1;
  for (size_t i = 0; i < COUNT(entries); i++)
    if (mount_one(&entries[i]) < 0) return -1;
  if (make_dirs("/dev/pts") < 0 || tree_attach(terminals, "/dev/pts") < 0 || link_devices() < 0) return -1;
  if (mkdir("/tmp", 01777) == 0) chmod("/tmp", 01777);
  // What the user attached lies over what the image asks for.
  return volumes_attach(&volumes) < 0 ? -1 : attached_attach();
}

void mounts_end(void) {
  attached_end();
  const char *const targets[] = {ROOT_DIR, IMAGE_DIR, DISK_DIR};
  for (size_t i = 0; i < COUNT(targets); i++) {
    if (umount2(targets[i], 0) == 0 || errno == EINVAL || errno == ENOENT) continue;  // EINVAL: it was never mounted
    // A mount that something still holds is made safe instead: read-only, all on disk.
    sync();
    if (mount(NULL, targets[i], NULL, MS_REMOUNT | MS_RDONLY, NULL) < 0) say("Cannot unmount %s: %s", targets[i], strerror(errno));
  }
  sync();
}
