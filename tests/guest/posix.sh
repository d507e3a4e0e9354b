# Goes through what a POSIX file system must do, on each mount tag: @@ case TAG/NAME ok|FAIL DETAIL.
# Each case runs in its own folder and shell, in which any command that fails ends the case.

. /guest/lib.sh

entries=$(arg entries 5000)
failed=0

# is WHAT GOT EXPECTED
is() {
	[ "$2" = "$3" ] || {
		echo "$1 is '$2', not '$3'"
		exit 1
	}
}

# refused REASON COMMAND...: the command must fail, and say REASON.
refused() {
	reason=$1
	shift
	if "$@" >/tmp/refused 2>&1; then
		echo "'$*' succeeded"
		exit 1
	fi
	grep -q "$reason" /tmp/refused || {
		echo "'$*' failed with '$(cat /tmp/refused)', not '$reason'"
		exit 1
	}
}

case_read_and_write() {
	printf 'hello\nworld' >file
	is content "$(cat file)" "$(printf 'hello\nworld')"
	is size "$(stat -c %s file)" 11
	: >file
	is "size after truncation at open" "$(stat -c %s file)" 0
}

case_binary_data() {
	head -c 1000003 /dev/urandom >/tmp/data
	cp /tmp/data file
	is checksum "$(checksum file)" "$(checksum /tmp/data)"
	dd if=file of=/tmp/part bs=4093 skip=100 count=3 2>/dev/null
	dd if=/tmp/data of=/tmp/expected bs=4093 skip=100 count=3 2>/dev/null
	cmp /tmp/part /tmp/expected
}

case_overwrite_in_place() {
	printf '0123456789' >file
	printf 'abc' | dd of=file bs=1 seek=4 conv=notrunc 2>/dev/null
	is content "$(cat file)" 0123abc789
}

case_write_beyond_the_end() {
	printf 'x' | dd of=file bs=1 seek=8191 2>/dev/null
	is size "$(stat -c %s file)" 8192
	is "bytes that are not zero" "$(tr -d '\000' <file)" x
}

case_append() {
	for line in one two three; do echo $line >>file; done
	is content "$(tr '\n' ' ' <file)" "one two three "
}

case_missing_file() {
	refused 'No such file' cat missing
	refused 'No such file' rm missing
	refused 'No such file' ls missing/below
}

case_exclusive_creation() {
	echo first >file
	refused 'exists\|nonexistent' sh -C -c 'echo second >file'
	is content "$(cat file)" first
}

case_rename() {
	echo data >old
	mv old new
	is content "$(cat new)" data
	refused 'No such file' stat old
}

case_rename_over_a_file() {
	echo new >new
	echo old >old
	mv -f new old
	is content "$(cat old)" new
	is entries "$(ls)" old
}

case_rename_between_folders() {
	mkdir -p a b
	echo data >a/file
	mv a/file b/file
	mv b a/b
	is content "$(cat a/b/file)" data
	refused 'No such file' stat b
}

case_rename_while_open() {
	echo before >file
	exec 3<file
	mv file moved
	is content "$(cat <&3)" before
	exec 3<&-
}

case_unlink() {
	echo data >file
	rm file
	refused 'No such file' cat file
}

case_unlink_while_open() {
	exec 3>file 4<file
	rm file
	echo after >&3
	is content "$(cat <&4)" after
	exec 3>&- 4<&-
	is entries "$(ls -A)" ""
}

case_folders() {
	mkdir folder
	refused 'exists' mkdir folder
	echo data >folder/file
	refused 'not empty' rmdir folder
	refused 'Not a directory' mkdir folder/file/below
	rm folder/file
	rmdir folder
	refused 'No such file' ls folder
}

case_deep_folders() {
	path=.
	for level in $(seq 1 30); do path=$path/level$level; done
	mkdir -p $path
	echo bottom >$path/file
	is content "$(cat $path/file)" bottom
	(cd $path && is content "$(cat ../level30/file)" bottom)
	rm -r level1
}

case_many_entries() {
	mkdir folder
	number=0
	while [ $number -lt "$entries" ]; do
		: >folder/entry-$number
		number=$((number + 1))
	done
	ls folder >/tmp/names
	is entries "$(wc -l </tmp/names)" "$entries"
	seq -f 'entry-%.0f' 0 $((entries - 1)) 2>/dev/null | sort >/tmp/expected
	[ -s /tmp/expected ] || seq 0 $((entries - 1)) | sed 's/^/entry-/' | sort >/tmp/expected
	sort /tmp/names | cmp - /tmp/expected
	rm -r folder
}

case_names() {
	long=$(printf '%0255d' 7)
	for name in "$long" 'with space' 'täg-日本' '-dash' '.hidden' 'back\slash' 'new
line' '*'; do
		echo "$name" >"./$name"
		is "content of '$name'" "$(cat "./$name")" "$name"
		[ -n "$(find . -name "$(echo "$name" | sed 's/[\\*]/\\&/g')")" ]
		rm "./$name"
	done
	refused 'too long' touch "${long}0"
}

