# Sourced by eval/demo.sh and tests/all.sh: installs what is missing (Debian, Ubuntu) and builds.
# Nothing here needs Python, a GPU or a network beyond the distribution's packages.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

whit_packages() { # package names, as arguments
	local missing=() p
	for p in "$@"; do
		dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
	done
	[ ${#missing[@]} -eq 0 ] && return
	echo "installing: ${missing[*]}"
	local sudo=
	[ "$(id -u)" -eq 0 ] || sudo=sudo
	$sudo apt-get update -qq
	DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

whit_build() { # directory below the root, mode, compiler, targets...
	local dir=$1 mode=$2 cc=$3
	shift 3
	cmake -S "$root" -B "$root/$dir" -DWHIT_MODE="$mode" -DCMAKE_C_COMPILER="$cc" >/dev/null
	cmake --build "$root/$dir" -j "$(nproc)" -- "$@"
}

whit_packages build-essential cmake pkg-config libopenblas-dev liblapacke-dev libjansson-dev libpcre2-dev \
	libutf8proc-dev libxxhash-dev
