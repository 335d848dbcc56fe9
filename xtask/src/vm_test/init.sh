#!/bin/busybox sh
# The first process of the machine: loads modules, makes a root of what is on the disk, goes on there.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do
    insmod "/modules/$module.ko" || echo "the kernel refuses the module $module"
done < /modules/order
mount -t tmpfs -o size=90%,mode=0755 tmpfs /root
cd /root && tar -x -f /dev/vda
mkdir -p proc sys dev tmp bin
chmod 1777 tmp
cp /bin/busybox bin/busybox
chmod 755 run.sh
umount /proc /sys
mount --move /dev /root/dev
exec switch_root /root /run.sh
