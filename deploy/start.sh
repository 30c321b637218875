#!/bin/sh
# Serves in a container: the first start makes an admin's key and shows it once, in the container's log.
set -eu
umask 077
keys=/var/lib/lift/keys.jsonl
[ -s "$keys" ] || lift serve --new-key admin --scopes admin --api-key-file "$keys"
exec lift serve --host 0.0.0.0 --port 8000 --api-key-file "$keys" "$@"
