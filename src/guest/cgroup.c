// cgroup v2 (Documentation/admin-guide/cgroup-v2.rst) and one BPF_PROG_TYPE_CGROUP_DEVICE program.
#include "cgroup.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define BASE "/sys/fs/cgroup"
#define OUTER BASE "/dormouse"
#define INNER OUTER "/workload"
#define HVC_MAJOR 229  // Documentation/admin-guide/devices.txt

// Hands every controller of `parent` to its children.
static int delegate(const char *parent) {
  char path[128], names[256], line[300] = "", *save;
  snprintf(path, sizeof path, "%s/cgroup.controllers", parent);
  if (read_file(path, names, sizeof names) < 0) return -1;
  for (char *name = strtok_r(names, " \n", &save); name; name = strtok_r(NULL, " \n", &save)) sprintf(line + strlen(line), "+%s ", name);
  snprintf(path, sizeof path, "%s/cgroup.subtree_control", parent);
  return *line ? write_file(path, line) : 0;
}

// The workload is root in its machine and may make any device node. The channels to the host (virtio ports, hvc consoles)
// are init's all the same: what arrives there is init's word. Root can still reach the hardware below; the host checks all that it reads.
static int deny_channels(int port) {
  struct stat st;
  if (fstat(port, &st) < 0) return fail("Cannot stat the control port");
  // clang-format off
  const struct bpf_insn program[] = {
    {.code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = 2, .src_reg = 1, .off = offsetof(struct bpf_cgroup_dev_ctx, access_type)},
    {.code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = 3, .src_reg = 1, .off = offsetof(struct bpf_cgroup_dev_ctx, major)},
    {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 1},
    {.code = BPF_ALU64 | BPF_AND | BPF_K, .dst_reg = 2, .imm = 0xffff},
    {.code = BPF_JMP | BPF_JNE | BPF_K, .dst_reg = 2, .imm = BPF_DEVCG_DEV_CHAR, .off = 3},
    {.code = BPF_JMP | BPF_JEQ | BPF_K, .dst_reg = 3, .imm = HVC_MAJOR, .off = 1},
    {.code = BPF_JMP | BPF_JNE | BPF_K, .dst_reg = 3, .imm = (int)major(st.st_rdev), .off = 1},
    {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 0},
    {.code = BPF_JMP | BPF_EXIT},
  };
  // clang-format on
  union bpf_attr load = {.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE, .insn_cnt = COUNT(program), .insns = (uintptr_t)program, .license = (uintptr_t) "Apache-2.0"};
  int fd = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load);
  if (fd < 0) return fail("Cannot load the filter of device nodes");
  int cgroup = open_cloexec(OUTER, O_RDONLY | O_DIRECTORY);
  union bpf_attr attach = {.target_fd = (uint32_t)cgroup, .attach_bpf_fd = (uint32_t)fd, .attach_type = BPF_CGROUP_DEVICE, .attach_flags = BPF_F_ALLOW_MULTI};
  int result = cgroup < 0 ? -1 : (int)syscall(SYS_bpf, BPF_PROG_ATTACH, &attach, sizeof attach);
  if (cgroup >= 0 && result < 0) fail("Cannot attach the filter of device nodes");
  close_fd(&cgroup);
  close(fd);
  return result;
}

int cgroup_start(int port) {
  if (delegate(BASE) < 0) return -1;
  if (mkdir(OUTER, 0755) < 0) return fail("Cannot create " OUTER);
  if (delegate(OUTER) < 0) return -1;
  if (mkdir(INNER, 0755) < 0) return fail("Cannot create " INNER);
  return deny_channels(port);
}

static int join(const char *cgroup) {
  char path[4200];
  snprintf(path, sizeof path, "%s/cgroup.procs", cgroup);
  return write_file(path, "0");
}

int cgroup_join(pid_t first) {
  if (join(INNER) == 0) return 0;
  // A workload that divides its cgroup (systemd, Docker) leaves no room for processes at its top: EBUSY.
  char path[64], line[4096], cgroup[4160];
  if (errno != EBUSY || first <= 0) return -1;
  snprintf(path, sizeof path, "/proc/%d/cgroup", first);
  if (read_file(path, line, sizeof line) < 0) return -1;
  line[strcspn(line, "\n")] = 0;
  if (strncmp(line, "0::", 3) != 0) return failx("Cannot find the workload's cgroup in \"%.100s\"", line);
  snprintf(cgroup, sizeof cgroup, BASE "%s", line + 3);
  return join(cgroup);
}

int cgroup_freeze(bool frozen) { return write_file(OUTER "/cgroup.freeze", frozen ? "1" : "0"); }

int cgroup_events_open(void) { return open_cloexec(OUTER "/cgroup.events", O_RDONLY); }

bool cgroup_frozen(int events) {
  char text[128];
  ssize_t n = pread(events, text, sizeof text - 1, 0);
  text[n < 0 ? 0 : n] = 0;
  return strstr(text, "frozen 1") != NULL;
}

long cgroup_oom_kills(void) {
  char text[512];
  if (read_file(INNER "/memory.events", text, sizeof text) < 0) return 0;
  const char *at = strstr(text, "oom_kill ");
  return at ? strtol(at + 9, NULL, 10) : 0;
}
