#!/bin/sh
# log.sh FILE [BYTES [SECONDS]]: shows what is appended to FILE, and empties it when it is larger than BYTES.
# What was shown is kept, and bounded, by whoever keeps the containers' logs; Forewarn follows a file that is emptied.
# The writer must append (>>), or it would go on writing behind a hole.
file=$1
most=${2:-67108864}
every=${3:-30}

touch "$file"
tail -n +1 -F "$file" &
shown=$!
trap 'kill "$shown"; exit 0' TERM INT
while kill -0 "$shown"; do
    # A shell that waits hears a signal at once, one that runs a program only behind it.
    sleep "$every" &
    wait $!
    if [ "$(wc -c <"$file")" -gt "$most" ]; then
        : >"$file"
    fi
done
