#!/bin/busybox sh
# /init of the testbed's initramfs: lays out the file systems, then hands over to the agent. Parameters come in /params.
# The root is the outer machine's over 9p, read-only, under an overlay in memory: all is writable, nothing reaches the outer machine.
set -e
for applet in mount mkdir cat ln cp echo hostname ip switch_root ls; do /bin/busybox ln -s busybox /bin/$applet; done
. /params
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
mkdir -p /outer /memory /newroot /dev/pts /dev/shm
nine=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o $nine,cache=loose,ro outer /outer
mount -t tmpfs -o mode=755,size=60% memory /memory
mkdir /memory/upper /memory/work
mount -t overlay -o lowerdir=/outer,upperdir=/memory/upper,workdir=/memory/work root /newroot
mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
for d in tmp var/tmp; do mount -t tmpfs -o mode=1777,size=60% tmpfs /newroot/$d; done
mount -t tmpfs -o mode=755 tmpfs /newroot/run
mkdir -p /newroot/run/lock /newroot/var/lib/dormouse /newroot/scratch
# What must be seen although it lies under one of the folders above: one path a line.
while read -r path; do
  if [ -d "/outer$path" ]; then
    mkdir -p "/newroot$path"
    mount --bind "/outer$path" "/newroot$path"
  fi
done </visible
mount -t ext4 -o nodiscard /dev/vda /newroot/var/lib/dormouse
mount -t xfs /dev/vdb /newroot/scratch
if [ -n "$out" ]; then
  mkdir -p "/newroot$out"
  mount -t 9p -o $nine,cache=none out "/newroot$out"
fi
for d in proc sys dev; do mount --move /$d /newroot/$d; done
mount -t cgroup2 cgroup2 /newroot/sys/fs/cgroup
# Not cpuset: its groups would put what enters them on CPU 0 again (agent.c, leave_cpu0).
echo "+cpu +io +memory +pids" >/newroot/sys/fs/cgroup/cgroup.subtree_control
hostname testbed
ip link set lo up
mkdir /newroot/run/testbed
cp /agent /newroot/run/testbed/agent
exec switch_root /newroot /run/testbed/agent
