// Plain files in the overlay and not mounts over them: programs replace them by rename.
#include "etc.h"
#include <errno.h>
#include <stdarg.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// Replaces the file, or the symlink that stands in its place (an image's resolv.conf may point to a resolver that does not run).
static void replace(const char *path, FILE *(*fill)(FILE *, const struct config *), const struct config *config) {
  char temporary[64];
  snprintf(temporary, sizeof temporary, "%s.dormouse", path);
  FILE *file = fopen(temporary, "we");
  bool written = file && !ferror(fill(file, config));
  if (file) written = fchmod(fileno(file), 0644) == 0 && fclose(file) == 0 && written;
  if (written && rename(temporary, path) == 0) return;
  say("Cannot write %s: %s", path, strerror(errno));
  unlink(temporary);
}

static FILE *fill_hostname(FILE *file, const struct config *config) {
  fprintf(file, "%s\n", config->hostname);
  return file;
}

static FILE *fill_hosts(FILE *file, const struct config *config) {
  fputs("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\n"
        "ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n", file);
  for (size_t i = 0; i < config->hosts.n; i++) fprintf(file, "%s\n", config->hosts.items[i]);
  fprintf(file, "%s\t%s\n", config->ip ? config->ip : "127.0.1.1", config->hostname);
  return file;
}

static FILE *fill_resolv(FILE *file, const struct config *config) {
  for (size_t i = 0; i < config->dns.n; i++) fprintf(file, "nameserver %s\n", config->dns.items[i]);
  if (config->search.n) fputs("search", file);
  for (size_t i = 0; i < config->search.n; i++) fprintf(file, " %s", config->search.items[i]);
  if (config->search.n) fputs("\n", file);
  return file;
}

void etc_write(const struct config *config) {
  if (make_dirs("/etc") < 0) say("%s", failure);
  replace("/etc/hostname", fill_hostname, config);
  replace("/etc/hosts", fill_hosts, config);
  if (config->dns.n) replace("/etc/resolv.conf", fill_resolv, config);
}