case_symbolic_link() {
	echo data >file
	ln -s file link
	is target "$(readlink link)" file
	is content "$(cat link)" data
	ln -s nowhere dangling
	refused 'No such file' cat dangling
	is target "$(readlink dangling)" nowhere
	rm link dangling
	is content "$(cat file)" data
	ln -s "$(printf '%01000d' 1)" long
	is length "$(readlink long | tr -d '\n' | wc -c)" 1000
}

case_hard_link() {
	echo data >file
	ln file other
	is links "$(stat -c %h file)" 2
	is inode "$(stat -c %i other)" "$(stat -c %i file)"
	echo more >>other
	is content "$(tr '\n' ' ' <file)" "data more "
	rm file
	is links "$(stat -c %h other)" 1
}

case_mode() {
	echo data >file
	for mode in 640 400 755 0; do
		chmod $mode file
		is mode "$(stat -c %a file)" $mode
	done
	mkdir folder
	chmod 1777 folder
	is "mode of the folder" "$(stat -c %a folder)" 1777
	(umask 027 && : >masked && mkdir masked-folder)
	is "mode with umask" "$(stat -c %a masked)" 640
	is "mode of the folder with umask" "$(stat -c %a masked-folder)" 750
}

case_truncate() {
	printf '0123456789' >file
	truncate -s 4 file
	is content "$(cat file)" 0123
	truncate -s 100000 file
	is size "$(stat -c %s file)" 100000
	is "bytes that are not zero" "$(tr -d '\000' <file)" 0123
	truncate -s 0 file
	is size "$(stat -c %s file)" 0
}

case_times() {
	: >file
	touch -d '2006-10-24 12:34:56' file
	is "modification time" "$(stat -c %Y file)" "$(date -d '2006-10-24 12:34:56' +%s)"
	echo data >>file
	[ "$(stat -c %Y file)" != "$(date -d '2006-10-24 12:34:56' +%s)" ]
}

case_kinds() {
	: >file
	mkdir folder
	ln -s file link
	is "kind of the file" "$(stat -c %F file)" "regular empty file"
	is "kind of the folder" "$(stat -c %F folder)" directory
	is "kind of the link" "$(stat -c %F link)" "symbolic link"
}

case_file_system() {
	is type "$(grep " /mnt/$tag " /proc/mounts | cut -d ' ' -f 3)" 9p
	[ "$(stat -f -c %b .)" -gt 0 ]
	[ "$(stat -f -c %l .)" = 255 ]
}

case_extended_attributes() {
	# busybox has a getfattr of its own that can do less.
	setfattr=/usr/bin/setfattr
	getfattr=/usr/bin/getfattr
	[ -x $setfattr ] || {
		echo skipped: no setfattr
		exit 0
	}
	: >file
	$setfattr -n user.calgary -v 2006 file
	is value "$($getfattr --only-values -n user.calgary file)" 2006
	$setfattr -n user.calgary -v 'another value' file
	is value "$($getfattr --only-values -n user.calgary file)" 'another value'
	long=$(printf '%02000d' 1)
	$setfattr -n user.long -v "$long" file
	is "long value" "$($getfattr --only-values -n user.long file)" "$long"
	is names "$($getfattr file | grep '^user' | sort | tr '\n' ' ')" "user.calgary user.long "
	$setfattr -x user.calgary file
	is names "$($getfattr file | grep '^user' | tr '\n' ' ')" "user.long "
	refused 'No such attribute' $getfattr --only-values -n user.calgary file
}

case_parallel_writers() {
	for writer in 1 2 3 4; do
		yes "writer $writer" | head -c 300000 >file$writer &
	done
	wait
	for writer in 1 2 3 4; do
		is "checksum $writer" "$(checksum file$writer)" "$(yes "writer $writer" | head -c 300000 | checksum -)"
	done
}

case_sync() {
	echo data | dd of=file conv=fsync 2>/dev/null
	sync
	is content "$(cat file)" data
}

run_case() {
	mkdir "$base/$1"
	(
		set -e
		cd "$base/$1"
		"case_$1"
	) >/tmp/case 2>&1
	if [ $? = 0 ]; then
		say case "$tag/$1" ok "$(tr '\n' ' ' </tmp/case)"
	else
		failed=$((failed + 1))
		say case "$tag/$1" FAIL "$(tail -n 5 /tmp/case | tr '\n' ' ')"
	fi
	rm -rf "${base:?}/$1"
}

for tag in $(tags); do
	base=/mnt/$tag/posix
	if mount_tag "$tag" "/mnt/$tag" && mkdir "$base"; then
		say case "$tag/mount" ok
	else
		say case "$tag/mount" FAIL
		failed=$((failed + 1))
		continue
	fi
	for name in $(sed -n 's/^case_\([a-z_]*\)().*/\1/p' /scenario.sh); do
		run_case "$name"
	done
	rmdir "$base" && umount "/mnt/$tag" && say case "$tag/unmount" ok || {
		say case "$tag/unmount" FAIL
		failed=$((failed + 1))
	}
done

say faults "$(faults | wc -l)"
[ $failed -le 125 ] || failed=125
exit $failed
