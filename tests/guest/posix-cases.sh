# Runs the POSIX cases on the guest's own tmpfs and then on the file systems that calgary.posix names, as
# LABEL:TAG:MOUNT-OPTION,... separated by semicolons. Kernel arguments have no spaces.

. /guest/lib.sh

mkdir /tmp/cases
posix-cases tmpfs /tmp/cases $(arg cases)

arg posix | tr ';' '\n' | while IFS=: read -r label tag options; do
	# Linux asks again for a lock that it could not have at once, after 30 s if not told otherwise.
	if mount_tag "$tag" "/mnt/$label" "access=client,posixacl,locktimeout=1,$options" && mkdir "/mnt/$label/$label"; then
		start=$(now)
		posix-cases "$label" "/mnt/$label/$label" $(arg cases)
		say took "$label" "$(since "$start")"
	else
		say problem "$label" "cannot be mounted"
	fi
	umount "/mnt/$label" || say problem "$label" "cannot be unmounted"
done
