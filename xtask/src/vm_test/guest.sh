#!/bin/busybox sh
# The first process of the machine, once its root is made. Says what becomes of each program on the
# console, between marks, and once more on the second serial port; what is missing there did not end.

# Tools before the busybox of the same name.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb
/bin/busybox --install -s /bin
# In its own shell, busybox takes its own programs whatever the path says.
ln -sf "$(command -v bash)" /bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t securityfs securityfs /sys/kernel/security
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
ip link set lo up
# Before Linux 5.11, maps and programs count as locked memory.
ulimit -l unlimited
ulimit -n 65536

features() {
    stty -F "$STATUS" raw
    echo "@@ features"
    "$OSM_AGENT" check -o json
    echo "@@ end of features"
}

run() {
    suite=$1 name=$2 directory=$3 program=$4
    shift 4
    mkdir -p "$directory"
    cd "$directory"
    echo "@@ begin $suite $name"
    CARGO_MANIFEST_DIR=$directory timeout "$LIMIT" \
        unshare --mount --propagation private -- "$program" "$@" 2>&1
    code=$?
    echo "@@ end $suite $name $code"
    echo "$suite $name $code" > "$STATUS"
}

finish() {
    echo "@@ kernel log"
    dmesg | tail -n 40
    echo done > "$STATUS"
    sync
    poweroff -f
}

