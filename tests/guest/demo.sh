# Reads and writes one file through each mount tag. What was read is kept in memory, so that its checksum is not part
# of the time. Written is the second half of the input followed by the first, which the host can check on its own.

. /guest/lib.sh

mib=$(arg mib 64)
input=$(arg file input.bin)
status=0

say kernel "$(uname -r)"

demo() {
	device=$(device_of "$tag") || return
	say device "$tag" "pci=$device group=$(group_of "$device") domain=$(domain_of "$device") translated=$(translated "$device")"
	mount_tag "$tag" "/mnt/$tag" || return
	say mount "$tag" ok
	for name in $(ls "/mnt/$tag" | head -n 20); do
		say list "$tag" "$name"
	done

	start=$(now)
	dd "if=/mnt/$tag/$input" of=/tmp/input bs=1M "count=$mib" 2>/dev/null || return
	seconds=$(since "$start")
	say read "$tag" "mib=$mib seconds=$seconds sha256=$(checksum /tmp/input)"

	half=$((mib / 2))
	{
		dd if=/tmp/input of=/tmp/output bs=1M skip=$half
		dd if=/tmp/input of=/tmp/output bs=1M count=$half seek=$((mib - half)) conv=notrunc
	} 2>/dev/null || return
	start=$(now)
	dd if=/tmp/output "of=/mnt/$tag/output-$tag.bin" bs=1M conv=fsync 2>/dev/null || return
	seconds=$(since "$start")
	say write "$tag" "mib=$mib seconds=$seconds sha256=$(checksum /tmp/output)"
	umount "/mnt/$tag"
}

for tag in $(tags); do
	demo || {
		say problem "$tag" "the demonstration stopped"
		status=1
	}
	rm -f /tmp/input /tmp/output
done

say faults "$(faults | wc -l)"
exit $status
