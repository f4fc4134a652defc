# The simulated card in the guest: that the kernel's FUSE and this cardfs agree, before any real card is tried.
. /rig/check.sh

M=/mnt
works "sim: mounts" cardfs mount sim $M
sh /rig/files.sh $M sim
works "sim: unmounts" cardfs unmount $M
