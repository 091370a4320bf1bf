// COPY_IN: ENTRY and DATA frames become files, folders and symlinks. A file is written under another name beside its own, and
// takes its name once it is whole.
#include "peer.h"
#include "transfer-files.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define UNSET -1

struct in {
  const char *destination;
  bool parents;  // folders above the destination are made
  long long bytes;
};
struct entry {
  const char *path, *kind, *target;
  long long mode, uid, gid, mtime;
  char full[PATH_MAX];
};

static int read_request(struct pair_reader *request, struct in *in) {
  char *key, *value;
  int more;
  while ((more = pair_next(request, &key, &value)) > 0) {
    if (!strcmp(key, "path")) in->destination = value;
    else if (!strcmp(key, "parents")) in->parents = true;
    else return failx("Cannot write files: init knows no key \"%s\"", key);
  }
  if (more < 0) return -1;
  return in->destination && *in->destination ? 0 : failx("Cannot write files: no path was given");
}

static bool climbs(const char *path) {
  for (const char *at = path; *at; at += strcspn(at, "/"), at += *at == '/')
    if (!strncmp(at, "..", 2) && (at[2] == '/' || !at[2])) return true;
  return *path == '/';
}

static int read_entry(const struct in *in, char *payload, size_t n, struct entry *entry) {
  const struct { const char *key; long long max, *number; } numbers[] = {
    {"mode", 07777, &entry->mode}, {"uid", UINT_MAX - 1LL, &entry->uid}, {"gid", UINT_MAX - 1LL, &entry->gid}, {"mtime", LLONG_MAX, &entry->mtime},
  };
  struct pair_reader reader = {payload, payload + n};
  char *key, *value;
  int more;
  entry->path = entry->kind = "";
  entry->target = NULL;
  entry->mode = entry->uid = entry->gid = entry->mtime = UNSET;
  while ((more = pair_next(&reader, &key, &value)) > 0) {
    size_t i = 0;
    while (i < COUNT(numbers) && strcmp(key, numbers[i].key) != 0) i++;
    if (i < COUNT(numbers)) {
      if (parse_number(key, value, 0, numbers[i].max, numbers[i].number) < 0) return -1;
    } else if (!strcmp(key, "path")) entry->path = value;
    else if (!strcmp(key, "kind")) entry->kind = value;
    else if (!strcmp(key, "target")) entry->target = value;
    else return failx("Cannot write a file: init knows no key \"%s\"", key);
  }
  if (more < 0) return -1;
  if (climbs(entry->path)) return failx("Cannot write %.300s: it is not below its destination", entry->path);
  int length = snprintf(entry->full, sizeof entry->full, "%s%s%s%s", *in->destination == '/' ? "" : "/", in->destination, *entry->path ? "/" : "", entry->path);
  return length < (int)sizeof entry->full ? 0 : failx("Cannot write %.200s: its path is too long", entry->full);
}

// A path cut at its last component; `name` is "" for the root.
struct place { char folder[PATH_MAX]; const char *name; };

static void split(const char *path, struct place *place) {
  snprintf(place->folder, sizeof place->folder, "%s", path);
  size_t n = strlen(place->folder);
  while (n > 1 && place->folder[n - 1] == '/') place->folder[--n] = 0;
  size_t cut = (size_t)(strrchr(place->folder, '/') - place->folder);
  place->name = path + cut + 1;
  place->folder[cut ? cut : 1] = 0;
}

