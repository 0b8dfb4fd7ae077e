#!/bin/sh
# Fetches the image packages of sprites and captioned emoji, and builds the set of emoji.
# Usage: scripts/mini_data.sh [out.parquet [-keep n]]
# Needs npm (for the packages), tar and Go. About 95 MB are downloaded once
# into .data/packages.
set -eu
cd "$(dirname "$0")/.."
out=${1:-.data/mini64.parquet}
[ $# -gt 0 ] && shift
src=.data/packages
mkdir -p "$src"

unpack() { # name@version, archive, folder, members…
	archive=$2 folder=$src/$3
	package=$1
	shift 3
	[ -e "$folder/.complete" ] && return
	(cd "$src" && npm pack --silent "$package" >/dev/null)
	rm -rf "$folder"
	mkdir -p "$folder"
	tar -xzf "$src/$archive" -C "$folder" --strip-components=1 "$@"
	rm "$src/$archive"
	touch "$folder/.complete"
}
unpack emoji-datasource-google@16.0.0 emoji-datasource-google-16.0.0.tgz emoji-datasource-google \
	package/package.json package/emoji.json package/img/google/64
unpack @lobehub/fluent-emoji-3d@1.1.0 lobehub-fluent-emoji-3d-1.1.0.tgz fluent-emoji-3d
unpack openmoji@17.0.0 openmoji-17.0.0.tgz openmoji package/package.json package/data/openmoji.json

go run ./data/minidata -src "$src" -out "$out" "$@"
