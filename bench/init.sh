#!/bin/busybox sh
# /init of the bench's guest: says that it is there, does the job that the kernel's command line names, says the figures.
/bin/busybox echo "bench: init"
say() { /bin/busybox echo "bench: $*"; }
run() { /bin/busybox chroot /root "$@"; }
mounts() {
  /bin/busybox mount -t devtmpfs dev /dev
  /bin/busybox mount -t proc proc /proc
  /bin/busybox mount -t sysfs sys /sys
  /bin/busybox mount -t ext4 -o ro /dev/vda /root || say "failed: no root file system"
  for d in dev proc sys; do /bin/busybox mount -o bind /$d /root/$d; done
  /bin/busybox mount -t tmpfs tmp /root/tmp
}
# fio NAME OPTION…: terse output, version 3; fields 7 and 48 are KiB/s read and written, 8 and 49 operations a second.
fio() {
  name=$1; shift
  line=$(run /usr/bin/fio --name="$name" --filename=/dev/vdb --direct=1 --ioengine=libaio --time_based --ramp_time=1 --runtime="$bench_seconds" --minimal "$@" 2>&1)
  say "$name $line"
}
case $bench_job in
  disk)
    mounts
    fio randread --rw=randread --bs=4k --iodepth=32
    fio read --rw=read --bs=1M --iodepth=4
    fio write --rw=write --bs=1M --iodepth=4
    ;;
  net)
    mounts
    /bin/busybox ip addr add "$bench_ip/30" dev eth0
    /bin/busybox ip link set eth0 up
    say "ping $(run /bin/busybox ping -q -A -c "$bench_pings" "$bench_peer" | /bin/busybox grep round-trip)"
    say "send $(run /usr/bin/iperf3 -c "$bench_peer" -t "$bench_seconds" -f k 2>&1 | /bin/busybox grep receiver)"
    say "receive $(run /usr/bin/iperf3 -c "$bench_peer" -R -t "$bench_seconds" -f k 2>&1 | /bin/busybox grep receiver)"
    ;;
  nginx)
    mounts
    for d in run var/lib/nginx; do /bin/busybox mount -t tmpfs tmp /root/$d; done
    /bin/busybox ip addr add "$bench_ip/30" dev eth0
    /bin/busybox ip link set eth0 up
    run /usr/sbin/nginx -g "daemon off;" &
    ;;
esac
say "done"
while :; do /bin/busybox sleep 1000; done