// The folder that something gets its name in.
static int open_folder(const struct in *in, const char *path, struct place *place) {
  split(path, place);
  if (in->parents && make_dirs(place->folder) < 0) return -1;
  int folder = open(place->folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (folder >= 0) return folder;
  if (errno == ENOENT) return failx("Cannot write %.200s: the folder %.200s does not exist", path, place->folder);
  if (errno == ENOTDIR) return failx("Cannot write %.200s: %.200s is not a folder", path, place->folder);
  return fail("Cannot open the folder %.300s", place->folder);
}

static int make_name(char *name, size_t size) {
  uint32_t number;
  int fd = open_cloexec("/dev/urandom", O_RDONLY);
  if (fd < 0 || read(fd, &number, sizeof number) != sizeof number) number = (uint32_t)now_ms();  // O_EXCL sees to the rest
  close_fd(&fd);
  return snprintf(name, size, ".dormouse-cp-%08x", number);
}

static int set_metadata(int fd, const struct entry *entry, const struct stat *old) {
  // Owner before mode: chown clears set-id bits. What is replaced keeps its owner; what is new is root's.
  uid_t uid = entry->uid != UNSET ? (uid_t)entry->uid : old ? old->st_uid : 0;
  gid_t gid = entry->gid != UNSET ? (gid_t)entry->gid : old ? old->st_gid : 0;
  if (fchown(fd, uid, gid) < 0 || fchmod(fd, entry->mode != UNSET ? (mode_t)entry->mode : 0644) < 0) return fail("Cannot set owner and mode of %.300s", entry->full);
  const struct timespec times[2] = {{.tv_nsec = UTIME_NOW}, {.tv_sec = entry->mtime}};
  return entry->mtime != UNSET && futimens(fd, times) < 0 ? fail("Cannot set the time of %.300s", entry->full) : 0;
}

static int write_data(struct in *in, int fd, const char *path) {
  enum frame_type type;
  char *payload;
  size_t n;
  while (peer_next(&type, &payload, &n) == 0) {
    if (type != DATA) return failx("Cannot use frame %d in the middle of a file", type);
    if (!n) return 0;
    for (size_t done = 0; done < n;) {
      ssize_t written = write(fd, payload + done, n - done);
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return fail("Cannot write %.300s", path);
      done += (size_t)written;
    }
    in->bytes += (long long)n;
  }
  return -1;
}

// What may be replaced by a file; the path itself, or where its symlink leads.
static int find_target(const char *path, char *real, struct stat *old, bool *exists) {
  *exists = lstat(path, old) == 0;
  snprintf(real, PATH_MAX, "%s", path);
  if (!*exists) return errno == ENOENT || errno == ENOTDIR ? 0 : fail("Cannot write %.300s", path);
  if (S_ISLNK(old->st_mode)) {
    if (!realpath(path, real)) return fail("Cannot write %.300s: following its symlink", path);
    if (lstat(real, old) < 0) return fail("Cannot write %.300s", path);
  }
  if (S_ISDIR(old->st_mode)) return failx("Cannot write the file %.300s: a folder of that name is there", path);
  return S_ISREG(old->st_mode) ? 0 : failx("Cannot write %.300s: it is %s", path, special_name(old->st_mode));
}

static int write_file_at(struct in *in, const struct entry *entry, int folder, const char *name, const struct stat *old) {
  char beside[32];
  int fd;
  do make_name(beside, sizeof beside);
  while ((fd = openat(folder, beside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600)) < 0 && errno == EEXIST);
  if (fd < 0) return fail("Cannot write %.300s", entry->full);
  int result = write_data(in, fd, entry->full);
  if (result == 0) result = set_metadata(fd, entry, old);
  if (close(fd) < 0 && result == 0) result = fail("Cannot write %.300s", entry->full);
  if (result == 0 && renameat(folder, beside, folder, name) < 0) result = fail("Cannot write %.300s", entry->full);
  if (result < 0) unlinkat(folder, beside, 0);
  return result;
}

static int take_file(struct in *in, const struct entry *entry) {
  static char real[PATH_MAX];
  static struct place place;
  struct stat old;
  bool exists;
  if (find_target(entry->full, real, &old, &exists) < 0) return -1;
  int folder = open_folder(in, real, &place);
  if (folder < 0) return -1;
  int result = *place.name ? write_file_at(in, entry, folder, place.name, exists ? &old : NULL) : failx("Cannot write the file %.300s: a folder is there", entry->full);
  close(folder);
  return result;
}

// A folder that is there stays as it is.
static int take_folder(const struct in *in, const struct entry *entry) {
  static struct place place;
  struct stat st;
  if (stat(entry->full, &st) == 0) return S_ISDIR(st.st_mode) ? 0 : failx("Cannot create the folder %.300s: a file of that name is there", entry->full);
  int folder = open_folder(in, entry->full, &place);
  if (folder < 0) return -1;
  close(folder);
  mode_t mode = entry->mode != UNSET ? (mode_t)entry->mode : 0755;
  if (mkdir(entry->full, mode) < 0) return fail("Cannot create the folder %.300s", entry->full);
  if (entry->uid != UNSET && entry->gid != UNSET && chown(entry->full, (uid_t)entry->uid, (gid_t)entry->gid) < 0) return fail("Cannot set the owner of %.300s", entry->full);
  return chmod(entry->full, mode) < 0 ? fail("Cannot set the mode of %.300s", entry->full) : 0;
}

static int take_link(const struct in *in, const struct entry *entry) {
  static struct place place;
  struct stat st;
  char beside[32];
  if (!entry->target || !*entry->target) return failx("Cannot make the symlink %.300s: it has no target", entry->full);
  if (lstat(entry->full, &st) == 0 && S_ISDIR(st.st_mode)) return failx("Cannot make the symlink %.300s: a folder of that name is there", entry->full);
  int folder = open_folder(in, entry->full, &place);
  if (folder < 0) return -1;
  make_name(beside, sizeof beside);
  int result = symlinkat(entry->target, folder, beside) < 0 ? fail("Cannot make the symlink %.300s", entry->full) : 0;
  bool made = result == 0;
  if (made && entry->uid != UNSET && entry->gid != UNSET && fchownat(folder, beside, (uid_t)entry->uid, (gid_t)entry->gid, AT_SYMLINK_NOFOLLOW) < 0)
    result = fail("Cannot set the owner of %.300s", entry->full);
  if (result == 0 && renameat(folder, beside, folder, place.name) < 0) result = fail("Cannot make the symlink %.300s", entry->full);
  if (made && result < 0) unlinkat(folder, beside, 0);
  close(folder);
  return result;
}

static int take(struct in *in, const struct entry *entry) {
  if (!strcmp(entry->kind, "file")) return take_file(in, entry);
  if (!strcmp(entry->kind, "dir")) return take_folder(in, entry);
  if (!strcmp(entry->kind, "link")) return take_link(in, entry);
  return failx("Cannot write %.200s: init knows no kind \"%.50s\"", entry->full, entry->kind);
}

int files_in(struct pair_reader *request) {
  static struct in in;
  static struct entry entry;
  enum frame_type type;
  char *payload;
  size_t n;
  if (read_request(request, &in) < 0) return -1;
  while (peer_next(&type, &payload, &n) == 0) {
    if (type == DONE) {
      struct buffer pairs = {0};
      pair_put_number(&pairs, "bytes", in.bytes);
      return peer_send_pairs(DONE, &pairs);
    }
    if (type != ENTRY) return failx("Cannot use frame %d between files", type);
    if (read_entry(&in, payload, n, &entry) < 0 || take(&in, &entry) < 0) return -1;
  }
  return -1;
}
