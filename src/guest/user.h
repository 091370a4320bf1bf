// Whom a command runs as, by the image's /etc/passwd and /etc/group.
#pragma once
#include "util.h"

#define GROUPS_MAX 1024
struct identity {
  uid_t uid;
  gid_t gid;
  gid_t groups[GROUPS_MAX];
  size_t groups_n;
  char home[4096];
};
// `text` as the README's key `user` (NULL or empty: root). Called inside the image's root.
int identity_find(const char *text, struct identity *identity);
