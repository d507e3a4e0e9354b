# Functions for scenarios and for the host's commands.

# say KEY VALUE...: a record for the host.
say() {
	echo "@@ $*"
}

# arg NAME [DEFAULT]: the value of the kernel argument calgary.NAME; the last one counts.
arg() {
	value=$(tr ' ' '\n' </proc/cmdline | sed -n "s/^calgary\.$1=//p" | tail -n 1)
	echo "${value:-$2}"
}

# The mount tags that the host named.
tags() {
	arg tags | tr ',' ' '
}

# device_of TAG: the name of the device with this mount tag on its bus: its PCI address, if that is the bus.
device_of() {
	for file in /sys/bus/virtio/drivers/9pnet_virtio/virtio*/mount_tag; do
		[ -f "$file" ] || continue
		if [ "$(tr -d '\000' <"$file")" = "$1" ]; then
			device=$(realpath "${file%/mount_tag}")
			basename "${device%/*}"
			return 0
		fi
	done
	return 1
}

# wait_for_tag TAG: a driver may bind long after its module is loaded, when the device waits for its IOMMU.
wait_for_tag() {
	tries=300
	until device_of "$1" >/dev/null; do
		tries=$((tries - 1))
		[ $tries -gt 0 ] || return 1
		usleep 100000
	done
}

# path_of DEVICE: where a device of a name on its bus is in sysfs.
path_of() {
	for bus in pci platform; do
		[ -e "/sys/bus/$bus/devices/$1" ] && echo "/sys/bus/$bus/devices/$1" && return
	done
}

# group_of DEVICE: the number of the device's IOMMU group, or none.
group_of() {
	group=$(readlink "$(path_of "$1")/iommu_group") && basename "$group" || echo none
}

# translated DEVICE: whether the driver has agreed to let the device's DMA go through the IOMMU
# (VIRTIO_F_ACCESS_PLATFORM, bit 33): yes or no. A device can be in a group and be addressed physically.
translated() {
	[ "$(cut -c 34 "$(path_of "$1")"/virtio*/features)" = 1 ] && echo yes || echo no
}

# domain_of DEVICE: the type of the device's IOMMU domain (DMA, DMA-FQ, identity), or none.
domain_of() {
	cat "$(path_of "$1")/iommu_group/type" 2>/dev/null || echo none
}

# mount_tag TAG FOLDER [OPTION,...]
mount_tag() {
	mkdir -p "$2"
	mount -t 9p -o "trans=virtio,version=9p2000.L,msize=$(arg msize 512000),cache=$(arg cache none)${3:+,$3}" "$1" "$2"
}

# The kernel's messages about DMA that the IOMMU refused.
faults() {
	dmesg | grep ' fault from EP ' || true
}

# Hundredths of a second since boot.
now() {
	read -r uptime _ </proc/uptime
	echo "${uptime%.*}${uptime#*.}"
}

# since START: seconds since START, which is a result of now.
since() {
	passed=$(($(now) - $1))
	printf '%d.%02d\n' $((passed / 100)) $((passed % 100))
}

# checksum FILE
checksum() {
	sha256sum "$1" | cut -d ' ' -f 1
}
