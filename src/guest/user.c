// Docker's rules: a name or a number, an optional group; a number needs no entry, a name does.
#include "user.h"
#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The number that the whole text is, or -1.
static long long numeric(const char *text) {
  char *end;
  if (*text < '0' || *text > '9') return -1;
  errno = 0;
  unsigned long long n = strtoull(text, &end, 10);
  return *end || errno || n >= UINT_MAX ? -1 : (long long)n;  // (uid_t)-1 means "leave it"
}

// Fills uid, gid and home; `name` becomes the entry's name, empty where there is none.
static int find_user(const char *user, struct identity *identity, char *name, size_t size) {
  long long number = *user ? numeric(user) : 0;
  FILE *file = fopen("/etc/passwd", "re");  // an image without one has only numbers
  struct passwd *entry;
  bool found = false;
  while (file && !found && (entry = fgetpwent(file))) {
    if (strcmp(entry->pw_name, user) != 0 && (long long)entry->pw_uid != number) continue;
    found = true;
    identity->uid = entry->pw_uid;
    identity->gid = entry->pw_gid;
    snprintf(identity->home, sizeof identity->home, "%s", entry->pw_dir);
    snprintf(name, size, "%s", entry->pw_name);
  }
  if (file) fclose(file);
  if (found) return 0;
  if (number < 0) return failx("Cannot run as user \"%s\": /etc/passwd of the image has no such user", user);
  identity->uid = (uid_t)number;
  return 0;
}

static int find_group(const char *group, struct identity *identity) {
  long long number = numeric(group);
  FILE *file = fopen("/etc/group", "re");
  struct group *entry;
  bool found = false;
  while (file && !found && (entry = fgetgrent(file))) {
    if (strcmp(entry->gr_name, group) != 0 && (long long)entry->gr_gid != number) continue;
    found = true;
    identity->gid = entry->gr_gid;
  }
  if (file) fclose(file);
  if (found) return 0;
  if (number < 0) return failx("Cannot run as group \"%s\": /etc/group of the image has no such group", group);
  identity->gid = (gid_t)number;
  return 0;
}

static void find_supplementary(const char *name, struct identity *identity) {
  FILE *file = fopen("/etc/group", "re");
  struct group *entry;
  while (file && (entry = fgetgrent(file)))
    for (char **member = entry->gr_mem; *member; member++)
      if (!strcmp(*member, name) && identity->groups_n < GROUPS_MAX) {
        identity->groups[identity->groups_n++] = entry->gr_gid;
        break;
      }
  if (file) fclose(file);
}

int identity_find(const char *text, struct identity *identity) {
  *identity = (struct identity){.home = "/"};
  char user[256], name[256] = "";
  snprintf(user, sizeof user, "%s", text ? text : "");
  char *group = strchr(user, ':');
  if (group) *group++ = 0;
  if (find_user(user, identity, name, sizeof name) < 0) return -1;
  if (group && *group) return find_group(group, identity);  // an explicit group stands alone, as in Docker
  if (*name) find_supplementary(name, identity);
  return 0;
}
