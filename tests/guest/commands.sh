# Runs commands that the host types as `NUMBER COMMAND`, in this shell, so that variables, the working folder and open
# descriptors last. Each answer is: @@ run NUMBER, what the command printed, an empty line, @@ ret NUMBER STATUS.

number=
answer() {
	[ -z "$number" ] || printf '\n@@ ret %s %s\n' "$number" "$1"
	number=
}
trap 'answer $?' EXIT

while read -r number line; do
	echo "@@ run $number"
	eval "$line" </dev/null 2>&1
	answer $?
done
