# Builds kernel, initramfs and root disk in the current directory. Run by sh under fakeroot: no
# Arm code is executed and no privilege is needed.
# $1: folder of this package's files   $2: Debian's suite   $3: packages, comma separated
# $4: size of the root disk           $5: a Python of this host
set -eu
files=$1
umask 022

mmdebstrap --mode=chrootless --arch=arm64 --variant=extract --format=directory \
  --setup-hook='for d in bin sbin lib; do mkdir -p "$1/usr/$d"; ln -s "usr/$d" "$1/$d"; done' \
  --include="$3" "$2" tree

# The kernel and an initramfs that knows virtio's disk and network card.
kernel=$(ls tree/usr/lib/modules)
cp "tree/boot/vmlinuz-$kernel" kernel
depmod -b tree "$kernel"
mkdir -p initramfs/bin initramfs/modules
cp tree/usr/bin/busybox initramfs/bin/busybox
ln -s busybox initramfs/bin/sh
cp "$files/initramfs-init" initramfs/init
chmod 755 initramfs/init
for module in virtio_pci virtio_blk virtio_net virtio_rng; do
  modprobe -d tree -S "$kernel" --show-depends "$module"
done | sed -n 's/^insmod \(.*\.ko\) *$/\1/p' | awk '!seen[$0]++' >needed
while read -r path; do
  cp "$path" initramfs/modules/
  basename "$path" >>initramfs/modules/order
done <needed
(cd initramfs && find . | cpio --quiet -o -H newc) | gzip -1 >initrd

# What a package's own scripts would have done, and what nobody reads on a board.
rm -rf tree/boot tree/usr/lib/modules tree/usr/share/doc tree/usr/share/man \
  tree/usr/share/locale tree/usr/share/initramfs-tools tree/usr/bin/busybox
cp tree/usr/share/base-passwd/passwd.master tree/etc/passwd
cp tree/usr/share/base-passwd/group.master tree/etc/group
echo 'sshd:x:100:65534::/run/sshd:/usr/sbin/nologin' >>tree/etc/passwd
echo 'pi:x:1000:1000::/home/pi:/bin/bash' >>tree/etc/passwd
echo 'pi:x:1000:' >>tree/etc/group
sed -i 's/^video:.*/&pi/' tree/etc/group
# '*' is no password; with '!' sshd would call the account locked and refuse its keys.
sed 's/^\([^:]*\):.*/\1:*:19000:0:99999:7:::/' tree/etc/passwd >tree/etc/shadow
chmod 640 tree/etc/shadow
chgrp 42 tree/etc/shadow
ln -sf mawk tree/usr/bin/awk
printf 'passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n' >tree/etc/nsswitch.conf
printf '127.0.0.1 localhost\n' >tree/etc/hosts
cp "$files/sshd_config" tree/etc/ssh/sshd_config
cp "$files/board-init" tree/usr/sbin/board-init
chmod 755 tree/usr/sbin/board-init
mkdir -p tree/opt/orchestrator tree/home
cp -R tree/etc/skel tree/home/pi
mkdir -m 700 tree/home/pi/.ssh
chown -R 1000:1000 tree/home/pi
chmod 700 tree/home/pi

# Python's own modules, compiled here if this is the same Python: a board would take minutes.
version=$(basename tree/usr/lib/python3.[0-9]*)
if [ "$("$5" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')" = "$version" ]; then
  "$5" -m compileall -q -s tree --invalidation-mode unchecked-hash "tree/usr/lib/$version" \
    tree/usr/lib/python3/dist-packages || true # lib2to3 has files that are wrong on purpose
fi

mke2fs -q -t ext4 -E lazy_itable_init=1,lazy_journal_init=1 -d tree disk "$4"
